"""SGD with a rate per connection: epochs, evaluation, history.

Nothing here knows of files: a run's whole state is a `Progress`, which `eqprop_np.checkpoint` writes.
"""

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments import Experiment
from eqprop_np.network import Theta
from eqprop_np.rules import RULES, Phases, Update
from eqprop_np.rules.phases import free_phase

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

    def inputs(self, dynamics: Dynamics) -> Array:
        """x: pixels in [0, 1], in the shape of the network's input layer."""
        pixels = self.images.reshape(len(self), *dynamics.network.shapes[0])
        return pixels.astype(np.float32) / np.float32(255)

    def targets(self, dynamics: Dynamics) -> Array:
        """y: one-hot."""
        (classes,) = dynamics.network.shapes[-1]
        return np.eye(classes, dtype=np.float32)[self.labels]


@dataclass
class Progress:
    """How far a run has come: all that it takes to go on, bit for bit.

    Attributes
    ----------
    theta : the parameters.
    rng : where all randomness comes from.
    epoch_start : the generator's state when the epoch under way began.
    epoch, batch : the epochs done, and the batches done of the next.
    errors, steps : of the epoch under way: wrong predictions, and first-phase steps summed over batches.
    seconds : spent in training and evaluation.
    history : a record per epoch done.
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

    @classmethod
    def begin(cls, dynamics: Dynamics, seed: int) -> "Progress":
        """Before the first batch."""
        rng = np.random.default_rng(seed)
        theta = dynamics.network.init(rng)
        return cls(theta, rng, rng.bit_generator.state)


def sgd(theta: Theta, gradient: Theta, rates: dict[str, float]) -> None:
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
        When the output, or at an epoch's end a parameter, is not finite.
    """
    with parallel(experiment.threads) as run:
        while progress.epoch < experiment.epochs:
            if not _epoch(experiment, dynamics, training, progress, run, on_batch):
                return False
            start = time.perf_counter()
            test_error = evaluate(experiment.phases, dynamics, progress.theta, test, run)
            progress.seconds += time.perf_counter() - start
            _finish_epoch(progress, len(training), experiment.batch_size, test_error)
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
    rates = experiment.rates(dynamics.network, progress.epoch)
    order = _order(progress, len(training))
    size = experiment.batch_size
    while progress.batch * size < len(training):
        start = time.perf_counter()
        batch = training[order[progress.batch * size : (progress.batch + 1) * size]]
        phases = experiment.phases.draw(progress.rng)
        gradient, output, steps = _gradient(experiment.rule, dynamics, progress.theta, batch, phases, run)
        if not np.isfinite(output).all():
            raise Diverged(
                f"the output is not finite in epoch {progress.epoch + 1}, batch {progress.batch + 1}"
            )
        sgd(progress.theta, gradient, rates)
        progress.errors += _wrong(output, batch)
        progress.steps += steps
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


def _finish_epoch(progress: Progress, size: int, batch_size: int, test_error: float) -> None:
    """Write into ``progress`` the record of the epoch, and set its counters for the next."""
    for name, value in progress.theta.items():
        if not np.isfinite(value).all():
            raise Diverged(f"parameter {name} is not finite after epoch {progress.epoch + 1}")
    progress.epoch += 1
    record = {
        "epoch": progress.epoch,
        "train_error": 100 * progress.errors / size,
        "test_error": test_error,
        "seconds": round(progress.seconds, 2),
        "free_steps": progress.steps / progress.batch,
    }
    progress.history.append(record)
    progress.batch, progress.errors, progress.steps = 0, 0, 0.0


def _wrong(output: Array, batch: Samples) -> int:
    return int(np.count_nonzero(output.argmax(axis=1) != batch.labels))


# ---- one batch, in one piece or side by side


Run = Callable[[Callable[[Samples], Any], Samples], list[Any]]


@contextmanager
def parallel(threads: int) -> Iterator[Run]:
    """A function that cuts samples into ``threads`` pieces and maps another over them, side by side.

    NumPy releases the interpreter's lock in its loops, so that pieces of some milliseconds do run
    side by side, and then one BLAS thread for each is best. With one thread, BLAS is left as it is.
    """
    if threads == 1:
        yield lambda function, samples: [function(samples)]
        return

    def run(function: Callable[[Samples], Any], samples: Samples) -> list[Any]:
        pieces = [piece for piece in np.array_split(np.arange(len(samples)), threads) if len(piece)]
        return list(pool.map(function, [samples[piece] for piece in pieces]))

    with threadpool_limits(1, "blas"), ThreadPoolExecutor(threads) as pool:
        yield run


def _gradient(
    rule: str, dynamics: Dynamics, theta: Theta, batch: Samples, phases: Phases, run: Run
) -> tuple[Theta, Array, float]:
    """dL/dθ over the batch, the first phase's output, and its mean number of steps."""

    def part(samples: Samples) -> Update:
        return RULES[rule](dynamics, theta, samples.inputs(dynamics), samples.targets(dynamics), phases)

    updates = run(part, batch)
    outputs = [update.free.state[-1] for update in updates]
    gradient = updates[0].gradient
    if len(updates) > 1:  # a mean over the batch is the weighted mean of its pieces' means
        for name, g in gradient.items():
            g *= len(outputs[0]) / len(batch)
            for update, output in zip(updates[1:], outputs[1:], strict=True):
                g += update.gradient[name] * (len(output) / len(batch))
    return gradient, np.concatenate(outputs), float(np.mean([update.free.steps for update in updates]))


def evaluate(phases: Phases, dynamics: Dynamics, theta: Theta, samples: Samples, run: Run) -> float:
    """The error in percent: how often the largest output at the first steady state is not the label's."""

    def wrong(batch: Samples) -> int:
        _, free = free_phase(dynamics, theta, batch.inputs(dynamics), phases)
        return _wrong(free.state[-1], batch)

    chunks = (samples[i : i + EVALUATION_BATCH] for i in range(0, len(samples), EVALUATION_BATCH))
    return 100 * sum(sum(run(wrong, chunk)) for chunk in chunks) / len(samples)
