"""Checks of the public functions' arguments.

Each public function that takes parameters, an input, a state or a target checks them once with these
functions. The functions that it calls do not check again.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from eqprop_np.activations import Array

if TYPE_CHECKING:
    from eqprop_np.network import Network


def check_batch(
    network: Network, theta: Mapping[str, Array], x: Array, s: tuple[Array, ...] | None = None
) -> None:
    """Check that θ, the input x and, where one is given, the state s fit the network.

    Raises
    ------
    TypeError, ValueError
        With one sentence that says what was given, what is wanted and what to do.
    """
    check_theta(theta, network.parameter_shapes)
    check_input(network, x)
    if s is not None:
        check_state(network, s, theta, x)


def check_theta(theta: Mapping[str, Array], shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Check that θ has these parameters, with these shapes, as finite floating-point arrays."""
    if not isinstance(theta, Mapping):
        raise TypeError(f"theta must be a dict from names to arrays, got {_kind(theta)}")
    missing, extra = sorted(shapes.keys() - theta.keys()), sorted(theta.keys() - shapes.keys())
    if missing or extra:
        found = " and ".join(
            f"{verb} {', '.join(names)}" for verb, names in (("lacks", missing), ("also has", extra)) if names
        )
        raise ValueError(f"theta must have the parameters {', '.join(shapes)}, but it {found}")
    for name, value in theta.items():
        _check_array(f"theta[{name!r}]", value)
        if value.shape != shapes[name]:
            raise ValueError(f"theta[{name!r}] must have shape {shapes[name]}, got {value.shape}")


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
            + (f"{len(s)}" if isinstance(s, tuple | list) else _kind(s))
        )
    dtype = np.result_type(x, *theta.values())
    for n, value in enumerate(s, start=1):
        _check_array(f"layer {n} of the state", value)
        wanted = (len(x), *network.shapes[n])
        if value.shape != wanted:
            raise ValueError(f"layer {n} of the state must have shape {wanted}, got {value.shape}")
        if value.dtype not in (x.dtype, dtype, np.result_type(dtype, np.complex64)):
            raise TypeError(f"layer {n} of the state must be {dtype} as x and theta are, got {value.dtype}")


def check_target(network: Network, y: Any, x: Array) -> Array:
    """Return y as a real array of the shape of the output and of the precision of x.

    A one-hot y may consist of booleans or integers and may be a list.
    """
    target = np.asarray(y)
    wanted = (len(x), *network.shapes[-1])
    if target.shape != wanted:
        hint = ": labels must be one-hot, for example np.eye(classes)[labels]" if target.ndim < 2 else ""
        raise ValueError(f"y must have shape {wanted} = (B, classes), got {target.shape}{hint}")
    if target.dtype.kind not in "biuf":
        raise TypeError(f"y must be real numbers, got {target.dtype}")
    if not np.isfinite(target).all():
        raise ValueError("y must be finite, but it contains NaN or infinity")
    return target.astype(x.real.dtype, copy=False)


def _check_array(name: str, value: Any) -> None:
    if not isinstance(value, np.ndarray):
        raise TypeError(f"{name} must be a NumPy array, got {_kind(value)}")
    if value.dtype.kind not in "fc":
        raise TypeError(
            f"{name} must be floating-point numbers, got {value.dtype}: convert it, for example with "
            ".astype(np.float32), and scale bytes to [0, 1]"
        )
    if not np.isfinite(value).all():
        raise ValueError(f"{name} must be finite, but it contains NaN or infinity")


def _kind(value: Any) -> str:
    return f"{value!r}" if isinstance(value, str | int | float | None) else type(value).__name__
