"""Measure the cost of an epoch of each preset: ``python -m eqprop_np.benchmark``.

There are three units: seconds on this machine; mm, the time of one 2048 × 2048 × 2048 float32 matrix product
on the same machine with all its cores; and the time of plain backpropagation through the feed-forward network
of the same layers, activation, cost and batch size (`eqprop_np.experiments.feedforward`). All are measured in
turn. A ratio differs less than seconds from minute to minute. But large products say little about small
batches, so for these only the ratio to backpropagation carries over to other machines. It is one of processor
times, which other programs hardly change. Both sides use one process with one BLAS thread.

``--scaling`` measures how the cost grows (`eqprop_np.experiments.scaling`).
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.console import BadInput, Parser, command, whole
from eqprop_np.experiments.datasets import DataError, load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.experiments.report import blas, git_commit, write_json
from eqprop_np.experiments.scaling import VARIATIONS, Point, draw_scaling, exponents, measure_point
from eqprop_np.experiments.timing import (
    SIDE,
    Batches,
    batches_of,
    by_backpropagation,
    by_rule,
    matrix_product,
    multiplications,
    one_process,
    processes,
)
from eqprop_np.figures import STYLE, require_format, save
from eqprop_np.files import require_writable
from eqprop_np.network import Theta
from eqprop_np.processes import SharedRule
from eqprop_np.relaxation import Alternating
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.samples import Samples
from eqprop_np.training import Run

CHUNK = 20  # batches timed at once, between two measurements of mm, which leave cold caches


class Timed(np.ndarray):
    """An array that adds up the time of its matrix products and of those of all arrays made from it."""

    seconds = 0.0

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Any:
        plain = [a.view(np.ndarray) if isinstance(a, Timed) else a for a in inputs]
        if "out" in kwargs:
            kwargs["out"] = tuple(a.view(np.ndarray) if isinstance(a, Timed) else a for a in kwargs["out"])
        start = time.perf_counter()
        result = getattr(ufunc, method)(*plain, **kwargs)
        if ufunc is np.matmul:
            Timed.seconds += time.perf_counter() - start
        return result.view(Timed) if isinstance(result, np.ndarray) else result


@dataclass(frozen=True)
class Cost:
    """The measured cost of an experiment.

    Attributes
    ----------
    mm_per_epoch, seconds_per_epoch : float
        The cost of 60,000 training images.
    processor_seconds : float
        The processor's time of 60,000 images in one process.
    to_backpropagation : float
        This time relative to that of plain backpropagation.
    workers : int
        The number of processes of the experiment.
    gain : float
        How many times as fast as one process they are.
    steps : float
        The mean number of steps of the first phase, until its last sample has converged.
    products : float
        The share of the time that is spent in matrix products.
    throughput : float
        The multiplications per second in the matrix products of the first phase, relative to those of mm.
    """

    mm_per_epoch: float
    seconds_per_epoch: float
    processor_seconds: float
    to_backpropagation: float
    workers: int
    gain: float
    steps: float
    products: float
    throughput: float


def measure(experiment: Experiment, samples: Samples, batches: int, warm_up: int) -> Cost:
    """Train for ``warm_up`` batches, then train for ``batches`` more and return their cost."""
    dynamics = experiment.build(samples.x.shape[1:], int(samples.y.max()) + 1)
    theta, other = (dynamics.init(np.random.default_rng(0)) for _ in range(2))
    rows: list[tuple[float, ...]] = []
    steps: list[float] = []
    with processes(experiment) as shared:
        run, run_single = experiment.run(dynamics, shared), experiment.run(dynamics)
        train, train_single = by_rule(run, theta, samples), by_rule(run_single, theta, samples)
        backpropagate = by_backpropagation(run, other, samples, experiment.rates(dynamics))
        train(range(warm_up))
        for first in range(warm_up, warm_up + batches, CHUNK):
            numbers = range(first, first + CHUNK)
            unit, own = matrix_product(), _timed(train, numbers)
            single = _timed(train_single, numbers) if shared else own
            plain = _timed(backpropagate, numbers)
            rows.append((unit, own.seconds, single.seconds, single.processor, plain.processor))
            steps += own.steps
        speeds = [_speed(run, theta, samples) for _ in range(5)]
    with one_process():
        products = _share(run_single, theta, samples)
    units, times, times_single, processor, backpropagation = np.transpose(rows)
    chunks = -(-60_000 // run.batch_size) / CHUNK  # of an epoch
    return Cost(
        mm_per_epoch=chunks * median(times) / median(units),
        seconds_per_epoch=chunks * median(times),
        processor_seconds=chunks * median(processor),
        to_backpropagation=median(processor / backpropagation),
        workers=experiment.training.workers,
        gain=median(times_single / times),
        steps=float(np.mean(steps)),
        products=products,
        throughput=median(speeds) * median(units) / SIDE**3,
    )


class _Timing(NamedTuple):
    """What some batches took: the time, the processor's time in this process, and the steps of each."""

    seconds: float
    processor: float
    steps: list[float]


