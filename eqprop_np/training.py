"""Train a network on arrays: `fit`, `predict`, `error_rate`, and the `Progress` from which a run resumes.

Nothing here knows a data set, a preset or a command.
"""

import json
import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike
from threadpoolctl import threadpool_limits

from eqprop_np.activations import Array
from eqprop_np.checks import as_python, check_integer, check_kind, check_theta, describe, is_number
from eqprop_np.connections import ConvPool, Dense
from eqprop_np.dynamics import Dynamics
from eqprop_np.files import is_irregular, write_arrays
from eqprop_np.network import Network, Theta
from eqprop_np.optimizers import (
    SGD,
    Adam,
    Exponential,
    Optimizer,
    RateSchedule,
    averaged,
    check_range,
    rates_of,
)
from eqprop_np.processes import SharedRule, output
from eqprop_np.relaxation import tight_schedule
from eqprop_np.rules import LearningRule, learning_rule
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import (
    Phases,
    Rule,
    Update,
    check_resolution,
    check_stable,
    free_phase,
    require_plain_cost,
)
from eqprop_np.rules.vector_field import weight_angle
from eqprop_np.samples import Samples, check_inputs, check_samples, number_of_classes, warn_if_far

EVALUATION_BATCH = 250
DELAY = 0.5  # seconds before the progress of an evaluation is shown


class Diverged(RuntimeError):
    """The output or a parameter is no longer finite."""


# ---- where a run stands


