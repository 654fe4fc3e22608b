"""Optimizers: how a step of training changes θ with the gradient dL/dθ.

An optimizer is a value without state. Its state, one array per parameter for momentum and two for Adam, is
a dict that `fit` keeps in its `Progress`, so that a resumed run continues exactly. A step returns θ and the
state as new arrays and leaves the old ones as they are, so that an interrupt in the middle loses nothing.

A rate schedule maps the epoch, counted from 0, to a factor on every learning rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import as_python, check_integer, describe, is_number
from eqprop_np.network import Theta, is_weight

OptimizerState = dict[str, Array]


class Optimizer(Protocol):
    """The contract of an optimizer."""

    def init(self, theta: Theta) -> OptimizerState:
        """Return the state before the first step."""
        ...

    def step(
        self, theta: Theta, gradient: Theta, state: OptimizerState, factor: float = 1.0
    ) -> tuple[Theta, OptimizerState]:
        """Return θ and the state after one step. ``theta`` and ``state`` are not changed.

        The arrays of ``gradient`` may be overwritten or become those of θ: do not use them afterwards.
        ``factor`` multiplies the learning rates.
        """
        ...


@dataclass(frozen=True)
class SGD:
    """Stochastic gradient descent, optionally with momentum and weight decay.

        v ← μ v + dL/dw + λ w,    w ← w − η v

    Parameters
    ----------
    learning_rates : float or dict
        η, for all parameters or by the parameter's name.
    momentum : float
        μ, from 0 to below 1.
    weight_decay : float
        λ. It acts on the weights and not on the biases.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Examples
    --------
    >>> theta = {"w0-1": np.array([[1.0]]), "b1": np.array([1.0])}
    >>> sgd = SGD({"w0-1": 0.5, "b1": 0.1})
    >>> theta, state = sgd.step(theta, {"w0-1": np.array([[1.0]]), "b1": np.array([1.0])}, sgd.init(theta))
    >>> print(theta["w0-1"], theta["b1"])
    [[0.5]] [0.9]
    """

    learning_rates: float | Mapping[str, float]
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.learning_rates)
        check_range("momentum", self.momentum, 0, 1)
        check_range("weight_decay", self.weight_decay, 0, math.inf)
        for name in ("momentum", "weight_decay"):  # a NumPy number would change the dtype of θ
            object.__setattr__(self, name, as_python(getattr(self, name)))

    @property
    def is_plain(self) -> bool:
        """Whether this is gradient descent without momentum and weight decay."""
        return self.momentum == 0 and self.weight_decay == 0

    def rates(self, names: Mapping[str, Any], factor: float = 1.0) -> dict[str, float]:
        """Return η of each parameter, times ``factor``."""
        return {name: rate * factor for name, rate in rates_of(self.learning_rates, names).items()}

    def init(self, theta: Theta) -> OptimizerState:
        """Return the velocities v, if there is momentum."""
        return {f"v/{name}": np.zeros_like(w) for name, w in theta.items()} if self.momentum else {}

    def step(
        self, theta: Theta, gradient: Theta, state: OptimizerState, factor: float = 1.0
    ) -> tuple[Theta, OptimizerState]:
        """Return θ and the state after one step. The arrays of ``gradient`` are overwritten."""
        rates, new_theta, new_state = self.rates(theta, factor), {}, {}
        for name, w in theta.items():
            v = gradient[name]
            if self.weight_decay and is_weight(name):
                v = v + self.weight_decay * w
            if self.momentum:
                v = new_state[f"v/{name}"] = self.momentum * state[f"v/{name}"] + v
            new_theta[name] = _descended(w, rates[name], v.copy() if self.momentum else v)
        return new_theta, new_state


@dataclass(frozen=True)
class Adam:
    """Adam (Kingma and Ba, 2015), with decoupled weight decay (Loshchilov and Hutter, 2019).

        m ← β₁ m + (1 − β₁) g,    v ← β₂ v + (1 − β₂) g²
        w ← w − η (m/(1 − β₁ᵗ) / (√(v/(1 − β₂ᵗ)) + ε) + λ w)

    Parameters
    ----------
    learning_rates : float or dict
        η, for all parameters or by the parameter's name.
    beta1, beta2 : float
        The decay rates of the two running means.
    epsilon : float
        ε, which prevents a division by 0.
    weight_decay : float
        λ. It acts on the weights and not on the biases.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.
    """

    learning_rates: float | Mapping[str, float] = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.learning_rates)
        check_range("beta1", self.beta1, 0, 1)
        check_range("beta2", self.beta2, 0, 1)
        check_range("weight_decay", self.weight_decay, 0, math.inf)
        _check_positive("epsilon", self.epsilon)
        for name in ("beta1", "beta2", "epsilon", "weight_decay"):
            object.__setattr__(self, name, as_python(getattr(self, name)))

    def init(self, theta: Theta) -> OptimizerState:
        """Return the running means m and v of each parameter, and the number of steps t."""
        means = {f"{mean}/{name}": np.zeros_like(w) for mean in "mv" for name, w in theta.items()}
        return means | {"t": np.zeros((), np.int64)}

    def step(
        self, theta: Theta, gradient: Theta, state: OptimizerState, factor: float = 1.0
    ) -> tuple[Theta, OptimizerState]:
        """Return θ and the state after one step. No argument is changed."""
        t, rates, new_theta = int(state["t"]) + 1, rates_of(self.learning_rates, theta), {}
        new_state: OptimizerState = {"t": np.array(t, np.int64)}
        for name, w in theta.items():
            g = gradient[name]
            m = new_state[f"m/{name}"] = self.beta1 * state[f"m/{name}"] + (1 - self.beta1) * g
            v = new_state[f"v/{name}"] = self.beta2 * state[f"v/{name}"] + (1 - self.beta2) * g**2
            step = (m / (1 - self.beta1**t)) / (np.sqrt(v / (1 - self.beta2**t)) + self.epsilon)
            if self.weight_decay and is_weight(name):
                step += self.weight_decay * w
            new_theta[name] = _descended(w, rates[name] * factor, step)
        return new_theta, new_state


def rates_of(learning_rates: float | Mapping[str, float], names: Mapping[str, Any]) -> dict[str, float]:
    """Return the learning rate of each parameter, as a number of Python, which keeps the dtype of θ.

    Raises
    ------
    ValueError
        If the rates are given by name and the names are not exactly those of θ.
    """
    if not isinstance(learning_rates, Mapping):
        return dict.fromkeys(names, float(learning_rates))
    if learning_rates.keys() != names.keys():
        raise ValueError(
            f"learning_rates must have the parameters {', '.join(names)}, got {', '.join(learning_rates)}"
        )
    return {name: float(rate) for name, rate in learning_rates.items()}


def _descended(w: Array, rate: float, direction: Array) -> Array:
    """Return w − rate · direction, written into the array of the direction, which saves memory traffic."""
    direction *= rate
    return np.subtract(w, direction, out=direction)


def _check_rates(learning_rates: float | Mapping[str, float]) -> None:
    rates = learning_rates.values() if isinstance(learning_rates, Mapping) else (learning_rates,)
    for rate in rates:
        if not is_number(rate) or rate < 0:
            raise ValueError(f"learning_rates must be finite numbers from 0, got {describe(rate)}")


def check_range(name: str, value: float, low: float, high: float) -> None:
    """Raise an error if this is not a finite number from ``low`` to below ``high``."""
    if not is_number(value) or not low <= value < high:
        wanted = f"from {low} to below {high}" if high < math.inf else f"from {low}"
        raise ValueError(f"{name} must be a finite number {wanted}, got {describe(value)}")


def _check_positive(name: str, value: float) -> None:
    if not is_number(value) or value <= 0:
        raise ValueError(f"{name} must be a positive finite number, got {describe(value)}")


# ---- the average of the parameters


def averaged(average: Theta, theta: Theta, decay: float, t: int) -> Theta:
    """Return the exponential moving average ⟨θ⟩ of the parameters after one more batch, as new arrays.

        ⟨θ⟩ ← ⟨θ⟩ − (1 − d) (⟨θ⟩ − θ),    d = min(decay, (1 + t) / (10 + t))

    The smaller d of the first batches lets the average forget the initial θ, with which it begins.

    Parameters
    ----------
    average : dict of ndarray
        ⟨θ⟩ before; the initial θ at the beginning.
    theta : dict of ndarray
        θ after the batch.
    decay : float
        From 0 to below 1. The average covers about the last 1/(1 − decay) batches.
    t : int
        The number of batches that the average already covers.

    Examples
    --------
    >>> average = {"b1": np.array([1.0])}
    >>> for t in range(3):
    ...     average = averaged(average, {"b1": np.array([2.0])}, 0.99, t)
    >>> print(average["b1"].round(4))
    [1.9955]
    """
    d = float(min(decay, (1 + t) / (10 + t)))
    return {name: _descended(mean, 1 - d, mean - theta[name]) for name, mean in average.items()}


# ---- schedules of the learning rate


class RateSchedule(Protocol):
    """Maps the epoch, counted from 0, to a factor on every learning rate."""

    def __call__(self, epoch: int) -> float: ...


@dataclass(frozen=True)
class Exponential:
    """The factor decay^epoch. ``Exponential(1.0)`` is constant.

    Parameters
    ----------
    decay : float
        The factor of one epoch, positive.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Examples
    --------
    >>> print([Exponential(0.5)(epoch) for epoch in range(3)])
    [1.0, 0.5, 0.25]
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("decay", self.decay)
        object.__setattr__(self, "decay", as_python(self.decay))

    def __call__(self, epoch: int) -> float:
        return float(self.decay**epoch)


