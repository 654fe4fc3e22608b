"""`relax`, its two schedules, and what it records."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from examples import NETWORKS, draw, networks, rngs
from hypothesis import given
from hypothesis import strategies as st
from states import CLOSE, assert_same, each_dynamics, target

from eqprop_np.activations import ACTIVATIONS, Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.connections import Dense
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime, snapshot, step
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.network import Network, Theta, chain, convolutional
from eqprop_np.relaxation import Alternating, Relaxation, Schedule, Synchronous, relax, settle
from eqprop_np.rules.vector_field import untied

SCHEDULES: dict[str, Schedule] = {
    "synchronous": Synchronous(),
    "alternating": Alternating(tol=0),
    "over-relaxed": Alternating(1.3, tol=0),
}
"""Without a tolerance: every step is taken."""

activations = st.sampled_from(list(ACTIVATIONS.values()))
batches = st.integers(1, 3)
any_schedule = st.sampled_from(list(SCHEDULES.values()))
schedules = pytest.mark.parametrize("schedule", SCHEDULES.values(), ids=SCHEDULES)

STEADY = 1e-13
"""A residual that float64 can reach: rounding changes a neuron of order 1 by some 1e-16 per step."""


def weak(network: Network, rng: np.random.Generator) -> tuple[Theta, Array]:
    """Return a θ so small that every dynamics contracts to one steady state, and two inputs in [0, 1]."""
    theta, x, _ = draw(network, 2, rng)
    return {name: 0.05 * value for name, value in theta.items()}, abs(x) % 1


def groups_of(network: Network) -> list[tuple[int, ...]]:
    return [group for group in network.groups if group]


# ---- the synchronous schedule is Eq. (1) to the letter


@given(networks, activations, rngs, st.integers(0, 5), st.sampled_from([None, -0.3, 0.7]))
def test_synchronous_relaxation_repeats_the_step(
    network: Network, sigma: Activation, rng: np.random.Generator, steps: int, beta: float | None
) -> None:
    """To the bit: it is the same computation."""
    theta, x, s = draw(network, 2, rng)
    nudge = None if beta is None else Nudge(beta, target(network, 2, rng))
    for dynamics in each_dynamics(network, sigma):
        states = [s]
        for _ in range(steps):
            states.append(step(dynamics, theta, x, states[-1], nudge))
        found = relax(dynamics, theta, x, s, steps, nudge=nudge, schedule=Synchronous(), trajectory=True)
        assert found.steps == len(found.trajectory) - 1 == steps
        for state, expected in zip(found.trajectory, states, strict=True):
            assert_same(state, expected)
        assert_same(found.state, states[-1])


def test_untied_networks_relax_with_both_schedules(rng: np.random.Generator) -> None:
    for name in ("long chain", "skip", "two conv"):
        network = untied(NETWORKS[name])
        theta, x = weak(network, rng)
        for dynamics in each_dynamics(network):
            expected = network.zeros(2, x.dtype)
            for _ in range(4):
                expected = step(dynamics, theta, x, expected)
            assert_same(relax(dynamics, theta, x, None, 4, schedule=Synchronous()).state, expected)
            found = relax(dynamics, theta, x, None, 1000, schedule=Alternating(tol=STEADY))
            assert found.converged
            assert_same(step(dynamics, theta, x, found.state), found.state, **CLOSE)


# ---- the alternating schedule

LAYERED = [name for name, net in NETWORKS.items() if not any(c.has_switches for c in net.recurrent)]
"""Without pooling between free layers, whose switches make a layer depend on its own last state."""


@given(st.sampled_from(LAYERED), activations, rngs, batches, st.integers(1, 4))
def test_a_sweep_computes_one_of_two_interleaved_sequences(
    name: str, sigma: Activation, rng: np.random.Generator, batch: int, sweeps: int
) -> None:
    """From zero, m sweeps are, to the bit, the odd layers of step 2m − 1 and the even ones of step 2m."""
    network = NETWORKS[name]
    theta, x, _ = draw(network, batch, rng)
    dynamics = DiscreteTime(network, sigma)
    synchronous = relax(
        dynamics, theta, x, None, 2 * sweeps, schedule=Synchronous(), trajectory=True
    ).trajectory
    alternating = relax(dynamics, theta, x, None, sweeps, schedule=Alternating(tol=0))
    for n in network.layers:
        np.testing.assert_array_equal(alternating.state[n - 1], synchronous[2 * sweeps - n % 2][n - 1])


@given(networks, rngs, st.sampled_from([1.0, 0.7, 1.4]))
def test_a_sweep_moves_one_group_then_the_other(
    network: Network, rng: np.random.Generator, omega: float
) -> None:
    """ω times as far as a step. No connection joins two layers of a group, so their order does not matter."""
    theta, x, s = draw(network, 2, rng)
    for dynamics in each_dynamics(network):
        expected = list(s)
        for group in network.groups:
            for n in group:
                moved = step(dynamics, theta, x, tuple(expected))[n - 1]
                moved = expected[n - 1] + omega * (moved - expected[n - 1])
                expected[n - 1] = np.clip(moved, 0, 1) if dynamics.clamp else moved
        found = relax(dynamics, theta, x, s, 1, schedule=Alternating(omega, tol=0))
        assert_same(found.state, tuple(expected), **CLOSE)


@pytest.mark.parametrize("omega", [1.0, 1.4])
@pytest.mark.parametrize("name", ["one layer", "chain", "long chain", "conv", "two conv", "skip"])
def test_a_nudged_sweep_begins_at_the_output(name: str, omega: float, rng: np.random.Generator) -> None:
    network = NETWORKS[name]
    theta, x, s = draw(network, 2, rng)
    nudge = Nudge(0.4, target(network, 2, rng))
    for dynamics in each_dynamics(network):
        expected = list(s)
        first = next(group for group in network.groups if network.depth in group)
        second = next((group for group in network.groups if group is not first), ())
        for group in (first, second):
            for n in group:
                moved = step(dynamics, theta, x, tuple(expected), nudge)[n - 1]
                moved = expected[n - 1] + omega * (moved - expected[n - 1])
                expected[n - 1] = np.clip(moved, 0, 1) if dynamics.clamp else moved
        found = relax(dynamics, theta, x, s, 1, nudge=nudge, schedule=Alternating(omega, tol=0))
        assert_same(found.state, tuple(expected), **CLOSE)


def test_over_relaxation_does_not_leave_the_clamped_range() -> None:
    """Without the second clamping, a neuron at 0 would move by a factor 1 − ω = −0.9 at each step."""
    dynamics = RealTime(chain([1, 1]), hard_sigmoid, epsilon=1.0)
    theta = {"w0-1": np.array([[-3.0]]), "b1": np.array([0.0])}
    free = relax(dynamics, theta, np.ones((1, 1)), (np.array([[0.5]]),), 5, schedule=Alternating(1.9))
    assert free.state[0] == 0 and free.steps == 2


@given(st.sampled_from(LAYERED), activations, rngs, st.sampled_from([None, 0.5, -0.2]))
def test_both_schedules_reach_the_same_steady_state(
    name: str, sigma: Activation, rng: np.random.Generator, beta: float | None
) -> None:
    """Also with over-relaxation and in the nudged phase.

    (Unclamped real time does not converge at a kink of ρ, so it is left out for the hard sigmoid.) The
    residual is 1e-13, and the remaining distance is a multiple of it: 1e-9 leaves room for slow contraction.
    """
    network = NETWORKS[name]
    theta, x = weak(network, rng)
    nudge = None if beta is None else Nudge(beta, target(network, 2, rng))
    for dynamics in each_dynamics(network, sigma)[: 2 if sigma is hard_sigmoid else 3]:
        synchronous, *others = (
            relax(dynamics, theta, x, None, 1000, nudge=nudge, schedule=schedule)
            for schedule in (Synchronous(STEADY), Alternating(1.0, STEADY), Alternating(1.2, STEADY))
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
def test_with_switches_between_layers_a_sweep_stops_at_a_fixed_point_of_the_step(
    name: str, sigma: Activation, rng: np.random.Generator, omega: float
) -> None:
    """The drive to a maximum makes it larger, so there can be several steady states.

    (With tanh there can be none: a negative activity above lowers the maximum below, until another place is
    the maximum.)
    """
    network = NETWORKS[name]
    theta, x = weak(network, rng)
    for dynamics in each_dynamics(network, sigma)[:2]:
        found = relax(dynamics, theta, x, None, 1000, schedule=Alternating(omega, STEADY))
        assert found.converged
        assert_same(step(dynamics, theta, x, found.state), found.state, **CLOSE)


@pytest.mark.parametrize("seed", [7, 43, 79])
def test_a_layer_with_switches_does_not_hide_that_it_moves(seed: int) -> None:
    """Its drive depends on its own switches. Without its change the residual was 0 here, far from rest."""
    network = convolutional((10, 10, 1), [3, 4], [3], kernel=3)
    rng = np.random.default_rng(seed)
    theta = {name: 6 * value for name, value in network.init(rng, np.float64).items()}
    x, dynamics = rng.random((1, 10, 10, 1)), DiscreteTime(network, hard_sigmoid)
    found = relax(dynamics, theta, x, None, 2000, schedule=Alternating(tol=1e-4))
    assert found.converged
    for a, b in zip(step(dynamics, theta, x, found.state), found.state, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=1e-3)


def as_published(name: str, scale: float = 1.0) -> tuple[Dynamics, Theta, Array]:
    """Return a preset's dynamics at its own sizes, an initial θ in float64, and inputs as dark as MNIST."""
    dynamics = EXPERIMENTS[name].build((28, 28), 10)
    rng = np.random.default_rng(0)
    theta = {name: scale * value for name, value in dynamics.network.init(rng, np.float64).items()}
    return dynamics, theta, rng.uniform(size=(3, 784)) * (rng.uniform(size=(3, 784)) < 0.2)


