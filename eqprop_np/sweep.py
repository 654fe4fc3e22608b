"""Train many runs in parallel and keep their results, for example the points of Fig. 1(c).

The command is ``python -m eqprop_np.sweep p-1h cep-1h cvf-1h``. A point is a preset with an angle and a
seed. Each point runs in its own process with one BLAS thread. The directory of the sweep holds one JSON
file per point and ``summary.json``, which has one entry per point. While a point is trained, its checkpoint
and the errors of its epochs are in a directory of its own, and a point that was interrupted continues from
its checkpoint. A sweep that is started again runs only what is missing. If a point fails, the other points
continue.

``--list FILE`` runs the points that a file lists, in the order of the file, and ``--table FILE`` prints their
errors beside the published ones. A line of the file has the form of the command:

    cvf-1h --angles 0 90 180 --seeds 0 1 2 --published 2.43  # a comment

`sweep` takes any `concurrent.futures.Executor`, so it also runs on a cluster, whose machines need a common
file system for the checkpoints. The points come from a call such as
``points = grid(["p-1h", "cvf-1h"], ANGLES, range(3), "mnist")``.

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
import shlex
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from multiprocessing import active_children, get_context
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from eqprop_np.checks import check_integer
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.angles import has_angle, update_angles
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.console import EXIT_INTERRUPTED, BadInput, Parser, command, say
from eqprop_np.experiments.datasets import DataError, Dataset, load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.experiments.report import Report, summarize, write_json
from eqprop_np.files import locked, read_text
from eqprop_np.processes import begin_worker, without_ctrl_c
from eqprop_np.training import Progress, train

ANGLES = (0.0, 22.5, 45.0, 67.5, 90.0, 112.5, 135.0, 157.5, 180.0)
LAST = 5  # number of last epochs over which a point's test error is averaged
ANGLE_FILES = "angles"  # the directory of the angles to BPTT, in that of the sweep

POINTS = ("angles", "seeds", "epochs", "authors_code")  # the options that say which points to run

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
    return _resolve(_runs(presets, angles, seeds, **settings), source, train_size)


def _runs(
    presets: Iterable[str], angles: Iterable[float], seeds: Iterable[int], **settings: Any
) -> list[tuple[Experiment, int]]:
    """Return the experiment and the seed of each point of `grid`."""
    found, angles, seeds = [], tuple(angles), tuple(seeds)
    for preset in presets:
        experiment = EXPERIMENTS[preset].override(**{"workers": 1} | settings)
        for angle in angles if experiment.untied else (None,):
            found += [(replace(experiment, psi=angle), seed) for seed in seeds]
    return found


def _resolve(
    runs: Iterable[tuple[Experiment, int]], source: str, train_size: int | None, progress: bool = False
) -> list[Configuration]:
    dataset = load(source, progress=progress)
    return [Configuration.resolve(experiment, dataset, source, seed, train_size) for experiment, seed in runs]


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
    return _name(point.experiment, point.seed)


def _name(experiment: Experiment, seed: int) -> str:
    return f"{_setting(experiment)}-seed{seed}"


def _setting(experiment: Experiment) -> str:
    """Return what the runs of all seeds have in common in their names."""
    angle = f"-{experiment.psi or 0.0:g}deg" if experiment.untied else ""
    return experiment.name + angle + ("-authors-code" if experiment.authors_code else "")


def measure(point: Configuration, directory: Path) -> Record:
    """Train a point in this process with one BLAS thread and return its summary.

    Parameters
    ----------
    point : Configuration
        The run to train.
    directory : Path
        The directory of its checkpoint. If it has one, the run continues from it.

    Returns
    -------
    Record
        The run's summary (`eqprop_np.experiments.report.summarize`).

    Raises
    ------
    DataError
        If the data set found on this machine is not that of the point.
    CheckpointError
        If the checkpoint is damaged or belongs to another point.
    Diverged
        If a state or a parameter is no longer finite.
    """
    with threadpool_limits(1, "blas"):
        training, test = point.samples(_data(point))
        experiment = point.experiment
        dynamics = experiment.build(point.image, point.classes)
        run = experiment.run(dynamics)
        progress = _saved(directory, point) or Progress.begin(
            dynamics, run.optimizer, point.seed, psi=experiment.psi or 0.0
        )
        report = Report(directory, point, quiet=True)
        report.begin(progress)  # it notes the commit of the code
        train(run, training, test, progress, _patient(report, report.batch), _patient(report, report.epoch))
    return summarize(point, progress, report.commits)


def _data(point: Configuration) -> Dataset:
    """Return the data set of a point, or raise a DataError if this machine has another one."""
    dataset = load(point.source, progress=False)
    if mismatch := point.mismatch(dataset):
        raise DataError(f"{mismatch}: provide the data of the point on this machine")
    return dataset


def _saved(directory: Path, point: Configuration) -> Progress | None:
    """Return the progress in the directory of a point, or None after making an empty one."""
    path = directory / "checkpoint.npz"
    if not path.exists():
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").unlink(missing_ok=True)  # it names the commit of a run that saved nothing
        return None
    configuration, progress = checkpoint.load(path)
    if not point.agrees_with(configuration):
        raise checkpoint.CheckpointError(
            f"{path} is of a run with other settings: choose another --out, or remove {directory}"
        )
    return progress


def _patient(report: Report, write: Callable[[Progress], None]) -> Callable[[Progress], None]:
    """Return ``write`` without its error when the disk is full: the run goes on, and tries again later."""

    def attempt(progress: Progress) -> None:
        try:
            write(progress)
        except OSError as error:
            report.saved = time.monotonic()  # the time of the next attempt follows from it
            print(f"{report.directory}: no checkpoint was saved ({error.strerror})", file=sys.stderr)

    return attempt


def measure_angles(point: Configuration) -> Record:
    """Return the angles to BPTT before training, for all runs with the rule and the ψ of a point.

    Parameters
    ----------
    point : Configuration
        One of these runs. Its seed is not used.

    Returns
    -------
    Record
        For each convention of `eqprop_np.experiments.angles` the mean and the standard deviation over the
        batches, in degrees.
    """
    with threadpool_limits(1, "blas"):
        experiment, (training, _) = point.experiment, point.samples(_data(point))
        angles = update_angles(experiment, experiment.build(point.image, point.classes), training)
    return {
        name: {"mean": fmean(values), "std": stdev(values) if len(values) > 1 else 0.0}
        for name, values in angles.items()
    }


# ---- the sweep


def sweep(points: Sequence[Configuration], directory: Path, executor: Executor) -> dict[str, str]:
    """Measure the points that have no file in the directory yet and write one file for each.

    Parameters
    ----------
    points : sequence of Configuration
        The points. Any two of them must differ in preset, angle or seed, which form the name of the file.
    directory : Path
        Directory of the results. It is created if it is missing. A result that cannot be written, for example
        to a full disk, is kept, tried again, and at last written to the directory for temporary
        files.
    executor : Executor
        Executor that runs the points. All points are submitted at once.

    Returns
    -------
    dict of str to str
        The name of each failed point and the reason, which are also printed on standard error.

    Raises
    ------
    ValueError
        If two points have the same name, if the directory cannot be used, if a file in it has the name of a
        point and is not the record of a point with these settings, or if the data or the numbers of training
        images of two points or records differ.
    BlockingIOError
        If another sweep uses the directory.
    """
    names = [point_name(point) for point in points]
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(
            f"{twice[0]} is given more than once: a name must have one run, so remove the others"
        )
    _prepare(directory, points)
    jobs = _angle_jobs(directory, points) | {
        name: (measure, point, directory / name)
        for name, point in zip(names, points, strict=True)
        if not _finished(directory, point)
    }
    failed: dict[str, str] = {}
    results: dict[str, Record] = {}  # those that are not yet in a file, because the disk is full
    futures: dict[Future[Record], str] = {}
    show = {"total": len(jobs), "disable": not sys.stderr.isatty()}
    with locked(directory), tqdm(unit="job", **show) as bar:
        try:
            futures |= {executor.submit(*job): name for name, job in jobs.items()}
            for future in as_completed(futures):
                name = futures[future]
                try:
                    record = results[name] = future.result()
                except Exception as error:  # an error of any kind concerns only this point
                    failed[name] = _reason(error)
                    _report_failure(name, failed[name])
                else:
                    _write(directory, results)
                    say(_line(name, record))
                bar.update()
        finally:
            for future in futures:
                future.cancel()
            failed |= _write(directory, results, last=True)
            try:
                _summarize(directory)
            except (OSError, ValueError) as error:
                failed["summary.json"] = _reason(error)
                _report_failure("summary.json", failed["summary.json"])
    return failed


def _angle_jobs(directory: Path, points: Iterable[Configuration]) -> dict[str, tuple[Any, ...]]:
    """Return a call of `measure_angles` for each rule and ψ without a file, by the name of the file."""
    names = {
        f"{ANGLE_FILES}/{_setting(point.experiment)}": point
        for point in points
        if has_angle(point.experiment)
    }
    return {
        name: (measure_angles, point)
        for name, point in names.items()
        if not (directory / f"{name}.json").exists()
    }


def _prepare(directory: Path, points: Iterable[Configuration]) -> None:
    """Make the directory and its summary, so that what cannot be read or written is found before training."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        (directory / ANGLE_FILES).mkdir(exist_ok=True)
        _summarize(directory)
    except OSError as error:
        raise ValueError(
            f"{directory} cannot be used for the results ({error.strerror}): choose another --out"
        ) from None
    found = {path.stem: _configuration(_read(path)) for path in directory.glob("*-seed*.json")}
    _require_same_data(found | {point_name(point): point for point in points})


