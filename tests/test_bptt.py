"""Eq. (6) against its definition: every gradient is compared with a finite difference of the loss.

The steps are far from a steady state here, so that no two gradients are equal by accident. Where σ is
smooth, the complex step, which has no error of a difference, agrees to twelve digits.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
from examples import NETWORKS, rngs
from hypothesis import given, settings
from states import assert_same, initial, target

from eqprop_np.activations import Array, hard_sigmoid, sigmoid, tanh
from eqprop_np.costs import Cost
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime, linearize, snapshot
from eqprop_np.network import Network, State, Theta
from eqprop_np.relaxation import Alternating, Relaxation, Schedule, Synchronous, relax, settle
from eqprop_np.rules.bptt import Gradient, bptt, loss_gradient, unroll
from eqprop_np.rules.phases import Phases
from eqprop_np.rules.vector_field import untied
from eqprop_np.testing import check_adjoint, check_gradient

EPSILON = 0.3
DENSE = [name for name, net in NETWORKS.items() if not any(c.has_switches for c in net.connections)]
GRAPHS: dict[str, Network] = NETWORKS | {
    f"{name} untied": untied(NETWORKS[name]) for name in ("chain", "long chain", "skip", "conv", "two conv")
}

quartic = Cost(
    "quartic error",
    value=lambda output, target: ((output - target) ** 4).sum(axis=1) / 4,
    derivative=lambda output, target: (output - target) ** 3,
)

SMOOTH: dict[str, Dynamics] = {
    f"{name}, {kind}": dynamics
    for name in (*DENSE, "long chain untied", "skip untied")
    for kind, dynamics in {
        "discrete tanh": DiscreteTime(GRAPHS[name], tanh),
        "discrete sigmoid": DiscreteTime(GRAPHS[name], sigmoid),
        "real-time tanh": RealTime(GRAPHS[name], tanh, EPSILON, clamp=False),
    }.items()
} | {
    "skip, discrete, quartic error": DiscreteTime(GRAPHS["skip"], tanh, quartic),
    "skip, real-time, quartic error": RealTime(GRAPHS["skip"], tanh, EPSILON, False, quartic),
}
KINKED: dict[str, Dynamics] = {
    f"{name}, {kind}": dynamics
    for name in (*(name for name in NETWORKS if name not in DENSE), "conv untied", "two conv untied")
    for kind, dynamics in {
        "discrete tanh": DiscreteTime(GRAPHS[name], tanh),
        "real-time tanh": RealTime(GRAPHS[name], tanh, EPSILON, clamp=False),
    }.items()
} | {
    "long chain, discrete hard sigmoid": DiscreteTime(GRAPHS["long chain"], hard_sigmoid),
    "long chain, real-time clamped": RealTime(GRAPHS["long chain"], sigmoid, EPSILON),
    "skip, real-time clamped": RealTime(GRAPHS["skip"], sigmoid, EPSILON),
    "long chain untied, real-time clamped": RealTime(GRAPHS["long chain untied"], sigmoid, EPSILON),
}
ALL = SMOOTH | KINKED


class Case:
    """Dynamics with random parameters, inputs, targets, and a trajectory from a random state.

    (From zero, patches of an image would be equal at first, and the maximum of equal values has no
    derivative.)
    """

    def __init__(self, dynamics: Dynamics, rng: np.random.Generator, scale: float = 2) -> None:
        self.dynamics, self.rng = dynamics, rng
        self.batch, self.steps = rng.integers(1, 5), int(rng.integers(2, 8))
        net = dynamics.network
        # Twice the usual weights, so that σ′ and the derivative of clamping differ from 1.
        self.theta = {name: scale * value for name, value in initial(net, rng).items()}
        self.x = rng.uniform(0, 1, (self.batch, *net.shapes[0]))
        self.y = target(net, self.batch, rng)
        self.static = net.input_drive(self.theta, self.x)
        start = tuple(rng.uniform(0, 1, value.shape) for value in net.zeros(self.batch, self.x.dtype))
        self.trajectory = relax(
            dynamics, self.theta, self.x, start, self.steps, schedule=Synchronous(), trajectory=True
        ).trajectory

    def gradients(self) -> Iterator[Gradient]:
        start = loss_gradient(self.dynamics, self.theta, self.trajectory[-1], self.y)
        return unroll(self.dynamics, self.theta, self.static, self.trajectory, start)

    def run(self, theta: Theta, s: State | None, steps: int) -> State:
        static = self.dynamics.network.input_drive(theta, self.x)
        return settle(self.dynamics, theta, static, s, steps, Synchronous()).state

    def losses(self, s: State) -> Array:
        return self.dynamics.cost.value(s[-1], self.y)

    def check(self, f: Callable, gradient: object, at: object) -> None:
        # A step of the difference a hundred times smaller than usual meets a hundred times fewer kinks. Its
        # rounding error is a hundred times larger, about 1e-9, which `check_gradient` allows for.
        check_gradient(f, lambda _: gradient, at, rng=self.rng, step=1e-7)


# ---- the whole, and its parts


def the_total(case: Case) -> None:
    """The rule's gradient is that of the mean loss after T steps, with K = T."""
    phases = Phases(case.steps, case.steps, 1.0, schedule=Synchronous())
    gradient = bptt(case.dynamics, case.theta, case.x, case.y, phases).gradient
    case.check(lambda theta: case.losses(case.run(theta, None, case.steps)).mean(), gradient, case.theta)


