"""Write a file so that it is complete or not there."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np


@contextmanager
def replacing(path: Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Open a temporary file that replaces ``path`` when it is complete. Text is UTF-8."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, mode, encoding=None if "b" in mode else "utf-8") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_arrays(path: Path, **arrays: Any) -> None:
    """Write arrays into one ``.npz`` file without pickle. The file is complete or not changed."""
    for name, array in arrays.items():
        if array.dtype.hasobject:  # savez has allow_pickle only since NumPy 2.1
            raise ValueError(f"{name} must be an array of numbers, got an array of objects")
    with replacing(path, "wb") as file:
        np.savez(file, **arrays)
