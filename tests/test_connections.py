"""The terms of Φ: each connection's four answers come from one φ, and its geometry must fit."""

import re
from dataclasses import replace

import numpy as np
import pytest
from examples import clear, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.connections import Connection, ConvPool, Dense
from eqprop_np.convolution import convolve, max_pool
from eqprop_np.testing import check_adjoint, check_gradient

CONNECTIONS: dict[str, Connection] = {
    "dense": Dense(0, 1, (4,), (3,)),
    "dense on images": Dense(1, 2, (2, 3, 2), (3,)),
    "dense between images": Dense(1, 3, (2, 2, 1), (1, 3, 2)),
    "conv": ConvPool(0, 1, (6, 4, 1), 2, kernel=3, pool=2),
    "conv of channels": ConvPool(0, 1, (5, 7, 3), 2, kernel=2, pool=2),
    "conv without pooling": ConvPool(1, 2, (4, 3, 2), 3, kernel=2, pool=1),
    "conv with stride": ConvPool(1, 2, (8, 7, 2), 1, kernel=3, pool=2, stride=2, padding=1),
}
every = pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
pooling = pytest.mark.parametrize(
    "connection",
    [c for c in CONNECTIONS.values() if c.pools],
    ids=[n for n, c in CONNECTIONS.items() if c.pools],
)
batches = st.integers(1, 3)


