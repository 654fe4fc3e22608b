"""Optimizers: how a step of training changes θ with the gradient dL/dθ.

An optimizer is a value without state. Its state, one array per parameter for momentum and two for Adam, is
a dict that `fit` keeps in its `Progress`, so that a resumed run continues exactly.

A rate schedule maps the epoch, counted from 0, to a factor on every learning rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.network import Theta


class Optimizer(Protocol):
    """The contract of an optimizer."""

    def init(self, theta: Theta) -> dict[str, Array]:
        """Return the state before the first step."""
        ...

    def step(self, theta: Theta, gradient: Theta, state: dict[str, Array], factor: float) -> None:
        """Write one step into ``theta`` and ``state``. ``gradient`` may be overwritten.

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

    Examples
    --------
    >>> theta = {"w0-1": np.array([[1.0]]), "b1": np.array([1.0])}
    >>> sgd = SGD({"w0-1": 0.5, "b1": 0.1})
    >>> sgd.step(theta, {"w0-1": np.array([[1.0]]), "b1": np.array([1.0])}, sgd.init(theta), 1.0)
    >>> print(theta["w0-1"], theta["b1"])
    [[0.5]] [0.9]
    """

    learning_rates: float | Mapping[str, float]
    momentum: float = 0.0
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.learning_rates)
        _check_range("momentum", self.momentum, 0, 1)
        _check_range("weight_decay", self.weight_decay, 0, math.inf)

    @property
    def is_plain(self) -> bool:
        """Whether this is gradient descent without momentum and weight decay."""
        return self.momentum == 0 and self.weight_decay == 0

    def rates(self, theta: Theta, factor: float = 1.0) -> dict[str, float]:
        """Return η of each parameter, times ``factor``."""
        return {name: rate * factor for name, rate in rates_of(self.learning_rates, theta).items()}

    def init(self, theta: Theta) -> dict[str, Array]:
        """Return the velocities v, if there is momentum."""
        return {f"v/{name}": np.zeros_like(w) for name, w in theta.items()} if self.momentum else {}

    def step(self, theta: Theta, gradient: Theta, state: dict[str, Array], factor: float) -> None:
        """Write one step into ``theta`` and ``state``. ``gradient`` is overwritten."""
        rates = self.rates(theta, factor)
        for name, g in gradient.items():
            if self.weight_decay:
                g += _decay(self.weight_decay, name, theta)
            if self.momentum:
                v = state[f"v/{name}"]
                v *= self.momentum
                v += g
                g[...] = v
            g *= rates[name]
            theta[name] -= g


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
    """

    learning_rates: float | Mapping[str, float] = 1e-3
    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    weight_decay: float = 0.0

    def __post_init__(self) -> None:
        _check_rates(self.learning_rates)
        _check_range("beta1", self.beta1, 0, 1)
        _check_range("beta2", self.beta2, 0, 1)
        _check_range("weight_decay", self.weight_decay, 0, math.inf)
        if not 0 < self.epsilon < math.inf:
            raise ValueError(f"epsilon must be positive and finite, got {self.epsilon}")

    def init(self, theta: Theta) -> dict[str, Array]:
        """Return the running means m and v of each parameter, and the number of steps t."""
        means = {f"{mean}/{name}": np.zeros_like(w) for mean in "mv" for name, w in theta.items()}
        return means | {"t": np.zeros((), np.int64)}

    def step(self, theta: Theta, gradient: Theta, state: dict[str, Array], factor: float) -> None:
        """Write one step into ``theta`` and ``state``."""
        state["t"] += 1
        t, rates = int(state["t"]), rates_of(self.learning_rates, theta)
        for name, g in gradient.items():
            m, v = state[f"m/{name}"], state[f"v/{name}"]
            m += (1 - self.beta1) * (g - m)
            v += (1 - self.beta2) * (g * g - v)
            step = (m / (1 - self.beta1**t)) / (np.sqrt(v / (1 - self.beta2**t)) + self.epsilon)
            step += _decay(self.weight_decay, name, theta)
            theta[name] -= rates[name] * factor * step


def rates_of(learning_rates: float | Mapping[str, float], theta: Theta) -> dict[str, float]:
    """Return the learning rate of each parameter.

    Raises
    ------
    ValueError
        If the rates are given by name and are not exactly those of θ.
    """
    if not isinstance(learning_rates, Mapping):
        return dict.fromkeys(theta, float(learning_rates))
    if learning_rates.keys() != theta.keys():
        raise ValueError(
            f"learning_rates must have the parameters {', '.join(theta)}, got {', '.join(learning_rates)}"
        )
    return dict(learning_rates)


def _decay(weight_decay: float, name: str, theta: Theta) -> Array | float:
    """Return λ w for a weight, and 0 for a bias, whose array has one dimension."""
    return weight_decay * theta[name] if theta[name].ndim > 1 else 0.0


def _check_rates(learning_rates: float | Mapping[str, float]) -> None:
    rates = learning_rates.values() if isinstance(learning_rates, Mapping) else (learning_rates,)
    for rate in rates:
        if isinstance(rate, str | bool | complex) or not 0 <= rate < math.inf:
            raise ValueError(f"learning_rates must be finite numbers from 0, got {rate!r}")


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if isinstance(value, str | bool | complex) or not low <= value < high:
        raise ValueError(f"{name} must be a number from {low} to below {high}, got {value!r}")


# ---- schedules of the learning rate


class RateSchedule(Protocol):
    """Maps the epoch, counted from 0, to a factor on every learning rate."""

    def __call__(self, epoch: int) -> float: ...


@dataclass(frozen=True)
class Exponential:
    """The factor decay^epoch. ``Exponential(1.0)`` is constant.

    Examples
    --------
    >>> print([Exponential(0.5)(epoch) for epoch in range(3)])
    [1.0, 0.5, 0.25]
    """

    decay: float = 1.0

    def __post_init__(self) -> None:
        if not 0 < self.decay < math.inf:
            raise ValueError(f"decay must be positive and finite, got {self.decay}")

    def __call__(self, epoch: int) -> float:
        return float(self.decay**epoch)


@dataclass(frozen=True)
class Steps:
    """The factor ``decay`` once more after each ``every`` epochs.

    Examples
    --------
    >>> print([Steps(2, 0.1)(epoch) for epoch in range(4)])
    [1.0, 1.0, 0.1, 0.1]
    """

    every: int
    decay: float = 0.1

    def __post_init__(self) -> None:
        if self.every < 1 or not 0 < self.decay < math.inf:
            raise ValueError(f"every must be at least 1 and decay positive, got {self.every}, {self.decay}")

    def __call__(self, epoch: int) -> float:
        return float(self.decay ** (epoch // self.every))


@dataclass(frozen=True)
class Cosine:
    """A cosine from 1 in the first epoch towards 0 after ``epochs``.

    Examples
    --------
    >>> print([round(Cosine(4)(epoch), 3) for epoch in range(4)])
    [1.0, 0.854, 0.5, 0.146]
    """

    epochs: int

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"epochs must be at least 1, got {self.epochs}")

    def __call__(self, epoch: int) -> float:
        return 0.5 * (1 + math.cos(math.pi * min(epoch, self.epochs) / self.epochs))
