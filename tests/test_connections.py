"""Tests of the terms of Φ: φ, its derivatives, what the network relies on, and refused geometries."""

import re
from dataclasses import replace

import numpy as np
import pytest
from examples import CLEAR, clear, lead, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.connections import Connection, ConvPool, Dense
from eqprop_np.convolution import convolve, max_pool
from eqprop_np.testing import check_adjoint, check_connection, check_gradient

CONNECTIONS: dict[str, Connection] = {
    "dense": Dense(0, 1, (4,), (3,)),
    "dense on images": Dense(1, 2, (2, 3, 2), (3,)),
    "dense between images": Dense(1, 3, (2, 2, 1), (1, 3, 2)),
    "dense to a wide layer": Dense(1, 2, (2,), (129,)),  # the other form of `Dense.to_pre`
    "dense with a name": Dense(1, 2, (3,), (2,), name="second"),
    "conv": ConvPool(0, 1, (6, 4, 1), 2, kernel=3, pool=2),
    "conv of channels": ConvPool(0, 1, (5, 7, 3), 2, kernel=2, pool=2),
    "conv without pooling": ConvPool(1, 2, (4, 3, 2), 3, kernel=2, pool=1),
    "conv with stride": ConvPool(1, 2, (8, 7, 2), 1, kernel=3, pool=2, stride=2, padding=1),
    "conv with a name": ConvPool(1, 2, (4, 4, 1), 2, kernel=3, pool=2, name="kernel"),
}
every = pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
pooling = pytest.mark.parametrize(
    "connection",
    [c for c in CONNECTIONS.values() if c.has_switches],
    ids=[n for n, c in CONNECTIONS.items() if c.has_switches],
)
batches = st.integers(1, 3)


def draw(connection: Connection, batch: int, rng: np.random.Generator) -> tuple[Array, Array, Array]:
    """Return w, s^pre and s^post of normal numbers."""
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


# --- the drives and the gradient are derivatives of φ


@every
@given(rng=rngs, batch=batches)
def test_drives_and_gradient_are_the_derivatives_of_phi(
    connection: Connection, rng: np.random.Generator, batch: int
) -> None:
    """For `ConvPool` with the switches of its own maxima, this is Eq. (4)."""

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
    """This holds also at states far from the one at which the switches were computed."""
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


@every
@given(rng=rngs, batch=batches)
def test_phi_is_the_product_of_post_and_its_drive(
    connection: Connection, rng: np.random.Generator, batch: int
) -> None:
    """φ = ⟨s^post, A s^pre⟩ = ⟨Aᵀ s^post, s^pre⟩ for each sample."""
    w, pre, post = draw(connection, batch, rng)
    drive, switches = connection.to_post(w, pre)
    back = connection.to_pre(w, post, switches)
    phi = connection.phi(w, pre, post)
    np.testing.assert_allclose(phi, (post * drive).reshape(batch, -1).sum(axis=1), rtol=0, atol=1e-12)
    np.testing.assert_allclose(phi, (pre * back).reshape(batch, -1).sum(axis=1), rtol=0, atol=1e-11)


@every
def test_the_public_check_accepts_each_connection(connection: Connection, rng: np.random.Generator) -> None:
    check_connection(connection)
    check_connection(connection, rng, batch=1)


# --- what the network relies on


@pooling
def test_held_switches_are_returned(connection: ConvPool, rng: np.random.Generator) -> None:
    w, pre, _ = draw(connection, 2, rng)
    _, switches = connection.to_post(w, pre)
    for other in (-pre, 0 * pre):
        assert connection.to_post(w, other, switches)[1] is switches


@pooling
def test_the_shortcuts_for_zeros_equal_the_computation(
    connection: ConvPool, rng: np.random.Generator
) -> None:
    """`ConvPool` has a shortcut for zeros. Its result and switches must be those of the computation."""
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


@pooling
def test_without_switches_the_way_back_is_refused(connection: ConvPool, rng: np.random.Generator) -> None:
    w, pre, post = draw(connection, 2, rng)
    message = "max-pooling needs switches here: pass those that to_post returned"
    with pytest.raises(ValueError, match=message):
        connection.to_pre(w, post)
    with pytest.raises(ValueError, match=message):
        connection.gradient(pre, post)


@every
def test_a_complex_step_gives_the_drive_to_post(connection: Connection, rng: np.random.Generator) -> None:
    """With its switches held, a connection is linear and takes complex numbers. Finding switches may not."""
    w, pre, post = draw(connection, 2, rng)
    drive, switches = connection.to_post(w, pre)
    step = connection.phi(w, pre, post + 1j * 1e-30 * np.ones_like(post), switches).imag / 1e-30
    np.testing.assert_allclose(step, drive.reshape(2, -1).sum(axis=1), rtol=0, atol=1e-12)
    if connection.has_switches and connection.pool > 1:
        with pytest.raises(TypeError, match="max-pooling is not analytic and takes real numbers only"):
            connection.to_post(w, pre + 0j)
    else:
        np.testing.assert_allclose(connection.to_post(w, pre + 0j)[0], drive, rtol=0, atol=1e-12)