@pytest.mark.parametrize("name", ["p-1h", "p-2h", "p-3h", "eb-1h", "eb-2h"])
@pytest.mark.parametrize("scale", [0.5, 1.0])
def test_every_preset_has_the_same_steady_state_with_both_schedules(name: str, scale: float) -> None:
    """With its own sizes, ω and ε. A residual of 1e-9 leaves a distance below 1e-6 at this contraction."""
    dynamics, theta, x = as_published(name, scale)
    synchronous = relax(dynamics, theta, x, None, 5000, schedule=Synchronous(1e-9))
    assert synchronous.converged
    for omega in (1.0, EXPERIMENTS[name].phases.schedule.omega, 1.4):
        fast = relax(dynamics, theta, x, None, 5000, schedule=Alternating(omega, 1e-9))
        assert fast.converged
        assert_same(fast.state, synchronous.state, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["p-1h", "p-2h", "p-3h"])
def test_a_sweep_contracts_as_two_synchronous_steps(name: str) -> None:
    """From the same start, the same residual after half the steps."""
    dynamics, theta, x = as_published(name)
    synchronous, alternating = (
        relax(dynamics, theta, x, None, 500, schedule=schedule).steps
        for schedule in (Synchronous(1e-12), Alternating(tol=1e-12))
    )
    assert 0.45 < alternating / synchronous < 0.56


