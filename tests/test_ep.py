"""EP against the gradient of the loss at the steady state, its order of error in β, and Eq. (2) itself."""

import math
import re
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from examples import NETWORKS, draw, networks, rngs
from hypothesis import example as explicit
from hypothesis import given
from hypothesis import strategies as st

from eqprop_np import ep, relax
from eqprop_np.activations import Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime
from eqprop_np.network import Network, Theta
from eqprop_np.relaxation import Alternating, Schedule, Synchronous
from eqprop_np.rules import ESTIMATES, Estimate
from eqprop_np.rules.phases import Phases

EXACT = Alternating(tol=1e-15)
LONG = Phases(free_steps=4000, nudged_steps=400, beta=0.1, schedule=EXACT)
"""Phases so long that the estimate differs from the gradient only by the effect of β."""

SCHEDULES: list[Schedule] = [Synchronous(tol=0.01), Alternating(omega=1.2, tol=0.01)]

NAMES = ["one layer", "chain", "long chain", "skip", "two conv"]
every = pytest.mark.parametrize("name", NAMES)


def example(network: Network, rng: np.random.Generator) -> tuple[Theta, Array, Array]:
    """Return θ, x and y. With this θ the steady state is unique and lies well within (0, 1)."""
    theta, x, _ = draw(network, 2, rng)
    theta = {name: 0.1 * value + 0.5 * name.startswith("b") for name, value in theta.items()}
    (classes,) = network.shapes[-1]
    return theta, abs(x) % 1, np.eye(classes)[rng.integers(0, classes, 2)]


def loss(dynamics: Dynamics, x: Array, y: Array) -> Callable[[Theta], float]:
    """Return the function from θ to the mean cost at the steady state."""
    return lambda theta: float(dynamics.cost.value(output(dynamics, theta, x), y).mean())


def other_loss(dynamics: DiscreteTime, theta: Theta, x: Array, y: Array) -> Callable[[Theta], float]:
    """Return the function whose gradient at ``theta`` EP estimates in discrete time.

    The nudge is added outside σ. A force of −β ∂ℓ/∂ŷ on σ(a) equals a force of −β ∂ℓ/∂ŷ / σ′(a) on a. So the
    estimate is the gradient of a loss whose derivative at s_* is ∂ℓ/∂ŷ / σ′(a). This is ℓ only if σ′ = 1.
    """
    free = relax(dynamics, theta, x, None, 4000, schedule=EXACT).state
    drive = dynamics.network.dphi_ds(theta, x, free)[-1]
    slope = dynamics.cost.derivative(free[-1], y) / dynamics.sigma.derivative(drive)
    return lambda theta: float((slope * output(dynamics, theta, x)).sum(axis=1).mean())


def output(dynamics: Dynamics, theta: Theta, x: Array) -> Array:
    return relax(dynamics, theta, x, None, 4000, schedule=EXACT).state[-1]


def draw_directions(theta: Theta, rng: np.random.Generator) -> dict[str, Array]:
    """Return four normal directions v for each parameter.

    A direction involves every entry, so that one wrong entry changes ⟨gradient, v⟩. Each parameter has
    directions of its own, so that an error in a small array cannot hide behind a large one.
    """
    return {name: rng.standard_normal((4, *value.shape)) for name, value in theta.items()}


def central_differences(
    f: Callable[[Theta], float], theta: Theta, directions: dict[str, Array], step: float = 1e-5
) -> Theta:
    """Return the derivative of f along each direction.

    Its error is of order step² from the formula, and at most about 1e-10 from the steady states.
    """
    return {
        name: np.array(
            [
                (f(theta | {name: value + step * v}) - f(theta | {name: value - step * v})) / (2 * step)
                for v in directions[name]
            ]
        )
        for name, value in theta.items()
    }


def along(gradient: Theta, directions: dict[str, Array]) -> Theta:
    """Return ⟨gradient, v⟩ for each direction v."""
    return {name: np.array([np.vdot(gradient[name], v) for v in vs]) for name, vs in directions.items()}


def flat(gradient: Theta) -> Array:
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


def distance(a: Theta, b: Theta) -> float:
    """Return ‖a − b‖ / ‖b‖, all parameters in one vector."""
    assert a.keys() == b.keys()
    return float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b)))


def assert_close(a: Theta, b: Theta, atol: float = 1e-12) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=0, atol=atol, err_msg=name)


