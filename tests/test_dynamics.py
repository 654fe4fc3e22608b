"""One step of each dynamics against plain formulas; `relax`, its two schedules and its record."""

from itertools import pairwise

import numpy as np
import pytest
from eqprop_np.cost import cost, cost_derivative
from examples import NETWORKS, all_clear, draw, networks, rngs
from hypothesis import assume, given
from hypothesis import strategies as st

from eqprop_np.activations import ACTIVATIONS, Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.dynamics import SCHEDULES, DiscreteTime, Dynamics, Nudge, RealTime, relax, step
from eqprop_np.experiments import EXPERIMENTS
from eqprop_np.network import Network, State, Theta, chain
from eqprop_np.testing import check_gradient

activations = st.sampled_from(list(ACTIVATIONS.values()))
batches = st.integers(1, 3)
schedules = pytest.mark.parametrize("schedule", SCHEDULES)

REST = 1e-13  # a residual that float64 can reach
CLOSE = {"rtol": 0, "atol": 1e-12}


def weak(network: Network, rng: np.random.Generator) -> tuple[Theta, Array]:
    """θ so small that every dynamics contracts to one steady state, and inputs in [0, 1], two of them."""
    theta, x, _ = draw(network, 2, rng)
    return {name: 0.05 * value for name, value in theta.items()}, abs(x) % 1


def target(network: Network, batch: int, rng: np.random.Generator) -> Array:
    (classes,) = network.shapes[-1]
    return np.eye(classes)[rng.integers(0, classes, batch)]


def each_dynamics(network: Network, sigma: Activation = sigmoid) -> list[Dynamics]:
    return [
        DiscreteTime(network, sigma),
        RealTime(network, sigma, epsilon=0.3),
        RealTime(network, sigma, epsilon=0.08, clamp=False),
    ]


def assert_same(a: State, b: State, **tolerance: float) -> None:
    for n, (one, two) in enumerate(zip(a, b, strict=True), start=1):
        np.testing.assert_allclose(one, two, err_msg=f"layer {n}", **tolerance or {"rtol": 0})


# --- the cost


@given(rngs, batches)
def test_cost_is_half_the_squared_distance(rng: np.random.Generator, batch: int) -> None:
    output, y = rng.standard_normal((2, batch, 4))
    expected = [
        sum((o - t) ** 2 for o, t in zip(*pair, strict=True)) / 2 for pair in zip(output, y, strict=True)
    ]
    np.testing.assert_allclose(cost(output, y), expected, rtol=1e-12)
    check_gradient(
        lambda output: float(cost(output, y).sum()),
        lambda output: cost_derivative(output, y),
        output,
        rng=rng,
    )


# --- one step, Eqs. (1) and (3)


@given(networks, activations, rngs, batches, st.floats(-1, 1))
def test_a_discrete_step_is_equation_3(
    network: Network, sigma: Activation, rng: np.random.Generator, batch: int, beta: float
) -> None:
    theta, x, s = draw(network, batch, rng)
    y = target(network, batch, rng)
    drives = network.dphi_ds(theta, x, s)
    expected = [sigma.value(drive) for drive in drives]
    assert_same(step(DiscreteTime(network, sigma), theta, x, s), tuple(expected), **CLOSE)
    expected[-1] = sigma.value(drives[-1]) + beta * (y - s[-1])
    assert_same(step(DiscreteTime(network, sigma), theta, x, s, Nudge(beta, y)), tuple(expected), **CLOSE)