def test_a_graph_with_an_odd_cycle_needs_the_synchronous_schedule(rng: np.random.Generator) -> None:
    shapes = ((3,), (4,), (2,), (2,))
    pairs = ((0, 1), (1, 2), (1, 3), (2, 3))
    network = Network(shapes, tuple(Dense(a, b, shapes[a], shapes[b]) for a, b in pairs))
    theta, x = weak(network, rng)
    for dynamics in each_dynamics(network):
        found = relax(dynamics, theta, x, None, 1000, schedule=Synchronous(STEADY))
        assert found.converged
        assert_same(step(dynamics, theta, x, found.state), found.state, **CLOSE)
        with pytest.raises(ValueError, match=r"cycle of odd length: use the schedule Synchronous\(\)"):
            relax(dynamics, theta, x)


# ---- the schedules as objects


def test_how_many_steps_a_schedule_takes_for_so_many_synchronous_ones() -> None:
    assert [Synchronous().steps(n) for n in range(4)] == [0, 1, 2, 3]
    assert [Alternating(1.4).steps(n) for n in range(6)] == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("omega", [0.5, 1.0, 1.4])
def test_the_schedule_of_a_nudged_phase(omega: float) -> None:
    """Its tolerance is ``nudged_tol``. ω is kept in real time, and in discrete time it is 1."""
    network = NETWORKS["chain"]
    for dynamics in each_dynamics(network):
        assert Synchronous(1e-3).for_nudged_phase(dynamics) == Synchronous(0.0)
        expected = omega if isinstance(dynamics, RealTime) else 1.0
        assert Alternating(omega, 1e-3).for_nudged_phase(dynamics) == Alternating(expected, 0.0)
        each = Alternating(omega, 1e-3, 0.02, per_sample=True).for_nudged_phase(dynamics)
        assert each == replace(each, omega=expected, tol=0.02, per_sample=True)


def test_over_relaxation_of_a_nudged_discrete_phase_oscillates(rng: np.random.Generator) -> None:
    """The reason why `for_nudged_phase` drops ω: with β = 1 the output's own derivative is −1.

    A step s ← c − s with ω > 1 has the derivative 1 − 2ω, whose modulus is above 1.
    """
    network = NETWORKS["one layer"]
    theta, x = weak(network, rng)
    nudge = Nudge(1.0, target(network, 2, rng))
    dynamics = DiscreteTime(network)
    fast = Alternating(1.4, tol=0)
    diverging = relax(dynamics, theta, x, None, 30, nudge=nudge, schedule=fast)
    kept = relax(dynamics, theta, x, None, 30, nudge=nudge, schedule=fast.for_nudged_phase(dynamics))
    assert diverging.residuals[-1] > 1e3 > 10 > kept.residuals[-1]


@pytest.mark.parametrize("omega", [0, 2, -1, 2.5, np.nan, np.inf])
def test_an_omega_out_of_its_range_is_refused(omega: float) -> None:
    with pytest.raises(ValueError, match=f"omega must be between 0 and 2, got {omega}"):
        Alternating(omega)


@pytest.mark.parametrize(
    "kind", [Synchronous, Alternating, lambda tol: Alternating(nudged_tol=tol)], ids=["s", "a", "nudged"]
)
@pytest.mark.parametrize("tol", [-1e-9, np.nan, np.inf])
def test_a_tolerance_out_of_its_range_is_refused(kind: type, tol: float) -> None:
    with pytest.raises(ValueError, match=f"tol must be a finite number from 0, got {tol}"):
        kind(tol=tol)


# ---- the record: residuals and convergence


