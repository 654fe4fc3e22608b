"""Convolution and pooling against naive loops, each other's adjoint, and the maximum's switches."""

from typing import NamedTuple

import numpy as np
import pytest
from examples import CLEAR, lead, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.convolution import (
    convolve,
    convolve_transpose,
    convolve_weight,
    im2col,
    max_pool,
    pool_at,
    unpool,
)
from eqprop_np.testing import check_adjoint, check_gradient

TOLERANCE = {"rtol": 0, "atol": 1e-12}  # sums of at most some hundred normal numbers, in another order


class Case(NamedTuple):
    """A convolution: w, images s, and u of the shape of w ⋆ s."""

    w: Array
    s: Array
    u: Array
    stride: int
    padding: int

    @property
    def kernel(self) -> int:
        return len(self.w)

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.s.shape[1:]

    @property
    def how(self) -> dict[str, int]:
        return {"stride": self.stride, "padding": self.padding}


@st.composite
def convolutions(draw: st.DrawFn) -> Case:
    kernel, stride = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(st.integers(0, 2))
    smallest = max(1, kernel - 2 * padding)
    height, width = (draw(st.integers(smallest, smallest + 4)) for _ in range(2))
    batch, channels, features = (draw(st.integers(1, 3)) for _ in range(3))
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    rng = draw(rngs)
    return Case(
        rng.standard_normal((kernel, kernel, channels, features)),
        rng.standard_normal((batch, height, width, channels)),
        rng.standard_normal((batch, rows, columns, features)),
        stride,
        padding,
    )


class Pooling(NamedTuple):
    """Images of whole windows; ``values`` of the pooled shape."""

    a: Array
    values: Array
    window: int


@st.composite
def poolings(draw: st.DrawFn, tied: bool = False) -> Pooling:
    """Images to pool; if ``tied``, with numbers from {0, 1} alone."""
    window = draw(st.integers(1, 3))
    batch, rows, columns, channels = (draw(st.integers(1, 3)) for _ in range(4))
    shape = batch, rows * window, columns * window, channels
    rng = draw(rngs)
    a = rng.integers(0, 2, shape).astype(float) if tied else rng.standard_normal(shape)
    return Pooling(a, rng.standard_normal((batch, rows, columns, channels)), window)


# --- twins: the definitions, in loops


def naive_taps(case: Case) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """All (place in w, place in s, place in u) that meet in w ⋆ s; what falls on the padding is left out."""
    batch, rows, columns, features = case.u.shape
    height, width, channels = case.shape
    taps = []
    for b, r, q, d, i, j, c in np.ndindex(batch, rows, columns, features, case.kernel, case.kernel, channels):
        y, x = r * case.stride + i - case.padding, q * case.stride + j - case.padding
        if 0 <= y < height and 0 <= x < width:
            taps.append(((i, j, c, d), (b, y, x, c), (b, r, q, d)))
    return taps


@given(convolutions())
def test_convolve_and_its_adjoints_equal_their_twins(case: Case) -> None:
    """All three sum over the same taps: w·s into u, w·u into s, u·s into w."""
    w, s, u = (np.zeros_like(a) for a in case[:3])
    for in_w, in_s, in_u in naive_taps(case):
        u[in_u] += case.w[in_w] * case.s[in_s]
        s[in_s] += case.w[in_w] * case.u[in_u]
        w[in_w] += case.u[in_u] * case.s[in_s]
    np.testing.assert_allclose(convolve(case.w, case.s, **case.how), u, **TOLERANCE)
    np.testing.assert_allclose(convolve_transpose(case.w, case.u, case.shape, **case.how), s, **TOLERANCE)
    np.testing.assert_allclose(convolve_weight(case.u, case.s, case.kernel, **case.how), w, **TOLERANCE)


@given(convolutions())
def test_im2col_holds_the_patch_under_each_place_of_the_kernel(case: Case) -> None:
    p, k = case.padding, case.kernel
    padded = np.pad(case.s, ((0, 0), (p, p), (p, p), (0, 0)))
    patches = im2col(case.s, k, **case.how)
    assert patches.shape == (*case.u.shape[:3], k, k, case.shape[-1])
    for r, q in np.ndindex(*case.u.shape[1:3]):
        y, x = r * case.stride, q * case.stride
        np.testing.assert_array_equal(patches[:, r, q], padded[:, y : y + k, x : x + k])