@given(networks, activations, rngs, batches, st.floats(-1, 1), st.floats(0.01, 1), st.booleans())
def test_a_real_time_step_is_eulers(
    network: Network,
    sigma: Activation,
    rng: np.random.Generator,
    batch: int,
    beta: float,
    epsilon: float,
    clamp: bool,
) -> None:
    """s + ε ds/dt, ds/dt = ρ′(s) ∂Φ/∂ρ − s − β ∂ℓ/∂s, with the hidden layers seen through ρ."""
    theta, x, s = draw(network, batch, rng)
    y = target(network, batch, rng)
    rates = tuple(sigma.value(value) for value in s)
    flow = [
        sigma.derivative(v) * drive - v for v, drive in zip(s, network.dphi_ds(theta, x, rates), strict=True)
    ]
    dynamics = RealTime(network, sigma, epsilon, clamp)
    for nudge in (None, Nudge(beta, y)):
        if nudge:
            flow[-1] = flow[-1] + beta * (y - s[-1])
        expected = [v + epsilon * f for v, f in zip(s, flow, strict=True)]
        if clamp:
            expected = [np.minimum(np.maximum(value, 0), 1) for value in expected]
        assert_same(step(dynamics, theta, x, s, nudge), tuple(expected), **CLOSE)


def test_a_step_in_loops(rng: np.random.Generator) -> None:
    """The same once more for 3 → 2 → 2, neuron by neuron, so that nothing rests on ∂Φ/∂s's own code."""
    w, v = rng.standard_normal((3, 2)), rng.standard_normal((2, 2))
    b, c = rng.standard_normal((2, 2))
    x, h, o, y = (rng.uniform(size=(1, n)) for n in (3, 2, 2, 2))
    theta = {"w0-1": w, "w1-2": v, "b1": b, "b2": c}

    def drives(h: Array, o: Array) -> tuple[list[float], list[float]]:
        to_h = [b[j] + sum(x[0, i] * w[i, j] for i in range(3)) for j in range(2)]
        to_h = [to_h[j] + sum(v[j, k] * o[0, k] for k in range(2)) for j in range(2)]
        return to_h, [c[k] + sum(h[0, j] * v[j, k] for j in range(2)) for k in range(2)]

    network = chain([3, 2, 2])
    to_h, to_o = drives(h, o)
    expected = ([np.tanh(to_h)], [np.tanh(to_o) + 0.3 * (y[0] - o[0])])
    assert_same(step(DiscreteTime(network, tanh), theta, x, (h, o), Nudge(0.3, y)), expected, **CLOSE)
    to_h, to_o = drives(np.tanh(h), np.tanh(o))
    expected = (
        [h[0] + 0.1 * ((1 - np.tanh(h[0]) ** 2) * to_h - h[0])],
        [o[0] + 0.1 * ((1 - np.tanh(o[0]) ** 2) * to_o - o[0] + 0.3 * (y[0] - o[0]))],
    )
    dynamics = RealTime(network, tanh, epsilon=0.1, clamp=False)
    assert_same(step(dynamics, theta, x, (h, o), Nudge(0.3, y)), expected, **CLOSE)


@given(st.sampled_from(["chain", "skip", "two conv"]), rngs, st.floats(0.01, 1))
def test_real_time_descends_the_energy(name: str, rng: np.random.Generator, epsilon: float) -> None:
    """ds = −ε ∂E/∂s with E = ½‖s‖² − Φ(x, ρ(s), θ): there is an energy, so the step is its gradient."""
    network = NETWORKS[name]
    theta, x, s = draw(network, 2, rng)
    assume(all_clear(network, theta, x, tuple(sigmoid.value(value) for value in s)))
    dynamics = RealTime(network, sigmoid, epsilon, clamp=False)

    def energy(s: State) -> float:
        phi = network.phi(theta, x, tuple(sigmoid.value(value) for value in s)).sum()
        return float(sum((value**2).sum() for value in s) / 2 - phi)

    def gradient(s: State) -> State:
        moved = step(dynamics, theta, x, s)
        return tuple((old - new) / epsilon for old, new in zip(s, moved, strict=True))

    check_gradient(energy, gradient, s, rng=rng)


def test_the_nudge_in_units_of_equation_1() -> None:
    """Φ of Eq. (1) is ½‖s‖² − εE in real time, so its β is εβ."""
    assert DiscreteTime(NETWORKS["chain"]).nudge_scale() == 1
    assert RealTime(NETWORKS["chain"], epsilon=0.3).nudge_scale() == 0.3


# --- relax: the synchronous schedule is Eq. (1) to the letter