@dataclass
class Progress:
    """The whole state of a training run: `fit` continues from it exactly.

    `fit` replaces the attributes of a batch, and those of an epoch, all at once. So the state is that of the
    last complete batch at each moment, also after an interrupt. The arrays are replaced and not written
    into: ``best = progress.theta`` in a callback keeps the parameters of that moment.

    Attributes
    ----------
    theta : dict of ndarray
        The parameters.
    rng : numpy.random.Generator
        The source of all randomness.
    optimizer_state : dict of ndarray
        The state of the optimizer.
    average : dict of ndarray
        The exponential moving average of the parameters, if `fit` was asked for it; otherwise empty.
    averaged : int
        The number of batches that the average covers.
    epoch_start : dict
        The generator's state at the beginning of the current epoch.
    epoch, batch : int
        The complete epochs, and the complete batches of the next epoch.
    size, batch_size : int
        The number of samples, and of those in a batch, in the last epoch; 0 if that is not known.
    errors, steps, converged : number
        In the current epoch: wrong predictions, steps of the first phases, and first phases that converged
        (None if an older file did not count them).
    seconds : float
        The time spent in training and validation.
    history : dict of list
        One float for each complete epoch: "train_error" and, if there are validation data,
        "validation_error" and "average_validation_error" (of the average) in percent, "seconds" (since the
        start of the run), "steps" (the mean of a first phase), "converged" (the share of the first phases,
        if the schedule has a tolerance), and "weight_angle" (untied networks). It is NaN where an epoch has
        no such value. `fit` pads the lists, so keep measurements of your own elsewhere.
    """

    theta: Theta
    rng: np.random.Generator
    optimizer_state: dict[str, Array] = field(default_factory=dict)
    epoch_start: dict[str, Any] = field(default_factory=dict)
    epoch: int = 0
    batch: int = 0
    errors: int = 0
    steps: float = 0.0
    converged: int | None = 0
    size: int = 0
    batch_size: int = 0
    seconds: float = 0.0
    history: dict[str, list[float]] = field(default_factory=dict)
    average: Theta = field(default_factory=dict)
    averaged: int = 0

    @property
    def records(self) -> list[dict[str, float]]:
        """The history as one dict for each epoch, counted from 1. A value that is missing is left out."""
        records: list[dict[str, float]] = [{"epoch": n + 1} for n in range(self.epoch)]
        for name, values in self.history.items():
            for record, value in zip(records[self.epoch - len(values) :], values, strict=True):
                if not math.isnan(value):
                    record[name] = value
        return records

    def commit(self, **attributes: Any) -> None:
        """Replace attributes in one operation, which an interrupt cannot divide."""
        vars(self).update(attributes)

    def abandon_epoch(self) -> None:
        """Forget the counts of an incomplete epoch, so that `fit` begins it again. θ stays as it is."""
        self.commit(batch=0, errors=0, steps=0.0, converged=0)

    @classmethod
    def begin(
        cls,
        network: Network | Dynamics,
        optimizer: Optimizer,
        seed: int = 0,
        dtype: DTypeLike = np.float32,
        psi: float = 0.0,
    ) -> "Progress":
        """Return the state before the first batch, with random parameters.

        ``network`` may be the dynamics, whose cost may add parameters of a readout.
        ``dtype`` is that of the parameters and of all computation, np.float32 or np.float64. ``psi`` is the
        angle between forward and backward weights of an untied network, in degrees.
        """
        check_kind("network", network, Network | Dynamics, "a Network or DiscreteTime(...) or RealTime(...)")
        check_integer("seed", seed, least=0)
        rng = np.random.default_rng(seed)
        theta = network.init(rng, dtype, psi)
        return cls(theta, rng, optimizer.init(theta), dict(rng.bit_generator.state))

    def __repr__(self) -> str:
        last = ", ".join(f"{name} {values[-1]:.4g}" for name, values in self.history.items() if values)
        return f"<Progress: {self.epoch} epochs and {self.batch} batches{'; ' if last else ''}{last}>"

    def save(self, path: str | Path) -> None:
        """Write the state into one ``.npz`` file, without pickle. The file is complete or not changed."""
        arrays, meta = self.to_arrays()
        meta["arrays"] = sorted(arrays)  # damage to the archive's directory can hide some
        write_arrays(Path(path), arrays | {"meta": np.array(json.dumps(meta))})

    @classmethod
    def load(cls, path: str | Path) -> "Progress":
        """Return the state that `save` wrote.

        Raises
        ------
        ValueError
            If the file is damaged or was written by something else.
        """
        if is_irregular(Path(path)):
            raise ValueError(f"{path}: this is not a regular file; give one that save wrote")
        with open(path, "rb") as file:
            try:
                with np.load(file, allow_pickle=False) as content:
                    arrays = {name: content[name] for name in content.files}
                meta = json.loads(str(arrays.pop("meta")))
                if meta["arrays"] != sorted(arrays):
                    raise ValueError("some arrays are missing")
                return cls.from_arrays(arrays, meta)
            except Exception as error:  # a damaged file raises errors of many kinds
                reason = " ".join(f"{type(error).__name__}: {error}".split())
                raise ValueError(f"{path} is damaged or not a training state ({reason})") from None

    def to_arrays(self) -> tuple[dict[str, Array], dict[str, Any]]:
        """Return the arrays of the state by name, and the rest as values for JSON."""
        state = {f"{_OPTIMIZER}{name}": value for name, value in self.optimizer_state.items()}
        average = {f"{_AVERAGE}{name}": value for name, value in self.average.items()}
        meta = {name: getattr(self, name) for name in _COUNTERS}
        return self.theta | state | average, meta | {"rng": self.rng.bit_generator.state}

    @classmethod
    def from_arrays(cls, arrays: dict[str, Array], meta: dict[str, Any]) -> "Progress":
        """Return the state from what `to_arrays` returned."""
        state, average = (
            {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
            for prefix in (_OPTIMIZER, _AVERAGE)
        )
        theta = {name: w for name, w in arrays.items() if not name.startswith((_OPTIMIZER, _AVERAGE))}
        meta = {"averaged": 0, "size": 0, "batch_size": 0} | meta  # older files lack them
        rng = np.random.default_rng()
        for name in ("epoch_start", "rng"):
            rng.bit_generator.state = meta[name]
            if rng.bit_generator.state != meta[name]:  # NumPy 1 takes a negative number modulo 2¹²⁸
                raise ValueError(f"{name} must be a state of the random generator, got {meta[name]}")
        return cls(theta, rng, state, average=average, **{name: meta[name] for name in _COUNTERS})


_OPTIMIZER, _AVERAGE = "optimizer/", "average/"
_COUNTERS = (
    *("epoch_start", "epoch", "batch", "size", "batch_size", "errors", "steps", "converged"),
    *("seconds", "history", "averaged"),
)


# ---- training


def fit(
    dynamics: Dynamics,
    X: Array,
    y: Array,
    *,
    phases: Phases,
    rule: Rule | LearningRule | SharedRule = ep,
    optimizer: Optimizer | None = None,
    rate_schedule: RateSchedule | None = None,
    epochs: int = 10,
    batch_size: int = 20,
    average: float = 0.0,
    validation: tuple[Array, Array] | None = None,
    transform: Callable[[Array, np.random.Generator], Array] | None = None,
    seed: int = 0,
    progress: Progress | None = None,
    on_batch: Callable[[Progress], bool | None] | None = None,
    on_epoch: Callable[[Progress], bool | None] | None = None,
    show_progress: bool | None = None,
) -> Progress:
    """Train a network and return its `Progress`, which holds the parameters and the history.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    X : ndarray, shape (N, …)
        Floats, which are taken as they are, or bytes (uint8), which are scaled to [0, 1].
    y : ndarray, shape (N,) or (N, classes)
        Labels from 0 without a missing class, or targets.
    phases : Phases
        The settings of the two phases. A continual rule gets its learning rates from the optimizer.
    rule : callable, LearningRule or SharedRule
        The learning rule; `eqprop_np.share` makes one that uses several processes.
    optimizer : Optimizer, optional
        ``SGD(0.1)`` by default. A rule that moves the weights in its second phase takes plain SGD only.
    rate_schedule : callable, optional
        Maps the epoch, counted from 0, to a factor on the learning rates; constant by default.
    epochs : int
        The number of epochs in all, also when a run is continued.
    batch_size : int
    average : float
        The decay of an exponential moving average of the parameters, such as 0.999; 0 for no average. It is
        ``progress.average``, see `eqprop_np.optimizers.averaged`. Training continues with the parameters
        themselves. A continued run without an average begins one.
    validation : (X, y), optional
        After each epoch the error on them is recorded, with the parameters and with their average.
    transform : callable, optional
        Maps a batch of X and the generator to a changed batch of the same shape and dtype (bytes stay
        bytes), for data augmentation, such as `eqprop_np.random_shift` and `eqprop_np.random_distortion`
        return it. The validation data are not changed.
    seed : int
        Of the generator, for a new run.
    progress : Progress, optional
        Continue this run. It is that of the last complete batch at each moment, so an interrupt (Ctrl-C) or
        an error loses no complete batch. For a new run, pass ``Progress.begin(network, optimizer)`` if you
        want to keep what was trained until then.
    on_batch, on_epoch : callable, optional
        Called with the progress after each batch and each epoch. Training stops if it returns True.
    show_progress : bool, optional
        Show a progress bar; by default on a terminal and in a notebook only.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network or another argument.
    Diverged
        If the output or a parameter is no longer finite.

    Examples
    --------
    >>> import eqprop_np as eq
    >>> rng = np.random.default_rng(0)
    >>> X = rng.random((200, 2))
    >>> y = (X[:, 0] > X[:, 1]).astype(int)
    >>> dynamics = eq.DiscreteTime(eq.chain([2, 16, 2]))
    >>> phases = eq.Phases(30, 10, beta=0.2, estimate="centered")
    >>> progress = eq.fit(dynamics, X, y, phases=phases, optimizer=eq.SGD(0.5), epochs=20)
    >>> print(eq.error_rate(dynamics, progress.theta, X, y) < 10)
    True
    """
    check_kind("dynamics", dynamics, Dynamics, "DiscreteTime(...) or RealTime(...)")
    training = check_samples(dynamics, X, y, every_class=True)
    held_out = None if validation is None else check_samples(dynamics, *_pair(validation), "the validation X")
    warn_if_far(2, X=training.x, the_validation_X=None if held_out is None else held_out.x)
    run = Run(
        dynamics=dynamics,
        rule=rule if isinstance(rule, SharedRule) else learning_rule(rule),
        phases=phases,
        optimizer=SGD(0.1) if optimizer is None else optimizer,
        rate_schedule=Exponential() if rate_schedule is None else rate_schedule,
        epochs=epochs,
        batch_size=batch_size,
        transform=transform,
        average=average,
    )
    check_stable(dynamics, phases, run.record.function)
    for name, callback in (("on_batch", on_batch), ("on_epoch", on_epoch)):
        if callback is not None and not callable(callback):
            raise TypeError(f"{name} must be a function of the progress, got {describe(callback)}")
    if progress is None:
        dtype = np.float32 if training.x.dtype == np.uint8 else training.x.dtype
        progress = Progress.begin(dynamics, run.optimizer, seed, dtype)
    else:
        _check_progress(progress, run, len(training))
    dtype = next(iter(progress.theta.values())).dtype
    check_resolution(phases, run.record.function, dtype, stacklevel=3)
    _check_own_parts(dynamics, progress.theta, training[:3], dtype)
    with bar(run, len(training), show_progress) as advance:

        def after_batch(progress: Progress) -> bool:
            advance(progress)
            return on_batch is not None and _is_true(on_batch(progress))

        def after_epoch(progress: Progress) -> bool:
            with above_the_bar():
                return on_epoch is not None and _is_true(on_epoch(progress))

        train(run, training, held_out, progress, after_batch, after_epoch, show_progress)
    return progress


def _pair(validation: Any) -> tuple[Any, Any]:
    if not isinstance(validation, tuple | list) or len(validation) != 2:
        raise TypeError(f"validation must be a pair (X, y), got {describe(validation)}")
    return validation[0], validation[1]


def _check_progress(progress: Progress, run: "Run", size: int) -> None:
    """Raise an error if a run cannot continue from this progress."""
    check_kind("progress", progress, Progress, "a Progress, such as Progress.load(path)")
    _check_parameters(progress.theta, run.dynamics)
    if progress.batch and progress.size and (progress.size, progress.batch_size) != (size, run.batch_size):
        raise ValueError(
            f"the progress is in an epoch of {progress.size} samples in batches of {progress.batch_size}, "
            f"got {size} samples in batches of {run.batch_size}: pass the data and the batch_size with "
            "which it was trained, or call progress.abandon_epoch()"
        )
    if type(progress.rng.bit_generator) is not np.random.PCG64:
        raise ValueError(
            "progress.rng must be a generator that can be saved, such as np.random.default_rng(seed)"
        )
    if progress.average:
        check_theta(progress.average, run.dynamics.parameter_shapes)
        if not run.average:
            raise ValueError(
                "the progress has an average of the parameters, which would not follow them any more: pass "
                "the average with which it was trained, or set progress.average to {}"
            )
    if isinstance(run.optimizer, SGD | Adam):
        expected, found = (
            {name: np.shape(value) for name, value in state.items()}
            for state in (run.optimizer.init(progress.theta), progress.optimizer_state)
        )
        if expected != found:
            raise ValueError(
                f"the progress has the state of another optimizer than {type(run.optimizer).__name__} with "
                f"these settings: pass the one with which it was trained"
            )


def _check_parameters(theta: Theta, dynamics: Dynamics) -> None:
    """Check that θ fits the dynamics and is real: float32 or float64."""
    check_theta(theta, dynamics.parameter_shapes)
    for name, value in theta.items():
        if value.dtype.type not in (np.float32, np.float64):
            raise TypeError(f"theta[{name!r}] must be float32 or float64, got {value.dtype}")


def _check_own_parts(dynamics: Dynamics, theta: Theta, samples: Samples, dtype: DTypeLike) -> None:
    """Check the shapes that parts of your own return: NumPy would extend some wrong ones without an error."""
    network, cost = dynamics.network, dynamics.cost.at(theta)
    s = network.zeros(len(samples), dtype)
    activities = (samples.inputs(network, dtype), *map(dynamics.activity, s))
    y = samples.targets(dynamics, dtype)
    found = {f"the derivative of the cost {cost.name}": (cost.derivative(s[-1], y), s[-1].shape)}
    for c in network.connections:
        if type(c) not in (Dense, ConvPool):
            pre, post = activities[c.pre], activities[c.post]
            drive, switches = c.to_post(theta[c.name], pre)
            found[f"to_post of connection {c.name}"] = (drive, post.shape)
            found[f"gradient of connection {c.name}"] = (c.gradient(pre, post, switches), c.shape)
            if c.pre > 0:
                found[f"to_pre of connection {c.name}"] = (c.to_pre(theta[c.name], post, switches), pre.shape)
    for what, (value, shape) in found.items():
        if np.shape(value) != shape:
            raise ValueError(f"{what} must return shape {shape} for {len(y)} samples, got {np.shape(value)}")


def _is_true(answer: Any) -> bool:
    """Return whether a callback returned True, of Python or NumPy. Another value does not stop training."""
    return isinstance(answer, bool | np.bool_) and bool(answer)


@dataclass(frozen=True)
class Run:
    """What `train` needs besides the data and the progress.

    The parameters are those of `fit`.

    Raises
    ------
    TypeError, ValueError
        If a setting is of another kind, or if the rule, the phases and the optimizer do not go together.
    """

    dynamics: Dynamics
    rule: LearningRule | SharedRule
    phases: Phases
    optimizer: Optimizer
    rate_schedule: RateSchedule
    epochs: int
    batch_size: int
    transform: Callable[[Array, np.random.Generator], Array] | None = None
    average: float = 0.0

    def __post_init__(self) -> None:
        record, network = self.record, self.dynamics.network
        check_kind("phases", self.phases, Phases, "Phases(...)")
        check_integer("epochs", self.epochs, least=0)
        check_integer("batch_size", self.batch_size, least=1)
        check_range("average", self.average, 0, 1)
        for name, value in (("rate_schedule", self.rate_schedule), ("transform", self.transform)):
            if value is not None and (not callable(value) or isinstance(value, type)):
                raise TypeError(f"{name} must be a function, got {describe(value)}")
        if isinstance(self.optimizer, SGD | Adam):
            rates_of(self.optimizer.learning_rates, self.dynamics.parameter_shapes)
        elif isinstance(self.optimizer, type) or not callable(getattr(self.optimizer, "step", None)):
            raise TypeError(f"optimizer must be SGD(...) or Adam(...), got {describe(self.optimizer)}")
        if self.phases.estimate not in record.estimates:
            raise ValueError(
                f"rule {record.name} does not use the estimate {self.phases.estimate}: choose "
                f"{' or '.join(record.estimates)}"
            )
        if record.networks == "tied":
            network.require_tied()
        if not record.readout:
            require_plain_cost(self.dynamics)
        if record.moves_weights and not (isinstance(self.optimizer, SGD) and self.optimizer.is_plain):
            raise ValueError(
                f"rule {record.name} moves the weights during the second phase at its own rates, which only "
                "plain SGD reproduces: use SGD without momentum and weight decay"
            )

    @property
    def record(self) -> LearningRule:
        """The line of the table of rules."""
        return self.rule.rule if isinstance(self.rule, SharedRule) else self.rule

    def factor(self, epoch: int) -> float:
        """Return the factor on the learning rates in an epoch."""
        try:
            factor = self.rate_schedule(epoch)
        except OverflowError:
            factor = math.inf
        if not is_number(factor) or factor < 0:
            raise ValueError(
                f"rate_schedule must return a finite number from 0, got {describe(factor)} for epoch {epoch}"
            )
        return float(as_python(factor))

    def phases_of(self, epoch: int, theta: Theta) -> Phases:
        """Return the phases of an epoch: a continual rule moves the weights at the optimizer's rates."""
        if not isinstance(self.optimizer, SGD):
            return self.phases
        return replace(self.phases, learning_rates=self.optimizer.rates(theta, self.factor(epoch)))


def train(
    run: Run,
    training: Samples,
    validation: Samples | None,
    progress: Progress,
    on_batch: Callable[[Progress], bool | None] = lambda progress: None,
    on_epoch: Callable[[Progress], bool | None] = lambda progress: None,
    show_progress: bool | None = False,
) -> bool:
    """Train until ``run.epochs`` epochs are complete, writing into ``progress``; `fit` without its checks.

    ``show_progress`` is that of `fit`, for the evaluation after each epoch.

    Returns
    -------
    bool
        Whether all epochs are complete. Otherwise a callback returned True.

    Raises
    ------
    Diverged
        If the output or, at the end of an epoch or where a callback stops, a parameter is not finite.
    """
    # What results from an overflow is found and reported below.
    with threadpool_limits(1, "blas"), np.errstate(over="ignore", invalid="ignore"):
        if run.average and not progress.average:
            progress.commit(average=progress.theta, averaged=0)
        while progress.epoch < run.epochs:
            complete = _epoch(run, training, progress, on_batch)
            _require_finite(progress)
            if not complete:
                return False
            start = time.perf_counter()
            parameters = {"validation_error": progress.theta, "average_validation_error": progress.average}
            errors = {
                name: error_of(run, theta, validation, show_progress)
                for name, theta in parameters.items()
                if theta and validation is not None
            }
            seconds = progress.seconds + time.perf_counter() - start
            _finish_epoch(run, progress, len(training), errors, seconds)
            if _is_true(on_epoch(progress)):
                return progress.epoch >= run.epochs
    return True


def _epoch(
    run: Run, training: Samples, progress: Progress, on_batch: Callable[[Progress], bool | None]
) -> bool:
    """Train for the rest of the current epoch; return False if ``on_batch`` stopped it."""
    network, phases = run.dynamics.network, run.phases_of(progress.epoch, progress.theta)
    rule = run.rule if isinstance(run.rule, SharedRule) else run.rule.fastest(network)
    dtype = next(iter(progress.theta.values())).dtype
    factor, size, own = run.factor(progress.epoch), run.batch_size, not run.record.in_table
    epoch_start, spare, order = _order(progress, len(training))
    rng = _copy(spare)
    while progress.batch * size < len(training):
        start = time.perf_counter()
        rng, spare = spare, rng  # draw from the one that the progress does not hold
        if progress.batch:
            rng.bit_generator.state = progress.rng.bit_generator.state
        batch = training[order[progress.batch * size : (progress.batch + 1) * size]]
        if run.transform is not None:
            batch = _transformed(batch, run.transform, rng)
        x, y = batch.inputs(network, dtype), batch.targets(run.dynamics, dtype)
        update = rule(run.dynamics, progress.theta, x, y, phases.draw(rng))
        if own:
            update = _checked(update, run.record.name, progress.theta)
        gradient, outputs = update.gradient, run.dynamics.scores(progress.theta, update.free.state)
        if not np.isfinite(outputs).all():
            raise Diverged(
                f"the output is not finite in epoch {progress.epoch + 1}, batch {progress.batch + 1}"
            )
        theta, state = run.optimizer.step(progress.theta, gradient, progress.optimizer_state, factor)
        average = averaged(progress.average, theta, run.average, progress.averaged) if run.average else {}
        known = progress.converged is not None
        progress.commit(
            theta=theta,
            average=average,
            averaged=progress.averaged + bool(average),
            rng=rng,
            optimizer_state=state,
            epoch_start=epoch_start,
            batch=progress.batch + 1,
            size=len(training),
            batch_size=size,
            errors=progress.errors + batch.count_wrong(outputs),
            steps=progress.steps + update.free.steps,
            converged=(progress.converged or 0) + bool(update.free.converged) if known else None,
            seconds=progress.seconds + time.perf_counter() - start,
        )
        if _is_true(on_batch(progress)):
            return False
    return True


def _order(progress: Progress, size: int) -> tuple[dict[str, Any], np.random.Generator, Array]:
    """Return the shuffled order of the epoch, and the generator's state before and a generator after it.

    The order is the same one when a run resumes in the middle of the epoch.
    """
    rng = _copy(progress.rng)
    if progress.batch:
        rng.bit_generator.state = progress.epoch_start
    epoch_start = dict(rng.bit_generator.state)
    return epoch_start, rng, rng.permutation(size)


def _copy(rng: np.random.Generator) -> np.random.Generator:
    """Return a generator of the same state. A batch draws from a copy, which becomes valid with the batch."""
    copy = np.random.Generator(type(rng.bit_generator)(0))  # three times as fast as copy.deepcopy
    copy.bit_generator.state = rng.bit_generator.state
    return copy


def _transformed(
    batch: Samples, transform: Callable[[Array, np.random.Generator], Array], rng: np.random.Generator
) -> Samples:
    x = transform(batch.x, rng)
    if np.shape(x) != batch.x.shape:
        raise ValueError(f"transform must keep the shape {batch.x.shape} of a batch, got {np.shape(x)}")
    changed = np.asarray(x)
    if changed.dtype.kind != batch.x.dtype.kind:  # bytes would be scaled, and floats would not
        raise TypeError(f"transform must keep the dtype {batch.x.dtype} of a batch, got {changed.dtype}")
    return Samples(changed.astype(batch.x.dtype, copy=False), batch.y)


def _checked(update: Update, rule: str, theta: Theta) -> Update:
    """Return the update of a rule of one's own with a copy of the gradient, whose arrays the rule may keep.

    The gradient gets the dtype of θ.
    """
    check_kind("the result of the rule", update, Update, "an Update")
    wanted, found = (
        {name: np.shape(value) for name, value in values.items()} for values in (theta, update.gradient)
    )
    if wanted != found:
        raise ValueError(f"the gradient of rule {rule} must have the shapes {wanted}, got {found}")
    gradient = {name: np.array(g, theta[name].dtype) for name, g in update.gradient.items()}
    return Update(gradient, update.free)


def _require_finite(progress: Progress) -> None:
    for name, value in progress.theta.items():
        if not np.isfinite(value).all():
            raise Diverged(
                f"parameter {name} is not finite after epoch {progress.epoch + 1}, batch {progress.batch}"
            )


def _finish_epoch(run: Run, progress: Progress, size: int, errors: dict[str, float], seconds: float) -> None:
    """Append the epoch, with the validation errors, to the history, and set the counters to 0."""
    converged = progress.converged or 0
    unknown = progress.converged is None or not run.phases.schedule.tol
    record = {
        "train_error": 100 * progress.errors / size,
        **errors,
        "seconds": round(seconds, 2),
        "steps": float(progress.steps / progress.batch),
        "converged": None if unknown else converged / progress.batch,
        "weight_angle": weight_angle(run.dynamics.network, progress.theta),
    }
    history = {name: [*values, math.nan] for name, values in progress.history.items()}
    for name, value in record.items():
        if value is not None:
            history[name] = [*progress.history.get(name, []), value]
    progress.commit(
        epoch=progress.epoch + 1,
        batch=0,
        errors=0,
        steps=0.0,
        converged=0,
        seconds=seconds,
        history=history,
    )


@contextmanager
def above_the_bar() -> Iterator[None]:
    """Let lines that are printed in this context not run into a progress bar."""
    from tqdm.auto import tqdm

    with tqdm.external_write_mode(sys.stdout):
        yield


@contextmanager
def bar(run: Run, size: int, show: bool | None) -> Iterator[Callable[[Progress], None]]:
    """Show a progress bar over all batches, and yield the function to call after each batch.

    It is on standard error, on a terminal and in a notebook only, unless ``show`` says otherwise.
    """
    from tqdm.auto import tqdm  # a slow import, which only training needs

    hidden = _hidden(show)
    batches = -(-size // run.batch_size)
    with tqdm(total=batches * run.epochs, disable=hidden, leave=False, unit="batch", miniters=1) as shown:

        def advance(progress: Progress) -> None:
            if hidden:
                return
            done = progress.epoch * batches + progress.batch
            first = shown.n == 0
            if first:
                shown.initial = shown.n = shown.last_print_n = (
                    done - 1
                )  # a resumed run is timed from where it resumes
            error = 100 * progress.errors / min(progress.batch * run.batch_size, size)
            shown.set_description(f"epoch {progress.epoch + 1}/{run.epochs}", refresh=False)
            shown.set_postfix_str(f"error {error:.2f} %", refresh=False)
            shown.update(done - shown.n)
            if first:
                shown.refresh()

        yield advance


def _hidden(show: bool | None) -> bool:
    """Return whether a progress bar is hidden."""
    terminal = sys.stderr is not None and sys.stderr.isatty()
    return not (terminal or "ipykernel" in sys.modules) if show is None else not show


# ---- evaluation


def predict(dynamics: Dynamics, theta: Theta, X: Array, phases: Phases | None = None) -> Array:
    """Return the class of each sample: the index of the largest output at the steady state, shape (N,).

    With a readout the outputs are its scores.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    X : ndarray, shape (N, …)
        Floats, or bytes, which are scaled to [0, 1].
    phases : Phases, optional
        T and the schedule of the first phase, for example those of training, which stop earlier. Then the
        output of a sample may depend on the others by about the schedule's tolerance. By default the state
        converges in float64 to a tolerance of 1e-8, so that it does not depend on the others.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.

    Warns
    -----
    UserWarning
        If the state does not converge in 2000 synchronous steps, or if X is far outside [0, 1].
    """
    check_kind("dynamics", dynamics, Dynamics, "DiscreteTime(...) or RealTime(...)")
    number_of_classes(dynamics)
    labels: Array = _evaluate(dynamics, theta, X, None, phases)[1].argmax(axis=1)
    return labels


def outputs(dynamics: Dynamics, theta: Theta, X: Array, phases: Phases | None = None) -> Array:
    """Return the output of each sample at the steady state, shape (N, classes). See `predict`."""
    return _evaluate(dynamics, theta, X, None, phases)[1]


def error_rate(dynamics: Dynamics, theta: Theta, X: Array, y: Array, phases: Phases | None = None) -> float:
    """Return the share of wrong predictions in percent. See `predict`; y are labels or targets."""
    samples, found = _evaluate(dynamics, theta, X, y, phases)
    return 100 * samples.count_wrong(found) / len(samples)


def confusion_matrix(labels: Any, predictions: Any) -> Array:
    """Return how often each class was predicted for each label, shape (classes, classes).

    Row i and column j count the samples with label i and prediction j, where the classes are the sorted
    values that occur in ``labels`` or ``predictions``.

    Parameters
    ----------
    labels, predictions : array-like, shape (N,)
        Integers or other labels.

    Raises
    ------
    ValueError
        If the two do not have one entry for each of at least one sample.

    Examples
    --------
    >>> print(confusion_matrix([0, 0, 1, 2, 2], [0, 1, 1, 2, 0]))
    [[1 1 0]
     [0 1 0]
     [1 0 1]]
    """
    found = [np.asarray(values) for values in (labels, predictions)]
    if found[0].ndim != 1 or found[0].shape != found[1].shape or not len(found[0]):
        raise ValueError(
            f"labels and predictions must have the same shape (N,), got {found[0].shape} and {found[1].shape}"
        )
    classes = np.union1d(*found)
    counts = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(counts, tuple(np.searchsorted(classes, values) for values in found), 1)
    return counts


def _evaluate(
    dynamics: Dynamics, theta: Theta, X: Any, y: Any, phases: Phases | None
) -> tuple[Samples, Array]:
    """Return the samples, checked, and their outputs. Without y the labels are 0."""
    check_kind("dynamics", dynamics, Dynamics, "DiscreteTime(...) or RealTime(...)")
    network = dynamics.network
    _check_parameters(theta, dynamics)
    if y is None:
        x = check_inputs(network, X)
        samples = Samples(x, np.zeros(len(x), np.int64))
    else:
        samples = check_samples(dynamics, X, y)
    warn_if_far(3, X=samples.x)
    first_phase = output
    if phases is None:
        theta = {name: value.astype(np.float64) for name, value in theta.items()}
        phases, first_phase = _until_converged(network), _converged_output
    check_kind("phases", phases, Phases, "Phases(...)")
    with threadpool_limits(1, "blas"):
        return samples, _outputs(first_phase, dynamics, theta, samples, phases)


def _until_converged(network: Network) -> Phases:
    """Return the settings of a first phase that converges tightly."""
    return Phases(2000, 1, beta=1.0, schedule=tight_schedule(network, 1e-8))


def _converged_output(x: Array, dynamics: Dynamics, theta: Theta, phases: Phases) -> Array:
    _, free = free_phase(dynamics, theta, x, phases)
    if not free.converged:
        warnings.warn(
            f"the state did not converge in {free.steps} steps, and its last residual is "
            f"{free.residuals[-1]:.1e}: pass the phases of training to stop where training stops",
            stacklevel=5,
        )
    return dynamics.scores(theta, free.state)


def error_of(run: Run, theta: Theta, samples: Samples, show_progress: bool | None = False) -> float:
    """Return the share of wrong predictions in percent, with the first phase of a run's settings.

    Without ``per_sample`` in the schedule, the first phase of a batch of 250 samples stops when the slowest
    of them has converged, or after T steps. So the class of a sample can depend on its batch, if its two
    largest outputs differ by less than about the tolerance, or if it converges slowly. With ``per_sample``,
    as in the preset conv, it does not. ``tools/conv_convergence.py`` counts the classes that change in this
    way, and those that change if the states converge further. The recorded errors are those of the phases
    of training, so they stay so here. `predict` converges tightly by default.
    """
    first_phase = run.rule.outputs if isinstance(run.rule, SharedRule) else output
    found = _outputs(first_phase, run.dynamics, theta, samples, run.phases, show_progress)
    return 100 * samples.count_wrong(found) / len(samples)


def _outputs(
    first_phase: Callable[..., Array],
    dynamics: Dynamics,
    theta: Theta,
    samples: Samples,
    phases: Phases,
    show_progress: bool | None = False,
) -> Array:
    from tqdm.auto import tqdm

    dtype = next(iter(theta.values())).dtype
    found = []
    with tqdm(
        total=len(samples),
        desc="evaluating",
        unit="sample",
        leave=False,
        delay=DELAY,
        disable=_hidden(show_progress),
    ) as shown:
        for i in range(0, len(samples), EVALUATION_BATCH):
            x = samples[i : i + EVALUATION_BATCH].inputs(dynamics.network, dtype)
            found.append(first_phase(x, dynamics, theta, phases))
            shown.update(len(x))
    return np.concatenate(found)
