"""⋆, P and P⁻¹ of Eqs. (3)-(4): convolution by lowering, max-pooling with switches, unpooling.

Images are (B, H, W, C): batch, height, width, channels. Kernels are (k, k, C, D). As everywhere
in this field, "convolution" slides the kernel without flipping it.

`im2col` copies every patch under the kernel into a row. With the kernel as a matrix W of shape
(k·k·C, D), the convolution and its two adjoints are matrix products:

    w ⋆ s    = im2col(s) · W          forward
    w ⋆ᵀ u   = im2colᵀ(u · Wᵀ)        the adjoint of s ↦ w ⋆ s
    u ⋆ s    = im2col(s)ᵀ · u         the adjoint of w ↦ w ⋆ s
"""

from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from eqprop_np.activations import Array


def im2col(s: Array, kernel: int, stride: int = 1, padding: int = 0) -> Array:
    """Lower images to patches: (B, H, W, C) → (B, H', W', k, k, C), with H' = (H + 2p − k)//stride + 1."""
    if padding:
        s = np.pad(s, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    patches = sliding_window_view(s, (kernel, kernel), axis=(1, 2), subok=True)
    return patches[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3).copy()


def convolve(w: Array, s: Array, stride: int = 1, padding: int = 0) -> Array:
    """w ⋆ s of Eq. (3): (k, k, C, D), (B, H, W, C) → (B, H', W', D)."""
    patches = im2col(s, w.shape[0], stride, padding)
    features = w.shape[-1]
    rows = patches.reshape(-1, w.size // features)
    return (rows @ w.reshape(-1, features)).reshape(*patches.shape[:3], features)


def convolve_transpose(
    w: Array, u: Array, shape: tuple[int, int, int], stride: int = 1, padding: int = 0
) -> Array:
    """w ⋆ᵀ u, the adjoint of s ↦ w ⋆ s: (k, k, C, D), (B, H', W', D) → (B, H, W, C) = (B, …shape).

    The adjoint of `im2col` alone would move k² copies of the image. So only the width is unfolded: a row
    h of the image hears the rows r of u with 0 ≤ h − r·stride < k, which lie side by side in memory, and
    one product of these with the kernel rows h − r·stride does for all of them.
    """
    kernel, _, channels, features = w.shape
    batch, rows, columns, _ = u.shape
    height, width = shape[0] + 2 * padding, shape[1] + 2 * padding
    strips = u.transpose(0, 2, 1, 3).copy().reshape(batch * columns, rows * features)
    flipped = w[::-1].transpose(0, 3, 1, 2).copy().reshape(kernel, features, -1)
    bands = np.zeros_like(u, shape=(height, batch * columns, kernel * channels))
    for h in range(height):
        first, last = max(0, -((kernel - 1 - h) // stride)), min(rows, h // stride + 1)
        if first < last:
            start = kernel - 1 - h + first * stride
            taps = flipped[start::stride][: last - first].reshape(-1, kernel * channels)
            np.matmul(strips[:, first * features : last * features], taps, out=bands[h])
    images = np.zeros_like(u, shape=(height, batch, width, channels))
    bands = bands.reshape(height, batch, columns, kernel, channels)
    for j in range(columns):  # fold along the width
        images[:, :, j * stride : j * stride + kernel] += bands[:, :, j]
    images = images.transpose(1, 0, 2, 3)
    return images[:, padding : height - padding, padding : width - padding]


def convolve_weight(u: Array, s: Array, kernel: int, stride: int = 1, padding: int = 0) -> Array:
    """u ⋆ s, the adjoint of w ↦ w ⋆ s, summed over the batch: (B, H', W', D), (B, H, W, C) → (k, k, C, D)."""
    patches = im2col(s, kernel, stride, padding)
    features = u.shape[-1]
    rows = patches.reshape(u.size // features, -1)
    return (rows.T @ u.reshape(-1, features)).reshape(kernel, kernel, s.shape[-1], features)


def _windows(a: Array, window: int) -> Array:
    """View (B, H, W, C) as (B, H/p, p, W/p, p, C): two axes more, the place within the window."""
    batch, height, width, channels = a.shape
    return a.reshape(batch, height // window, window, width // window, window, channels)


def max_pool(a: Array, window: int) -> tuple[Array, Array]:
    """P of Eq. (3): the maximum of each p×p window, and the switches that tell where it stood.

    Parameters
    ----------
    a : (B, H, W, C), real; p must divide H and W.

    Returns
    -------
    value : (B, H/p, W/p, C)
    switches : (B, H/p, p, W/p, p, C), bool
        True at one place of each window: the maximum, the first in reading order among equals.
    """
    tiles = _windows(a, window)
    places = [tiles[:, :, i, :, j] for i in range(window) for j in range(window)]
    value = reduce(np.maximum, places[1:], places[0])
    switches = tiles == value[:, :, None, :, None]
    if np.count_nonzero(switches) > value.size:  # a tie somewhere
        _keep_first(switches)
    return value, switches


def _keep_first(switches: Array) -> None:
    """Write into ``switches``: of several in a window, keep the first in reading order."""
    taken = np.zeros_like(switches[:, :, 0, :, 0])
    for i in range(switches.shape[2]):
        for j in range(switches.shape[4]):
            place = switches[:, :, i, :, j]
            place &= ~taken
            taken |= place


def pool_at(a: Array, switches: Array) -> Array:
    """P with the switches held, a linear map: read each window at its switch."""
    return (_windows(a, switches.shape[2]) * switches).sum(axis=(2, 4))


def unpool(value: Array, switches: Array) -> Array:
    """P⁻¹ of Eq. (4), the adjoint of `pool_at`: put each value back at its switch, zero elsewhere."""
    batch, rows, window, columns, _, channels = switches.shape
    tiles = value[:, :, None, :, None] * switches
    return tiles.reshape(batch, rows * window, columns * window, channels)
