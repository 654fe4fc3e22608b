"""Try malformed inputs on every command and on the library, and report each traceback and each hang.

    PYTHONPATH=. python tests/malformed.py                 all inputs: some minutes
    PYTHONPATH=. python tests/malformed.py mnist library   those of these groups
    PYTHONPATH=. python tests/malformed.py --list          print the inputs, and run nothing

Each input runs in a forked process with a time limit. So the script needs a POSIX system. A command may
refuse an input (exit code 2, one line on standard error), or accept it. Everything else is a fault: an
exception that leaves ``main``, a refusal of several lines, or no end. A call of the library may return or
raise a TypeError or a ValueError, in one line. Every fifteenth input of a command also runs as
``python -m eqprop_np.…`` in a process of its own.

The exit code is 0 if there was no fault.
"""

import argparse
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from examples import idx, write_bands

import eqprop_np as eq
from eqprop_np import benchmark, figures, mnist, sweep
from eqprop_np.experiments import datasets, systems
from eqprop_np.experiments.presets import EXPERIMENTS

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 60.0  # seconds for an input
OWN_PROCESS = 15  # every so many inputs of a command also run in a process of their own
MAINS: dict[str, Callable[[list[str]], int]] = {
    "mnist": mnist.main,
    "sweep": sweep.main,
    "figures": figures.main,
    "theorem": systems.main,
    "benchmark": benchmark.main,
}
CODES = {"mnist": (0, 2, 3), "sweep": (0, 1, 2)}  # others have 0 and 2


class Input(NamedTuple):
    """The arguments of a command, or a call of the library.

    Attributes
    ----------
    group : str
        The command, or "library".
    arguments : list of str
        Of the command; of the library the text of the call.
    call : callable, optional
        The call of the library.
    """

    group: str
    arguments: list[str]
    call: Callable[[], object] | None = None

    def __str__(self) -> str:
        return " ".join([self.group, *map(repr, self.arguments)])


class Outcome(NamedTuple):
    """What an input did: "refused", "accepted", or a fault with its details."""

    verdict: str
    details: str = ""


# ---- run an input


def run(function: Callable[[], Outcome], timeout: float = TIMEOUT) -> Outcome:
    """Return what a function returns in a forked process, or a fault if it does not end."""
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receive)
        os.setsid()
        try:
            outcome = function()
        except BaseException:
            outcome = Outcome("traceback", traceback.format_exc())
        with os.fdopen(send, "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(outcome, file)
        os._exit(0)
    os.close(send)
    end, chunks = time.monotonic() + timeout, []
    os.set_blocking(receive, False)
    done = False
    while time.monotonic() < end and not done:
        with suppress(BlockingIOError):
            while chunk := os.read(receive, 1 << 16):
                chunks.append(chunk)
            done = True
        time.sleep(0.002)
    os.close(receive)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    if not done:
        return Outcome("hang", f"no end within {timeout:g} seconds")
    return (
        Outcome(*json.loads(b"".join(chunks))) if chunks else Outcome("traceback", "the process was killed")
    )


def judge(group: str, code: object, err: str) -> Outcome:
    """Return the verdict on the exit code of a command and its lines on standard error."""
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    if "Traceback" in err:
        return Outcome("traceback", err)
    if code not in CODES.get(group, (0, 2)):
        return Outcome("fault", f"exit code {code}: {err}")
    if code == 0:
        return Outcome("accepted", err)
    if not lines or (code == 2 and len(lines) > 1):
        return Outcome("fault", f"exit code {code} with {len(lines)} lines: {err}")
    return Outcome("refused", err)


def in_this_process(given: Input) -> Outcome:
    """Run a command by its main function."""
    with tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as out:
        os.dup2(out.fileno(), 1)
        os.dup2(err.fileno(), 2)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(
                os.fdopen(number, "wb", 0, closefd=False), "utf-8", "backslashreplace", write_through=True
            )
            for number in (1, 2)
        )
        try:
            code: object = MAINS[given.group](given.arguments)
        except SystemExit as exit:
            code = exit.code
        err.seek(0)
        return judge(given.group, code, err.read().decode("utf-8", "replace"))