@given(networks, activations, rngs, st.integers(0, 5), st.sampled_from([None, -0.3, 0.7]))
def test_synchronous_relaxation_repeats_the_step(
    network: Network, sigma: Activation, rng: np.random.Generator, steps: int, beta: float | None
) -> None:
    theta, x, s = draw(network, 2, rng)
    nudge = None if beta is None else Nudge(beta, target(network, 2, rng))
    for dynamics in each_dynamics(network, sigma):
        states = [s]
        for _ in range(steps):
            states.append(step(dynamics, theta, x, states[-1], nudge))
        found = relax(dynamics, theta, x, s, steps, nudge=nudge, schedule="synchronous", trajectory=True)
        assert found.steps == len(found.trajectory) - 1 == steps
        for state, expected in zip(found.trajectory, states, strict=True):
            assert_same(state, expected)
        assert_same(found.state, states[-1])


# --- relax: the alternating schedule

LAYERED = [name for name, network in NETWORKS.items() if not any(c.pools for c in network.recurrent)]
"""Without pooling between free layers, whose switches would tie a layer to its own last state."""


@given(st.sampled_from(LAYERED), activations, rngs, batches, st.integers(1, 4))
def test_a_sweep_follows_one_of_two_interleaved_chains(
    name: str, sigma: Activation, rng: np.random.Generator, batch: int, sweeps: int
) -> None:
    """From zero, m sweeps are, to the bit, the odd layers of step 2m − 1 and the even ones of step 2m."""
    network = NETWORKS[name]
    theta, x, _ = draw(network, batch, rng)
    dynamics = DiscreteTime(network, sigma)
    synchronous = relax(
        dynamics, theta, x, None, 2 * sweeps, schedule="synchronous", trajectory=True
    ).trajectory
    alternating = relax(dynamics, theta, x, None, sweeps)
    for n in network.layers:
        np.testing.assert_array_equal(alternating.state[n - 1], synchronous[2 * sweeps - n % 2][n - 1])


@given(networks, rngs, st.sampled_from([1.0, 0.7, 1.4]))
def test_a_sweep_moves_one_group_then_the_other(
    network: Network, rng: np.random.Generator, omega: float
) -> None:
    """With over-relaxation, each ω times as far; without a connection within a group, its order is free."""
    theta, x, s = draw(network, 2, rng)
    for dynamics in each_dynamics(network):
        expected = list(s)
        for group in network.colours:
            for n in group:
                moved = step(dynamics, theta, x, tuple(expected))[n - 1]
                expected[n - 1] = expected[n - 1] + omega * (moved - expected[n - 1])
        assert_same(relax(dynamics, theta, x, s, 1, omega=omega).state, tuple(expected), **CLOSE)


@pytest.mark.parametrize("name", ["one layer", "chain", "long chain", "conv", "two conv", "skip"])
def test_a_nudged_sweep_begins_at_the_output(name: str, rng: np.random.Generator) -> None:
    network = NETWORKS[name]
    theta, x, s = draw(network, 2, rng)
    nudge = Nudge(0.4, target(network, 2, rng))
    for dynamics in each_dynamics(network):
        expected = list(s)
        first = next(group for group in network.colours if network.depth in group)
        second = next(group for group in network.colours if group is not first)
        for group in (first, second):
            for n in group:
                expected[n - 1] = step(dynamics, theta, x, tuple(expected), nudge)[n - 1]
        assert_same(relax(dynamics, theta, x, s, 1, nudge=nudge).state, tuple(expected), **CLOSE)


@given(st.sampled_from(LAYERED), activations, rngs, st.sampled_from([None, 0.5, -0.2]))
def test_both_schedules_reach_the_same_steady_state(
    name: str, sigma: Activation, rng: np.random.Generator, beta: float | None
) -> None:
    """With over-relaxation too, and in the nudged phase. (Free real time chatters at a kink of ρ.)"""
    network = NETWORKS[name]
    theta, x = weak(network, rng)
    nudge = None if beta is None else Nudge(beta, target(network, 2, rng))
    for dynamics in each_dynamics(network, sigma)[: 2 if sigma is hard_sigmoid else 3]:
        synchronous, *others = (
            relax(dynamics, theta, x, None, 1000, nudge=nudge, schedule=schedule, omega=omega, tol=REST)
            for schedule, omega in (("synchronous", 1.0), ("alternating", 1.0), ("alternating", 1.2))
        )
        assert synchronous.converged
        for other in others:
            assert other.converged
            assert_same(other.state, synchronous.state, rtol=0, atol=1e-9)


