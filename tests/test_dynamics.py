"""One step of each dynamics against plain formulas, and the Jacobian of a step against differences of it."""

from collections.abc import Callable

import numpy as np
import pytest
from examples import NETWORKS, draw, networks, rngs
from hypothesis import assume, given
from hypothesis import strategies as st
from states import CLOSE, assert_same, distance_to_kinks, each_dynamics, initial, target

from eqprop_np.activations import ACTIVATIONS, Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.costs import Cost, squared_error
from eqprop_np.dynamics import (
    DiscreteTime,
    Dynamics,
    Nudge,
    RealTime,
    check_nudge,
    linear_step,
    linearize,
    one_step,
    snapshot,
    step,
)
from eqprop_np.network import Network, State, Theta, chain
from eqprop_np.relaxation import Alternating, Synchronous, relax
from eqprop_np.rules.continual import cep
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import Phases
from eqprop_np.rules.telescoped import telescoped_cep, telescoped_cvf
from eqprop_np.rules.vector_field import cvf, untied
from eqprop_np.testing import check_adjoint, check_gradient

activations = st.sampled_from(list(ACTIVATIONS.values()))
batches = st.integers(1, 3)

CLEAR = 1e-4
"""A distance to all kinks that no central difference of these tests reaches: they move every activity and
drive by some 1e-5 at most."""

quartic = Cost(
    "quartic error",
    value=lambda output, target: ((output - target) ** 4).sum(axis=1) / 4,
    derivative=lambda output, target: (output - target) ** 3,
)


# ---- one step, Eqs. (1) and (3)


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
def test_a_real_time_step_is_an_euler_step(
    network: Network,
    sigma: Activation,
    rng: np.random.Generator,
    batch: int,
    beta: float,
    epsilon: float,
    clamp: bool,
) -> None:
    """s + ε ds/dt with ds/dt = ρ′(s) ∂Φ/∂ρ − s − β ∂ℓ/∂s, where Φ sees the layers through ρ."""
    theta, x, s = draw(network, batch, rng)
    y = target(network, batch, rng)
    activities = tuple(sigma.value(value) for value in s)
    velocity = [
        sigma.derivative(v) * drive - v
        for v, drive in zip(s, network.dphi_ds(theta, x, activities), strict=True)
    ]
    dynamics = RealTime(network, sigma, epsilon, clamp)
    for nudge in (None, Nudge(beta, y)):
        if nudge:
            velocity[-1] = velocity[-1] + beta * (y - s[-1])
        expected = [v + epsilon * f for v, f in zip(s, velocity, strict=True)]
        if clamp:
            expected = [np.minimum(np.maximum(value, 0), 1) for value in expected]
        assert_same(step(dynamics, theta, x, s, nudge), tuple(expected), **CLOSE)


