"""The cost ℓ, whose derivative nudges the last layer: a plain `Cost`, or a `Readout` with parameters.

The abstract prints ℓ = ½‖ŷ − y‖. The square is meant, because the nudge is elastic: −β ∂ℓ/∂ŷ = β(y − ŷ).

Both kinds have the same methods, so no caller checks the class. They return the parameters that the
cost adds to θ, the plain cost at these parameters, its derivative with respect to them, the shape of the
target, and the scores of the classes. A plain cost has no parameters, and its scores are the last layer.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import prod

import numpy as np
from numpy.typing import DTypeLike

from eqprop_np.activations import Array
from eqprop_np.checks import check_integer, check_kind
from eqprop_np.connections import Shape, flat


@dataclass(frozen=True)
class Cost:
    """A cost ℓ(ŷ, y) with its derivative.

    Parameters
    ----------
    name : str
        The name that messages use.
    value : callable
        Maps the output and the target, both (B, classes), to ℓ of each sample, (B,).
    derivative : callable
        Maps them to ∂ℓ/∂ŷ of each sample, (B, classes).

    Examples
    --------
    >>> absolute_error = Cost(
    ...     "absolute error",
    ...     value=lambda output, target: np.abs(output - target).sum(axis=1),
    ...     derivative=lambda output, target: np.sign(output - target),
    ... )
    >>> print(absolute_error.derivative(np.array([[0.2, 0.9]]), np.array([[1.0, 0.0]])))
    [[-1.  1.]]
    """

    name: str
    value: Callable[[Array, Array], Array] = field(repr=False)
    derivative: Callable[[Array, Array], Array] = field(repr=False)

    nudges_drive = False
    """In discrete time the nudge is added to the output, outside σ, as in Eq. (3)."""

    def parameter_shapes(self, layer: Shape) -> dict[str, Shape]:
        """Return the parameters of the cost for a last layer of this shape: none."""
        return {}

    def init(self, layer: Shape, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Return random parameters: none."""
        return {}

    def at(self, theta: Mapping[str, Array]) -> "Cost":
        """Return the plain cost at these parameters: this one."""
        return self

    def gradient(self, theta: Mapping[str, Array], s: Array, target: Array) -> dict[str, Array]:
        """Return ∂ℓ/∂θ at the last layer s: no parameters, no derivative."""
        return {}

    def target_shape(self, layer: Shape) -> Shape:
        """Return the shape of a sample's target for a last layer of this shape: that shape."""
        return layer

    def scores(self, theta: Mapping[str, Array], s: Array) -> Array:
        """Return the scores of the classes, of which the largest is the prediction: the last layer."""
        return s


def _squared_error(output: Array, target: Array) -> Array:
    total: Array = 0.5 * ((output - target) ** 2).sum(axis=tuple(range(1, output.ndim)))
    return total


squared_error = Cost("squared error", _squared_error, np.subtract)
"""ℓ = ½‖ŷ − y‖² with ∂ℓ/∂ŷ = ŷ − y, the cost of the abstract."""


def _softmax(z: Array) -> Array:
    exponentials = np.exp(z - z.max(axis=1, keepdims=True))
    probabilities: Array = exponentials / exponentials.sum(axis=1, keepdims=True)
    return probabilities


def _cross_entropy(z: Array, target: Array) -> Array:
    shifted = z - z.max(axis=1, keepdims=True)
    log_probabilities = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    total: Array = -(target * log_probabilities).sum(axis=1)
    return total


def _cross_entropy_derivative(z: Array, target: Array) -> Array:
    total = target.sum(axis=1, keepdims=True)  # Σ_k y_k, which is 1 for a one-hot y
    difference: Array = total * _softmax(z) - target
    return difference


cross_entropy = Cost("cross-entropy", _cross_entropy, _cross_entropy_derivative)
"""ℓ = −Σ_k y_k log ŷ_k with ŷ = softmax(z) and ∂ℓ/∂z = ŷ − y, a cost of scores z, for `Readout`."""


