"""Train many runs in parallel and keep their results, for example the points of Fig. 1(c).

The command is ``python -m eqprop_np.sweep p-1h cep-1h cvf-1h``. A point is a preset with an angle and a
seed. Each point runs in its own process with one BLAS thread. The directory of the sweep holds one JSON
file per point and ``summary.json``, which has one entry per point. A sweep that is started again runs only
the missing points. If a point fails, the other points continue.

`sweep` takes any `concurrent.futures.Executor`, so it also runs on a cluster. The points come from a call
such as ``points = grid(["p-1h", "cvf-1h"], ANGLES, range(3), "mnist")``.

With Dask, on workers with one thread each:

    with Client("scheduler:8786") as client:  # from distributed
        sweep(points, Path("fig1c"), client.get_executor())

With MPI, under ``mpiexec -n 9 python -m mpi4py.futures script.py``:

    with MPIPoolExecutor() as executor:  # from mpi4py.futures
        sweep(points, Path("fig1c"), executor)
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

from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.datasets import DataError, load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.experiments.report import summarize, write_json
from eqprop_np.network import Theta
from eqprop_np.processes import begin_worker
from eqprop_np.rules import RULES
from eqprop_np.rules.vector_field import angle_between
from eqprop_np.training import Progress, Samples, train

ANGLES = (0.0, 22.5, 45.0, 67.5, 90.0, 112.5, 135.0, 157.5, 180.0)
LAST = 5  # number of last epochs over which a point's test error is averaged
BATCHES = 20  # number of batches over which the angle before training is averaged

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
    """Return one point per preset, angle and seed; presets with tied weights get only the angle 0.

    Parameters
    ----------
    presets : iterable of str
        Names in `eqprop_np.experiments.presets.EXPERIMENTS`.
    angles : iterable of float
        Angles ψ in degrees between forward and backward weights at the start. Only rules with untied
        weights use them.
    seeds : iterable of int
        Seeds of the runs.
    source : str, default "auto"
        Source of the data (`eqprop_np.experiments.datasets.load`).
    train_size : int, optional
        Number of training images, taken from the start. None uses all.
    **settings : Any
        Settings that override the presets', as in `Experiment.override`.

    Returns
    -------
    list of Configuration
        The points, each with one worker.

    Raises
    ------
    ValueError
        If a setting is out of its range, or the data cannot be read or have too few images.
    KeyError
        If a name in ``presets`` is not a preset.
    """
    dataset = load(source)
    points = []
    for preset in presets:
        experiment = EXPERIMENTS[preset].override(**{"workers": 1} | settings)
        for angle in angles if experiment.untied else (None,):
            turned = replace(experiment, psi=angle)
            points += [Configuration.resolve(turned, dataset, source, seed, train_size) for seed in seeds]
    return points


def point_name(point: Configuration) -> str:
    """Return a point's name, for example "cep-1h-seed0" or "cvf-1h-22.5deg-seed0".

    Parameters
    ----------
    point : Configuration
        A point of `grid`. The name shows its preset, angle and seed, and none of its other settings.

    Returns
    -------
    str
        The name. It shows an angle only if the rule unties the weights.
    """
    experiment = point.experiment
    angle = f"-{experiment.psi or 0.0:g}deg" if experiment.untied else ""
    return f"{experiment.name}{angle}-seed{point.seed}"


def measure(point: Configuration) -> Record:
    """Train a point in this process with one BLAS thread and return its summary.

    Parameters
    ----------
    point : Configuration
        The run to train.

    Returns
    -------
    Record
        The run's summary (`eqprop_np.experiments.report.summarize`), with the angle of `update_angle`
        before training as ``"update_angle"``.

    Raises
    ------
    DataError
        If the data set found on this machine is not that of the point.
    Diverged
        If a state or a parameter is no longer finite.
    """
    with threadpool_limits(1, "blas"):
        dataset = load(point.source, progress=False)
        if mismatch := point.mismatch(dataset):
            raise DataError(f"{mismatch}: provide the data of the point on this machine")
        training, test = point.samples(dataset)
        experiment = point.experiment
        dynamics = experiment.build(point.image, point.classes)
        run = experiment.run(dynamics)
        progress = Progress.begin(dynamics, run.optimizer, point.seed, psi=experiment.psi or 0.0)
        angle = update_angle(experiment, dynamics, progress.theta, training)
        train(run, training, test, progress)
    return summarize(point, progress) | {"update_angle": angle}


def update_angle(experiment: Experiment, dynamics: Dynamics, theta: Theta, samples: Samples) -> float:
    """Return the angle in degrees between the rule's Σ_t Δ_θ(t) and BPTT's −Σ_t ∇_θ(t).

    The angle is 0 where Theorem 1 holds exactly. All parameters form one flat vector, and the angle is the
    mean over the first ``BATCHES`` batches. The free phase takes all its T steps, and the computation is in
    float64.

    Parameters
    ----------
    experiment : Experiment
        The rule, its phases, the learning rates and the batch size.
    dynamics : Dynamics
        The dynamics of the network.
    theta : Theta
        The parameters. They are copied and not changed.
    samples : Samples
        The training samples. The batches are taken in order from the start.

    Returns
    -------
    float
        The mean angle, from 0 to 180.
    """
    rng = np.random.default_rng(0)
    theta = {name: value.astype(np.float64) for name, value in theta.items()}
    phases = replace(
        experiment.phases,
        schedule=replace(experiment.phases.schedule, tol=0.0),
        learning_rates=experiment.rates(dynamics),
    )
    rules = [RULES[name].fastest(dynamics.network) for name in (experiment.rule, "bptt")]
    angles = []
    network, size = dynamics.network, experiment.training.batch_size
    for first in range(0, min(len(samples), BATCHES * size), size):
        batch = samples[first : first + size]
        x = batch.inputs(network, np.float32).astype(np.float64)
        y = batch.targets(dynamics, np.float64)
        drawn = phases.draw(rng)
        gradients = (rule(dynamics, theta, x, y, drawn).gradient for rule in rules)
        angles.append(
            angle_between(*(np.concatenate([g[name].ravel() for name in theta]) for g in gradients))
        )
    return fmean(angles)


# ---- the sweep


def sweep(points: Sequence[Configuration], directory: Path, executor: Executor) -> dict[str, str]:
    """Measure the points that have no file in the directory yet and write one file for each.

    Parameters
    ----------
    points : sequence of Configuration
        The points. Any two of them must differ in preset, angle or seed, because these form the file name.
    directory : Path
        Directory of the results. It is created if it is missing.
    executor : Executor
        Executor that runs the points. All points are submitted at once.

    Returns
    -------
    dict of str to str
        The name of each failed point and the reason, which are also printed on standard error.

    Raises
    ------
    ValueError
        If a file in the directory holds a point with the same name and other settings.
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
                except Exception as error:  # an error of any kind concerns only this point
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
    if not point.agrees_with(Configuration.from_json(json.loads(path.read_text("utf-8"))["configuration"])):
        raise ValueError(f"{path} holds a run with other settings: choose another --out, or remove the file")
    return True