@pytest.mark.parametrize("nudged", [False, True], ids=["free", "nudged"])
@pytest.mark.parametrize(
    "cost, force",
    [(squared_error, lambda o, y: y - o), (quartic, lambda o, y: (y - o) ** 3)],
    ids=["squared error", "quartic error"],
)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
def test_a_step_of_two_layers_neuron_by_neuron(
    is_tied: bool, cost: Cost, force: Callable, nudged: bool, rng: np.random.Generator
) -> None:
    """The equations of 3 → 2 → 2 in loops, which use nothing of the package."""
    w, v, v_back = rng.standard_normal((3, 2)), rng.standard_normal((2, 2)), rng.standard_normal((2, 2))
    b, c = rng.standard_normal((2, 2))
    x, h, o = (rng.uniform(size=(1, n)) for n in (3, 2, 2))
    y = np.array([[0.0, 1.0]])
    beta = 0.3 if nudged else 0.0
    theta = {"w0-1": w, "w1-2": v, "b1": b, "b2": c}
    if is_tied:
        v_back = v
    else:
        theta["w2-1"] = v_back
    network = chain([3, 2, 2]) if is_tied else untied(chain([3, 2, 2]))
    nudge = Nudge(beta, y) if nudged else None

    def drives(h: Array, o: Array) -> tuple[list[float], list[float]]:
        to_h = [b[j] + sum(x[0, i] * w[i, j] for i in range(3)) for j in range(2)]
        to_h = [to_h[j] + sum(v_back[j, k] * o[0, k] for k in range(2)) for j in range(2)]
        return to_h, [c[k] + sum(h[0, j] * v[j, k] for j in range(2)) for k in range(2)]

    pull = beta * force(o[0], y[0])
    to_h, to_o = drives(h, o)
    expected: State = ([np.tanh(to_h)], [np.tanh(to_o) + pull])
    assert_same(step(DiscreteTime(network, tanh, cost), theta, x, (h, o), nudge), expected, **CLOSE)
    to_h, to_o = drives(np.tanh(h), np.tanh(o))
    expected = (
        [h[0] + 0.1 * ((1 - np.tanh(h[0]) ** 2) * to_h - h[0])],
        [o[0] + 0.1 * ((1 - np.tanh(o[0]) ** 2) * to_o - o[0] + pull)],
    )
    dynamics = RealTime(network, tanh, epsilon=0.1, clamp=False, cost=cost)
    assert_same(step(dynamics, theta, x, (h, o), nudge), expected, **CLOSE)
    clamped = RealTime(network, tanh, epsilon=0.1, clamp=True, cost=cost)
    expected = tuple([[min(max(value, 0), 1) for value in row[0]]] for row in expected)
    assert_same(step(clamped, theta, x, (h, o), nudge), expected, **CLOSE)


@given(networks, activations, rngs, st.floats(-1, 1), st.booleans())
def test_a_step_of_the_authors_code_differs_at_the_input_and_at_the_output(
    network: Network, sigma: Activation, rng: np.random.Generator, beta: float, clamp: bool
) -> None:
    """ds^n/dt = ρ′(s^n) ∂Φ/∂ρ^n − s^n for n < N and ∂Φ/∂ρ^N − s^N − β ∂ℓ/∂s, where Φ sees ρ(x) and ρ(s)."""
    theta, x, s = draw(network, 2, rng)
    y = target(network, 2, rng)
    dynamics = RealTime(network, sigma, 0.3, clamp, authors_code=True)
    *drives, last = network.dphi_ds(theta, sigma.value(x), tuple(map(sigma.value, s)))
    velocity = [sigma.derivative(v) * drive - v for v, drive in zip(s, drives, strict=False)]
    for nudge, force in ((None, 0), (Nudge(beta, y), beta * (y - s[-1]))):
        fields = [*velocity, last - s[-1] + force]
        expected = tuple(v + 0.3 * field for v, field in zip(s, fields, strict=True))
        if clamp:
            expected = tuple(np.clip(value, 0, 1) for value in expected)
        assert_same(step(dynamics, theta, x, s, nudge), expected, **CLOSE)
    assert_same(snapshot(dynamics, theta, x, s).activities, (sigma.value(x), *map(sigma.value, s)))


@pytest.mark.parametrize("schedule", [Synchronous(1e-12), Alternating(1.5, 1e-12)])
def test_the_phases_of_the_authors_code_end_where_its_step_rests(
    schedule: Synchronous | Alternating, rng: np.random.Generator
) -> None:
    dynamics = RealTime(NETWORKS["long chain"], authors_code=True)
    theta = initial(dynamics.network, rng)
    x, y = rng.uniform(size=(2, 4)), target(dynamics.network, 2, rng)
    for nudge in (None, Nudge(0.5, y)):
        found = relax(dynamics, theta, x, steps=2000, nudge=nudge, schedule=schedule)
        assert found.converged
        assert_same(found.state, step(dynamics, theta, x, found.state, nudge), rtol=0, atol=1e-11)
        np.testing.assert_array_equal(found.activities[0], sigmoid.value(x))