def in_own_process(given: Input) -> Outcome:
    """Run a command as a user does."""
    words = [sys.executable, "-m", f"eqprop_np.{given.group}", *given.arguments]
    done = subprocess.run(words, capture_output=True, check=False)
    return judge(given.group, done.returncode, done.stderr.decode("utf-8", "replace"))


def in_library(given: Input) -> Outcome:
    """Call the library."""
    assert given.call is not None
    try:
        given.call()
    except (TypeError, ValueError, OSError, eq.training.Diverged) as error:
        last = traceback.extract_tb(error.__traceback__)[-1].filename
        if not Path(last).is_relative_to(ROOT / "eqprop_np") or "\n" in str(error):
            return Outcome("traceback", f"not raised by the package in one line: {traceback.format_exc()}")
        return Outcome("refused", f"{type(error).__name__}: {error}")
    return Outcome("accepted")


# ---- the inputs of the commands

INTEGERS = [
    *("epochs", "batch-size", "seed", "train-size", "validation", "workers", "augment", "free-steps"),
    *("nudged-steps", "points", "hidden", "channels", "kernel", "pool", "stride", "padding"),
]
NUMBERS = [
    *("beta", "epsilon", "tol", "omega", "momentum", "weight-decay", "rate-decay", "angle", "learning-rates"),
    *("distort", "average"),
]
CHOICES = ["preset", "rule", "estimate", "schedule", "activation", "optimizer", "cost", "rate-schedule"]
BAD_INTEGERS = ["", "x", "1.5", "-1", "0", "1e3", "nan", "9" * 30, "1000000000", "0x10"]
BAD_NUMBERS = ["", "x", "nan", "inf", "-inf", "-1", "0", "1e400", "1e300", "1e-320", "1,5"]
BAD_NAMES = ["", "x", "EP", "é", "\udcff", "ep ep"]
ODD_PATHS = [
    "",
    "missing",
    "a" * 300,
    "file",
    "pipe",
    "empty",
    "$^$",
    "\udcff",
    "line\nbreak",
    "/dev/null",
    "/proc/self",
]


PRESET_WORDS = [
    *("--kernel 9", "--channels 1 1 1", "--learning-rates 1", "--rule cep --workers 2", "--rule holomorphic"),
    *("--cost cross-entropy --hidden", "--angle 7"),
]
WORDS = [
    *("--bogus", "stray", "--epochs", "--data", "--hidden -- 4", "--list-presets --seed 1", "-1", "--"),
    *("--resume a --evaluate b", "--evaluate x --seed 1", "--augment x", "--rate-decay 1e200 --epochs 5"),
    "--averaged",
    *(
        "--rate-decay 0.9 --rate-schedule cosine",
        "--hidden 100000 100000",
        "--channels 10000000000 --kernel 1",
    ),
    *("--train-size 1 --validation 59", "--train-size 60 --validation 1", "--points 3", "--beta 1"),
    *("--rule bptt --beta 0.1", "--preset eb-1h --beta 40", "--preset eb-1h --epsilon 3"),
]


RATE_SCHEDULES = [
    *("exponential", "exponential:", "exponential:nan", "exponential:-1", "exponential:1:1", "steps:0:0.5"),
    *("steps:1", "steps:1.5:0.5", "steps:1:x", "cosine:3", "warmup:3", "warmup:0:cosine", "warmup:x:cosine"),
    *("warmup:2:warmup:2:cosine", "warmup:2:x", "warmup:99999999999:cosine", ":", "::", "cosine:"),
]


def of_mnist(place: Path) -> Iterator[list[str]]:
    """Yield malformed arguments of the main command."""
    data = ["--data", str(place / "bands"), "--quiet"]
    small = [*data, "--hidden", "4", "--epochs", "1"]
    for name in INTEGERS:
        yield from ([*small, f"--{name}", value] for value in BAD_INTEGERS)
    for name in NUMBERS:
        yield from ([*small, f"--{name}", value] for value in BAD_NUMBERS)
    for name in CHOICES:
        yield from ([*small, f"--{name}", value] for value in BAD_NAMES)
    for name in ("data", "out", "resume", "evaluate"):
        others = [] if name in ("resume", "evaluate") else small
        yield from ([*others, f"--{name}", odd_path(place, path)] for path in ODD_PATHS)
    for preset in EXPERIMENTS:
        yield from ([*small, "--preset", preset, *words.split()] for words in PRESET_WORDS)
    for words in WORDS:
        yield [*small, *words.split()]
    yield from ([*small, "--rate-schedule", value] for value in RATE_SCHEDULES)
    yield from (["--quiet", "--data", str(path)] for path in malformed_data(place))
    for path in malformed_checkpoints(place):
        yield ["--evaluate", str(path)]
        yield ["--resume", str(path.parent)]


