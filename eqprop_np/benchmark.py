"""How fast: ``python -m eqprop_np.benchmark`` prints the cost of an epoch of each preset.

Costs are in mm: the time of one 2048 × 2048 × 2048 float32 matrix product on the same machine with all
its cores. Machines differ, and a shared one differs from minute to minute; the ratio stays.
"""

import argparse
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from eqprop_np.datasets import DataError, load
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.network import Network, Theta
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.training import Run, Samples, batch_gradient, parallel, sgd

SIDE = 2048
CHUNK = 20  # batches timed at once, between two measurements of mm, which leave cold caches


class Timed(np.ndarray):
    """An array that adds up the time spent in matrix products: its own, and those of all made from it."""

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
    """What was measured of an experiment.

    Attributes
    ----------
    mm_per_epoch : the cost of 60,000 training images.
    free_steps : mean steps of the first phase.
    products : the share of the time that is spent in matrix products.
    throughput : multiplications per second in the matrix products of the first phase, over those of mm.
    """

    mm_per_epoch: float
    free_steps: float
    products: float
    throughput: float


def matrix_product() -> float:
    """The time of one 2048³ float32 matrix product on all cores, in seconds: the best of five."""
    a = np.ones((SIDE, SIDE), np.float32)
    b, out, times = a.copy(), a.copy(), []
    with threadpool_limits(os.cpu_count(), "blas"):
        for _ in range(5):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            times.append(time.perf_counter() - start)
    return min(times)


def measure(experiment: Experiment, samples: Samples, batches: int, warm_up: int) -> Cost:
    """Train for ``warm_up`` batches, then time ``batches`` more."""
    dynamics = experiment.build(samples.images.shape[1:], int(samples.labels.max()) + 1)
    theta = dynamics.network.init(np.random.default_rng(0))
    steps: list[float] = []
    times: list[float] = []
    units: list[float] = []
    with parallel(experiment.workers) as run:
        _batches(experiment, dynamics, theta, samples, range(warm_up), run)
        for first in range(warm_up, warm_up + batches, CHUNK):
            units.append(matrix_product())
            start = time.perf_counter()
            steps += _batches(experiment, dynamics, theta, samples, range(first, first + CHUNK), run)
            times.append((time.perf_counter() - start) / CHUNK)
        speeds = [_speed(experiment, dynamics, theta, samples, run) for _ in range(5)]
    epoch = -(-60_000 // experiment.batch_size) * median(times) / median(units)
    throughput = median(speeds) * median(units) / SIDE**3
    return Cost(epoch, float(np.mean(steps)), _share(experiment, dynamics, theta, samples), throughput)


def _speed(experiment: Experiment, dynamics: Dynamics, theta: Theta, samples: Samples, run: Run) -> float:
    """Multiplications per second in the first phase of some batches.

    A connection's weight w, and each place at which the kernel of a convolution stands, counts once for
    each drive, black pixels too. What is known to be zero, since the state begins there, does not count.
    """
    chunk, start, products = CHUNK * experiment.batch_size, time.perf_counter(), 0
    for first in range(0, chunk, experiment.batch_size):
        batch = samples[np.arange(first, first + experiment.batch_size) % len(samples)]
        products += sum(run(_first_phase, batch, dynamics, theta, experiment.phases))
    return products / (time.perf_counter() - start)


def _first_phase(samples: Samples, dynamics: Dynamics, theta: Theta, phases: Phases) -> int:
    """Do it, and count the multiplications in its matrix products."""
    _, free = free_phase(dynamics, theta, samples.inputs(dynamics), phases)
    return len(samples) * _multiplications(dynamics.network, free.steps)


def _multiplications(network: Network, steps: int) -> int:
    """In the matrix products of so many steps, for one sample."""
    drives = {c: 1 if c.pre == 0 else 2 * steps - c.has_switches for c in network.connections}
    return sum(c.multiplications * drives[c] for c in network.connections)


def _share(experiment: Experiment, dynamics: Dynamics, theta: Theta, samples: Samples) -> float:
    """The share of matrix products in the time of some batches, in one process.

    The stop-watch itself costs a microsecond or two per array operation, so this is a little too small.
    """
    timed: Theta = {name: value.view(Timed) for name, value in theta.items()}
    images = Samples(samples.images[: CHUNK * experiment.batch_size].view(Timed), samples.labels)
    with parallel(1) as run:
        _batches(experiment, dynamics, timed, images, range(1), run)
        Timed.seconds, start = 0.0, time.perf_counter()
        _batches(experiment, dynamics, timed, images, range(CHUNK), run)
        return Timed.seconds / (time.perf_counter() - start)


def _batches(
    experiment: Experiment, dynamics: Dynamics, theta: Theta, samples: Samples, numbers: range, run: Run
) -> list[float]:
    """Train on these batches, writing into ``theta``; returns the first phases' steps."""
    rng = np.random.default_rng(0)
    phases = replace(experiment.phases, learning_rates=experiment.rates(dynamics.network, 0))
    steps = []
    for number in numbers:
        chosen = np.arange(number * experiment.batch_size, (number + 1) * experiment.batch_size)
        batch = samples[chosen % len(samples)]
        part = batch_gradient(experiment.rule, dynamics, theta, batch, phases.draw(rng), run)
        sgd(theta, part.gradient, phases.learning_rates)
        steps.append(part.steps)
    return steps


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m eqprop_np.benchmark",
        description=__doc__,
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("presets", nargs="*", default=list(EXPERIMENTS), help="which")
    parser.add_argument("--data", default="auto", help="as in eqprop_np.mnist")
    parser.add_argument("--batches", type=int, default=200, metavar="N", help="batches to time")
    parser.add_argument("--warm-up", type=int, default=200, metavar="N", help="batches to train before that")
    parser.add_argument("--no-letter", action="store_true", help="leave out the comparison of the dynamics")
    options = parser.parse_args(arguments)
    if unknown := [name for name in options.presets if name not in EXPERIMENTS]:
        parser.error(f"no preset {unknown[0]!r}: choose from {', '.join(EXPERIMENTS)}")
    if options.batches < 1 or options.warm_up < 0:
        parser.error("--batches must be at least 1, and --warm-up not negative")
    try:
        dataset = load(options.data)
    except DataError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    samples = Samples(dataset.train_images, dataset.train_labels)
    print(f"on {dataset.name}; 1 mm = {1000 * matrix_product():.0f} ms now")
    print(f"{'preset':10} {'mm per epoch':>12} {'free steps':>10} {'in products':>11} {'of the peak':>11}")
    for name in options.presets:
        _row(name, measure(EXPERIMENTS[name], samples, options.batches, options.warm_up))
    if not options.no_letter:
        _compare_dynamics(samples, -(-options.batches // 5))
    return 0


def _row(name: str, cost: Cost) -> None:
    shares = f"{cost.products:11.0%} {cost.throughput:11.0%}"
    print(f"{name:10} {cost.mm_per_epoch:12.0f} {cost.free_steps:10.1f} {shares}", flush=True)


def _compare_dynamics(samples: Samples, batches: int) -> None:
    """The abstract's factor of 5 to 8: real time against discrete time, both to the letter."""
    print("to the letter (T and K synchronous steps):")
    for pair in (("eb-1h", "p-1h"), ("eb-2h", "p-2h")):
        costs = [measure(EXPERIMENTS[name].to_the_letter(), samples, batches, 0) for name in pair]
        for name, cost in zip(pair, costs, strict=True):
            _row(name, cost)
        print(f"{pair[0]} / {pair[1]} = {costs[0].mm_per_epoch / costs[1].mm_per_epoch:.1f}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
