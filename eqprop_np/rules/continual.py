"""C-EP: in the second phase the neurons and the weights move together, Eq. (5).

    s_{t+1} = ∂Φ/∂s(x, s_t, θ_t) − β ∂ℓ/∂s(s_t)
    θ_{t+1} = θ_t + (η/β) (∂Φ/∂θ(x, s_{t+1}) − ∂Φ/∂θ(x, s_t)) = θ_t + η Δ_θ(t)

The abstract prints θ_{t+1} on the right of the second line; θ_t is meant. A synapse needs only s_t and
s_{t+1} of its two neurons, so it does not store the first phase. Each parameter has its own η and
moves by the mean over the batch. In real time ∂Φ/∂θ is taken at ρ(s), and ε cancels as in Eq. (2).

Over the whole phase θ moves by η Σ_t Δ_θ(t). The rule returns −Σ_t Δ_θ(t) as dL/dθ. One step of SGD with
the same rates then leads from θ_0 to θ_K. With η = 0 the sum is Eq. (2).

For dense networks `eqprop_np.rules.telescoped` computes the same result faster.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, Nudge, one_step, snapshot
from eqprop_np.network import State, Theta
from eqprop_np.rules.phases import Phases, Update, checked, free_phase, require_plain_cost

Delta = Callable[[Dynamics, Theta, Array, State, State, complex], Theta]
"""Maps (dynamics, θ_t, x, s_t, s_{t+1}, β) to Δ_θ(t), the mean over the batch."""


class Instant(NamedTuple):
    """One step of the second phase.

    Attributes
    ----------
    state : tuple of ndarray
        s_{t+1}.
    delta : dict of ndarray
        Δ_θ(t).
    theta : dict of ndarray
        θ_{t+1}.
    """

    state: State
    delta: Theta
    theta: Theta


def contrast_delta(
    dynamics: Dynamics, theta: Theta, x: Array, old: State, new: State, beta: complex
) -> Theta:
    """Return Δ_θ(t) = (∂Φ/∂θ(x, s_{t+1}) − ∂Φ/∂θ(x, s_t)) / β of Eqs. (5) and (7)."""
    after, before = (snapshot(dynamics, theta, x, s) for s in (new, old))
    return dynamics.network.contrast(after, before, beta)


def continual_phase(
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    s: State,
    nudge: Nudge,
    learning_rates: Mapping[str, float],
    steps: int,
    delta: Delta = contrast_delta,
) -> Iterator[Instant]:
    """Yield Eq. (5) for t = 0…K−1.

    Parameters
    ----------
    s : tuple of ndarray
        s_0 = s_*, the steady state of the first phase.
    learning_rates : dict
        η of each parameter.
    steps : int
        K.
    delta : callable
        Δ_θ(t); that of Eq. (5) by default.
    """
    for _ in range(steps):
        static = dynamics.input_drive(theta, x)  # θ moves, so the drive of the input does too
        s_next = one_step(dynamics, theta, static, s, nudge)  # s_{t+1}, Eq. (5), first line
        change = delta(dynamics, theta, x, s, s_next, nudge.beta)  # Δ_θ(t)
        theta = {name: theta[name] + learning_rates[name] * change[name] for name in theta}  # θ_{t+1}
        s = s_next
        yield Instant(s, change, theta)


@partial(checked, synchronous=True)
def cep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ by continual equilibrium propagation: minus the sum of the Δ_θ(t) of Eq. (5).

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        With a learning rate for each parameter. The second phase is synchronous, as Eq. (5) is.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, if the estimate is centred, if a parameter has no rate,
        or if the weights are untied.
    """
    dynamics.network.require_tied()
    return sum_of_deltas(dynamics, theta, x, y, phases, contrast_delta)


def sum_of_deltas(
    dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases, delta: Delta
) -> Update:
    """Run both phases and return −Σ_t Δ_θ(t) of `continual_phase`."""
    require_plain_cost(dynamics)
    require_continual(phases, theta)
    _, free = free_phase(dynamics, theta, x, phases)
    nudge, gradient = Nudge(phases.beta, y), {name: np.zeros_like(value) for name, value in theta.items()}
    for instant in continual_phase(
        dynamics, theta, x, free.state, nudge, phases.learning_rates, phases.nudged_steps, delta
    ):
        gradient = {name: value - instant.delta[name] for name, value in gradient.items()}
    return Update(gradient, free)


def require_continual(phases: Phases, theta: Theta) -> None:
    """Raise a ValueError if these phases do not suit a rule whose weights move in the second phase."""
    if phases.estimate == "centered":
        raise ValueError(
            "a continual rule has one nudged phase, so the estimate cannot be centered: "
            "use one-sided or random-sign"
        )
    if missing := sorted(theta.keys() - phases.learning_rates.keys()):
        raise ValueError(
            f"a continual rule needs a learning rate for every parameter: Phases.learning_rates lacks "
            f"{', '.join(missing)}"
        )