LISTS = [
    *("", "\n\n", "p-9h", "p-1h --epochs x", "p-1h 'open", "--seeds 1", "p-1h --published", "\0", "{}"),
    *(
        "p-1h --epochs 1\np-1h --epochs 1",
        "p-1h --out x",
        "# nothing",
        "cvf-1h --angles nan",
        "p-1h --angles 0",
    ),
]


def of_sweep(place: Path) -> Iterator[list[str]]:
    """Yield malformed arguments of the sweep, and malformed lists."""
    small = ["p-1h", "--data", str(place / "bands"), "--epochs", "1", "--train-size", "5"]
    for name, values in (("angles", BAD_NUMBERS), ("seeds", BAD_INTEGERS[:7]), ("epochs", BAD_INTEGERS[:8]),
                         ("workers", BAD_INTEGERS[:7]), ("train-size", BAD_INTEGERS[:8])):  # fmt: skip
        presets = ["cvf-1h"] if name == "angles" else []  # tied weights have no angles
        yield from (
            [*presets, *small, f"--{name}", value] for value in values if (name, value) != ("seeds", "0")
        )
    for path in ("", "file", "pipe", "a" * 300, "file/below", "/dev/null"):
        yield [*small, "--out", odd_path(place, path)]
        if path == "pipe":  # a shell's <(…) is a pipe, too
            continue
        yield ["--list", odd_path(place, path), "--data", str(place / "bands")]
        yield ["--table", odd_path(place, path)]
    yield from ([], ["p-9h"], ["p-1h", "--bogus"], ["--data", "x"], [*small, "--data", "missing"])
    for n, text in enumerate(LISTS):
        path = place / f"list{n}"
        path.write_text(text, "utf-8")
        yield [
            "--list",
            str(path),
            "--data",
            str(place / "bands"),
            "--epochs",
            "1",
            "--out",
            str(place / f"sweep{n}"),
        ]
        yield ["--table", str(path), "--out", str(place / f"sweep{n}")]


SUMMARIES = [
    *("", "{", "[]", "3", "null", '"x"', '{"points": []}', '{"points": 3}', '{"points": [3]}', "NaN"),
    *('{"points": {}}', "\udcff", '{"points": null}', "[" * 5000),
]


def of_figures(place: Path) -> Iterator[list[str]]:
    """Yield malformed arguments of the figures, and malformed summaries of a sweep."""
    yield from (
        [],
        ["fig2"],
        ["fig1a", "stray"],
        ["fig1b", "--system", "x"],
        ["fig1b", "--system", "chain-untied"],
    )
    for name in ("fig1b", "estimators"):
        yield from ([name, "--seed", value] for value in ("", "x", "-1", "1.5", "nan"))
    for out in ("x", "x.bmp", "x.", ".png", "", "a" * 300 + ".png", "\udcff", "missing/../x.xyz"):
        yield ["fig1a", "--out", out]
        yield ["settle", "--out", out]
    yield ["fig1a", "--out", str(place / "file/x.png")]
    for path in (*ODD_PATHS, str(place / "bands"), str(place / "run/config.json")):
        yield from (
            ["filters", "--weights", odd_path(place, path)],
            ["errors", "--weights", odd_path(place, path)],
        )
        yield ["fig1c", "--runs", odd_path(place, path)]
    yield ["filters", "--weights", str(place / "run"), "--data", str(place / "bands")]  # not a CNN
    yield ["errors", "--data", str(place / "bands")]  # of other images
    yield ["filters", "--data", str(place / "bands")]
    point = {"preset": "p-1h", "psi": 0.0, "seed": 0, "epochs": 1, "update_angle": 3.0, "test_error": 2.0}
    summaries = list(SUMMARIES)
    for name in point:
        for value in (None, "x", [], {}, float("nan"), float("inf"), -1, 10**400, True):
            summaries.append(json.dumps({"points": [point | {name: value}]}))
    for n, text in enumerate(summaries):
        directory = place / f"summary{n}"
        directory.mkdir()
        (directory / "summary.json").write_text(text, "utf-8", errors="surrogateescape")
        yield ["fig1c", "--runs", str(directory)]


