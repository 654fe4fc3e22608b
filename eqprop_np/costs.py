"""The cost ℓ, whose derivative nudges the output.

The abstract prints ℓ = ½‖ŷ − y‖. The square is meant, because the nudge is elastic: −β ∂ℓ/∂ŷ = β(y − ŷ).
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from eqprop_np.activations import Array


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


def _squared_error(output: Array, target: Array) -> Array:
    total: Array = 0.5 * ((output - target) ** 2).sum(axis=tuple(range(1, output.ndim)))
    return total


squared_error = Cost("squared error", _squared_error, np.subtract)
"""ℓ = ½‖ŷ − y‖² with ∂ℓ/∂ŷ = ŷ − y, the cost of the abstract."""
