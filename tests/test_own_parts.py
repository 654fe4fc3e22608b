"""Tests of a user's own connection, cost, activation and learning rule.

The four examples use only numpy and the public names of the package. They must work wherever the parts
of the package work, and the public checks must find faults in them.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import numpy as np
import pytest

import eqprop_np as eq
from eqprop_np.benchmark import multiplications

Array = np.ndarray
Theta = dict[str, Array]
Dynamics = eq.DiscreteTime | eq.RealTime


# --- the examples


@dataclass(frozen=True)
class AveragePool:
    """Average pooling with a weight for each channel: φ = Σ s^post · w · (mean of each window of s^pre)."""

    pre: int
    post: int
    pre_shape: tuple[int, ...]
    window: int = 2
    has_switches = False

    name = property(lambda self: f"w{self.pre}-{self.post}")
    shape = property(lambda self: self.pre_shape[2:])
    fan_in = property(lambda self: self.window**2)
    multiplications = property(lambda self: prod(self.post_shape))

    @property
    def post_shape(self) -> tuple[int, ...]:
        height, width, channels = self.pre_shape
        return height // self.window, width // self.window, channels

    def pooled(self, pre: Array) -> Array:
        (rows, columns, channels), p = self.post_shape, self.window
        return pre.reshape(len(pre), rows, p, columns, p, channels).mean(axis=(2, 4))

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return (post * w * self.pooled(pre)).sum(axis=(1, 2, 3))

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        return w * self.pooled(pre), None

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        return (w * post / self.window**2).repeat(self.window, axis=1).repeat(self.window, axis=2)

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return (post * self.pooled(pre)).sum(axis=(0, 1, 2))


@dataclass(frozen=True)
class Strongest:
    """A connection with switches: φ = (s^post · w) max s^pre, so the largest neuron of pre drives post."""

    pre: int
    post: int
    pre_shape: tuple[int, ...]
    post_shape: tuple[int, ...]
    name: str = "strongest"
    has_switches = True
    fan_in = 1

    shape = property(lambda self: self.post_shape)
    multiplications = property(lambda self: prod(self.post_shape))

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return (post * self.to_post(w, pre, switches)[0]).sum(axis=1)

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, Array]:
        if switches is None:
            switches = np.eye(pre.shape[1], dtype=bool)[pre.argmax(axis=1)]
        return (pre * switches).sum(axis=1, keepdims=True) * w, switches

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        return (post @ w)[:, np.newaxis] * switches

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return (post * (pre * switches).sum(axis=1, keepdims=True)).sum(axis=0)


absolute_error = eq.Cost(
    "absolute error",
    value=lambda output, target: np.abs(output - target).sum(axis=1),
    derivative=lambda output, target: np.sign(output - target),
)


def logistic(a: Array) -> Array:
    return 1 / (1 + np.exp(-a))


softplus = eq.Activation(
    "softplus",
    value=lambda a: np.logaddexp(0, a),
    derivative=logistic,
    second=lambda a: logistic(a) * (1 - logistic(a)),
    derivative_from_value=lambda value: 1 - np.exp(-value),
)


def extrapolated(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: eq.Phases) -> eq.Update:
    """A learning rule: centred EP, extrapolated from β and β/2 to zero. Its bias is of order β⁴."""
    free_steps, steps = (phases.schedule.steps(n) for n in (phases.free_steps, phases.nudged_steps))
    free = eq.relax(dynamics, theta, x, steps=free_steps, schedule=phases.schedule)

    def dphi_dtheta(beta: float) -> Theta:
        nudge, schedule = eq.Nudge(beta, y), eq.Alternating(tol=0)
        nudged = eq.relax(dynamics, theta, x, free.state, steps, nudge=nudge, schedule=schedule)
        return dynamics.network.dphi_dtheta(theta, x, nudged.activities[1:])

    def centred(beta: float) -> Theta:
        plus, minus = dphi_dtheta(beta), dphi_dtheta(-beta)
        return {name: (plus[name] - minus[name]) / (2 * beta) for name in theta}

    coarse, fine = centred(phases.beta), centred(phases.beta / 2)
    return eq.Update({name: -(4 * fine[name] - coarse[name]) / 3 for name in theta}, free)


# --- networks with these parts


IMAGE, POOLED = (4, 4, 2), (2, 2, 2)
POOLING = eq.Network(
    ((6, 6, 1), IMAGE, POOLED, (3,)),
    (
        eq.ConvPool(0, 1, (6, 6, 1), 2, kernel=3, pool=1),
        AveragePool(1, 2, IMAGE),
        eq.Dense(2, 3, POOLED, (3,)),
    ),
)
POOLED_INPUT = eq.Network((IMAGE, POOLED, (3,)), (AveragePool(0, 1, IMAGE), eq.Dense(1, 2, POOLED, (3,))))
STRONGEST = eq.Network(
    ((4,), (5,), (3,)),
    (eq.Dense(0, 1, (4,), (5,)), eq.Dense(1, 2, (5,), (3,)), Strongest(1, 2, (5,), (3,))),
)
CHAIN = eq.chain([5, 6, 3])

NETWORKS = {
    "own connection": (POOLING, eq.sigmoid, eq.squared_error),
    "own connection of the input": (POOLED_INPUT, eq.sigmoid, eq.squared_error),
    "own connection with switches": (STRONGEST, eq.tanh, eq.squared_error),
    "own cost": (CHAIN, eq.sigmoid, absolute_error),
    "own activation": (CHAIN, softplus, eq.squared_error),
    "all": (POOLING, softplus, absolute_error),
}
REAL_TIME = {
    name: eq.RealTime(network, sigma, epsilon=0.3, clamp=False, cost=cost)
    for name, (network, sigma, cost) in NETWORKS.items()
}
DISCRETE_TIME = {
    name: eq.DiscreteTime(network, sigma, cost) for name, (network, sigma, cost) in NETWORKS.items()
}
real_time = pytest.mark.parametrize("dynamics", REAL_TIME.values(), ids=REAL_TIME)
discrete_time = pytest.mark.parametrize("dynamics", DISCRETE_TIME.values(), ids=DISCRETE_TIME)
both = pytest.mark.parametrize(
    "dynamics",
    [*REAL_TIME.values(), *DISCRETE_TIME.values()],
    ids=[*(f"{name} in real time" for name in REAL_TIME), *(f"{name} in discrete time" for name in NETWORKS)],
)

CONVERGED = eq.Phases(2000, 500, beta=2e-4, estimate="centered", schedule=eq.Alternating(tol=1e-14))
ONE_NUDGE = replace(CONVERGED, estimate="one-sided", beta=1e-6)


def problem(network: eq.Network, seed: int = 1) -> tuple[Theta, Array, Array]:
    """Return θ, x and y. The weights are small enough for every network here to converge."""
    rng = np.random.default_rng(seed)
    theta = {name: 0.7 * value for name, value in network.init(rng, np.float64).items()}
    x = rng.uniform(0, 1, (2, *network.shapes[0]))
    return theta, x, np.eye(3)[[2, 0]]


def distance(a: Theta, b: Theta) -> float:
    """Return ‖a − b‖ / ‖b‖ over all parameters."""
    assert a.keys() == b.keys()
    error, norm = (
        sum(float((value**2).sum()) for value in t) for t in ([a[n] - b[n] for n in b], b.values())
    )
    return float(np.sqrt(error / norm))


# --- they pass the public checks


@pytest.mark.parametrize(
    "connection",
    [AveragePool(1, 2, IMAGE), AveragePool(0, 1, (6, 3, 1), window=3), Strongest(1, 2, (5,), (3,))],
)
def test_the_check_accepts_the_connections(connection: eq.Connection) -> None:
    eq.check_connection(connection)


def test_the_check_accepts_the_activation() -> None:
    eq.check_activation(softplus)
    eq.check_activation(replace(softplus, derivative_from_value=None))


def test_the_check_accepts_the_cost() -> None:
    eq.check_cost(absolute_error)
    eq.check_cost(absolute_error, classes=5, batch=7)


# --- they work in a network


def test_phi_contains_the_own_term() -> None:
    """Φ of a network is the sum of its terms, of which one is that of `AveragePool`."""
    theta, x, _ = problem(POOLING)
    rng = np.random.default_rng(0)
    s = tuple(rng.standard_normal((2, *shape)) for shape in POOLING.shapes[1:])
    without = theta | {"w1-2": np.zeros(2)}
    means = s[0].reshape(2, 2, 2, 2, 2, 2).transpose(0, 1, 3, 5, 2, 4).reshape(2, 2, 2, 2, 4).mean(axis=-1)
    expected = np.einsum("byxc,c,byxc->b", s[1], theta["w1-2"], means)
    found = POOLING.phi(theta, x, s) - POOLING.phi(without, x, s)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    eq.check_gradient(
        lambda theta: float(POOLING.phi(theta, x, s).mean()),
        lambda theta: POOLING.dphi_dtheta(theta, x, s),
        theta,
        rng=rng,
    )
    eq.check_gradient(
        lambda s: float(POOLING.phi(theta, x, s).sum()), lambda s: POOLING.dphi_ds(theta, x, s), s, rng=rng
    )


@both
def test_relax_finds_a_steady_state(dynamics: Dynamics) -> None:
    theta, x, _ = problem(dynamics.network)
    free = eq.relax(dynamics, theta, x, steps=3000, schedule=eq.Alternating(tol=1e-14))
    assert free.converged
    for old, new in zip(free.state, eq.step(dynamics, theta, x, free.state), strict=True):
        np.testing.assert_allclose(new, old, rtol=0, atol=1e-12)
    synchronous = eq.relax(dynamics, theta, x, steps=6000, schedule=eq.Synchronous(tol=1e-14))
    for one, two in zip(free.state, synchronous.state, strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-11)


@both
def test_the_nudge_is_the_derivative_of_the_cost(dynamics: Dynamics) -> None:
    """A nudge changes one step of the output by −β ∂ℓ/∂ŷ, in real time by ε times as much."""
    theta, x, y = problem(dynamics.network)
    s = tuple(np.full((2, *shape), 0.3) for shape in dynamics.network.shapes[1:])
    free, nudged = (eq.step(dynamics, theta, x, s, nudge) for nudge in (None, eq.Nudge(0.1, y)))
    force = -0.1 * dynamics.nudge_scale * dynamics.cost.derivative(s[-1], y)
    np.testing.assert_allclose(nudged[-1] - free[-1], force, rtol=0, atol=1e-14)
    assert abs(force).max() > 0.01


@both
def test_linearize_gives_the_jacobian_of_a_step(dynamics: Dynamics) -> None:
    theta, x, _ = problem(dynamics.network)
    rng = np.random.default_rng(0)
    s, u = (tuple(rng.uniform(0, 1, (2, *shape)) for shape in dynamics.network.shapes[1:]) for _ in range(2))
    F = eq.linearize(dynamics, theta, x, s)
    eq.check_adjoint(F.jvp, F.vjp, s, u)

    def f(theta: Theta, s: tuple[Array, ...]) -> float:
        step = eq.step(dynamics, theta, x, s)
        return sum(float((a * b).sum()) for a, b in zip(step, u, strict=True))

    def gradient(theta: Theta, s: tuple[Array, ...]) -> tuple[Theta, tuple[Array, ...]]:
        linear = eq.linearize(dynamics, theta, x, s)
        total = {name: 2 * value for name, value in linear.vjp_theta(u).items()}  # B = 2 times the mean
        return {name: total[name] for name in theta}, linear.vjp(u)

    eq.check_gradient(f, gradient, theta, s, rng=rng)


# --- they work with every rule


@both
def test_bptt_gives_the_gradient_of_the_cost(dynamics: Dynamics) -> None:
    """Backpropagation through all of T steps agrees with central differences of the mean cost."""
    theta, x, y = problem(dynamics.network)
    phases = eq.Phases(6, 6, beta=1.0, schedule=eq.Synchronous())

    def cost(theta: Theta) -> float:
        free = eq.relax(dynamics, theta, x, steps=6, schedule=eq.Synchronous())
        return float(dynamics.cost.value(free.state[-1], y).mean())

    def gradient(theta: Theta) -> Theta:
        found = eq.bptt(dynamics, theta, x, y, phases).gradient
        return {name: found[name] for name in theta}

    eq.check_gradient(cost, gradient, theta, rng=np.random.default_rng(0), rtol=1e-5)


@real_time
def test_ep_and_cep_agree_with_bptt(dynamics: eq.RealTime) -> None:
    """At a steady state, after long phases and for a small β, they give one gradient."""
    theta, x, y = problem(dynamics.network)
    exact = eq.bptt(dynamics, theta, x, y, CONVERGED).gradient
    assert distance(eq.ep(dynamics, theta, x, y, CONVERGED).gradient, exact) < 1e-5
    still = replace(ONE_NUDGE, learning_rates=dict.fromkeys(theta, 0.0))
    assert distance(eq.cep(dynamics, theta, x, y, still).gradient, exact) < 1e-4
    moving = replace(ONE_NUDGE, learning_rates=dict.fromkeys(theta, 1e-11))
    assert distance(eq.cep(dynamics, theta, x, y, moving).gradient, exact) < 1e-3


@real_time
def test_vf_and_cvf_of_an_untied_network_agree_with_bptt(dynamics: eq.RealTime) -> None:
    """With equal forward and backward weights, each one-way weight gets its own part of the gradient."""
    loose = replace(dynamics, network=eq.untied(dynamics.network))
    theta, x, y = problem(loose.network)
    exact = eq.bptt(loose, theta, x, y, CONVERGED).gradient
    assert distance(eq.vf(loose, theta, x, y, ONE_NUDGE).gradient, exact) < 1e-4
    moving = replace(ONE_NUDGE, learning_rates=dict.fromkeys(theta, 1e-11))
    assert distance(eq.cvf(loose, theta, x, y, moving).gradient, exact) < 1e-3
    tied = {name: theta[name] for name in dynamics.network.parameter_shapes}
    whole = eq.bptt(dynamics, tied, x, y, CONVERGED).gradient
    for c in dynamics.network.recurrent:
        parts = exact[c.name] + exact[loose.network.backward_name(c)]
        np.testing.assert_allclose(parts, whole[c.name], rtol=0, atol=1e-10)


@discrete_time
def test_all_rules_agree_in_discrete_time(dynamics: eq.DiscreteTime) -> None:
    """There EP follows another loss than BPTT, so only the rules of EP are compared."""
    theta, x, y = problem(dynamics.network)
    expected = eq.ep(dynamics, theta, x, y, CONVERGED).gradient
    rates = dict.fromkeys(theta, 0.0)
    still = replace(ONE_NUDGE, learning_rates=rates)
    assert distance(eq.cep(dynamics, theta, x, y, still).gradient, expected) < 1e-4
    assert distance(eq.vf(dynamics, theta, x, y, ONE_NUDGE).gradient, expected) < 1e-4


# --- they satisfy the theorem


@real_time
def test_the_theorem_holds_in_real_time(dynamics: eq.RealTime) -> None:
    theta, x, y = problem(dynamics.network)
    rest = eq.first_phase(dynamics, theta, x, 30)
    (result,) = eq.compare(
        eq.gradients(dynamics, theta, x, y, rest),
        eq.updates(dynamics, theta, x, y, rest, 1e-4, centered=True),
    )
    assert result.distance_s < 1e-6
    assert result.distance_theta < 1e-6
    assert result.angle_theta < 1e-4


@discrete_time
def test_the_theorem_holds_for_the_drives_in_discrete_time(dynamics: eq.DiscreteTime) -> None:
    theta, x, y = problem(dynamics.network)
    rest = eq.first_phase(dynamics, theta, x, 30)
    (result,) = eq.compare(
        eq.drive_gradients(dynamics, theta, x, y, rest),
        eq.updates(dynamics, theta, x, y, rest, 1e-4, centered=True),
    )
    assert result.distance_s < 1e-6
    assert result.distance_theta < 1e-6


# --- the own rule


@pytest.mark.parametrize("name", ["own cost", "own connection", "all"])
def test_the_own_rule_gives_the_gradient(name: str) -> None:
    """It works with the package's parts and with own ones."""
    dynamics = REAL_TIME[name]
    theta, x, y = problem(dynamics.network)
    exact = eq.bptt(dynamics, theta, x, y, CONVERGED).gradient
    update = extrapolated(dynamics, theta, x, y, replace(CONVERGED, beta=5e-3))
    assert distance(update.gradient, exact) < 1e-6
    assert update.free.converged


