"""Tests of the README's tables "From equation to file" and "Beyond the abstract".

Each function in them exists. It cites its equation, and each notebook cites the equation too; beyond the
abstract, the notebook uses the function.
"""

import inspect
import json
import pkgutil
import re
from pathlib import Path
from typing import NamedTuple

import pytest

import eqprop_np

ROOT = Path(__file__).resolve().parents[1]
EQUATIONS = [f"Eq. ({n})" for n in range(1, 9)]
FIGURES = [f"Fig. 1({letter})" for letter in "abc"]
SYMBOLS = {
    "Φ": r"Φ|\\Phi",
    "ℓ": r"ℓ|\\ell",
    "C-VF": "C-VF",
}  # the other entries of the table, as regular expressions
HEAD = "| of the abstract | what | function | notebook |\n|---|---|---|---|\n"
BEYOND = "| rule | what | function | notebook | paper |\n|---|---|---|---|---|\n"


class Row(NamedTuple):
    """A line of the table: an equation, figure or symbol, with its functions and notebooks."""

    cited: str
    functions: list[str]
    notebooks: list[str]


def table(readme: str, head: str = HEAD) -> list[Row]:
    lines = readme.split(head)[1].split("\n\n")[0].splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [
        Row(cited, re.findall(r"`([\w.]+)`", functions), re.findall(r"\]\(([\w/.-]+)\)", notebooks))
        for cited, _, functions, notebooks, *_ in cells
    ]


def citations(text: str) -> set[str]:
    """Return the equations and figures that a text cites: "Eqs. (1), (3)-(5) and Fig. 1(a)" are five."""
    found = set()
    for kind, places in re.findall(r"(Eq|Fig)s?\.\s(?:1\s?)?(\(\w\)(?:(?:[-–]|,? and |, )\(\w\))*)", text):
        for first, last in re.findall(r"\((\w)\)(?:[-–]\((\w)\))?", places):
            every = map(chr, range(ord(first), ord(last or first) + 1))
            found |= {f"Eq. ({one})" if kind == "Eq" else f"Fig. 1({one})" for one in every}
    return found


def mentions(text: str, cited: str) -> bool:
    return bool(re.search(SYMBOLS[cited], text)) if cited in SYMBOLS else cited in citations(text)


def text_of(notebook: str, kind: str) -> str:
    """Return the cells of a kind; `nbformat` would take a second to import."""
    cells = json.loads((ROOT / notebook).read_text("utf-8"))["cells"]
    return "\n\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == kind)


TABLE = table((ROOT / "README.md").read_text("utf-8"))
FUNCTIONS = [(name, row.cited) for row in TABLE for name in row.functions]
NOTEBOOKS = [(name, row.cited) for row in TABLE for name in row.notebooks]


def test_every_equation_and_figure_has_its_line() -> None:
    assert sorted(row.cited for row in TABLE) == sorted([*EQUATIONS, *FIGURES, *SYMBOLS])
    for row in TABLE:
        assert row.functions, row
        assert row.notebooks, row


@pytest.mark.parametrize(("name", "cited"), FUNCTIONS)
def test_the_function_cites_its_equation(name: str, cited: str) -> None:
    thing = pkgutil.resolve_name(f"eqprop_np.{name}")
    assert inspect.isfunction(thing) or inspect.isclass(thing)
    assert mentions(thing.__doc__, cited)


@pytest.mark.parametrize(("name", "cited"), NOTEBOOKS)
def test_the_notebook_cites_it_too(name: str, cited: str) -> None:
    assert mentions(text_of(name, "markdown"), cited)


def test_beyond_the_abstract_each_function_is_public_and_the_notebook_uses_it() -> None:
    rows = table((ROOT / "README.md").read_text("utf-8"), BEYOND)
    rules = {row.cited.strip("`"): row for row in rows}
    assert rules.keys() == {"implicit", "holomorphic", "asymep", "--cost cross-entropy"}
    for name, row in rules.items():
        (function,), (notebook,) = row.functions, row.notebooks
        public = getattr(eqprop_np, function.rpartition(".")[2])
        assert public is pkgutil.resolve_name(f"eqprop_np.{function}")
        assert name not in eqprop_np.RULES or eqprop_np.RULES[name].function is public
        assert f"eq.{public.__name__}" in text_of(notebook, "code")


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Eq. (4): P⁻¹(s) ⋆ s", ["Eq. (4)"]),
        ("of Eqs. (1), (2) and (7), in", ["Eq. (1)", "Eq. (2)", "Eq. (7)"]),
        ("Eqs. (6)-(8)", ["Eq. (6)", "Eq. (7)", "Eq. (8)"]),
        ("Eqs. (7)–(8)", ["Eq. (7)", "Eq. (8)"]),
        ("Eq.\n(5) and Fig. 1 (b)", ["Eq. (5)", "Fig. 1(b)"]),
        ("Fig. 1(a), (b)", ["Fig. 1(a)", "Fig. 1(b)"]),
        ("equation (4), Eq. 4, (4), Fig. 2(a)", []),
    ],
)
def test_citations(text: str, found: list[str]) -> None:
    assert citations(text) == set(found)


def test_an_equation_that_is_not_cited_is_not_found() -> None:
    assert not mentions("Eqs. (1) and (3), Fig. 1(a)", "Eq. (2)")
    assert not mentions("Eq. (1)", "Fig. 1(a)")
    assert not mentions("the energy E", "Φ")
    assert mentions(r"$\Phi$", "Φ")


def test_the_table_is_read_whole() -> None:
    readme = (
        f"before\n\n{HEAD}| Eq. (2) | two phases | `rules.ep.ep`, `relax` | [2](a/b-c.ipynb) |\n\nafter | x"
    )
    assert table(readme) == [Row("Eq. (2)", ["rules.ep.ep", "relax"], ["a/b-c.ipynb"])]