@dataclass(frozen=True)
class Steps:
    """The factor decay^⌊epoch / every⌋: one more factor ``decay`` after each ``every`` epochs.

    Parameters
    ----------
    every : int
        The number of epochs between two steps.
    decay : float
        The factor of one step, positive.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Examples
    --------
    >>> print([Steps(2, 0.1)(epoch) for epoch in range(4)])
    [1.0, 1.0, 0.1, 0.1]
    """

    every: int
    decay: float = 0.1

    def __post_init__(self) -> None:
        check_integer("every", self.every, least=1)
        _check_positive("decay", self.decay)
        object.__setattr__(self, "every", as_python(self.every))
        object.__setattr__(self, "decay", as_python(self.decay))

    def __call__(self, epoch: int) -> float:
        return float(self.decay ** (epoch // self.every))


@dataclass(frozen=True)
class Cosine:
    """A cosine from 1 in the first epoch towards 0 after ``epochs``.

    Parameters
    ----------
    epochs : int
        The number of epochs of the schedule.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Examples
    --------
    >>> print([round(Cosine(4)(epoch), 3) for epoch in range(4)])
    [1.0, 0.854, 0.5, 0.146]
    """

    epochs: int

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, least=1)
        object.__setattr__(self, "epochs", as_python(self.epochs))

    def __call__(self, epoch: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(epoch, self.epochs) / self.epochs))


@dataclass(frozen=True)
class Warmup:
    """Smaller factors in the first ``epochs``, which rise linearly, and then another schedule.

    In these epochs the factor is (epoch + 1) / (epochs + 1) times the first one of ``then``.

    Parameters
    ----------
    epochs : int
        The number of epochs of the rise.
    then : callable
        The schedule after it; constant by default.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Examples
    --------
    >>> print([round(Warmup(2, Exponential(0.5))(epoch), 3) for epoch in range(5)])
    [0.333, 0.667, 1.0, 0.5, 0.25]
    """

    epochs: int
    then: RateSchedule = Exponential()

    def __post_init__(self) -> None:
        check_integer("epochs", self.epochs, least=1)
        object.__setattr__(self, "epochs", as_python(self.epochs))
        if not callable(self.then):
            raise TypeError(f"then must be a schedule such as Exponential(0.9), got {describe(self.then)}")

    def __call__(self, epoch: int) -> float:
        if epoch < self.epochs:
            return self.then(0) * (epoch + 1) / (self.epochs + 1)
        return self.then(epoch - self.epochs)
