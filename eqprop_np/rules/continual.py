"""C-EP: in the second phase neurons and weights move together, Eq. (5).

    s_{t+1} = ∂Φ/∂s(x, s_t, θ_t) − β ∂ℓ/∂s(s_t)
    θ_{t+1} = θ_t + η Δ_θ(t),    Δ_θ(t) = (∂Φ/∂θ(x, s_{t+1}) − ∂Φ/∂θ(x, s_t)) / β

(The abstract prints θ_{t+1} where the second line has θ_t.) No synapse has to remember the first phase:
it follows what its two neurons do now. Each parameter has its own η, and moves by the mean over the
batch. In real time s counts as ρ(s), and ε cancels, as in Eq. (2).

Over the whole phase θ moves by η Σ_t Δ_θ(t). So the rule returns −Σ_t Δ_θ(t) for dL/dθ: one step of SGD
at the same rates then leads from θ_0 to θ_K. With η = 0 the sum is Eq. (2).

**The static input.** Call a layer's s^n simply s, and let w be the weight from x to it and b its bias.
They move by

    Δ_w(t) = xᵀ (s_{t+1} − s_t) / βB,    Δ_b(t) = Σ_batch (s_{t+1} − s_t) / βB

in which x does not depend on t: the sum over t telescopes. After t steps, x w + b has moved by

    (η_w x xᵀ + η_b) (s_t − s_0) / βB

whose first factor is one number for each pair of samples, B × B, the same throughout. So the phase needs
neither w, which is written once it is over, nor a product with it.

**The other weights** telescope in C-EP too. Between two free layers, a and b, w has moved after t steps by
η (a_tᵀ b_t − a_0ᵀ b_0) / βB, and so a_t w by

    η ((a_t a_tᵀ) b_t − (a_t a_0ᵀ) b_0) / βB

with B × B in the brackets again: no weight is written before the phase is over. In C-VF, whose Δ_θ(t) is not
the difference of one quantity at two times, these weights move step by step.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.cost import cost_derivative
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Clamped, Network, State, Switches, Theta
from eqprop_np.rules.phases import Phases, Update, free_phase


class Instant(NamedTuple):
    """The second phase at one t.

    Attributes
    ----------
    state, rates, switches : s_t, what Φ sees of it, and its switches, as in a `Relaxation`.
    delta : the Δ_θ of the step that led here, the mean over the batch; empty at t = 0.
    """

    state: State
    rates: State
    switches: Switches
    delta: Theta


Delta = Callable[[Network, float, Instant, Instant], Theta]
"""Maps (network, β, s_t, s_{t+1}) to Δ_θ(t) of the weights between free layers."""


def cep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """dL/dθ by continual equilibrium propagation: minus the sum of the Δ_θ(t) of Eq. (5).

    Parameters
    ----------
    x, y : the inputs (B, …) and the targets (B, classes).
    phases : with a rate for each parameter; a ``random-sign`` estimate must have been drawn. The second
        phase is synchronous whatever the schedule, as Eq. (5) is.

    Raises
    ------
    ValueError
        If the estimate is centred, or a parameter has no rate.
    """
    return continual(dynamics, theta, x, y, phases, contrast, additive=True)


def contrast(network: Network, beta: float, old: Instant, new: Instant) -> Theta:
    """Δ_θ(t) of Eq. (5), for the weights between free layers."""
    terms = [(1 / beta, new.rates, new.switches), (-1 / beta, old.rates, old.switches)]
    return network.inner_dphi_dtheta(terms)


def continual(
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    y: Array,
    phases: Phases,
    delta: Delta,
    *,
    additive: bool = False,
) -> Update:
    """`cep`, with any other ``delta`` in the place of Eq. (5)'s.

    Parameters
    ----------
    additive : whether the deltas of several steps add up to the ``delta`` from the first state to the last.
    """
    if phases.estimate == "centered":
        raise ValueError("weights that move with the neurons see one nudge: choose one-sided or random-sign")
    if missing := sorted(theta.keys() - phases.rates.keys()):
        raise ValueError(f"a continual rule moves every parameter, but Phases.rates lacks {missing}")
    network = dynamics.network
    clamped, free = free_phase(dynamics, theta, x, phases)
    start = Instant(free.state, free.rates, free.switches, {})
    flat = all(len(shape) == 1 for shape in network.shapes[1:])  # no pooling, no shared biases
    step_by_step = None if flat and additive else delta
    gradient: Theta = {}
    for s in second_phase(dynamics, theta, clamped, start, y, phases, step_by_step, telescope=flat):
        for name, value in s.delta.items():
            if name in gradient:
                gradient[name] -= value
            else:
                gradient[name] = -value
    if step_by_step is None:
        gradient = delta(network, phases.beta, s, start)  # from s_K to s_0: a minus
    if flat:
        gradient |= _outer_delta(network, x, phases.beta, s, start)
    return Update(gradient, free)


def second_phase(
    dynamics: Dynamics,
    theta: Theta,
    clamped: Clamped,
    start: Instant,
    y: Array,
    phases: Phases,
    delta: Delta | None,
    *,
    telescope: bool = False,
) -> Iterator[Instant]:
    """Eq. (5) from s_0 (``start``): yield t = 1…K.

    Parameters
    ----------
    clamped : `Network.clamp` of ``theta`` and the inputs.
    phases : with a rate for each parameter.
    delta : None, with ``telescope``, for Eq. (5)'s without one step's Δ_θ by itself.
    telescope : get the drive of x as this module's head has it, which needs layers without pixels; the
        deltas then are of the weights between free layers alone. Without ``delta``, what these weights'
        moves change in their drives is got so too.
    """
    network, x, beta = dynamics.network, clamped.x, phases.beta
    follow = _telescoped(network, clamped, start, phases, inner=delta is None) if telescope else None
    old = start
    for t in range(phases.nudged_steps):
        if t:
            clamped = follow(old) if follow else network.clamp(theta, x)
        old, new = _step(dynamics, theta, clamped, old, -beta * cost_derivative(old.state[-1], y))
        moved = delta(network, beta, old, new) if delta else {}
        if not telescope:
            moved |= _outer_delta(network, x, beta, old, new)
        theta = theta | {name: theta[name] + phases.rates[name] * value for name, value in moved.items()}
        old = new._replace(delta=moved)
        yield old


def _step(
    dynamics: Dynamics, theta: Theta, clamped: Clamped, old: Instant, force: Array
) -> tuple[Instant, Instant]:
    """The first line of Eq. (5), all layers at once: s_t and s_{t+1}, both with the switches of θ_t."""
    network = dynamics.network
    drives, found = network.drives(theta, old.rates, clamped.drive, {})
    forces = {network.depth: force}
    state = tuple(dynamics.update(s, drives[n], forces.get(n)) for n, s in enumerate(old.state, start=1))
    rates = tuple(map(dynamics.rates, state))
    moved = {c.name: c.to_post(theta[c.name], rates[c.pre - 1])[1] for c in network.recurrent if c.pools}
    return (
        old._replace(switches=clamped.switches | found),
        Instant(state, rates, clamped.switches | moved, {}),
    )


def _outer_delta(network: Network, x: Array, beta: float, old: Instant, new: Instant) -> Theta:
    """Δ_θ(t) of the input's weights and the biases, the same by all rules."""
    moved = tuple((b - a) / beta for a, b in zip(old.rates, new.rates, strict=True))
    return network.outer_vjp_theta(x, moved, new.switches)


