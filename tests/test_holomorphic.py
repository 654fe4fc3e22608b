"""Holomorphic EP: its order in the radius, its symmetry, its limits, and its advantage with noisy states."""

import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from estimators import CHAIN, STEADY, distance, flat, problem, steady_state

from eqprop_np.activations import Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.connections import ConvPool, Dense
from eqprop_np.costs import Cost
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime, snapshot
from eqprop_np.network import Network, Theta, chain, convolutional, toy
from eqprop_np.relaxation import Alternating, Synchronous, settle
from eqprop_np.rules import RULES
from eqprop_np.rules.ep import ep
from eqprop_np.rules.holomorphic import circle_point, full_circle, holomorphic_ep
from eqprop_np.rules.implicit import implicit_gradient
from eqprop_np.rules.phases import Phases
from eqprop_np.rules.vector_field import untied

LONG = replace(STEADY, nudged_steps=500)

UNPOOLED = Network(  # a convolution between free layers, without pooling
    ((5, 5, 1), (4, 4, 2), (3, 3, 2), (2,)),
    (
        ConvPool(0, 1, (5, 5, 1), 2, kernel=2, pool=1),
        ConvPool(1, 2, (4, 4, 2), 2, kernel=2, pool=1),
        Dense(2, 3, (3, 3, 2), (2,)),
    ),
)

SYSTEMS: dict[str, Dynamics] = {
    "discrete time": DiscreteTime(CHAIN),
    "discrete time, skip": DiscreteTime(toy(3, 4, 2), tanh),
    "discrete time, convolution": DiscreteTime(UNPOOLED, tanh),
    "real time, sigmoid": RealTime(CHAIN, sigmoid, epsilon=0.5, clamp=False),
    "real time, tanh": RealTime(CHAIN, tanh, epsilon=0.5, clamp=False),
    "real time, skip": RealTime(toy(3, 4, 2), tanh, epsilon=0.5, clamp=False),
    "real time, convolution": RealTime(UNPOOLED, tanh, epsilon=0.5, clamp=False),
}
every = pytest.mark.parametrize("name", SYSTEMS)


def gradient(dynamics: Dynamics, points: int, r: float, phases: Phases = LONG) -> Theta:
    return holomorphic_ep(dynamics, *problem(dynamics), replace(phases, points=points, beta=r)).gradient


@cache
def limit(dynamics: Dynamics) -> Theta:
    """Return EP's limit β → 0, from Richardson's extrapolation of the centred estimate."""
    arguments = dynamics, *problem(dynamics)
    table = [
        ep(*arguments, replace(LONG, estimate="centered", beta=beta)).gradient
        for beta in (0.04, 0.02, 0.01, 0.005)
    ]
    for k in (4, 16, 64):
        table = [{name: (k * b[name] - a[name]) / (k - 1) for name in a} for a, b in pairwise(table)]
    return table[0]


# --- what it computes


@every
@pytest.mark.parametrize("points", [2, 4, 6])
def test_halving_the_radius_divides_the_error_by_2_to_the_n(name: str, points: int) -> None:
    dynamics = SYSTEMS[name]
    large, small = (distance(gradient(dynamics, points, r), limit(dynamics)) for r in (0.1, 0.05))
    assert large / small == pytest.approx(2**points, rel=0.15)


@pytest.mark.parametrize("points", [3, 5])
def test_an_odd_number_of_points_has_its_order_too(points: int) -> None:
    dynamics = SYSTEMS["discrete time"]
    large, small = (distance(gradient(dynamics, points, r), limit(dynamics)) for r in (0.1, 0.05))
    assert large / small == pytest.approx(2**points, rel=0.15)


@every
def test_two_points_are_the_centred_estimate(name: str) -> None:
    dynamics = SYSTEMS[name]
    phases = replace(LONG, estimate="centered", beta=0.2)
    centred = ep(dynamics, *problem(dynamics), phases).gradient
    assert distance(gradient(dynamics, 2, 0.2), centred) < 1e-12


