"""Tests of Theorem 1, Eq. (8): the order with which the distance between Δ and −∇ decreases with β.

EP and BPTT share only the code of the drives. They agree to 9 digits, with the orders that the correct
derivatives give. A wrong sign, index or factor would leave a distance of order 1 at every β.
"""

import math
import re
import warnings
from dataclasses import replace

import numpy as np
import pytest

from eqprop_np.activations import Activation, hard_sigmoid, sigmoid, tanh
from eqprop_np.connections import Dense
from eqprop_np.costs import squared_error
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime
from eqprop_np.experiments import systems
from eqprop_np.experiments.systems import SYSTEMS, Run, System, measure
from eqprop_np.network import Network, chain
from eqprop_np.relaxation import Alternating, Synchronous, relax
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import Phases
from eqprop_np.rules.vector_field import angle_between
from eqprop_np.theorem import (
    Comparison,
    Moment,
    NotConverged,
    compare,
    first_phase,
    gradients,
    order,
    updates,
)

ONE_SIDED = [Run(beta) for beta in (1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7)]
CENTRED = [Run(beta, centered=True) for beta in (1e-1, 1e-2, 1e-3, 1e-4, 1e-5)]
DEEP = chain([6, 8, 7, 4])
identity = Activation("identity", lambda a: a, np.ones_like, np.zeros_like)


def slope(runs: list[Run], comparisons: list[Comparison]) -> tuple[float, float]:
    """Return the orders in s and θ over the first four runs, that is over three decades of β."""
    betas = [run.beta for run in runs[:4]]
    return tuple(
        order(betas, [getattr(c, name) for c in comparisons[:4]]) for name in ("distance_s", "distance_theta")
    )


# ---- where the conditions of the theorem hold


@pytest.mark.parametrize("seed", [0, 1])
def test_on_the_toy_model_updates_are_gradients_to_first_and_second_order(seed: int) -> None:
    one_sided = measure(SYSTEMS["toy"], ONE_SIDED, seed)
    centred = measure(SYSTEMS["toy"], CENTRED, seed)
    assert slope(ONE_SIDED, one_sided) == pytest.approx((1, 1), abs=0.05)
    assert slope(CENTRED, centred) == pytest.approx((2, 2), abs=0.05)
    # Measured: 1e-7 and 4e-10. Below, the rounding error divided by β exceeds the bias in β.
    assert min(c.distance_theta for c in one_sided) < 1e-6
    assert min(c.distance_theta for c in centred) < 2e-9
    assert one_sided[-1].angle_theta < 1e-4
    for name in one_sided[2].errors:  # at β = 1e-4, each layer and parameter by itself
        assert one_sided[2].distance(name) < 5e-4


def test_on_eb_1h_the_orders_are_the_same() -> None:
    system = replace(SYSTEMS["eb-1h"], steps=15)  # instead of 80: the later ones contribute little
    runs = [Run(1e-2), Run(1e-5), Run(1e-1, centered=True), Run(1e-4, centered=True)]
    comparisons = measure(system, runs, 0)
    for pair, expected in ((slice(0, 2), 1), (slice(2, 4), 2)):
        orders = slope(runs[pair], comparisons[pair])
        assert orders == pytest.approx((expected, expected), abs=0.05)


def test_the_clamp_of_training_changes_nothing_in_theta() -> None:
    """A clamped neuron does not move and passes no gradient on. Only its own ∇_s differs."""
    system = System(RealTime(DEEP, sigmoid, 0.2), steps=25, beta=0.1, batch=3)
    theta, x, _ = system.draw(0)
    states = first_phase(system.dynamics, theta, x, 1).state
    assert any(np.any(s == 0) for s in states)
    comparisons = measure(system, ONE_SIDED, 0)
    assert slope(ONE_SIDED, comparisons)[1] == pytest.approx(1, abs=0.05)
    assert comparisons[4].distance_theta < 1e-5
    assert comparisons[4].distance_s > 0.1


# ---- discrete time: the factor σ′ of the output, and no other difference


def discrete(sigma: Activation) -> System:
    """Return a system with three layers in discrete time."""
    return System(DiscreteTime(DEEP, sigma), steps=20, beta=0.01, batch=3)


