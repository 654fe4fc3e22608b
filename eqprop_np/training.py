"""SGD with a rate per connection: epochs, evaluation, history.

Nothing here knows of files: a run's whole state is a `Progress`, which `eqprop_np.checkpoint` writes.
"""

import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.presets import Experiment
from eqprop_np.network import Network, Theta
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.rules.vector_field import weight_angle

EVALUATION_BATCH = 250


class Diverged(RuntimeError):
    """A state or a parameter is no longer finite."""


@dataclass(frozen=True)
class Samples:
    """Images as bytes, (N, H, W), and their labels, (N,)."""

    images: Array
    labels: Array

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, chosen: Any) -> "Samples":
        return Samples(self.images[chosen], self.labels[chosen])

    def shifted(self, pixels: int, rng: np.random.Generator) -> "Samples":
        """Each image moved by up to so many pixels in each direction, at random; black moves in."""
        height, width = self.images.shape[1:]
        margin = (pixels, pixels)
        windows = sliding_window_view(
            np.pad(self.images, ((0, 0), margin, margin)), (height, width), axis=(1, 2)
        )
        down, right = rng.integers(0, 2 * pixels + 1, (2, len(self)))
        return Samples(windows[np.arange(len(self)), down, right], self.labels)

    def inputs(self, dynamics: Dynamics) -> Array:
        """x: pixels in [0, 1], in the shape of the network's input layer."""
        x = self.images.reshape(len(self), *dynamics.network.shapes[0]).astype(np.float32)
        x /= 255
        return x

    def targets(self, dynamics: Dynamics) -> Array:
        """y: one-hot."""
        (classes,) = dynamics.network.shapes[-1]
        return np.eye(classes, dtype=np.float32)[self.labels]


@dataclass
class Progress:
    """The whole state of a run. Training continues from it bit for bit.

    Attributes
    ----------
    theta : dict of ndarray
        The parameters.
    rng : numpy.random.Generator
        The source of all randomness.
    epoch_start : dict
        The state of the generator at the start of the current epoch.
    epoch, batch : int
        The number of finished epochs, and of finished batches in the current epoch.
    errors : int
        The number of wrong predictions in the current epoch.
    steps : float
        The steps of the free phases of the current epoch, summed over its batches.
    seconds : float
        The time spent in training and evaluation.
    history : list of dict
        One record per finished epoch.
    angle : float or None
        The angle between forward and backward weights before training, in degrees. None if they are tied.
    converged : int or None
        The number of batches in the current epoch whose free phase converged. None if it is not known,
        because an older version of this program trained the first batches of the epoch.
    """

    theta: Theta
    rng: np.random.Generator
    epoch_start: dict[str, Any]
    epoch: int = 0
    batch: int = 0
    errors: int = 0
    steps: float = 0.0
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)
    angle: float | None = None
    converged: int | None = 0

    @classmethod
    def begin(cls, experiment: Experiment, dynamics: Dynamics, seed: int) -> "Progress":
        """Before the first batch."""
        rng = np.random.default_rng(seed)
        theta = dynamics.network.init(rng, psi=experiment.angle)
        return cls(theta, rng, rng.bit_generator.state, angle=weight_angle(dynamics.network, theta))


def sgd(theta: Theta, gradient: Theta, rates: Mapping[str, float]) -> None:
    """Write into ``theta`` one step down the gradient, each parameter at its own rate.

    ``gradient`` is used as the work space, and is spoilt.
    """
    for name, g in gradient.items():
        g *= rates[name]
        theta[name] -= g


def train(
    experiment: Experiment,
    dynamics: Dynamics,
    training: Samples,
    test: Samples,
    progress: Progress,
    *,
    on_batch: Callable[[Progress], bool] = lambda progress: False,
    on_epoch: Callable[[Progress], None] = lambda progress: None,
) -> bool:
    """Train until ``experiment.epochs`` epochs are done in all, writing into ``progress``.

    Parameters
    ----------
    on_batch : called after every batch; training stops there when it returns True.
    on_epoch : called after every epoch, its record appended to the history.

    Returns
    -------
    Whether it went through to the end.

    Raises
    ------
    Diverged
        When the output is not finite, or where an epoch ends or ``on_batch`` stops it, a parameter.
    """
    overflow = np.errstate(over="ignore", invalid="ignore")  # what comes of it is found, and told, below
    with parallel(experiment.workers) as run, overflow:
        while progress.epoch < experiment.epochs:
            whole = _epoch(experiment, dynamics, training, progress, run, on_batch)
            _require_finite(progress)
            if not whole:
                return False
            start = time.perf_counter()
            test_error = evaluate(experiment.phases, dynamics, progress.theta, test, run)
            progress.seconds += time.perf_counter() - start
            _finish_epoch(progress, dynamics.network, experiment.phases, len(training), test_error)
            on_epoch(progress)
    return True


def _epoch(
    experiment: Experiment,
    dynamics: Dynamics,
    training: Samples,
    progress: Progress,
    run: "Run",
    on_batch: Callable[[Progress], bool],
) -> bool:
    """The rest of the epoch under way; False if ``on_batch`` ended it early."""
    phases = replace(experiment.phases, learning_rates=experiment.rates(dynamics.network, progress.epoch))
    order = _order(progress, len(training))
    size = experiment.batch_size
    while progress.batch * size < len(training):
        start = time.perf_counter()
        batch = training[order[progress.batch * size : (progress.batch + 1) * size]]
        if experiment.augment:
            batch = batch.shifted(experiment.augment, progress.rng)
        part = batch_gradient(
            experiment.rule, dynamics, progress.theta, batch, phases.draw(progress.rng), run
        )
        if not np.isfinite(part.output).all():
            raise Diverged(
                f"the output is not finite in epoch {progress.epoch + 1}, batch {progress.batch + 1}"
            )
        sgd(progress.theta, part.gradient, phases.learning_rates)
        progress.errors += _wrong(part.output, batch)
        progress.steps += part.steps
        if progress.converged is not None:
            progress.converged += part.converged
        progress.batch += 1
        progress.seconds += time.perf_counter() - start
        if on_batch(progress):
            return False
    return True