def _configuration(record: Record) -> Configuration:
    return Configuration.from_json(record["configuration"])


def _write(directory: Path, results: dict[str, Record], last: bool = False) -> dict[str, str]:
    """Write results into files and remove them from ``results``; return why some could not be written.

    At last these are written into the directory for temporary files.
    """
    failed = {}
    for name, record in [*results.items()]:
        path = directory / f"{name}.json"
        try:
            write_json(path, record)
            del results[name]
        except OSError as error:
            then = _rescue(path, record) if last else "the result is kept in memory and written later"
            failed[name] = f"{path} cannot be written ({error.strerror}): {then}"
            _report_failure(name, failed[name])
    return failed


def _rescue(path: Path, record: Record) -> str:
    """Write a result into the directory for temporary files and say where it is."""
    try:
        kept = Path(tempfile.mkdtemp(prefix="sweep-"), path.name)
        write_json(kept, record)
    except OSError:
        return "run the same command again, which continues from the checkpoint of the point"
    return f"the result is in {kept}; move it to {path.parent}"


def _report_failure(name: str, reason: str) -> None:
    tqdm.write(f"{name} failed: {reason}", file=sys.stderr)


def _reason(error: Exception) -> str:
    """Return in one line why a point failed."""
    if isinstance(error, BrokenProcessPool):
        return (
            "its process ended (see its messages above; without any, memory perhaps ran out); run the same "
            "command again to continue from its checkpoint"
        )
    return " ".join(f"{type(error).__name__}: {error}".split())