@pytest.mark.parametrize("sigma", [tanh, sigmoid], ids=lambda sigma: sigma.name)
def test_in_discrete_time_a_distance_remains_and_it_is_the_outputs_slope(sigma: Activation) -> None:
    system = discrete(sigma)
    plain = measure(system, ONE_SIDED[:4], 0)
    assert slope(ONE_SIDED, plain) == pytest.approx((0, 0), abs=0.1)
    assert plain[-1].distance_theta > 0.03
    # BPTT's gradients in the drives equal EP's updates if they begin as EP does, without the output's σ′.
    one_sided = measure(system, ONE_SIDED, 0, drives=True)
    centred = measure(system, CENTRED, 0, drives=True)
    assert slope(ONE_SIDED, one_sided) == pytest.approx((1, 1), abs=0.05)
    assert slope(CENTRED, centred) == pytest.approx((2, 2), abs=0.05)
    assert min(c.distance_theta for c in one_sided) < 1e-6
    assert min(c.distance_theta for c in centred) < 2e-9
    assert min(c.distance_s for c in centred) < 5e-9


def test_in_discrete_time_with_no_activation_nothing_is_missing() -> None:
    """For σ the identity, F is ∂Φ/∂s. With small weights it converges."""
    system = discrete(identity)
    dynamics, (theta, x, y) = system.dynamics, system.draw(0)
    theta = {name: value / 2 for name, value in theta.items()}
    rest = first_phase(dynamics, theta, x, system.steps)
    processes = (updates(dynamics, theta, x, y, rest, run.beta) for run in ONE_SIDED)
    comparisons = compare(gradients(dynamics, theta, x, y, rest), *processes)
    assert slope(ONE_SIDED, comparisons) == pytest.approx((1, 1), abs=0.05)
    assert min(c.distance_theta for c in comparisons) < 1e-6
    assert min(c.distance_s for c in comparisons) < 1e-6


def test_with_the_sigmoid_discrete_time_ep_descends_a_quarter_of_the_cross_entropy() -> None:
    """Compare `ep` with finite differences of ℓ̃ at the steady state: ∂ℓ̃/∂ŷ = (ŷ − y)/σ′, σ′ = 4ŷ(1 − ŷ)."""
    dynamics = DiscreteTime(DEEP, sigmoid)
    theta, x, y = discrete(sigmoid).draw(0)
    rng = np.random.default_rng(1)
    direction = {name: rng.standard_normal(value.shape) for name, value in theta.items()}

    def loss(h: float) -> float:
        moved = {name: value + h * direction[name] for name, value in theta.items()}
        (*_, out) = relax(dynamics, moved, x, None, 500, schedule=Alternating(tol=1e-15)).state
        return -(y * np.log(out) + (1 - y) * np.log(1 - out)).sum(axis=1).mean() / 4

    phases = Phases(500, 200, 1e-4, estimate="centered", schedule=Alternating(tol=1e-15))
    gradient = ep(dynamics, theta, x, y, phases).gradient
    product = sum((gradient[name] * direction[name]).sum() for name in theta)
    assert product == pytest.approx((loss(1e-5) - loss(-1e-5)) / 2e-5, rel=1e-6)


def test_the_discrete_cnn_obeys_it_in_theta_unless_a_wrong_output_is_saturated() -> None:
    """The slope of a hard sigmoid is 1 or 0. In two of ten draws the output of the target was saturated."""
    system = SYSTEMS["conv"]
    for seed, saturated in ((0, False), (7, True)):
        theta, x, y = system.draw(seed)
        rest = first_phase(system.dynamics, theta, x, system.steps)
        output = rest.state[-1]
        assert np.any((output == 0) & (y == 1)) == saturated
        runs = [Run(1e-3), Run(1e-5)]
        plain = measure(system, runs, seed)
        drives = measure(system, runs, seed, drives=True)
        assert slope(runs, drives) == pytest.approx((1, 1), abs=0.05)
        if saturated:
            assert plain[1].distance_theta > 1
        else:
            assert plain[1].distance_theta == pytest.approx(drives[1].distance_theta, rel=0.05)


# ---- the processes


def small(dynamics: Dynamics | None = None) -> tuple:
    """Return dynamics (by default the toy model), θ, x, y and a converged first phase."""
    system = System(dynamics or SYSTEMS["toy"].dynamics, steps=12, beta=0.01, batch=3)
    theta, x, y = system.draw(0)
    return system.dynamics, theta, x, y, first_phase(system.dynamics, theta, x, system.steps)


