"""Tests of the commands on consoles that cannot show every character, and of the encoding of files."""

import functools
import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from examples import ctrl_c_as_in_a_terminal, interrupting, write_bands

import eqprop_np
from eqprop_np import benchmark, figures, mnist, sweep
from eqprop_np.experiments import systems
from eqprop_np.experiments.console import command

ROOT = Path(eqprop_np.__file__).parents[1]
posix = pytest.mark.skipif(os.name == "nt", reason="signals and numbers of files are POSIX's")

BANDS = ["--data", "bands", "--epochs", "1"]
COMMANDS: list[tuple[Callable[[list[str]], int], list[str]]] = [
    (mnist.main, ["--list-presets"]),
    (mnist.main, ["--help"]),
    (mnist.main, [*BANDS, "--hidden", "8", "--out", "β"]),
    (systems.main, []),
    (systems.main, ["--help"]),
    (systems.main, ["--estimators", "--system", "chain"]),
    (sweep.main, ["--help"]),
    (sweep.main, ["p-1h", *BANDS, "--out", "β", "--workers", "1"]),
    (benchmark.main, ["--help"]),
    (benchmark.main, ["p-1h", "--data", "bands", "--batches", "1", "--warm-up", "0", "--no-letter"]),
    (figures.main, ["--help"]),
    (figures.main, ["fig1a", "--out", "β.pdf"]),
]