def test_the_rules_of_the_authors_code_see_the_activity_of_the_input(rng: np.random.Generator) -> None:
    """EP's gradient of an input weight contains ρ(x), and the fast forms agree with the plain ones."""
    dynamics = RealTime(NETWORKS["chain"], authors_code=True)
    theta, x = initial(dynamics.network, rng), rng.uniform(size=(3, 4))
    y = target(dynamics.network, 3, rng)
    rates = dict.fromkeys(theta, 0.1)
    phases = Phases(100, 8, 0.4, schedule=Synchronous(), learning_rates=rates)
    free = relax(dynamics, theta, x, steps=100, schedule=Synchronous())
    nudge = Nudge(0.4, y)
    nudged = relax(dynamics, theta, x, free.state, 8, nudge=nudge, schedule=Synchronous())
    change = sigmoid.value(nudged.state[0]) - sigmoid.value(free.state[0])
    expected = -sigmoid.value(x).T @ change / (3 * 0.4)
    np.testing.assert_allclose(ep(dynamics, theta, x, y, phases).gradient["w0-1"], expected, atol=1e-14)
    for plain, fast in ((cep, telescoped_cep), (cvf, telescoped_cvf)):
        one, two = (rule(dynamics, theta, x, y, phases).gradient for rule in (plain, fast))
        for name in theta:
            np.testing.assert_allclose(one[name], two[name], rtol=1e-10, atol=1e-14)


@given(st.sampled_from(["chain", "skip", "two conv"]), rngs, st.floats(0.01, 1))
def test_real_time_descends_the_energy(name: str, rng: np.random.Generator, epsilon: float) -> None:
    """ds = −ε ∂E/∂s with E = ½‖s‖² − Φ(x, ρ(s), θ): the step is minus ε times a gradient."""
    network = NETWORKS[name]
    theta, x, s = draw(network, 2, rng)
    dynamics = RealTime(network, sigmoid, epsilon, clamp=False)
    assume(distance_to_kinks(dynamics, theta, x, s) > CLEAR)

    def energy(s: State) -> float:
        phi = network.phi(theta, x, tuple(sigmoid.value(value) for value in s)).sum()
        return float(sum((value**2).sum() for value in s) / 2 - phi)

    def gradient(s: State) -> State:
        moved = step(dynamics, theta, x, s)
        return tuple((old - new) / epsilon for old, new in zip(s, moved, strict=True))

    check_gradient(energy, gradient, s, rng=rng)


def test_the_nudge_in_units_of_equation_1() -> None:
    """Φ of Eq. (1) is ½‖s‖² − εE in real time, so its β is εβ."""
    assert DiscreteTime(NETWORKS["chain"]).nudge_scale == 1
    assert RealTime(NETWORKS["chain"], epsilon=0.3).nudge_scale == 0.3


def test_only_real_time_keeps_its_state(rng: np.random.Generator) -> None:
    """A layer's own state enters its next state in real time, and in discrete time not."""
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    for dynamics in each_dynamics(network)[:3:2]:  # without clamping, which can hide a difference
        new, other = (step(dynamics, theta, x, (hidden, s[1]))[0] for hidden in (s[0], s[0] + 0.1))
        assert dynamics.keeps_state == bool(np.any(new != other))


@given(networks, activations, rngs)
def test_a_step_writes_into_none_of_its_arguments(
    network: Network, sigma: Activation, rng: np.random.Generator
) -> None:
    theta, x, s = draw(network, 2, rng)
    y = target(network, 2, rng)
    for a in (*theta.values(), x, y, *s):
        a.flags.writeable = False
    for dynamics in each_dynamics(network, sigma):
        for nudge in (None, Nudge(0.5, y)):
            new = step(dynamics, theta, x, s, nudge)
            assert not any(np.shares_memory(a, b) for a, b in zip(new, s, strict=True))
        linearize(dynamics, theta, x, s).vjp(s)
        linearize(dynamics, theta, x, s).jvp(s)


