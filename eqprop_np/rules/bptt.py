"""Backpropagation through time, Eq. (6): the last K steps of the first phase, unrolled by hand.

    ∇_s(t) = ∂L/∂s_{T−t},    ∇_θ(t) = ∂L/∂θ_{T−t},    L = ℓ(s_T, y)

θ_{T−t} is the copy of θ that made s_{T−t} out of s_{T−t−1}. So ∇_s(0) = ∂ℓ/∂s, and one step s′ = F(s, θ)
after the other, from the last to the first,

    ∇_θ(t) = ∇_s(t)ᵀ ∂F/∂θ,    ∇_s(t+1) = ∇_s(t)ᵀ ∂F/∂s        at s = s_{T−t−1}

No derivative is written here: `eqprop_np.dynamics.step_vjp` has both products, and makes them from the
network's own drives.

∇_s(t) is that of each sample's own loss, like the nudge, which acts on each sample alone; ∇_θ(t) is
the mean over the batch, like every rule's gradient.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.cost import cost_derivative
from eqprop_np.dynamics import Dynamics, relax, step_vjp
from eqprop_np.network import Clamped, State, Switches, Theta
from eqprop_np.rules.phases import Phases, Update, free_phase


class Gradient(NamedTuple):
    """∇_s(t), and the term from which `Network.vjp_theta` makes ∇_θ(t)."""

    state: State
    term: tuple[State, State, Switches]


def loss_gradient(s: State, y: Array) -> State:
    """∇_s(0) = ∂ℓ/∂s, which is zero but for the output."""
    return (*map(np.zeros_like, s[:-1]), cost_derivative(s[-1], y))


def unroll(
    dynamics: Dynamics, theta: Theta, clamped: Clamped, trajectory: Sequence[State], u: State
) -> Iterator[Gradient]:
    """Yield Eq. (6) for t = 0, 1, …, one for each step of the trajectory.

    Parameters
    ----------
    trajectory : s_{T−K}, …, s_T, as `relax` keeps it in the synchronous schedule.
    u : ∇_s(0).
    """
    for s in reversed(trajectory[:-1]):
        back = step_vjp(dynamics, theta, clamped, s, u)
        yield Gradient(u, back.term)
        u = back.state


def bptt(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """dL/dθ through the last K steps of the first phase: the sum of the ∇_θ(t) of Eq. (6).

    These K steps are synchronous; those before follow ``phases``. With K = T the whole first phase is
    unrolled, and dL/dθ is the gradient of the loss after T steps. β has no meaning here.

    Parameters
    ----------
    x, y : the inputs (B, …) and the targets (B, classes).
    """
    steps = min(phases.nudged_steps, phases.free_steps)
    clamped, first = free_phase(dynamics, theta, x, phases, but_last=steps)
    last = relax(
        dynamics,
        theta,
        clamped,
        first.state,
        steps,
        schedule="synchronous",
        switches=first.switches,
        trajectory=True,
    )
    start = loss_gradient(last.state, y)
    terms = [g.term for g in unroll(dynamics, theta, clamped, last.trajectory, start)]
    free = replace(last, residuals=first.residuals + last.residuals, trajectory=())
    return Update(dynamics.network.vjp_theta(x, terms), free)
