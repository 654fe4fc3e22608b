"""How the state moves: Eq. (1) in real time, Eq. (3) in discrete time, and `relax`.

Both dynamics nudge the output towards the target when they are given a `Nudge`. Each is written for
one layer at a time; `step` puts the layers together as Eq. (1) has it, and `relax` repeats it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from eqprop_np.activations import Activation, Array, hard_sigmoid, sigmoid
from eqprop_np.cost import cost_derivative
from eqprop_np.network import Clamped, Network, State, Switches, Theta

Schedule = Literal["alternating", "synchronous"]
SCHEDULES = ("alternating", "synchronous")


class Nudge(NamedTuple):
    """The force −β ∂ℓ/∂ŷ on the output, towards ``target`` (B, classes) where β is positive."""

    beta: float
    target: Array


@dataclass(frozen=True)
class DiscreteTime:
    """The discrete-time ("prototypical") dynamics, Eq. (3):

        s^n ← σ(∂Φ/∂s^n(x, s, θ)),    s^N ← σ(∂Φ/∂s^N) − β ∂ℓ/∂s^N

    The nudge stands outside σ and uses the old output.
    """

    network: Network
    sigma: Activation = sigmoid

    def rates(self, s: Array) -> Array:
        """What the other layers, and Φ, see of a layer: here its state."""
        return s

    def update(self, s: Array, drive: Array, force: Array | None) -> Array:
        """A layer's next state from ``drive`` = ∂Φ/∂s^n, which it overwrites, and the nudge's force."""
        new = self.sigma.value(drive, out=drive)
        if force is not None:
            new += force
        return new

    def update_vjp(self, s: Array, drive: Array, u: Array) -> tuple[Array, Array]:
        """Carry u back through `update` without a force: to s, and to ``drive``."""
        return np.zeros_like(s), self.sigma.derivative(drive) * u

    def rates_vjp(self, s: Array, u: Array) -> Array:
        """Carry u back through `rates`."""
        return u

    def nudge_scale(self) -> float:
        """The β of Eqs. (1), (2) and (7), in units of the nudge's β."""
        return 1.0

    def inertia(self, omega: float) -> float:
        """How far a layer is from rest after a move of 1, if the others stay: it overshot by 1 − 1/ω."""
        return abs(1 - 1 / omega)

    def nudged_omega(self, omega: float) -> float:
        """The over-relaxation of a second phase: none, or the nudge outside σ makes the output swing."""
        return 1.0


@dataclass(frozen=True)
class RealTime:
    """The real-time ("energy-based") dynamics, an Euler step of ds/dt = −∂E/∂s − β ∂ℓ/∂s:

        E = ½‖s‖² − Φ(x, ρ(s), θ)
        s ← s + ε(ρ′(s) ∂Φ/∂ρ − s − β ∂ℓ/∂s)

    This is Eq. (1) with the primitive function ½‖s‖² − εE, a nudge εβ, and an update of θ that is ε
    times that of Φ; in Eq. (2), ε cancels. ``clamp`` keeps s within [0, 1], as the authors do in
    training.
    """

    network: Network
    sigma: Activation = sigmoid
    epsilon: float = 0.2
    clamp: bool = True

    def rates(self, s: Array) -> Array:
        """What the other layers, and Φ, see of a layer: ρ(s)."""
        return self.sigma.value(s)

    def update(self, s: Array, drive: Array, force: Array | None) -> Array:
        """A layer's next state from ``drive`` = ∂Φ/∂ρ^n, which it overwrites, and the nudge's force."""
        new = self._euler(s, drive, force)
        return np.clip(new, 0, 1, out=new) if self.clamp else new

    def _euler(self, s: Array, drive: Array, force: Array | None) -> Array:
        new = drive
        new *= self.sigma.derivative(s)
        new -= s
        if force is not None:
            new += force
        new *= self.epsilon
        new += s
        return new

    def update_vjp(self, s: Array, drive: Array, u: Array) -> tuple[Array, Array]:
        """Carry u back through `update` without a force: to s, and to ``drive``."""
        if self.clamp:  # its derivative is 1 on the closed interval, as the hard sigmoid's
            u = hard_sigmoid.derivative(self._euler(s, drive.copy(), None)) * u
        to_s = (1 - self.epsilon + self.epsilon * self.sigma.second(s) * drive) * u
        return to_s, self.epsilon * self.sigma.derivative(s) * u

    def rates_vjp(self, s: Array, u: Array) -> Array:
        """Carry u back through `rates`."""
        return self.sigma.derivative(s) * u

    def nudge_scale(self) -> float:
        """The β of Eqs. (1), (2) and (7), in units of the nudge's β: ε."""
        return self.epsilon

    def inertia(self, omega: float) -> float:
        """As in `DiscreteTime`, but a move of 1 is one of many small ones, and counts in full."""
        return 1.0

    def nudged_omega(self, omega: float) -> float:
        """The over-relaxation of a second phase: the same, since ω only lengthens the Euler step."""
        return omega