def _timed(train: Batches, numbers: range) -> _Timing:
    start, start_processor = time.perf_counter(), time.process_time()
    steps = train(numbers)
    return _Timing(time.perf_counter() - start, time.process_time() - start_processor, steps)


def _speed(run: Run, theta: Theta, samples: Samples) -> float:
    """Return the multiplications per second in the first phase of some batches.

    The weight of a connection counts once for each drive, at each position of a convolution's kernel. What
    is known to be zero, because the state begins there, does not count.
    """
    start, products = time.perf_counter(), 0
    for x, _ in batches_of(run, samples, range(CHUNK)):
        if isinstance(run.rule, SharedRule):
            products += sum(run.rule.map(_first_phase, (x,), run.dynamics, theta, run.phases))
        else:
            products += _first_phase(x, run.dynamics, theta, run.phases)
    return products / (time.perf_counter() - start)


def _first_phase(x: Array, dynamics: Dynamics, theta: Theta, phases: Phases) -> int:
    """Run a first phase, and return the number of multiplications in its matrix products.

    No sample stops before the others, so that each takes all steps.
    """
    if isinstance(phases.schedule, Alternating):
        phases = replace(phases, schedule=replace(phases.schedule, per_sample=False))
    _, free = free_phase(dynamics, theta, x, phases)
    return len(x) * multiplications(dynamics.network, free.steps)


def _share(run: Run, theta: Theta, samples: Samples) -> float:
    """Return the share of matrix products in the time of some batches, in one process.

    The measurement itself costs a microsecond or two per array operation, so the share is a little low.
    """
    timed: Theta = {name: value.view(Timed) for name, value in theta.items()}
    train = by_rule(run, timed, Samples(samples.x[: CHUNK * run.batch_size].view(Timed), samples.y))
    train(range(1))
    Timed.seconds = 0.0
    timing = _timed(train, range(CHUNK))
    return Timed.seconds / timing.seconds


@command(DataError, ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    options = _parser().parse_args(arguments)
    possible = VARIATIONS if options.scaling else EXPERIMENTS
    if unknown := [name for name in options.presets if name not in possible]:
        raise BadInput(f"no preset {unknown[0]!r}: choose from {', '.join(possible)}; see --help")
    for path in (options.json, options.out if options.scaling else None):
        if path is not None:
            require_writable(path)  # before the work
    dataset = load(options.data, progress=True)
    samples = Samples(dataset.train_images, dataset.train_labels)
    record: dict[str, Any] = {
        "dataset": dataset.name, "git_commit": git_commit(), "cores": os.cpu_count(), "numpy": np.__version__,
        "blas": blas(),
    }  # fmt: skip
    print(f"on {dataset.name}, with {record['blas']}")
    run = _scaling if options.scaling else _presets
    record |= run(samples, options.presets or list(possible), options)
    if options.json is not None:
        write_json(options.json, record)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m eqprop_np.benchmark", usage="%(prog)s [PRESET ...] [options]", description=__doc__
    )
    add = parser.add_argument
    add("presets", nargs="*", metavar="PRESET",
        help=f"presets to measure: {', '.join(EXPERIMENTS)} (default: all)")  # fmt: skip
    add("--data", metavar="DIR", default="auto", help="data set, as in eqprop_np.mnist (default: auto)")
    add("--batches", type=whole(1), metavar="N", help="batches to time (default: 200; with --scaling fewer)")
    add("--warm-up", type=whole(0), metavar="N",
        help="batches to train before that (default: 200; with --scaling those of the preset)")  # fmt: skip
    add("--no-letter", action="store_true", help="leave out the comparison of the dynamics")
    add("--scaling", action="store_true",
        help=f"measure instead how the cost of {' and '.join(VARIATIONS)} grows, and draw it")  # fmt: skip
    add("--out", type=Path, metavar="FILE", default=Path("runs/scaling.png"),
        help="figure of --scaling: .png, .pdf or .svg (default: runs/scaling.png)")  # fmt: skip
    add("--json", type=Path, metavar="FILE", help="also write the numbers to this file")
    return parser


