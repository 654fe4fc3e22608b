"""Tests of σ, σ′ and σ″: their formulas, their derivatives, and what the dynamics rely on."""

from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from eqprop_np.activations import ACTIVATIONS, Activation, Array, hard_sigmoid, refuse_complex, sigmoid, tanh
from eqprop_np.testing import check_activation, check_gradient

every = pytest.mark.parametrize("sigma", ACTIVATIONS.values(), ids=ACTIVATIONS)
smooth = pytest.mark.parametrize("sigma", [sigmoid, tanh], ids=["sigmoid", "tanh"])

KINK = 1e-3  # farther than any central difference reaches

inputs = arrays(np.float64, array_shapes(max_dims=3, max_side=4), elements=st.floats(-4, 4))
away_from_kinks = inputs.filter(lambda a: bool((np.minimum(abs(a), abs(a - 1)) > KINK).all()))


def test_the_table_has_each_activation_under_its_own_name() -> None:
    assert {"sigmoid": sigmoid, "hard_sigmoid": hard_sigmoid, "tanh": tanh} == ACTIVATIONS
    assert all(sigma.name == name for name, sigma in ACTIVATIONS.items())


@every
def test_an_activation_cannot_be_changed(sigma: Activation) -> None:
    """Dynamics share the activations of this module, so no field may be assigned."""
    with pytest.raises(FrozenInstanceError):
        sigma.value = np.tanh  # type: ignore[misc]


@given(inputs)
def test_values_are_those_of_the_formulas(a: Array) -> None:
    np.testing.assert_allclose(sigmoid.value(a), 1 / (1 + np.exp(-4 * (a - 0.5))), rtol=1e-12, atol=1e-15)
    np.testing.assert_array_equal(hard_sigmoid.value(a), np.minimum(np.maximum(a, 0), 1))
    np.testing.assert_array_equal(tanh.value(a), np.tanh(a))


@every
@given(a=away_from_kinks)
def test_derivative_agrees_with_central_differences(sigma: Activation, a: Array) -> None:
    check_gradient(lambda a: float(sigma.value(a).sum()), sigma.derivative, a, rng=np.random.default_rng(0))


@every
@given(a=away_from_kinks)
def test_second_derivative_agrees_with_central_differences(sigma: Activation, a: Array) -> None:
    check_gradient(lambda a: float(sigma.derivative(a).sum()), sigma.second, a, rng=np.random.default_rng(0))


@smooth
@given(a=inputs)
def test_derivatives_agree_with_a_complex_step(sigma: Activation, a: Array) -> None:
    """The complex step Im σ(a + ih)/h contains no difference, so it is exact up to rounding."""
    h = 1e-30
    for function, derivative in ((sigma.value, sigma.derivative), (sigma.derivative, sigma.second)):
        complex_step = function(a + 1j * h).imag / h
        np.testing.assert_allclose(derivative(a), complex_step, rtol=1e-12, atol=1e-15)


@every
def test_the_public_check_accepts_each_activation(sigma: Activation) -> None:
    check_activation(sigma)


# --- σ′ from σ


@smooth
@given(a=inputs)
def test_the_derivative_from_the_value_is_the_derivative(sigma: Activation, a: Array) -> None:
    """Both forms are products of σ and 1 − σ or 1 − σ², whose rounding error is ε in absolute terms."""
    assert sigma.derivative_from_value is not None
    found = sigma.derivative_from_value(sigma.value(a))
    np.testing.assert_allclose(found, sigma.derivative(a), rtol=1e-12, atol=1e-15)


@every
@given(a=inputs)
def test_slope_is_the_derivative(sigma: Activation, a: Array) -> None:
    np.testing.assert_allclose(sigma.slope(a, sigma.value(a)), sigma.derivative(a), rtol=1e-12, atol=1e-15)