@given(
    st.sampled_from([name for name in NETWORKS if name not in LAYERED]),
    st.sampled_from([sigmoid, hard_sigmoid]),
    rngs,
    st.sampled_from([1.0, 1.2]),
)
def test_with_switches_between_layers_the_sweeps_rest_where_the_step_does(
    name: str, sigma: Activation, rng: np.random.Generator, omega: float
) -> None:
    """A maximum that is driven wins by more, so there can be several steady states. (And under tanh
    none: a negative rate above pushes the maximum below down, until another is the maximum.)"""
    network = NETWORKS[name]
    theta, x = weak(network, rng)
    for dynamics in each_dynamics(network, sigma)[:2]:
        found = relax(dynamics, theta, x, None, 1000, omega=omega, tol=REST)
        assert found.converged
        assert_same(step(dynamics, theta, x, found.state), found.state, **CLOSE)


def as_published(name: str, scale: float = 1.0) -> tuple[Dynamics, Theta, Array]:
    """A preset's dynamics at its own sizes, its initial θ in float64, and inputs about as black as MNIST."""
    dynamics = EXPERIMENTS[name].build((28, 28), 10)
    rng = np.random.default_rng(0)
    theta = {name: scale * value for name, value in dynamics.network.init(rng, np.float64).items()}
    return dynamics, theta, rng.uniform(size=(3, 784)) * (rng.uniform(size=(3, 784)) < 0.2)


@pytest.mark.parametrize("name", ["p-1h", "p-2h", "p-3h", "eb-1h", "eb-2h"])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_every_preset_has_the_same_steady_state_in_both_forms(name: str, scale: float) -> None:
    """To the letter and in the fast exact form, with its own sizes, ω and ε, to 1e-6."""
    dynamics, theta, x = as_published(name, scale)
    letter = relax(dynamics, theta, x, None, 5000, schedule="synchronous", tol=1e-9)
    assert letter.converged
    for omega in (1.0, EXPERIMENTS[name].omega, 1.4):
        fast = relax(dynamics, theta, x, None, 5000, omega=omega, tol=1e-9)
        assert fast.converged
        assert_same(fast.state, letter.state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["p-1h", "p-2h", "p-3h"])
def test_a_sweep_contracts_as_two_synchronous_steps(name: str) -> None:
    """The fast form's gain: from the same start to (half) the same residual in half the steps."""
    dynamics, theta, x = as_published(name)
    steps = {
        schedule: relax(dynamics, theta, x, None, 500, schedule=schedule, tol=1e-12).steps
        for schedule in SCHEDULES
    }
    assert 0.45 < steps["alternating"] / steps["synchronous"] < 0.56


# --- relax: its record


@given(networks, rngs, st.sampled_from(SCHEDULES), st.sampled_from([1.0, 1.3]))
def test_residuals_are_the_largest_moves(
    network: Network, rng: np.random.Generator, schedule: str, omega: float
) -> None:
    """Of all layers at once; alternating, of those that move last, and of the others by their inertia."""
    theta, x, s = draw(network, 2, rng)
    groups = network.colours if schedule == "alternating" and network.recurrent else (tuple(network.layers),)
    for dynamics in each_dynamics(network):
        found = relax(dynamics, theta, x, s, 4, schedule=schedule, omega=omega, trajectory=True)
        for residual, (before, after) in zip(found.residuals, pairwise(found.trajectory), strict=True):
            moves = [np.abs(b - a).max() for a, b in zip(before, after, strict=True)]
            expected = max(
                moves[n - 1] * (1.0 if group is groups[-1] else dynamics.inertia(omega))
                for group in groups
                for n in group
            )
            assert residual == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("omega", [0.5, 1.0, 1.25])