@given(networks, rngs, any_schedule, st.booleans())
def test_residuals_are_the_largest_changes(
    network: Network, rng: np.random.Generator, schedule: Schedule, nudged: bool
) -> None:
    """Of all layers. In a free alternating phase in discrete time the first group's count |1 − 1/ω| times.

    With ω = 1 they count in full if a layer of the group has switches.
    """
    theta, x, s = draw(network, 2, rng)
    nudge = Nudge(0.5, target(network, 2, rng)) if nudged else None
    for dynamics in each_dynamics(network):
        scale = dict.fromkeys(network.layers, 1.0)
        if isinstance(schedule, Alternating) and isinstance(dynamics, DiscreteTime) and not nudged:
            for group in groups_of(network)[:-1]:
                own = any(c.has_switches and c.pre in group for c in network.connections)
                factor = 1.0 if own and schedule.omega == 1 else abs(1 - 1 / schedule.omega)
                scale |= dict.fromkeys(group, factor)
        found = relax(dynamics, theta, x, s, 4, nudge=nudge, schedule=schedule, trajectory=True)
        for residual, (before, after) in zip(found.residuals, pairwise(found.trajectory), strict=True):
            changes = [np.abs(b - a).max() for a, b in zip(before, after, strict=True)]
            expected = max(scale[n] * changes[n - 1] for n in network.layers)
            assert residual == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("omega", [0.5, 0.8, 1.25, 1.9])
def test_the_residual_of_the_first_group_is_its_distance_to_the_fixed_point(
    omega: float, rng: np.random.Generator
) -> None:
    """In discrete time, while the other layers stay. Here the output stays, because no weight reaches it."""
    network = NETWORKS["chain"]
    theta, x, (hidden, _) = draw(network, 2, rng)
    theta["w1-2"][:] = 0
    dynamics = DiscreteTime(network)
    output = np.broadcast_to(sigmoid.value(theta["b2"]), (2, 3)).copy()
    fixed, _ = step(dynamics, theta, x, (hidden, output))
    found = relax(dynamics, theta, x, (hidden, output), 1, schedule=Alternating(omega, tol=0))
    assert_same(found.state[1:], (output,), **CLOSE)
    assert found.residuals[0] == pytest.approx(abs(found.state[0] - fixed).max(), rel=1e-12)


@schedules
def test_a_layer_without_change_does_not_hide_another(schedule: Schedule, rng: np.random.Generator) -> None:
    """An output that stays at 0 from the first step says nothing about a hidden layer that still moves.

    With a nudge, a hidden layer that stays at 0 says nothing about the output.
    """
    schedule = replace(schedule, tol=1e-9)
    network = NETWORKS["chain"]
    theta, x = weak(network, rng)
    theta["b1"][:], theta["b2"][:] = 0.5, -9
    for dynamics in each_dynamics(network, hard_sigmoid)[:2]:
        found = relax(dynamics, theta, x, None, 500, schedule=schedule)
        assert found.converged
        assert not found.state[1].any()
        assert_same(step(dynamics, theta, x, found.state), found.state, rtol=0, atol=1e-8)
    theta["b1"][:], theta["b2"][:] = -9, 0.5
    for dynamics in each_dynamics(network, hard_sigmoid)[:2]:
        nudge = Nudge(0.3, target(network, 2, rng))
        found = relax(dynamics, theta, x, None, 500, nudge=nudge, schedule=schedule)
        assert found.converged
        assert not found.state[0].any()
        assert_same(step(dynamics, theta, x, found.state, nudge), found.state, rtol=0, atol=1e-8)


@schedules
@pytest.mark.parametrize("nudged", [False, True], ids=["free", "nudged"])
def test_it_stops_at_the_first_residual_within_the_tolerance(
    schedule: Schedule, nudged: bool, rng: np.random.Generator
) -> None:
    network = NETWORKS["long chain"]
    theta, x = weak(network, rng)
    nudge = Nudge(0.1, target(network, 2, rng)) if nudged else None
    for dynamics in each_dynamics(network):
        everything = relax(dynamics, theta, x, None, 60, nudge=nudge, schedule=schedule, trajectory=True)
        tol = everything.residuals[7]
        found = relax(
            dynamics, theta, x, None, 60, nudge=nudge, schedule=replace(schedule, tol=tol), trajectory=True
        )
        first = next(k for k, residual in enumerate(everything.residuals) if residual <= tol) + 1
        assert found.converged
        assert found.steps == first <= 8
        assert found.residuals == everything.residuals[:first]
        assert_same(found.state, everything.trajectory[first])


@schedules
def test_converged_says_whether_the_last_residual_is_within_the_tolerance(
    schedule: Schedule, rng: np.random.Generator
) -> None:
    """Without a tolerance, only a state that no longer moves at all has converged."""
    network = NETWORKS["chain"]
    theta, x = weak(network, rng)
    dynamics = DiscreteTime(network)

    def converged(steps: int, tol: float) -> bool:
        return relax(dynamics, theta, x, None, steps, schedule=replace(schedule, tol=tol)).converged

    assert not converged(2, 1e-9)
    assert converged(50, 1e-9) is True
    assert not converged(2, 0.0)
    assert not converged(0, 1e-9)
    assert converged(200, 0.0)


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Alternating(tol=0, per_sample=True)], ids=repr)
def test_without_a_tolerance_every_step_is_taken(schedule: Schedule, rng: np.random.Generator) -> None:
    theta, x = weak(NETWORKS["chain"], rng)
    found = relax(DiscreteTime(NETWORKS["chain"]), theta, x, None, 200, schedule=schedule)
    assert found.steps == len(found.residuals) == 200
    assert found.residuals[-1] == 0
    assert found.converged


