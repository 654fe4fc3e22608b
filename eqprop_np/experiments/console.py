"""The console of the commands."""

import io
import sys


def replace_unprintable() -> None:
    """Print "?" for each character that the console cannot show. Every command calls this first.

    Consoles with encodings such as cp1252 or ASCII cannot show Greek letters, and no console can show a file
    name that is not valid in its encoding. Python prints to standard error with escapes in any case.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # a notebook has a stream of its own
        sys.stdout.reconfigure(errors="replace")
