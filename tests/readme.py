"""Run a section of the README: its Python block, whose output stands in the block after it."""

import contextlib
import io
import re
from pathlib import Path
from typing import Any

README = Path(__file__).resolve().parents[1] / "README.md"
NUMBER = re.compile(r"-?\d+(?:\.\d+)?")


def text(section: str) -> str:
    """Return the text of a section."""
    return README.read_text(encoding="utf-8").split(f"\n## {section}\n")[1].split("\n## ")[0]


def run(section: str) -> tuple[str, str, dict[str, Any]]:
    """Return what a section's Python block prints, what the README says, and the block's variables."""
    found = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", text(section), re.DOTALL)
    assert found, f"the section {section} has no Python block with its output"
    printed, variables = io.StringIO(), {}
    with contextlib.redirect_stdout(printed):
        exec(compile(found[1], f"README, {section}", "exec"), variables)
    return printed.getvalue(), found[2], variables


def words(text: str) -> str:
    """Return the text with # for each number and single spaces, because numbers may differ in width."""
    return " ".join(re.sub(r"([\[\]])", r" \1 ", NUMBER.sub("#", text)).split())


def numbers(text: str) -> list[float]:
    """Return the numbers of the text."""
    return [float(number) for number in NUMBER.findall(text)]