def _presets(samples: Samples, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Print the cost of presets, and return what goes into the record."""
    batches, warm_up = options.batches or 200, 200 if options.warm_up is None else options.warm_up
    print(f"1 mm = {1000 * matrix_product():.0f} ms now")
    print(TITLES)
    costs: dict[str, Cost] = {}
    for name in names:
        costs[name] = measure(EXPERIMENTS[name], samples, batches, warm_up)
        print(_row(name, costs[name]), flush=True)
    return {
        "presets": {name: asdict(cost) for name, cost in costs.items()},
        "to the letter": [] if options.no_letter else _compare_dynamics(samples, -(-batches // 5)),
    }


TITLES = (
    f"{'preset':9} {'mm/epoch':>8} {'s/epoch':>8} {'core s':>7} {'/ backprop':>10} "
    f"{'workers':>9} {'free steps':>10} {'in products':>11} {'of the peak':>11}"
)


def _row(name: str, cost: Cost) -> str:
    workers = f"{cost.workers} (×{cost.gain:.2f})" if cost.workers > 1 else "1"
    units = f"{cost.mm_per_epoch:8.0f} {cost.seconds_per_epoch:8.1f} {cost.processor_seconds:7.1f}"
    shares = f"{cost.products:11.0%} {cost.throughput:11.0%}"
    return f"{name:9} {units} {cost.to_backpropagation:10.1f} {workers:>9} {cost.steps:10.1f} {shares}"


def _compare_dynamics(samples: Samples, batches: int) -> list[dict[str, Any]]:
    """Print the cost of real time relative to discrete time, which the abstract gives as 5 to 8."""
    print("to the letter (T and K synchronous steps):")
    compared = []
    for names in (("eb-1h", "p-1h"), ("eb-2h", "p-2h")):
        experiments = [EXPERIMENTS[name].to_the_letter() for name in names]
        costs = [measure(experiment, samples, batches, 0) for experiment in experiments]
        for name, cost in zip(names, costs, strict=True):
            print(_row(name, cost), flush=True)
        ratio = costs[0].processor_seconds / costs[1].processor_seconds
        numbers = [e.phases.free_steps + e.phases.nudged_steps for e in experiments]
        steps = numbers[0] / numbers[1]
        print(
            f"{names[0]} / {names[1]} = {ratio:.1f} = {steps:.1f} × the number of steps T + K, "
            f"times {ratio / steps:.2f} × the time per step",
            flush=True,
        )
        compared.append({"presets": names, "ratio": ratio, "steps": steps, "per_step": ratio / steps})
    return compared


def _scaling(samples: Samples, names: Sequence[str], options: argparse.Namespace) -> dict[str, Any]:
    """Print and draw how the cost of presets grows, and return what goes into the record."""
    require_format(options.out)  # before the work
    found: dict[str, dict[str, list[Point]]] = {}
    for name in names:
        found[name] = {}
        print(f"{name + ', per sample:':16} {'µs':>9} {'kB':>9} {'10⁶ mult.':>9} {'steps':>6}")
        for variable, variation in VARIATIONS[name].items():
            found[name][variable] = points = []
            for value in variation.values:
                points.append(measure_point(name, variable, value, samples, options.batches, options.warm_up))
                print(_point_row(variable, points[-1]), flush=True)
            time_, memory, work, steps = exponents(points).values()
            print(f"{'exponent':>16} {time_:9.2f} {memory:9.2f} {work:9.2f} {steps:6.2f}")
    with style.context(STYLE):
        save(draw_scaling(found), options.out)
    print(options.out)
    return {
        "scaling": {
            name: {
                variable: {"points": [asdict(point) for point in points], "exponents": exponents(points)}
                for variable, points in settings.items()
            }
            for name, settings in found.items()
        }
    }


def _point_row(variable: str, point: Point) -> str:
    units = f"{1e6 * point.seconds:9.0f} {point.memory / 1e3:9.0f} {point.work / 1e6:9.2f}"
    return f"{variable:10} {point.value:5} {units} {point.steps:6.1f}"


if __name__ == "__main__":
    sys.exit(main())