def test_slope_uses_the_value_only_where_the_activation_offers_this() -> None:
    """The argument that is not used may be anything: here it is wrong on purpose."""
    a, wrong = np.array([0.3, 0.8]), np.array([5.0, 7.0])
    np.testing.assert_array_equal(sigmoid.slope(wrong, sigmoid.value(a)), sigmoid.derivative(a))
    np.testing.assert_array_equal(tanh.slope(wrong, tanh.value(a)), tanh.derivative(a))
    assert hard_sigmoid.derivative_from_value is None
    np.testing.assert_array_equal(hard_sigmoid.slope(a, wrong), hard_sigmoid.derivative(a))
    plain = replace(sigmoid, derivative_from_value=None)
    np.testing.assert_array_equal(plain.slope(a, wrong), sigmoid.derivative(a))


@pytest.mark.parametrize("name", ["value", "derivative", "second"])
def test_a_function_that_is_missing_is_refused(name: str) -> None:
    functions = {"value": np.tanh, "derivative": np.cosh, "second": np.sinh} | {name: None}
    with pytest.raises(TypeError, match=f"{name} must be a function of an array, got None"):
        Activation("mine", **functions)


# --- complex numbers


@smooth
def test_complex_stays_complex(sigma: Activation) -> None:
    a = np.array([0.3 + 0.1j])
    assert sigma.value(a).dtype == sigma.derivative(a).dtype == sigma.second(a).dtype == np.complex128
    assert sigma.slope(a, sigma.value(a)).dtype == np.complex128


@pytest.mark.parametrize("dtype", [np.complex64, np.complex128])
def test_the_hard_sigmoid_refuses_complex_numbers(dtype: type) -> None:
    """Clipping is not analytic, so a complex step through it would give a wrong derivative."""
    a = np.array([0.3], dtype)
    message = f"the hard sigmoid is not analytic and takes real numbers only, got {np.dtype(dtype)}: use a"
    for function in (hard_sigmoid.value, hard_sigmoid.derivative):
        with pytest.raises(TypeError, match=message):
            function(a)
    with pytest.raises(TypeError, match=message):
        hard_sigmoid.slope(a, a)


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool])
def test_real_numbers_are_not_refused(dtype: type) -> None:
    refuse_complex(np.zeros(2, dtype), "this")


# --- what the dynamics rely on


def test_hard_sigmoid_at_and_beside_its_kinks() -> None:
    """The derivative is 1 at both kinks, so that a neuron can leave 0; between them σ is the identity."""
    a = np.array([-1, -1e-12, -0.0, 0, 1e-12, 1 - 1e-12, 1, 1 + 1e-12, 2])
    np.testing.assert_array_equal(hard_sigmoid.derivative(a), [0, 0, 1, 1, 1, 1, 1, 0, 0])
    np.testing.assert_array_equal(hard_sigmoid.second(a), np.zeros(9))
    np.testing.assert_array_equal(hard_sigmoid.value(a), [0, 0, 0, 0, 1e-12, 1 - 1e-12, 1, 1, 1])


@every
@given(a=inputs)
def test_results_are_new_arrays(sigma: Activation, a: Array) -> None:
    """No function writes into its argument or returns a view of it."""
    untouched = a.copy()
    value = sigma.value(a)
    value_before = value.copy()
    for result in (value, sigma.derivative(a), sigma.second(a), sigma.slope(a, value)):
        assert not np.shares_memory(result, a)
    assert not np.shares_memory(sigma.slope(a, value), value)
    np.testing.assert_array_equal(a, untouched)
    np.testing.assert_array_equal(value, value_before)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dtype_and_shape_are_kept(sigma: Activation, dtype: type) -> None:
    a = np.linspace(-1, 2, 6, dtype=dtype).reshape(2, 3)
    value = sigma.value(a)
    for result in (value, sigma.derivative(a), sigma.second(a), sigma.slope(a, value)):
        assert (result.dtype, result.shape) == (a.dtype, a.shape)


@every
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_nothing_overflows(sigma: Activation, dtype: type) -> None:
    a = np.array([-1e4, 1e4], dtype)
    with np.errstate(all="raise"):
        value = sigma.value(a)
        np.testing.assert_array_equal(value, [-1 if sigma is tanh else 0, 1])
        np.testing.assert_array_equal(sigma.derivative(a), [0, 0])
        np.testing.assert_array_equal(sigma.second(a), [0, 0])
        np.testing.assert_array_equal(sigma.slope(a, value), [0, 0])