@pytest.mark.parametrize(
    "main, arguments",
    COMMANDS,
    ids=lambda value: " ".join(value) if isinstance(value, list) else value.__module__,
)
def test_no_character_ends_a_command(
    main: Callable[[list[str]], int], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bands(Path("bands"))
    monkeypatch.setattr(sweep, "OwnProcesses", sweep.ThreadPoolExecutor)  # a new process takes a second
    monkeypatch.setattr(benchmark, "matrix_product", lambda: 1.0)
    assert len(shown("ascii", main, arguments, monkeypatch)) > 5


def shown(
    encoding: str, main: Callable[[list[str]], int], arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> str:
    """Return what a command prints on a console with an encoding."""
    console = io.TextIOWrapper(io.BytesIO(), encoding)
    with monkeypatch.context() as patch:
        patch.setattr(sys, "stdout", console)
        try:
            assert main(arguments) == 0
        except SystemExit as end:  # of --help
            assert end.code == 0
    console.flush()
    return console.buffer.getvalue().decode(encoding)


def test_only_what_the_console_cannot_show_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ascii", "cp1252", "utf-8"):
        text = shown(name, mnist.main, ["--list-presets"], monkeypatch)
        if name == "ascii":
            assert "K 10, ? 0.1;" in text
        assert text == shown("utf-8", mnist.main, ["--list-presets"], monkeypatch).encode(
            name, "replace"
        ).decode(name)


@pytest.mark.skipif(os.name == "nt" or sys.platform == "darwin", reason="names are Unicode there")
def test_the_name_of_a_directory_need_not_be_valid_text(monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are bytes on Linux. JSON has an escape for those that are not UTF-8."""
    data = write_bands(Path(os.fsdecode(b"bands-\xff")))
    arguments = ["--data", str(data), "--hidden", "8", "--epochs", "1", "--out", os.fsdecode(b"run-\xff")]
    assert shown("utf-8", mnist.main, arguments, monkeypatch).endswith(" % after 1 epoch\n")
    shown("utf-8", mnist.main, ["--resume", arguments[-1], "--epochs", "2"], monkeypatch)
    config = json.loads((Path(arguments[-1]) / "config.json").read_text("utf-8"))
    assert config["dataset"] == data.name


# ---- Ctrl-C


MOMENTS = [
    ("mnist", "eqprop_np.network"),
    ("mnist", "scipy.version"),
    ("sweep", "numpy"),
    ("sweep", "eqprop_np.training"),
    ("theorem", "numpy.linalg"),
    ("theorem", "eqprop_np.experiments.estimators"),
    ("figures", "eqprop_np.figures"),
    ("figures", "matplotlib.animation"),
    ("benchmark", "tqdm"),
    ("benchmark", "eqprop_np.experiments.presets"),
]


def run(*arguments: str, before: Callable[[], object] | None = None, path: Path = ROOT) -> Any:
    """Run Python in a process of its own, with another directory in its path, and return what came of it."""
    environment = os.environ | {"PYTHONPATH": f"{path}{os.pathsep}{ROOT}", "OPENBLAS_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        encoding="utf-8",
        timeout=60,
        env=environment,
        preexec_fn=before,
    )


@posix
@pytest.mark.parametrize("name, module", MOMENTS, ids=str)
def test_ctrl_c_ends_a_command_that_is_being_imported(name: str, module: str, tmp_path: Path) -> None:
    hook = interrupting(tmp_path / "hook", f"name == {module!r}")
    done = run("-m", f"eqprop_np.{name}", before=ctrl_c_as_in_a_terminal, path=hook)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


@posix
def test_ctrl_c_stays_ignored_in_the_background(tmp_path: Path) -> None:
    hook = interrupting(tmp_path / "hook", "name == 'eqprop_np.network'")
    ignore = functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN)
    done = run("-m", "eqprop_np", before=ignore, path=hook)
    assert (done.returncode, done.stderr) == (0, "")


def test_an_import_in_a_script_leaves_ctrl_c_as_it_is() -> None:
    check = (
        "import signal; before = signal.getsignal(2); import eqprop_np; assert signal.getsignal(2) == before"
    )
    assert run("-c", check).returncode == 0


def test_a_command_of_another_package_keeps_ctrl_c(tmp_path: Path) -> None:
    """Its package imports this one before its own command runs, which may handle a KeyboardInterrupt."""
    package = tmp_path / "own"
    package.mkdir()
    (package / "__init__.py").write_text("import eqprop_np\n", "utf-8")
    code = "import signal; print(signal.getsignal(2))"
    (package / "train.py").write_text(code, "utf-8")
    done, plain = run("-m", "own.train", "eqprop_np.mnist", path=tmp_path), run("-c", code)
    assert (done.returncode, done.stdout) == (0, plain.stdout)


@pytest.mark.parametrize("handler", [signal.SIG_DFL, signal.SIG_IGN])
def test_a_command_catches_ctrl_c_unless_it_is_ignored(handler: signal.Handlers) -> None:
    seen = []

    @command()
    def main() -> int:
        seen.append(signal.getsignal(signal.SIGINT))
        if handler == signal.SIG_DFL:
            raise KeyboardInterrupt
        return 0

    before = signal.signal(signal.SIGINT, handler)
    try:
        assert main() == (130 if handler == signal.SIG_DFL else 0)
        assert signal.getsignal(signal.SIGINT) == handler
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == [signal.default_int_handler if handler == signal.SIG_DFL else handler]


# ---- closed streams


def close(*numbers: int) -> Callable[[], None]:
    return lambda: [os.close(number) for number in numbers].clear()


@posix
def test_a_command_runs_without_standard_output() -> None:
    """As after ``>&-``."""
    write_bands(Path("bands"))
    arguments = ["--data", "bands", "--hidden", "4", "--epochs", "1", "--out", "run"]
    done = run("-m", "eqprop_np.mnist", *arguments, before=close(1))
    assert (done.returncode, done.stderr) == (0, "")
    assert Path("run/summary.json").exists()


@posix
def test_a_sweep_runs_without_open_streams() -> None:
    """Its processes must not take the number of a closed stream for another file."""
    write_bands(Path("bands"))
    arguments = ["p-1h", "--data", "bands", "--epochs", "1", "--out", "sweep"]
    assert run("-m", "eqprop_np.sweep", *arguments, before=close(0, 1, 2)).returncode == 0
    assert Path("sweep/p-1h-seed0.json").exists()


# ---- files


SCRIPT = """
import warnings
warnings.filterwarnings("error", category=EncodingWarning, module="eqprop_np")
from eqprop_np import figures, mnist
assert mnist.main(["--data", "bands", "--hidden", "8", "--epochs", "1", "--out", "run", "--quiet"]) == 0
assert mnist.main(["--resume", "run", "--epochs", "2", "--quiet"]) == 0
assert figures.main(["fig1c"]) == 0
"""


def test_no_file_is_opened_in_the_encoding_of_the_locale() -> None:
    """Python warns of it on request. The tests that run in this process do so in CI."""
    write_bands(Path("bands"))
    done = run("-X", "warn_default_encoding", "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
