"""The tutorials run, and print what they say they print.

Each notebook is executed in a fresh kernel, with EQPROP_NP_STATIC=1. Its texts must be the stored ones, up to
1 % in their numbers; of a picture, only that there is one. `lesson.play` then draws the figure of each slider
at three values.

After the answer of each exercise, its stored wrong answer and then again the true one are executed, each with
the check, which must print "not yet: …", then "right". A check that raises another error than AssertionError
prints "not yet, TypeError: …", and has not judged the wrong answer.
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from itertools import groupby
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"
NAMES = (
    "01-energy-and-phi",
    "02-two-phases",
    "03-nudging",
    "04-convolution-and-pooling",
    "05-backprop-through-time",
    "06-theorem-1",
    "07-continual-updates",
    "08-asymmetric-connections",
    "09-training-for-real",
    "10-beyond-the-abstract",
)
APPENDIX = "appendix"
MAX_WORDS = 1800  # of prose, see `words`
TOLERANCE = 0.01  # relative, of each number in a text
MAX_BYTES = 1_000_000
NUMBER = re.compile(r"([-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
UNWANTED = {  # in the text of an output
    "a path": r"(?<![\w.\\])(?:~|/[\w.-]+)/[\w.-]+|\b[A-Z]:\\",
    "a warning": r"Warning\b|WARNING\b",
    "a traceback": r"Traceback \(most recent call last\)",
    "a default repr": r" at 0x[0-9a-f]+|^\W*Text\(|^\W*<[\w.]*(Axes|Figure|Container|matplotlib)",
}

TITLE = r"\A# {}\. \S"
PARTS = {  # of the first and of the last cell
    0: {
        "promise": r"^\*\*At the end you will know",
        "reading time": r"\*\*Reading time|[Rr]eading time",
        "prerequisites": r"[Pp]rerequisites",
    },
    -1: {"summary": r"^\*\*Summary"},
}
PRIVATE = re.compile(r"(?<![^\s(\[{,=*.:+/@-])_[A-Za-z]\w*")  # not the index in Δ_s

each = pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def environment(session_cache: Path) -> dict[str, str]:
    """A kernel's: one thread, no MNIST, figures inline, nothing written elsewhere; the glyphs are drawn."""
    unwanted = {"EQPROP_NP_DATA", "MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC"}
    result = {name: value for name, value in os.environ.items() if name not in unwanted}
    result |= {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP", "VECLIB")}
    result |= {name: str(session_cache / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    result["XDG_CACHE_HOME"] = str(session_cache)
    result["EQPROP_NP_STATIC"] = "1"
    code = (
        "import matplotlib.font_manager; from eqprop_np.experiments import datasets; datasets.load('glyphs')"
    )
    subprocess.run([sys.executable, "-c", code], env=result, check=True, capture_output=True)
    return result


# ---- the helpers


def execute(notebook: NotebookNode, environment: dict[str, str]) -> NotebookNode:
    """The notebook anew, in a fresh kernel; an error in a cell is raised."""
    fresh = deepcopy(notebook)
    resources = {"metadata": {"path": str(TUTORIALS)}}
    client = NotebookClient(fresh, timeout=300, kernel_name="python3", resources=resources)
    client.execute(env=environment)
    return fresh


def code_cells(notebook: NotebookNode) -> list[NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell: NotebookNode) -> list[str]:
    """What a code cell shows: its texts, and "(picture)" for each picture."""
    texts: list[str] = []
    for printed, outputs in groupby(cell.outputs, lambda output: output.output_type == "stream"):
        if printed:  # perhaps in several pieces
            texts.append("".join(output.text for output in outputs))
        else:
            texts += [_richest(output.get("data", {})) for output in outputs]
    return texts


def _richest(data: dict[str, str]) -> str:
    if any(kind.startswith("image/") for kind in data):
        return "(picture)"
    return next((data[kind] for kind in ("text/markdown", "text/html", "text/plain") if kind in data), "")


def same(stored: str, fresh: str) -> bool:
    """Whether two texts have the same words, and the same numbers up to the tolerance."""
    a, b = NUMBER.split(stored), NUMBER.split(fresh)
    if len(a) != len(b):
        return False
    words = all(p.split() == q.split() for p, q in zip(a[::2], b[::2], strict=True))
    return words and all(map(_close, a[1::2], b[1::2]))


def _close(a: str, b: str) -> bool:
    return math.isclose(*(float(text.replace("−", "-")) for text in (a, b)), rel_tol=TOLERANCE)


def differences(stored: NotebookNode, fresh: NotebookNode) -> list[str]:
    """A line for each code cell that shows something else.

    In a cell with the tag "rounding" the numbers may differ: they are the results of a training, whose course
    depends on the order in which the BLAS of a machine adds.
    """
    found = []
    for a, b in zip(code_cells(stored), code_cells(fresh), strict=True):
        old, new = shown(a), shown(b)
        if "rounding" in _tags(a):
            old, new = ([NUMBER.sub("0", text) for text in texts] for texts in (old, new))
        if len(old) != len(new) or not all(map(same, old, new)):
            found.append(f"cell {a.execution_count}: stored {old}, fresh {new}")
    return found


def prose_of(notebook: NotebookNode) -> str:
    return "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def words(notebook: NotebookNode) -> int:
    """The number of words of the prose, without formulas, tables and the targets of links."""
    prose = re.sub(r"\$\$.*?\$\$|\$[^$]*\$", "", prose_of(notebook), flags=re.DOTALL)
    prose = re.sub(r"^\|.*$", "", prose, flags=re.MULTILINE)
    prose = re.sub(r"\]\([^)]*\)", "]", prose)
    return sum(1 for word in prose.split() if re.search(r"\w", word))


def faults(notebook: NotebookNode, name: str) -> list[str]:
    """What a stored notebook lacks, or has too much of, found without running it."""
    code = code_cells(notebook)
    found = []
    if name != APPENDIX:
        number = int(name[:2])
        if not re.search(TITLE.format(number), prose_of(notebook)):
            found.append("no title")
        if name in NAMES[:-1] and f"]({NAMES[number]}.ipynb)" not in notebook.cells[-1].source:
            found.append("no link to the next notebook in the last cell")
        found += numbered_faults(notebook, number)
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("execution counts are not 1, 2, …")
    if notebook.metadata.keys() - {"kernelspec", "language_info"}:
        found.append("metadata beside kernelspec and language_info")
    if re.search(r"\\mathrm\s*\\", prose_of(notebook)):  # which MathJax shows as an error
        found.append("a formula with \\mathrm before a command")
    if any("sys.path" in cell.source for cell in code):
        found.append("sys.path in a cell")
    for output in (output for cell in code for output in cell.outputs):
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append(f"an error: {output}")
    for text in (text for cell in code for text in shown(cell)):
        found += [f"{what}: {text}" for what, p in UNWANTED.items() if re.search(p, text, re.MULTILINE)]
    return found


def numbered_faults(notebook: NotebookNode, number: int) -> list[str]:
    """What a numbered notebook lacks, or has too much of; the appendix has no such parts."""
    found = []
    for k, parts in PARTS.items():
        source = notebook.cells[k].source
        found += [f"no {part}" for part, p in parts.items() if not re.search(p, source, re.MULTILINE)]
    if words(notebook) > MAX_WORDS:
        found.append(f"{words(notebook)} words of prose, more than {MAX_WORDS}")
    if re.search("^#+ (Exercises|Answers)", prose_of(notebook), re.MULTILINE):
        found.append("a section of exercises or answers: they stand in the flow")
    for cell in code_cells(notebook):
        for text in (cell.source, *shown(cell)):
            found += [f"a private name: {name}" for name in PRIVATE.findall(text)]
        folded = cell.metadata.get("jupyter", {}).get("source_hidden", False)
        if folded and not {"answer", "hide-cell"} & _tags(cell):
            found.append("a folded cell without a tag")
        if "hide-cell" in _tags(cell) and not folded:
            found.append('a cell with the tag "hide-cell" that is not folded')
    return found + exercise_faults(notebook, number) + figure_faults(notebook, number)


def exercise_faults(notebook: NotebookNode, number: int) -> list[str]:
    """What is wrong with the exercises: each is a text, a stub, a check and a folded answer."""
    found = []
    titles = re.findall(r"^\*\*Exercise (\d+)\.(\d+)", prose_of(notebook), re.MULTILINE)
    if titles != [(str(number), str(k)) for k in range(1, len(titles) + 1)]:
        found.append(f"exercises are not numbered {number}.1, {number}.2, …")
    if len(titles) < 2:
        found.append("fewer than two exercises")
    kinds = [_tags(cell) & {"exercise", "check", "answer"} for cell in notebook.cells]
    starts = [k for k, kind in enumerate(kinds) if kind == {"exercise"}]
    complete = [k for k in starts if kinds[k : k + 3] == [{"exercise"}, {"check"}, {"answer"}]]
    if starts != complete or sum(map(bool, kinds)) != 3 * len(titles) or len(starts) != len(titles):
        return [*found, "an exercise that is not a text, then a stub, a check and an answer"]
    for k in starts:
        text, stub, check, answer = notebook.cells[k - 1 : k + 3]
        if not re.search(r"^\*\*Exercise \d", text.source, re.MULTILINE):
            found.append("an exercise without its text before it")
        if not stub.metadata.get("wrong"):
            found.append("an exercise without a wrong answer")
        if not re.search(r"^@lesson\.check$", check.source, re.MULTILINE):
            found.append("a check without @lesson.check")
        if "".join(shown(check))[:7] != "not yet":
            found.append("a check that does not print 'not yet' for its stub")
        if answer.metadata.get("jupyter") != {"source_hidden": True, "outputs_hidden": True}:
            found.append("an answer that is not folded with its outputs")
    return found


def figure_faults(notebook: NotebookNode, number: int) -> list[str]:
    """What is wrong with the figures: each has a caption, and each slider a question before it."""
    found = []
    captions = re.findall(r"^\*Figure (\d+)\.(\d+)", prose_of(notebook), re.MULTILINE)
    if captions != [(str(number), str(k)) for k in range(1, len(captions) + 1)]:
        found.append(f"figures are not numbered {number}.1, {number}.2, …")
    pictures = [c for c in code_cells(notebook) if "(picture)" in shown(c) and "answer" not in _tags(c)]
    if len(captions) < len(pictures):
        found.append(f"figures without a caption: {len(pictures)} with a picture, {len(captions)} captions")
    before = ""
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            before = cell.source
        elif "lesson.play(" in cell.source and not re.search("[Ww]hat do you expect", before):
            found.append("a slider without a question before it")
    return found


def _tags(cell: NotebookNode) -> set[str]:
    return set(cell.metadata.get("tags", []))


# ---- the exercises


def plant(notebook: NotebookNode) -> NotebookNode:
    """The notebook with new cells after each answer: the wrong one, the check, the true one, the check."""
    planted = deepcopy(notebook)
    planted.cells = []
    for cell in deepcopy(notebook.cells):
        planted.cells.append(cell)
        if "answer" in _tags(cell):
            exercise, check = planted.cells[-3:-1]
            for source in (exercise.metadata["wrong"], cell.source):
                planted.cells.append(new_code_cell(source, metadata={"tags": ["planted"]}))
                planted.cells.append(new_code_cell(check.source, metadata={"tags": ["planted", "check"]}))
    return planted


def without_planted(notebook: NotebookNode) -> NotebookNode:
    """The notebook without the cells of `plant`, and with counts as if they had not been executed."""
    result = deepcopy(notebook)
    result.cells = [cell for cell in result.cells if "planted" not in _tags(cell)]
    for count, cell in enumerate(code_cells(result), start=1):
        cell.execution_count = count
    return result


def verdicts(notebook: NotebookNode) -> list[str]:
    """What the planted checks of an executed notebook print."""
    return ["".join(shown(cell)).strip() for cell in notebook.cells if {"planted", "check"} <= _tags(cell)]


# ---- the notebooks


def test_all_are_there() -> None:
    assert tuple(path.stem for path in sorted(TUTORIALS.glob("*.ipynb"))) == (*NAMES, APPENDIX)


def test_the_list_has_all() -> None:
    readme = (TUTORIALS / "README.md").read_text("utf-8")
    assert re.findall(r"^\| (\d+) \| \[.+?\]\((.+?)\.ipynb\)", readme, re.MULTILINE) == [
        (str(number), name) for number, name in enumerate(NAMES, start=1)
    ]


@each
def test_has_all_parts_and_nothing_else(path: Path) -> None:
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert faults(notebook, path.stem) == []
    assert path.stat().st_size < MAX_BYTES


@each
def test_links_lead_somewhere(path: Path) -> None:
    notebook = nbformat.read(path, as_version=4)
    prose = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\((?!https?:|#|attachment:)([^)#\s]+)", prose):
        assert (TUTORIALS / target).exists(), target


@each
def test_runs_and_shows_what_is_stored_and_knows_right_answers_from_wrong_ones(
    path: Path, environment: dict[str, str]
) -> None:
    stored = nbformat.read(path, as_version=4)
    executed = execute(plant(stored), environment)
    fresh = without_planted(executed)
    assert faults(fresh, path.stem) == []
    assert differences(stored, fresh) == []
    found = verdicts(executed)
    wrong, right = found[::2], found[1::2]
    assert len(right) == sum("exercise" in _tags(cell) for cell in stored.cells)
    assert right == ["right"] * len(wrong)
    assert all(text.startswith("not yet: ") for text in wrong), wrong


# ---- and what finds a fault in them does so


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ("error 4.05 %", "error 4.06 %"),
        ("agrees to 1.00e-06", "agrees to 1.009e-06"),
        ("a  1\nb 10", "a 1\nb  10"),
        ("angle −30.0", "angle -30.1"),
        ("0.00", "-0.00"),
        ("w1-2", "w1-2"),
    ],
)
def test_same(stored: str, fresh: str) -> None:
    assert same(stored, fresh)


@pytest.mark.parametrize(
    ("stored", "fresh"),
    [
        ("error 4.05 %", "error 4.15 %"),
        ("order 1e-6", "order 1e-7"),
        ("order 1e-6", "order 1e6"),
        ("slope 1.0", "slope -1.0"),
        ("0.0", "0.01"),
        ("1 2", "1 2 3"),
        ("two steps", "ten steps"),
        ("converged", ""),
        ("loss 1.0", "loss nan"),
    ],
)
def test_not_the_same(stored: str, fresh: str) -> None:
    assert not same(stored, fresh)
    assert not same(fresh, stored)


PICTURE = new_output("display_data", {"image/png": "", "text/plain": "<Figure size 630x270 with 1 Axes>"})


def example() -> NotebookNode:
    """A notebook without a fault. It can be executed."""
    cells = [
        new_markdown_cell(
            "# 1. Φ\n\n**At the end you will know**\n\n**Reading time** 1 minute. **Prerequisites** none."
        ),
        new_code_cell("import lesson"),
        new_markdown_cell("**What do you expect?**"),
        new_code_cell("lesson.play(draw, w=(0, 2, 1, 1))", outputs=[PICTURE]),
        new_markdown_cell("*Figure 1.1. A figure.*"),
    ]
    for k, (right, wrong) in enumerate((("a = 2", "a = 3"), ("b = a + 2", "b = a")), start=1):
        name = right[0]
        cells += [
            new_markdown_cell(f"**Exercise 1.{k} (predict).** Which number?"),
            new_code_cell(f"{name} = ...", metadata={"tags": ["exercise"], "wrong": wrong}),
            new_code_cell(
                f"@lesson.check\ndef right():\n    assert {name} == {2 * k}, 'no'",
                metadata={"tags": ["check"]},
                outputs=[new_output("stream", text="not yet: no\n")],
            ),
            new_code_cell(
                right,
                metadata={"tags": ["answer"], "jupyter": {"source_hidden": True, "outputs_hidden": True}},
            ),
        ]
    cells.append(new_code_cell("print(b)", outputs=[new_output("stream", text="4\n")]))
    cells.append(new_markdown_cell(f"**Summary**\n\nIt is so.\n\n[next]({NAMES[1]}.ipynb)"))
    notebook = new_notebook(cells=cells)
    for count, cell in enumerate(code_cells(notebook), start=1):
        cell.execution_count = count
    return notebook


def test_the_example_has_no_fault() -> None:
    assert faults(example(), NAMES[0]) == []
    assert differences(example(), example()) == []


def several() -> NotebookNode:
    """A notebook with a cell that shows two texts and a picture, and a cell with a result."""
    printed = [new_output("stream", text="1.0\n"), new_output("stream", text="2.0\n"), PICTURE]
    result = new_output("execute_result", {"text/plain": "3"}, execution_count=2)
    return new_notebook(
        cells=[
            new_code_cell("print(1.0); print(2.0); plt.show()", execution_count=1, outputs=printed),
            new_code_cell("3", execution_count=2, outputs=[result]),
        ]
    )


def test_shown() -> None:
    assert [shown(cell) for cell in several().cells] == [["1.0\n2.0\n", "(picture)"], ["3"]]


def printed(text: str, **kind: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[1].outputs.append(new_output("stream", text=text, **kind))


def result(text: str) -> Callable[[NotebookNode], None]:
    output = new_output("execute_result", {"text/plain": text}, execution_count=1)
    return lambda notebook: notebook.cells[1].outputs.append(output)


def replaced(cell: int, old: str, new: str) -> Callable[[NotebookNode], None]:
    """Replace a part of a cell's source, which must be there."""

    def replace(notebook: NotebookNode) -> None:
        assert old in notebook.cells[cell].source
        notebook.cells[cell].source = notebook.cells[cell].source.replace(old, new)

    return replace


def metadata(cell: int, **changes: object) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[cell].metadata.update(changes)


PLANTED: dict[str, Callable[[NotebookNode], object]] = {
    "no title": replaced(0, "# 1. Φ", "# Φ"),
    "no promise": replaced(0, "At the end", "Here"),
    "no reading time": replaced(0, "Reading time", "Time"),
    "no prerequisites": replaced(0, "Prerequisites", "Before"),
    "no summary": replaced(-1, "Summary", "Words"),
    "no link": replaced(-1, NAMES[1], NAMES[2]),
    "execution counts": lambda notebook: notebook.cells[3].update(execution_count=3),
    "metadata": lambda notebook: notebook.metadata.update(widgets={}),
    "a formula": replaced(4, "A figure.", r"$\mathrm \mathrm d$"),
    "sys.path": replaced(1, "import lesson", "sys.path.append('..')"),
    "an error": printed("a message", name="stderr"),
    "a path: in": printed("in /home/ann/eqprop"),
    "a path: '": printed("'~/eqprop'"),
    "a warning": printed("RuntimeWarning: overflow"),
    "a traceback": printed("Traceback (most recent call last)"),
    "a default repr: [<": result("[<matplotlib.lines.Line2D at 0x7f>]"),
    "a default repr: Te": result("Text(0.5, 1.0, 'title')"),
    "a default repr: <A": result("<Axes: xlabel='t'>"),
    "a private name: _sh": replaced(3, "draw", "lesson._show"),
    "a private name: _s": replaced(3, "draw", "_show"),
    "a private name: _e": printed("    return _euler(s)"),
    "a section": replaced(4, "*Figure", "## Exercises\n\n*Figure"),
    "1813 words": replaced(4, "A figure.", "word " * 1778),
    "a folded cell": metadata(1, jupyter={"source_hidden": True}),
    "a cell with the tag": metadata(1, tags=["hide-cell"]),
    "exercises are not numbered": replaced(5, "1.1", "1.3"),
    "an exercise that is not": metadata(6, tags=[]),
    "an exercise that": lambda notebook: notebook.cells.insert(8, new_markdown_cell("A hint.")),
    "an exercise without a wrong": metadata(6, wrong=""),
    "a check without": replaced(7, "@lesson.check", ""),
    "a check that": lambda notebook: notebook.cells[7].outputs[0].update(text="right\n"),
    "an answer that": metadata(8, jupyter={"source_hidden": True}),
    "an answer": metadata(8, jupyter={"outputs_hidden": True}),
    "figures are not numbered": replaced(4, "1.1", "1.2"),
    "figures without": replaced(4, "*Figure 1.1.", "A figure, *"),
    "a slider": replaced(2, "expect", "know"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    notebook = example()
    PLANTED[fault](notebook)
    (found,) = faults(notebook, NAMES[0])
    assert found.startswith(fault)


def test_too_few_exercises_are_found() -> None:
    notebook = example()
    del notebook.cells[5:9]
    assert "fewer than two exercises" in faults(notebook, NAMES[0])


def test_words() -> None:
    cells = [
        new_markdown_cell(
            "# One two\n\n| not | this |\n|---|---|\n\nthree $a + b$, [four](five.ipynb) — **six**."
        ),
        new_markdown_cell("$$c\n= d$$\n\nseven"),
        new_code_cell("eight"),
    ]
    assert words(new_notebook(cells=cells)) == 6


@pytest.mark.parametrize(
    "text", ["w_ij", "s_*", "Φ_ε", "∇_s", "x._", "for _ in s", "cost.__name__", "(s)_t", "1_000"]
)
def test_no_private_name(text: str) -> None:
    assert PRIVATE.findall(text) == []


def test_an_error_output_is_found() -> None:
    notebook = example()
    notebook.cells[1].outputs.append(new_output("error", ename="ValueError", evalue="", traceback=[]))
    (found,) = faults(notebook, NAMES[0])
    assert found.startswith("an error")


def test_plant() -> None:
    notebook = example()
    planted = plant(notebook)
    cells = [cell.source.splitlines()[0] for cell in code_cells(planted)]
    check = "@lesson.check"
    first = ["a = ...", check, "a = 2", "a = 3", check, "a = 2", check]
    second = ["b = ...", check, "b = a + 2", "b = a", check, "b = a + 2", check]
    assert cells[2:] == [*first, *second, "print(b)"]
    assert without_planted(planted) == notebook


def test_a_check_that_accepts_everything_or_nothing_is_found(environment: dict[str, str]) -> None:
    notebook = example()
    notebook.cells[3].source = ""
    notebook.cells[7].source = "@lesson.check\ndef right():\n    pass"
    assert verdicts(execute(plant(notebook), environment)) == ["right", "right", "not yet: no", "right"]
    notebook.cells[7].source = "@lesson.check\ndef right():\n    assert False, 'never'"
    never = "not yet: never"
    assert verdicts(execute(plant(notebook), environment)) == [never, never, "not yet: no", "right"]


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_output_is_a_difference(lost: int) -> None:
    stored = several()
    del stored.cells[0].outputs[lost]
    (found,) = differences(stored, several())
    assert found.startswith("cell 1")


@pytest.mark.parametrize(("text", "tags", "number"), [
    ("error 24 %", [], 1), ("error 24 %", ["rounding"], 0), ("loss 21 %", ["rounding"], 1),
])  # fmt: skip
def test_the_numbers_of_a_training_may_differ(text: str, tags: list[str], number: int) -> None:
    def notebook(printed: str) -> NotebookNode:
        cell = new_code_cell("", metadata={"tags": tags}, outputs=[new_output("stream", text=printed)])
        return new_notebook(cells=[cell])

    assert len(differences(notebook("error 21 %"), notebook(text))) == number


def test_the_kernel_works_anew(environment: dict[str, str]) -> None:
    """What is stored counts for nothing: the fresh numbers come from the code, in the kernel's place."""
    names = "'tutorial.mplstyle'), 'EQPROP_NP_DATA' in os.environ, os.environ['EQPROP_NP_STATIC'], 21 * 2"
    lines = ["import os", f"print(os.path.exists({names})"]
    code = new_code_cell(
        "\n".join(lines), execution_count=1, outputs=[new_output("stream", text="True False 1 42")]
    )
    stored = new_notebook(cells=[code])
    assert differences(stored, execute(stored, environment)) == []
    code.outputs[0].text = "True False 1 43"
    (found,) = differences(stored, execute(stored, environment))
    assert "True False 1 42" in found