@pytest.mark.parametrize("name", [name for name in SYSTEMS if name.startswith("real")])
def test_in_real_time_the_limit_is_the_gradient_of_the_loss(name: str) -> None:
    dynamics = SYSTEMS[name]
    exact = implicit_gradient(dynamics, *problem(dynamics), LONG).gradient
    assert distance(gradient(dynamics, 16, 0.05), exact) < 1e-9


def test_in_discrete_time_it_is_the_gradient_of_another_loss() -> None:
    dynamics = SYSTEMS["discrete time"]
    exact = implicit_gradient(dynamics, *problem(dynamics), LONG).gradient
    assert distance(gradient(dynamics, 12, 0.05), limit(dynamics)) < 1e-9
    assert distance(limit(dynamics), exact) > 0.1


@every
@pytest.mark.parametrize("points", [2, 3, 4, 5, 8])
def test_sharing_conjugates_gives_the_sum_over_all_points(name: str, points: int) -> None:
    """This holds after any number of steps."""
    dynamics, short = SYSTEMS[name], replace(LONG, free_steps=40, nudged_steps=20)
    whole = full_circle(dynamics, *problem(dynamics), replace(short, points=points, beta=0.2))
    real, imaginary = ({k: part(v) for k, v in whole.items()} for part in (np.real, np.imag))
    assert distance(gradient(dynamics, points, 0.2, short), real) < 1e-12
    assert np.linalg.norm(flat(imaginary)) < 1e-12 * np.linalg.norm(flat(real))


def test_only_half_the_phases_are_computed(monkeypatch: pytest.MonkeyPatch) -> None:
    from eqprop_np.rules import holomorphic

    betas: list[complex] = []
    original = holomorphic.nudged_phase
    monkeypatch.setattr(
        holomorphic, "nudged_phase", lambda *a: betas.append(a[4].beta) or original(*a), raising=True
    )
    for points, phases in ((2, 2), (3, 2), (4, 3), (5, 3), (8, 5)):
        betas.clear()
        gradient(SYSTEMS["discrete time"], points, 0.2)
        assert len(betas) == phases
        assert all(abs(abs(beta) - 0.2) < 1e-15 and beta.imag >= 0 for beta in betas)


def test_the_points_lie_on_the_circle() -> None:
    for points in (2, 3, 4, 8):
        found = [circle_point(0.3, k, points) for k in range(points)]
        np.testing.assert_allclose(found, 0.3 * np.exp(2j * np.pi * np.arange(points) / points), atol=1e-16)
        assert isinstance(found[0], float)
    assert circle_point(0.3, 2, 4) == -0.3


@pytest.mark.parametrize("name", ["discrete time", "real time, tanh"])
def test_float32_stays_float32(name: str) -> None:
    dynamics = SYSTEMS[name]
    theta, x, y = problem(dynamics)
    single = {k: v.astype(np.float32) for k, v in theta.items()}, x.astype(np.float32), y.astype(np.float32)
    phases = replace(LONG, beta=np.float64(0.3), points=np.int64(4), schedule=Alternating(tol=1e-6))
    update = holomorphic_ep(dynamics, *single, phases)
    assert {value.dtype for value in update.gradient.values()} == {np.dtype(np.float32)}
    assert distance(update.gradient, holomorphic_ep(dynamics, theta, x, y, phases).gradient) < 1e-4
    whole = full_circle(dynamics, *single, phases)
    assert {value.dtype for value in whole.values()} == {np.dtype(np.complex64)}


# --- the radius of convergence


def test_beyond_the_radius_of_convergence_more_points_do_not_help() -> None:
    """s_*^β has a singularity within 0.8 of 0: there the error stays, and at 0.2 it falls geometrically."""
    dynamics = SYSTEMS["real time, tanh"]
    inside, outside = (
        [distance(gradient(dynamics, points, r), limit(dynamics)) for points in (4, 8, 12, 16)]
        for r in (0.2, 0.8)
    )
    assert inside[-1] < 1e-6
    assert all(b < a / 10 for a, b in pairwise(inside[:3]))
    assert min(outside) > 0.02


