"""Random things for the property tests: generators, networks of each kind, and what belongs to them."""

import numpy as np
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.network import Network, State, Theta, chain, convolutional, toy

rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""Random generators; a failing example shows its seed."""

NETWORKS: dict[str, Network] = {
    "one layer": chain([3, 2]),
    "chain": chain([4, 5, 3]),
    "long chain": chain([4, 3, 5, 4, 2]),
    "skip": toy(4, 6, 3),
    "conv": convolutional((6, 4, 2), [3], [2], kernel=3, pool=2),
    "conv and dense": convolutional((6, 5, 1), [2], [4, 3], kernel=2, pool=1),
    "two conv": convolutional((10, 10, 1), [2, 3], [3], kernel=3, pool=2),
    "three conv, two dense": convolutional((15, 15, 1), [2, 2, 2], [4, 3], kernel=2, pool=2),
}

networks = st.sampled_from(list(NETWORKS.values()))


def draw(network: Network, batch: int, rng: np.random.Generator) -> tuple[Theta, Array, State]:
    """Normal θ, x and s in float64: with probability one nothing is tied and no kink is near."""
    theta = {name: rng.standard_normal(shape) for name, shape in network.parameter_shapes.items()}
    x, *s = (rng.standard_normal((batch, *shape)) for shape in network.shapes)
    return theta, x, tuple(s)
