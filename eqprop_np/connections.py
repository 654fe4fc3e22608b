"""The terms of Φ: `Dense` and `ConvPool`, and Eq. (4). `Directed`, which is no term of any Φ.

A connection joins a layer *pre*, nearer the input, to a layer *post*. It adds one term
φ(s^pre, s^post; w) to the primitive function Φ, and answers four questions about it:

    phi       φ, for each sample
    to_post   ∂φ/∂s^post, the drive that pre gives post
    to_pre    ∂φ/∂s^pre, the drive that post gives pre
    gradient  ∂φ/∂w, summed over the batch

φ is linear in each of s^pre, s^post and w (once the switches of a max-pool are held). So the drive
to post is a linear map A of s^pre, and the drive to pre is its transpose: φ = ⟨s^post, A s^pre⟩ =
⟨Aᵀ s^post, s^pre⟩. Each drive is the other's vector-Jacobian product. Equilibrium propagation
rests on this symmetry, and `eqprop_np.rules.bptt` uses it. A `Directed` connection breaks it: pre
hears nothing, unless another one leads back.

States are batch first: (B, n) or (B, H, W, C). ``switches`` is None where there is no pooling.
"""

from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np

from eqprop_np import convolution
from eqprop_np.activations import Array

Shape = tuple[int, ...]


def _flat(s: Array) -> Array:
    return s if s.ndim == 2 else s.reshape(len(s), -1)


def _lit(pixels: Array) -> Array:
    """Where any sample of the batch is not black: of MNIST's pixels about half."""
    return np.flatnonzero(pixels.any(axis=0))


@dataclass(frozen=True)
class Dense:
    """All-to-all: φ = s^post · (s^pre w), with w of shape (n_pre, n_post).

    Its drives are computed transposed, neurons × batch: with a batch much smaller than a layer, that
    is the way round in which BLAS is fast in both directions. Clamped pixels that are black in the whole
    batch give nothing to post, and are left out.

    Parameters
    ----------
    pre, post : indices of the two layers.
    pre_shape, post_shape : their shapes without the batch; an image counts as a flat vector.
    """

    pre: int
    post: int
    pre_shape: Shape
    post_shape: Shape
    pools = False
    mutual = True  # pre hears post too

    @cached_property
    def name(self) -> str:
        return f"w{self.pre}-{self.post}"

    @property
    def shape(self) -> Shape:
        return prod(self.pre_shape), prod(self.post_shape)

    @property
    def fan_in(self) -> int:
        return prod(self.pre_shape)

    def phi(self, w: Array, pre: Array, post: Array, switches: None = None) -> Array:
        """φ for each sample, (B,)."""
        return (_flat(post) * (_flat(pre) @ w)).sum(axis=1)

    def to_post(self, w: Array, pre: Array, switches: None = None) -> tuple[Array, None]:
        """∂φ/∂s^post = s^pre w, and no switches."""
        pre = _flat(pre)
        if self.pre == 0:
            lit = _lit(pre)
            w, pre = w[lit], pre[:, lit]
        return (w.T @ pre.T).T.reshape(-1, *self.post_shape), None

    def to_pre(self, w: Array, post: Array, switches: None = None) -> Array:
        """∂φ/∂s^pre = s^post wᵀ."""
        return (w @ _flat(post).T).T.reshape(-1, *self.pre_shape)

    def gradient(self, pre: Array, post: Array, switches: None = None) -> Array:
        """∂φ/∂w = (s^pre)ᵀ s^post, summed over the batch."""
        return _flat(pre).T @ _flat(post)


@dataclass(frozen=True)
class Directed(Dense):
    """One way of an untied connection: it drives post by s^pre w, and pre hears nothing of it.

    They come in pairs, w_f from layer n to m ("w1-2", say) and w_b back ("w2-1"). The two drives
    together derive from no Φ, unless w_b = w_fᵀ. What `gradient` gives is (∂F/∂w)ᵀv for the drive F to
    post, with v in the place of s^post.
    """

    mutual = False

    def phi(self, w: Array, pre: Array, post: Array, switches: None = None) -> Array:
        raise ValueError(f"{self.name} is one way of an untied connection, which no Φ has")


@dataclass(frozen=True)
class ConvPool:
    """Convolution, then max-pooling: φ = s^post · P(w ⋆ s^pre), with w of shape (k, k, C, D).

    With the switches of P held, its three derivatives are P(w ⋆ s^pre), w ⋆ᵀ P⁻¹(s^post) and, for
    the weight, P⁻¹(s^post) ⋆ s^pre, which is Eq. (4).

    Parameters
    ----------
    pre, post : indices of the two layers.
    pre_shape : (H, W, C) of layer pre.
    features : D, the channels of layer post.
    kernel, pool : k and the side of the pooling window, which must tile the convolution's output.
    stride, padding : of the convolution.

    Raises
    ------
    ValueError
        If the kernel is larger than the (padded) image, or the window does not tile.
    """

    pre: int
    post: int
    pre_shape: Shape
    features: int
    kernel: int = 5
    pool: int = 2
    stride: int = 1
    padding: int = 0
    pools = True
    mutual = True

    def __post_init__(self) -> None:
        layer = f"layer {self.post}: a {self.kernel}×{self.kernel} convolution"
        if len(self.pre_shape) != 3:
            raise ValueError(
                f"{layer} needs images (H, W, C), but layer {self.pre} has shape {self.pre_shape}"
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

    @cached_property
    def name(self) -> str:
        return f"w{self.pre}-{self.post}"

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

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        """φ for each sample, (B,)."""
        drive, _ = self.to_post(w, pre, switches)
        return _flat(post * drive).sum(axis=1)

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, Array]:
        """∂φ/∂s^post = P(w ⋆ s^pre), and the switches of P: those given, or where the maxima stand."""
        if switches is None and not pre.any():  # as every phase one begins
            return self._at_rest(pre)
        convolved = convolution.convolve(w, pre, self.stride, self.padding)
        if switches is None:
            return convolution.max_pool(convolved, self.pool)
        return convolution.pool_at(convolved, switches), switches

    def _at_rest(self, pre: Array) -> tuple[Array, Array]:
        """P(0) and its switches: all values are equal, so the first of each window counts."""
        rows, columns, features = self.post_shape
        switches = np.zeros((len(pre), rows, self.pool, columns, self.pool, features), bool)
        switches[:, :, 0, :, 0] = True
        return np.zeros((len(pre), *self.post_shape), pre.dtype), switches

    def to_pre(self, w: Array, post: Array, switches: Array) -> Array:
        """∂φ/∂s^pre = w ⋆ᵀ P⁻¹(s^post)."""
        if not post.any():
            return np.zeros((len(post), *self.pre_shape), post.dtype)
        unpooled = convolution.unpool(post, switches)
        return convolution.convolve_transpose(w, unpooled, self.pre_shape, self.stride, self.padding)

    def gradient(self, pre: Array, post: Array, switches: Array) -> Array:
        """Eq. (4): ∂φ/∂w = P⁻¹(s^post) ⋆ s^pre, summed over the batch."""
        unpooled = convolution.unpool(post, switches)
        return convolution.convolve_weight(unpooled, pre, self.kernel, self.stride, self.padding)


Connection = Dense | ConvPool