def test_in_discrete_time_there_is_a_pole_at_minus_1() -> None:
    """The output's steady state is (σ(a) + β y)/(1 + β), and the phase diverges for |β| > 1."""
    dynamics = DiscreteTime(chain([2, 2]))
    theta, x, y = problem(dynamics)
    a = dynamics.network.dphi_ds(theta, x, (np.zeros((2, 2)),))[0]
    static, start = dynamics.network.input_drive(theta, x), (np.zeros((2, 2), complex),)

    def output(beta: complex) -> Array:
        return settle(dynamics, theta, static, start, 200, Synchronous(), nudge=Nudge(beta, y)).state[0]

    for beta in (0.5j, -0.6 + 0.3j):
        expected = (sigmoid.value(a) + beta * y) / (1 + beta)
        np.testing.assert_allclose(output(beta), expected, rtol=0, atol=1e-12)
    assert abs(output(1.1j)).max() > 1e6


# --- noise


class Curve(NamedTuple):
    """Bias² and variance of an estimate at several radii, relative to the squared norm of the limit."""

    bias: Array
    variance: Array

    def best(self, repeats: float = 1.0) -> float:
        """Return the root mean square error at the best radius, for the mean over so many repetitions."""
        return math.sqrt(min(self.bias + self.variance / repeats))


RADII = np.geomspace(0.03, 0.5, 9)


def noisy(value: Array, sd: float, rng: np.random.Generator) -> Array:
    """Add normal noise to each neuron, and to its imaginary part if it has one."""
    noise = rng.standard_normal(value.shape)
    if np.iscomplexobj(value):
        noise = noise + 1j * rng.standard_normal(value.shape)
    return value + sd * noise


