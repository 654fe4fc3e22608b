"""Eq. (6) against its definition: every gradient is a finite difference of the loss, and no more.

The steps are far from a steady state here, so nothing is equal by accident. Where σ is smooth, the
complex step (which has no difference to take) shows twelve digits.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from eqprop_np.cost import cost
from examples import NETWORKS, rngs
from hypothesis import given

from eqprop_np.activations import ACTIVATIONS, Activation, Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime, relax, step_vjp
from eqprop_np.network import State, Theta
from eqprop_np.rules import Phases
from eqprop_np.rules.bptt import Gradient, bptt, loss_gradient, unroll
from eqprop_np.testing import check_adjoint, check_gradient

EPSILON = 0.3
DENSE = [name for name, net in NETWORKS.items() if not any(c.pools for c in net.connections)]

SMOOTH: dict[str, Dynamics] = {
    f"{name}, {kind}": dynamics
    for name in DENSE
    for kind, dynamics in {
        "discrete tanh": DiscreteTime(NETWORKS[name], tanh),
        "discrete sigmoid": DiscreteTime(NETWORKS[name], sigmoid),
        "real-time tanh": RealTime(NETWORKS[name], tanh, EPSILON, clamp=False),
    }.items()
}
KINKED: dict[str, Dynamics] = {
    f"{name}, {kind}": dynamics
    for name in NETWORKS
    if name not in DENSE
    for kind, dynamics in {
        "discrete tanh": DiscreteTime(NETWORKS[name], tanh),
        "real-time tanh": RealTime(NETWORKS[name], tanh, EPSILON, clamp=False),
    }.items()
} | {
    "long chain, discrete hard sigmoid": DiscreteTime(NETWORKS["long chain"], hard_sigmoid),
    "long chain, real-time clamped": RealTime(NETWORKS["long chain"], sigmoid, EPSILON),
    "skip, real-time clamped": RealTime(NETWORKS["skip"], sigmoid, EPSILON),
}
ALL = SMOOTH | KINKED


class Case:
    """A system with random parameters, inputs, targets, and a trajectory from a random state.

    (From zero, patches of an image would be equal at first, and a maximum of equals has no derivative.)
    """

    def __init__(self, dynamics: Dynamics, rng: np.random.Generator, scale: float = 2) -> None:
        self.dynamics, self.rng = dynamics, rng
        self.batch, self.steps = rng.integers(1, 5), int(rng.integers(2, 8))
        net = dynamics.network
        # Twice the usual weights: σ′ and the clamp have something to do.
        self.theta = {name: scale * value for name, value in net.init(rng, np.float64).items()}
        self.x = rng.uniform(0, 1, (self.batch, *net.shapes[0]))
        self.y = np.eye(*net.shapes[-1])[rng.integers(0, net.shapes[-1][0], self.batch)]
        self.clamped = net.clamp(self.theta, self.x)
        start = tuple(rng.uniform(0, 1, value.shape) for value in net.zeros(self.batch, self.x.dtype))
        self.trajectory = relax(
            dynamics, self.theta, self.x, start, self.steps, schedule="synchronous", trajectory=True
        ).trajectory

    def gradients(self) -> Iterator[Gradient]:
        start = loss_gradient(self.trajectory[-1], self.y)
        return unroll(self.dynamics, self.theta, self.clamped, self.trajectory, start)

    def run(self, theta: Theta, s: State | None, steps: int) -> State:
        return relax(self.dynamics, theta, self.x, s, steps, schedule="synchronous").state

    def losses(self, s: State) -> Array:
        return cost(s[-1], self.y)

    def check(self, f: Callable, gradient: object, at: object) -> None:
        # A step a hundred times smaller than usual meets a hundred times fewer kinks.
        check_gradient(f, lambda _: gradient, at, rng=self.rng, step=1e-7)


# ---- the whole, and its parts


def the_total(case: Case) -> None:
    """The rule's gradient is that of the mean loss after T steps, with K = T."""
    phases = Phases(case.steps, case.steps, 1.0, schedule="synchronous")
    gradient = bptt(case.dynamics, case.theta, case.x, case.y, phases).gradient
    case.check(lambda theta: case.losses(case.run(theta, None, case.steps)).mean(), gradient, case.theta)


def each_copy_of_theta(case: Case) -> None:
    """∇_θ(t) is the gradient with respect to the copy θ_{T−t}, which makes s_{T−t} out of s_{T−t−1}."""
    for t, g in enumerate(case.gradients()):
        before = case.trajectory[case.steps - t - 1]

        def loss(theta: Theta, before: State = before, t: int = t) -> float:
            return case.losses(case.run(case.theta, case.run(theta, before, 1), t)).mean()

        case.check(loss, case.dynamics.network.vjp_theta(case.x, [g.term]), case.theta)


