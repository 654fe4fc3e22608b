"""Plant faults in the package, one at a time, and report which of them the tests notice.

    python tests/faults.py                    every fault of faults.txt: some twenty minutes
    python tests/faults.py figures rules/ep   those of these modules
    python tests/faults.py --check            find the stale ones, and run nothing

A fault is a small change of a module. `faults.txt` lists them. After a line "== module" each has a line with
its kind, lines "- " with the old text, which must occur once in the module, lines "+ " with the new text and,
if no result depends on the change, a line "= " with the reason. Such a fault is *equivalent* and may survive.

For each fault the script plants it in a copy of the repository and runs the tests that belong to the module
(`TESTS`) until one fails, without the notebooks. The fault is *caught* if a test fails or does not end.
Otherwise it *survives*. It is *stale* if the old text does not occur once: then change the entry. All these
tests run once without a fault before, because a test that fails anyway catches nothing.

The exit code is 0 if every fault was caught that is not equivalent.
"""

import argparse
import importlib
import os
import re
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from textwrap import indent
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
TIMEOUT = 900.0  # seconds for the tests of a module

TESTS = {  # the test files of each module; the first ones find most
    "activations": "activations",
    "convolution": "convolution",
    "connections": "connections network",
    "costs": "costs readout",
    "network": "network plots vector_field checks",
    "dynamics": "dynamics bptt",
    "relaxation": "relaxation ep",
    "checks": "checks",
    "files": "files console checkpoint",
    "testing": "testing",
    "rules/__init__": "rules telescoped experiments",
    "rules/phases": "ep rules readout bptt",
    "rules/ep": "ep readout",
    "rules/continual": "continual telescoped",
    "rules/telescoped": "telescoped",
    "rules/vector_field": "vector_field",
    "rules/bptt": "bptt",
    "rules/asymmetric": "asymmetric",
    "rules/holomorphic": "holomorphic",
    "rules/implicit": "implicit",
    "theorem/__init__": "theorem",
    "optimizers": "optimizers",
    "training": "training plots own_parts",
    "samples": "training",
    "augmentation": "augmentation datasets",
    "processes": "processes",
    "classifier": "classifier",
    "plots": "plots",
    "animation": "animation",
    "figures": "figures figures_estimators plots",
    "benchmark": "benchmark",
    "sweep": "sweep",
    "mnist": "mnist console",
    "experiments/angles": "angles",
    "experiments/checkpoint": "checkpoint",
    "experiments/configuration": "configuration checkpoint",
    "experiments/console": "console",
    "experiments/datasets": "datasets",
    "experiments/estimators": "estimators",
    "experiments/feedforward": "feedforward",
    "experiments/presets": "experiments",
    "experiments/report": "report",
    "experiments/scaling": "scaling",
    "experiments/systems": "systems",
    "experiments/timing": "benchmark",
}


class Fault(NamedTuple):
    """A change of a module."""

    module: str
    kind: str
    old: str
    new: str
    reason: str = ""

    @property
    def path(self) -> str:
        return f"eqprop_np/{self.module}.py"

    def __str__(self) -> str:
        old, new = (
            indent(text, f"{mark} ", lambda line: True) for mark, text in zip("-+", self[2:4], strict=True)
        )
        return f"{self.module}, {self.kind}\n{old}\n{new}"


def read(path: Path) -> list[Fault]:
    """Return the faults of a file in the format of the module's docstring."""
    faults: list[Fault] = []
    for section in re.split("^== ", path.read_text("utf-8"), flags=re.MULTILINE)[1:]:
        module, *entries = section.strip().split("\n\n")
        for entry in entries:
            kind, *lines = entry.splitlines()
            parts = {mark: "\n".join(line[2:] for line in lines if line[0] == mark) for mark in "-+="}
            faults.append(Fault(module, kind, parts["-"], parts["+"], parts["="]))
    return faults


def is_stale(fault: Fault) -> bool:
    """Return whether the old text does not occur exactly once."""
    return (ROOT / fault.path).read_text("utf-8").count(fault.old) != 1


def copy_repository(directory: Path) -> Path:
    """Copy the files of the repository, without what git and the tools keep there."""
    ignored = shutil.ignore_patterns(".git", "runs", "__pycache__", ".*_cache", "*.egg-info")
    return Path(shutil.copytree(ROOT, directory, symlinks=True, ignore=ignored, dirs_exist_ok=True))