def test_the_own_rule_has_a_bias_of_fourth_order() -> None:
    """Centred EP has one of second order."""
    dynamics = REAL_TIME["own activation"]
    theta, x, y = problem(dynamics.network)
    exact = eq.bptt(dynamics, theta, x, y, CONVERGED).gradient
    betas = [0.1, 0.05, 0.025]
    for rule, order in ((eq.ep, 2), (extrapolated, 4)):
        updates = [rule(dynamics, theta, x, y, replace(CONVERGED, beta=beta)) for beta in betas]
        errors = [distance(update.gradient, exact) for update in updates]
        assert eq.order(betas, errors) == pytest.approx(order, abs=0.05)


def test_the_own_rule_fits_in_the_table() -> None:
    rule = eq.LearningRule("extrapolated", extrapolated, estimates=("centered",))
    assert rule.function is extrapolated
    assert rule.fastest(CHAIN) is extrapolated
    assert rule.fastest(POOLING) is extrapolated


class Extended(eq.Dense):
    """Its drive and its gradient have one neuron less dimension, which NumPy would extend."""

    wrong = "to_post"

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        drive = super().to_post(w, pre)[0]
        return drive[:, :1] if self.wrong == "to_post" else drive, None

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        drive = super().to_pre(w, post)
        return drive[:, :1] if self.wrong == "to_pre" else drive

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        gradient = super().gradient(pre, post)
        return gradient[:1] if self.wrong == "gradient" else gradient