@given(poolings() | poolings(tied=True))
def test_pooling_equals_its_twin(case: Pooling) -> None:
    """The maximum of each window, and where in reading order it stands first."""
    p = case.window
    value, switches = max_pool(case.a, p)
    unpooled = np.zeros_like(case.a)
    for b, r, q, c in np.ndindex(*case.values.shape):
        window = case.a[b, r * p : (r + 1) * p, q * p : (q + 1) * p, c]
        i, j = divmod(int(np.argmax(window)), p)  # NumPy's, too, is the first of several
        assert value[b, r, q, c] == window[i, j]
        assert switches[b, r, i, q, j, c]
        unpooled[b, r * p + i, q * p + j, c] = case.values[b, r, q, c]
    assert np.count_nonzero(switches) == value.size
    np.testing.assert_array_equal(unpool(case.values, switches), unpooled)
    np.testing.assert_array_equal(pool_at(case.a, switches), value)


# --- adjoints and derivatives


@given(convolutions())
def test_convolution_and_its_transpose_are_adjoint(case: Case) -> None:
    check_adjoint(
        lambda s: convolve(case.w, s, **case.how),
        lambda u: convolve_transpose(case.w, u, case.shape, **case.how),
        case.s,
        case.u,
    )


@given(convolutions())
def test_convolution_of_the_weight_and_its_gradient_are_adjoint(case: Case) -> None:
    check_adjoint(
        lambda w: convolve(w, case.s, **case.how),
        lambda u: convolve_weight(u, case.s, case.kernel, **case.how),
        case.w,
        case.u,
    )


@given(poolings() | poolings(tied=True))
def test_pooling_with_held_switches_and_unpooling_are_adjoint(case: Pooling) -> None:
    _, switches = max_pool(case.a, case.window)
    check_adjoint(lambda a: pool_at(a, switches), lambda v: unpool(v, switches), case.a, case.values)


@given(poolings())
def test_unpooling_is_the_derivative_of_max_pooling(case: Pooling) -> None:
    """P⁻¹ at P's own switches; no maximum is challenged within the reach of the difference."""
    p = case.window
    assume(lead(case.a, case.window) > CLEAR)
    check_gradient(
        lambda a: float((max_pool(a, p)[0] * case.values).sum()),
        lambda a: unpool(case.values, max_pool(a, p)[1]),
        case.a,
        rng=np.random.default_rng(0),
    )


# --- ties and kinks


@pytest.mark.parametrize("level", [0.0, -1.0, 3.5])
def test_of_equals_the_first_in_reading_order_counts(level: float) -> None:
    value, switches = max_pool(np.full((2, 4, 6, 3), level), 2)
    assert (value == level).all()
    assert switches[:, :, 0, :, 0].all()
    assert np.count_nonzero(switches) == value.size


def test_a_tie_further_on_and_below_leaves_the_earlier_one() -> None:
    """The upper right counts before the lower left: rows first."""
    value, switches = max_pool(np.array([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 2, 1), 2)
    assert value.item() == 1
    np.testing.assert_array_equal(switches[0, 0, :, 0, :, 0], [[False, True], [False, False]])


@given(poolings(tied=True))
def test_ties_are_broken_the_same_way_every_time(case: Pooling) -> None:
    """In each sample on its own, too, and whatever lies next to it."""
    value, switches = max_pool(case.a, case.window)
    for b in range(len(case.a)):
        alone = max_pool(case.a[b : b + 1].copy(), case.window)
        np.testing.assert_array_equal(alone[0][0], value[b])
        np.testing.assert_array_equal(alone[1][0], switches[b])


@given(poolings(), rngs)
def test_short_of_a_kink_the_switches_stay_and_pooling_is_linear(
    case: Pooling, rng: np.random.Generator
) -> None:
    push = rng.uniform(-0.49, 0.49, case.a.shape) * min(1.0, lead(case.a, case.window))
    value, switches = max_pool(case.a, case.window)
    pushed_value, pushed_switches = max_pool(case.a + push, case.window)
    np.testing.assert_array_equal(pushed_switches, switches)
    np.testing.assert_allclose(pushed_value, value + pool_at(push, switches), **TOLERANCE)


# --- what callers rely on


@given(convolutions())
def test_float32_stays_float32(case: Case) -> None:
    w, s, u = (a.astype(np.float32) for a in case[:3])
    assert convolve(w, s, **case.how).dtype == np.float32
    assert convolve_transpose(w, u, case.shape, **case.how).dtype == np.float32
    assert convolve_weight(u, s, case.kernel, **case.how).dtype == np.float32
    value, switches = max_pool(u, 1)
    assert (value.dtype, switches.dtype) == (np.float32, bool)
    assert unpool(value, switches).dtype == pool_at(u, switches).dtype == np.float32


@given(convolutions())
def test_arguments_are_only_read(case: Case) -> None:
    for a in case[:3]:
        a.flags.writeable = False
    convolve(case.w, case.s, **case.how)
    convolve_transpose(case.w, case.u, case.shape, **case.how)
    convolve_weight(case.u, case.s, case.kernel, **case.how)
    _, switches = max_pool(case.u, 1)
    unpool(case.u, switches)
    pool_at(case.u, switches)
