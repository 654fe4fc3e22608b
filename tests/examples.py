"""What several tests need: random generators, networks of each kind, states, tiny images, and Ctrl-C."""

import signal
from pathlib import Path

import numpy as np
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.connections import Connection
from eqprop_np.network import Network, State, Theta, chain, convolutional, toy

rngs = st.integers(0, 2**32 - 1).map(np.random.default_rng)
"""Random generators. A failing example shows the seed."""

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
"""No finite difference of `eqprop_np.testing` moves a maximum that leads its window by more than this."""


def lead(a: Array, window: int) -> float:
    """Return the smallest lead of a window's maximum over the second largest value of the window."""
    if window == 1:
        return np.inf
    batch, height, width, channels = a.shape
    tiles = a.reshape(batch, height // window, window, width // window, window, channels)
    ordered = np.sort(tiles.transpose(0, 1, 3, 5, 2, 4).reshape(-1, window**2))
    return (ordered[:, -1] - ordered[:, -2]).min()


def clear(c: Connection, w: Array, pre: Array) -> bool:
    """Return whether small random changes of w and of s^pre, some 20 steps of a check, move no switch."""
    if not c.has_switches:
        return True
    _, switches = c.to_post(w, pre)
    rng = np.random.default_rng(0)
    for _ in range(4):
        v, u = CLEAR * rng.standard_normal(w.shape), CLEAR * rng.standard_normal(pre.shape)
        for sign in (1, -1):  # if two values are nearly equal, one of the signs exchanges them
            for other in (c.to_post(w + sign * v, pre), c.to_post(w, pre + sign * u)):
                if not np.array_equal(other[1], switches):
                    return False
    return True


def all_clear(network: Network, theta: Theta, x: Array, s: State) -> bool:
    """Return whether `clear` holds for each connection."""
    return all(clear(c, theta[c.name], (x, *s)[c.pre]) for c in network.connections)


def draw(network: Network, batch: int, rng: np.random.Generator) -> tuple[Theta, Array, State]:
    """Return θ, x and s of normal numbers in float64."""
    theta = {name: rng.standard_normal(shape) for name, shape in network.parameter_shapes.items()}
    x, *s = (rng.standard_normal((batch, *shape)) for shape in network.shapes)
    return theta, x, tuple(s)


def idx(array: Array) -> bytes:
    """Return the IDX file of an array of bytes."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()


def write_bands(directory: Path, side: int = 8, train: int = 60, test: int = 25, classes: int = 3) -> Path:
    """Write a data set of some classes: noise with a bright band, whose position is the class."""
    directory.mkdir()
    rng = np.random.default_rng(0)
    for name, size in (("train", train), ("t10k", test)):
        labels = (np.arange(size) % classes).astype(np.uint8)
        images = rng.integers(0, 100, (size, side, side)).astype(np.uint8)
        for image, label in zip(images, labels, strict=True):
            image[2 * label : 2 * label + 2] += 150
        (directory / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (directory / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return directory


HOOK = """
import os, signal, sys
class Hook:
    def find_spec(name, path=None, target=None):
        if {when}:
            {signal}
sys.meta_path.insert(0, Hook)
"""


def interrupting(directory: Path, when: str, group: bool = False) -> Path:
    """Return a directory that, in PYTHONPATH, makes Python send SIGINT to itself or to its process group.

    It does when it looks for the module ``name`` for which the expression ``when`` is true.
    """
    directory.mkdir()
    call = "os.killpg(os.getpgrp(), signal.SIGINT)" if group else "signal.raise_signal(signal.SIGINT)"
    (directory / "sitecustomize.py").write_text(HOOK.format(when=when, signal=call), "utf-8")
    return directory


def ctrl_c_as_in_a_terminal() -> None:
    """Restore SIGINT, which a shell ignores in a process that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
