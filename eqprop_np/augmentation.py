"""Transforms for `fit` that change the training images at random, which reduces overfitting."""

from collections.abc import Callable

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import check_integer, describe, is_number

Transform = Callable[[Array, np.random.Generator], Array]
"""Maps a batch of images and the generator to a changed batch of the same shape."""

STRONGEST = 10.0


def random_shift(pixels: int) -> Transform:
    """Return a transform for `fit` that moves each image by up to so many pixels in each direction.

    Zeros move in at the border. The batch has shape (B, H, W) or (B, H, W, C).

    Parameters
    ----------
    pixels : int
        The largest number of pixels, from 0 (images are not changed).

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.
    """
    check_integer("pixels", pixels, least=0)

    def shift(x: Array, rng: np.random.Generator) -> Array:
        _require_images("random_shift", x)
        height, width = x.shape[1:3]
        margins = [(0, 0), (pixels, pixels), (pixels, pixels)] + [(0, 0)] * (x.ndim - 3)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(x, margins), (height, width), axis=(1, 2))
        down, right = rng.integers(0, 2 * pixels + 1, (2, len(x)))
        chosen = windows[np.arange(len(x)), down, right]
        return np.moveaxis(chosen, (-2, -1), (1, 2))

    return shift


def random_distortion(strength: float = 1.0) -> Transform:
    """Return a transform for `fit` that distorts each image by a random affine map and an elastic field.

    The amounts are normally distributed. With strength 1 their standard deviations are 6° of rotation, 7 % of
    scale in each direction, a shear of 0.08, a shift of 0.8 pixels, and a displacement of each pixel by 0.8
    pixels that changes smoothly over 4 pixels. They suit digits of about 20 pixels.

    The batch has shape (B, H, W) or (B, H, W, C), and keeps its dtype and its range. Points outside of an
    image are 0. All channels of an image are distorted in the same way.

    Parameters
    ----------
    strength : float
        Factor on the standard deviations, from 0 (images are not changed) to 10.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Examples
    --------
    >>> images = np.zeros((2, 28, 28), np.uint8)
    >>> images[:, 4:24, 12:16] = 255  # two vertical bars
    >>> distorted = random_distortion(1.0)(images, np.random.default_rng(0))
    >>> print(distorted.shape, distorted.dtype, np.array_equal(distorted[0], distorted[1]))
    (2, 28, 28) uint8 False
    """
    check_strength("strength", strength)

    def distort(x: Array, rng: np.random.Generator) -> Array:
        _require_images("random_distortion", x)
        linear, points = _random_linear(rng, len(x), strength), random_points(rng, x.shape[:3], strength)
        each = np.arange(len(x))
        channels = np.moveaxis(x.reshape(*x.shape[:3], -1), 3, 0)
        distorted = [resample(channel, each, linear, points) for channel in channels]
        return np.stack(distorted, axis=3).reshape(x.shape)

    return distort


def check_strength(name: str, strength: float) -> None:
    """Raise an error if this is not a strength of `random_distortion`."""
    if not is_number(strength) or not 0 <= strength <= STRONGEST:
        raise ValueError(f"{name} must be a number from 0 to {STRONGEST:g}, got {describe(strength)}")


def _random_linear(rng: np.random.Generator, count: int, strength: float) -> Array:
    """Return random maps of (row, column): a scale and a shear, then a rotation, shape (count, 2, 2)."""
    angle, shear = rng.normal(0, strength, (2, count)) * [[np.radians(6)], [0.08]]
    rows, columns = np.exp(rng.normal(0, 0.07 * strength, (2, count)))  # the scales remain positive
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    scale = np.array([[rows, np.zeros(count)], [shear, columns]])
    return np.einsum("ijn,jkn->nik", rotation, scale)


def random_points(rng: np.random.Generator, shape: tuple[int, ...], strength: float = 1.0) -> Array:
    """Return the pixels of images, each moved by a random shift and a smooth random displacement.

    Parameters
    ----------
    shape : tuple of int
        The number of images N, their height and their width.
    strength : float
        Factor on the standard deviations, which are 0.8 pixels each.

    Returns
    -------
    ndarray, shape (N, 2, H, W)
        Rows and columns, measured from the centre of the image.
    """
    from scipy.ndimage import gaussian_filter  # imported here, because few runs need it

    count, height, width = shape
    pixels = np.mgrid[:height, :width] - np.array([[[height - 1]], [[width - 1]]]) / 2
    shift = rng.normal(0, 0.8 * strength, (count, 2, 1, 1))
    # The blur over 4 pixels reduces the standard deviation from 11 to 0.8 pixels.
    bend = gaussian_filter(rng.normal(0, 11 * strength, (count, 2, height, width)), (0, 0, 4, 4))
    return pixels + shift + bend


def resample(images: Array, which: Array, linear: Array, points: Array) -> Array:
    """Return images whose pixel r shows the point A r′ of a source image, interpolated linearly.

    Both positions are measured from the centres. The result has the dtype of the sources, and 0 for points
    outside of them.

    Parameters
    ----------
    images : ndarray, shape (M, h, w)
        The sources.
    which : ndarray of int, shape (N,)
        The source of each image.
    linear : ndarray, shape (N, 2, 2)
        A of each image.
    points : ndarray, shape (N, 2, H, W)
        r′ of each pixel of each image, as `random_points` returns them.
    """
    from scipy.ndimage import map_coordinates

    centre = (np.array(images.shape[1:]) - 1) / 2
    sources = np.einsum("nij,njrc->inrc", linear, points) + centre[:, None, None, None]
    index = np.broadcast_to(which[:, None, None], sources.shape[1:])
    return map_coordinates(images, (index, *sources), order=1)


def _require_images(name: str, x: Array) -> None:
    if x.ndim not in (3, 4):
        raise ValueError(f"{name} needs images of shape (N, H, W) or (N, H, W, C), got {x.shape}")