def test_inertia_is_the_way_to_rest_after_a_move_of_one(omega: float) -> None:
    """In discrete time and among layers that stay, rest is at σ(∂Φ/∂s), wherever the layer was."""
    before, rest = 0.3, 0.8
    after = before + omega * (rest - before)
    inertia = DiscreteTime(NETWORKS["chain"]).inertia(omega)
    assert inertia == pytest.approx(abs(rest - after) / abs(after - before), abs=1e-15)


@schedules
@pytest.mark.parametrize("omega", [1.0, 1.3])
def test_a_dead_last_layer_is_not_rest(schedule: str, omega: float, rng: np.random.Generator) -> None:
    """An output that stays at 0 from the first step says nothing about a hidden layer on its way, nor
    under a nudge a dead hidden layer about the output."""
    network = NETWORKS["chain"]
    theta, x = weak(network, rng)
    theta["b1"][:], theta["b2"][:] = 0.5, -9
    for dynamics in each_dynamics(network, hard_sigmoid)[:2]:
        found = relax(dynamics, theta, x, None, 500, schedule=schedule, omega=omega, tol=1e-9)
        assert found.converged
        assert not found.state[1].any()
        assert_same(step(dynamics, theta, x, found.state), found.state, rtol=0, atol=1e-8)
    theta["b1"][:], theta["b2"][:] = -9, 0.5
    for dynamics in each_dynamics(network, hard_sigmoid)[:2]:
        nudge = Nudge(0.3, target(network, 2, rng))
        found = relax(dynamics, theta, x, None, 500, nudge=nudge, schedule=schedule, omega=omega, tol=1e-9)
        assert found.converged
        assert not found.state[0].any()
        assert_same(step(dynamics, theta, x, found.state, nudge), found.state, rtol=0, atol=1e-8)


@schedules
def test_it_stops_at_the_first_residual_within_the_tolerance(schedule: str, rng: np.random.Generator) -> None:
    network = NETWORKS["long chain"]
    theta, x = weak(network, rng)
    for dynamics in each_dynamics(network):
        everything = relax(dynamics, theta, x, None, 60, schedule=schedule, trajectory=True)
        tol = everything.residuals[7]
        found = relax(dynamics, theta, x, None, 60, schedule=schedule, tol=tol, trajectory=True)
        first = next(k for k, residual in enumerate(everything.residuals) if residual <= tol) + 1
        assert found.converged
        assert found.steps == first <= 8
        assert found.residuals == everything.residuals[:first]
        assert_same(found.state, everything.trajectory[first])


@schedules
def test_converged_says_whether_it_is_at_rest(schedule: str, rng: np.random.Generator) -> None:
    """Without a tolerance, only a state that no longer moves at all is."""
    network = NETWORKS["chain"]
    theta, x = weak(network, rng)
    dynamics = DiscreteTime(network)

    def converged(steps: int, tol: float | None) -> bool:
        return relax(dynamics, theta, x, None, steps, schedule=schedule, tol=tol).converged

    assert not converged(2, 1e-9)
    assert converged(50, 1e-9)
    assert not converged(2, None)
    assert not converged(2, 0.0)
    assert converged(200, None)
    assert not converged(0, 1e-9)


@schedules
@pytest.mark.parametrize("tol", [None, 0.0])
def test_without_a_tolerance_every_step_is_taken(
    schedule: str, tol: float | None, rng: np.random.Generator
) -> None:
    theta, x = weak(NETWORKS["chain"], rng)
    found = relax(DiscreteTime(NETWORKS["chain"]), theta, x, None, 200, schedule=schedule, tol=tol)
    assert found.steps == len(found.residuals) == 200
    assert found.residuals[-1] == 0


@given(networks, rngs, st.sampled_from(SCHEDULES), st.integers(0, 3), st.booleans())
def test_switches_and_rates_belong_to_the_state(
    network: Network, rng: np.random.Generator, schedule: str, steps: int, nudged: bool
) -> None:
    """In the last state, whatever moved last, and even if nothing did."""
    theta, x, s = draw(network, 2, rng)
    nudge = Nudge(0.5, target(network, 2, rng)) if nudged else None
    for dynamics in each_dynamics(network):
        found = relax(dynamics, theta, x, s, steps, nudge=nudge, schedule=schedule)
        assert_same(found.rates, tuple(dynamics.rates(value) for value in found.state))
        for name, switches in network.find_switches(theta, x, found.rates).items():
            np.testing.assert_array_equal(found.switches[name], switches, err_msg=name)


