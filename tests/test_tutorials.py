"""The tutorials run, and print what they say they print.

Each notebook is executed in a fresh kernel. Its texts must be the stored ones, up to 1 % in their
numbers; of a picture, only that there is one.
"""

import math
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
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
)
TOLERANCE = 0.01  # relative, of each number in a text
MAX_BYTES = 1_000_000
NUMBER = re.compile(r"([-+−]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")
UNWANTED = {  # in the text of an output
    "a path": r"(?<![\w.\\])(?:~|/[\w.-]+)/[\w.-]+|\b[A-Z]:\\",
    "a warning": r"Warning\b|WARNING\b",
    "a traceback": r"Traceback \(most recent call last\)",
    "a default repr": r" at 0x[0-9a-f]+|^\W*Text\(|^\W*<[\w.]*(Axes|Figure|Container|matplotlib)",
}

PARTS = {  # of the prose
    "title": r"\A# {}\. \S",
    "promise": "At the end you will know",
    "exercises": "^## Exercises$",
    "answers": "^## Answers$",
}

each = pytest.mark.parametrize("path", sorted(TUTORIALS.glob("*.ipynb")), ids=lambda path: path.stem)


@pytest.fixture(scope="session")
def environment(session_cache: Path) -> dict[str, str]:
    """A kernel's: one thread, no MNIST, figures inline, nothing written elsewhere; the glyphs are drawn."""
    unwanted = {"EQPROP_NP_DATA", "MPLBACKEND", "MPLCONFIGDIR", "MATPLOTLIBRC"}
    result = {name: value for name, value in os.environ.items() if name not in unwanted}
    result |= {f"{library}_NUM_THREADS": "1" for library in ("OPENBLAS", "MKL", "OMP", "VECLIB")}
    result |= {name: str(session_cache / name.lower()) for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR")}
    result["XDG_CACHE_HOME"] = str(session_cache)
    code = "import matplotlib.font_manager, eqprop_np.datasets as d; d.load('glyphs')"
    subprocess.run([sys.executable, "-c", code], env=result, check=True, capture_output=True)
    return result


@pytest.fixture(scope="session")
def fresh(environment: dict[str, str]) -> Iterator[dict[Path, Future[NotebookNode]]]:
    """Every notebook executed anew, two at a time."""
    with ThreadPoolExecutor(2) as pool:
        yield {
            path: pool.submit(execute, nbformat.read(path, as_version=4), environment)
            for path in sorted(TUTORIALS.glob("*.ipynb"))
        }


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
    """A line for each code cell that shows something else."""
    found = []
    for a, b in zip(code_cells(stored), code_cells(fresh), strict=True):
        old, new = shown(a), shown(b)
        if len(old) != len(new) or not all(map(same, old, new)):
            found.append(f"cell {a.execution_count}: stored {old}, fresh {new}")
    return found


def faults(notebook: NotebookNode, name: str) -> list[str]:
    """What a stored notebook lacks, or has too much of, found without running it."""
    code, number = code_cells(notebook), int(name[:2])
    prose = "\n\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    found = [
        f"no {part}" for part, p in PARTS.items() if not re.search(p.format(number), prose, re.MULTILINE)
    ]
    if number < len(NAMES) and f"]({NAMES[number]}.ipynb)" not in notebook.cells[-1].source:
        found.append("no link to the next notebook in the last cell")
    if [cell.execution_count for cell in code] != list(range(1, len(code) + 1)):
        found.append("execution counts are not 1, 2, …")
    if notebook.metadata.keys() - {"kernelspec", "language_info"}:
        found.append("metadata beside kernelspec and language_info")
    if any("sys.path" in cell.source for cell in code):
        found.append("sys.path in a cell")
    if not all(map(_folded, _after(notebook, "## Answers"))):
        found.append("an answer that is not folded")
    for output in (output for cell in code for output in cell.outputs):
        if output.output_type == "error" or output.get("name") == "stderr":
            found.append(f"an error: {output}")
    for text in (text for cell in code for text in shown(cell)):
        found += [f"{what}: {text}" for what, p in UNWANTED.items() if re.search(p, text, re.MULTILINE)]
    return found


def _after(notebook: NotebookNode, heading: str) -> list[NotebookNode]:
    """The code cells after a heading."""
    sources = [cell.source.strip() for cell in notebook.cells]
    start = sources.index(heading) if heading in sources else len(sources)
    return [cell for cell in notebook.cells[start:] if cell.cell_type == "code"]


def _folded(cell: NotebookNode) -> bool:
    hidden = cell.metadata.get("jupyter", {}).get("source_hidden", False)
    return hidden and "answer" in cell.metadata.get("tags", [])


# ---- the notebooks


def test_all_are_there() -> None:
    assert tuple(path.stem for path in sorted(TUTORIALS.glob("*.ipynb"))) == NAMES