@pytest.mark.parametrize("wrong", ["to_post", "to_pre", "gradient", "cost"])
def test_a_part_of_a_wrong_shape_is_refused_before_training(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Extended, "wrong", wrong)
    mean = eq.Cost("mean", eq.squared_error.value, lambda output, y: (output - y).mean(axis=0))
    own = Extended(1, 2, (4,), (3,))
    network = eq.Network(((2,), (4,), (3,)), (eq.Dense(0, 1, (2,), (4,)), own))
    dynamics = eq.DiscreteTime(network, cost=mean if wrong == "cost" else eq.squared_error)
    X, y = np.random.default_rng(0).random((6, 2)), np.arange(6) % 3
    what = "the derivative of the cost mean" if wrong == "cost" else f"{wrong} of connection w1-2"
    with pytest.raises(ValueError, match=rf"{what} must return shape \(\d, \d\) for 3 samples, got \("):
        eq.fit(dynamics, X, y, phases=eq.Phases(20, 5, beta=0.2))


def test_the_fast_twins_leave_networks_with_own_connections() -> None:
    """The fast forms of C-EP and C-VF assume dense connections, so they must not be chosen here."""
    for name in ("cep", "cvf"):
        rule = eq.RULES[name]
        assert rule.fastest(CHAIN) is not rule.fastest(POOLED_INPUT)
        assert rule.fastest(POOLED_INPUT) is rule.fastest(POOLING) is rule.fastest(STRONGEST)