def test_the_default_schedule_alternates_to_a_residual_of_a_thousandth(rng: np.random.Generator) -> None:
    network = NETWORKS["long chain"]
    theta, x = weak(network, rng)
    for dynamics in each_dynamics(network):
        found = relax(dynamics, theta, x)
        expected = relax(dynamics, theta, x, None, 100, schedule=Alternating(omega=1.0, tol=1e-3))
        assert found.residuals == expected.residuals
        assert_same(found.state, expected.state)
        assert found.converged and found.residuals[-1] <= 1e-3 < found.residuals[-2]


# ---- a state with NaN has not converged

LOOSE = 1e300
"""A tolerance that every finite residual is within."""


@schedules
@pytest.mark.parametrize("nudged", [False, True], ids=["free", "nudged"])
@pytest.mark.parametrize("name", NETWORKS)
def test_nan_in_any_layer_is_not_convergence(
    name: str, nudged: bool, schedule: Schedule, rng: np.random.Generator
) -> None:
    """NaN in one neuron or channel of a layer at each step.

    `relax` refuses such a θ, so `settle` is called, which does not check.
    """
    network, schedule = NETWORKS[name], replace(schedule, tol=LOOSE)
    theta, x, s = draw(network, 2, rng)
    nudge = Nudge(0.5, target(network, 2, rng)) if nudged else None
    for dynamics in each_dynamics(network):
        assert settle(dynamics, theta, network.input_drive(theta, x), s, 3, schedule, nudge=nudge).converged
        for n in network.layers:
            with_nan = theta | {f"b{n}": theta[f"b{n}"].copy()}
            with_nan[f"b{n}"][-1] = np.nan
            static = network.input_drive(with_nan, x)
            for start in (s, None):
                found = settle(dynamics, with_nan, static, start, 3, schedule, nudge=nudge)
                assert found.converged is False, f"b{n}"
                assert found.steps == 3, f"b{n}: a residual without the NaN stopped the phase"


@pytest.mark.parametrize("schedule", [*SCHEDULES.values(), Alternating(per_sample=True)], ids=repr)
@pytest.mark.parametrize("name", NETWORKS)
def test_nan_in_one_neuron_of_one_sample_is_not_convergence(
    name: str, schedule: Schedule, rng: np.random.Generator
) -> None:
    """In real time it stays, because a layer keeps its state."""
    network, schedule = NETWORKS[name], replace(schedule, tol=LOOSE)
    theta, x, s = draw(network, 2, rng)
    static = network.input_drive(theta, x)
    for dynamics in each_dynamics(network)[1:]:
        for n, value in enumerate(s):
            with_nan = value.copy()
            with_nan[-1].flat[-1] = np.nan
            found = settle(dynamics, theta, static, (*s[:n], with_nan, *s[n + 1 :]), 2, schedule)
            assert found.converged is False, f"layer {n + 1}"
            assert found.steps == 2 and np.isnan(found.residuals).all(), f"layer {n + 1}"


@schedules
def test_nan_in_a_layer_that_the_residual_leaves_out_is_not_convergence(
    schedule: Schedule, rng: np.random.Generator
) -> None:
    """Layer 1 is in the first group, and no connection leads from it to another layer."""
    shapes = ((3,), (2,), (4,), (2,))
    pairs = ((0, 1), (0, 2), (2, 3))
    network = Network(shapes, tuple(Dense(a, b, shapes[a], shapes[b]) for a, b in pairs))
    theta, x = weak(network, rng)
    theta["b1"][0] = np.nan
    static = network.input_drive(theta, x)
    for dynamics in each_dynamics(network):
        found = settle(dynamics, theta, static, None, 50, replace(schedule, tol=LOOSE))
        assert found.converged is False
        assert np.isnan(found.state[0]).any()


@pytest.mark.parametrize("schedule", [Synchronous(LOOSE), Alternating(tol=LOOSE)], ids=repr)
def test_a_step_away_from_nan_is_not_convergence_and_the_next_one_can_be(
    schedule: Schedule, rng: np.random.Generator
) -> None:
    """In discrete time a single layer does not keep its state: the state is finite, and the residual NaN."""
    network = NETWORKS["one layer"]
    theta, x, (s,) = draw(network, 2, rng)
    s[0, 0] = np.nan
    one, two = (
        settle(DiscreteTime(network), theta, network.input_drive(theta, x), (s,), steps, schedule)
        for steps in (1, 2)
    )
    assert np.isfinite(one.state[0]).all() and np.isnan(one.residuals[0])
    assert one.converged is False
    assert two.converged is True and two.steps == 2


@schedules
def test_an_overflow_of_finite_arguments_is_not_convergence(schedule: Schedule) -> None:
    """∞ − ∞ in the drive of layer 1, which the checks of `relax` cannot see.

    The two come from different connections, because BLAS need not add within a product in order.
    """
    network = chain([4, 5, 3])
    network = Network(network.shapes, (*network.connections, Dense(0, 1, (4,), (5,), "second")))
    theta = {name: np.zeros(shape) for name, shape in network.parameter_shapes.items()}
    theta |= {"w0-1": np.full((4, 5), 1e200), "second": np.full((4, 5), -1e200)}
    x = np.full((1, 4), 1e200)
    for dynamics in each_dynamics(network):
        with np.errstate(over="ignore", invalid="ignore"):
            found = relax(dynamics, theta, x, schedule=replace(schedule, tol=1e-3))
        assert found.converged is False
        assert found.steps == 100