def assert_orders(
    dynamics: Dynamics, problem: tuple[Theta, Array, Array], f: Callable[[Theta], float]
) -> None:
    """EP tends to the gradient of f: with an error of order β if one-sided, and of order β² if centred."""
    directions = draw_directions(problem[0], np.random.default_rng(1))
    expected = central_differences(f, problem[0], directions)

    def estimated(estimate: Estimate, beta: float) -> Theta:
        phases = replace(LONG, estimate=estimate, beta=beta)
        return along(ep(dynamics, *problem, phases).gradient, directions)

    for sign in (1, -1):
        errors = [distance(estimated("one-sided", sign * beta), expected) for beta in (0.02, 0.01)]
        assert errors[1] < 0.05
        assert errors[0] / errors[1] == pytest.approx(2, rel=0.1)
    errors = [distance(estimated("centered", beta), expected) for beta in (0.1, 0.05)]
    assert errors[1] < 0.01
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)
    limit = estimated("centered", 1e-3)
    assert distance(limit, expected) < 1e-5
    for name in expected:  # order β² = 1e-6, with a constant that differs from parameter to parameter
        assert distance({name: limit[name]}, {name: expected[name]}) < 3e-5, name


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
def test_in_discrete_time_it_is_too_if_sigma_is_linear(name: str, rng: np.random.Generator) -> None:
    dynamics = DiscreteTime(NETWORKS[name], hard_sigmoid)
    problem = example(NETWORKS[name], rng)
    assert_orders(dynamics, problem, loss(dynamics, *problem[1:]))


@every
@pytest.mark.parametrize("sigma", [sigmoid, tanh], ids=["sigmoid", "tanh"])
def test_for_other_sigma_the_force_on_the_output_is_divided_by_the_slope(
    name: str, sigma: Activation, rng: np.random.Generator
) -> None:
    dynamics = DiscreteTime(NETWORKS[name], sigma)
    problem = example(NETWORKS[name], rng)
    assert_orders(dynamics, problem, other_loss(dynamics, *problem))


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
@explicit(DiscreteTime(NETWORKS["chain"]), np.random.default_rng(0), "one-sided", 0.5, SCHEDULES[1])
@explicit(RealTime(NETWORKS["chain"], tanh), np.random.default_rng(0), "centered", 0.5, SCHEDULES[1])
def test_it_is_equation_2(
    dynamics: Dynamics, rng: np.random.Generator, estimate: Estimate, beta: float, schedule: Schedule
) -> None:
    """Two relaxations and the difference of ∂Φ/∂θ, each with its own switches, before convergence too.

    The sums are the same, in another order. They reach some 100 here, so that 1e-10 is rounding.
    """
    network = dynamics.network
    theta, x, (*_, y) = draw(network, 2, rng)
    phases = Phases(6, 4, beta, estimate, schedule)
    if estimate == "random-sign":
        phases = phases.draw(rng)
        assert phases.beta in (beta, -beta)
        beta = phases.beta
    alternating = isinstance(schedule, Alternating)
    free = relax(dynamics, theta, x, None, 3 if alternating else 6, schedule=schedule)
    omega = 1.2 if isinstance(dynamics, RealTime) else 1.0
    all_steps = Alternating(omega, tol=0) if alternating else Synchronous()

    def dphi_dtheta(beta: float) -> Theta:
        nudge, steps = Nudge(beta, y), 2 if alternating else 4
        nudged = relax(dynamics, theta, x, free.state, steps, nudge=nudge, schedule=all_steps)
        return network.dphi_dtheta(theta, x, nudged.activities[1:])

    one, two, width = dphi_dtheta(beta), network.dphi_dtheta(theta, x, free.activities[1:]), beta
    if estimate == "centered":
        two, width = dphi_dtheta(-beta), 2 * beta
    update = ep(dynamics, theta, x, y, phases)
    assert_close(update.gradient, {k: -(one[k] - two[k]) / width for k in theta}, atol=1e-10)
    assert update.free.residuals == free.residuals
    for a, b in zip(update.free.state, free.state, strict=True):
        np.testing.assert_array_equal(a, b)


def test_each_state_has_its_own_switches(rng: np.random.Generator) -> None:
    """Here the nudge moves maxima, and the gradient with the switches of the free phase is another one.

    Without such an example the test of Eq. (2) could pass with the wrong switches.
    """
    network = NETWORKS["two conv"]
    theta, x, (*_, y) = draw(network, 20, rng)
    theta = {name: 0.3 * value for name, value in theta.items()}
    y *= 5
    dynamics = DiscreteTime(network, sigmoid)
    free = relax(dynamics, theta, x, None, 30, schedule=Alternating(tol=0))
    nudged = relax(dynamics, theta, x, free.state, 5, nudge=Nudge(0.9, y), schedule=Alternating(tol=0))
    assert (free.switches["w1-2"] != nudged.switches["w1-2"]).any()
    update = ep(dynamics, theta, x, y, Phases(60, 10, 0.9, schedule=Alternating(tol=0)))
    (c,) = (c for c in network.recurrent if c.name == "w1-2")
    stale = c.gradient(nudged.state[0], nudged.state[1], free.switches["w1-2"]) / 20
    fresh = network.dphi_dtheta(theta, x, nudged.state)["w1-2"]
    first = network.dphi_dtheta(theta, x, free.state)["w1-2"]
    np.testing.assert_allclose(update.gradient["w1-2"], -(fresh - first) / 0.9, rtol=0, atol=1e-12)
    assert abs(stale - fresh).max() > 1e-3