def _order(progress: Progress, size: int) -> Array:
    """The epoch's shuffled order, the same again when a run is resumed in the middle of an epoch."""
    if progress.batch == 0:
        progress.epoch_start = progress.rng.bit_generator.state
        return progress.rng.permutation(size)
    again = np.random.default_rng()
    again.bit_generator.state = progress.epoch_start
    return again.permutation(size)


def _require_finite(progress: Progress) -> None:
    for name, value in progress.theta.items():
        if not np.isfinite(value).all():
            where = f"epoch {progress.epoch + 1}, batch {progress.batch}"
            raise Diverged(f"parameter {name} is not finite after {where}")


def _finish_epoch(progress: Progress, network: Network, phases: Phases, size: int, test_error: float) -> None:
    """Append the record of the epoch to the history, and reset the counters for the next epoch.

    "converged" is the share of the batches whose free phase converged, from 0 to 1. The record has it
    only if the schedule has a tolerance and every batch of the epoch was counted.
    """
    progress.epoch += 1
    record = {
        "epoch": progress.epoch,
        "train_error": 100 * progress.errors / size,
        "test_error": test_error,
        "seconds": round(progress.seconds, 2),
        "free_steps": progress.steps / progress.batch,
    }
    if phases.schedule.tol > 0 and progress.converged is not None:
        record["converged"] = progress.converged / progress.batch
    if (angle := weight_angle(network, progress.theta)) is not None:
        record["angle"] = angle
    progress.history.append(record)
    progress.batch, progress.errors, progress.steps, progress.converged = 0, 0, 0.0, 0


def _wrong(output: Array, batch: Samples) -> int:
    return int(np.count_nonzero(output.argmax(axis=1) != batch.labels))


# ---- one batch, in one piece or side by side


Run = Callable[..., list[Any]]


@contextmanager
def parallel(workers: int) -> Iterator[Run]:
    """A function ``run(f, samples, *arguments)`` that cuts samples into pieces and maps f over them.

    The first worker is this process, and the others are processes too. Each has one BLAS thread: the
    products of a small batch are too short to share, and threads would wait for one another at each.
    """
    if workers == 1:
        with threadpool_limits(1, "blas"):
            yield lambda function, samples, *arguments: [function(samples, *arguments)]
        return

    def run(function: Callable[..., Any], samples: Samples, *arguments: Any) -> list[Any]:
        indices = np.array_split(np.arange(len(samples)), min(workers, len(samples)))
        mine, *others = (samples[piece] for piece in indices)
        futures = [pool.submit(function, piece, *arguments) for piece in others]
        return [function(mine, *arguments), *(future.result() for future in futures)]

    with ProcessPoolExecutor(workers - 1, initializer=begin_worker) as pool, threadpool_limits(1, "blas"):
        yield run


def begin_worker() -> None:
    """Prepare a worker process: one BLAS thread, and an end with its parent, however that ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to handle
    threadpool_limits(1, "blas")
    np.seterr(over="ignore", invalid="ignore")  # as in `train`
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    multiprocessing.parent_process().join()
    os._exit(1)


class Part(NamedTuple):
    """The result of a rule on a batch, or on one worker's part of it.

    Attributes
    ----------
    gradient : dict of ndarray
        dL/dθ, the mean over the samples.
    output : ndarray, shape (B, classes)
        ŷ at the end of the free phase.
    steps : float
        The number of steps of the free phase; for several parts, their mean.
    converged : bool
        Whether the free phase converged; for several parts, whether all of them did.
    """

    gradient: Theta
    output: Array
    steps: float
    converged: bool


def _part(samples: Samples, rule: str, dynamics: Dynamics, theta: Theta, phases: Phases) -> Part:
    fastest = RULES[rule].fastest(dynamics.network)
    update = fastest(dynamics, theta, samples.inputs(dynamics), samples.targets(dynamics), phases)
    return Part(update.gradient, update.free.state[-1], update.free.steps, update.free.converged)


def batch_gradient(
    rule: str, dynamics: Dynamics, theta: Theta, batch: Samples, phases: Phases, run: Run
) -> Part:
    """Return the result of a rule on a batch, computed in the parts that ``run`` makes of it."""
    parts = run(_part, batch, rule, dynamics, theta, phases)
    if len(parts) == 1:
        return parts[0]
    shares = [len(part.output) / len(batch) for part in parts]
    return Part(
        gradient={
            name: sum(share * part.gradient[name] for share, part in zip(shares, parts, strict=True))
            for name in theta
        },
        output=np.concatenate([part.output for part in parts]),
        steps=float(np.mean([part.steps for part in parts])),
        converged=all(part.converged for part in parts),
    )


def evaluate(phases: Phases, dynamics: Dynamics, theta: Theta, samples: Samples, run: Run) -> float:
    """The error in percent: how often the largest output at the first steady state is not the label's."""
    chunks = (samples[i : i + EVALUATION_BATCH] for i in range(0, len(samples), EVALUATION_BATCH))
    wrong = sum(sum(run(_count_wrong, chunk, dynamics, theta, phases)) for chunk in chunks)
    return 100 * wrong / len(samples)


def _count_wrong(samples: Samples, dynamics: Dynamics, theta: Theta, phases: Phases) -> int:
    _, free = free_phase(dynamics, theta, samples.inputs(dynamics), phases)
    return _wrong(free.state[-1], samples)