@dataclass(frozen=True)
class Readout:
    """A cost of the scores z = s^N W + c, where s^N is the last layer of the network, as a flat vector.

    The readout takes the place of the output layer, outside the dynamics: s^N is then a hidden layer
    without a target of its own. ℓ(z, y) nudges it by −β (∂ℓ/∂z) Wᵀ, and W and c follow ∂ℓ/∂(W, c). In real
    time too z is computed from s^N itself, not from ρ(s^N). The rules ep, bptt, implicit and asymep train
    W and c.

    Parameters
    ----------
    classes : int
        The number of scores.
    loss : Cost
        ℓ(z, y); the cross-entropy by default.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Notes
    -----
    Source: A. Laborieux, M. Ernoult, B. Scellier, Y. Bengio, J. Grollier, D. Querlioz, *Scaling Equilibrium
    Propagation to Deep ConvNets by Drastically Reducing Its Gradient Estimator Bias*, Frontiers in
    Neuroscience 15 (2021), arXiv:2006.03824.

    Examples
    --------
    >>> readout = Readout(classes=2)
    >>> print(readout.parameter_shapes((4, 4, 64)))
    {'w-readout': (1024, 2), 'b-readout': (2,)}
    >>> theta = {"w-readout": np.eye(2), "b-readout": np.zeros(2)}
    >>> s, y = np.array([[0.0, np.log(3)]]), np.array([[1.0, 0.0]])
    >>> print(readout.at(theta).derivative(s, y))
    [[-0.75  0.75]]
    """

    classes: int
    loss: Cost = cross_entropy

    nudges_drive = True
    """In discrete time the nudge is added to the drive of s^N, inside σ (`eqprop_np.DiscreteTime`)."""

    def __post_init__(self) -> None:
        check_integer("classes", self.classes, least=1)
        check_kind("loss", self.loss, Cost, "a Cost such as cross_entropy")

    @property
    def name(self) -> str:
        """The name that messages use."""
        return f"{self.loss.name} of a readout"

    def parameter_shapes(self, layer: Shape) -> dict[str, Shape]:
        """Return the names and shapes of W and c for a last layer of this shape."""
        return {"w-readout": (prod(layer), self.classes), "b-readout": (self.classes,)}

    def init(self, layer: Shape, rng: np.random.Generator, dtype: DTypeLike) -> dict[str, Array]:
        """Return random W and c, uniform in ±1/√fan_in as the network's parameters."""
        scale = np.sqrt(prod(layer), dtype=dtype)
        shapes = self.parameter_shapes(layer)
        return {name: rng.uniform(-1, 1, shape).astype(dtype) / scale for name, shape in shapes.items()}

    def at(self, theta: Mapping[str, Array]) -> Cost:
        """Return the plain cost of (s^N, y) at the parameters in θ."""

        def derivative(s: Array, target: Array) -> Array:
            force = self.loss.derivative(self.scores(theta, s), target)  # ∂ℓ/∂z
            return (force @ theta["w-readout"].T).reshape(s.shape)

        return Cost(self.name, lambda s, target: self.loss.value(self.scores(theta, s), target), derivative)

    def gradient(self, theta: Mapping[str, Array], s: Array, target: Array) -> dict[str, Array]:
        """Return ∂ℓ/∂W and ∂ℓ/∂c at s^N = s, the mean over the batch."""
        force = self.loss.derivative(self.scores(theta, s), target) / len(s)  # ∂ℓ/∂z
        return {"w-readout": flat(s).T @ force, "b-readout": force.sum(axis=0)}

    def target_shape(self, layer: Shape) -> Shape:
        """Return the shape of a sample's target: one number for each class."""
        return (self.classes,)

    def scores(self, theta: Mapping[str, Array], s: Array) -> Array:
        """Return z = s^N W + c for s^N = s, shape (B, classes)."""
        z: Array = flat(s) @ theta["w-readout"] + theta["b-readout"]
        return z