def of_theorem(place: Path) -> Iterator[list[str]]:
    """Yield malformed arguments of the theorem."""
    yield from (["--seed", value] for value in ("", "x", "-1", "1.5", "nan", "9" * 30))
    yield from (["--system", value] for value in ("", "x", "TOY", "chain-untied", "chain-real-untied"))
    yield from (["stray"], ["--bogus"], ["--system"], ["--estimators", "3"], ["--seed"])


def of_benchmark(place: Path) -> Iterator[list[str]]:
    """Yield malformed arguments of the benchmark."""
    for name in ("batches", "warm-up"):
        yield from ([f"--{name}", value] for value in ("", "x", "-1", "1.5", "nan"))
    yield from (["--batches", "0"], ["p-9h"], [""], ["--bogus"], ["--data"], ["--out"], ["--json"])
    yield from (["p-2h", "--scaling"], ["--scaling", "--out", "x.txt"], ["--scaling", "--out", "x"])
    yield from (["--json", str(place / path)] for path in ("file/x.json", "file/below/x.json"))
    yield from (["p-1h", "--data", odd_path(place, path)] for path in ODD_PATHS)


def odd_path(place: Path, path: str) -> str:
    """Return an odd path: one that exists in the place by that name."""
    return str(place / path) if path in ("file", "pipe", "empty", "file/below") else path


def malformed_data(place: Path) -> Iterator[Path]:
    """Write directories of four IDX files with one fault each."""
    good = {path.name: path.read_bytes() for path in (place / "bands").iterdir()}
    images, labels, test_images, test_labels = datasets.SHA256
    faults: dict[str, bytes] = {
        "empty": b"",
        "one byte": b"\0",
        "magic": b"\0\0\x0d\3" + good[images][4:],
        "header": good[images][:9],
        "short": good[images][:-1],
        "long": good[images] + b"x",
        "huge": b"\0\0\x08\3" + b"\xff" * 12,
        "no image": idx(np.zeros((0, 8, 8), np.uint8)),
        "no pixel": idx(np.zeros((60, 0, 8), np.uint8)),
        "one dimension": idx(np.zeros(60, np.uint8)),
        "gzip": b"\x1f\x8b" + b"\0" * 30,
        "gzip of nothing": b"\x1f\x8b",
        "text": b"hello" * 50,
        "other size": idx(np.zeros((60, 7, 7), np.uint8)),
        "fewer": idx(np.zeros((59, 8, 8), np.uint8)),
    }
    contents = [{images: content} for content in faults.values()]
    contents += [{labels: content} for content in faults.values()]
    contents += [
        {test_images: idx(np.zeros((25, 9, 9), np.uint8))},
        {test_labels: idx(np.full(25, 9, np.uint8))},
    ]
    contents += [{labels: idx(np.full(60, value, np.uint8))} for value in (0, 1, 255)]
    for n, changed in enumerate(contents):
        directory = place / f"data{n}"
        directory.mkdir()
        for name, content in {**good, **changed}.items():
            (directory / name).write_bytes(content)
        yield directory
    for name in good:
        directory = place / f"without {name}"
        shutil.copytree(place / "bands", directory)
        (directory / name).unlink()
        yield directory
        (directory / name).mkdir()
        yield directory
        (directory / name).rmdir()
        os.mkfifo(directory / name)
        yield directory