def test_the_list_has_all() -> None:
    readme = (TUTORIALS / "README.md").read_text()
    assert re.findall(r"^\| (\d) \| \[.+?\]\((.+?)\.ipynb\)", readme, re.MULTILINE) == [
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
def test_runs_and_shows_what_is_stored(path: Path, fresh: dict[Path, Future[NotebookNode]]) -> None:
    executed = fresh[path].result()
    assert faults(executed, path.stem) == []
    assert differences(nbformat.read(path, as_version=4), executed) == []


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


def example() -> NotebookNode:
    """A first notebook without a fault."""
    picture = new_output("display_data", {"image/png": "", "text/plain": "<Figure size 630x270 with 1 Axes>"})
    printed = [new_output("stream", text="1.0\n"), new_output("stream", text="2.0\n"), picture]
    result = new_output("execute_result", {"text/plain": "3"}, execution_count=2)
    folded = {"jupyter": {"source_hidden": True}, "tags": ["answer"]}
    return new_notebook(
        cells=[
            new_markdown_cell("# 1. Φ\n\n**At the end you will know**"),
            new_code_cell("print(1.0); print(2.0); plt.show()", execution_count=1, outputs=printed),
            new_markdown_cell("## Exercises"),
            new_markdown_cell("## Answers"),
            new_code_cell("3", execution_count=2, outputs=[result], metadata=folded),
            new_markdown_cell(f"[next]({NAMES[1]}.ipynb)"),
        ]
    )


def test_the_example_has_no_fault() -> None:
    assert faults(example(), NAMES[0]) == []
    assert differences(example(), example()) == []
    assert shown(example().cells[1]) == ["1.0\n2.0\n", "(picture)"]


def printed(text: str, **kind: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[1].outputs.append(new_output("stream", text=text, **kind))


def result(text: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[4].outputs[0].data.update({"text/plain": text})


def prose(cell: int, text: str) -> Callable[[NotebookNode], None]:
    return lambda notebook: notebook.cells[cell].update(source=text)


PLANTED: dict[str, Callable[[NotebookNode], object]] = {
    "no title": prose(0, "# Φ: At the end you will know"),
    "no promise": prose(0, "# 1. Φ"),
    "no exercises": prose(2, "Exercises"),
    "no answers": prose(3, "### Answers"),
    "no link": prose(5, f"[next]({NAMES[2]}.ipynb)"),
    "execution counts": lambda notebook: notebook.cells[4].update(execution_count=3),
    "metadata": lambda notebook: notebook.metadata.update(widgets={}),
    "sys.path": prose(1, "sys.path.append('..')"),
    "an error": printed("a message", name="stderr"),
    "a path: in": printed("in /home/ann/eqprop"),
    "a path: '": printed("'~/eqprop'"),
    "a warning": printed("RuntimeWarning: overflow"),
    "a traceback": printed("Traceback (most recent call last)"),
    "a default repr: [<": result("[<matplotlib.lines.Line2D at 0x7f>]"),
    "a default repr: Te": result("Text(0.5, 1.0, 'title')"),
    "a default repr: <A": result("<Axes: xlabel='t'>"),
    "an answer": lambda notebook: notebook.cells[4].metadata.pop("tags"),
}


@pytest.mark.parametrize("fault", PLANTED)
def test_a_planted_fault_is_found(fault: str) -> None:
    notebook = example()
    PLANTED[fault](notebook)
    (found,) = faults(notebook, NAMES[0])
    assert found.startswith(fault)


def test_an_error_output_is_found() -> None:
    notebook = example()
    notebook.cells[1].outputs.append(new_output("error", ename="ValueError", evalue="", traceback=[]))
    (found,) = faults(notebook, NAMES[0])
    assert found.startswith("an error")


@pytest.mark.parametrize("lost", [0, 1, 2])
def test_a_lost_output_is_a_difference(lost: int) -> None:
    stored = example()
    del stored.cells[1].outputs[lost]
    (found,) = differences(stored, example())
    assert found.startswith("cell 1")


def test_the_kernel_works_anew(environment: dict[str, str]) -> None:
    """What is stored counts for nothing: the fresh numbers come from the code, in the kernel's place."""
    names = "'tutorial.mplstyle'), 'EQPROP_NP_DATA' in os.environ, 21 * 2"
    lines = ["import os", f"print(os.path.exists({names})"]
    code = new_code_cell(
        "\n".join(lines), execution_count=1, outputs=[new_output("stream", text="True False 42")]
    )
    stored = new_notebook(cells=[code])
    assert differences(stored, execute(stored, environment)) == []
    code.outputs[0].text = "True False 43"
    (found,) = differences(stored, execute(stored, environment))
    assert "True False 42" in found
