"""Plain backpropagation through a feed-forward network, with which the benchmark compares a learning rule.

The network has the layers, the activation σ and the cost of a chain, but each layer sees the layer before it
only, and with the forward weights only:

    s^n = σ(drive of s^{n−1} + b^n),    s^0 = x

`descend` is written for speed, because it is a yardstick. It scales the small array ∂L/∂drive by the learning
rate, not the gradient of the weight, and changes θ in place. Keeping the patches that `im2col` copies in the
forward pass, for the gradient, would save little of its time for `conv`, and nothing for dense layers.
"""

from collections.abc import Mapping
from typing import NamedTuple

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Theta


class Layer(NamedTuple):
    """A layer of the feed-forward network: its drive, σ(drive), and the switches of the max-pool below it."""

    drive: Array
    value: Array
    switches: Array | None


def forward(dynamics: Dynamics, theta: Theta, x: Array) -> list[Layer]:
    """Return the layers from the first to the output. The network must be a chain."""
    layers: list[Layer] = []
    for c in dynamics.network.connections:
        drive, switches = c.to_post(theta[c.name], layers[-1].value if layers else x)
        drive += theta[f"b{c.post}"]
        layers.append(Layer(drive, dynamics.sigma.value(drive), switches))
    return layers


def descend(dynamics: Dynamics, theta: Theta, x: Array, y: Array, rates: Mapping[str, float]) -> None:
    """Take one step of SGD on the mean cost of a batch. This writes into ``theta``.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Its network, σ and cost are used. The network must be a chain.
    theta : dict of ndarray
        Backward weights, if there are any, are neither used nor changed.
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    rates : dict
        The learning rate of each weight. A bias has the rate of the weight that leads to its layer.
    """
    layers, cost = forward(dynamics, theta, x), dynamics.cost
    output = layers[-1].value
    delta = cost.at(theta).derivative(output, y) / len(x)  # ∂L/∂s^N, the mean over the batch
    for name, gradient in cost.gradient(theta, output, y).items():  # of a readout
        theta[name] -= rates[name] * gradient
    for c in reversed(dynamics.network.connections):
        drive, value, switches = layers[c.pre]  # those of layer post: the list begins with layer 1
        delta = delta * dynamics.sigma.slope(drive, value)  # ∂L/∂drive
        back = c.to_pre(theta[c.name], delta, switches) if c.pre else delta  # ∂L/∂s^pre
        delta *= rates[c.name]
        theta[c.name] -= c.gradient(layers[c.pre - 1].value if c.pre else x, delta, switches)
        theta[f"b{c.post}"] -= delta.sum(axis=tuple(range(delta.ndim - 1)))
        delta = back