def _finished(directory: Path, point: Configuration) -> bool:
    path = directory / f"{point_name(point)}.json"
    if not path.exists():
        return False
    if not point.agrees_with(_configuration(_read(path))):
        raise ValueError(f"{path} holds a run with other settings: choose another --out, or remove the file")
    return True


def _read(path: Path) -> Record:
    """Return the record of a point, or raise a ValueError that names the file."""
    with _named(path, "record of a point"):
        record: Record = json.loads(read_text(path))
        name = point_name(Configuration.from_json(record["configuration"]))
        _entry(record, {}), _error(record, "train_error"), _minutes(record, 1)  # all that is used is there
        sorted(map(str, _commits(record)))
    if path.stem != name:
        raise ValueError(f"{path} is the record of {name}: give it this name, or remove it")
    return record


def _require_same_data(runs: Mapping[str, Configuration]) -> None:
    """Raise a ValueError if the data or the numbers of images differ: their errors do not compare."""
    first, *others = runs or [""]
    for name in others:
        a, b = runs[first], runs[name]
        if not a.agrees_with(replace(b, experiment=a.experiment, source=a.source, seed=a.seed)):
            raise ValueError(
                f"{first} and {name} differ in their data or in the number of training images: choose "
                "another --out for one of them"
            )


@contextmanager
def _named(path: Path, kind: str) -> Iterator[None]:
    """Replace any error of a file's content by one that names the file."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is not the {kind} ({type(error).__name__}): remove it, or choose another --out"
        ) from None


def _line(name: str, record: Record) -> str:
    if name.startswith(ANGLE_FILES):
        angles = (f"{a['mean']:.1f} ± {a['std']:.1f}° ({convention})" for convention, a in record.items())
        return f"{name}: angle to BPTT before training {', '.join(angles)}"
    return f"{name}: test error {_error(record):.2f} %, {record['seconds']:.0f} s"


def _error(record: Record, which: str = "test_error") -> float:
    return fmean(epoch[which] for epoch in record["history"][-LAST:])


def _summarize(directory: Path) -> None:
    """Write ``summary.json`` with one entry for each point in the directory."""
    angles = {path.stem: _read_angles(path) for path in (directory / ANGLE_FILES).glob("*.json")}
    points = [_entry(_read(path), angles) for path in sorted(directory.glob("*-seed*.json"))]
    content = {"test_error": f"mean of the last {LAST} epochs", "points": points}
    write_json(directory / "summary.json", content)


def _read_angles(path: Path) -> Record:
    with _named(path, "record of angles"):
        angles: Record = json.loads(read_text(path))
        _line(f"{ANGLE_FILES}/{path.stem}", angles)
    return angles


def _entry(record: Record, angles: dict[str, Record]) -> Record:
    """Return the entry of a point in the summary. Its angles are those of all seeds, if they are measured."""
    experiment = _configuration(record).experiment
    return {
        "preset": record["preset"],
        "psi": experiment.psi or 0.0,
        "seed": record["seed"],
        "epochs": record["epochs"],
        "angles": angles.get(_setting(experiment), {}),
        "test_error": _error(record),
    }


# ---- lists of runs


class Listed(NamedTuple):
    """A run of a list.

    Attributes
    ----------
    experiment : Experiment
    seed : int
    published : float or None
        The published test error in percent.
    """

    experiment: Experiment
    seed: int
    published: float | None


def read_list(path: Path) -> list[Listed]:
    """Return the runs that a file lists, in its order.

    Parameters
    ----------
    path : Path
        A text file. Each line has the form of the command: presets and the options ``--angles``, ``--seeds``,
        ``--epochs`` and ``--authors-code``, and the published test error as ``--published``. A comment begins
        with #.

    Returns
    -------
    list of Listed
        The runs.

    Raises
    ------
    ValueError
        If the file cannot be read, or if a line is not of this form.
    """
    parser = Parser(add_help=False)
    _add_points(parser)
    parser.add_argument("--published", type=float)
    runs = []
    try:
        lines = path.read_text("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is not a readable list of runs ({error})") from None
    for number, line in enumerate(lines, start=1):
        try:
            if words := shlex.split(line, comments=True):
                given = parser.parse_args(words)
                runs += [Listed(*run, given.published) for run in _runs_of(given)]
        except ValueError as error:
            raise ValueError(f"{path}, line {number}: {error}") from None
    if not runs:
        raise ValueError(f"{path} lists no run: write lines such as p-1h --seeds 0 1 2")
    return runs


def table(runs: Sequence[Listed], directory: Path) -> str:
    """Return the results of listed runs beside the published ones, as a table in Markdown.

    Parameters
    ----------
    runs : sequence of Listed
        The runs. Those that differ only in their seeds form a row.
    directory : Path
        The directory of the sweep.

    Returns
    -------
    str
        For each row the mean and the standard deviation over the seeds, where each seed has the mean over
        the last ``LAST`` epochs; the time of a run on one core; and the time until the test error first was
        at most the published one. All epochs count as the shortest one, which other programs on the machine
        delayed least. Below the rows stand the commits of the code and the runs without a record.

    Raises
    ------
    ValueError
        If a record has other settings than its run in the list, or if two records have other data.
    """
    rows: dict[str, tuple[Listed, list[Record]]] = {}
    missing = []
    for run in runs:
        name = _name(run.experiment, run.seed)
        _, records = rows.setdefault(_setting(run.experiment), (run, []))
        path = directory / f"{name}.json"
        if not path.exists():
            missing.append(name)
            continue
        record = _read(path)
        if _configuration(record).experiment != run.experiment:
            raise ValueError(f"{path} holds a run with other settings than the list: choose another --out")
        records.append(record)
    found = (_configuration(record) for _, records in rows.values() for record in records)
    _require_same_data({point_name(configuration): configuration for configuration in found})
    order = {name: k for k, name in enumerate(EXPERIMENTS)}
    ordered = sorted(
        rows.values(), key=lambda row: (order[row[0].experiment.name], row[0].experiment.psi or 0)
    )
    lines = [
        "| run | epochs | seeds | test error (%) | published (%) | train error (%) | minutes "
        "| minutes to the published error |",
        f"|{'---|' * 8}",
        *(_row(*row) for row in ordered),
    ]
    commits = {commit or "unknown" for _, records in ordered for r in records for commit in _commits(r)}
    lines += ["", f"Commits of the code: {', '.join(sorted(commits)) or 'none'}."]
    if missing:
        lines += [f"Missing: {', '.join(missing)}."]
    return "\n".join(lines)


def _row(run: Listed, records: Sequence[Record]) -> str:
    experiment, published = run.experiment, run.published
    psi = f", ψ = {experiment.psi or 0.0:g}°" if experiment.untied else ""
    cells = [
        f"{experiment.name}{psi}{', authors’ code' if experiment.authors_code else ''}",
        f"{experiment.training.epochs}",
        ", ".join(str(record["seed"]) for record in records) or "–",
        _spread([_error(record) for record in records]),
        "–" if published is None else f"{published:.2f}",
        _spread([_error(record, "train_error") for record in records]),
        _spread([_minutes(record, len(record["history"])) for record in records], 1),
        _spread([_minutes(record, _epochs_to(record, published)) for record in records], 1),
    ]
    return f"| {' | '.join(cells)} |"


def _spread(values: Sequence[float], digits: int = 2) -> str:
    """Return the mean and, of several values, the standard deviation; a dash if there is none."""
    if not values or not np.isfinite(values).all():
        return "–"
    spread = f" ± {stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{fmean(values):.{digits}f}{spread}"


def _minutes(record: Record, epochs: float) -> float:
    """Return the time of so many epochs, each as long as the shortest one of the run."""
    ends = [0.0, *(epoch["seconds"] for epoch in record["history"])]
    return epochs * min(b - a for a, b in pairwise(ends)) / 60


def _epochs_to(record: Record, error: float | None) -> float:
    """Return the number of epochs until the test error was at most ``error``, or infinity."""
    if error is None:
        return float("inf")
    reached = [n for n, epoch in enumerate(record["history"], 1) if epoch["test_error"] <= error]
    return min(reached, default=float("inf"))


def _commits(record: Record) -> list[str | None]:
    return record.get("git_commits", [record.get("git_commit")])


# ---- the command


class OwnProcesses(ThreadPoolExecutor):
    """An executor that runs each call in a new process, so that a crash ends only one call."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        return super().submit(_in_own_process, function, *args, **kwargs)

    def end(self) -> None:
        """End the running calls with their processes, and start no other."""
        waits = threading.Thread(target=self.shutdown, kwargs={"cancel_futures": True})
        waits.start()
        while waits.is_alive():  # a thread may just have started a process
            for process in active_children():
                process.terminate()
            waits.join(0.05)


