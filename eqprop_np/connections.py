"""The terms of Φ: the contract of a `Connection`, the two kinds of the abstract, and Eq. (4).

A connection joins a layer *pre* to a layer *post* and adds one term φ(s^pre, s^post; w) to Φ. This
term is linear in s^pre, in s^post and in w, once the switches of a max-pool are held. So the drive to
post is a linear map A of s^pre, and the drive to pre is its transpose:

    φ = ⟨s^post, A s^pre⟩ = ⟨Aᵀ s^post, s^pre⟩

Each drive is therefore the vector-Jacobian product of the other. The equivalence of EP and BPTT rests
on this symmetry, and `Network.vjp_s` uses it.

Arrays have the batch first: (B, n) or (B, H, W, C).
"""

from dataclasses import dataclass
from math import prod
from typing import Protocol, runtime_checkable

import numpy as np

from eqprop_np import convolution
from eqprop_np.activations import Array
from eqprop_np.checks import check_shape, describe, is_integer

Shape = tuple[int, ...]


@runtime_checkable
class Connection(Protocol):
    """One term φ(s^pre, s^post; w) of Φ.

    To write a connection of your own:

    1. Make a frozen dataclass with ``pre`` and ``post``, the indices of two layers with pre < post.
       Layer 0 is the input.
    2. Say the two layers' shapes without the batch (``pre_shape``, ``post_shape``), the name of the
       weight in θ (``name``, by convention "w1-2" from layer 1 to layer 2) and its ``shape``.
    3. Say ``fan_in``, the number of inputs of one neuron of post. Weights start in ±1/√fan_in.
    4. Say ``multiplications``, how many a drive costs for one sample. The benchmark uses it.
    5. Write ``phi``, the term itself, and ``to_post``, ``to_pre`` and ``gradient``, its derivatives with
       respect to s^post, s^pre and w. ``to_pre`` must be the transpose of ``to_post``.
    6. If the drives are linear only while a choice is held, as the position of a maximum, set
       ``has_switches``. Then ``to_post`` returns the choice beside the drive, as an array with one entry
       per sample, and takes it as an argument to hold it. Otherwise set ``has_switches`` to False, return
       None and ignore the argument.
    7. Run `eqprop_np.testing.check_connection` on it.

    These members are all that is needed. Only `eqprop_np.rules.telescoped` asks for the class, and another
    connection takes the general form there.
    """

    @property
    def pre(self) -> int: ...
    @property
    def post(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def pre_shape(self) -> Shape: ...
    @property
    def post_shape(self) -> Shape: ...
    @property
    def shape(self) -> Shape: ...
    @property
    def fan_in(self) -> int: ...
    @property
    def multiplications(self) -> int: ...
    @property
    def has_switches(self) -> bool: ...

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """Return φ for each sample, shape (B,)."""
        ...

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, Array | None]:
        """Return ∂φ/∂s^post, and the switches: those given, or those of ``pre`` if None is given."""
        ...

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        """Return ∂φ/∂s^pre at these switches."""
        ...

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """Return ∂φ/∂w at these switches, summed over the batch."""
        ...


def flat(s: Array) -> Array:
    """View (B, …) as (B, n)."""
    return s if s.ndim == 2 else s.reshape(len(s), -1)


@dataclass(frozen=True)
class Dense:
    """All-to-all connection: φ = s^post · (s^pre w), with w of shape (n_pre, n_post).

    Parameters
    ----------
    pre, post : int
        Indices of the two layers.
    pre_shape, post_shape : tuple of int
        Their shapes without the batch. An image counts as a flat vector.
    name : str, optional
        The name of the weight in θ; "w1-2" by default for a connection from layer 1 to layer 2. Give
        another one to the second of two connections between the same layers.

    Examples
    --------
    >>> c = Dense(1, 2, (3,), (2,))
    >>> drive, _ = c.to_post(np.ones((3, 2)), np.array([[1.0, 2.0, 3.0]]))
    >>> print(c.name, drive)
    w1-2 [[6. 6.]]
    """

    pre: int
    post: int
    pre_shape: Shape
    post_shape: Shape
    name: str = ""
    has_switches = False

    def __post_init__(self) -> None:
        _set_default_name(self)

    @property
    def shape(self) -> Shape:
        return prod(self.pre_shape), prod(self.post_shape)

    @property
    def fan_in(self) -> int:
        return prod(self.pre_shape)

    @property
    def multiplications(self) -> int:
        return prod(self.shape)

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """Return φ for each sample, shape (B,)."""
        phi: Array = (flat(post) * (flat(pre) @ w)).sum(axis=1)
        return phi

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        """Return ∂φ/∂s^post = s^pre w, and None for the switches."""
        return (flat(pre) @ w).reshape(-1, *self.post_shape), None

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        """Return ∂φ/∂s^pre = s^post wᵀ."""
        post = flat(post)
        # For a small batch and a wide layer post, BLAS is up to twice as fast with w on the left.
        drive = (w @ post.T).T if post.shape[1] > 128 else post @ w.T
        return drive.reshape(-1, *self.pre_shape)

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """Return ∂φ/∂w = (s^pre)ᵀ s^post, summed over the batch."""
        gradient: Array = flat(pre).T @ flat(post)
        return gradient


