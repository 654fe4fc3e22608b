"""Activation functions σ of Eq. (3), each with its derivatives σ′ and σ″.

The published experiments use the sigmoid and the hard sigmoid. The figures of Theorem 1 use tanh.
Each function takes an array of floats with at least one dimension and returns one of its shape and dtype.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


@dataclass(frozen=True)
class Activation:
    """An activation function σ with its derivatives.

    Parameters
    ----------
    name : str
        The name that messages and files use.
    value, derivative, second : callable
        σ, σ′ and σ″. Each maps an array to a new array of the same shape and dtype. σ″ is needed for
        gradients through real-time dynamics only.
    derivative_from_value : callable, optional
        The map from σ(a) to σ′(a), where it is cheaper than σ′ itself.

    Raises
    ------
    TypeError
        If ``value``, ``derivative`` or ``second`` is not a function.

    Examples
    --------
    >>> import numpy as np
    >>> softplus = Activation(
    ...     "softplus",
    ...     value=lambda a: np.logaddexp(0, a),
    ...     derivative=lambda a: 1 / (1 + np.exp(-a)),
    ...     second=lambda a: 1 / (2 + np.exp(a) + np.exp(-a)),
    ... )
    >>> print(softplus.derivative(np.array([-1.0, 0.0, 1.0])).round(3))
    [0.269 0.5   0.731]
    """

    name: str
    value: Callable[[Array], Array] = field(repr=False)
    derivative: Callable[[Array], Array] = field(repr=False)
    second: Callable[[Array], Array] = field(repr=False)
    derivative_from_value: Callable[[Array], Array] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        for name in ("value", "derivative", "second"):
            if not callable(function := getattr(self, name)):
                raise TypeError(f"{name} must be a function of an array, got {function!r}")

    def slope(self, a: Array, value: Array) -> Array:
        """Return σ′(a), computed from ``value`` = σ(a) where the activation offers that."""
        return self.derivative(a) if self.derivative_from_value is None else self.derivative_from_value(value)


def refuse_complex(a: Array, what: str) -> None:
    """Raise a TypeError if ``a`` is complex, because ``what`` is not an analytic function."""
    if a.dtype.kind == "c":
        raise TypeError(
            f"{what} is not analytic and takes real numbers only, got {a.dtype}: "
            "use a smooth activation without clamping, and no max-pooling"
        )


def _sigmoid(a: Array) -> Array:
    # 1 / (1 + exp(−4(a − ½))) = ½ + ½ tanh(2a − 1), a form that cannot overflow.
    value: Array = 2 * a
    value -= 1
    np.tanh(value, out=value)
    value *= 0.5
    value += 0.5
    return value


def _sigmoid_derivative(a: Array) -> Array:
    return _sigmoid_derivative_from_value(_sigmoid(a))


def _sigmoid_derivative_from_value(value: Array) -> Array:
    slope: Array = 1 - value
    slope *= value
    slope *= 4
    return slope


def _sigmoid_second(a: Array) -> Array:
    t = np.tanh(2 * a - 1)
    return -4 * t * (1 - t**2)


def _hard_sigmoid(a: Array) -> Array:
    refuse_complex(a, "the hard sigmoid")
    return np.clip(a, 0, 1)


def _hard_sigmoid_derivative(a: Array) -> Array:
    refuse_complex(a, "the hard sigmoid")
    # The derivative is 1 at both kinks, because a neuron that starts at 0 must be able to leave it.
    return ((a >= 0) & (a <= 1)).astype(a.dtype)


def _tanh_derivative(a: Array) -> Array:
    return _tanh_derivative_from_value(np.tanh(a))


def _tanh_derivative_from_value(value: Array) -> Array:
    return 1 - value**2


def _tanh_second(a: Array) -> Array:
    t = np.tanh(a)
    return -2 * t * (1 - t**2)


sigmoid = Activation(
    "sigmoid", _sigmoid, _sigmoid_derivative, _sigmoid_second, _sigmoid_derivative_from_value
)
"""1 / (1 + exp(−4(a − ½))), the "sigmoid" of the published experiments."""

hard_sigmoid = Activation("hard_sigmoid", _hard_sigmoid, _hard_sigmoid_derivative, np.zeros_like)
"""clip(a, 0, 1). Its derivative is 1 on the closed interval [0, 1] and 0 elsewhere."""

tanh = Activation("tanh", np.tanh, _tanh_derivative, _tanh_second, _tanh_derivative_from_value)
"""The hyperbolic tangent, used for the figures of Theorem 1."""

ACTIVATIONS = {sigma.name: sigma for sigma in (sigmoid, hard_sigmoid, tanh)}
