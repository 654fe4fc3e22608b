"""The console of the commands: their parser, and how they report an error that the user can mend."""

import argparse
import io
import os
import sys
from collections.abc import Callable
from functools import wraps
from typing import NoReturn, ParamSpec

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


def replace_unprintable() -> None:
    """Print "?" for each character that the console cannot show. Every command calls this first.

    Consoles with encodings such as cp1252 or ASCII cannot show Greek letters, and no console can show a file
    name that is not valid in its encoding. Python prints to standard error with escapes in any case.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook has a stream of its own
        sys.stdout.reconfigure(errors="replace")


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
            replace_unprintable()
            try:
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