def test_an_infinite_state_has_not_converged(rng: np.random.Generator) -> None:
    """With an activation without bounds the state can diverge. Then the residual is ∞ or ∞ − ∞ = NaN."""
    double = Activation("double", lambda a: 2 * a, lambda a: np.full_like(a, 2), np.zeros_like)
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    for schedule in (Synchronous(), Alternating(tol=0)):
        with np.errstate(over="ignore", invalid="ignore"):
            found = relax(DiscreteTime(network, double), theta, x, s, 3000, schedule=schedule)
        assert not np.isfinite(found.state[0]).all()
        assert found.converged is False


# ---- the record: activities, switches, trajectory


@pytest.mark.parametrize("name", ["two conv", "three conv, two dense"])
@pytest.mark.parametrize("beta", [None, 0.7])
@schedules
def test_switches_between_free_layers_belong_to_the_last_state(
    name: str, beta: float | None, schedule: Schedule, rng: np.random.Generator
) -> None:
    """The state still moves, so that the switches of an earlier state are others."""
    network = NETWORKS[name]
    for _ in range(5):
        theta, x, s = draw(network, 3, rng)
        nudge = None if beta is None else Nudge(beta, target(network, 3, rng))
        for dynamics in (DiscreteTime(network, tanh), RealTime(network, tanh, 0.5, clamp=False)):
            for steps in (1, 2):
                found = relax(dynamics, theta, x, s, steps, nudge=nudge, schedule=schedule)
                for key, switches in network.find_switches(theta, found.activities).items():
                    np.testing.assert_array_equal(found.switches[key], switches, err_msg=key)


@given(networks, rngs, any_schedule, st.integers(0, 3), st.booleans())
def test_switches_and_activities_belong_to_the_state(
    network: Network, rng: np.random.Generator, schedule: Schedule, steps: int, nudged: bool
) -> None:
    """To the last state, whichever group moved last, and also after 0 steps."""
    theta, x, s = draw(network, 2, rng)
    nudge = Nudge(0.5, target(network, 2, rng)) if nudged else None
    for dynamics in each_dynamics(network):
        found = relax(dynamics, theta, x, s, steps, nudge=nudge, schedule=schedule)
        assert found.activities[0] is x
        assert_same(found.activities[1:], tuple(dynamics.activity(value) for value in found.state))
        expected = network.find_switches(theta, found.activities)
        for name, switches in expected.items():
            np.testing.assert_array_equal(found.switches[name], switches, err_msg=name)
        assert {name for name, value in found.switches.items() if value is not None} == expected.keys()
        assert found.snapshot.activities is found.activities
        assert found.snapshot.switches is found.switches
        assert_same(found.snapshot.activities, snapshot(dynamics, theta, x, found.state).activities)


# ---- each sample stops by itself


@given(networks, activations, rngs, st.integers(0, 12), st.sampled_from([None, -0.3, 0.6]))
def test_per_sample_each_sample_moves_as_in_a_batch_of_its_own(
    network: Network, sigma: Activation, rng: np.random.Generator, steps: int, beta: float | None
) -> None:
    """Also if the steps run out for some. The batches differ in the rounding of their products only."""
    theta, x, s = draw(network, 4, rng)
    theta = {name: 0.3 * value for name, value in theta.items()}
    y = target(network, 4, rng)
    batch = Alternating(tol=0.02)
    for dynamics in each_dynamics(network, sigma):

        def moved(samples: slice, schedule: Alternating, dynamics: Dynamics = dynamics) -> Relaxation:
            nudge = None if beta is None else Nudge(beta, y[samples])
            start = tuple(value[samples] for value in s)
            return relax(dynamics, theta, x[samples], start, steps, nudge=nudge, schedule=schedule)

        together = moved(slice(None), replace(batch, per_sample=True))
        single = [moved(slice(k, k + 1), batch) for k in range(4)]
        assert together.steps == max(found.steps for found in single)
        assert together.converged == all(found.converged for found in single)
        for k, residual in enumerate(together.residuals):
            moving = [found.residuals[k] for found in single if found.steps > k]
            assert residual == pytest.approx(max(moving), rel=1e-9, abs=1e-12)
        for k, found in enumerate(single):
            for a, b in zip(together.state, found.state, strict=True):
                np.testing.assert_allclose(a[k : k + 1], b, rtol=0, atol=1e-12)
            for a, b in zip(together.activities, found.activities, strict=True):
                np.testing.assert_allclose(a[k : k + 1], b, rtol=0, atol=1e-12)
            for name, switches in found.switches.items():
                if switches is not None:
                    np.testing.assert_array_equal(together.switches[name][k : k + 1], switches)