# --- the benchmark counts the own connection


@pytest.mark.parametrize("steps", [1, 7])
def test_the_benchmark_counts_the_own_connection(steps: int) -> None:
    """The input drives once per phase. A step has two drives for each connection between free layers."""
    conv, pooling, dense = 4 * 4 * 3 * 3 * 2, 2 * 2 * 2, 2 * 2 * 2 * 3
    assert [c.multiplications for c in POOLING.connections] == [conv, pooling, dense]
    assert multiplications(POOLING, steps) == conv + 2 * steps * pooling + 2 * steps * dense
    assert multiplications(POOLED_INPUT, steps) == pooling + 2 * steps * dense


@pytest.mark.parametrize("steps", [1, 7])
def test_the_benchmark_leaves_out_the_first_drive_of_a_connection_with_switches(steps: int) -> None:
    """The state begins at zero, and a connection with switches does not compute the drive of zeros."""
    assert multiplications(STRONGEST, steps) == 20 + 2 * steps * 15 + (2 * steps - 1) * 3


# --- faults in them are found


class NoAverage(AveragePool):
    """Its drive to pre lacks the division by the number of pixels."""

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        return self.window**2 * super().to_pre(w, post)


class Tiled(AveragePool):
    """Its drive to pre has the right sum, but puts the numbers at wrong pixels."""

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        return np.tile(w * post / self.window**2, (1, self.window, self.window, 1))


