"""Eq. (6) against its definition: every gradient is a finite difference of the loss, and no more.

The steps are far from a steady state here, so nothing is equal by accident. A tolerance of 1e-6 is
a thousand times what a central difference errs by in float64; where σ is smooth, the complex step
(which has no difference to take) shows twelve digits.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eqprop_np import network
from eqprop_np.activations import ACTIVATIONS, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.connections import ConvPool, Dense
from eqprop_np.cost import cost
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime, relax, step_vjp
from eqprop_np.network import Network, State, Theta
from eqprop_np.rules import Phases
from eqprop_np.rules.bptt import Gradient, bptt, loss_gradient, unroll

EPSILON = 0.3

# Two convolutions, so that one leaves the input and one leaves a layer that moves.
CONVOLUTIONAL = Network(
    ((10, 10, 1), (4, 4, 2), (1, 1, 3), (4,)),
    (
        ConvPool(0, 1, (10, 10, 1), 2, kernel=3, pool=2),
        ConvPool(1, 2, (4, 4, 2), 3, kernel=3, pool=2),
        Dense(2, 3, (1, 1, 3), (4,)),
    ),
)
NETWORKS = {
    "shallow": network.chain([7, 5, 4]),
    "deep": network.chain([6, 5, 7, 4, 3]),
    "skip": network.toy(6, 8, 3),
    "convolutional": CONVOLUTIONAL,
}
SYSTEMS: dict[str, Dynamics] = {
    f"{name}, {kind}": dynamics
    for name, net in NETWORKS.items()
    for kind, dynamics in {
        "discrete tanh": DiscreteTime(net, tanh),
        "real-time tanh": RealTime(net, tanh, EPSILON, clamp=False),
        "real-time sigmoid clamped": RealTime(net, sigmoid, EPSILON),
    }.items()
    # A clamped image has ties in its windows, where max-pooling has no derivative to compare with.
    if (name, kind) != ("convolutional", "real-time sigmoid clamped")
} | {"deep, discrete hard sigmoid": DiscreteTime(NETWORKS["deep"], hard_sigmoid)}


class Case:
    """A system with random parameters, inputs, targets, and a trajectory from zero."""

    def __init__(self, dynamics: Dynamics, seed: int, scale: float = 2) -> None:
        self.dynamics, self.rng = dynamics, np.random.default_rng(seed)
        self.batch, self.steps = self.rng.integers(1, 5), int(self.rng.integers(2, 8))
        net = dynamics.network
        # Twice the usual weights: σ′ and the clamp have something to do.
        self.theta = {name: scale * value for name, value in net.init(self.rng, np.float64).items()}
        self.x = self.rng.uniform(0, 1, (self.batch, *net.shapes[0]))
        self.y = np.eye(*net.shapes[-1])[self.rng.integers(0, net.shapes[-1][0], self.batch)]
        self.clamped = net.clamp(self.theta, self.x)
        self.trajectory = relax(
            dynamics, self.theta, self.x, None, self.steps, schedule="synchronous", trajectory=True
        ).trajectory

    def gradients(self) -> Iterator[Gradient]:
        start = loss_gradient(self.trajectory[-1], self.y)
        return unroll(self.dynamics, self.theta, self.clamped, self.trajectory, start)

    def run(self, theta: Theta, s: State, steps: int) -> State:
        return relax(self.dynamics, theta, self.x, s, steps, schedule="synchronous").state

    def losses(self, s: State) -> Array:
        return cost(s[-1], self.y)

    def direction(self) -> Theta:
        """A random direction in θ, of length 1: a small step along it meets a kink once in ten thousand."""
        d = {name: self.rng.standard_normal(value.shape) for name, value in self.theta.items()}
        return {name: value / np.sqrt(dot(d, d)) for name, value in d.items()}


def derivative(loss: Callable[[float], float], h: float = 3e-6) -> float:
    """The central difference of loss(0)."""
    return (loss(h) - loss(-h)) / (2 * h)


def dot(a: Theta, b: Theta) -> float:
    assert a.keys() == b.keys()
    return sum((a[name] * b[name]).sum() for name in a)


def moved(theta: Theta, h: complex, direction: Theta) -> Theta:
    return {name: value + h * direction[name] for name, value in theta.items()}


@pytest.fixture(params=SYSTEMS)
def dynamics(request: pytest.FixtureRequest) -> Dynamics:
    return SYSTEMS[request.param]


def seeds(examples: int) -> Callable:
    """Run a test on so many seeds, the same ones each time: no finite difference meets a kink today only."""

    def decorate(test: Callable) -> Callable:
        return settings(max_examples=examples, derandomize=True, deadline=None)(
            given(seed=st.integers(0, 2**32 - 1))(test)
        )

    return decorate


# ---- the whole, and its parts


@pytest.mark.parametrize("name", SYSTEMS)
@seeds(25)
def test_the_total_is_the_gradient_of_the_loss_after_t_steps(name: str, seed: int) -> None:
    case = Case(SYSTEMS[name], seed)
    phases = Phases(case.steps, case.steps, 1.0, schedule="synchronous")
    gradient = bptt(case.dynamics, case.theta, case.x, case.y, phases).gradient
    direction = case.direction()

    def loss(h: float) -> float:
        s = case.dynamics.network.zeros(case.batch, np.float64)
        return case.losses(case.run(moved(case.theta, h, direction), s, case.steps)).mean()

    assert dot(gradient, direction) == pytest.approx(derivative(loss), rel=1e-6)


@pytest.mark.parametrize("name", SYSTEMS)
@seeds(10)
def test_each_theta_gradient_is_that_of_one_copy_of_theta(name: str, seed: int) -> None:
    case = Case(SYSTEMS[name], seed)
    direction = case.direction()
    count = 0
    for t, g in enumerate(case.gradients()):
        before = case.trajectory[case.steps - t - 1]  # s_{T−t−1}: from it, the copy θ_{T−t} makes s_{T−t}

        def loss(h: float, s: State = before, t: int = t) -> float:
            s = case.run(moved(case.theta, h, direction), s, 1)
            return case.losses(case.run(case.theta, s, t)).mean()

        gradient = case.dynamics.network.vjp_theta(case.x, [g.term])
        assert dot(gradient, direction) == pytest.approx(derivative(loss), rel=1e-6), f"t = {t}"
        count += 1
    assert count == case.steps


@pytest.mark.parametrize("name", SYSTEMS)
@seeds(10)
def test_each_state_gradient_is_that_of_every_samples_own_loss(name: str, seed: int) -> None:
    case = Case(SYSTEMS[name], seed)
    for t, g in enumerate(case.gradients()):
        s = case.trajectory[case.steps - t]
        direction = [case.rng.standard_normal(value.shape) for value in s]
        h = 3e-6
        there, back = (
            case.losses(case.run(case.theta, tuple(a + k * d for a, d in zip(s, direction, strict=True)), t))
            for k in (h, -h)
        )
        products = sum(
            (a * d).reshape(case.batch, -1).sum(axis=1) for a, d in zip(g.state, direction, strict=True)
        )
        np.testing.assert_allclose(products, (there - back) / (2 * h), rtol=1e-6, atol=1e-9)


def test_the_clamp_is_at_work_in_these_cases() -> None:
    """Otherwise the tests above say nothing of its derivative."""
    case = Case(SYSTEMS["deep, real-time sigmoid clamped"], 0)
    states = np.concatenate([value.ravel() for s in case.trajectory[1:] for value in s])
    assert 0.05 < np.mean(states == 0) < 0.9


@pytest.mark.parametrize("kind", ["discrete tanh", "real-time tanh"])
@pytest.mark.parametrize("net", ["deep", "skip"])
def test_the_complex_step_agrees_to_twelve_digits(net: str, kind: str) -> None:
    """L(θ + ih d) = L + ih ∂L/∂θ · d: and so nothing on the way takes an absolute value or a real part."""
    case = Case(SYSTEMS[f"{net}, {kind}"], 0)
    direction, h = case.direction(), 1e-30
    theta = moved(case.theta, 1j * h, direction)
    s = case.dynamics.network.zeros(case.batch, np.complex128)
    expected = case.losses(case.run(theta, s, case.steps)).mean().imag / h
    total = case.dynamics.network.vjp_theta(case.x, [g.term for g in case.gradients()])
    assert dot(total, direction) == pytest.approx(expected, rel=1e-12)


# ---- where it comes from: the drives are each other's transpose


@pytest.mark.parametrize("net", NETWORKS)
def test_the_jacobian_of_the_drives_is_symmetric(net: str) -> None:
    """⟨a, H b⟩ = ⟨H a, b⟩ with H = ∂²Φ/∂s², and H b is what the drives change by along b."""
    case = Case(SYSTEMS[f"{net}, discrete tanh"], 0)
    graph, s = case.dynamics.network, case.trajectory[-1]
    switches = graph.find_switches(case.theta, case.x, s)
    a, b = ([case.rng.standard_normal(value.shape) for value in s] for _ in range(2))
    ha, hb = (graph.vjp_s(case.theta, v, switches) for v in (a, b))

    def inner(u: State, v: State) -> float:
        return sum((p * q).sum() for p, q in zip(u, v, strict=True))

    assert inner(a, hb) == pytest.approx(inner(ha, b), rel=1e-12)
    drives, moved = (
        graph.dphi_ds(case.theta, case.x, tuple(p + h * q for p, q in zip(s, b, strict=True)))
        for h in (0, 1e-6)  # too little to move a switch
    )
    for n in range(graph.depth):
        np.testing.assert_allclose((moved[n] - drives[n]) / 1e-6, hb[n], atol=1e-8)


def test_a_step_of_discrete_time_is_not_symmetric_and_one_of_real_time_is() -> None:
    """σ outside ∂Φ/∂s makes the Jacobian diag(σ′)·H: see `eqprop_np.theorem`."""
    asymmetry = {}
    for kind in ("discrete tanh", "real-time tanh"):
        case = Case(SYSTEMS[f"skip, {kind}"], 0)
        s = case.trajectory[-1]
        identity = np.eye(sum(value.shape[1] for value in s))
        cuts = np.cumsum([value.shape[1] for value in s])[:-1]
        one = [np.repeat(value[:1], len(identity), axis=0) for value in s]
        clamped = case.dynamics.network.clamp(case.theta, np.repeat(case.x[:1], len(identity), axis=0))
        rows = step_vjp(case.dynamics, case.theta, clamped, tuple(one), tuple(np.split(identity, cuts, 1)))
        jacobian = np.concatenate(rows.state, axis=1)
        asymmetry[kind] = np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian)
    assert asymmetry["real-time tanh"] < 1e-14
    assert asymmetry["discrete tanh"] > 0.1


@pytest.mark.parametrize("sigma", ACTIVATIONS.values(), ids=lambda sigma: sigma.name)
def test_second_derivatives(sigma: object) -> None:
    a = np.array([-0.7, -0.2, 0.1, 0.3, 0.6, 0.9, 1.4])  # no kink among them
    difference = (sigma.derivative(a + 1e-6) - sigma.derivative(a - 1e-6)) / 2e-6
    np.testing.assert_allclose(sigma.second(a), difference, atol=1e-8)
    assert sigma.second(a.astype(np.float32)).dtype == np.float32


def test_the_clamp_lets_a_neuron_at_the_border_go() -> None:
    """Its derivative is 1 at the borders, as the hard sigmoid's is, or a neuron at 0 would never leave."""
    dynamics = RealTime(network.chain([1, 1]), sigmoid, EPSILON)
    drive = np.zeros((1, 1))
    to_s, to_drive = dynamics.update_vjp(np.zeros((1, 1)), drive, np.ones((1, 1)))
    assert to_s == pytest.approx(1 - EPSILON)
    assert to_drive > 0
    assert dynamics.update_vjp(np.zeros((1, 1)), drive - 1e-9, np.ones((1, 1))) == (0, 0)