def malformed_checkpoints(place: Path) -> Iterator[Path]:
    """Write checkpoints with one fault each, in directories of their own."""
    source = place / "run/checkpoint.npz"
    content = source.read_bytes()
    rng = np.random.default_rng(0)
    raw = [b"", b"PK\3\4", content[:100], content[:-100], content + b"x", b"\0" * len(content)]
    for _ in range(10):
        damaged = bytearray(content)
        damaged[rng.integers(len(content))] ^= 255
        raw.append(bytes(damaged))
    with np.load(source) as file:
        arrays = dict(file)
    meta = json.loads(str(arrays.pop("meta")))
    raw += [pack(arrays, changed) for changed in mutations(meta)]
    raw += [pack({**arrays, name: value}, meta) for name in ("w0-1", "b1") for value in (
        np.zeros(3, np.float32), np.full(arrays[name].shape, np.nan, np.float32), arrays[name].astype(int),
        arrays[name].astype(complex), arrays[name].astype("U5"))]  # fmt: skip
    raw += [pack({k: v for k, v in arrays.items() if k != name}, meta) for name in arrays]
    for n, damaged in enumerate(raw):
        directory = place / f"checkpoint{n}"
        directory.mkdir()
        (directory / "checkpoint.npz").write_bytes(damaged)
        yield directory / "checkpoint.npz"


def mutations(meta: Any) -> Iterator[Any]:
    """Yield copies of the nested meta data in which one value is another, in turn for all values."""
    others = [None, "x", -1, 10**30, [], {}, float("nan"), True]
    places = list(paths(meta))
    for n, path in enumerate(places):
        copy = json.loads(json.dumps(meta))
        inner = copy
        for key in path[:-1]:
            inner = inner[key]
        inner[path[-1]] = others[n % len(others)]
        yield copy


def paths(value: Any) -> Iterator[tuple[Any, ...]]:
    """Yield the path of each value in nested dicts and lists."""
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in pairs:
        yield (key,)
        yield from ((key, *rest) for rest in paths(inner))


def pack(arrays: dict[str, Any], meta: Any) -> bytes:
    """Return the bytes of a checkpoint."""
    content = io.BytesIO()
    np.savez(content, meta=np.array(json.dumps(meta)), **arrays)
    return content.getvalue()


# ---- the calls of the library

ODD: dict[str, Any] = {
    "None": None,
    "'x'": "x",
    "-1": -1,
    "0": 0,
    "1.5": 1.5,
    "10**30": 10**30,
    "nan": float("nan"),
    "inf": float("inf"),
    "1j": 1j,
    "True": True,
    "[]": [],
    "{}": {},
    "object()": object(),
    "np.zeros(0)": np.zeros(0),
    "np.zeros((2, 3))": np.zeros((2, 3)),
    "np.full(4, nan)": np.full(4, np.nan),
    "np.array(['a'])": np.array(["a"]),
}


SETTINGS = [
    *("hidden", "channels", "kernel", "learning_rates", "epochs", "batch_size", "beta", "free_steps"),
    *("workers", "rate_schedule", "schedule", "rule", "psi", "activation", "bogus"),
]