def estimates(dynamics: Dynamics, points: int, r: float, sd: float, draws: int) -> Iterator[Array]:
    """Yield estimates from steady states with independent noise, flat."""
    theta, x, y = problem(dynamics)
    rng = np.random.default_rng(0)
    static, free, nudged = dynamics.network.input_drive(theta, x), steady_state(dynamics, theta, x).state, []
    for k in range(points // 2 + 1):
        beta = circle_point(r, k, points)
        start = tuple(value + 0j for value in free) if isinstance(beta, complex) else free
        phase = settle(dynamics, theta, static, start, 400, Alternating(tol=1e-9), nudge=Nudge(beta, y))
        nudged.append((beta, (1 if 2 * k in (0, points) else 2) / points, phase.state))
    for _ in range(draws):
        before = snapshot(dynamics, theta, x, tuple(noisy(value, sd, rng) for value in free))
        total = 0.0
        for beta, share, s in nudged:
            after = snapshot(dynamics, theta, x, tuple(noisy(value, sd, rng) for value in s))
            total = total + share * flat(dynamics.network.contrast(after, before, -beta)).real
        yield total


def curve(dynamics: Dynamics, points: int, draws: int = 60, sd: float = 1e-3) -> Curve:
    exact = flat(limit(dynamics))
    rows = []
    for r in RADII:
        (clean,) = estimates(dynamics, points, r, 0.0, 1)
        errors = [((g - exact) ** 2).sum() for g in estimates(dynamics, points, r, sd, draws)]
        bias = ((clean - exact) ** 2).sum()
        rows.append((bias, np.mean(errors) - bias))
    bias, variance = np.array(rows).T / (exact @ exact)
    return Curve(bias, np.maximum(variance, 0))


@pytest.mark.parametrize("name", ["discrete time", "real time, tanh"])
def test_with_noise_in_the_states_it_beats_the_centred_estimate(name: str) -> None:
    """Noise of 1e-3 per neuron, each estimate at its best radius; 3 and 5 nudged phases against 2."""
    dynamics = SYSTEMS[name]
    centred, four, eight = (curve(dynamics, points) for points in (2, 4, 8))
    assert centred.best() > 2 * four.best()
    assert centred.best() > 3.5 * eight.best()
    # At 30 nudged phases each: 15 repetitions of the centred estimate, 10 of N = 4, 6 of N = 8.
    assert centred.best(15) > 2 * four.best(10)
    assert centred.best(15) > 3.5 * eight.best(6)


# --- what is refused


@pytest.mark.parametrize(
    ("dynamics", "what"),
    [
        (DiscreteTime(CHAIN, hard_sigmoid), "the hard sigmoid"),
        (RealTime(CHAIN), "clamping"),
        (DiscreteTime(convolutional((7, 7, 1), [2, 2], [2], kernel=2)), "max-pooling"),
    ],
    ids=["hard sigmoid", "clamping", "max-pooling"],
)
def test_what_is_not_analytic_is_refused(
    dynamics: Dynamics, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("eqprop_np.rules.holomorphic.free_phase", lambda *_: pytest.fail("a phase began"))
    with pytest.raises(ValueError, match=f"holomorphic EP needs complex states, but {what} is not analytic"):
        holomorphic_ep(dynamics, *problem(dynamics), LONG)


SOFTSIGN = Activation(
    "softsign",
    value=lambda a: a / (1 + np.abs(a)),
    derivative=lambda a: 1 / (1 + np.abs(a)) ** 2,
    second=lambda a: -2 * np.sign(a) / (1 + np.abs(a)) ** 3,
)
CUBIC = Cost(
    "cubic",
    value=lambda output, target: (np.abs(output - target) ** 3).sum(axis=1) / 3,
    derivative=lambda output, target: (output - target) * np.abs(output - target),
)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [{"sigma": SOFTSIGN}, {"sigma": tanh, "cost": CUBIC}])
@pytest.mark.parametrize("kind", [DiscreteTime, partial(RealTime, clamp=False)])
def test_an_own_function_that_accepts_complex_numbers_must_be_analytic(
    kind: Callable, parts: dict, dtype: type
) -> None:
    """np.abs of a complex number is a number, so that only the derivatives tell."""
    dynamics = kind(chain([4, 5, 3]), **parts)
    theta = dynamics.init(np.random.default_rng(0), dtype)
    x, y = np.ones((2, 4), dtype), np.eye(3, dtype=dtype)[:2]
    with pytest.raises(ValueError, match="needs an analytic step, but the activation or the cost is not"):
        holomorphic_ep(dynamics, theta, x, y, Phases(50, 50, beta=0.1, points=4))


def test_pooling_directly_after_the_input_is_allowed() -> None:
    """The input is real and does not move, so its switches are constant."""
    dynamics = RealTime(convolutional((6, 6, 1), [2], [2], kernel=3), tanh, epsilon=0.5, clamp=False)
    exact = implicit_gradient(dynamics, *problem(dynamics), LONG).gradient
    assert distance(gradient(dynamics, 8, 0.05), exact) < 1e-7


def test_untied_weights_are_refused() -> None:
    dynamics = DiscreteTime(untied(CHAIN))
    with pytest.raises(ValueError, match="untied"):
        holomorphic_ep(dynamics, *problem(dynamics), LONG)


@pytest.mark.parametrize("points", [1, 0, -4, 2.0, True, "4"])
def test_points_are_an_integer_from_2(points: int) -> None:
    with pytest.raises(ValueError, match="points must be an integer from 2, got"):
        Phases(10, 10, 0.1, points=points)


def test_the_table_lists_the_three_rules() -> None:
    assert {name: RULES[name].networks for name in ("implicit", "holomorphic", "asymep")} == {
        "implicit": "both",
        "holomorphic": "tied",
        "asymep": "both",
    }
