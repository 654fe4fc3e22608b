"""The console of the commands: their parser, and how they report an error that the user can mend."""

import argparse
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import NoReturn, ParamSpec

from tqdm.auto import tqdm

EXIT_BAD_INPUT, EXIT_INTERRUPTED = 2, 130

P = ParamSpec("P")


class BadInput(ValueError):
    """A request that a command cannot carry out; the message is one line with the cause and a remedy."""


class Parser(argparse.ArgumentParser):
    """A parser that reports a usage error in one line, without printing the usage before it."""

    def error(self, message: str) -> NoReturn:
        raise BadInput(f"{message}; see --help")


def whole(least: int) -> Callable[[str], int]:
    """Return the type of an option that takes an integer from ``least``."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise argparse.ArgumentTypeError(f"it must be an integer of at least {least}, got {text!r}")
        return value

    return convert


def say(line: str) -> None:
    """Print a line above a progress bar. If nobody reads the output any more, the command goes on."""
    try:
        tqdm.write(line, file=sys.stdout)
        sys.stdout.flush()
    except (OSError, ValueError):  # a closed pipe or a closed file
        pass


def command(*errors: type[Exception]) -> Callable[[Callable[P, int]], Callable[P, int]]:
    """Return a decorator for the main function of a command, which returns an exit code.

    The errors that the user can mend become one line on standard error and exit code 2: ``errors``, bad
    input, those of the operating system, and a lack of memory. Ctrl-C becomes exit code 130. Nothing is
    wrong if the reader of the output has ended, as ``| head -1`` does.
    """
    mendable: tuple[type[Exception], ...] = (BadInput, OSError, *errors)

    def decorate(body: Callable[P, int]) -> Callable[P, int]:
        @wraps(body)
        def main(*args: P.args, **kwargs: P.kwargs) -> int:
            _prepare_streams()
            try:
                with _ctrl_c_raises():
                    code = body(*args, **kwargs)
            except BrokenPipeError:
                code = 0
            except MemoryError as error:
                reason = f" ({error})" if str(error) else ""
                code = _fail(f"there is not enough memory{reason}: choose smaller layers or a smaller batch")
            except mendable as error:
                code = _fail(error)
            except KeyboardInterrupt:
                print("interrupted", file=sys.stderr)
                code = EXIT_INTERRUPTED
            _flush()
            return code

        return main

    return decorate


def _prepare_streams() -> None:
    """Print "?" for each character that the console cannot show, and nothing on a closed console.

    Consoles with encodings such as cp1252 or ASCII cannot show Greek letters, and no console can show a file
    name that is not valid in its encoding. Python prints to standard error with escapes in any case.
    """
    for name, number in (("stdout", 1), ("stderr", 2)):
        if getattr(sys, name) is None:  # closed by ``>&-`` or ``2>&-``
            stream = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            if stream.fileno() == number:  # so that no other file takes this number, here or in a worker
                os.set_inheritable(number, True)
            setattr(sys, name, stream)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook has a stream of its own
        sys.stdout.reconfigure(errors="replace")


@contextmanager
def _ctrl_c_raises() -> Iterator[None]:
    """Let Ctrl-C raise a KeyboardInterrupt, where it would end the process at once.

    It would while a command is imported (`eqprop_np`), and again when it has ended.
    """
    thread = threading.current_thread() is threading.main_thread()  # others cannot handle signals
    if not thread or signal.getsignal(signal.SIGINT) is not signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def _flush() -> None:
    """Print what is left, so that Python does not fail to print it when it exits."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except (OSError, ValueError):  # a full disk or a closed file
        pass


def _fail(reason: object) -> int:
    print(f"error: {' '.join(str(reason).split())}", file=sys.stderr)
    return EXIT_BAD_INPUT
