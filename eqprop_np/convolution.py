"""⋆, P and P⁻¹ of Eqs. (3)-(4): convolution by im2col, max-pooling with switches, unpooling.

Images have shape (B, H, W, C): batch, height, width, channels. Kernels have shape (k, k, C, D). As
is usual in machine learning, "convolution" does not flip the kernel.

`im2col` copies each patch under the kernel into a row. With the kernel as a matrix W of shape
(k·k·C, D), the convolution and its two adjoints are matrix products:

    w ⋆ s    = im2col(s) · W          the convolution
    w ⋆ᵀ u   = im2colᵀ(u · Wᵀ)        the adjoint of s ↦ w ⋆ s
    u ⋆ s    = im2col(s)ᵀ · u         the adjoint of w ↦ w ⋆ s
"""

from functools import reduce

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from eqprop_np.activations import Array, refuse_complex


def im2col(s: Array, kernel: int, stride: int = 1, padding: int = 0) -> Array:
    """Copy the patch under each position of the kernel.

    Parameters
    ----------
    s : ndarray, shape (B, H, W, C)
    kernel, stride, padding : int
        k, the step between positions, and the border of zeros around the image.

    Returns
    -------
    ndarray, shape (B, H', W', k, k, C), with H' = (H + 2·padding − k)//stride + 1
    """
    if padding:
        s = np.pad(s, ((0, 0), (padding, padding), (padding, padding), (0, 0)))
    patches = sliding_window_view(s, (kernel, kernel), axis=(1, 2), subok=True)
    return patches[:, ::stride, ::stride].transpose(0, 1, 2, 4, 5, 3).copy()


def col2im(patches: Array, shape: tuple[int, ...], stride: int = 1, padding: int = 0) -> Array:
    """Return im2colᵀ(patches): add each patch at its position in images of ``shape`` (H, W, C)."""
    batch, rows, columns, kernel, _, channels = patches.shape
    padded = (batch, shape[0] + 2 * padding, shape[1] + 2 * padding, channels)
    images = np.zeros_like(patches, shape=padded)
    for i in range(kernel):
        for j in range(kernel):
            images[:, i : i + rows * stride : stride, j : j + columns * stride : stride] += patches[
                :, :, :, i, j
            ]
    return images[:, padding : padding + shape[0], padding : padding + shape[1]]


def convolve(w: Array, s: Array, stride: int = 1, padding: int = 0) -> Array:
    """Return w ⋆ s of Eq. (3): (k, k, C, D), (B, H, W, C) → (B, H', W', D).

    Examples
    --------
    >>> image = np.arange(16.0).reshape(1, 4, 4, 1)
    >>> convolve(np.ones((3, 3, 1, 1)), image)[0, :, :, 0]
    array([[45., 54.],
           [81., 90.]])
    """
    patches = im2col(s, w.shape[0], stride, padding)
    features = w.shape[-1]
    product: Array = patches.reshape(-1, w.size // features) @ w.reshape(-1, features)
    return product.reshape(*patches.shape[:3], features)


def convolve_transpose(
    w: Array, u: Array, shape: tuple[int, ...], stride: int = 1, padding: int = 0
) -> Array:
    """Return w ⋆ᵀ u, the adjoint of s ↦ w ⋆ s: (k, k, C, D), (B, H', W', D) → (B, H, W, C).

    ``shape`` is (H, W, C). `convolve_transpose_by_rows` has the same result and is faster.
    """
    kernel, _, channels, features = w.shape
    patches = u.reshape(-1, features) @ w.reshape(-1, features).T
    return col2im(patches.reshape(*u.shape[:3], kernel, kernel, channels), shape, stride, padding)


def convolve_weight(u: Array, s: Array, kernel: int, stride: int = 1, padding: int = 0) -> Array:
    """Return u ⋆ s of Eq. (4), the adjoint of w ↦ w ⋆ s: (B, H', W', D), (B, H, W, C) → (k, k, C, D).

    The result is summed over the batch.
    """
    patches = im2col(s, kernel, stride, padding)
    features = u.shape[-1]
    product: Array = patches.reshape(u.size // features, -1).T @ u.reshape(-1, features)
    return product.reshape(kernel, kernel, s.shape[-1], features)


# ---- pooling


def _windows(a: Array, window: int) -> Array:
    """View (B, H, W, C) as (B, H/p, p, W/p, p, C): the two axes of size p are the place in the window."""
    batch, height, width, channels = a.shape
    return a.reshape(batch, height // window, window, width // window, window, channels)


def max_pool(a: Array, window: int) -> tuple[Array, Array]:
    """Return P of Eq. (3), the maximum of each p×p window, and the switches.

    Parameters
    ----------
    a : ndarray, shape (B, H, W, C), real unless p = 1
    window : int
        p, which must divide H and W.

    Returns
    -------
    value : ndarray, shape (B, H/p, W/p, C)
    switches : ndarray of bool, shape (B, H/p, p, W/p, p, C)
        True at one place of each window: its maximum, or the first in reading order of several equal ones.

    Raises
    ------
    TypeError
        If ``a`` is complex and p > 1.

    Examples
    --------
    >>> value, switches = max_pool(np.array([[1.0, 5.0], [3.0, 2.0]]).reshape(1, 2, 2, 1), 2)
    >>> print(value.ravel(), switches.ravel())
    [5.] [False  True False False]
    """
    if window > 1:
        refuse_complex(a, "max-pooling")
    tiles = _windows(a, window)
    places = [tiles[:, :, i, :, j] for i in range(window) for j in range(window)]
    value = reduce(np.maximum, places[1:], places[0])
    switches = tiles == value[:, :, None, :, None]
    if np.count_nonzero(switches) > value.size:  # some window has several equal maxima
        _keep_first(switches)
    return value, switches


def _keep_first(switches: Array) -> None:
    """Keep the first True of each window in reading order. This writes into ``switches``."""
    taken = np.zeros_like(switches[:, :, 0, :, 0])
    for i in range(switches.shape[2]):
        for j in range(switches.shape[4]):
            place = switches[:, :, i, :, j]
            place &= ~taken
            taken |= place


def pool_at(a: Array, switches: Array) -> Array:
    """Return P with the switches held: the value of each window at its switch, a linear map of ``a``."""
    pooled: Array = (_windows(a, switches.shape[2]) * switches).sum(axis=(2, 4))
    return pooled


def unpool(value: Array, switches: Array) -> Array:
    """Return P⁻¹ of Eq. (4), the adjoint of `pool_at`: each value at its switch, and zero elsewhere."""
    batch, rows, window, columns, _, channels = switches.shape
    tiles = value[:, :, None, :, None] * switches
    return tiles.reshape(batch, rows * window, columns * window, channels)


# ---- the fast form of the adjoint


def convolve_transpose_by_rows(
    w: Array, u: Array, shape: tuple[int, ...], stride: int = 1, padding: int = 0
) -> Array:
    """Return `convolve_transpose`, computed with 1/k of its memory traffic.

    The adjoint of `im2col` moves k² copies of the image. This form unfolds the width only, which is k
    copies. Row h of the image gets contributions from the rows r of u with 0 ≤ h − r·stride < k. They
    are adjacent in memory, so one product with the kernel rows h − r·stride computes all of them.
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
    for j in range(columns):  # add along the width
        images[:, :, j * stride : j * stride + kernel] += bands[:, :, j]
    images = images.transpose(1, 0, 2, 3)
    return images[:, padding : height - padding, padding : width - padding]
