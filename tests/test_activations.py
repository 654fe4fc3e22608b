"""σ, σ′ and σ″: their formulas, their derivatives, and what the inner loop relies on."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from eqprop_np.activations import ACTIVATIONS, Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.testing import check_gradient

every = pytest.mark.parametrize("sigma", ACTIVATIONS.values(), ids=ACTIVATIONS)
smooth = pytest.mark.parametrize("sigma", [sigmoid, tanh], ids=["sigmoid", "tanh"])

KINK = 1e-3  # farther than any central difference reaches

inputs = arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=st.floats(-4, 4))
away_from_kinks = inputs.filter(lambda a: bool((np.minimum(abs(a), abs(a - 1)) > KINK).all()))


def test_they_go_by_their_own_names() -> None:
    assert {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid, "tanh": tanh} == ACTIVATIONS
    assert all(sigma.name == name for name, sigma in ACTIVATIONS.items())


@given(inputs)
def test_values_are_those_of_the_formulas(a: Array) -> None:
    np.testing.assert_allclose(sigmoid.value(a), 1 / (1 + np.exp(-4 * (a - 0.5))), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(hard_sigmoid.value(a), np.minimum(np.maximum(a, 0), 1))
    np.testing.assert_array_equal(tanh.value(a), np.tanh(a))


@every
@given(a=away_from_kinks)
def test_derivative_agrees_with_central_differences(sigma: Activation, a: Array) -> None:
    check_gradient(lambda a: float(sigma.value(a).sum()), sigma.derivative, a, rng=np.random.default_rng(0))


@smooth
@given(a=inputs)
def test_derivatives_agree_with_a_complex_step(sigma: Activation, a: Array) -> None:
    """Im σ(a + ih)/h has no difference in it, so nothing cancels: it is exact to rounding."""
    h = 1e-30
    for function, derivative in ((sigma.value, sigma.derivative), (sigma.derivative, sigma.second)):
        complex_step = function(a + 1j * h).imag / h
        np.testing.assert_allclose(derivative(a), complex_step, rtol=1e-12, atol=1e-15)


@smooth
def test_complex_stays_complex(sigma: Activation) -> None:
    a = np.array([0.3 + 0.1j])
    assert sigma.value(a).dtype == sigma.derivative(a).dtype == np.complex128


def test_hard_sigmoid_at_and_beside_its_kinks() -> None:
    """Closed at both ends, so that a neuron at rest at 0 can leave it; and straight between them."""
    a = np.array([-1, -1e-12, -0.0, 0, 1e-12, 1 - 1e-12, 1, 1 + 1e-12, 2])
    np.testing.assert_array_equal(hard_sigmoid.derivative(a), [0, 0, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(hard_sigmoid.second(a), np.zeros(9))
    np.testing.assert_array_equal(hard_sigmoid.value(a), [0, 0, 0, 0, 1e-12, 1 - 1e-12, 1, 1, 1])


@every
@given(a=inputs)
def test_value_can_be_written_over_its_argument(sigma: Activation, a: Array) -> None:
    expected, untouched = sigma.value(a.copy()), a.copy()
    sigma.value(a)
    sigma.derivative(a)
    sigma.second(a)
    np.testing.assert_array_equal(a, untouched)
    assert sigma.value(a, out=a) is a
    np.testing.assert_array_equal(a, expected)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_shape_are_kept(sigma: Activation, dtype: type) -> None:
    a = np.linspace(-1, 2, 6, dtype=dtype).reshape(2, 3)
    for result in (sigma.value(a), sigma.derivative(a), sigma.second(a)):
        assert (result.dtype, result.shape) == (a.dtype, a.shape)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_overflows(sigma: Activation, dtype: type) -> None:
    a = np.array([-1e4, 1e4], dtype)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(sigma.value(a), [-1 if sigma is tanh else 0, 1])
        np.testing.assert_array_equal(sigma.derivative(a), [0, 0])
        np.testing.assert_array_equal(sigma.second(a), [0, 0])