def passes(tests: Sequence[str], repository: Path, quiet: bool = True) -> bool:
    """Return whether these test files pass in time in a copy of the repository.

    They run in a fork of this process, which has imported what takes most of the time to import.
    """
    child = os.fork()
    if child == 0:
        try:
            code = run_tests([f"tests/test_{name}.py" for name in tests], repository, quiet)
        finally:
            os._exit(code)
    end = time.monotonic() + TIMEOUT
    try:
        while time.monotonic() < end:
            found, status = os.waitpid(child, os.WNOHANG)
            if found:
                return os.waitstatus_to_exitcode(status) == 0
            time.sleep(0.05)
        return False
    finally:
        with suppress(
            ProcessLookupError, ChildProcessError
        ):  # it and the processes that the tests have started
            os.killpg(child, signal.SIGKILL)
            os.waitpid(child, 0)


def run_tests(files: Sequence[str], repository: Path, quiet: bool) -> int:
    """Run test files in this process and return the exit code of pytest."""
    os.setpgid(0, 0)
    os.chdir(repository)
    sys.path[0] = os.environ["PYTHONPATH"] = str(repository)
    if quiet:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (1, 2):
            os.dup2(nowhere, stream)
    return int(pytest.main(["-x", "-q", "-n", "0", "-p", "no:cacheprovider", *files]))


def outcome(fault: Fault, repository: Path) -> str:
    """Plant a fault in a copy of the repository, run the tests of its module, and remove it again."""
    if is_stale(fault):
        return "stale"
    path = repository / fault.path
    right = path.read_text("utf-8")
    path.write_text(right.replace(fault.old, fault.new), "utf-8")
    try:
        caught = not passes(TESTS[fault.module].split(), repository)
    finally:
        path.write_text(right, "utf-8")
    return "caught" if caught else "equivalent" if fault.reason else "survived"


def main() -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("modules", nargs="*", metavar="MODULE", help="modules; all by default")
    parser.add_argument("--check", action="store_true", help="find the stale faults, and run nothing")
    options = parser.parse_args()
    if unknown := sorted(set(options.modules) - TESTS.keys()):
        parser.error(f"no module {unknown[0]}: choose from {', '.join(TESTS)}")
    modules = options.modules or list(TESTS)
    faults = [fault for fault in read(Path(__file__).with_suffix(".txt")) if fault.module in modules]
    if options.check:
        stale = [fault for fault in faults if is_stale(fault)]
        print(*stale, f"{len(faults)} faults, {len(stale)} stale", sep="\n")
        return 1 if stale else 0
    for name in ("hypothesis", "matplotlib.figure", "numpy", "scipy.ndimage", "sklearn.utils", "tqdm.auto"):
        importlib.import_module(name)
    with tempfile.TemporaryDirectory() as scratch:
        repository = copy_repository(Path(scratch))
        names = dict.fromkeys(name for module in modules for name in TESTS[module].split())
        if not passes(list(names), repository, quiet=False):
            print("error: some of the tests fail without a fault: run them first", file=sys.stderr)
            return 2
        results = []
        for fault in faults:
            results.append(outcome(fault, repository))
            if results[-1] != "caught":
                print(f"{results[-1]}: {fault}\n", flush=True)
    print_table(faults, results)
    return 1 if {"survived", "stale"} & set(results) else 0


def print_table(faults: Sequence[Fault], results: Sequence[str]) -> None:
    """Print how many faults of each module and of each kind had each outcome."""
    outcomes = ("caught", "survived", "equivalent", "stale")
    print(f"{'':28}{'faults':>8}" + "".join(f"{name:>12}" for name in outcomes))
    for what in ("module", "kind"):
        groups = [getattr(fault, what) for fault in faults]
        counts = Counter(zip(groups, results, strict=True))
        for group in dict.fromkeys(groups):
            numbers = [counts[group, name] for name in outcomes]
            print(f"{group:28}{sum(numbers):8}" + "".join(f"{number:12}" for number in numbers))
        print()
    total = Counter(results)
    print(f"{'all':28}{len(results):8}" + "".join(f"{total[name]:12}" for name in outcomes))


if __name__ == "__main__":
    sys.exit(main())
