"""Many runs at once: ``python -m eqprop_np.sweep p-1h cep-1h cvf-1h`` makes what Fig. 1(c) shows.

Each point, a preset with an angle and a seed, is a run in its own process with one BLAS thread. What it
found is a JSON file of its own in the directory of the sweep, beside ``summary.json``, which has a line
for each. Started again, a sweep does what is missing; a point that fails leaves the others alone.

`sweep` takes any `concurrent.futures.Executor`, and so runs on a cluster unchanged. With Dask, on workers
with one thread each:

    with Client("scheduler:8786") as client:  # from distributed
        sweep(points, Path("fig1c"), client.get_executor())

With MPI, under ``mpiexec -n 9 python -m mpi4py.futures script.py``:

    with MPIPoolExecutor() as executor:  # from mpi4py.futures
        sweep(points, Path("fig1c"), executor)

Both times, ``points = grid(["p-1h", "cvf-1h"], ANGLES, range(3), "mnist")``, for instance.
"""

import argparse
import json
import os
import signal
import sys
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from eqprop_np.checkpoint import Configuration
from eqprop_np.datasets import DataError, load
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments import EXPERIMENTS, Experiment
from eqprop_np.network import Theta, angle_between
from eqprop_np.report import summarize, write_json
from eqprop_np.rules import RULES, UNTIED, bptt
from eqprop_np.training import Progress, Samples, begin_worker, train

ANGLES = (0.0, 22.5, 45.0, 67.5, 90.0, 112.5, 135.0, 157.5, 180.0)
LAST = 5  # epochs over which a point's test error is the mean
BATCHES = 20  # over which the angle before training is the mean

Record = dict[str, Any]


# ---- the points


def grid(
    presets: Iterable[str],
    angles: Iterable[float],
    seeds: Iterable[int],
    source: str = "auto",
    train_size: int | None = None,
    **settings: Any,
) -> list[Configuration]:
    """A point for each preset, angle and seed; where weights are tied there is no angle.

    Parameters
    ----------
    source : of the data (`eqprop_np.datasets.load`).
    train_size : the first so many training images; None for all.
    settings : fields of `Experiment` that override the presets'.
    """
    dataset = load(source)
    points = []
    for preset in presets:
        experiment = replace(EXPERIMENTS[preset], workers=1, **settings)
        for angle in angles if experiment.rule in UNTIED else (0.0,):
            turned = replace(experiment, angle=angle)
            points += [Configuration.resolve(turned, dataset, source, seed, train_size) for seed in seeds]
    return points


def point_name(point: Configuration) -> str:
    """Such as "cep-1h-seed0" or "cvf-1h-22.5deg-seed0"."""
    experiment = point.experiment
    angle = f"-{experiment.angle:g}deg" if experiment.rule in UNTIED else ""
    return f"{experiment.name}{angle}-seed{point.seed}"


def measure(point: Configuration) -> Record:
    """Run a point here, with one BLAS thread.

    Returns
    -------
    The run's summary (`eqprop_np.report.summarize`), and ``update_angle``: see there.

    Raises
    ------
    DataError
        If the data found here are others.
    Diverged
        If training fails.
    """
    with threadpool_limits(1, "blas"):
        dataset = load(point.source, progress=False)
        if dataset.name != point.dataset:
            raise DataError(f"found {dataset.name}, not {point.dataset}")
        training, test = point.samples(dataset)
        dynamics = point.experiment.build(point.image, point.classes)
        progress = Progress.begin(point.experiment, dynamics, point.seed)
        angle = update_angle(point.experiment, dynamics, progress.theta, training)
        train(point.experiment, dynamics, training, test, progress)
    return summarize(point, progress) | {"update_angle": angle}


def update_angle(experiment: Experiment, dynamics: Dynamics, theta: Theta, samples: Samples) -> float:
    """How far Theorem 1 is from being satisfied: the angle between Σ_t Δ_θ(t) and BPTT's −Σ_t ∇_θ(t).

    All parameters are one flat vector, and the angle, in degrees, is the mean over the first batches. The
    first phase takes all its steps, in float64.
    """
    rng = np.random.default_rng(0)
    theta = {name: value.astype(np.float64) for name, value in theta.items()}
    phases = replace(experiment.phases, tol=0.0, rates=experiment.rates(dynamics.network, 0))
    angles = []
    for first in range(0, min(len(samples), BATCHES * experiment.batch_size), experiment.batch_size):
        batch = samples[first : first + experiment.batch_size]
        x, y = (a.astype(np.float64) for a in (batch.inputs(dynamics), batch.targets(dynamics)))
        drawn = phases.draw(rng)
        gradients = (rule(dynamics, theta, x, y, drawn).gradient for rule in (RULES[experiment.rule], bptt))
        angles.append(
            angle_between(*(np.concatenate([g[name].ravel() for name in theta]) for g in gradients))
        )
    return fmean(angles)