def each_copy_of_theta(case: Case) -> None:
    """∇_θ(t) is the gradient with respect to the copy θ_{T−t}, with which s_{T−t} is computed."""
    for t, g in enumerate(case.gradients()):
        before = case.trajectory[case.steps - t - 1]

        def loss(theta: Theta, before: State = before, t: int = t) -> float:
            return case.losses(case.run(case.theta, case.run(theta, before, 1), t)).mean()

        case.check(loss, case.dynamics.network.vjp_theta([g.term]), case.theta)


def each_state(case: Case) -> None:
    """∇_s(t) is the gradient with respect to s_{T−t} of each sample's own loss, without a factor 1/B."""
    for t, g in enumerate(case.gradients()):
        case.check(
            lambda s, t=t: case.losses(case.run(case.theta, s, t)).sum(),
            g.state,
            case.trajectory[case.steps - t],
        )


checks = pytest.mark.parametrize("check", [the_total, each_copy_of_theta, each_state])


@checks
@pytest.mark.parametrize("name", SMOOTH)
@settings(max_examples=max(3, settings.default.max_examples // 3))  # there are some twenty systems
@given(rng=rngs)
def test_where_the_system_is_smooth(
    name: str, check: Callable[[Case], None], rng: np.random.Generator
) -> None:
    check(Case(SMOOTH[name], rng))


@checks
@pytest.mark.parametrize("seed", range(2))  # with no kink within reach of a finite difference
@pytest.mark.parametrize("name", KINKED)
def test_beside_the_kinks(name: str, seed: int, check: Callable[[Case], None]) -> None:
    check(Case(KINKED[name], np.random.default_rng(seed)))


def test_there_are_as_many_gradients_as_steps() -> None:
    """Otherwise the tests above might check none."""
    case = Case(SMOOTH["skip, discrete tanh"], np.random.default_rng(0))
    assert len(list(case.gradients())) == case.steps > 1


def test_clamping_is_active_in_these_cases() -> None:
    """Otherwise the tests above would not test its derivative."""
    case = Case(KINKED["long chain, real-time clamped"], np.random.default_rng(0))
    states = np.concatenate([value.ravel() for s in case.trajectory[1:] for value in s])
    assert 0.05 < np.mean(states == 0) < 0.9


@pytest.mark.parametrize("name", SMOOTH)
def test_the_complex_step_agrees_to_twelve_digits(name: str, rng: np.random.Generator) -> None:
    """L(θ + ih d) = L + ih ∂L/∂θ · d, if no function on the way takes an absolute value or a real part."""
    case, h = Case(SMOOTH[name], rng), 1e-30
    direction = {name: rng.standard_normal(value.shape) for name, value in case.theta.items()}
    theta = {name: value + 1j * h * direction[name] for name, value in case.theta.items()}
    start = tuple(value.astype(np.complex128) for value in case.trajectory[0])
    expected = case.losses(case.run(theta, start, case.steps)).mean().imag / h
    total = case.dynamics.network.vjp_theta([g.term for g in case.gradients()])
    found = sum((total[name] * direction[name]).sum() for name in case.theta)
    assert found == pytest.approx(expected, rel=1e-12)


# ---- where it comes from: the drives are each other's transpose


@pytest.mark.parametrize("net", GRAPHS)
def test_the_jacobian_of_the_drives(net: str, rng: np.random.Generator) -> None:
    """⟨a, H b⟩ = ⟨Hᵀ a, b⟩, H b is the change of the drives along b, and with tied weights Hᵀ = H."""
    case = Case(DiscreteTime(GRAPHS[net], tanh), rng)
    graph, s = case.dynamics.network, case.trajectory[-1]
    switches = graph.find_switches(case.theta, (case.x, *s))
    a, b = (tuple(rng.standard_normal(value.shape) for value in s) for _ in range(2))

    def H(v: State) -> State:
        return graph.jvp_s(case.theta, v, switches)

    def Ht(v: State) -> State:
        return graph.vjp_s(case.theta, v, switches)

    check_adjoint(H, Ht, a, b)
    if graph.tied:
        check_adjoint(H, H, a, b)
        assert_same(H(b), Ht(b))
    elif graph.recurrent:
        assert any(np.abs(p - q).max() > 0.1 for p, q in zip(H(b), Ht(b), strict=True))
    here, there = (
        graph.dphi_ds(case.theta, case.x, tuple(p + h * q for p, q in zip(s, b, strict=True)))
        for h in (0, 1e-7)  # too small to change a switch
    )
    for p, q, hb in zip(here, there, H(b), strict=True):
        np.testing.assert_allclose((q - p) / 1e-7, hb, atol=1e-7)


@pytest.mark.parametrize(
    "name, symmetric",
    [
        ("skip, real-time tanh", True),
        ("skip, discrete tanh", False),
        ("skip untied, real-time tanh", False),
        ("skip untied, discrete tanh", False),
    ],
)
def test_only_a_tied_step_of_real_time_is_symmetric(
    name: str, symmetric: bool, rng: np.random.Generator
) -> None:
    """σ outside ∂Φ/∂s makes the Jacobian diag(σ′)·H: see `eqprop_np.theorem`."""
    case = Case(SMOOTH[name], rng)
    s = tuple(value[:1] for value in case.trajectory[-1])
    sizes = [value.size for value in s]
    rows = np.eye(sum(sizes))  # a batch with one unit vector for each neuron
    x, *many = (np.repeat(value, len(rows), axis=0) for value in (case.x[:1], *s))
    F = linearize(case.dynamics, case.theta, x, tuple(many))
    unit = tuple(np.split(rows, np.cumsum(sizes)[:-1], axis=1))
    jacobian = np.concatenate(F.vjp(unit), axis=1)  # row k is e_kᵀ J
    np.testing.assert_allclose(np.concatenate(F.jvp(unit), axis=1), jacobian.T, rtol=0, atol=1e-14)
    asymmetry = np.linalg.norm(jacobian - jacobian.T) / np.linalg.norm(jacobian)
    assert asymmetry < 1e-14 if symmetric else asymmetry > 0.03


# ---- the rule


@pytest.mark.parametrize("schedule", [Synchronous(1e-14), Alternating(tol=1e-14), Alternating(1.2, 1e-14)])
@pytest.mark.parametrize(
    "name", [f"skip{tie}, {kind} tanh" for tie in ("", " untied") for kind in ("discrete", "real-time")]
)
def test_from_a_steady_state_the_rule_gives_the_gradient_of_its_loss(
    name: str, schedule: Schedule, rng: np.random.Generator
) -> None:
    """With K < T: what K steps leave out has decayed, whatever schedule led to the steady state."""
    case = Case(SMOOTH[name], rng, scale=1)
    update = bptt(case.dynamics, case.theta, case.x, case.y, Phases(300, 150, 1.0, schedule=schedule))
    case.check(lambda theta: case.losses(case.run(theta, None, 300)).mean(), update.gradient, case.theta)
    assert update.free.residuals[-1] < 1e-13


def test_the_rule_unrolls_only_the_last_k_steps(rng: np.random.Generator) -> None:
    case = Case(SMOOTH["long chain, discrete tanh"], rng)
    case.trajectory = relax(
        case.dynamics, case.theta, case.x, None, case.steps, schedule=Synchronous(), trajectory=True
    ).trajectory
    phases = Phases(case.steps, case.steps - 1, 1.0, schedule=Synchronous())
    update = bptt(case.dynamics, case.theta, case.x, case.y, phases)
    *last, first = [g.term for g in case.gradients()]
    expected = case.dynamics.network.vjp_theta(last)
    for name, value in expected.items():  # the same products, with the batch's sums in another order
        np.testing.assert_allclose(update.gradient[name], value, rtol=1e-12, atol=1e-15)
    left_out = case.dynamics.network.vjp_theta([first])
    assert any(np.abs(value).max() > 1e-6 for value in left_out.values())
    assert update.free.steps == case.steps
    longer = bptt(case.dynamics, case.theta, case.x, case.y, replace(phases, nudged_steps=99))
    assert longer.free.steps == case.steps  # K > T: there are only T


@pytest.mark.parametrize("name", ALL)
def test_the_rule_keeps_the_dtype_and_takes_the_batch_mean(name: str, rng: np.random.Generator) -> None:
    case = Case(ALL[name], rng)
    phases = Phases(case.steps, case.steps, 1.0, schedule=Synchronous())

    def gradient(theta: Theta, x: Array, y: Array) -> Theta:
        return bptt(case.dynamics, theta, x, y, phases).gradient

    whole = gradient(case.theta, case.x, case.y)
    assert whole.keys() == case.theta.keys()
    each = [gradient(case.theta, case.x[i : i + 1], case.y[i : i + 1]) for i in range(case.batch)]
    theta, x, y = {k: v.astype(np.float32) for k, v in case.theta.items()}, case.x, case.y
    single = gradient(theta, x.astype(np.float32), y.astype(np.float32))
    for name, value in whole.items():
        mean = sum(g[name] for g in each) / case.batch
        np.testing.assert_allclose(value, mean, rtol=1e-9, atol=1e-12 * np.abs(value).max())
        assert single[name].dtype == np.float32
        assert value.shape == case.theta[name].shape


@pytest.mark.parametrize(
    "name", ["long chain, discrete tanh", "long chain untied, real-time tanh", "two conv"]
)
@pytest.mark.parametrize(
    "schedule", [Synchronous(), Alternating(1.0, tol=0), Alternating(1.2, tol=1e-2)], ids=repr
)
def test_the_update_reports_all_steps(name: str, schedule: Schedule, rng: np.random.Generator) -> None:
    """Those of the schedule, as many as stand for T − K steps, and after them all K synchronous ones."""
    dynamics = SMOOTH.get(name) or DiscreteTime(NETWORKS[name])
    case = Case(dynamics, rng, scale=0.5)
    T, K = 30, 7
    free = bptt(dynamics, case.theta, case.x, case.y, Phases(T, K, 1.0, schedule=schedule)).free
    first = relax(dynamics, case.theta, case.x, None, schedule.steps(T - K), schedule=schedule)
    last = relax(dynamics, case.theta, case.x, first.state, K, schedule=Synchronous())
    assert last.steps == K and free.steps == first.steps + K
    assert first.steps < schedule.steps(T - K) or schedule.tol == 0
    assert free.residuals == first.residuals + last.residuals
    assert_same(free.state, last.state)
    expected = snapshot(dynamics, case.theta, case.x, last.state)
    assert_same(free.activities, expected.activities)
    for connection, switches in expected.switches.items():
        np.testing.assert_array_equal(free.switches[connection], switches)
    assert free.trajectory == ()


@pytest.mark.parametrize(
    "make", [Synchronous, lambda tol: Alternating(1.0, tol)], ids=["synchronous", "alternating"]
)
@pytest.mark.parametrize("steps", [5, 12])
def test_the_update_reports_convergence_by_the_schedules_tolerance(
    steps: int, make: Callable[[float], Schedule], rng: np.random.Generator
) -> None:
    """The last of the K synchronous residuals decides, also where K = T and the schedule took no step."""
    case = Case(SMOOTH["long chain, discrete tanh"], rng, scale=0.5)

    def free(tol: float) -> Relaxation:
        return bptt(
            case.dynamics, case.theta, case.x, case.y, Phases(12, steps, 1.0, schedule=make(tol))
        ).free

    last = free(0.0).residuals[-1]
    assert 1e-12 < last < 0.1
    assert free(0.0).converged is False
    assert free(last / 1.5).converged is False
    found = free(1.5 * last)
    assert found.converged is True
    assert found.residuals[-1] <= 1.5 * last
    # The schedule's own last residual is within this tolerance, but the K steps after it decide.
    case.theta = {name: 40 * value for name, value in case.theta.items()}
    assert free(1e-9).converged == (free(1e-9).residuals[-1] <= 1e-9)


@pytest.mark.parametrize("name", SMOOTH)
def test_the_gradient_is_an_analytic_function(name: str, rng: np.random.Generator) -> None:
    """Its derivative by a complex step of θ is that by a central difference: a Hessian times a vector."""
    case = Case(SMOOTH[name], rng)
    direction = {name: rng.standard_normal(value.shape) for name, value in case.theta.items()}

    def gradient(h: complex) -> Theta:
        theta = {name: value + h * direction[name] for name, value in case.theta.items()}
        return bptt(case.dynamics, theta, case.x, case.y, Phases(4, 4, 1.0, schedule=Synchronous())).gradient

    found, plus, minus = gradient(1e-30j), gradient(1e-5), gradient(-1e-5)
    for name, value in found.items():
        # The error of the difference is h² f‴/6 + 1e-16 f/h. Twice the usual weights make f‴ as large as 1e4.
        np.testing.assert_allclose(
            value.imag / 1e-30, (plus[name] - minus[name]) / 2e-5, rtol=1e-5, atol=1e-6
        )


def test_the_gradient_of_the_loss_is_zero_but_for_the_output(rng: np.random.Generator) -> None:
    for cost in (quartic, DiscreteTime(NETWORKS["chain"]).cost):
        case = Case(DiscreteTime(NETWORKS["long chain"], tanh, cost), rng)
        s = case.trajectory[-1]
        *hidden, output = loss_gradient(case.dynamics, case.theta, s, case.y)
        assert not any(value.any() for value in hidden)
        assert [value.shape for value in hidden] == [value.shape for value in s[:-1]]
        np.testing.assert_array_equal(output, cost.derivative(s[-1], case.y))


def test_arguments_that_do_not_fit_are_refused(rng: np.random.Generator) -> None:
    case = Case(SMOOTH["chain, discrete tanh"], rng)
    dynamics, theta, x, y, phases = case.dynamics, case.theta, case.x, case.y, Phases(4, 2, 0.1)
    with pytest.raises(ValueError, match="labels must be one-hot"):
        bptt(dynamics, theta, x, y.argmax(axis=1), phases)
    with pytest.raises(ValueError, match="x must have shape"):
        bptt(dynamics, theta, x[:, 1:], y, phases)
    with pytest.raises(ValueError, match="theta must have the parameters"):
        bptt(dynamics, {}, x, y, phases)
    with pytest.raises(TypeError, match=r"phases must be Phases\(\.\.\.\), got"):
        bptt(dynamics, theta, x, y, 4)
    with pytest.raises(TypeError, match="dynamics must be"):
        bptt(dynamics.network, theta, x, y, phases)


def test_integer_targets_give_the_gradient_of_float_ones(rng: np.random.Generator) -> None:
    case = Case(SMOOTH["chain, discrete tanh"], rng)
    expected, found = (
        bptt(case.dynamics, case.theta, case.x, y, Phases(4, 2, 0.1)).gradient
        for y in (case.y, case.y.astype(int).tolist())
    )
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value)
