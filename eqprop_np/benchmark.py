"""Measure the cost of an epoch of each preset: ``python -m eqprop_np.benchmark``.

Costs are in mm, which is the time of one 2048 × 2048 × 2048 float32 matrix product on the same machine with
all its cores. The time of an epoch differs between machines and, on a shared machine, from minute to minute.
Its ratio to the time of a matrix product differs less.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.console import Parser, command, whole
from eqprop_np.experiments.datasets import DataError, load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.network import Network, Theta
from eqprop_np.processes import SharedRule, share
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.samples import Samples
from eqprop_np.training import Run

SIDE = 2048
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
    mm_per_epoch : float
        The cost of 60,000 training images.
    steps : float
        The mean number of steps of the first phase.
    products : float
        The share of the time that is spent in matrix products.
    throughput : float
        The multiplications per second in the matrix products of the first phase, relative to those of mm.
    """

    mm_per_epoch: float
    steps: float
    products: float
    throughput: float


def matrix_product() -> float:
    """Return the time of one 2048³ float32 matrix product on all cores in seconds, the best of five."""
    a = np.ones((SIDE, SIDE), np.float32)
    b, out, times = a.copy(), a.copy(), []
    with threadpool_limits(os.cpu_count(), "blas"):
        for _ in range(5):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            times.append(time.perf_counter() - start)
    return min(times)