# ---- the sweep


def sweep(points: Sequence[Configuration], directory: Path, executor: Executor) -> dict[str, str]:
    """Measure the points that have no file in the directory yet, and write theirs.

    Parameters
    ----------
    points : with different presets, angles or seeds.
    executor : where to run them; they are all submitted at once.

    Returns
    -------
    The name of each point that failed, with the reason; both are on standard error too.

    Raises
    ------
    ValueError
        If a file holds the point with other settings.
    """
    directory.mkdir(parents=True, exist_ok=True)
    todo = {point_name(point): point for point in points if not _finished(directory, point)}
    failed: dict[str, str] = {}
    futures: dict[Future[Record], str] = {}
    with tqdm(
        total=len(points), initial=len(points) - len(todo), unit="point", disable=not sys.stderr.isatty()
    ) as bar:
        try:
            futures |= {executor.submit(measure, point): name for name, point in todo.items()}
            for future in as_completed(futures):
                name = futures[future]
                try:
                    record = future.result()
                except Exception as error:  # whatever it is, it is that point's alone
                    failed[name] = f"{type(error).__name__}: {error}"
                    tqdm.write(f"{name} failed: {failed[name]}", file=sys.stderr)
                else:
                    write_json(directory / f"{name}.json", record)
                    tqdm.write(_line(name, record))
                bar.update()
        finally:
            for future in futures:
                future.cancel()
            _summarize(directory)
    return failed


def _finished(directory: Path, point: Configuration) -> bool:
    path = directory / f"{point_name(point)}.json"
    if not path.exists():
        return False
    if Configuration.from_json(json.loads(path.read_text())["configuration"]) != point:
        raise ValueError(f"{path} holds a run with other settings: choose another --out, or remove it")
    return True


def _line(name: str, record: Record) -> str:
    return (
        f"{name}: test error {_error(record):.2f} %, {record['update_angle']:.1f}° from BPTT before "
        f"training, {record['seconds']:.0f} s"
    )


def _error(record: Record) -> float:
    return fmean(epoch["test_error"] for epoch in record["history"][-LAST:])


def _summarize(directory: Path) -> None:
    """Write ``summary.json``, with a line for each point in the directory."""
    records = [json.loads(path.read_text()) for path in sorted(directory.glob("*-seed*.json"))]
    lines = [
        {
            "preset": record["preset"],
            "psi": record["configuration"]["experiment"]["angle"],
            "seed": record["seed"],
            "epochs": record["epochs"],
            "update_angle": record["update_angle"],
            "test_error": _error(record),
        }
        for record in records
    ]
    write_json(directory / "summary.json", {"test_error": f"mean of the last {LAST} epochs", "points": lines})


# ---- the command


class OwnProcesses(ThreadPoolExecutor):
    """Runs each call in a new process, so that one that dies takes no other with it."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_in_own_process, function, *args, **kwargs)


def _in_own_process(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn"), begin_worker) as pool:
        return pool.submit(function, *args, **kwargs).result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 (a point failed), 2 (bad input) or 130 (interrupted)."""
    options = _parser().parse_args(arguments)
    settings = {} if options.epochs is None else {"epochs": options.epochs}
    previous = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        points = grid(
            options.presets, options.angles, options.seeds, options.data, options.train_size, **settings
        )
        failed = sweep(points, options.out, OwnProcesses(options.workers))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command goes on with what is missing", file=sys.stderr, flush=True)
        os._exit(130)  # without waiting for the runs under way, which end with this process
    finally:
        signal.signal(signal.SIGTERM, previous)
    print(options.out / "summary.json")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m eqprop_np.sweep",
        description="Train every preset at every angle with every seed, each run in its own process.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("presets", nargs="+", choices=EXPERIMENTS, metavar="PRESET", help=", ".join(EXPERIMENTS))
    add("--angles", type=float, nargs="+", default=ANGLES, metavar="DEGREES", help="ψ of untied weights")
    add("--seeds", type=int, nargs="+", default=[0], metavar="S")
    add("--epochs", type=int, metavar="N", help="of each run (default: the preset's)")
    add("--data", default="auto", help="as in eqprop_np.mnist")
    add("--train-size", type=int, metavar="N", help="use the first N training images")
    add("--out", type=Path, default=Path("runs/sweep"), metavar="DIR", help="where the points are kept")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="runs at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