@pytest.mark.parametrize("dynamics", [SYSTEMS["toy"].dynamics, DiscreteTime(DEEP, tanh)])
def test_the_updates_begin_with_the_nudge_and_add_up_to_equation_2(dynamics: Dynamics) -> None:
    dynamics, theta, x, y, rest = small(dynamics)
    beta = 0.01
    process = list(updates(dynamics, theta, x, y, rest, beta))
    assert len(process) == rest.steps
    *hidden, output = process[0].state
    assert not np.any([value.any() for value in hidden if np.abs(value).max() > 1e-12])
    np.testing.assert_allclose(output, -squared_error.derivative(rest.state[-1], y), atol=1e-12)
    nudged = relax(dynamics, theta, x, rest.state, rest.steps, nudge=Nudge(beta, y), schedule=Synchronous())
    here, there = (dynamics.network.dphi_dtheta(theta, x, r.activities[1:]) for r in (rest, nudged))
    for name in theta:
        total = sum(moment.theta[name] for moment in process)
        np.testing.assert_allclose(total, (there[name] - here[name]) / beta, atol=1e-11)


def test_c_ep_departs_from_ep_in_proportion_to_eta_over_beta() -> None:
    """The limits do not commute: at a given η, a smaller β makes the departure larger.

    To first order η changes s by the same amount under β and −β, so this cancels in the centred process.
    """
    dynamics, theta, x, y, rest = small()

    def departure(eta: float, beta: float, centered: bool = False) -> float:
        a, b = (list(updates(dynamics, theta, x, y, rest, beta, eta=e, centered=centered)) for e in (eta, 0))
        return np.sqrt(
            sum(((p.theta[n] - q.theta[n]) ** 2).sum() for p, q in zip(a, b, strict=True) for n in theta)
        )

    assert departure(0, 1e-2) == 0
    etas = [1e-8, 1e-7, 1e-6]
    assert order(etas, [departure(eta, 1e-2) for eta in etas]) == pytest.approx(1, abs=0.02)
    betas = [1e-2, 3e-3, 1e-3]
    assert order(betas, [departure(1e-7, beta) for beta in betas]) == pytest.approx(-1, abs=0.02)
    assert departure(1e-6, 1e-2, centered=True) < 0.05 * departure(1e-6, 1e-2)


def test_c_ep_moves_theta_after_each_step() -> None:
    """Eq. (5), corrected: s_{t+1} is computed with θ_t, and θ_{t+1} = θ_t + η Δ_θ(t)."""
    dynamics, theta, x, y, rest = small()
    beta, eta = 0.01, 1e-4
    process = updates(dynamics, theta, x, y, rest, beta, eta=eta)
    s, given = rest.state, {name: value.copy() for name, value in theta.items()}
    for moment in process:
        new = relax(dynamics, theta, x, s, 1, nudge=Nudge(beta, y), schedule=Synchronous()).state
        for n, delta in enumerate(moment.state):
            np.testing.assert_allclose(delta * beta * dynamics.epsilon, new[n] - s[n], atol=1e-15)
        s, theta = new, {name: theta[name] + eta * moment.theta[name] for name in theta}
    assert any(np.any(theta[name] != given[name]) for name in theta)


def test_a_first_phase_that_still_moves_is_refused() -> None:
    system = SYSTEMS["toy"]
    theta, x, _ = system.draw(0)
    with pytest.raises(
        NotConverged, match=r"changes by .*e-\d+ per step after 50 steps, .* K = 80 steps: allow"
    ):
        first_phase(system.dynamics, theta, x, 80, limit=50)
    rest = first_phase(system.dynamics, theta, x, 80)
    assert rest.steps == 80
    assert len(rest.trajectory) == 81
    assert max(rest.residuals) < 2e-15


def test_a_steady_state_that_synchronous_steps_leave_is_refused() -> None:
    """With a large ε the alternating schedule converges, and the error of synchronous steps grows."""
    dynamics = RealTime(chain([3, 4, 2]), tanh, epsilon=1.4, clamp=False)
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    x = np.random.default_rng(1).random((2, 3))
    settled = relax(dynamics, theta, x, steps=1000, schedule=Alternating(tol=8e-16))
    rest = relax(dynamics, theta, x, settled.state, 400, schedule=Synchronous())
    assert min(rest.residuals) < 1e-15 and max(rest.residuals) > 0.1
    with pytest.raises(NotConverged, match=r"a neuron still changes by .* for K = 400 steps"):
        first_phase(dynamics, theta, x, 400)