@every
def test_default_names_and_fan_in(connection: Connection, rng: np.random.Generator) -> None:
    """fan_in is the number of terms of the sum that drives one neuron of post, here all ones."""
    assert replace(connection, name="").name == f"w{connection.pre}-{connection.post}"
    w, pre, _ = draw(connection, 1, rng)
    drive, _ = connection.to_post(np.ones_like(w), np.ones_like(pre))
    assert drive.max() == connection.fan_in


def test_a_name_that_is_given_is_kept() -> None:
    assert CONNECTIONS["dense with a name"].name == "second"
    assert CONNECTIONS["conv with a name"].name == "kernel"
    assert CONNECTIONS["dense"].name == "w0-1"
    assert replace(CONNECTIONS["dense with a name"], post_shape=(5,)).name == "second"


@pooling
def test_nearly_equal_maxima_are_not_clear(connection: ConvPool, rng: np.random.Generator) -> None:
    """The helper `clear` of these tests refuses a state at which a small change moves a switch."""
    w, pre, _ = draw(connection, 2, rng)
    equal = np.ones_like(pre)  # each place of the kernel gives the same number
    assert clear(connection, w, equal) == (connection.pool == 1)
    smallest = lead(convolve(w, pre, connection.stride, connection.padding), connection.pool)
    assert clear(connection, w, pre) or smallest < 100 * CLEAR


# --- multiplications


@pytest.mark.parametrize(
    "pre_shape, post_shape", [((4,), (3,)), ((2, 3, 2), (3,)), ((2, 2, 1), (1, 3, 2)), ((1,), (1,))]
)
def test_multiplications_of_dense(pre_shape: tuple[int, ...], post_shape: tuple[int, ...]) -> None:
    """Each neuron of post multiplies each neuron of pre once."""
    count = sum(1 for _ in np.ndindex(*post_shape, *pre_shape))
    assert Dense(0, 1, pre_shape, post_shape).multiplications == count


@pytest.mark.parametrize("height, width, channels, features", [(6, 4, 1, 2), (5, 9, 3, 1), (8, 8, 2, 4)])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize("padding", [0, 1])
def test_multiplications_of_conv(
    height: int, width: int, channels: int, features: int, kernel: int, stride: int, padding: int
) -> None:
    """The kernel stands at each position and multiplies each number under it, zeros of the border too."""
    count = 0
    for _top in range(-padding, height + padding - kernel + 1, stride):
        for _left in range(-padding, width + padding - kernel + 1, stride):
            count += sum(1 for _ in np.ndindex(kernel, kernel, channels, features))
    options = {"kernel": kernel, "pool": 1, "stride": stride, "padding": padding}
    assert ConvPool(0, 1, (height, width, channels), features, **options).multiplications == count


def test_multiplications_of_the_published_layers() -> None:
    """Pooling happens after the convolution, so it does not reduce the number."""
    first = ConvPool(0, 1, (28, 28, 1), 32)
    second = ConvPool(1, 2, first.post_shape, 64)
    assert first.multiplications == 24 * 24 * 5 * 5 * 1 * 32
    assert second.multiplications == 8 * 8 * 5 * 5 * 32 * 64
    assert replace(second, pool=1).multiplications == second.multiplications
    assert Dense(2, 3, second.post_shape, (10,)).multiplications == 1024 * 10


# --- geometry


def test_geometry_of_the_convolutional_network() -> None:
    """The side shrinks from 28 to 24, 12, 8 and 4, so 1024 neurons drive the last layer."""
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
def test_the_message_about_a_geometry_that_does_not_fit_names_the_sizes(
    pre_shape: tuple[int, ...], options: dict[str, int], words: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        ConvPool(2, 3, pre_shape, 8, **options)


@pytest.mark.parametrize(
    "field, value, least",
    [
        ("features", 0, 1),
        ("kernel", 0, 1),
        ("pool", 0, 1),
        ("stride", 0, 1),
        ("padding", -1, 0),
        ("kernel", 2.0, 1),
        ("pool", "2", 1),
    ],
)
def test_sizes_that_are_no_positive_integers_are_refused(field: str, value: object, least: int) -> None:
    message = f"layer 3: {field} must be an integer from {least}, got {value!r}"
    with pytest.raises(ValueError, match=re.escape(message)):
        ConvPool(2, 3, (28, 28, 1), **{"features": 8, field: value})


def test_sizes_may_be_numpy_integers() -> None:
    assert ConvPool(0, 1, (6, 6, 1), np.int64(2), kernel=np.int32(3), pool=2).post_shape == (2, 2, 2)


@given(rngs)
def test_dense_equals_the_plain_product_for_inputs_with_zeros(rng: np.random.Generator) -> None:
    """Some pixels are zero in the whole batch, some in a part of it, and some in no sample."""
    c = Dense(0, 1, (12,), (5,))
    w = rng.standard_normal(c.shape)
    pre = rng.standard_normal((3, 12)) * rng.integers(0, 2, (3, 12))
    pre[:, rng.random(12) < 0.5] = 0
    np.testing.assert_allclose(c.to_post(w, pre)[0], pre @ w, rtol=0, atol=1e-12)