@pytest.mark.parametrize("make", [DiscreteTime, RealTime])
def test_per_sample_the_samples_stop_at_different_steps(
    make: Callable[[Network], Dynamics], rng: np.random.Generator
) -> None:
    """Otherwise the test above would not tell the two ways to stop apart."""
    network = NETWORKS["two conv"]
    theta, x, _ = draw(network, 6, rng)
    dynamics, schedule = make(network), Alternating(tol=1e-3, per_sample=True)
    x[0] = 0  # this one has less to do
    single = [relax(dynamics, theta, x[k : k + 1], schedule=schedule).steps for k in range(6)]
    assert len(set(single)) > 1
    whole = relax(dynamics, theta, x, schedule=replace(schedule, per_sample=False))
    each = relax(dynamics, theta, x, schedule=schedule)
    assert whole.steps == each.steps == max(single)
    quick = single.index(min(single))
    assert np.abs(whole.state[-1][quick] - each.state[-1][quick]).max() > 0
    assert_same(each.activities[1:], tuple(dynamics.activity(value) for value in each.state))


def test_per_sample_the_order_of_the_batch_does_not_matter(rng: np.random.Generator) -> None:
    network = NETWORKS["two conv"]
    theta, x, _ = draw(network, 5, rng)
    schedule, order = Alternating(tol=1e-3, per_sample=True), rng.permutation(5)
    found = relax(DiscreteTime(network), theta, x, schedule=schedule)
    shuffled = relax(DiscreteTime(network), theta, x[order], schedule=schedule)
    for a, b in zip(found.state, shuffled.state, strict=True):
        np.testing.assert_allclose(a[order], b, rtol=0, atol=1e-12)


