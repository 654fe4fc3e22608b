"""Write a file so that it is complete or not there, and a directory by one process at a time."""

import os
import secrets
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np

if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[Any]) -> None:
        msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _lock(file: IO[Any]) -> None:
        """Lock a file until it is closed or the process ends; raise an OSError if another has locked it."""
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path``, or the file that it links to, when it is complete.

    Text is UTF-8. An `OSError`, for example of a full disk, names ``path``. The temporary file is locked, so
    that a later call for the same path can tell and remove those that a killed process has left.
    """
    if path.is_symlink():
        path = path.resolve()
    if is_irregular(path) and not path.is_dir():  # the operating system refuses to replace a directory
        raise OSError(f"{path}: this is not a regular file; choose another one")
    _remove_abandoned(path)
    temporary = path.with_name(f".{path.name}.{secrets.randbits(60)}")
    # A file name that is not valid UTF-8 has code points that UTF-8 cannot encode, but JSON can escape.
    encoding, errors = (None, None) if "b" in mode else ("utf-8", "backslashreplace")
    try:
        with naming(path, temporary):
            with open(temporary, mode, encoding=encoding, errors=errors) as file:
                with suppress(OSError):  # some file systems have no locks
                    _lock(file)
                yield file
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, path)
    finally:
        with suppress(OSError):  # it is not there, or the disk has become read-only
            temporary.unlink()


def _remove_abandoned(path: Path) -> None:
    """Remove the temporary files of a path that no process has locked."""
    with suppress(OSError):
        for other in list(path.parent.iterdir()):
            if other.name.startswith(f".{path.name}.") and other.suffix[1:].isdigit():
                with suppress(OSError):
                    with open(other, "r+b") as file:
                        _lock(file)
                    other.unlink()


@contextmanager
def naming(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give the name of a file to an `OSError` that has none, or that of its temporary file."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename in (None, temporary, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def require_writable(path: Path) -> None:
    """Make the directory of a file, and raise an `OSError` if `replacing` could not write the file there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if is_irregular(path):
        raise OSError(f"{path}: this is not a regular file; choose another one")
    with naming(path), tempfile.TemporaryFile(dir=path.parent):
        pass


def is_irregular(path: Path) -> bool:
    """Return whether a path exists and is not a regular file. Reading a named pipe may wait for ever."""
    return path.exists() and not path.is_file()


def read_text(path: Path) -> str:
    """Return the text of a regular file in UTF-8."""
    if is_irregular(path):
        raise OSError(f"{path}: this is not a regular file")
    return path.read_text("utf-8")


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write arrays into one ``.npz`` file without pickle. The file is complete or not changed."""
    for name, array in arrays.items():
        if array.dtype.hasobject:  # savez has allow_pickle only since NumPy 2.1
            raise ValueError(f"{name} must be an array of numbers, got an array of objects")
    with replacing(path, "wb") as file:
        np.savez(file, **arrays)


# ---- directories

_locks: set[IO[Any]] = set()


def _forget_locks() -> None:
    """Close the lock files in a forked process, because a lock lasts until each copy is closed."""
    for file in _locks:
        file.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_locks)


@contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Reserve an existing directory for the caller until the context or the process ends.

    The operating system locks the file ``.lock`` in the directory and unlocks it when the process ends, in
    whatever way. The file is removed at the end of the context.

    Raises
    ------
    BlockingIOError
        If it is reserved already, by another process or in this one. The message is one sentence.
    """
    path = directory / ".lock"
    with naming(directory, path):
        file = open(path, "ab")  # noqa: SIM115
    with file:
        _take(file, directory)
        _locks.add(file)
        try:
            yield
        finally:
            _locks.discard(file)
            if sys.platform == "win32":  # an open file cannot be removed there
                file.close()
            with suppress(OSError):
                path.unlink()


def _take(file: IO[Any], directory: Path) -> None:
    """Lock the lock file of a directory, or raise a BlockingIOError with a message."""
    try:
        _lock(file)
        free = os.fstat(file.fileno()).st_nlink > 0  # else another process has just removed it
    except (BlockingIOError, PermissionError):  # the second on Windows
        free = False
    except OSError:  # some file systems have no locks
        free = True
    if not free:
        raise BlockingIOError(
            f"{directory} is in use by another run: wait until it ends, or choose another one"
        )
