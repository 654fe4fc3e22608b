"""What the tests of the dynamics, of the phases and of BPTT share: dynamics, targets, comparison, kinks."""

import numpy as np
from examples import lead

from eqprop_np.activations import Activation, Array, hard_sigmoid, sigmoid
from eqprop_np.convolution import convolve
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.network import Network, State, Theta

CLOSE = {"rtol": 0, "atol": 1e-12}
"""Two orders of summation of up to some 100 terms of order 1 to 10: their rounding is about 1e-14."""


def target(network: Network, batch: int, rng: np.random.Generator) -> Array:
    """Return random one-hot targets."""
    (classes,) = network.shapes[-1]
    return np.eye(classes)[rng.integers(0, classes, batch)]


def initial(network: Network, rng: np.random.Generator) -> Theta:
    """Return initial parameters in float64; untied backward weights are the forward ones in another order."""
    theta = network.init(rng, np.float64)
    if not network.tied:
        theta |= {network.backward_name(c): rng.permuted(theta[c.name]) for c in network.recurrent}
    return theta


def each_dynamics(network: Network, sigma: Activation = sigmoid) -> list[Dynamics]:
    """Return discrete time, real time with clamping, and real time without it."""
    return [
        DiscreteTime(network, sigma),
        RealTime(network, sigma, epsilon=0.3),
        RealTime(network, sigma, epsilon=0.08, clamp=False),
    ]


def assert_same(a: State, b: State, **tolerance: float) -> None:
    """Check that two states are equal, to the bit if no tolerance is given."""
    for n, (one, two) in enumerate(zip(a, b, strict=True), start=1):
        np.testing.assert_allclose(one, two, err_msg=f"layer {n}", **tolerance or {"rtol": 0})


def distance_to_kinks(dynamics: Dynamics, theta: Theta, x: Array, s: State) -> float:
    """Return how far a free step at s is from the nearest kink of max-pooling, hard sigmoid or clamping."""
    network, activities = dynamics.network, (dynamics.input_activity(x), *map(dynamics.activity, s))
    margins = [
        lead(convolve(theta[c.name], activities[c.pre], c.stride, c.padding), c.pool)
        for c in network.connections
        if c.has_switches
    ]
    drives = network.dphi_ds(theta, activities[0], activities[1:])
    kinked: list[Array] = []
    if dynamics.sigma is hard_sigmoid:
        kinked += s if isinstance(dynamics, RealTime) else drives
    if isinstance(dynamics, RealTime) and dynamics.clamp:
        slopes = [dynamics.sigma.derivative(value) for value in s]
        if dynamics.authors_code:
            slopes[-1] = np.ones_like(s[-1])
        kinked += [
            (1 - dynamics.epsilon) * value + dynamics.epsilon * slope * drive
            for value, slope, drive in zip(s, slopes, drives, strict=True)
        ]
    margins += [min(abs(value).min(), abs(value - 1).min()) for value in kinked]
    return min(margins, default=np.inf)
