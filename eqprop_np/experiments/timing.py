"""What the benchmark times: some batches of a learning rule, or of plain backpropagation; and their work."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import numpy as np
from threadpoolctl import threadpool_limits

from eqprop_np.activations import Array
from eqprop_np.experiments.feedforward import descend
from eqprop_np.experiments.presets import Experiment
from eqprop_np.network import Network, Theta
from eqprop_np.processes import SharedRule, share
from eqprop_np.rules import RULES
from eqprop_np.samples import Samples
from eqprop_np.training import Run

SIDE = 2048

Batches = Callable[[range], list[float]]
"""Trains on the batches with these numbers and returns the steps of their first phases."""


def matrix_product() -> float:
    """Return the time of one 2048³ float32 matrix product on all cores in seconds, the best of five.

    The threads of OpenBLAS wait actively for 0.1 s after a product, and would take a core from what is timed
    next. So this function sleeps until they have stopped.
    """
    a = np.ones((SIDE, SIDE), np.float32)
    b, out, times = a.copy(), a.copy(), []
    with threadpool_limits(os.cpu_count(), "blas"):
        for _ in range(5):
            start = time.perf_counter()
            np.matmul(a, b, out=out)
            times.append(time.perf_counter() - start)
    time.sleep(0.2)
    return min(times)


def processes(experiment: Experiment) -> AbstractContextManager[SharedRule | None]:
    """Start the processes of an experiment, each with one BLAS thread; None if it is this one only."""
    workers = experiment.training.workers
    return share(RULES[experiment.rule], workers) if workers > 1 else one_process()


@contextmanager
def one_process() -> Iterator[None]:
    """Use this process with one BLAS thread."""
    with threadpool_limits(1, "blas"):
        yield None


def by_rule(run: Run, theta: Theta, samples: Samples) -> Batches:
    """Return a function that trains with the rule of a run, writing into ``theta``."""
    rng, network = np.random.default_rng(0), run.dynamics.network
    phases, state = run.phases_of(0, theta), run.optimizer.init(theta)
    rule = run.rule if isinstance(run.rule, SharedRule) else run.rule.fastest(network)

    def train(numbers: range) -> list[float]:
        nonlocal state
        steps = []
        for x, y in batches_of(run, samples, numbers):
            update = rule(run.dynamics, theta, x, y, phases.draw(rng))
            new, state = run.optimizer.step(theta, update.gradient, state)
            theta.update(new)
            steps.append(float(update.free.steps))
        return steps

    return train


def by_backpropagation(run: Run, theta: Theta, samples: Samples, rates: dict[str, float]) -> Batches:
    """Return a function that trains the feed-forward network of a run, writing into ``theta``."""

    def train(numbers: range) -> list[float]:
        for x, y in batches_of(run, samples, numbers):
            descend(run.dynamics, theta, x, y, rates)
        return []

    return train


def batches_of(run: Run, samples: Samples, numbers: range) -> Iterator[tuple[Array, Array]]:
    """Yield the inputs and the targets of batches, which begin again at the end of the samples."""
    for number in numbers:
        chosen = np.arange(number * run.batch_size, (number + 1) * run.batch_size) % len(samples)
        batch = samples[chosen]
        yield batch.inputs(run.dynamics.network, np.float32), batch.targets(run.dynamics, np.float32)


def multiplications(network: Network, steps: int) -> int:
    """Return the multiplications in the matrix products of a first phase, for one sample.

    The drive of the input is computed once. A connection between free layers costs two drives per step. The
    first drive to post of a connection with switches is that of a zero state and costs nothing.
    """
    drives = {c: 1 if c.pre == 0 else 2 * steps - c.has_switches for c in network.connections}
    return sum(c.multiplications * count for c, count in drives.items())
