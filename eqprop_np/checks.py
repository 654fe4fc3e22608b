"""Checks of the public functions' arguments.

Each public function that takes parameters, an input, a state or a target checks them once with these
functions. The functions that it calls do not check again.

All raise a TypeError or a ValueError with one sentence, which says what was given, what is wanted and what
to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite, prod
from types import UnionType
from typing import TYPE_CHECKING, Any

import numpy as np

from eqprop_np.activations import Array

if TYPE_CHECKING:
    from eqprop_np.network import Network


def check_batch(
    network: Network,
    theta: Mapping[str, Array],
    x: Array,
    s: tuple[Array, ...] | None = None,
    shapes: Mapping[str, tuple[int, ...]] | None = None,
) -> None:
    """Check that θ, the input x and, where one is given, the state s fit the network.

    ``shapes`` are those of the parameters, if θ holds more than the network's.
    """
    check_theta(theta, network.parameter_shapes if shapes is None else shapes)
    check_input(network, x)
    if s is not None:
        check_state(network, s, theta, x)


def check_theta(theta: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that θ has these parameters, with these shapes, as finite floating-point arrays."""
    check_kind("theta", theta, Mapping, "a dict from names to arrays")
    missing, extra = (sorted(map(str, a.keys() - b.keys())) for a, b in ((shapes, theta), (theta, shapes)))
    if missing or extra:
        found = " and ".join(
            f"{verb} {', '.join(names)}" for verb, names in (("lacks", missing), ("also has", extra)) if names
        )
        raise ValueError(f"theta must have the parameters {', '.join(shapes)}, but it {found}")
    for name, value in theta.items():
        _check_array(f"theta[{name!r}]", value)
        if value.shape != shapes[name]:
            raise ValueError(f"theta[{name!r}] must have shape {shapes[name]}, got {value.shape}")
    if len(dtypes := {str(value.dtype) for value in theta.values()}) > 1:
        raise TypeError(f"all parameters of theta must have one dtype, got {' and '.join(sorted(dtypes))}")


def check_input(network: Network, x: Array) -> None:
    """Check that x is a batch of the network's inputs."""
    _check_array("x", x)
    shape = network.shapes[0]
    wanted = f"(B, {', '.join(map(str, shape))})"
    fits = prod(x.shape[1:]) == shape[0] if len(shape) == 1 else x.shape[1:] == shape
    if x.ndim < 2 or len(x) < 1 or not fits:
        hint = ": for one sample write x[np.newaxis]" if x.shape == shape else ""
        raise ValueError(f"x must have shape {wanted} with at least one sample, got {x.shape}{hint}")


def check_state(network: Network, s: tuple[Array, ...], theta: Mapping[str, Array], x: Array) -> None:
    """Check that s is a state (s¹, …, s^N) for the batch x, of the dtype of x and θ or its complex one."""
    if not isinstance(s, tuple | list) or len(s) != network.depth:
        raise ValueError(
            f"the state must be a tuple of {network.depth} arrays (s¹, …, s^N), got "
            + (f"{len(s)}" if isinstance(s, tuple | list) else describe(s))
        )
    dtype = np.result_type(x, *theta.values())
    for n, value in enumerate(s, start=1):
        _check_array(f"layer {n} of the state", value)
        wanted = (len(x), *network.shapes[n])
        if value.shape != wanted:
            raise ValueError(f"layer {n} of the state must have shape {wanted}, got {value.shape}")
        if value.dtype not in (x.dtype, dtype, np.result_type(dtype, np.complex64)):
            raise TypeError(f"layer {n} of the state must be {dtype} as x and theta are, got {value.dtype}")


def check_target(shape: tuple[int, ...], y: Any, x: Array) -> Array:
    """Return y as a real array of this shape for each sample of x, and of the precision of x.

    A one-hot y may consist of booleans or integers and may be a list.
    """
    wanted = (len(x), *shape)
    try:
        target = np.asarray(y)
    except ValueError:
        raise ValueError(f"y must have shape {wanted}, got rows of different lengths") from None
    if target.shape != wanted:
        labels = target.ndim < 2 or target.shape[1:] == (1,)
        hint = ": labels must be one-hot, for example np.eye(classes)[labels]" if labels else ""
        raise ValueError(f"y must have shape {wanted} = (B, classes), got {target.shape}{hint}")
    if target.dtype.kind not in "biuf":
        raise TypeError(f"y must be real numbers, got {target.dtype}")
    if not np.isfinite(target).all():
        raise ValueError("y must be finite, but it contains NaN or infinity")
    return target.astype(x.real.dtype, copy=False)


def _check_array(name: str, value: Any) -> None:
    check_kind(name, value, np.ndarray, "a NumPy array")
    if value.dtype.kind not in "fc":
        raise TypeError(
            f"{name} must be floating-point numbers, got {value.dtype}: convert it, for example with "
            ".astype(np.float32), and scale bytes to [0, 1]"
        )
    if not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, but it contains NaN or infinity")


# ---- numbers, shapes and objects


def check_kind(name: str, value: Any, kind: type | UnionType, wanted: str) -> None:
    """Check that a value is an instance of ``kind``. The message says that it must be ``wanted``."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be {wanted}, got {describe(value)}")


def check_integer(name: str, value: Any, least: int) -> None:
    """Check that a value is an integer from ``least``, which is 0 or 1."""
    if not is_integer(value) or value < least:
        kind = "positive" if least else "non-negative"
        raise ValueError(f"{name} must be a {kind} integer, got {describe(value)}")


def check_beta(beta: Any) -> None:
    """Check that β is a number by which EP can divide."""
    if not is_number(beta) or beta == 0:
        raise ValueError(f"beta must be a finite number other than 0, got {describe(beta)}: EP divides by it")


def check_shape(name: str, shape: tuple[Any, ...]) -> None:
    """Check that a layer's shape consists of positive integers."""
    if not shape or not all(is_integer(size) and size > 0 for size in shape):
        raise ValueError(f"{name} must have a shape of positive integers, got {shape}")


def as_tuple(name: str, value: Any, wanted: str) -> tuple[Any, ...]:
    """Return a sequence as a tuple. A string is not a sequence here."""
    if not isinstance(value, str):
        try:
            return tuple(value)
        except TypeError:
            pass
    raise TypeError(f"{name} must be {wanted}, got {describe(value)}")


def is_integer(value: Any) -> bool:
    """Return whether a value is an integer of Python or NumPy. A boolean is not."""
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return whether a value is a finite real number of Python or NumPy. A boolean or an array is not."""
    return is_integer(value) or (isinstance(value, float | np.floating) and isfinite(value))


def as_python(value: Any) -> Any:
    """Return a number of NumPy as one of Python, which does not change the dtype of what it multiplies."""
    return value.item() if isinstance(value, np.generic) else value


def describe(value: Any) -> str:
    """Return what a message says of a value that does not fit, in one line."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if value is None or isinstance(value, str | int | float | complex | np.generic):
        return repr(value)
    return f"an array of shape {value.shape}" if isinstance(value, np.ndarray) else type(value).__name__
