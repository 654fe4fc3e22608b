"""What several tests need: random generators, networks of each kind and what belongs to them, tiny images."""

from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.connections import Connection
from eqprop_np.convolution import convolve
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


CLEAR = 1e-4
"""A lead of a window's maximum that no finite difference of `eqprop_np.testing` overturns."""


def lead(a: Array, window: int) -> float:
    """By how much the maximum of any window of ``a`` leads the next in it."""
    if window == 1:
        return np.inf
    batch, height, width, channels = a.shape
    tiles = a.reshape(batch, height // window, window, width // window, window, channels)
    ordered = np.sort(tiles.transpose(0, 1, 3, 5, 2, 4).reshape(-1, window**2))
    return (ordered[:, -1] - ordered[:, -2]).min()


def clear(c: Connection, w: Array, pre: Array) -> bool:
    """Whether a connection's switches stand in clear places."""
    return not c.pools or lead(convolve(w, pre, c.stride, c.padding), c.pool) > CLEAR


def all_clear(network: Network, theta: Theta, x: Array, s: State) -> bool:
    return all(clear(c, theta[c.name], (x, *s)[c.pre]) for c in network.connections)


def draw(network: Network, batch: int, rng: np.random.Generator) -> tuple[Theta, Array, State]:
    """Normal θ, x and s in float64."""
    theta = {name: rng.standard_normal(shape) for name, shape in network.parameter_shapes.items()}
    x, *s = (rng.standard_normal((batch, *shape)) for shape in network.shapes)
    return theta, x, tuple(s)


def idx(array: Array) -> bytes:
    """The IDX file of an array of bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_bands(directory: Path, side: int = 8, train: int = 60, test: int = 25) -> Path:
    """Write a data set of three classes: noise with a bright band, whose place tells the class."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("train", train), ("t10k", test)):
        labels = (np.arange(size) % 3).astype(np.uint8)
        images = rng.integers(0, 100, (size, side, side)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 2] += 150
        (directory / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (directory / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return directory