def test_per_sample_has_no_trajectory(rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, _ = draw(network, 2, rng)
    with pytest.raises(ValueError, match="no trajectory of the batch with per_sample=True"):
        relax(DiscreteTime(network), theta, x, schedule=Alternating(per_sample=True), trajectory=True)
    with pytest.raises(TypeError, match="per_sample must be True or False"):
        Alternating(per_sample="yes")


@given(networks, rngs, any_schedule)
def test_the_trajectory_holds_every_state_and_only_on_demand(
    network: Network, rng: np.random.Generator, schedule: Schedule
) -> None:
    theta, x, s = draw(network, 2, rng)
    dynamics = DiscreteTime(network)
    assert relax(dynamics, theta, x, s, 3, schedule=schedule).trajectory == ()
    found = relax(dynamics, theta, x, s, 3, schedule=schedule, trajectory=True)
    assert len(found.trajectory) == 4
    for k, state in enumerate(found.trajectory):
        assert_same(state, relax(dynamics, theta, x, s, k, schedule=schedule).state)


def test_the_text_of_a_relaxation_says_whether_it_converged(rng: np.random.Generator) -> None:
    theta, x = weak(NETWORKS["chain"], rng)
    dynamics = DiscreteTime(NETWORKS["chain"])
    assert repr(relax(dynamics, theta, x)).startswith("<Relaxation: converged after ")
    none = relax(dynamics, theta, x, steps=0)
    assert repr(none) == "<Relaxation: not converged after 0 steps; state (2, 5), (2, 3)>"


# ---- arguments


@given(networks, rngs, any_schedule)
def test_a_shared_input_drive_and_known_switches_change_nothing(
    network: Network, rng: np.random.Generator, schedule: Schedule
) -> None:
    theta, x, _ = draw(network, 2, rng)
    nudge = Nudge(0.5, target(network, 2, rng))
    for dynamics in each_dynamics(network):
        static = network.input_drive(theta, x)
        free = settle(dynamics, theta, static, None, 3, schedule)
        assert_same(free.state, relax(dynamics, theta, x, None, 3, schedule=schedule).state)
        knowing = settle(
            dynamics, theta, static, free.state, 3, schedule, nudge=nudge, switches=free.switches
        )
        expected = relax(dynamics, theta, x, free.state, 3, nudge=nudge, schedule=schedule)
        assert_same(knowing.state, expected.state)
        assert knowing.residuals == expected.residuals
        for name, switches in expected.switches.items():
            np.testing.assert_array_equal(knowing.switches[name], switches, err_msg=name)


@given(networks, activations, rngs, any_schedule)
def test_arguments_are_only_read(
    network: Network, sigma: Activation, rng: np.random.Generator, schedule: Schedule
) -> None:
    theta, x, s = draw(network, 2, rng)
    static = network.input_drive(theta, x)
    y = target(network, 2, rng)
    for dynamics in each_dynamics(network, sigma):
        switches = snapshot(dynamics, theta, x, s).switches
        kept = dict(switches)
        for a in (*theta.values(), x, y, *s, *static.drives.values(), *switches.values()):
            a.flags.writeable = False
        for nudge in (None, Nudge(0.5, y)):
            for steps in (0, 2):
                found = settle(dynamics, theta, static, s, steps, schedule, nudge=nudge, switches=switches)
                assert switches.keys() == kept.keys()
                assert all(switches[name] is kept[name] for name in switches)
            assert not any(np.shares_memory(a, b) for a, b in zip(found.state, s, strict=True))
            again = relax(dynamics, theta, x, s, 2, nudge=nudge, schedule=schedule)
            assert_same(again.state, found.state)


def test_none_starts_at_zero(rng: np.random.Generator) -> None:
    network = NETWORKS["two conv"]
    theta, x, _ = draw(network, 2, rng)
    dynamics = DiscreteTime(network)
    zeros = network.zeros(2, x.dtype)
    assert_same(relax(dynamics, theta, x, None, 3).state, relax(dynamics, theta, x, zeros, 3).state)


@given(networks, activations, rngs, any_schedule)
def test_float32_stays_float32(
    network: Network, sigma: Activation, rng: np.random.Generator, schedule: Schedule
) -> None:
    theta, x, _ = draw(network, 2, rng)
    theta, x = {name: value.astype(np.float32) for name, value in theta.items()}, x.astype(np.float32)
    nudge = Nudge(0.5, target(network, 2, rng))  # a float64 target does not change the dtype
    for dynamics in each_dynamics(network, sigma):
        found = relax(dynamics, theta, x, None, 2, nudge=nudge, schedule=schedule)
        assert {value.dtype for value in (*found.state, *found.activities)} == {np.dtype(np.float32)}


@schedules
@pytest.mark.parametrize("sigma", [tanh, sigmoid], ids=["tanh", "sigmoid"])
@pytest.mark.parametrize("name", ["one layer", "chain", "long chain", "skip", "conv and dense"])
def test_complex_numbers_pass_through_a_phase(
    name: str, sigma: Activation, schedule: Schedule, rng: np.random.Generator
) -> None:
    """The imaginary part of a state at θ + ih d is h ∂s/∂θ · d, so it follows the central difference."""
    network = NETWORKS[name]
    theta = network.init(rng, np.float64)
    x = rng.uniform(size=(2, *network.shapes[0]))
    direction = {name: rng.standard_normal(value.shape) for name, value in theta.items()}
    nudge = Nudge(0.4, target(network, 2, rng))

    for dynamics in (DiscreteTime(network, sigma), RealTime(network, sigma, 0.3, clamp=False)):

        def state(h: complex, dynamics: Dynamics = dynamics) -> tuple[Array, ...]:
            at = {name: value + h * direction[name] for name, value in theta.items()}
            return relax(dynamics, at, x, None, 4, nudge=nudge, schedule=schedule).state

        found = tuple(value.imag / 1e-30 for value in state(1e-30j))
        expected = tuple((a - b) / 2e-5 for a, b in zip(state(1e-5), state(-1e-5), strict=True))
        assert_same(found, expected, rtol=0, atol=1e-6)  # h² f‴/6, after four steps


@schedules
def test_complex_numbers_are_refused_by_clamping(schedule: Schedule, rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    with pytest.raises(TypeError, match="clamping is not analytic"):
        relax(RealTime(network), theta, x, tuple(value + 0j for value in s), schedule=schedule)


@pytest.mark.parametrize("steps", [-1, 2.0, "3", True, None])
def test_a_number_of_steps_that_is_none_is_refused(steps: object, rng: np.random.Generator) -> None:
    theta, x = weak(NETWORKS["chain"], rng)
    with pytest.raises(ValueError, match="steps must be a non-negative integer, got"):
        relax(DiscreteTime(NETWORKS["chain"]), theta, x, None, steps)


def test_steps_may_be_a_numpy_integer(rng: np.random.Generator) -> None:
    theta, x = weak(NETWORKS["chain"], rng)
    found = relax(DiscreteTime(NETWORKS["chain"]), theta, x, None, np.int64(3), schedule=Synchronous())
    assert found.steps == 3


@pytest.mark.parametrize("schedule", ["alternating", Alternating, 1e-3])
def test_what_is_not_a_schedule_is_refused(schedule: object, rng: np.random.Generator) -> None:
    theta, x = weak(NETWORKS["chain"], rng)
    with pytest.raises(
        TypeError, match=r"schedule must be Synchronous\(\.\.\.\) or Alternating\(\.\.\.\), got"
    ):
        relax(DiscreteTime(NETWORKS["chain"]), theta, x, schedule=schedule)


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda theta, x, s: (theta, x[:, :2], s), "x must have shape"),
        (lambda theta, x, s: (theta, x * np.nan, s), "x must be finite"),
        (lambda theta, x, s: (theta, x, s[:1]), "the state must be a tuple of 2 arrays"),
        (lambda theta, x, s: (theta, x, (s[1], s[0])), "layer 1 of the state must have shape"),
        (lambda theta, x, s: (theta | {"b3": x}, x, s), "theta must have the parameters"),
        (lambda theta, x, s: (theta | {"b1": theta["b2"]}, x, s), r"theta\['b1'\] must have shape"),
    ],
    ids=["x", "NaN in x", "too few layers", "layers exchanged", "unknown parameter", "shape in theta"],
)
def test_a_batch_that_does_not_fit_is_refused(
    change: Callable, message: str, rng: np.random.Generator
) -> None:
    network = NETWORKS["chain"]
    theta, x, s = change(*draw(network, 2, rng))
    with pytest.raises(ValueError, match=message):
        relax(DiscreteTime(network), theta, x, s)


def test_a_target_that_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    with pytest.raises(ValueError, match="labels must be one-hot"):
        relax(DiscreteTime(network), theta, x, s, nudge=Nudge(0.5, np.array([0, 1])))