def measure(experiment: Experiment, samples: Samples, batches: int, warm_up: int) -> Cost:
    """Train for ``warm_up`` batches, then train for ``batches`` more and return their cost."""
    size, workers = experiment.training.batch_size, experiment.training.workers
    dynamics = experiment.build(samples.x.shape[1:], int(samples.y.max()) + 1)
    theta = dynamics.init(np.random.default_rng(0))
    steps: list[float] = []
    times: list[float] = []
    units: list[float] = []
    with share(RULES[experiment.rule], workers) if workers > 1 else _alone() as shared:
        run = experiment.run(dynamics, shared)
        _batches(run, theta, samples, range(warm_up))
        for first in range(warm_up, warm_up + batches, CHUNK):
            units.append(matrix_product())
            start = time.perf_counter()
            steps += _batches(run, theta, samples, range(first, first + CHUNK))
            times.append((time.perf_counter() - start) / CHUNK)
        speeds = [_speed(run, theta, samples) for _ in range(5)]
    with _alone():
        products = _share(experiment.run(dynamics), theta, samples)
    epoch = -(-60_000 // size) * median(times) / median(units)
    throughput = median(speeds) * median(units) / SIDE**3
    return Cost(epoch, float(np.mean(steps)), products, throughput)


@contextmanager
def _alone() -> Iterator[None]:
    """Use one process with one BLAS thread."""
    with threadpool_limits(1, "blas"):
        yield None


def _speed(run: Run, theta: Theta, samples: Samples) -> float:
    """Return the multiplications per second in the first phase of some batches.

    The weight of a connection counts once for each drive, at each position of a convolution's kernel. What
    is known to be zero, because the state begins there, does not count.
    """
    size, start, products = run.batch_size, time.perf_counter(), 0
    for first in range(0, CHUNK * size, size):
        batch = samples[np.arange(first, first + size) % len(samples)]
        x = batch.inputs(run.dynamics.network, np.float32)
        if isinstance(run.rule, SharedRule):
            products += sum(run.rule.map(_first_phase, (x,), run.dynamics, theta, run.phases))
        else:
            products += _first_phase(x, run.dynamics, theta, run.phases)
    return products / (time.perf_counter() - start)


def _first_phase(x: Array, dynamics: Dynamics, theta: Theta, phases: Phases) -> int:
    """Run a first phase, and return the number of multiplications in its matrix products."""
    _, free = free_phase(dynamics, theta, x, phases)
    return len(x) * multiplications(dynamics.network, free.steps)


def multiplications(network: Network, steps: int) -> int:
    """Return the multiplications in the matrix products of a first phase, for one sample.

    The drive of the input is computed once. A connection between free layers costs two drives per step. The
    first drive to post of a connection with switches is that of a zero state and costs nothing.
    """
    drives = {c: 1 if c.pre == 0 else 2 * steps - c.has_switches for c in network.connections}
    return sum(c.multiplications * count for c, count in drives.items())


def _share(run: Run, theta: Theta, samples: Samples) -> float:
    """Return the share of matrix products in the time of some batches, in one process.

    The measurement itself costs a microsecond or two per array operation, so the share is a little low.
    """
    timed: Theta = {name: value.view(Timed) for name, value in theta.items()}
    images = Samples(samples.x[: CHUNK * run.batch_size].view(Timed), samples.y)
    _batches(run, timed, images, range(1))
    Timed.seconds, start = 0.0, time.perf_counter()
    _batches(run, timed, images, range(CHUNK))
    return Timed.seconds / (time.perf_counter() - start)


def _batches(run: Run, theta: Theta, samples: Samples, numbers: range) -> list[float]:
    """Train on these batches, writing into ``theta``, and return the steps of the first phases."""
    rng, network = np.random.default_rng(0), run.dynamics.network
    phases, state = run.phases_of(0, theta), run.optimizer.init(theta)
    rule = run.rule if isinstance(run.rule, SharedRule) else run.rule.fastest(network)
    steps = []
    for number in numbers:
        chosen = np.arange(number * run.batch_size, (number + 1) * run.batch_size) % len(samples)
        batch = samples[chosen]
        x, y = batch.inputs(network, np.float32), batch.targets(run.dynamics, np.float32)
        update = rule(run.dynamics, theta, x, y, phases.draw(rng))
        new, state = run.optimizer.step(theta, update.gradient, state)
        theta.update(new)
        steps.append(float(update.free.steps))
    return steps


@command(DataError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = Parser(
        prog="python -m eqprop_np.benchmark", usage="%(prog)s [PRESET ...] [options]", description=__doc__
    )
    add = parser.add_argument
    add(
        "presets",
        nargs="*",
        metavar="PRESET",
        help=f"presets to measure: {', '.join(EXPERIMENTS)} (default: all)",
    )
    add("--data", metavar="DIR", default="auto", help="data set, as in eqprop_np.mnist (default: auto)")
    add("--batches", type=whole(1), default=200, metavar="N", help="batches to time (default: 200)")
    add("--warm-up", type=whole(0), default=200, metavar="N",
        help="batches to train before that (default: 200)")  # fmt: skip
    add("--no-letter", action="store_true", help="leave out the comparison of the dynamics")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.presets if name not in EXPERIMENTS]:
        parser.error(f"no preset {unknown[0]!r}: choose from {', '.join(EXPERIMENTS)}")
    dataset = load(options.data, progress=True)
    samples = Samples(dataset.train_images, dataset.train_labels)
    print(f"on {dataset.name}; 1 mm = {1000 * matrix_product():.0f} ms now")
    print(f"{'preset':10} {'mm per epoch':>12} {'free steps':>10} {'in products':>11} {'of the peak':>11}")
    for name in options.presets or EXPERIMENTS:
        _row(name, measure(EXPERIMENTS[name], samples, options.batches, options.warm_up))
    if not options.no_letter:
        _compare_dynamics(samples, -(-options.batches // 5))
    return 0


def _row(name: str, cost: Cost) -> None:
    shares = f"{cost.products:11.0%} {cost.throughput:11.0%}"
    print(f"{name:10} {cost.mm_per_epoch:12.0f} {cost.steps:10.1f} {shares}", flush=True)


def _compare_dynamics(samples: Samples, batches: int) -> None:
    """Print the cost of real time relative to discrete time, which the abstract gives as 5 to 8."""
    print("to the letter (T and K synchronous steps):")
    for pair in (("eb-1h", "p-1h"), ("eb-2h", "p-2h")):
        costs = [measure(EXPERIMENTS[name].to_the_letter(), samples, batches, 0) for name in pair]
        for name, cost in zip(pair, costs, strict=True):
            _row(name, cost)
        print(f"{pair[0]} / {pair[1]} = {costs[0].mm_per_epoch / costs[1].mm_per_epoch:.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