# --- its symmetries


@every
@pytest.mark.parametrize("schedule", [Synchronous(), Alternating(tol=0)], ids=["synchronous", "alternating"])
def test_centred_is_the_mean_of_both_sides(name: str, schedule: Schedule, rng: np.random.Generator) -> None:
    dynamics = DiscreteTime(NETWORKS[name])
    problem = example(NETWORKS[name], rng)

    def gradient(estimate: Estimate, beta: float) -> Theta:
        phases = Phases(40, 8, beta, estimate, schedule)
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
@pytest.mark.parametrize("estimate", ["one-sided", "centered"])
def test_the_gradient_of_a_batch_is_the_mean_over_its_samples(
    name: str, estimate: Estimate, rng: np.random.Generator
) -> None:
    dynamics = DiscreteTime(NETWORKS[name])
    theta, x, y = example(NETWORKS[name], rng)
    phases = Phases(20, 6, 0.4, estimate, Alternating(tol=0))
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
    for estimate in ("one-sided", "centered"):
        for dynamics in (DiscreteTime(network), RealTime(network)):
            gradient = ep(dynamics, theta, x, y, Phases(4, 4, 0.5, estimate)).gradient
            assert {k: (v.dtype, v.shape) for k, v in gradient.items()} == {
                k: (np.float32, v.shape) for k, v in theta.items()
            }


# --- Phases


def test_random_signs_are_drawn_evenly(rng: np.random.Generator) -> None:
    """Of 1000 signs, 500 are positive within three standard errors (48). The drawn phases are one-sided."""
    phases = Phases(9, 3, 0.5, "random-sign", Alternating(tol=0.25), {"b1": 0.1})
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


def test_an_alternating_step_goes_as_far_as_two_synchronous_ones() -> None:
    assert [Phases(9, 3, 0.5).schedule.steps(n) for n in (1, 2, 3, 30)] == [1, 1, 2, 15]
    synchronous = Phases(9, 3, 0.5, schedule=Synchronous()).schedule
    assert [synchronous.steps(n) for n in (1, 2, 3, 30)] == [1, 2, 3, 30]


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"beta": 0}, "beta must be a finite number other than 0, got 0"),
        ({"beta": math.nan}, "beta must be a finite number other than 0, got nan"),
        ({"beta": -math.inf}, "beta must be a finite number other than 0, got -inf"),
        ({"beta": 1j}, "beta must be a finite number other than 0, got 1j"),
        ({"free_steps": 0}, "free_steps must be a positive integer, got 0"),
        ({"nudged_steps": -1}, "nudged_steps must be a positive integer, got -1"),
        ({"free_steps": 2.0}, "free_steps must be a positive integer, got 2.0"),
        ({"nudged_steps": True}, "nudged_steps must be a positive integer, got True"),
        ({"estimate": "both"}, "estimate must be one of one-sided, random-sign, centered, got 'both'"),
        ({"estimate": None}, "estimate must be one of one-sided, random-sign, centered, got None"),
    ],
    ids=str,
)
def test_phases_refuse_impossible_settings(wrong: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Phases(**{"free_steps": 9, "nudged_steps": 3, "beta": 0.5} | wrong)


@pytest.mark.parametrize("schedule", ["alternating", "synchronous", None, Alternating], ids=str)
def test_phases_refuse_what_is_not_a_schedule(schedule: object) -> None:
    with pytest.raises(TypeError, match=r"schedule must be Synchronous\(...\) or Alternating\(...\), got "):
        Phases(9, 3, 0.5, schedule=schedule)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Alternating(omega=0), "omega must be between 0 and 2, got 0"),
        (lambda: Alternating(omega=2.0), "omega must be between 0 and 2, got 2.0"),
        (lambda: Alternating(tol=math.nan), "tol must be a finite number from 0, got nan"),
        (lambda: Alternating(tol=-1e-3), "tol must be a finite number from 0, got -0.001"),
        (lambda: Synchronous(tol=-1e-3), "tol must be a finite number from 0, got -0.001"),
        (lambda: Synchronous(tol=math.inf), "tol must be a finite number from 0, got inf"),
    ],
)
def test_schedules_refuse_impossible_settings(make: Callable[[], Schedule], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        make()
