"""The cost ℓ = ½‖ŷ − y‖² and its derivative, which nudges the output.

The abstract prints ½‖ŷ − y‖; the square is meant, or the nudge would not be elastic.
"""

from eqprop_np.activations import Array


def cost(output: Array, target: Array) -> Array:
    """ℓ for each sample of a batch: ``output`` and ``target`` are (B, classes), the result (B,)."""
    return 0.5 * ((output - target) ** 2).sum(axis=1)


def cost_derivative(output: Array, target: Array) -> Array:
    """∂ℓ/∂ŷ = ŷ − y, of shape (B, classes)."""
    return output - target
