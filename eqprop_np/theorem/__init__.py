"""Theorem 1: the updates of EP are the gradients of BPTT, Eqs. (7)-(8).

    Δ_s(t) = (s_{t+1} − s_t) / β,    Δ_θ(t) = (∂Φ/∂θ(s_{t+1}) − ∂Φ/∂θ(s_t)) / β        Eq. (7)
    Δ_s(t) → −∇_s(t),                Δ_θ(t) → −∇_θ(t)                                    Eq. (8)

in the limit η → 0 and β → 0. Here s_0 = s_*, the first phase has been at its steady state for K steps, and ∇
are the gradients of Eq. (6). The abstract prints s_{t+1} twice in Δ_θ(t).

**Why.** The nudge displaces the output by −β ∂ℓ/∂s. The step s′ = F(s) multiplies a small displacement
by ∂F/∂s, and BPTT multiplies ∂ℓ/∂s by (∂F/∂s)ᵀ. Both start from the same vector. In real time F = ∂Φ/∂s, so
both matrices are the symmetric ∂²Φ/∂s².

**The limits do not commute.** At a given η, θ moves by η Δ_θ whatever β is. So s moves by an amount of
order η, and Δ_s divides this amount by β. Therefore η/β must vanish: first η → 0, then β → 0. Eq. (8)
prints the opposite order.

**Discrete time.** Here F = σ(a) with the drive a = ∂Φ/∂s. The Jacobian is D·W with D = diag(σ′(a)) and
W = ∂²Φ/∂s², and BPTT multiplies by its transpose W·D, which is another matrix. But D (W·D)^t = (D·W)^t D. So
BPTT's gradients with respect to the *drives*, D·∇_s(t), follow EP's −Δ_s(t) if both begin in the same way.
They do not, because the nudge is added outside σ: EP begins with ∂ℓ/∂s and BPTT with D·∂ℓ/∂s. This factor,
σ′ of the output, is the only difference between Δ_θ and −∇_θ, whatever the depth. Without it the theorem is
exact again (`drive_gradients`). So EP follows the exact gradient of another loss, with
∂ℓ̃/∂ŷ = (ŷ − y)/σ′(a). For the sigmoid, where σ′ = 4ŷ(1 − ŷ), ℓ̃ is a quarter of the cross-entropy.

For a hard sigmoid σ′ is 1 or 0. So the theorem is exact in θ for a sample, unless an output that differs from
its target is saturated. With max-pooling the drive is not continuous: the state jumps if a nudge is large
enough to move a switch.

``python -m eqprop_np.theorem --system toy`` prints the numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import (
    as_python,
    check_beta,
    check_integer,
    check_kind,
    check_target,
    describe,
    is_number,
)
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, check_arguments, one_step
from eqprop_np.network import State, Theta
from eqprop_np.relaxation import Relaxation, Synchronous, settle, tight_schedule
from eqprop_np.rules.bptt import loss_gradient, unroll
from eqprop_np.rules.continual import Delta, continual_phase, contrast_delta
from eqprop_np.rules.phases import require_plain_cost
from eqprop_np.rules.vector_field import angle_between


class Moment(NamedTuple):
    """A process, Δ or ∇, at one t.

    Attributes
    ----------
    state : tuple of ndarray, each (B, …)
        One array per layer, with a value for each sample.
    theta : dict of ndarray
        One array per parameter, the mean over the batch.
    """

    state: State
    theta: Theta

    def parts(self) -> dict[str, Array]:
        """Return all arrays by name; "s1" is layer 1."""
        return {f"s{n}": value for n, value in enumerate(self.state, start=1)} | self.theta


# ---- the first phase


class NotConverged(RuntimeError):
    """The first phase has not converged, so Theorem 1 does not apply."""


def first_phase(dynamics: Dynamics, theta: Theta, x: Array, steps: int, limit: int = 100_000) -> Relaxation:
    """Return a first phase whose last K steps are at the steady state, with their trajectory.

    The alternating schedule runs until it converges. It finds a steady state even where the two
    interleaved sequences of the synchronous schedule would end in different ones. K synchronous steps
    follow. "Converged" means that no neuron changes by more than 8 times the machine epsilon of the dtype
    of x and θ. A graph with a cycle of odd length takes synchronous steps only.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    steps : int
        K.
    limit : int
        The largest number of alternating steps.

    Raises
    ------
    NotConverged
        If a neuron still changes after ``limit`` steps, or if the state is no longer finite.
    TypeError, ValueError
        If an argument does not fit the network.
    """
    check_arguments(dynamics, theta, x)
    check_integer("steps", steps, least=1)
    check_integer("limit", limit, least=1)
    tolerance = float(8 * np.finfo(np.result_type(x, *theta.values())).eps)
    static = dynamics.input_drive(theta, x)
    settled = settle(dynamics, theta, static, None, limit, tight_schedule(dynamics.network, tolerance / 2))
    if not all(np.isfinite(value).all() for value in settled.state):
        raise NotConverged(
            f"the first phase has not converged: after {settled.steps} steps the state contains NaN or "
            "infinity: choose weights with which the network converges"
        )
    rest = settle(dynamics, theta, static, settled.state, steps, Synchronous(), trajectory=True)
    if not max(rest.residuals) <= tolerance:
        raise NotConverged(
            "the first phase has not converged: a neuron still changes by "
            f"{max(rest.residuals):.1e} per step after {settled.steps} steps, but Theorem 1 allows "
            f"{tolerance:.1e} for K = {steps} steps: "
            "allow more steps, or choose weights with which the network converges"
        )
    return rest


# ---- the processes


def updates(
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    y: Array,
    rest: Relaxation,
    beta: float,
    *,
    eta: float = 0.0,
    centered: bool = False,
    delta: Delta = contrast_delta,
) -> Iterator[Moment]:
    """Yield Δ_s(t) and Δ_θ(t) of Eq. (7) for t = 0…K−1, of EP, or of C-EP if η > 0.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    rest : Relaxation
        The first phase (`first_phase`). K is its number of steps.
    beta : float
        The strength of the nudge. In real time the β of Eq. (7) is ε times it.
    eta : float
        After each step θ moves by η Δ_θ(t), as in Eq. (5).
    centered : bool
        Yield the mean of the processes with β and −β, whose distance from the limit is O(β²).
    delta : callable
        Δ_θ(t). `eqprop_np.rules.vector_field.field_delta` gives VF and C-VF.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, or if the weights are untied and ``delta`` needs a Φ. They
        are raised by the call, before the first t.
    """
    y = _check(dynamics, theta, x, y, rest)
    check_beta(beta)
    if not is_number(eta):
        raise ValueError(f"eta must be a finite number, got {describe(eta)}")
    if not callable(delta):
        raise TypeError(f"delta must be a function such as contrast_delta, got {describe(delta)}")
    if delta is contrast_delta:
        dynamics.network.require_tied()
    beta, eta = as_python(beta), as_python(eta)
    if not centered:
        return ep_process(dynamics, theta, x, y, rest, beta, eta, delta)
    pair = (ep_process(dynamics, theta, x, y, rest, b, eta, delta) for b in (beta, -beta))
    return map(_mean, *pair)


def ep_process(
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    y: Array,
    rest: Relaxation,
    beta: float,
    eta: float,
    delta: Delta = contrast_delta,
) -> Iterator[Moment]:
    """Yield Eq. (7) for t = 0…K−1: `updates` with one β and without its checks."""
    s, nudge, rates = rest.state, Nudge(beta, y), dict.fromkeys(theta, eta)
    scale = beta * dynamics.nudge_scale  # the β of Eq. (7) for Δ_s; in Δ_θ the ε of real time cancels
    for instant in continual_phase(dynamics, theta, x, s, nudge, rates, rest.steps, delta):
        changes = zip(instant.state, s, strict=True)
        delta_s = tuple((after - before) / scale for after, before in changes)  # Δ_s(t)
        yield Moment(delta_s, instant.delta)  # Δ_θ(t)
        s = instant.state


def _mean(a: Moment, b: Moment) -> Moment:
    state = tuple((p + q) / 2 for p, q in zip(a.state, b.state, strict=True))
    return Moment(state, {name: (value + b.theta[name]) / 2 for name, value in a.theta.items()})


def gradients(dynamics: Dynamics, theta: Theta, x: Array, y: Array, rest: Relaxation) -> Iterator[Moment]:
    """Yield ∇_s(t) and ∇_θ(t) of BPTT, Eq. (6), for t = 0…K−1.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    rest : Relaxation
        The K synchronous steps that `first_phase` returns.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, or if the trajectory is not one of synchronous steps of
        these dynamics with this θ and x.
    """
    y = _check(dynamics, theta, x, y, rest)
    _check_trajectory(dynamics, theta, x, rest)
    return bptt_process(dynamics, theta, x, y, rest)


def bptt_process(dynamics: Dynamics, theta: Theta, x: Array, y: Array, rest: Relaxation) -> Iterator[Moment]:
    """Yield Eq. (6) for t = 0…K−1: `gradients` without its checks."""
    static, start = dynamics.input_drive(theta, x), loss_gradient(dynamics, theta, rest.state, y)
    for g in unroll(dynamics, theta, static, rest.trajectory, start):
        yield Moment(g.state, dynamics.network.vjp_theta([g.term]))


def drive_gradients(
    dynamics: DiscreteTime, theta: Theta, x: Array, y: Array, rest: Relaxation
) -> Iterator[Moment]:
    """Yield the gradients that EP's updates are equal to in discrete time.

    They are taken with respect to the drives, and they begin with ∂ℓ/∂s. The parameters and the errors are
    those of `gradients`.
    """
    check_kind("dynamics", dynamics, DiscreteTime, "DiscreteTime(...), in real time use gradients")
    y = _check(dynamics, theta, x, y, rest)
    _check_trajectory(dynamics, theta, x, rest)
    return _drive_gradients(dynamics, theta, x, y, rest)


def _drive_gradients(
    dynamics: DiscreteTime, theta: Theta, x: Array, y: Array, rest: Relaxation
) -> Iterator[Moment]:
    network, v = dynamics.network, loss_gradient(dynamics, theta, rest.state, y)
    yield Moment(v, network.vjp_theta([(rest.snapshot, v)]))
    u = network.vjp_s(theta, v, rest.switches)
    for g in unroll(dynamics, theta, dynamics.input_drive(theta, x), rest.trajectory[:-1], u):
        _, v = g.term
        yield Moment(v, network.vjp_theta([g.term]))


def _check(dynamics: Dynamics, theta: Theta, x: Array, y: Array, rest: Relaxation) -> Array:
    """Check the arguments of a process and return y as a float array."""
    check_kind("rest", rest, Relaxation, "the Relaxation that first_phase returns")
    check_arguments(dynamics, theta, x, rest.state)
    require_plain_cost(dynamics)
    return check_target(dynamics.target_shape, y, x)


def _check_trajectory(dynamics: Dynamics, theta: Theta, x: Array, rest: Relaxation) -> None:
    if len(rest.trajectory) < 2:
        raise ValueError(
            f"rest must have the trajectory of at least one step, got {len(rest.trajectory)} states: "
            "use the Relaxation that first_phase returns"
        )
    static = dynamics.input_drive(theta, x)
    for before, after in pairwise(rest.trajectory):
        step = one_step(dynamics, theta, static, before)
        if not all(np.allclose(a, b, 0, 1e-5 * np.abs(b).max()) for a, b in zip(step, after, strict=True)):
            raise ValueError(
                "rest must have a trajectory of synchronous steps with this theta and x, but one of its "
                "steps differs: use the Relaxation that first_phase returns, or the schedule Synchronous()"
            )


# ---- their distance


@dataclass
class Comparison:
    """The distance of Δ from −∇, the two sides of Eq. (8), over all t.

    Attributes
    ----------
    errors, norms : dict
        Σ_t ‖Δ(t) + ∇(t)‖² and Σ_t ‖∇(t)‖², for each layer and parameter.
    total_delta, total_nabla : dict of ndarray
        Σ_t Δ_θ(t) and Σ_t ∇_θ(t).
    """

    errors: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    total_delta: Theta = field(default_factory=dict)
    total_nabla: Theta = field(default_factory=dict)

    def add(self, delta: Moment, nabla: Moment) -> None:
        """Add the two processes at one t."""
        nablas = nabla.parts()
        for name, value in delta.parts().items():
            self.errors[name] = self.errors.get(name, 0.0) + _square(value + nablas[name])
            self.norms[name] = self.norms.get(name, 0.0) + _square(nablas[name])
        for name in delta.theta:
            self.total_delta[name] = self.total_delta.get(name, 0) + delta.theta[name]
            self.total_nabla[name] = self.total_nabla.get(name, 0) + nabla.theta[name]

    def distance(self, *names: str) -> float:
        """Return ‖Δ + ∇‖ / ‖∇‖ over all t and over the named layers or parameters.

        Where ∇ is zero it is 0 if Δ is zero too, and infinite otherwise.
        """
        error, norm = sum(self.errors[n] for n in names), sum(self.norms[n] for n in names)
        if norm == 0:
            return 0.0 if error == 0 else float("inf")
        return float(np.sqrt(error / norm))

    @property
    def distance_s(self) -> float:
        """`distance` over all layers."""
        return self.distance(*(name for name in self.errors if name not in self.total_delta))

    @property
    def distance_theta(self) -> float:
        """`distance` over all parameters."""
        return self.distance(*self.total_delta)

    @property
    def angle_theta(self) -> float:
        """The angle between Σ_t Δ_θ(t) and −Σ_t ∇_θ(t), all parameters in one vector, in degrees.

        It is NaN if one of them is zero.
        """
        delta, nabla = (
            np.concatenate([total[name].ravel() for name in self.total_delta])
            for total in (self.total_delta, self.total_nabla)
        )
        return angle_between(delta, -nabla)


def _square(a: Array) -> float:
    return float((a * a).sum())


def compare(nablas: Iterable[Moment], *processes: Iterable[Moment]) -> list[Comparison]:
    """Return the comparison of each process with the same gradients, Eq. (8). All advance in t together.

    Parameters
    ----------
    nablas : iterable of Moment
        ∇(t) for each t, such as `gradients` yields.
    *processes : iterable of Moment
        Δ(t) for each t, such as `updates` yields, as many as there are gradients.

    Raises
    ------
    ValueError
        If there is no t, or if the numbers of t differ.

    Examples
    --------
    >>> one = Moment((np.array([[1.0]]),), {"b1": np.array([1.0])})
    >>> two = Moment((np.array([[-1.1]]),), {"b1": np.array([-1.0])})
    >>> (comparison,) = compare([one], [two])
    >>> print(round(comparison.distance_s, 6), comparison.distance_theta)
    0.1 0.0
    """
    comparisons = [Comparison() for _ in processes]
    for nabla, *deltas in zip(nablas, *processes, strict=True):
        for comparison, delta in zip(comparisons, deltas, strict=True):
            comparison.add(delta, nabla)
    if not all(comparison.norms for comparison in comparisons):
        raise ValueError("there must be at least one t to compare, got none")
    return comparisons


def order(betas: Sequence[float], distances: Sequence[float]) -> float:
    """Return the slope of log distance against log β.

    Parameters
    ----------
    betas, distances : sequence of float
        At least two positive numbers each.

    Raises
    ------
    ValueError
        If there are fewer than two points, or if a number is not positive and finite.

    Examples
    --------
    >>> print(round(order([1e-1, 1e-2, 1e-3], [4e-2, 4e-4, 4e-6]), 6))
    2.0
    """
    x, y = np.asarray(betas, float), np.asarray(distances, float)
    if x.shape != y.shape or x.ndim != 1 or len(x) < 2:
        raise ValueError(
            f"betas and distances must be two or more numbers each, got the shapes {x.shape} and {y.shape}"
        )
    if not all(((value > 0) & (value < np.inf)).all() for value in (x, y)):
        raise ValueError("betas and distances must be positive and finite: a slope needs their logarithms")
    return float(np.polyfit(np.log(x), np.log(y), 1)[0])