@given(networks, activations, rngs)
def test_the_checked_and_the_unchecked_step_are_equal(
    network: Network, sigma: Activation, rng: np.random.Generator
) -> None:
    theta, x, s = draw(network, 2, rng)
    static, nudge = network.input_drive(theta, x), Nudge(0.5, target(network, 2, rng))
    for dynamics in each_dynamics(network, sigma):
        for force in (None, nudge):
            assert_same(one_step(dynamics, theta, static, s, force), step(dynamics, theta, x, s, force))
        F, G = linearize(dynamics, theta, x, s), linear_step(dynamics, theta, static, s)
        assert_same(F.vjp(s), G.vjp(s))
        assert_same(F.jvp(s), G.jvp(s))


def test_a_target_may_hold_booleans_or_integers_or_be_a_list(rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    y = target(network, 2, rng)
    for dynamics in each_dynamics(network):
        expected = step(dynamics, theta, x, s, Nudge(0.5, y))
        for other in (y.astype(bool), y.astype(int), y.tolist(), y.astype(np.float32)):
            assert_same(step(dynamics, theta, x, s, Nudge(0.5, other)), expected)
    assert check_nudge(DiscreteTime(network), None, x) is None
    single = check_nudge(DiscreteTime(network), Nudge(0.5, y), x.astype(np.float32))
    assert single.target.dtype == np.float32


@pytest.mark.parametrize("function", [step, linearize])
def test_what_does_not_fit_is_refused(function: Callable, rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    for dynamics in each_dynamics(network):
        with pytest.raises(ValueError, match="x must have shape"):
            function(dynamics, theta, x[:, 1:], s)
        with pytest.raises(ValueError, match="the state must be a tuple of 2 arrays"):
            function(dynamics, theta, x, s[:1])
        with pytest.raises(ValueError, match="layer 2 of the state must have shape"):
            function(dynamics, theta, x, (s[0], s[1][:1]))
        with pytest.raises(ValueError, match="theta must have the parameters"):
            function(dynamics, {"w0-1": theta["w0-1"]}, x, s)
        with pytest.raises(ValueError, match="layer 1 of the state must be finite"):
            function(dynamics, theta, x, (np.full_like(s[0], np.nan), s[1]))


def test_a_target_that_does_not_fit_is_refused(rng: np.random.Generator) -> None:
    network = NETWORKS["chain"]
    theta, x, s = draw(network, 2, rng)
    for wrong in (np.array([0, 1]), np.ones((1, 3)), np.ones((2, 2))):
        with pytest.raises(ValueError, match="y must have shape"):
            step(DiscreteTime(network), theta, x, s, Nudge(0.5, wrong))
    with pytest.raises(ValueError, match="y must be finite"):
        step(DiscreteTime(network), theta, x, s, Nudge(0.5, np.full((2, 3), np.nan)))


@pytest.mark.parametrize("epsilon", [0, -0.1, 2.1, np.nan, np.inf])
def test_an_euler_step_out_of_its_range_is_refused(epsilon: float) -> None:
    with pytest.raises(ValueError, match="epsilon must be above 0 and at most 2, got"):
        RealTime(NETWORKS["chain"], epsilon=epsilon)


@pytest.mark.parametrize("kind", [DiscreteTime, RealTime])
def test_parts_of_the_wrong_kind_are_refused(kind: type) -> None:
    with pytest.raises(TypeError, match="network must be a Network such as"):
        kind([784, 512, 10])
    with pytest.raises(TypeError, match="sigma must be an Activation such as"):
        kind(NETWORKS["chain"], "sigmoid")


def test_a_snapshot_holds_the_activities_and_their_switches(rng: np.random.Generator) -> None:
    for network in NETWORKS.values():
        theta, x, s = draw(network, 2, rng)
        for dynamics in each_dynamics(network):
            found = snapshot(dynamics, theta, x, s)
            assert_same(found.activities, (x, *(dynamics.activity(value) for value in s)))
            expected = network.find_switches(theta, found.activities)
            assert found.switches.keys() == expected.keys()
            for name, switches in expected.items():
                np.testing.assert_array_equal(found.switches[name], switches)


# ---- the Jacobian of a free step

KINDS: dict[str, Callable[[Network], Dynamics]] = {
    "discrete tanh": lambda network: DiscreteTime(network, tanh),
    "discrete sigmoid": lambda network: DiscreteTime(network, sigmoid),
    "discrete hard sigmoid": lambda network: DiscreteTime(network, hard_sigmoid),
    "real-time tanh": lambda network: RealTime(network, tanh, 0.3, clamp=False),
    "real-time clamped": lambda network: RealTime(network, sigmoid, 0.3),
    "real-time hard sigmoid, clamped": lambda network: RealTime(network, hard_sigmoid, 0.3),
    "real-time, authors' code": lambda network: RealTime(network, tanh, 0.3, False, authors_code=True),
    "real-time, authors' code, clamped": lambda network: RealTime(network, sigmoid, 0.3, authors_code=True),
}
GRAPHS = {name: NETWORKS[name] for name in ("chain", "long chain", "skip", "conv", "two conv")}
GRAPHS |= {f"{name}, untied": untied(network) for name, network in GRAPHS.items()}

each_kind = pytest.mark.parametrize("kind", KINDS)
each_graph = pytest.mark.parametrize("graph", GRAPHS)


def case(graph: str, kind: str, seed: int = 0) -> tuple[Dynamics, Theta, Array, State, np.random.Generator]:
    """Return dynamics with a θ, an x and an s for which the step is far from every kink."""
    dynamics = KINDS[kind](GRAPHS[graph])
    for rng in map(np.random.default_rng, range(seed, seed + 100)):
        network = dynamics.network
        theta = {name: 2 * value for name, value in initial(network, rng).items()}
        x = rng.uniform(-0.3, 1.3, (2, *network.shapes[0]))
        s = tuple(rng.uniform(-0.3, 1.3, value.shape) for value in network.zeros(2, np.float64))
        if distance_to_kinks(dynamics, theta, x, s) > CLEAR:
            return dynamics, theta, x, s, rng
    raise AssertionError("every draw is near a kink")


def normal_like(s: State, rng: np.random.Generator) -> State:
    return tuple(rng.standard_normal(value.shape) for value in s)


def along(s: State, h: complex, v: State) -> State:
    return tuple(a + h * b for a, b in zip(s, v, strict=True))


@each_kind
@each_graph
def test_jvp_is_the_central_difference_of_a_step(graph: str, kind: str) -> None:
    dynamics, theta, x, s, rng = case(graph, kind)
    F = linearize(dynamics, theta, x, s)
    h = 6e-6  # where the error of the formula and that of rounding are both about 1e-10
    for _ in range(3):
        v = normal_like(s, rng)
        plus, minus = (step(dynamics, theta, x, along(s, sign * h, v)) for sign in (1, -1))
        expected = tuple((a - b) / (2 * h) for a, b in zip(plus, minus, strict=True))
        assert max(abs(value).max() for value in expected) > 0.05
        assert_same(F.jvp(v), expected, rtol=0, atol=1e-8)


@each_kind
@each_graph
def test_vjp_is_the_adjoint_of_jvp(graph: str, kind: str) -> None:
    dynamics, theta, x, s, rng = case(graph, kind)
    F = linearize(dynamics, theta, x, s)
    for _ in range(3):
        check_adjoint(F.jvp, F.vjp, normal_like(s, rng), normal_like(s, rng))


@each_kind
@each_graph
def test_vjp_theta_is_the_gradient_of_a_step(graph: str, kind: str) -> None:
    """The mean over the batch, for every parameter; untied, the two weights of a connection separately."""
    dynamics, theta, x, s, rng = case(graph, kind)
    u = normal_like(s, rng)
    F = linearize(dynamics, theta, x, s)

    def projected(theta: Theta) -> float:
        moved = step(dynamics, theta, x, s)
        return float(sum((a * b).sum() for a, b in zip(u, moved, strict=True)) / len(x))

    assert F.vjp_theta(u).keys() == dynamics.network.parameter_shapes.keys()
    check_gradient(projected, lambda _: F.vjp_theta(u), theta, rng=rng)
    joined = dynamics.network.vjp_theta([(F.at, F.at_drives(u))])
    for name, value in F.vjp_theta(u).items():
        np.testing.assert_array_equal(value, joined[name])


def test_clamping_and_hard_sigmoid_are_active_in_these_cases() -> None:
    """Otherwise the tests above would not test their derivatives."""
    for kind in ("discrete hard sigmoid", "real-time clamped", "real-time hard sigmoid, clamped"):
        for graph in GRAPHS:
            dynamics, theta, x, s, _ = case(graph, kind)
            new = np.concatenate([value.ravel() for value in step(dynamics, theta, x, s)])
            assert 0.01 < np.mean((new == 0) | (new == 1)) < 0.9, (graph, kind)


def test_the_snapshot_of_a_linear_step_is_that_of_its_state(rng: np.random.Generator) -> None:
    for network in NETWORKS.values():
        theta, x, s = draw(network, 2, rng)
        for dynamics in each_dynamics(network):
            found, expected = linearize(dynamics, theta, x, s).at, snapshot(dynamics, theta, x, s)
            assert_same(found.activities, expected.activities)
            for name, switches in expected.switches.items():
                np.testing.assert_array_equal(found.switches[name], switches)


@given(networks, activations, rngs)
def test_the_jacobian_keeps_float32(network: Network, sigma: Activation, rng: np.random.Generator) -> None:
    theta, x, s = draw(network, 2, rng)
    theta = {name: value.astype(np.float32) for name, value in theta.items()}
    x, s = x.astype(np.float32), tuple(value.astype(np.float32) for value in s)
    for dynamics in each_dynamics(network, sigma):
        F = linearize(dynamics, theta, x, s)
        arrays = (*step(dynamics, theta, x, s), *F.jvp(s), *F.vjp(s), *F.vjp_theta(s).values())
        assert {value.dtype for value in arrays} == {np.dtype(np.float32)}


# ---- complex numbers

ANALYTIC: dict[str, Callable[[Network], Dynamics]] = {
    "discrete tanh": lambda network: DiscreteTime(network, tanh),
    "discrete sigmoid": lambda network: DiscreteTime(network, sigmoid),
    "real-time tanh": lambda network: RealTime(network, tanh, 0.3, clamp=False),
    "real-time sigmoid": lambda network: RealTime(network, sigmoid, 0.3, clamp=False),
}
"""Names as in `KINDS`, without kinks."""

H = 1e-30
"""f(a + ih) = f(a) + ih f′(a) − h² f″(a)/2 …: with this h the imaginary part is h f′(a) to all digits."""

UNPOOLED = [name for name, network in NETWORKS.items() if name == "conv and dense" or "conv" not in name]


@pytest.mark.parametrize("kind", ANALYTIC)
@pytest.mark.parametrize("is_tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("name", UNPOOLED)
def test_the_complex_step_agrees_with_the_jacobian_to_twelve_digits(
    name: str, is_tied: bool, kind: str, rng: np.random.Generator
) -> None:
    """No function on the way may take an absolute value, a real part or a conjugate."""
    network = NETWORKS[name] if is_tied else untied(NETWORKS[name])
    dynamics = ANALYTIC[kind](network)
    theta = initial(network, rng)
    x = rng.uniform(size=(2, *network.shapes[0]))
    s = tuple(rng.uniform(size=value.shape) for value in network.zeros(2, np.float64))
    nudge = Nudge(0.4, target(network, 2, rng))
    F, u, v = linearize(dynamics, theta, x, s), normal_like(s, rng), normal_like(s, rng)
    moved = step(dynamics, theta, x, along(s, 1j * H, v))
    assert_same(tuple(value.real for value in moved), step(dynamics, theta, x, s), **CLOSE)
    assert_same(tuple(value.imag / H for value in moved), F.jvp(v), **CLOSE)
    # A nudge adds −β ∂²ℓ/∂s² = −β to the output's own derivative, ε times as much in real time.
    pulled = step(dynamics, theta, x, along(s, 1j * H, v), nudge)[-1].imag / H
    np.testing.assert_allclose(pulled, F.jvp(v)[-1] - dynamics.nudge_scale * 0.4 * v[-1], **CLOSE)
    direction = {name: rng.standard_normal(value.shape) for name, value in theta.items()}
    at = {name: value + 1j * H * direction[name] for name, value in theta.items()}
    change = step(dynamics, at, x, s)
    expected = sum((a * b.imag).sum() for a, b in zip(u, change, strict=True)) / H / len(x)
    found = sum((value * direction[name]).sum() for name, value in F.vjp_theta(u).items())
    assert found == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("kind", ANALYTIC)
def test_the_jacobian_itself_is_analytic(kind: str, rng: np.random.Generator) -> None:
    """A complex step and a central difference give one derivative of it. Its transpose does not conjugate."""
    network = NETWORKS["long chain"]
    dynamics = ANALYTIC[kind](network)
    theta = network.init(rng, np.float64)
    x = rng.uniform(size=(2, *network.shapes[0]))
    s = tuple(rng.uniform(size=value.shape) for value in network.zeros(2, np.float64))
    u, v, w = (normal_like(s, rng) for _ in range(3))
    for product in ("jvp", "vjp"):

        def at(h: complex, product: str = product) -> State:
            return getattr(linearize(dynamics, theta, x, along(s, h, w)), product)(
                tuple(value.astype(complex) for value in v)
            )

        expected = tuple((a - b).real / 2e-5 for a, b in zip(at(1e-5), at(-1e-5), strict=True))
        assert_same(tuple(value.imag / H for value in at(1j * H)), expected, rtol=0, atol=1e-8)
    F = linearize(dynamics, theta, x, along(s, 0.1j, w))
    u, v = along(u, 1j, v), along(v, 1j, w)
    left = sum((a * b).sum() for a, b in zip(u, F.jvp(v), strict=True))
    right = sum((a * b).sum() for a, b in zip(F.vjp(u), v, strict=True))
    assert left == pytest.approx(right, rel=1e-12)


@pytest.mark.parametrize("function", [step, linearize])
@pytest.mark.parametrize(
    "dynamics, message",
    [
        (RealTime(NETWORKS["chain"], sigmoid, clamp=True), "clamping is not analytic"),
        (DiscreteTime(NETWORKS["chain"], hard_sigmoid), "the hard sigmoid is not analytic"),
        (RealTime(NETWORKS["chain"], hard_sigmoid, clamp=False), "the hard sigmoid is not analytic"),
        (DiscreteTime(NETWORKS["two conv"], sigmoid), "max-pooling is not analytic"),
    ],
    ids=["clamping", "discrete hard sigmoid", "real-time hard sigmoid", "max-pooling"],
)
def test_complex_numbers_are_refused_by_what_is_not_analytic(
    dynamics: Dynamics, message: str, function: Callable, rng: np.random.Generator
) -> None:
    theta, x, s = draw(dynamics.network, 2, rng)
    with pytest.raises(TypeError, match=message):
        function(dynamics, theta, x, tuple(value + 0j for value in s))
    theta = {name: value + 0j for name, value in theta.items()}

    def second_step() -> None:
        function(dynamics, theta, x, step(dynamics, theta, x, s))

    # In real time without clamping the first step is linear in θ and analytic, and ρ(s) is still real.
    with pytest.raises(TypeError, match=message):
        second_step()


def test_the_derivative_of_clamping_is_1_at_the_border() -> None:
    """As that of the hard sigmoid; with 0 there, no gradient would pass through a neuron at 0."""
    dynamics = RealTime(NETWORKS["one layer"], sigmoid, 0.3)
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    own, gain = dynamics.update_slopes(zero, dynamics.activity(zero), zero)
    np.testing.assert_allclose(own, 0.7, rtol=1e-15)
    assert np.all(gain > 0)
    own, gain = dynamics.update_slopes(zero, dynamics.activity(zero), zero - 1e-9)
    assert not np.any(own) and not np.any(gain)
    own, gain = dynamics.update_slopes(one, dynamics.activity(one), one * 1e3)
    assert not np.any(own) and not np.any(gain)