def each_state(case: Case) -> None:
    """∇_s(t) is the gradient with respect to s_{T−t}, each sample's of its own loss: no 1/B."""
    for t, g in enumerate(case.gradients()):
        case.check(
            lambda s, t=t: case.losses(case.run(case.theta, s, t)).sum(),
            g.state,
            case.trajectory[case.steps - t],
        )


checks = pytest.mark.parametrize("check", [the_total, each_copy_of_theta, each_state])


@checks
@pytest.mark.parametrize("name", SMOOTH)
@given(rng=rngs)
def test_where_the_system_is_smooth(
    name: str, check: Callable[[Case], None], rng: np.random.Generator
) -> None:
    check(Case(SMOOTH[name], rng))


@checks
@pytest.mark.parametrize("seed", range(3))  # with no kink within reach of a finite difference
@pytest.mark.parametrize("name", KINKED)
def test_beside_the_kinks(name: str, seed: int, check: Callable[[Case], None]) -> None:
    check(Case(KINKED[name], np.random.default_rng(seed)))


def test_there_are_as_many_gradients_as_steps() -> None:
    """Otherwise the tests above might check none."""
    case = Case(SMOOTH["skip, discrete tanh"], np.random.default_rng(0))
    assert len(list(case.gradients())) == case.steps > 1


def test_the_clamp_is_at_work_in_these_cases() -> None:
    """Otherwise the tests above say nothing of its derivative."""
    case = Case(KINKED["long chain, real-time clamped"], np.random.default_rng(0))
    states = np.concatenate([value.ravel() for s in case.trajectory[1:] for value in s])
    assert 0.05 < np.mean(states == 0) < 0.9


@pytest.mark.parametrize("name", SMOOTH)
def test_the_complex_step_agrees_to_twelve_digits(name: str, rng: np.random.Generator) -> None:
    """L(θ + ih d) = L + ih ∂L/∂θ · d: and so nothing on the way takes an absolute value or a real part."""
    case, h = Case(SMOOTH[name], rng), 1e-30
    direction = {name: rng.standard_normal(value.shape) for name, value in case.theta.items()}
    theta = {name: value + 1j * h * direction[name] for name, value in case.theta.items()}
    start = tuple(value.astype(np.complex128) for value in case.trajectory[0])
    expected = case.losses(case.run(theta, start, case.steps)).mean().imag / h
    total = case.dynamics.network.vjp_theta(case.x, [g.term for g in case.gradients()])
    found = sum((total[name] * direction[name]).sum() for name in case.theta)
    assert found == pytest.approx(expected, rel=1e-12)


# ---- where it comes from: the drives are each other's transpose


@pytest.mark.parametrize("net", NETWORKS)
def test_the_jacobian_of_the_drives_is_symmetric(net: str, rng: np.random.Generator) -> None:
    """⟨a, H b⟩ = ⟨H a, b⟩ with H = ∂²Φ/∂s², and H b is what the drives change by along b."""
    case = Case(DiscreteTime(NETWORKS[net], tanh), rng)
    graph, s = case.dynamics.network, case.trajectory[-1]
    switches = graph.find_switches(case.theta, case.x, s)
    a, b = (tuple(rng.standard_normal(value.shape) for value in s) for _ in range(2))

    def hessian(v: State) -> State:
        return graph.vjp_s(case.theta, v, switches)

    check_adjoint(hessian, hessian, a, b)
    here, there = (
        graph.dphi_ds(case.theta, case.x, tuple(p + h * q for p, q in zip(s, b, strict=True)))
        for h in (0, 1e-7)  # too little to move a switch
    )
    for p, q, hb in zip(here, there, hessian(b), strict=True):
        np.testing.assert_allclose((q - p) / 1e-7, hb, atol=1e-7)


def test_a_step_of_discrete_time_is_not_symmetric_and_one_of_real_time_is(rng: np.random.Generator) -> None:
    """σ outside ∂Φ/∂s makes the Jacobian diag(σ′)·H: see `eqprop_np.theorem`."""
    asymmetry = {}
    for kind in ("discrete tanh", "real-time tanh"):
        case = Case(SMOOTH[f"skip, {kind}"], rng)
        s = tuple(value[:1] for value in case.trajectory[-1])
        sizes = [value.size for value in s]
        rows = np.eye(sum(sizes))  # a batch of as many cotangents as there are neurons
        many = [np.repeat(value, len(rows), axis=0) for value in (case.x[:1], *s)]
        clamped = case.dynamics.network.clamp(case.theta, many[0])
        u = tuple(np.split(rows, np.cumsum(sizes)[:-1], axis=1))
        back = step_vjp(case.dynamics, case.theta, clamped, tuple(many[1:]), u)
        jacobian = np.concatenate(back.state, axis=1)
        asymmetry[kind] = np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian)
    assert asymmetry["real-time tanh"] < 1e-14
    assert asymmetry["discrete tanh"] > 0.1