def test_a_first_phase_that_overflows_is_refused() -> None:
    """The state becomes infinite and then NaN. A residual of NaN must not count as convergence."""
    explosive = Activation("explosive", lambda a: 1e200 * a, np.ones_like, np.zeros_like)
    dynamics = DiscreteTime(chain([3, 4, 2]), explosive)
    theta, x, _ = System(dynamics, steps=3, beta=0.1).draw(0)
    with (
        np.errstate(all="ignore"),
        pytest.raises(NotConverged, match="after 20 steps the state contains NaN"),
    ):
        first_phase(dynamics, theta, x, 3, limit=20)


def test_parameters_that_are_not_finite_are_refused() -> None:
    system = SYSTEMS["toy"]
    theta, x, _ = system.draw(0)
    theta["b1"] = theta["b1"] * np.nan
    with pytest.raises(ValueError, match=r"'b1'.* must be finite, but it contains NaN"):
        first_phase(system.dynamics, theta, x, 80, limit=50)


def test_gradients_are_those_of_the_last_steps() -> None:
    dynamics, theta, x, y, rest = small()
    process = list(gradients(dynamics, theta, x, y, rest))
    assert len(process) == rest.steps
    np.testing.assert_array_equal(process[0].state[-1], squared_error.derivative(rest.state[-1], y))


# ---- what is measured


def test_gradients_need_synchronous_steps_of_this_theta() -> None:
    """Otherwise ∇_θ is not the gradient of the loss after these steps."""
    system = SYSTEMS["toy"]
    dynamics = system.dynamics
    theta, x, y = system.draw(0)
    for schedule, moved, fits in (
        (Synchronous(), 0.0, True), (Alternating(tol=0), 0.0, False), (Synchronous(), 0.01, False)
    ):  # fmt: skip
        rest = relax(dynamics, theta, x, steps=6, schedule=schedule, trajectory=True)
        other = {name: value + moved for name, value in theta.items()}
        if fits:
            assert len(list(gradients(dynamics, other, x, y, rest))) == 6
            continue
        with pytest.raises(ValueError, match="trajectory of synchronous steps with this theta and x"):
            gradients(dynamics, other, x, y, rest)


def test_a_graph_with_an_odd_cycle_has_a_first_phase() -> None:
    shapes = ((3,), (4,), (4,), (2,))
    pairs = ((0, 1), (1, 2), (1, 3), (2, 3))
    network = Network(shapes, tuple(Dense(a, b, shapes[a], shapes[b]) for a, b in pairs))
    dynamics = DiscreteTime(network, sigmoid)
    theta = {name: 0.3 * value for name, value in network.init(np.random.default_rng(0), np.float64).items()}
    rest = first_phase(dynamics, theta, np.ones((2, 3)), 5)
    assert rest.steps == 5 and max(rest.residuals) < 1e-14


def test_the_first_phase_converges_to_the_precision_of_the_state() -> None:
    """The state is float64 if θ is, also for an input in float32."""
    dynamics = DiscreteTime(DEEP, tanh)
    theta = {name: 0.5 * value for name, value in DEEP.init(np.random.default_rng(0), np.float64).items()}
    x = np.ones((1, *DEEP.shapes[0]), np.float32)
    assert max(first_phase(dynamics, theta, x, 3).residuals) < 1e-14