Dynamics = DiscreteTime | RealTime


@dataclass(frozen=True)
class Relaxation:
    """What `relax` found.

    Attributes
    ----------
    state : (s¹, …, s^N) at the end.
    rates : what Φ sees of it: the state itself, or ρ(s) in real time.
    switches : where the maxima of each pooling connection stand at ``state``.
    residuals : one per step taken: the largest move of a neuron (see `relax`).
    converged : whether the last residual was at most the tolerance (zero, if there was none).
    trajectory : every state from the first to the last if it was asked for, else empty.
    """

    state: State
    rates: State
    switches: Switches
    residuals: tuple[float, ...]
    converged: bool
    trajectory: tuple[State, ...]

    @property
    def steps(self) -> int:
        return len(self.residuals)


def step(dynamics: Dynamics, theta: Theta, x: Array, s: State, nudge: Nudge | None = None) -> State:
    """One step of Eq. (1), or with ``nudge`` of its second phase: every layer moves at once."""
    return relax(dynamics, theta, x, s, 1, nudge=nudge, schedule="synchronous").state


class StepVjp(NamedTuple):
    """What `step_vjp` found.

    Attributes
    ----------
    state : uᵀ ∂s′/∂s.
    term : (rates, v, switches) of the step, with v what u amounts to at the drives: what
        `Network.vjp_theta` needs for uᵀ ∂s′/∂θ, from one step or from several at once.
    """

    state: State
    term: tuple[State, State, Switches]


def step_vjp(dynamics: Dynamics, theta: Theta, clamped: Clamped, s: State, u: State) -> StepVjp:
    """The vector-Jacobian product of the free step s′ = `step`(s): u, one array per layer, carried back.

    Backwards through `update`, the drives and `rates`, in this order. The middle one is the
    network's own drives again, `Network.vjp_s`.
    """
    network = dynamics.network
    rates = tuple(dynamics.rates(value) for value in s)
    drives, switches = network.drives(theta, rates, clamped.drive, {})
    parts = [dynamics.update_vjp(s[n - 1], drives[n], u[n - 1]) for n in network.layers]
    direct, v = zip(*parts, strict=True)
    through = network.vjp_s(theta, v, switches)
    back = [a + dynamics.rates_vjp(value, b) for a, value, b in zip(direct, s, through, strict=True)]
    return StepVjp(tuple(back), (rates, v, clamped.switches | switches))