@pytest.mark.parametrize("sigma", ACTIVATIONS.values(), ids=ACTIVATIONS)
def test_second_derivatives(sigma: Activation) -> None:
    a = np.array([-0.7, -0.2, 0.1, 0.3, 0.6, 0.9, 1.4])  # no kink among them
    difference = (sigma.derivative(a + 1e-6) - sigma.derivative(a - 1e-6)) / 2e-6
    np.testing.assert_allclose(sigma.second(a), difference, atol=1e-8)
    assert sigma.second(a.astype(np.float32)).dtype == np.float32


def test_the_clamp_lets_a_neuron_at_the_border_go() -> None:
    """Its derivative is 1 at the borders, as the hard sigmoid's is, or a neuron at 0 would never leave."""
    dynamics = RealTime(NETWORKS["one layer"], sigmoid, EPSILON)
    zero, one = np.zeros((1, 2)), np.ones((1, 2))
    to_s, to_drive = dynamics.update_vjp(zero, zero.copy(), one)
    np.testing.assert_allclose(to_s, 1 - EPSILON)
    assert np.all(to_drive > 0)
    below = dynamics.update_vjp(zero, zero - 1e-9, one)
    assert not np.any(below)


# ---- the rule


@pytest.mark.parametrize("schedule", ["synchronous", "alternating"])
@pytest.mark.parametrize("kind", ["discrete tanh", "real-time tanh"])
def test_from_a_steady_state_the_rule_gives_the_gradient_of_its_loss(
    kind: str, schedule: str, rng: np.random.Generator
) -> None:
    """K < T: what K steps leave out has died away, whatever schedule led to the steady state."""
    case = Case(SMOOTH[f"skip, {kind}"], rng, scale=1)
    phases = Phases(500, 200, 1.0, schedule=schedule, tol=1e-14)
    update = bptt(case.dynamics, case.theta, case.x, case.y, phases)
    case.check(lambda theta: case.losses(case.run(theta, None, 500)).mean(), update.gradient, case.theta)
    assert update.free.residuals[-1] < 1e-13


def test_the_rule_unrolls_the_last_k_steps_alone(rng: np.random.Generator) -> None:
    case = Case(SMOOTH["long chain, discrete tanh"], rng)
    case.trajectory = relax(
        case.dynamics, case.theta, case.x, None, case.steps, schedule="synchronous", trajectory=True
    ).trajectory
    phases = Phases(case.steps, case.steps - 1, 1.0, schedule="synchronous", tol=0)
    update = bptt(case.dynamics, case.theta, case.x, case.y, phases)
    *last, first = [g.term for g in case.gradients()]
    expected = case.dynamics.network.vjp_theta(case.x, last)
    for name, value in expected.items():
        np.testing.assert_allclose(update.gradient[name], value, rtol=1e-12, atol=1e-15)
    left_out = case.dynamics.network.vjp_theta(case.x, [first])
    assert any(np.abs(value).max() > 1e-6 for value in left_out.values())
    assert update.free.steps == case.steps
    longer = bptt(case.dynamics, case.theta, case.x, case.y, replace(phases, nudged_steps=99))
    assert longer.free.steps == case.steps  # K > T: there are no more than T


@pytest.mark.parametrize("name", ALL)
def test_the_rule_keeps_the_dtype_and_takes_the_batch_mean(name: str, rng: np.random.Generator) -> None:
    case = Case(ALL[name], rng)
    phases = Phases(case.steps, case.steps, 1.0, schedule="synchronous")

    def gradient(theta: Theta, x: Array, y: Array) -> Theta:
        return bptt(case.dynamics, theta, x, y, phases).gradient

    whole = gradient(case.theta, case.x, case.y)
    each = [gradient(case.theta, case.x[i : i + 1], case.y[i : i + 1]) for i in range(case.batch)]
    theta, x, y = {k: v.astype(np.float32) for k, v in case.theta.items()}, case.x, case.y
    single = gradient(theta, x.astype(np.float32), y.astype(np.float32))
    for name, value in whole.items():
        mean = sum(g[name] for g in each) / case.batch
        np.testing.assert_allclose(value, mean, rtol=1e-9, atol=1e-12 * np.abs(value).max())
        assert single[name].dtype == np.float32
        assert value.shape == case.theta[name].shape
