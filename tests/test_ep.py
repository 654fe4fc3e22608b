"""Equilibrium propagation against the loss at the steady state, and its orders of error in β."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from eqprop_np.cost import cost, cost_derivative
from examples import NETWORKS, draw, networks, rngs
from hypothesis import given
from hypothesis import strategies as st

from eqprop_np.activations import Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.dynamics import SCHEDULES, DiscreteTime, Dynamics, Nudge, RealTime, Schedule, relax
from eqprop_np.network import Network, Theta
from eqprop_np.rules import ESTIMATES, Estimate, Phases, ep

LONG = Phases(free_steps=4000, nudged_steps=400, beta=0.1, tol=1e-15)
"""Long enough that only β parts the estimate from the gradient."""

NAMES = ["one layer", "chain", "long chain", "skip", "two conv"]
every = pytest.mark.parametrize("name", NAMES)


def example(network: Network, rng: np.random.Generator) -> tuple[Theta, Array, Array]:
    """A θ whose steady state is unique and lies well within (0, 1), with x and y."""
    theta, x, _ = draw(network, 2, rng)
    theta = {name: 0.1 * value + 0.5 * name.startswith("b") for name, value in theta.items()}
    (classes,) = network.shapes[-1]
    return theta, abs(x) % 1, np.eye(classes)[rng.integers(0, classes, 2)]


def loss(dynamics: Dynamics, x: Array, y: Array) -> Callable[[Theta], float]:
    """θ ↦ the mean cost at the steady state."""
    return lambda theta: float(cost(output(dynamics, theta, x), y).mean())


def pulled_loss(dynamics: DiscreteTime, theta: Theta, x: Array, y: Array) -> Callable[[Theta], float]:
    """What EP descends in discrete time, at ``theta``.

    The nudge stands outside σ, where a pull of −β ∂ℓ/∂ŷ on σ(a) is one of −β ∂ℓ/∂ŷ / σ′(a) on a. So the
    estimate is the gradient of a cost whose derivative at s_* is ∂ℓ/∂ŷ / σ′(a), and ℓ's only where σ′ = 1.
    """
    free = relax(dynamics, theta, x, None, 4000, tol=1e-15).state
    drive = dynamics.network.dphi_ds(theta, x, free)[-1]
    pull = cost_derivative(free[-1], y) / dynamics.sigma.derivative(drive)
    return lambda theta: float((pull * output(dynamics, theta, x)).sum(axis=1).mean())


def output(dynamics: Dynamics, theta: Theta, x: Array) -> Array:
    return relax(dynamics, theta, x, None, 4000, tol=1e-15).state[-1]


def central_differences(f: Callable[[Theta], float], theta: Theta, step: float = 1e-4) -> Theta:
    """The whole gradient of f, entry by entry; its own error is of order step², 1e-8."""
    gradient = {name: np.empty_like(value) for name, value in theta.items()}
    for name, value in theta.items():
        for i in np.ndindex(value.shape):
            difference = 0.0
            for sign in (1, -1):
                moved = value.copy()
                moved[i] += sign * step
                difference += sign * f(theta | {name: moved})
            gradient[name][i] = difference / (2 * step)
    return gradient


def flat(gradient: Theta) -> Array:
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


def distance(a: Theta, b: Theta) -> float:
    """‖a − b‖ relative to ‖b‖, over all parameters."""
    return float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b)))


def assert_close(a: Theta, b: Theta, atol: float = 1e-12) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


def assert_orders(
    dynamics: Dynamics, problem: tuple[Theta, Array, Array], f: Callable[[Theta], float]
) -> None:
    """EP tends to the gradient of f: with an error of order β from one side, of β² centred."""
    expected = central_differences(f, problem[0])

    def error(estimate: Estimate, beta: float) -> float:
        return distance(
            ep(dynamics, *problem, replace(LONG, estimate=estimate, beta=beta)).gradient, expected
        )

    for sign in (1, -1):
        errors = [error("one-sided", sign * beta) for beta in (0.02, 0.01)]
        assert errors[1] < 0.05
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    errors = [error("centered", beta) for beta in (0.1, 0.05)]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    assert error("centered", 1e-3) < 1e-5


# --- the gradient


@every
@pytest.mark.parametrize("sigma", [sigmoid, tanh], ids=["sigmoid", "tanh"])
def test_in_real_time_it_is_the_gradient_of_the_loss(
    name: str, sigma: Activation, rng: np.random.Generator
) -> None:
    dynamics = RealTime(NETWORKS[name], sigma, epsilon=0.5)
    problem = example(NETWORKS[name], rng)
    assert_orders(dynamics, problem, loss(dynamics, *problem[1:]))


@every
def test_in_discrete_time_too_where_sigma_is_linear(name: str, rng: np.random.Generator) -> None:
    dynamics = DiscreteTime(NETWORKS[name], hard_sigmoid)
    problem = example(NETWORKS[name], rng)
    assert_orders(dynamics, problem, loss(dynamics, *problem[1:]))


@every
@pytest.mark.parametrize("sigma", [sigmoid, tanh], ids=["sigmoid", "tanh"])
def test_elsewhere_the_pull_on_the_output_is_divided_by_its_slope(
    name: str, sigma: Activation, rng: np.random.Generator
) -> None:
    dynamics = DiscreteTime(NETWORKS[name], sigma)
    problem = example(NETWORKS[name], rng)
    assert_orders(dynamics, problem, pulled_loss(dynamics, *problem))


# --- Eq. (2), term by term


@given(
    networks.flatmap(
        lambda n: st.sampled_from([DiscreteTime(n), DiscreteTime(n, hard_sigmoid), RealTime(n, tanh)])
    ),
    rngs,
    st.sampled_from(ESTIMATES),
    st.sampled_from([0.5, -0.3]),
    st.sampled_from(SCHEDULES),
)
def test_it_is_equation_2(
    dynamics: Dynamics, rng: np.random.Generator, estimate: Estimate, beta: float, schedule: Schedule
) -> None:
    """Two relaxations and the difference of ∂Φ/∂θ, each at its own switches; far from rest, too."""
    network = dynamics.network
    theta, x, (*_, y) = draw(network, 2, rng)
    phases = Phases(6, 4, beta, estimate, schedule, omega=1.2, tol=0.01)
    free = relax(dynamics, theta, x, None, phases.steps(6), schedule=schedule, omega=1.2, tol=0.01)

    def dphi_dtheta(beta: float) -> Theta:
        nudge, steps, omega = Nudge(beta, y), phases.steps(4), 1.2 if isinstance(dynamics, RealTime) else 1.0
        nudged = relax(dynamics, theta, x, free.state, steps, nudge=nudge, schedule=schedule, omega=omega)
        return network.dphi_dtheta(theta, x, nudged.rates)

    one, two, width = dphi_dtheta(beta), network.dphi_dtheta(theta, x, free.rates), beta
    if estimate == "centered":
        two, width = dphi_dtheta(-beta), 2 * beta
    update = ep(dynamics, theta, x, y, phases)
    assert_close(update.gradient, {k: -(one[k] - two[k]) / width for k in theta}, atol=1e-10)
    assert update.free.residuals == free.residuals
    for a, b in zip(update.free.state, free.state, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_state_brings_its_own_switches(rng: np.random.Generator) -> None:
    """The example above would prove nothing if the maxima never moved: here they do, and it matters."""
    network = NETWORKS["two conv"]
    theta, x, (*_, y) = draw(network, 20, rng)
    theta = {name: 0.3 * value for name, value in theta.items()}
    y *= 5
    dynamics = DiscreteTime(network, sigmoid)
    free = relax(dynamics, theta, x, None, 30)
    nudged = relax(dynamics, theta, x, free.state, 5, nudge=Nudge(0.9, y))
    assert (free.switches["w1-2"] != nudged.switches["w1-2"]).any()
    update = ep(dynamics, theta, x, y, Phases(60, 10, 0.9, tol=0))
    stale = network.dphi_dtheta(theta, x, nudged.state, free.switches)["w1-2"]
    fresh = network.dphi_dtheta(theta, x, nudged.state)["w1-2"]
    first = network.dphi_dtheta(theta, x, free.state)["w1-2"]
    np.testing.assert_allclose(update.gradient["w1-2"], -(fresh - first) / 0.9, rtol=0, atol=1e-12)
    assert abs(stale - fresh).max() > 1e-3


# --- its symmetries


@every
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_centred_is_the_mean_of_both_sides(name: str, schedule: Schedule, rng: np.random.Generator) -> None:
    dynamics = DiscreteTime(NETWORKS[name])
    problem = example(NETWORKS[name], rng)

    def gradient(estimate: Estimate, beta: float) -> Theta:
        phases = Phases(40, 8, beta, estimate, schedule, tol=0)
        return ep(dynamics, *problem, phases).gradient

    plus, minus = gradient("one-sided", 0.3), gradient("one-sided", -0.3)
    centered = gradient("centered", 0.3)
    assert_close(centered, {k: (plus[k] + minus[k]) / 2 for k in plus})
    assert_close(centered, gradient("centered", -0.3))
    assert distance(plus, minus) > 1e-3


@every
def test_in_real_time_epsilon_cancels(name: str, rng: np.random.Generator) -> None:
    problem = example(NETWORKS[name], rng)
    one, two = (
        ep(RealTime(NETWORKS[name], sigmoid, epsilon), *problem, LONG).gradient for epsilon in (0.2, 0.6)
    )
    assert_close(one, two, atol=1e-9)


@every
@pytest.mark.parametrize("estimate", ESTIMATES)
def test_a_batch_has_the_mean_of_its_samples(name: str, estimate: Estimate, rng: np.random.Generator) -> None:
    dynamics = DiscreteTime(NETWORKS[name])
    theta, x, y = example(NETWORKS[name], rng)
    phases = Phases(20, 6, 0.4, estimate, tol=0)
    alone = [ep(dynamics, theta, x[i : i + 1], y[i : i + 1], phases).gradient for i in range(2)]
    together = ep(dynamics, theta, x, y, phases).gradient
    assert_close(together, {k: (alone[0][k] + alone[1][k]) / 2 for k in theta})


@given(networks, rngs)
def test_float32_stays_float32_and_arguments_are_only_read(
    network: Network, rng: np.random.Generator
) -> None:
    theta, x, y = example(network, rng)
    theta, x, y = (
        {k: v.astype(np.float32) for k, v in theta.items()},
        x.astype(np.float32),
        y.astype(np.float32),
    )
    for a in (*theta.values(), x, y):
        a.flags.writeable = False
    for estimate in ESTIMATES:
        for dynamics in (DiscreteTime(network), RealTime(network)):
            gradient = ep(dynamics, theta, x, y, Phases(4, 4, 0.5, estimate)).gradient
            assert {k: (v.dtype, v.shape) for k, v in gradient.items()} == {
                k: (np.float32, v.shape) for k, v in theta.items()
            }


# --- Phases


def test_random_signs_are_drawn_evenly(rng: np.random.Generator) -> None:
    """±β, each within three standard errors of half of 1000; what is drawn is one-sided."""
    phases = Phases(9, 3, 0.5, "random-sign", tol=0.25)
    drawn = [phases.draw(rng) for _ in range(1000)]
    assert {(p.estimate, abs(p.beta)) for p in drawn} == {("one-sided", 0.5)}
    assert abs(sum(p.beta > 0 for p in drawn) - 500) < 48
    assert replace(drawn[0], estimate="random-sign", beta=0.5) == phases


@pytest.mark.parametrize("estimate", ["one-sided", "centered"])
def test_only_random_signs_draw(estimate: Estimate, rng: np.random.Generator) -> None:
    before = rng.bit_generator.state
    phases = Phases(9, 3, -0.5, estimate)
    assert phases.draw(rng) is phases
    assert rng.bit_generator.state == before


def test_an_alternating_step_counts_for_two() -> None:
    assert [Phases(9, 3, 0.5).steps(n) for n in (1, 2, 3, 30)] == [1, 1, 2, 15]
    assert [Phases(9, 3, 0.5, schedule="synchronous").steps(n) for n in (1, 2, 3, 30)] == [1, 2, 3, 30]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"beta": 0}, "beta is 0, but EP divides by it"),
        ({"beta": math.nan}, "beta is nan"),
        ({"beta": -math.inf}, "beta is -inf"),
        ({"omega": 0}, "omega = 0 must lie between 0 and 2"),
        ({"omega": 2.0}, "omega = 2.0 must lie between 0 and 2"),
        ({"tol": math.nan}, "tol = nan must not be negative, and finite"),
        ({"free_steps": 0}, "T = 0 and K = 3 must be at least 1"),
        ({"nudged_steps": -1}, "T = 9 and K = -1 must be at least 1"),
        ({"tol": -1e-3}, "tol = -0.001 must not be negative, and finite"),
        ({"estimate": "both"}, "estimate 'both' is not one of one-sided, random-sign, centered"),
        ({"schedule": "backwards"}, "schedule 'backwards' is not one of alternating, synchronous"),
    ],
    ids=str,
)
def test_phases_refuse_what_cannot_be(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Phases(**{"free_steps": 9, "nudged_steps": 3, "beta": 0.5} | wrong)