@dataclass(frozen=True)
class ConvPool:
    """Convolution followed by max-pooling: φ = s^post · P(w ⋆ s^pre), with w of shape (k, k, C, D).

    With the switches of P held, its derivatives are P(w ⋆ s^pre) and w ⋆ᵀ P⁻¹(s^post) and, for the
    weight, P⁻¹(s^post) ⋆ s^pre, which is Eq. (4).

    Parameters
    ----------
    pre, post : int
        Indices of the two layers.
    pre_shape : tuple of int
        (H, W, C) of layer pre.
    features : int
        D, the number of channels of layer post.
    kernel, pool : int
        k, and the side of the pooling window.
    stride, padding : int
        The step between positions of the kernel, and the border of zeros around the image.
    name : str, optional
        As in `Dense`.

    Raises
    ------
    ValueError
        If the kernel is larger than the padded image, if the window does not divide the convolution's
        output, or if a size is not a positive integer.
    """

    pre: int
    post: int
    pre_shape: Shape
    features: int
    kernel: int = 5
    pool: int = 2
    stride: int = 1
    padding: int = 0
    name: str = ""
    has_switches = True

    def __post_init__(self) -> None:
        _set_default_name(self)
        layer = f"layer {self.post}: a {self.kernel}×{self.kernel} convolution"
        if not isinstance(self.pre_shape, tuple) or len(self.pre_shape) != 3:
            raise ValueError(
                f"{layer} needs images (H, W, C), but layer {self.pre} has shape {self.pre_shape}"
            )
        check_shape(f"layer {self.pre}", self.pre_shape)
        for field, least in (("features", 1), ("kernel", 1), ("pool", 1), ("stride", 1), ("padding", 0)):
            if not is_integer(value := getattr(self, field)) or value < least:
                raise ValueError(
                    f"layer {self.post}: {field} must be an integer from {least}, got {describe(value)}"
                )
        for size in self.pre_shape[:2]:
            if size + 2 * self.padding < self.kernel:
                raise ValueError(f"{layer} does not fit on {size} pixels with padding {self.padding}")
            if self._convolved(size) % self.pool:
                raise ValueError(
                    f"{layer} turns {size} pixels into {self._convolved(size)}, "
                    f"which pooling by {self.pool} does not divide"
                )

    def _convolved(self, size: int) -> int:
        return (size + 2 * self.padding - self.kernel) // self.stride + 1

    @property
    def post_shape(self) -> Shape:
        rows, columns = (self._convolved(size) // self.pool for size in self.pre_shape[:2])
        return rows, columns, self.features

    @property
    def shape(self) -> Shape:
        return self.kernel, self.kernel, self.pre_shape[2], self.features

    @property
    def fan_in(self) -> int:
        return self.kernel**2 * self.pre_shape[2]

    @property
    def multiplications(self) -> int:
        height, width = self.pre_shape[:2]
        return prod(self.shape) * self._convolved(height) * self._convolved(width)

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """Return φ for each sample, shape (B,)."""
        drive, _ = self.to_post(w, pre, switches)
        phi: Array = flat(post * drive).sum(axis=1)
        return phi

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, Array]:
        """Return ∂φ/∂s^post = P(w ⋆ s^pre) of Eq. (3), and the switches of P."""
        if switches is None and not pre.any():  # the state in which each first phase begins
            return self._of_zeros(pre)
        convolved = convolution.convolve(w, pre, self.stride, self.padding)
        if switches is None:
            return convolution.max_pool(convolved, self.pool)
        return convolution.pool_at(convolved, switches), switches

    def _of_zeros(self, pre: Array) -> tuple[Array, Array]:
        """Return P(0) and its switches. All values are equal, so the first of each window is chosen."""
        rows, columns, features = self.post_shape
        switches = np.zeros((len(pre), rows, self.pool, columns, self.pool, features), bool)
        switches[:, :, 0, :, 0] = True
        return np.zeros((len(pre), *self.post_shape), pre.dtype), switches

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        """Return ∂φ/∂s^pre = w ⋆ᵀ P⁻¹(s^post)."""
        if not post.any():
            return np.zeros((len(post), *self.pre_shape), post.dtype)
        unpooled = convolution.unpool(post, _known(switches))
        return convolution.convolve_transpose_by_rows(w, unpooled, self.pre_shape, self.stride, self.padding)

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """Return ∂φ/∂w = P⁻¹(s^post) ⋆ s^pre, Eq. (4), summed over the batch."""
        unpooled = convolution.unpool(post, _known(switches))
        return convolution.convolve_weight(unpooled, pre, self.kernel, self.stride, self.padding)


def _set_default_name(connection: Dense | ConvPool) -> None:
    if not connection.name:  # object.__setattr__, because the dataclass is frozen
        object.__setattr__(connection, "name", f"w{connection.pre}-{connection.post}")


def _known(switches: Array | None) -> Array:
    if switches is None:
        raise ValueError("max-pooling needs switches here: pass those that to_post returned")
    return switches
