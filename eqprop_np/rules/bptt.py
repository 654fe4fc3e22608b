"""Backpropagation through time, Eq. (6): the last K steps of the first phase, unrolled by hand.

    ∇_s(t) = ∂L/∂s_{T−t},    ∇_θ(t) = ∂L/∂θ_{T−t},    L = ℓ(s_T, y)

θ_{T−t} is the copy of θ with which s_{T−t} is computed from s_{T−t−1}. So ∇_s(0) = ∂ℓ/∂s, and then, for one
step s′ = F(s, θ) after the other, from the last to the first,

    ∇_θ(t) = ∇_s(t)ᵀ ∂F/∂θ,    ∇_s(t+1) = ∇_s(t)ᵀ ∂F/∂s        at s = s_{T−t−1}

Both products come from `eqprop_np.dynamics.LinearStep`, which computes them with the network's own drives.

∇_s(t) is the gradient of each sample's own loss, because the nudge too acts on each sample separately.
∇_θ(t) is the mean over the batch, like the gradient of every rule.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, linear_step
from eqprop_np.network import InputDrive, Snapshot, State, Theta
from eqprop_np.relaxation import Synchronous, settle
from eqprop_np.rules.phases import Phases, Update, checked, cost_gradient, free_phase


class Gradient(NamedTuple):
    """Eq. (6) at one t.

    Attributes
    ----------
    state : tuple of ndarray
        ∇_s(t).
    term : (Snapshot, tuple of ndarray)
        The state, and ∇_s(t) carried to the drives of the step. `Network.vjp_theta` turns them into ∇_θ(t),
        or into the sum of several.
    """

    state: State
    term: tuple[Snapshot, State]


def loss_gradient(dynamics: Dynamics, theta: Theta, s: State, y: Array) -> State:
    """Return ∇_s(0) = ∂ℓ/∂s, which is zero except for the output."""
    return (*map(np.zeros_like, s[:-1]), dynamics.cost.at(theta).derivative(s[-1], y))


def unroll(
    dynamics: Dynamics, theta: Theta, static: InputDrive, trajectory: Sequence[State], u: State
) -> Iterator[Gradient]:
    """Yield ∇_s(t) and ∇_θ(t) of Eq. (6) for t = 0, 1, …, one for each step of the trajectory.

    Parameters
    ----------
    trajectory : sequence of states
        s_{T−K}, …, s_T of synchronous steps.
    u : tuple of ndarray
        ∇_s(0).
    """
    for s in reversed(trajectory[:-1]):
        F = linear_step(dynamics, theta, static, s)
        yield Gradient(u, (F.at, F.at_drives(u)))  # ∇_s(t), ∇_θ(t) = ∇_s(t)ᵀ ∂F/∂θ
        u = F.vjp(u)  # ∇_s(t+1) = ∇_s(t)ᵀ ∂F/∂s


@partial(checked, signs="none")
def bptt(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ through the last K steps of the first phase: the sum of the ∇_θ(t) of Eq. (6).

    These K steps are synchronous, and the steps before follow the schedule of ``phases``. With K = T the
    whole first phase is unrolled, and dL/dθ is the gradient of the loss after T steps. A larger K counts
    as T.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        β is not used.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.
    """
    steps = min(phases.nudged_steps, phases.free_steps)
    static, first = free_phase(dynamics, theta, x, phases, without_last=steps)
    last = settle(dynamics, theta, static, first.state, steps, Synchronous(), trajectory=True)
    start = loss_gradient(dynamics, theta, last.state, y)
    terms = [g.term for g in unroll(dynamics, theta, static, last.trajectory, start)]
    free = replace(
        last,
        residuals=first.residuals + last.residuals,
        converged=last.residuals[-1] <= phases.schedule.tol,
        trajectory=(),
    )
    gradient = dynamics.network.vjp_theta(terms) | cost_gradient(dynamics, theta, y, last.state)
    return Update(gradient, free)