# ---- the rule


@pytest.mark.parametrize("schedule", ["synchronous", "alternating"])
@pytest.mark.parametrize("kind", ["discrete tanh", "real-time tanh"])
def test_from_a_steady_state_the_rule_gives_the_gradient_of_its_loss(kind: str, schedule: str) -> None:
    """K < T: what K steps leave out has died away, whatever schedule led to the steady state."""
    case = Case(SYSTEMS[f"skip, {kind}"], 1, scale=1)
    phases = Phases(600, 250, 1.0, schedule=schedule, tol=1e-14)
    update = bptt(case.dynamics, case.theta, case.x, case.y, phases)
    direction = case.direction()

    def loss(h: float) -> float:
        s = case.dynamics.network.zeros(case.batch, np.float64)
        return case.losses(case.run(moved(case.theta, h, direction), s, 600)).mean()

    assert dot(update.gradient, direction) == pytest.approx(derivative(loss), rel=1e-6)
    assert update.free.residuals[-1] < 1e-13


def test_the_rule_unrolls_the_last_k_steps_alone() -> None:
    case = Case(SYSTEMS["deep, discrete tanh"], 0)
    phases = Phases(case.steps, 2, 1.0, schedule="synchronous", tol=0)
    update = bptt(case.dynamics, case.theta, case.x, case.y, phases)
    terms = [g.term for g in case.gradients()]
    expected = case.dynamics.network.vjp_theta(case.x, terms[:2])
    for name, value in expected.items():
        np.testing.assert_allclose(update.gradient[name], value, rtol=1e-12, atol=1e-15)
    assert update.free.steps == case.steps
    assert dot(update.gradient, case.dynamics.network.vjp_theta(case.x, terms)) != pytest.approx(
        dot(expected, expected), rel=1e-3
    )
    longer = bptt(case.dynamics, case.theta, case.x, case.y, replace(phases, nudged_steps=99))
    assert longer.free.steps == case.steps  # K > T: there are no more than T steps


def test_the_rule_keeps_the_dtype_and_the_batch_mean(dynamics: Dynamics) -> None:
    case = Case(dynamics, 0)
    phases = Phases(case.steps, case.steps, 1.0, schedule="synchronous")
    whole = bptt(dynamics, case.theta, case.x, case.y, phases).gradient
    each = [
        bptt(dynamics, case.theta, case.x[i : i + 1], case.y[i : i + 1], phases).gradient
        for i in range(case.batch)
    ]
    theta, x, y = {k: v.astype(np.float32) for k, v in case.theta.items()}, case.x, case.y
    single = bptt(dynamics, theta, x.astype(np.float32), y.astype(np.float32), phases)
    for name, value in whole.items():
        mean = sum(g[name] for g in each) / case.batch
        np.testing.assert_allclose(value, mean, rtol=1e-9, atol=1e-12 * np.abs(value).max())
        assert single.gradient[name].dtype == np.float32
        assert value.shape == case.theta[name].shape
    assert all(value.dtype == np.float32 for value in single.free.state)