@pytest.mark.parametrize(
    "betas, distances, words",
    [
        ([0.1], [0.2], "two or more numbers"),
        ([0.1, 0.2], [0.2], "two or more numbers"),
        ([-0.1, 0.2], [0.2, 0.3], "positive and finite"),
        ([0.1, 0.2], [0.0, 0.3], "positive and finite"),
        ([0.1, 0.2], [np.nan, 0.3], "positive and finite"),
    ],
)
def test_an_order_needs_two_positive_points(betas: list, distances: list, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        order(betas, distances)


def test_nothing_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one t to compare, got none"):
        compare([], [])


def test_distance_and_angle_of_known_processes() -> None:
    a, b = np.array([3.0, 4.0]), np.array([-4.0, 3.0])
    comparison = Comparison()
    comparison.add(Moment((a,), {"w": a, "b": a}), Moment((-2 * a,), {"w": -a, "b": -2 * a}))
    assert comparison.distance("s1") == comparison.distance_s == 0.5
    assert comparison.distance("w") == 0
    assert comparison.distance_theta == pytest.approx(5 / np.sqrt(25 + 100))
    comparison = Comparison()
    for _ in range(2):  # the angle is taken between the sums over t
        comparison.add(Moment((a,), {"w": a}), Moment((a,), {"w": -b}))
    assert comparison.angle_theta == pytest.approx(90)
    comparison = Comparison()
    comparison.add(Moment((a,), {"w": a + 1e-9 * b}), Moment((a,), {"w": -a}))
    assert comparison.angle_theta == pytest.approx(np.degrees(1e-9), rel=1e-6)


ZERO, SOME = np.zeros((1, 2)), np.array([[3.0, 4.0]])


@pytest.mark.parametrize(
    ("delta", "nabla", "distance", "angle"),
    [
        (ZERO, ZERO, 0.0, math.nan),
        (SOME, ZERO, math.inf, math.nan),
        (ZERO, SOME, 1.0, math.nan),
        (SOME, -SOME, 0.0, 0.0),
    ],
    ids=["both zero", "gradient zero", "update zero", "neither zero"],
)
def test_a_zero_gradient_has_a_distance_and_no_angle(
    delta: np.ndarray, nabla: np.ndarray, distance: float, angle: float
) -> None:
    """‖Δ + ∇‖ / ‖∇‖ is 0 or infinite where ∇ is zero, and the angle is NaN. NumPy does not warn."""
    comparison = Comparison()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        comparison.add(Moment((delta,), {"w": delta}), Moment((nabla,), {"w": nabla}))
        assert comparison.distance("s1") == comparison.distance("w") == distance
        assert comparison.distance_s == comparison.distance_theta == distance
        np.testing.assert_equal(comparison.angle_theta, angle)
        np.testing.assert_equal(angle_between(delta.ravel(), -nabla.ravel()), angle)


def test_a_layer_without_a_gradient_does_not_hide_the_others() -> None:
    """Over several names the squares are summed before the division."""
    comparison = Comparison()
    comparison.add(Moment((ZERO, SOME), {"w": SOME}), Moment((ZERO, -2 * SOME), {"w": ZERO}))
    assert comparison.distance("s1") == 0
    assert comparison.distance_s == 0.5
    assert comparison.distance("w") == math.inf
    assert comparison.distance("s2", "w") == pytest.approx(np.sqrt(2) / 2)


def test_order_is_the_slope_of_a_power_law() -> None:
    betas = np.array([1e-3, 1e-2, 1e-1])
    assert order(betas, 7 * betas**1.5) == pytest.approx(1.5)


def test_the_command_prints_the_orders(capsys: pytest.CaptureFixture[str]) -> None:
    assert systems.main(["--system", "toy"]) == 0
    out = capsys.readouterr().out
    assert re.search(r"one-sided +order in β +1\.00 +1\.00", out)
    assert re.search(r"centred +order in β +2\.00 +2\.00", out)
    assert re.search(r"continual +0\.01 +0\.0003", out)
    assert "w0-2" in out


def test_the_command_says_when_the_first_phase_does_not_converge(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    dynamics = DiscreteTime(
        chain([3, 4, 2]), Activation("twice", lambda a: 2 * a, np.ones_like, np.zeros_like)
    )
    monkeypatch.setitem(SYSTEMS, "toy", System(dynamics, steps=3, beta=0.1))
    monkeypatch.setattr(systems, "first_phase", lambda *args: first_phase(*args, limit=20))
    assert systems.main(["--system", "toy"]) == 1
    assert "error: the first phase has not converged" in capsys.readouterr().err


def test_hard_sigmoid_systems_have_some_outputs_within() -> None:
    """Otherwise the test of the CNN would compare zeros."""
    system = SYSTEMS["conv"]
    assert system.dynamics.sigma is hard_sigmoid
    theta, x, _ = system.draw(0)
    output = first_phase(system.dynamics, theta, x, 2).state[-1]
    assert np.count_nonzero((output > 0) & (output < 1)) > 2