def draw(connection: Connection, batch: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """w, s^pre and s^post."""
    return (
        rng.standard_normal(connection.shape),
        rng.standard_normal((batch, *connection.pre_shape)),
        rng.standard_normal((batch, *connection.post_shape)),
    )


# --- φ itself


@given(rngs, batches)
def test_phi_of_dense_is_the_bilinear_form(rng: np.random.Generator, batch: int) -> None:
    w, pre, post = draw(CONNECTIONS["dense"], batch, rng)
    expected = [sum(pre[b, i] * w[i, j] * post[b, j] for i, j in np.ndindex(w.shape)) for b in range(batch)]
    np.testing.assert_allclose(CONNECTIONS["dense"].phi(w, pre, post), expected, rtol=1e-12, atol=1e-12)


@given(rngs, batches)
def test_dense_sees_an_image_as_a_flat_vector(rng: np.random.Generator, batch: int) -> None:
    image = CONNECTIONS["dense between images"]
    flat = replace(image, pre_shape=(4,), post_shape=(6,))
    w, pre, post = draw(image, batch, rng)
    flat_pre, flat_post = pre.reshape(batch, 4), post.reshape(batch, 6)
    np.testing.assert_array_equal(image.phi(w, pre, post), flat.phi(w, flat_pre, flat_post))
    np.testing.assert_array_equal(image.to_post(w, pre)[0].reshape(batch, 6), flat.to_post(w, flat_pre)[0])
    np.testing.assert_array_equal(image.to_pre(w, post).reshape(batch, 4), flat.to_pre(w, flat_post))


@pooling
@given(rng=rngs, batch=batches)
def test_phi_of_conv_is_post_times_the_pooled_convolution(
    connection: ConvPool, rng: np.random.Generator, batch: int
) -> None:
    w, pre, post = draw(connection, batch, rng)
    pooled, switches = max_pool(convolve(w, pre, connection.stride, connection.padding), connection.pool)
    expected = (post * pooled).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(connection.phi(w, pre, post), expected, rtol=1e-12, atol=1e-12)
    drive, found = connection.to_post(w, pre)
    np.testing.assert_array_equal(drive, pooled)
    np.testing.assert_array_equal(found, switches)


# --- the four answers are one


@every
@given(rng=rngs, batch=batches)
def test_drives_and_gradient_are_the_derivatives_of_phi(
    connection: Connection, rng: np.random.Generator, batch: int
) -> None:
    """For `ConvPool`, at its own maxima: this is Eq. (4)."""

    def phi(w: Array, pre: Array, post: Array) -> float:
        return float(connection.phi(w, pre, post).sum())

    def derivatives(w: Array, pre: Array, post: Array) -> tuple[Array, Array, Array]:
        drive, switches = connection.to_post(w, pre)
        return connection.gradient(pre, post, switches), connection.to_pre(w, post, switches), drive

    w, pre, post = draw(connection, batch, rng)
    assume(clear(connection, w, pre))
    check_gradient(phi, derivatives, w, pre, post, rng=rng)


@every
@given(rng=rngs, batch=batches)
def test_with_switches_held_phi_is_linear_in_each_argument(
    connection: Connection, rng: np.random.Generator, batch: int
) -> None:
    """Also far from where the switches were found."""
    _, switches = connection.to_post(*draw(connection, batch, rng)[:2])
    one, two = draw(connection, batch, rng), draw(connection, batch, rng)
    for i in range(3):
        mixed = tuple(2 * a - 3 * b if i == k else a for k, (a, b) in enumerate(zip(one, two, strict=True)))
        other = tuple(b if i == k else a for k, (a, b) in enumerate(zip(one, two, strict=True)))
        combined = 2 * connection.phi(*one, switches) - 3 * connection.phi(*other, switches)
        np.testing.assert_allclose(connection.phi(*mixed, switches), combined, rtol=0, atol=1e-10)


@every
@given(rng=rngs, batch=batches)
def test_the_drives_are_each_others_transpose(
    connection: Connection, rng: np.random.Generator, batch: int
) -> None:
    _, switches = connection.to_post(*draw(connection, batch, rng)[:2])
    w, pre, post = draw(connection, batch, rng)
    check_adjoint(
        lambda pre: connection.to_post(w, pre, switches)[0],
        lambda post: connection.to_pre(w, post, switches),
        pre,
        post,
    )


@every
@given(rng=rngs, batch=batches)
def test_the_gradient_is_the_transpose_of_the_drive_in_the_weight(
    connection: Connection, rng: np.random.Generator, batch: int
) -> None:
    _, switches = connection.to_post(*draw(connection, batch, rng)[:2])
    w, pre, post = draw(connection, batch, rng)
    check_adjoint(
        lambda w: connection.to_post(w, pre, switches)[0],
        lambda post: connection.gradient(pre, post, switches),
        w,
        post,
    )


# --- what the network relies on


@pooling
def test_held_switches_are_handed_back(connection: ConvPool, rng: np.random.Generator) -> None:
    w, pre, _ = draw(connection, 2, rng)
    _, switches = connection.to_post(w, pre)
    for other in (-pre, 0 * pre):
        assert connection.to_post(w, other, switches)[1] is switches


@pooling
def test_at_rest_the_short_cut_is_the_long_way(connection: ConvPool, rng: np.random.Generator) -> None:
    """Zero input pools to zero, at the first place of each window; zero post drives nothing."""
    w, pre, post = (np.zeros_like(a) for a in draw(connection, 2, rng))
    w += rng.standard_normal(w.shape)
    drive, switches = connection.to_post(w, pre)
    value, found = max_pool(convolve(w, pre, connection.stride, connection.padding), connection.pool)
    np.testing.assert_array_equal(drive, value)
    np.testing.assert_array_equal(switches, found)
    np.testing.assert_array_equal(connection.to_pre(w, post, switches), pre)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scale", [0, 1])
def test_dtype_is_kept_and_results_are_new(
    connection: Connection, dtype: type, scale: int, rng: np.random.Generator
) -> None:
    w, pre, post = ((scale * a).astype(dtype) for a in draw(connection, 2, rng))
    drive, switches = connection.to_post(w, pre)
    back, gradient = connection.to_pre(w, post, switches), connection.gradient(pre, post, switches)
    results = {"phi": connection.phi(w, pre, post), "to_post": drive, "to_pre": back, "gradient": gradient}
    shapes = {"phi": (2,), "to_post": post.shape, "to_pre": pre.shape, "gradient": w.shape}
    for name, result in results.items():
        assert (result.dtype, result.shape) == (dtype, shapes[name]), name
        assert not any(np.shares_memory(result, a) for a in (w, pre, post)), name


@every
def test_names_and_fan_in(connection: Connection, rng: np.random.Generator) -> None:
    """fan_in counts the terms of the sum that drives one neuron of post: here, all ones."""
    assert connection.name == f"w{connection.pre}-{connection.post}"
    w, pre, _ = draw(connection, 1, rng)
    drive, _ = connection.to_post(np.ones_like(w), np.ones_like(pre))
    assert drive.max() == connection.fan_in


def test_geometry_of_the_convolutional_network() -> None:
    """28 → 24 → 12 → 8 → 4, so 1024 features reach the last layer."""
    first = ConvPool(0, 1, (28, 28, 1), 32)
    second = ConvPool(1, 2, first.post_shape, 64)
    assert (first.post_shape, second.post_shape) == ((12, 12, 32), (4, 4, 64))
    assert (first.shape, second.shape) == ((5, 5, 1, 32), (5, 5, 32, 64))


def test_padding_can_make_it_fit() -> None:
    assert ConvPool(0, 1, (3, 4, 1), 2, kernel=5, pool=1, padding=1).post_shape == (1, 2, 2)


@pytest.mark.parametrize(
    "pre_shape, options, words",
    [
        ((4, 28, 1), {}, "layer 3: a 5×5 convolution does not fit on 4 pixels with padding 0"),
        ((28, 2, 1), {"padding": 1}, "layer 3: a 5×5 convolution does not fit on 2 pixels with padding 1"),
        ((28, 27, 1), {}, "layer 3: a 5×5 convolution turns 27 pixels into 23, which pooling by 2 does not"),
        ((28, 28, 1), {"pool": 5}, "layer 3: a 5×5 convolution turns 28 pixels into 24, which pooling by 5"),
        (
            (28, 28, 1),
            {"stride": 3, "kernel": 4},
            "a 4×4 convolution turns 28 pixels into 9, which pooling by 2",
        ),
        ((784,), {}, "layer 3: a 5×5 convolution needs images (H, W, C), but layer 2 has shape (784,)"),
    ],
)
def test_a_geometry_that_does_not_fit_is_refused_by_its_sizes(
    pre_shape: tuple[int, ...], options: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ConvPool(2, 3, pre_shape, 8, **options)


@given(rngs)
def test_black_pixels_of_a_clamped_input_are_left_out_without_a_trace(rng: np.random.Generator) -> None:
    """Pixels that are zero in the whole batch, in some samples, or in none: the same as a plain product."""
    c = Dense(0, 1, (12,), (5,))
    w = rng.standard_normal(c.shape)
    pre = rng.standard_normal((3, 12)) * rng.integers(0, 2, (3, 12))
    pre[:, rng.random(12) < 0.5] = 0
    np.testing.assert_allclose(c.to_post(w, pre)[0], pre @ w, rtol=0, atol=1e-12)