class WrongSign(AveragePool):
    """Both drives are transposes of each other, but they are not derivatives of φ."""

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        return -super().to_post(w, pre)[0], None

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        return -super().to_pre(w, post)


class MeanGradient(AveragePool):
    """Its gradient is the mean over the batch instead of the sum."""

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return super().gradient(pre, post) / len(pre)


class SwappedChannels(AveragePool):
    """Its gradient has the channels in the wrong order."""

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return super().gradient(pre, post)[::-1].copy()


class SummedPhi(AveragePool):
    """Its φ is one number for the batch."""

    def phi(self, w: Array, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return super().phi(w, pre, post).sum()


class NotLinear(AveragePool):
    """Its drive to post is not linear."""

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        return np.tanh(super().to_post(w, pre)[0]), None


class SilentSwitches(AveragePool):
    """It returns switches and does not say so."""

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, Array]:
        return super().to_post(w, pre)[0], pre > 0


class FlatPost(AveragePool):
    """Its drive to post is a vector instead of an image."""

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        return super().to_post(w, pre)[0].reshape(len(pre), -1), None


class LooseSwitches(Strongest):
    """It does not hold the switches that it is given."""

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, Array]:
        return super().to_post(w, pre)


class NoSwitches(AveragePool):
    """It says that it has switches and returns none."""

    has_switches = True