@given(networks, rngs, st.sampled_from(SCHEDULES))
def test_the_trajectory_holds_every_state_and_only_on_demand(
    network: Network, rng: np.random.Generator, schedule: str
) -> None:
    theta, x, s = draw(network, 2, rng)
    dynamics = DiscreteTime(network)
    assert relax(dynamics, theta, x, s, 3, schedule=schedule).trajectory == ()
    found = relax(dynamics, theta, x, s, 3, schedule=schedule, trajectory=True)
    assert len(found.trajectory) == 4
    for k, state in enumerate(found.trajectory):
        assert_same(state, relax(dynamics, theta, x, s, k, schedule=schedule).state)


# --- relax: what it is given


@given(networks, rngs, st.sampled_from(SCHEDULES))
def test_a_shared_clamp_and_known_switches_change_nothing(
    network: Network, rng: np.random.Generator, schedule: str
) -> None:
    theta, x, _ = draw(network, 2, rng)
    nudge = Nudge(0.5, target(network, 2, rng))
    for dynamics in each_dynamics(network):
        clamped = network.clamp(theta, x)
        free = relax(dynamics, theta, clamped, None, 3, schedule=schedule)
        assert_same(free.state, relax(dynamics, theta, x, None, 3, schedule=schedule).state)
        knowing = relax(
            dynamics, theta, clamped, free.state, 3, nudge=nudge, schedule=schedule, switches=free.switches
        )
        assert_same(
            knowing.state, relax(dynamics, theta, x, free.state, 3, nudge=nudge, schedule=schedule).state
        )


@given(networks, activations, rngs, st.sampled_from(SCHEDULES), st.sampled_from([1.0, 1.3]))
def test_arguments_are_only_read(
    network: Network, sigma: Activation, rng: np.random.Generator, schedule: str, omega: float
) -> None:
    theta, x, s = draw(network, 2, rng)
    clamped = network.clamp(theta, x)
    switches = network.find_switches(theta, x, s)
    y = target(network, 2, rng)
    for a in (*theta.values(), x, y, *s, *clamped.drive.values(), *switches.values()):
        a.flags.writeable = False
    kept = dict(switches)
    for dynamics in each_dynamics(network, sigma):
        for nudge in (None, Nudge(0.5, y)):
            options = {"nudge": nudge, "schedule": schedule, "omega": omega, "switches": switches}
            relax(dynamics, theta, clamped, s, 0, **options)
            found = relax(dynamics, theta, clamped, s, 2, **options)
            assert all(switches[name] is kept[name] for name in switches)
            assert not any(np.shares_memory(a, b) for a, b in zip(found.state, s, strict=True))


def test_none_starts_at_zero(rng: np.random.Generator) -> None:
    network = NETWORKS["two conv"]
    theta, x, _ = draw(network, 2, rng)
    dynamics = DiscreteTime(network)
    zeros = network.zeros(2, x.dtype)
    assert_same(relax(dynamics, theta, x, None, 3).state, relax(dynamics, theta, x, zeros, 3).state)


@given(networks, activations, rngs, st.sampled_from(SCHEDULES))
def test_float32_stays_float32(
    network: Network, sigma: Activation, rng: np.random.Generator, schedule: str
) -> None:
    theta, x, _ = draw(network, 2, rng)
    theta, x = {name: value.astype(np.float32) for name, value in theta.items()}, x.astype(np.float32)
    nudge = Nudge(0.5, target(network, 2, rng).astype(np.float32))
    for dynamics in each_dynamics(network, sigma):
        found = relax(dynamics, theta, x, None, 2, nudge=nudge, schedule=schedule, omega=1.2)
        assert {value.dtype for value in (*found.state, *found.rates)} == {np.dtype(np.float32)}
