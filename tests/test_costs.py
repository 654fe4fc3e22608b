"""The squared error against its formula, and costs of one's own as a field of the dynamics."""

import numpy as np
import pytest
from examples import NETWORKS, draw, rngs
from hypothesis import given
from hypothesis import strategies as st
from states import CLOSE, assert_same, each_dynamics, target

from eqprop_np.activations import sigmoid
from eqprop_np.costs import Cost, squared_error
from eqprop_np.dynamics import DiscreteTime, Nudge, RealTime, output_force, step
from eqprop_np.testing import check_cost, check_gradient

quartic = Cost(
    "quartic error",
    value=lambda output, target: ((output - target) ** 4).sum(axis=1) / 4,
    derivative=lambda output, target: (output - target) ** 3,
)
cross_entropy = Cost(
    "cross entropy",
    value=lambda output, target: -(target * np.log(output) + (1 - target) * np.log(1 - output)).sum(axis=1),
    derivative=lambda output, target: (output - target) / (output * (1 - output)),
)


@given(rngs, st.integers(1, 3))
def test_squared_error_is_half_the_squared_distance(rng: np.random.Generator, batch: int) -> None:
    output, y = rng.standard_normal((2, batch, 4))
    expected = [
        sum((o - t) ** 2 for o, t in zip(*pair, strict=True)) / 2 for pair in zip(output, y, strict=True)
    ]
    np.testing.assert_allclose(squared_error.value(output, y), expected, rtol=1e-12)
    check_gradient(
        lambda output: float(squared_error.value(output, y).sum()),
        lambda output: squared_error.derivative(output, y),
        output,
        rng=rng,
    )


def test_squared_error_of_images_has_one_number_per_sample(rng: np.random.Generator) -> None:
    output, y = rng.standard_normal((2, 3, 4, 4, 2))
    expected = ((output - y) ** 2).reshape(3, -1).sum(axis=1) / 2
    np.testing.assert_allclose(squared_error.value(output, y), expected, rtol=1e-12)


def test_squared_error_keeps_the_dtype() -> None:
    for dtype in (np.float32, np.float64, np.complex128):
        output, y = np.ones((2, 3), dtype), np.zeros((2, 3), dtype)
        assert squared_error.value(output, y).dtype == squared_error.derivative(output, y).dtype == dtype


@pytest.mark.parametrize("cost", [squared_error, quartic, cross_entropy], ids=lambda cost: cost.name)
def test_derivatives(cost: Cost) -> None:
    check_cost(cost)


@pytest.mark.parametrize("cost", [quartic, cross_entropy], ids=lambda cost: cost.name)
@pytest.mark.parametrize("beta", [0.3, -0.7])
def test_the_nudge_is_minus_beta_times_the_derivative(
    cost: Cost, beta: float, rng: np.random.Generator
) -> None:
    """On the output only. In real time it is scaled by ε."""
    network = NETWORKS["long chain"]
    theta, x, s = draw(network, 2, rng)
    s = tuple(sigmoid.value(value) for value in s)  # inside (0, 1), where the cross entropy is defined
    y = target(network, 2, rng)
    force = -beta * cost.derivative(s[-1], y)
    for dynamics, scale in (
        (DiscreteTime(network, sigmoid, cost), 1.0),
        (RealTime(network, sigmoid, 0.3, clamp=False, cost=cost), 0.3),
    ):
        np.testing.assert_array_equal(output_force(dynamics, theta, s[-1], Nudge(beta, y)), force)
        free = step(dynamics, theta, x, s)
        nudged = step(dynamics, theta, x, s, Nudge(beta, y))
        assert_same(nudged, (*free[:-1], free[-1] + scale * force), **CLOSE)


def test_the_cost_does_not_enter_a_free_step(rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    assert_same(
        step(DiscreteTime(network, cost=quartic), theta, x, s), step(DiscreteTime(network), theta, x, s)
    )


def test_the_cost_of_the_abstract_is_the_default() -> None:
    assert all(dynamics.cost is squared_error for dynamics in each_dynamics(NETWORKS["chain"]))


@pytest.mark.parametrize("wrong", ["squared_error", np.subtract, None])
def test_what_is_not_a_cost_is_refused(wrong: object) -> None:
    for kind in (DiscreteTime, RealTime):
        with pytest.raises(TypeError, match="cost must be a Cost such as squared_error or a Readout, got"):
            kind(NETWORKS["chain"], cost=wrong)