FAULTY_POOLING = (
    NoAverage,
    Tiled,
    WrongSign,
    MeanGradient,
    SwappedChannels,
    SummedPhi,
    NotLinear,
    SilentSwitches,
    FlatPost,
    NoSwitches,
)
FAULTY = {kind.__name__: kind(1, 2, IMAGE) for kind in FAULTY_POOLING}
FAULTY["LooseSwitches"] = LooseSwitches(1, 2, (5,), (3,))


@pytest.mark.parametrize("connection", FAULTY.values(), ids=FAULTY)
@pytest.mark.parametrize("seed", range(3))
def test_the_check_finds_faults_in_a_connection(connection: eq.Connection, seed: int) -> None:
    with pytest.raises(AssertionError):
        eq.check_connection(connection)
    with pytest.raises(AssertionError):
        eq.check_connection(connection, np.random.default_rng(seed))


def theorem(dynamics: eq.RealTime, beta: float) -> float:
    """Return the distance of EP's updates from BPTT's gradients in s."""
    theta, x, y = problem(dynamics.network)
    rest = eq.first_phase(dynamics, theta, x, 30)
    (result,) = eq.compare(
        eq.gradients(dynamics, theta, x, y, rest),
        eq.updates(dynamics, theta, x, y, rest, beta, centered=True),
    )
    return result.distance_s


def with_pooling(kind: Callable[..., eq.Connection]) -> eq.RealTime:
    conv, _, dense = POOLING.connections
    network = replace(POOLING, connections=(conv, kind(1, 2, IMAGE), dense))
    return eq.RealTime(network, eq.tanh, epsilon=0.3, clamp=False)


@pytest.mark.parametrize("beta", [1e-3, 1e-5])
@pytest.mark.parametrize("name", ["own activation", "all"])
def test_the_theorem_fails_if_the_second_derivative_is_wrong(name: str, beta: float) -> None:
    """BPTT then differentiates another step than the one that EP takes. The distance stays for every β."""
    right = REAL_TIME[name]
    wrong = replace(right, sigma=replace(softplus, second=np.zeros_like))
    assert theorem(right, beta) < 1e-5
    assert theorem(wrong, beta) > 1e-2