def of_library(place: Path) -> Iterator[Input]:
    """Yield calls of the public functions with one odd argument each."""
    X, y = np.random.default_rng(0).random((6, 4)), np.arange(6) % 2
    dynamics = eq.DiscreteTime(eq.chain([4, 3, 2]))
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    target, phases = np.eye(2)[y], eq.Phases(5, 3, beta=0.1)
    state = dynamics.network.zeros(6, np.float64)
    calls: dict[str, tuple[Callable[..., object], dict[str, Any]]] = {
        "Phases": (eq.Phases, {"free_steps": 5, "nudged_steps": 3, "beta": 0.1, "estimate": "centered",
                               "schedule": eq.Alternating(), "learning_rates": {}, "points": 4}),
        "Alternating": (eq.Alternating, {"omega": 1.0, "tol": 0.0, "nudged_tol": 0.0, "per_sample": False}),
        "SGD": (eq.SGD, {"learning_rates": 0.1, "momentum": 0.0, "weight_decay": 0.0}),
        "Exponential": (eq.Exponential, {"decay": 0.5}),
        "Warmup": (eq.Warmup, {"epochs": 3, "then": eq.Cosine(5)}),
        "random_shift": (eq.random_shift, {"pixels": 1}),
        "random_distortion": (eq.random_distortion, {"strength": 1.0}),
        "chain": (eq.chain, {"sizes": [4, 3, 2]}),
        "RealTime": (eq.RealTime, {"network": dynamics.network, "sigma": eq.sigmoid, "epsilon": 0.2,
                                   "clamp": True, "cost": eq.squared_error}),
        "relax": (eq.relax, {"dynamics": dynamics, "theta": theta, "x": X, "s": state, "steps": 5,
                             "nudge": eq.Nudge(0.1, target), "schedule": eq.Synchronous()}),
        "ep": (eq.ep, {"dynamics": dynamics, "theta": theta, "x": X, "y": target, "phases": phases}),
        "bptt": (eq.bptt, {"dynamics": dynamics, "theta": theta, "x": X, "y": target, "phases": phases}),
        "fit": (eq.fit, {"dynamics": dynamics, "X": X, "y": y, "phases": phases, "rule": eq.ep,
                         "optimizer": eq.SGD(0.1), "rate_schedule": eq.Exponential(0.9), "epochs": 1,
                         "batch_size": 2, "validation": (X, y), "seed": 0, "progress": None}),
        "predict": (eq.predict, {"dynamics": dynamics, "theta": theta, "X": X, "phases": phases}),
        "error_rate": (eq.error_rate, {"dynamics": dynamics, "theta": theta, "X": X, "y": y,
                                       "phases": phases}),
        "confusion_matrix": (eq.confusion_matrix, {"labels": y, "predictions": y}),
        "override": (EXPERIMENTS["p-1h"].override, dict.fromkeys(SETTINGS)),
        "load": (datasets.load, {"source": "x"}),
        "read_idx": (datasets.read_idx, {"path": "x"}),
    }  # fmt: skip
    for name, (function, arguments) in calls.items():
        for argument in arguments:
            kept = {} if name == "override" else arguments
            for text, value in ODD.items():
                if (name, argument, text) in (("fit", "epochs", "10**30"), ("relax", "steps", "10**30"),
                                              ("fit", "batch_size", "10**30")):  # fmt: skip
                    continue  # a request that is well formed
                given = {**kept, argument: value}
                yield Input("library", [f"{name}({argument}={text})"], lambda f=function, g=given: f(**g))


# ---- the command


def prepare(place: Path) -> None:
    """Write the files that the inputs use: data, a run, an empty directory, a file and a pipe."""
    write_bands(place / "bands")
    small = [
        "--data",
        str(place / "bands"),
        "--hidden",
        "4",
        "--epochs",
        "1",
        "--out",
        str(place / "run"),
        "--quiet",
    ]
    assert mnist.main(small) == 0
    (place / "empty").mkdir()
    (place / "file").write_text("a file", "utf-8")
    os.mkfifo(place / "pipe")


def inputs(place: Path, groups: list[str]) -> list[Input]:
    """Return the inputs of these groups."""
    sources = {"mnist": of_mnist, "sweep": of_sweep, "figures": of_figures, "theorem": of_theorem,
               "benchmark": of_benchmark}  # fmt: skip
    found = [Input(group, words) for group in groups if group in sources for words in sources[group](place)]
    return found + (list(of_library(place)) if "library" in groups else [])


def attempt(given: Input, own_process: bool, place: Path) -> Outcome:
    """Run an input in a directory of its own."""
    with tempfile.TemporaryDirectory(dir=place) as directory:

        def body() -> Outcome:
            os.chdir(directory)
            if given.call:
                return in_library(given)
            return in_own_process(given) if own_process else in_this_process(given)

        return run(body)


def main() -> int:
    """Try the inputs and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("groups", nargs="*", choices=[*MAINS, "library", []], metavar="GROUP")
    parser.add_argument("--list", action="store_true")
    options = parser.parse_args()
    groups = options.groups or [*MAINS, "library"]
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        os.environ |= {"XDG_CACHE_HOME": str(place / "cache"), "EQPROP_NP_DATA": str(place / "bands"),
                       "PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"}  # fmt: skip
        prepare(place)
        counts: Counter[str] = Counter()
        for n, given in enumerate(inputs(place, groups)):
            if options.list:
                print(ascii(str(given)))
                continue
            both = given.call is None and n % OWN_PROCESS == 0
            for own_process in (False, True) if both else (False,):
                outcome = attempt(given, own_process, place)
                counts[outcome.verdict] += 1
                if outcome.verdict not in ("refused", "accepted"):
                    print(f"{outcome.verdict}: {str(given)!a}\n    {outcome.details[-1500:]!a}", flush=True)
    print(", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items())))
    return int(counts.keys() - {"refused", "accepted"} != set())


if __name__ == "__main__":
    sys.exit(main())