def _telescoped(
    network: Network, clamped: Clamped, start: Instant, phases: Phases, inner: bool
) -> Callable[[Instant], Clamped]:
    """What maps s_t to `Network.clamp` of θ_t and x, without θ_t.

    With ``inner``, it holds besides what θ_t adds to the drives of θ_0 between free layers.
    """
    x = clamped.x.reshape(len(clamped.x), -1)
    gram, scale = x @ x.T, 1 / (phases.beta * len(x))
    kernels = {n: np.full_like(gram, scale * phases.rates[f"b{n}"]) for n in network.layers}
    for c in network.inputs:
        kernels[c.post] += scale * phases.rates[c.name] * gram
    rest = {n: clamped.drive[n] - _mix(start.rates[n - 1], kernels[n]) for n in network.layers}

    def follow(s: Instant) -> Clamped:
        now, then = dict(kernels), {}
        for c in network.recurrent if inner else ():
            rate = scale * phases.rates[c.name]
            for n, m in ((c.post, c.pre), (c.pre, c.post)):
                now[n] = now[n] + rate * (s.rates[m - 1] @ s.rates[m - 1].T)
                then[n] = then.get(n, 0) + rate * (s.rates[m - 1] @ start.rates[m - 1].T)
        drive = {n: rest[n] + _mix(s.rates[n - 1], kernel) for n, kernel in now.items()}
        for n, kernel in then.items():
            drive[n] -= _mix(start.rates[n - 1], kernel)
        return clamped._replace(drive=drive)

    return follow


def _mix(s: Array, kernel: Array) -> Array:
    """The samples of s mixed by a kernel of batch × batch, computed transposed as `Dense` does."""
    return (s.T @ kernel.T).T
