"""σ, σ′ and σ″ of Eq. (3): the sigmoid and hard sigmoid of the experiments, the tanh of the theorem.

Each works on real or complex arrays of any shape and keeps their dtype. The hard sigmoid is not
smooth and so takes real arrays only.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class Activation(NamedTuple):
    """An activation function σ with its derivatives.

    ``value(a, out=None)``, ``derivative(a)`` and ``second(a)``, which is σ″, map an array to one of the
    same shape and dtype; ``value`` writes into ``out`` where one is given, which may be ``a`` itself.
    """

    name: str
    value: Callable[..., Array]
    derivative: Callable[[Array], Array]
    second: Callable[[Array], Array]


def _sigmoid(a: Array, out: Array | None = None) -> Array:
    # 1 / (1 + exp(-4(a - 1/2))) written as 1/2 + tanh(2a - 1)/2: it cannot overflow.
    out = np.multiply(a, 2, out=out)
    out -= 1
    np.tanh(out, out=out)
    out *= 0.5
    out += 0.5
    return out


def _sigmoid_derivative(a: Array) -> Array:
    return 1 - np.tanh(2 * a - 1) ** 2


def _sigmoid_second(a: Array) -> Array:
    t = np.tanh(2 * a - 1)
    return -4 * t * (1 - t**2)


def _hard_sigmoid(a: Array, out: Array | None = None) -> Array:
    return np.clip(a, 0, 1, out=out)


def _hard_sigmoid_derivative(a: Array) -> Array:
    # 1 at both kinks: a neuron that starts at 0 must be able to leave it.
    return ((a >= 0) & (a <= 1)).astype(a.dtype)


def _tanh(a: Array, out: Array | None = None) -> Array:
    return np.tanh(a, out=out)


def _tanh_derivative(a: Array) -> Array:
    return 1 - np.tanh(a) ** 2


def _tanh_second(a: Array) -> Array:
    t = np.tanh(a)
    return -2 * t * (1 - t**2)


sigmoid = Activation("sigmoid", _sigmoid, _sigmoid_derivative, _sigmoid_second)
"""1 / (1 + exp(-4(a - 1/2))): the "sigmoid" of the published experiments, steep and centred at 1/2."""

hard_sigmoid = Activation("hard_sigmoid", _hard_sigmoid, _hard_sigmoid_derivative, np.zeros_like)
"""clip(a, 0, 1), with derivative 1 on the closed interval [0, 1]."""

tanh = Activation("tanh", _tanh, _tanh_derivative, _tanh_second)
"""The hyperbolic tangent, of the theorem's figures."""

ACTIVATIONS = {sigma.name: sigma for sigma in (sigmoid, hard_sigmoid, tanh)}