@pytest.mark.parametrize("kind", [NoAverage, Tiled])
def test_bptt_needs_drives_that_are_transposes(kind: Callable[..., eq.Connection]) -> None:
    """BPTT goes back through the drives, so with another to_pre its gradient is not that of the cost.

    The theorem cannot find this fault, because EP and BPTT use the same wrong drives. This is why
    `check_connection` exists.
    """
    dynamics = with_pooling(kind)
    theta, x, y = problem(dynamics.network)
    phases = eq.Phases(6, 6, beta=1.0, schedule=eq.Synchronous())

    def cost(theta: Theta) -> float:
        free = eq.relax(dynamics, theta, x, steps=6, schedule=eq.Synchronous())
        return float(dynamics.cost.value(free.state[-1], y).mean())

    def gradient(theta: Theta) -> Theta:
        found = eq.bptt(dynamics, theta, x, y, phases).gradient
        return {name: found[name] for name in theta}

    with pytest.raises(AssertionError, match="they differ by"):
        eq.check_gradient(cost, gradient, theta, rng=np.random.default_rng(0), rtol=1e-5)
    assert theorem(dynamics, 1e-4) < 1e-5


@pytest.mark.parametrize(
    "fault",
    [
        {"derivative": lambda a: 2 * logistic(a)},
        {"derivative": lambda a: logistic(-a)},
        {"derivative": np.zeros_like},
        {"second": lambda a: -logistic(a) * (1 - logistic(a))},
        {"second": lambda a: logistic(a)},
        {"derivative_from_value": lambda value: 1 + np.exp(-value)},
        {"derivative_from_value": lambda value: value},
        {"value": lambda a: 1.0001 * np.logaddexp(0, a), "derivative_from_value": None},
    ],
    ids=[
        "factor",
        "mirrored",
        "zero",
        "sign of second",
        "no second",
        "sign from value",
        "other from value",
        "value",
    ],
)
def test_the_check_finds_faults_in_an_activation(fault: dict[str, Callable[[Array], Array] | None]) -> None:
    with pytest.raises(AssertionError):
        eq.check_activation(replace(softplus, **fault))


@pytest.mark.parametrize(
    "fault",
    [
        {"derivative": lambda output, target: np.sign(target - output)},
        {"derivative": lambda output, target: np.sign(output - target) / len(output)},
        {"derivative": lambda output, target: output - target},
        {"derivative": lambda output, target: np.sign(output - target)[:, ::-1]},
        {"value": lambda output, target: np.abs(output - target).sum()},
        {"value": lambda output, target: np.abs(output - target).mean(axis=1)},
    ],
    ids=[
        "sign",
        "mean over the batch",
        "other cost",
        "order of classes",
        "sum of samples",
        "mean of classes",
    ],
)
def test_the_check_finds_faults_in_a_cost(fault: dict[str, Callable[[Array, Array], Array]]) -> None:
    with pytest.raises(AssertionError):
        eq.check_cost(replace(absolute_error, **fault))


def test_a_fault_in_the_own_rule_shows_in_its_distance() -> None:
    """A wrong weight of the two estimates changes the gradient by a factor."""
    dynamics = REAL_TIME["own cost"]
    theta, x, y = problem(dynamics.network)
    exact = eq.bptt(dynamics, theta, x, y, CONVERGED).gradient
    right = extrapolated(dynamics, theta, x, y, replace(CONVERGED, beta=0.02)).gradient
    assert distance({name: -value for name, value in right.items()}, exact) > 1
    assert distance({name: 0.75 * value for name, value in right.items()}, exact) > 0.2


# --- parts that do not fit are refused


def test_an_own_connection_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="connection w0-1 has shape"):
        eq.Network(((4, 4, 2), (4, 4, 2)), (AveragePool(0, 1, IMAGE),))


@pytest.mark.parametrize("kind", [eq.RealTime, eq.DiscreteTime])
def test_parts_of_another_kind_are_refused(kind: Callable[..., Dynamics]) -> None:
    with pytest.raises(TypeError, match="sigma must be an Activation such as sigmoid, got"):
        kind(CHAIN, sigma=np.tanh)
    with pytest.raises(TypeError, match="cost must be a Cost such as squared_error or a Readout, got"):
        kind(CHAIN, cost=np.subtract)
    with pytest.raises(TypeError, match="network must be a Network such as"):
        kind([5, 6, 3])