def _in_own_process(function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
    with ProcessPoolExecutor(1, get_context("spawn"), _begin) as pool:
        with without_ctrl_c():  # a terminal sends it to all processes, and the first one ends the others
            future = pool.submit(function, *args, **kwargs)
        return future.result()


def _begin() -> None:
    begin_worker()
    tqdm.set_lock(
        threading.RLock()
    )  # not a semaphore of the system, which would outlive a terminated process


@command(ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name. None uses ``sys.argv``.

    Returns
    -------
    int
        0, 1 (a point failed), 2 (bad input) or 130 (interrupted).
    """
    options = _parser().parse_args(arguments)
    if options.table:
        if given := options.presets + _given(options, *POINTS, "data", "train_size", "workers"):
            raise BadInput(f"{given[0]} was given, but --table takes the runs from its file: leave it out")
        print(table(read_list(options.table), options.out))
        return 0
    workers = (os.cpu_count() or 1) if options.workers is None else options.workers
    check_integer("--workers", workers, least=1)
    source = "auto" if options.data is None else options.data
    executor = OwnProcesses(workers)
    with _interrupted_once():
        try:
            points = _resolve(_chosen(options), source, options.train_size, progress=True)
            failed = sweep(points, options.out, executor)
        except KeyboardInterrupt:
            executor.end()
            print("interrupted; run the same command again to continue", file=sys.stderr)
            return EXIT_INTERRUPTED
    say(f"{options.out / 'summary.json'}")
    return 1 if failed else 0


@contextmanager
def _interrupted_once() -> Iterator[None]:
    """Let the first Ctrl-C or SIGTERM raise KeyboardInterrupt, and ignore the next ones.

    The first one ends the processes. A second one must not end this work, because Python waits at its exit
    for the processes that are left. In a thread, which cannot handle signals, do nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    interrupted = False

    def handle(number: int, frame: object) -> None:
        nonlocal interrupted
        if not interrupted:
            interrupted = True
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _parser() -> Parser:
    parser = Parser(
        prog="python -m eqprop_np.sweep",
        description="Train every preset at every angle with every seed, each run in its own process.",
        usage="%(prog)s (PRESET ... | --list F | --table F) [options]",
    )
    _add_points(parser, optional=True)
    add = parser.add_argument
    lists = parser.add_mutually_exclusive_group().add_argument
    lists("--list", type=Path, metavar="F", help="run the points that a file lists, in its order")
    lists("--table", type=Path, metavar="F", help="print the results of the listed points in --out")
    add("--data", metavar="DIR", help="data set, as in eqprop_np.mnist (default: auto)")
    add("--train-size", type=int, metavar="N", help="use only the first N training images (default: all)")
    add("--out", type=_directory, default=Path("runs/sweep"), metavar="DIR",
        help="directory of the results (default: runs/sweep)")  # fmt: skip
    add("--workers", type=int, metavar="N",
        help="number of runs at a time (default: one per core)")  # fmt: skip
    return parser


def _directory(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("it must name a directory, got an empty name")
    return Path(text)


def _add_points(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    """Add the arguments that say which points to run: those of a line of a list."""
    add = parser.add_argument
    add("presets", nargs="*" if optional else "+", metavar="PRESET", help=", ".join(EXPERIMENTS))
    add("--angles", type=float, nargs="+", metavar="DEGREES",
        help="initial angles ψ of untied weights (default: 0 to 180 in steps of 22.5)")  # fmt: skip
    add("--seeds", type=int, nargs="+", metavar="S", help="seeds of the runs (default: 0)")
    add("--epochs", type=int, metavar="N", help="epochs of each run (default: the preset's)")
    add("--authors-code", action="store_const", const=True,
        help="real time in the form of the authors' code")  # fmt: skip


def _chosen(options: argparse.Namespace) -> list[tuple[Experiment, int]]:
    """Return the runs of ``--list`` or of the other arguments."""
    if options.list is None:
        if not options.presets:
            raise BadInput(f"give a preset ({', '.join(EXPERIMENTS)}) or --list FILE")
        return _runs_of(options)
    if given := options.presets + _given(options, *POINTS):
        raise BadInput(f"{given[0]} was given, but --list takes the points from its file")
    return [(run.experiment, run.seed) for run in read_list(options.list)]


def _given(options: argparse.Namespace, *names: str) -> list[str]:
    """Return those of the options that were given, in the order of their names."""
    return [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) is not None]


def _runs_of(given: argparse.Namespace) -> list[tuple[Experiment, int]]:
    """Return the runs that the arguments of `_add_points` name."""
    names = ("epochs", "authors_code")
    settings = {name: getattr(given, name) for name in names if getattr(given, name) is not None}
    if unknown := [name for name in given.presets if name not in EXPERIMENTS]:
        raise BadInput(f"{unknown[0]} is not a preset: choose from {', '.join(EXPERIMENTS)}")
    if given.angles and not any(EXPERIMENTS[name].untied for name in given.presets):
        untied = [name for name, experiment in EXPERIMENTS.items() if experiment.untied]
        raise BadInput(
            f"--angles has no effect, because {' and '.join(given.presets)} "
            f"{'has' if len(given.presets) == 1 else 'have'} tied weights: leave it out, or give "
            f"{' or '.join(untied)}"
        )
    return _runs(given.presets, given.angles or ANGLES, given.seeds or [0], **settings)


if __name__ == "__main__":
    sys.exit(main())