def relax(
    dynamics: Dynamics,
    theta: Theta,
    x: Array | Clamped,
    s: State | None,
    steps: int,
    *,
    nudge: Nudge | None = None,
    schedule: Schedule = "alternating",
    omega: float = 1.0,
    tol: float | None = None,
    switches: Switches | None = None,
    trajectory: bool = False,
) -> Relaxation:
    """Let the state move, for ``steps`` steps or until it is at rest.

    Parameters
    ----------
    x : the input (B, …), or what `Network.clamp` made of it, to share that between phases.
    s : the state to start from; None starts at zero.
    schedule : "synchronous" is Eq. (1) to the letter, all layers at once. "alternating" updates the
        odd layers, then the even ones, as one step, to the same steady states. In discrete time and a
        layered network the free synchronous iteration is two interleaved chains that never meet, and
        this follows one of them, two synchronous steps at a time. (In real time, under a nudge and under
        the switches of a free layer, a layer depends on its own last state too, and the chains meet.) A
        nudged phase begins with the output's group.
    omega : over-relaxation: move each layer ω times as far as the dynamics would. The steady states
        stay; for 1 < ω < 2 the alternating schedule often needs half as many steps (Notes).
    tol : stop when the residual is at most this; None or 0 takes every step.
    switches : those that belong to ``s``, if they are known.
    trajectory : keep every state.

    Notes
    -----
    The residual is the largest absolute move of any neuron over a step. In the alternating schedule
    the layers that move first follow from those that move last, so that of their own moves, without a
    nudge, only the dynamics' `inertia` counts: in discrete time nothing, if ω = 1.

    Alternating updates are a Gauss-Seidel iteration on a graph of two colours, and with ω successive
    over-relaxation: if alternating contracts by λ per step near the steady state, with real λ as the
    symmetric weights give it, then ω = 2/(1 + √(1 − λ)) contracts by ω − 1 (D. Young, 1954): λ = 0.65
    becomes 0.26. In real time, ω multiplies ε. In discrete time with ω > 1 the neurons overshoot
    rest at each step, nearly all to the same side, which the residual, the worst neuron's, does not show
    and a one-sided estimate divides by β: so a large ω wants a small ``tol``.
    """
    network = dynamics.network
    clamped = x if isinstance(x, Clamped) else network.clamp(theta, x)
    state = list(network.zeros(len(clamped.x), clamped.x.dtype) if s is None else s)
    rates = [dynamics.rates(value) for value in state]
    switches = {} if switches is None else dict(switches)
    groups = _groups(network, schedule, nudged=nudge is not None)
    residuals: list[float] = []
    states = [tuple(state)]
    while len(residuals) < steps and not (tol and residuals and residuals[-1] <= tol):
        moves: list[float] = []
        for group in groups:
            drives, switches = network.drives(theta, rates, clamped.drive, switches, group)
            to_go = 1.0 if group is groups[-1] or nudge else dynamics.inertia(omega)
            for n in group:
                old = state[n - 1]
                force = (
                    -nudge.beta * cost_derivative(old, nudge.target) if nudge and n == network.depth else None
                )
                new = dynamics.update(old, drives[n], force)
                if omega != 1:
                    new -= old
                    new *= omega
                    new += old
                if to_go:
                    moves.append(to_go * float(np.abs(new - old).max()))
                state[n - 1], rates[n - 1] = new, dynamics.rates(new)
        residuals.append(max(moves))
        if trajectory:
            states.append(tuple(state))
    for c in network.recurrent:
        # Moved since its switches were found, or never asked for them.
        if c.pools and (c.pre in groups[-1] or c.name not in switches):
            switches[c.name] = c.to_post(theta[c.name], rates[c.pre - 1])[1]
    return Relaxation(
        state=tuple(state),
        rates=tuple(rates),
        switches=clamped.switches | switches,
        residuals=tuple(residuals),
        converged=bool(residuals) and residuals[-1] <= (tol or 0),
        trajectory=tuple(states) if trajectory else (),
    )


def _groups(network: Network, schedule: Schedule, nudged: bool) -> Sequence[tuple[int, ...]]:
    """The layers that move together, in the order in which they do."""
    if schedule == "synchronous" or not network.recurrent:
        return (tuple(network.layers),)
    first, second = network.colours
    # News comes from the input, and in the second phase from the output: whoever hears it first moves first.
    return (second, first) if nudged and network.depth in second else (first, second)
