"""Tests of the transforms: each shift occurs, and distortions have the promised size and smoothness."""

import numpy as np
import pytest

import eqprop_np as eq
from eqprop_np.activations import Array
from eqprop_np.augmentation import Transform, _random_linear, random_points, resample


@pytest.mark.parametrize("transform", [eq.random_shift(1), eq.random_distortion(1)])
def test_what_is_no_image_is_refused(transform: Transform) -> None:
    with pytest.raises(ValueError, match=r"random_.* needs images of shape .*, got \(9, 48\)"):
        transform(np.zeros((9, 48)), np.random.default_rng(0))


def test_a_wrong_amount_is_refused() -> None:
    with pytest.raises(ValueError, match="pixels must be a non-negative integer, got -1"):
        eq.random_shift(-1)
    for strength in (-0.1, 10.1, float("nan"), "1", True):
        with pytest.raises(ValueError, match="strength must be a number from 0 to 10, got"):
            eq.random_distortion(strength)


# --- the shift


def shifted(image: Array, down: int, right: int) -> Array:
    """Return the shifted image, computed pixel by pixel. The new pixels are 0."""
    moved = np.zeros_like(image)
    for r, c in np.ndindex(*image.shape[:2]):
        if 0 <= r - down < image.shape[0] and 0 <= c - right < image.shape[1]:
            moved[r, c] = image[r - down, c - right]
    return moved


@pytest.mark.parametrize("pixels", [0, 1, 2])
@pytest.mark.parametrize("shape", [(3, 7), (7, 3), (4, 6, 2)], ids=str)
def test_random_shift_moves_each_image_by_one_of_all_shifts(
    pixels: int, shape: tuple[int, ...], rng: np.random.Generator
) -> None:
    x = rng.random((200, *shape)) + 1
    before = x.copy()
    found = eq.random_shift(pixels)(x, rng)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    reach, seen = range(-pixels, pixels + 1), set()
    for image, moved in zip(x, found, strict=True):
        matches = [(d, r) for d in reach for r in reach if np.array_equal(moved, shifted(image, d, r))]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {(d, r) for d in reach for r in reach}
    np.testing.assert_array_equal(x, before)


# --- the distortion


@pytest.mark.parametrize("shape", [(28, 28), (5, 9), (1, 1), (6, 4, 2)], ids=str)
@pytest.mark.parametrize("dtype", [np.uint8, np.float32, np.float64])
def test_a_distortion_keeps_shape_dtype_and_range(
    shape: tuple[int, ...], dtype: type, rng: np.random.Generator
) -> None:
    x = rng.integers(100, 200, (30, *shape)).astype(dtype)
    before = x.copy()
    found = eq.random_distortion(2)(x, rng)
    assert (found.shape, found.dtype) == (x.shape, x.dtype)
    assert found.min() >= 0 and found.max() <= x.max()
    assert not np.array_equal(found, x)
    np.testing.assert_array_equal(x, before)
    np.testing.assert_array_equal(eq.random_distortion(0)(x, rng), x)


def test_a_distortion_depends_only_on_the_generator(rng: np.random.Generator) -> None:
    x = rng.integers(0, 256, (4, 28, 28)).astype(np.uint8)
    x[1:] = x[0]
    state = rng.bit_generator.state
    first, second = (eq.random_distortion()(x, rng) for _ in range(2))
    assert len({image.tobytes() for image in (*first, *second)}) == 8
    rng.bit_generator.state = state
    np.testing.assert_array_equal(eq.random_distortion(1.0)(x, rng), first)


def test_all_channels_are_distorted_alike(rng: np.random.Generator) -> None:
    x = rng.random((3, 9, 7, 2))
    found = eq.random_distortion()(x, np.random.default_rng(1))
    for channel in range(2):
        alone = eq.random_distortion()(x[..., channel], np.random.default_rng(1))
        np.testing.assert_array_equal(found[..., channel], alone)


@pytest.mark.parametrize("strength", [0.5, 1.0])
def test_the_centre_moves_by_shift_and_field(strength: float, rng: np.random.Generator) -> None:
    """The value of a ramp is the row or the column that a pixel shows; the affine map keeps the centre."""
    for ramp in np.mgrid[:29.0, :29.0]:
        found = eq.random_distortion(strength)(np.broadcast_to(ramp, (800, 29, 29)), rng)[:, 14, 14]
        assert abs(found.mean() - 14) < 0.1 * strength
        assert found.std() == pytest.approx(strength * np.hypot(0.8, 0.8), rel=0.07)


def test_the_displacement_is_smooth_over_four_pixels(rng: np.random.Generator) -> None:
    """White noise behind a Gaussian blur of σ has the correlation exp(−d²/4σ²) at the distance d."""
    points = random_points(rng, (1500, 41, 33))
    moved = points - (np.mgrid[:41, :33] - np.array([20, 16]).reshape(2, 1, 1))
    apart = moved[:, :, 4, 16] * moved[:, :, -4, 16]
    assert apart.mean() == pytest.approx(0.8**2, rel=0.12), "far apart only the shift is common"
    distances = np.array([1, 4, 12])
    found = [(moved[:, :, 20, 16] - moved[:, :, 20 + d, 16]).var() for d in distances]
    expected = 2 * 0.78**2 * (1 - np.exp(-(distances**2) / 64))
    np.testing.assert_allclose(found, expected, rtol=0.1)
    assert abs(np.mean(moved[:, 0] * moved[:, 1])) < 0.05, "rows and columns move independently"


@pytest.mark.parametrize("strength", [1.0, 2.0])
def test_the_linear_maps_have_their_amounts(strength: float, rng: np.random.Generator) -> None:
    """A is a rotation times [[r, 0], [shear, c]]."""
    maps = _random_linear(rng, 4000, strength)
    angle = np.arctan2(-maps[:, 0, 1], maps[:, 1, 1])
    columns = np.hypot(maps[:, 0, 1], maps[:, 1, 1])
    rows = np.linalg.det(maps) / columns
    shear = maps[:, 1, 0] * np.cos(angle) - maps[:, 0, 0] * np.sin(angle)
    found = [np.degrees(angle), np.log(rows), np.log(columns), shear]
    amounts = strength * np.array([6, 0.07, 0.07, 0.08])
    np.testing.assert_allclose(np.std(found, axis=1), amounts, rtol=0.05)
    assert (np.abs(np.mean(found, axis=1)) < 0.06 * amounts).all()
    assert np.abs(np.corrcoef(found) - np.eye(4)).max() < 0.06


def test_resampled_pixels_show_the_mapped_points(rng: np.random.Generator) -> None:
    images = rng.random((3, 5, 7))
    points = np.broadcast_to(np.mgrid[:7, :5] - np.array([3, 2]).reshape(2, 1, 1), (2, 2, 7, 5))
    turn = np.array([[[0.0, 1.0], [-1.0, 0.0]]] * 2)
    found = resample(images, np.array([2, 0]), turn, points)
    np.testing.assert_array_equal(found, np.rot90(images[[2, 0]], 1, axes=(1, 2)))
    below = points[:, :, 2:5] + [[[0.5]], [[0]]]
    halfway = resample(images, np.array([1, 1]), np.array([np.eye(2)] * 2), below)
    np.testing.assert_allclose(halfway[0], (images[1, 1:4, 1:6] + images[1, 2:5, 1:6]) / 2)
