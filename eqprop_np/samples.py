"""The samples of training and evaluation: arrays that fit a network, bytes or floats, labels or targets."""

import math
import sys
import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from eqprop_np.activations import Array
from eqprop_np.checks import describe
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Network

FAR = 10.0  # inputs of a larger absolute value are reported: they are probably not scaled to [0, 1]


@dataclass(frozen=True)
class Samples:
    """Inputs and targets that fit a network.

    Attributes
    ----------
    x : ndarray, shape (N, …)
        Floats, or bytes, which `inputs` scales to [0, 1].
    y : ndarray, shape (N,) or (N, classes)
        Labels, or targets.
    """

    x: Array
    y: Array

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, chosen: Any) -> "Samples":
        return Samples(self.x[chosen], self.y[chosen])

    def inputs(self, network: Network, dtype: DTypeLike) -> Array:
        """Return x as floats, in the shape of the network's input."""
        x = self.x.reshape(len(self), *network.shapes[0])
        if x.dtype != np.uint8:
            return x.astype(dtype, copy=False)
        x = x.astype(dtype)
        x /= 255
        return x

    def targets(self, dynamics: Dynamics, dtype: DTypeLike) -> Array:
        """Return the targets, one-hot if y are labels."""
        if self.y.ndim > 1:
            return self.y.astype(dtype, copy=False)
        return np.eye(dynamics.target_shape[0], dtype=dtype)[self.y]

    def count_wrong(self, outputs: Array) -> int:
        """Return how many largest outputs are not the label's."""
        labels = self.y if self.y.ndim == 1 else self.y.argmax(axis=1)
        return int(np.count_nonzero(outputs.argmax(axis=1) != labels))


def check_samples(dynamics: Dynamics, X: Any, y: Any, what: str = "X", every_class: bool = False) -> Samples:
    """Return X and y as samples that fit the network and the cost.

    Raises
    ------
    TypeError, ValueError
        If they do not fit the network, are not finite, or if a label is out of range. With
        ``every_class``, if a class has no sample.
    """
    x, classes = check_inputs(dynamics.network, X, what), number_of_classes(dynamics)
    y = _as_array("y", y)
    if y.ndim == 0 or len(y) != len(x):
        raise ValueError(
            f"y must have one entry for each of the {len(x)} samples of {what}, got shape {y.shape}"
        )
    if y.ndim == 1:
        return Samples(x, _check_labels(y, classes, every_class))
    if y.shape[1:] != (classes,):
        raise ValueError(f"y must be labels (N,) or targets (N, {classes}), got shape {y.shape}")
    if y.dtype.kind not in "biuf":
        raise TypeError(f"targets must be real numbers, got {y.dtype}")
    if not np.isfinite(y).all():
        raise ValueError("y must be finite, but it contains NaN or infinity")
    return Samples(x, y)


def number_of_classes(dynamics: Dynamics) -> int:
    """Return the number of outputs, or raise a ValueError if they do not stand for classes."""
    shape = dynamics.target_shape
    if len(shape) != 1 or shape[0] < 2:
        raise ValueError(
            f"the output must be a layer of at least 2 neurons, one for each class, but its shape is {shape}"
        )
    return shape[0]


def _check_labels(y: Array, classes: int, every_class: bool) -> Array:
    """Return labels as integers from 0."""
    if y.dtype.kind not in "biu" and not (
        y.dtype.kind == "f" and np.isfinite(y).all() and (y % 1 == 0).all()
    ):
        raise TypeError(
            f"labels must be integers, got {y.dtype}: number the classes from 0, for example with "
            "np.unique(y, return_inverse=True)[1]"
        )
    if y.min() < 0 or y.max() >= classes:
        raise ValueError(
            f"labels must be from 0 to {classes - 1}, because the network has {classes} outputs, got "
            f"{y.min()} to {y.max()}"
        )
    y = y.astype(np.int64)
    if every_class and len(missing := np.setdiff1d(np.arange(classes), y)):
        raise ValueError(
            f"the labels must include every class from 0 to {classes - 1}, but {missing[0]} is missing: "
            "use a network with fewer outputs, or pass one-hot targets"
        )
    return y


def check_inputs(network: Network, X: Any, what: str = "X") -> Array:
    """Return X as an array of bytes or floats that fits the network's input, or raise an error."""
    x, shape = _as_array(what, X), network.shapes[0]
    fits = x.shape[1:] in (shape, shape[:2] if len(shape) == 3 and shape[2] == 1 else shape)
    if len(shape) == 1 and x.ndim > 1:
        fits = math.prod(x.shape[1:]) == shape[0]
    if x.ndim < 2 or len(x) == 0 or not fits:
        raise ValueError(f"{what} must have shape (N, {', '.join(map(str, shape))}), got {x.shape}")
    if x.dtype == np.uint8:
        _say_once("bytes (uint8) are scaled from 0…255 to 0…1")
        return x
    if x.dtype.type not in (np.float32, np.float64):
        raise TypeError(
            f"{what} must be float32, float64, or bytes (uint8) from 0 to 255, got {x.dtype}: convert it, "
            "for example with .astype(np.float32)"
        )
    if not math.isfinite(_size(x)):
        raise ValueError(f"{what} must be finite, but it contains NaN or infinity")
    return x.astype(x.dtype.newbyteorder("="), copy=False)


def _as_array(what: str, values: Any) -> Array:
    if isinstance(values, np.ma.MaskedArray):
        raise TypeError(f"{what} must not be a masked array: remove or fill the masked samples first")
    try:
        array = np.asarray(values)
    except ValueError:
        raise ValueError(f"{what} must be an array, got rows of different lengths") from None
    if array.dtype == object and array.ndim == 0:  # for example a sparse matrix
        raise TypeError(f"{what} must be an array, got {describe(values)}: convert it, as with .toarray()")
    return array


def _size(x: Array) -> float:
    """Return the largest absolute value of bytes scaled to [0, 1], or of floats; NaN if one is NaN."""
    return 1.0 if x.dtype == np.uint8 else float(max(x.max(), -x.min()))


def warn_if_far(stacklevel: int, **inputs: Array | None) -> None:
    """Warn once if inputs are far outside [0, 1]. Bytes are scaled, so they are not."""
    for what, x in inputs.items():
        if x is not None and (size := _size(x)) > FAR:
            what = what.replace("_", " ")
            warnings.warn(
                f"{what} has values up to {size:.3g} in size, but the inputs should be about 0 to 1: "
                "scale them, for example with X / X.max()",
                stacklevel=stacklevel + 1,
            )
            return


def _say_once(message: str) -> None:
    """Print a note on standard error the first time it is said."""
    if message not in _SAID:
        _SAID.add(message)
        print(f"note: {message}", file=sys.stderr)


_SAID: set[str] = set()
