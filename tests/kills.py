"""Kill runs and sweeps at random moments, resume them, and compare their ends with uninterrupted ones.

    python tests/kills.py                     50 kills of each kind of run: some ten minutes
    python tests/kills.py --kills 5 --seed 1  fewer, at other moments

The kinds are a run in one process, a run in two processes and a sweep in two processes. A run is killed,
with KILL, TERM, HUP or INT, and resumed until it ends. The signal goes to the process, or to its process
group, as a terminal and a batch system send it. Then the parameters and their average, the state of the
optimizer and of the random generator, and the history without its seconds must have the bytes of the
uninterrupted run. After a kill no process may be left, and at the end no temporary file. The exit code is 0
if all this holds.

The script needs Linux, because it finds the processes of a session in /proc.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from examples import write_bands

from eqprop_np.experiments import checkpoint

ROOT = Path(__file__).resolve().parents[1]
SIGNALS = (signal.SIGKILL, signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
ENDED = {0, 130, *(-number for number in SIGNALS)}  # exit codes of a run that ended or was killed
SETTLED = 20.0  # seconds after which a process counts as left behind
RUN = ["--hidden", "8", "--epochs", "60", "--estimate", "random-sign", "--augment", "--quiet"]
RUN += ["--distort", "1", "--average", "0.99", "--rate-schedule", "warmup:5:cosine"]
KINDS = {
    "one process": ["mnist", *RUN],
    "two processes": ["mnist", *RUN, "--workers", "2"],
    "sweep": ["sweep", "p-1h", "cvf-1h", "--angles", "0", "90", "--epochs", "12", "--workers", "2"],
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50, metavar="N", help="kills of each kind (default: 50)")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of the moments (default: 0)")
    options = parser.parse_args()
    columns = [
        *(number.name for number in SIGNALS),
        "ends",
        "differ",
        "processes",
        "files",
        "codes",
        "traces",
    ]
    print(f"{'kind':15}", *(f"{name:>9}" for name in columns))
    faults = 0
    with tempfile.TemporaryDirectory() as scratch:
        write_bands(Path(scratch, "bands"))
        for kind, command in KINDS.items():
            found = kill(command, Path(scratch), options.kills, random.Random(options.seed))
            print(f"{kind:15}", *(f"{found[name]:9}" for name in columns), flush=True)
            faults += sum(found[name] for name in ("differ", "processes", "files", "codes"))
    print(
        "ends: runs that came to their end after kills; differ: those that are not the uninterrupted run;\n"
        "processes, files: kills that left a process, ends with a temporary file; codes: other exit codes\n"
        "than those of an end or of a signal; traces: signals that Python answered by a traceback, because\n"
        "they arrived before the command handled them"
    )
    return 1 if faults else 0


def kill(command: list[str], scratch: Path, kills: int, moments: random.Random) -> Counter[str]:
    """Kill a command so many times and resume it after each; return what was found, by column."""
    through = scratch / f"{command[0]}-{len(command)}"
    begin = time.monotonic()
    start(command, through).wait()
    duration = time.monotonic() - begin
    found: Counter[str] = Counter()
    out = through.with_name(f"{through.name}-0")
    while sum(found[number.name] for number in SIGNALS) < kills or out.exists():
        number, group = moments.choice(SIGNALS), moments.random() < 0.5
        process = start(command, out)
        try:
            killed = sum(found[number.name] for number in SIGNALS) < kills
            process.wait(moments.uniform(0, duration) if killed else None)
        except subprocess.TimeoutExpired:
            (os.killpg if group else os.kill)(process.pid, number)
            found[number.name] += 1
        _, err = process.communicate(timeout=60)
        found["traces"] += "Traceback" in err
        found["processes"] += left_behind(process.pid)
        if process.returncode not in ENDED and not err.rstrip().endswith("KeyboardInterrupt"):
            found["codes"] += 1
            print(f"{command[0]} ended with exit code {process.returncode}:\n{err}", file=sys.stderr)
            return found
        if process.returncode == 0:
            found["ends"] += 1
            found["differ"] += dict(results(out)) != dict(results(through))
            found["files"] += any(path.name.startswith(".") for path in out.rglob("*"))
            out = through.with_name(f"{through.name}-{found['ends']}")
    return found


def start(command: list[str], out: Path) -> subprocess.Popen[str]:
    """Start a command in a session of its own, or resume its run."""
    module, *options = command
    if module == "mnist" and (out / "checkpoint.npz").exists():
        arguments = ["--resume", str(out), "--quiet"]
    else:
        arguments = [*options, "--data", str(out.parent / "bands"), "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", f"eqprop_np.{module}", *arguments],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OPENBLAS_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
        preexec_fn=default_signals,
    )


def default_signals() -> None:
    """Restore the signals that nohup or a background job of a script ignores."""
    for number in set(SIGNALS) - {signal.SIGKILL}:
        signal.signal(number, signal.SIG_DFL)


def left_behind(session: int) -> bool:
    """Return whether a process of the session still runs after some seconds, and end it."""
    end = time.monotonic() + SETTLED
    while (left := list(members(session))) and time.monotonic() < end:
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    return bool(left)


def members(session: int) -> Iterator[int]:
    """Yield the running processes of a session. Workers leave the process group of their parent."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, leader = (entry / "stat").read_text("utf-8").rpartition(")")[2].split()[:4]
        except OSError:  # it has just ended
            continue
        if int(leader) == session and state not in "ZX":
            yield int(entry.name)


def results(directory: Path) -> Iterator[tuple[str, Any]]:
    """Yield the name and the content of each file of results, without seconds and without the directory."""
    for path in sorted(directory.rglob("*")):
        name = path.relative_to(directory).as_posix()
        if path.name == "checkpoint.npz":
            arrays, meta = checkpoint.load(path)[1].to_arrays()
            yield name, (without_seconds(meta), {key: value.tobytes() for key, value in arrays.items()})
        elif path.suffix == ".json":
            yield name, without_seconds(json.loads(path.read_text("utf-8")))
        elif path.suffix == ".jsonl":
            yield name, [without_seconds(json.loads(line)) for line in path.read_text("utf-8").splitlines()]
        elif path.is_file():
            yield name, None  # a picture


def without_seconds(content: Any) -> Any:
    """Return values of JSON without the measured seconds of each dict."""
    if isinstance(content, dict):
        return {name: without_seconds(value) for name, value in content.items() if name != "seconds"}
    return [without_seconds(value) for value in content] if isinstance(content, list) else content


if __name__ == "__main__":
    sys.exit(main())
