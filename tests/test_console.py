"""Tests of the commands on consoles that cannot show every character, and of the encoding of files."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from examples import write_bands

import eqprop_np
from eqprop_np import benchmark, figures, mnist, sweep
from eqprop_np.experiments import systems

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
    root = str(Path(eqprop_np.__file__).parents[1])
    command = [sys.executable, "-X", "warn_default_encoding", "-c", SCRIPT]
    done = subprocess.run(
        command, env=os.environ | {"PYTHONPATH": root}, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert done.returncode == 0, done.stderr
