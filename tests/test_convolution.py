"""Tests of convolution and pooling: naive loops, adjoints, the fast form, and the switches of a maximum."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import pytest
from examples import CLEAR, lead, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.activations import Array
from eqprop_np.convolution import (
    col2im,
    convolve,
    convolve_transpose,
    convolve_transpose_by_rows,
    convolve_weight,
    im2col,
    max_pool,
    pool_at,
    unpool,
)
from eqprop_np.testing import check_adjoint, check_gradient

TOLERANCE = {"rtol": 0, "atol": 1e-12}  # sums of at most a few hundred normal numbers, in another order


class Case(NamedTuple):
    """The arguments of a convolution: w, images s, and u of the shape of w ⋆ s."""

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
    """Images ``a`` whose sides are multiples of the window, and ``values`` of the pooled shape."""

    a: Array
    values: Array
    window: int


@st.composite
def poolings(draw: st.DrawFn, tied: bool = False) -> Pooling:
    """Draw images to pool. With ``tied`` their numbers are only 0 and 1."""
    window = draw(st.integers(1, 3))
    batch, rows, columns, channels = (draw(st.integers(1, 3)) for _ in range(4))
    shape = batch, rows * window, columns * window, channels
    rng = draw(rngs)
    a = rng.integers(0, 2, shape).astype(float) if tied else rng.standard_normal(shape)
    return Pooling(a, rng.standard_normal((batch, rows, columns, channels)), window)


# --- the definitions, written as loops


def naive_taps(case: Case) -> list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]]:
    """Return all (place in w, place in s, place in u) that meet in w ⋆ s, without those in the padding."""
    batch, rows, columns, features = case.u.shape
    height, width, channels = case.shape
    taps = []
    for b, r, q, d, i, j, c in np.ndindex(batch, rows, columns, features, case.kernel, case.kernel, channels):
        y, x = r * case.stride + i - case.padding, q * case.stride + j - case.padding
        if 0 <= y < height and 0 <= x < width:
            taps.append(((i, j, c, d), (b, y, x, c), (b, r, q, d)))
    return taps


@given(convolutions())
def test_convolve_and_its_adjoints_equal_the_loops(case: Case) -> None:
    """All three sum over the same taps: w·s into u, w·u into s, and u·s into w."""
    w, s, u = (np.zeros_like(a) for a in case[:3])
    for in_w, in_s, in_u in naive_taps(case):
        u[in_u] += case.w[in_w] * case.s[in_s]
        s[in_s] += case.w[in_w] * case.u[in_u]
        w[in_w] += case.u[in_u] * case.s[in_s]
    np.testing.assert_allclose(convolve(case.w, case.s, **case.how), u, **TOLERANCE)
    for transpose in (convolve_transpose, convolve_transpose_by_rows):
        np.testing.assert_allclose(transpose(case.w, case.u, case.shape, **case.how), s, **TOLERANCE)
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
def test_pooling_equals_its_loop(case: Pooling) -> None:
    """A switch stands at the maximum of its window, and at the first one in reading order."""
    p = case.window
    value, switches = max_pool(case.a, p)
    unpooled = np.zeros_like(case.a)
    for b, r, q, c in np.ndindex(*case.values.shape):
        window = case.a[b, r * p : (r + 1) * p, q * p : (q + 1) * p, c]
        i, j = divmod(int(np.argmax(window)), p)  # argmax too returns the first of several
        assert value[b, r, q, c] == window[i, j]
        assert switches[b, r, i, q, j, c]
        unpooled[b, r * p + i, q * p + j, c] = case.values[b, r, q, c]
    assert np.count_nonzero(switches) == value.size
    np.testing.assert_array_equal(unpool(case.values, switches), unpooled)
    np.testing.assert_array_equal(pool_at(case.a, switches), value)


@given(convolutions(), rngs)
def test_col2im_equals_its_loop(case: Case, rng: np.random.Generator) -> None:
    """Each number of each patch is added to the pixel under it. A number in the padding is dropped."""
    patches = rng.standard_normal(im2col(case.s, case.kernel, **case.how).shape)
    expected = np.zeros_like(case.s)
    for b, r, q, i, j, c in np.ndindex(*patches.shape):
        y, x = r * case.stride + i - case.padding, q * case.stride + j - case.padding
        if 0 <= y < case.shape[0] and 0 <= x < case.shape[1]:
            expected[b, y, x, c] += patches[b, r, q, i, j, c]
    np.testing.assert_allclose(col2im(patches, case.shape, **case.how), expected, **TOLERANCE)


# --- adjoints and derivatives


@given(convolutions(), rngs)
def test_im2col_and_col2im_are_adjoint(case: Case, rng: np.random.Generator) -> None:
    check_adjoint(
        lambda s: im2col(s, case.kernel, **case.how),
        lambda patches: col2im(patches, case.shape, **case.how),
        case.s,
        rng.standard_normal(im2col(case.s, case.kernel, **case.how).shape),
    )


@pytest.mark.parametrize("transpose", [convolve_transpose, convolve_transpose_by_rows])
@given(case=convolutions())
def test_convolution_and_its_transpose_are_adjoint(transpose: Callable[..., Array], case: Case) -> None:
    check_adjoint(
        lambda s: convolve(case.w, s, **case.how),
        lambda u: transpose(case.w, u, case.shape, **case.how),
        case.s,
        case.u,
    )


@given(convolutions())
def test_the_transpose_by_rows_equals_the_plain_form(case: Case) -> None:
    plain = convolve_transpose(case.w, case.u, case.shape, **case.how)
    by_rows = convolve_transpose_by_rows(case.w, case.u, case.shape, **case.how)
    assert by_rows.shape == plain.shape == case.s.shape
    np.testing.assert_allclose(by_rows, plain, **TOLERANCE)


@pytest.mark.parametrize("kernel", [1, 2, 3, 5])
@pytest.mark.parametrize("stride", [1, 2, 3, 4])
@pytest.mark.parametrize("padding", [0, 1, 3])
@pytest.mark.parametrize("height, width", [(5, 9), (8, 6)])
def test_the_transpose_by_rows_equals_the_plain_form_for_every_geometry(
    kernel: int, stride: int, padding: int, height: int, width: int, rng: np.random.Generator
) -> None:
    """The stride may be larger than the kernel, and may leave pixels that no patch covers."""
    w = rng.standard_normal((kernel, kernel, 2, 3))
    rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
    u, shape = rng.standard_normal((2, rows, columns, 3)), (height, width, 2)
    np.testing.assert_allclose(
        convolve_transpose_by_rows(w, u, shape, stride, padding),
        convolve_transpose(w, u, shape, stride, padding),
        **TOLERANCE,
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
    """P⁻¹ uses the switches of P. The case is skipped if a finite difference could move a switch."""
    p = case.window
    assume(lead(case.a, case.window) > CLEAR)
    check_gradient(
        lambda a: float((max_pool(a, p)[0] * case.values).sum()),
        lambda a: unpool(case.values, max_pool(a, p)[1]),
        case.a,
        rng=np.random.default_rng(0),
    )


# --- equal maxima and kinks


@pytest.mark.parametrize("level", [0.0, -1.0, 3.5])
def test_of_several_equal_maxima_the_first_in_reading_order_is_chosen(level: float) -> None:
    value, switches = max_pool(np.full((2, 4, 6, 3), level), 2)
    assert (value == level).all()
    assert switches[:, :, 0, :, 0].all()
    assert np.count_nonzero(switches) == value.size


def test_reading_order_goes_along_the_rows() -> None:
    """The upper right place comes before the lower left one."""
    value, switches = max_pool(np.array([[0.0, 1.0], [1.0, 0.0]]).reshape(1, 2, 2, 1), 2)
    assert value.item() == 1
    np.testing.assert_array_equal(switches[0, 0, :, 0, :, 0], [[False, True], [False, False]])


@given(poolings(tied=True))
def test_the_switches_of_a_sample_do_not_depend_on_the_batch(case: Pooling) -> None:
    """Pooling one sample gives the switches that pooling the batch gives, also for equal maxima."""
    value, switches = max_pool(case.a, case.window)
    for b in range(len(case.a)):
        single = max_pool(case.a[b : b + 1].copy(), case.window)
        np.testing.assert_array_equal(single[0][0], value[b])
        np.testing.assert_array_equal(single[1][0], switches[b])


@given(poolings(), rngs)
def test_between_kinks_the_switches_stay_and_pooling_is_linear(
    case: Pooling, rng: np.random.Generator
) -> None:
    """A change of less than half the smallest lead of a maximum moves no switch."""
    push = rng.uniform(-0.49, 0.49, case.a.shape) * min(1.0, lead(case.a, case.window))
    value, switches = max_pool(case.a, case.window)
    pushed_value, pushed_switches = max_pool(case.a + push, case.window)
    np.testing.assert_array_equal(pushed_switches, switches)
    np.testing.assert_allclose(pushed_value, value + pool_at(push, switches), **TOLERANCE)


# --- complex numbers


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_max_pooling_refuses_complex_numbers(dtype: type) -> None:
    """Complex numbers have no order, so the maximum of a window is not defined."""
    message = f"max-pooling is not analytic and takes real numbers only, got {np.dtype(dtype)}"
    with pytest.raises(TypeError, match=message):
        max_pool(np.zeros((1, 4, 4, 1), dtype), 2)


def test_a_window_of_one_takes_complex_numbers(rng: np.random.Generator) -> None:
    """Pooling with a window of one pixel is the identity."""
    a = rng.standard_normal((2, 3, 2, 2)) + 1j * rng.standard_normal((2, 3, 2, 2))
    value, switches = max_pool(a, 1)
    np.testing.assert_array_equal(value, a)
    assert switches.all()


@given(convolutions(), rngs)
def test_linear_maps_act_on_the_real_and_the_imaginary_part(case: Case, rng: np.random.Generator) -> None:
    """A complex step therefore passes through a convolution and its adjoints."""
    w, s, u = (a + 1j * rng.standard_normal(a.shape) for a in case[:3])
    maps: list[tuple[Callable[[Array], Array], Array]] = [
        (lambda s: convolve(case.w, s, **case.how), s),
        (lambda w: convolve(w, case.s, **case.how), w),
        (lambda u: convolve_transpose(case.w, u, case.shape, **case.how), u),
        (lambda u: convolve_transpose_by_rows(case.w, u, case.shape, **case.how), u),
        (lambda u: convolve_weight(u, case.s, case.kernel, **case.how), u),
    ]
    for linear, z in maps:
        expected = linear(z.real.copy()) + 1j * linear(z.imag.copy())
        np.testing.assert_allclose(linear(z), expected, **TOLERANCE)


# --- what callers rely on


@given(convolutions())
def test_float32_stays_float32(case: Case) -> None:
    w, s, u = (a.astype(np.float32) for a in case[:3])
    assert convolve(w, s, **case.how).dtype == np.float32
    assert convolve_transpose(w, u, case.shape, **case.how).dtype == np.float32
    assert convolve_transpose_by_rows(w, u, case.shape, **case.how).dtype == np.float32
    assert col2im(im2col(s, case.kernel, **case.how), case.shape, **case.how).dtype == np.float32
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
    convolve_transpose_by_rows(case.w, case.u, case.shape, **case.how)
    convolve_weight(case.u, case.s, case.kernel, **case.how)
    patches = im2col(case.s, case.kernel, **case.how)
    patches.flags.writeable = False
    col2im(patches, case.shape, **case.how)
    _, switches = max_pool(case.u, 1)
    switches.flags.writeable = False
    unpool(case.u, switches)
    pool_at(case.u, switches)


@given(convolutions())
def test_im2col_returns_a_copy(case: Case) -> None:
    """A caller may write into the patches. The image must then stay as it is."""
    assert not np.shares_memory(im2col(case.s, case.kernel, **case.how), case.s)