def _line(name: str, record: Record) -> str:
    return (
        f"{name}: test error {_error(record):.2f} %, angle to BPTT before training "
        f"{record['update_angle']:.1f}°, {record['seconds']:.0f} s"
    )


def _error(record: Record) -> float:
    return fmean(epoch["test_error"] for epoch in record["history"][-LAST:])


def _summarize(directory: Path) -> None:
    """Write ``summary.json`` with one entry for each point in the directory."""
    records = [json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*-seed*.json"))]
    lines = [
        {
            "preset": record["preset"],
            "psi": Configuration.from_json(record["configuration"]).experiment.psi or 0.0,
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
    """An executor that runs each call in a new process, so that a crash ends only one call."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_in_own_process, function, *args, **kwargs)


def _in_own_process(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn"), begin_worker) as pool:
        return pool.submit(function, *args, **kwargs).result()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name. None uses ``sys.argv``.

    Returns
    -------
    int
        0, 1 (a point failed) or 2 (bad input). After an interruption the process ends with exit code 130.
    """
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
        print("interrupted; run the same command again to continue", file=sys.stderr, flush=True)
        os._exit(130)  # do not wait for the current runs: they end with this process
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
    add(
        "--angles",
        type=float,
        nargs="+",
        default=ANGLES,
        metavar="DEGREES",
        help="initial angles ψ of untied weights",
    )
    add("--seeds", type=int, nargs="+", default=[0], metavar="S", help="seeds of the runs")
    add("--epochs", type=int, metavar="N", help="epochs of each run; None: the preset's")
    add("--data", default="auto", help="data set, as in eqprop_np.mnist")
    add("--train-size", type=int, metavar="N", help="use only the first N training images; None: all")
    add("--out", type=Path, default=Path("runs/sweep"), metavar="DIR", help="directory of the results")
    add("--workers", type=int, default=os.cpu_count() or 1, metavar="N", help="number of runs at a time")
    return parser


if __name__ == "__main__":
    sys.exit(main())
