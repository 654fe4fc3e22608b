"""C-EP and C-VF of a dense network without writing a weight during the second phase.

The results equal those of `eqprop_np.rules.continual` and `eqprop_np.rules.vector_field` up to rounding.
Training uses these forms, because a weight that moves at each step costs more than the drives.

**C-EP.** By Eq. (5) the weight w between two layers with activities p and q, and the bias b of q, have
moved after t steps by

    η_w (p_tᵀ q_t − p_0ᵀ q_0) / βB        η_b Σ_batch (q_t − q_0) / βB

because the sum over the steps telescopes. So the drive p_t w to q has changed by

    η_w ((p_t p_tᵀ) q_t − (p_t p_0ᵀ) q_0) / βB

and the drive q_t wᵀ to p by this expression with p and q exchanged. The matrices in brackets are B × B.
For the input, p_t = p_0 = x, and x xᵀ is computed once. The bias acts as a neuron with the constant
activity 1.

**VF and C-VF.** The input's weights and the biases move as in C-EP, so their drives are computed in this
way. The other Δ_θ(t) are not differences of one quantity at two times, so those weights move at each step.
"""

import inspect
from dataclasses import dataclass, replace
from functools import partial

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.connections import Dense
from eqprop_np.dynamics import Dynamics, Nudge, one_step
from eqprop_np.network import Activities, InputDrive, Network, Pair, Snapshot, Theta
from eqprop_np.rules.continual import require_continual
from eqprop_np.rules.phases import Phases, Update, checked, free_phase, require_plain_cost


def is_dense(network: Network) -> bool:
    """Return whether the telescoped forms apply: `Dense` connections between layers that are vectors."""
    vectors = all(len(shape) == 1 for shape in network.shapes[1:])
    return vectors and all(type(c) is Dense for c in network.connections)


def require_dense(network: Network) -> None:
    """Raise a ValueError if the telescoped forms do not apply."""
    if not is_dense(network):
        raise ValueError(
            "the telescoped form needs Dense connections between layers that are vectors: use cep, vf or cvf"
        )


@partial(checked, synchronous=True)
def telescoped_cep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return `cep` of a dense network, computed without writing a weight. It has the parameters of `cep`."""
    network = dynamics.network
    network.require_tied()
    require_dense(network)
    require_plain_cost(dynamics)
    require_continual(phases, theta)
    static, free = free_phase(dynamics, theta, x, phases)
    nudge, s, activities = Nudge(phases.beta, y), free.state, free.activities
    drive = _MovedDrive(network, static, activities, phases)
    for t in range(phases.nudged_steps):
        moved = drive.at(activities, inner=True) if t else static
        s = one_step(dynamics, theta, moved, s, nudge)
        activities = (static.x, *map(dynamics.activity, s))
    # dL/dθ = −Σ_t Δ_θ(t) = (∂Φ/∂θ(s_K) − ∂Φ/∂θ(s_0)) / (−β)
    return Update(network.contrast(Snapshot(activities, {}), free.snapshot, -phases.beta), free)


@partial(checked, synchronous=True)
def telescoped_cvf(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return `cvf` of a dense network, computed without writing the input's weights.

    It has the parameters of `cvf`.
    """
    network, beta, rates = dynamics.network, phases.beta, phases.learning_rates
    require_dense(network)
    require_plain_cost(dynamics)
    require_continual(phases, theta)
    static, free = free_phase(dynamics, theta, x, phases)
    nudge, s, activities = Nudge(beta, y), free.state, free.activities
    drive = _MovedDrive(network, static, activities, phases)
    inner: Theta = {}  # −Σ_t Δ_θ(t) of the weights between free layers
    for t in range(phases.nudged_steps):
        moved = drive.at(activities) if t else static
        s = one_step(dynamics, theta, moved, s, nudge)
        new = (static.x, *map(dynamics.activity, s))
        change = _inner_field_delta(network, activities, new, beta)
        theta = theta | {name: theta[name] + rates[name] * value for name, value in change.items()}
        inner = {name: inner.get(name, 0) - value for name, value in change.items()}
        activities = new
    difference = tuple((b - a) / (-beta * len(x)) for a, b in zip(free.activities, activities, strict=True))
    return Update(network.linear_gradient(static.x, difference, {}) | inner, free)


@partial(checked, synchronous=True)
def telescoped_vf(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return `vf` of a dense network: `telescoped_cvf` with constant θ in the second phase."""
    constant = replace(phases, learning_rates=dict.fromkeys(theta, 0.0))
    update: Update = inspect.unwrap(telescoped_cvf)(dynamics, theta, x, y, constant)
    return update


def _inner_field_delta(network: Network, old: Activities, new: Activities, beta: float) -> Theta:
    """Return Δ_θ(t) of C-VF for the weights between free layers, the mean over the batch."""
    x, *pairs = zip(old, new, strict=True)
    change = (x[0], *((b - a) / (beta * len(a)) for a, b in pairs))
    return network.field_gradient([Pair(old, change, {})], [Pair(change, old, {})])


@dataclass
class _MovedDrive:
    """The part of the drives that θ_t − θ_0 adds, as the module describes it."""

    network: Network
    static: InputDrive
    start: Activities
    phases: Phases

    def __post_init__(self) -> None:
        x = self.start[0].reshape(len(self.start[0]), -1)
        x = x.astype(np.result_type(*self.start), copy=False)  # θ may be more precise than x
        rates = self.phases.learning_rates
        self.scale = 1 / (self.phases.beta * len(x))
        gram = x @ x.T
        self.kernels = {n: np.full_like(gram, self.scale * rates[f"b{n}"]) for n in self.network.layers}
        for c in self.network.inputs:
            self.kernels[c.post] += self.scale * rates[c.name] * gram
        self.rest = {n: self.static.drives[n] - kernel @ self.start[n] for n, kernel in self.kernels.items()}

    def at(self, activities: Activities, inner: bool = False) -> InputDrive:
        """Return the input's drive at time t; with ``inner``, also what the other weights' moves add."""
        now: dict[int, Array] = dict(self.kernels)
        then: dict[int, Array] = {}
        for c in self.network.recurrent if inner else ():
            rate = self.scale * self.phases.learning_rates[c.name]
            for n, m in ((c.post, c.pre), (c.pre, c.post)):
                now[n] = now[n] + rate * (activities[m] @ activities[m].T)
                then[n] = then.get(n, 0) + rate * (activities[m] @ self.start[m].T)
        drives = {n: self.rest[n] + kernel @ activities[n] for n, kernel in now.items()}
        for n, kernel in then.items():
            drives[n] -= kernel @ self.start[n]
        return self.static._replace(drives=drives)
