"""VF and C-VF: untied weights, and a vector field F(x, s, θ) in the place of ∂Φ/∂s.

    Δ_θ(t) = (1/β) (∂F/∂θ(x, s_t, θ))ᵀ (s_{t+1} − s_t)

A forward weight w_f moves by s^pre_t ⊗ (s^post_{t+1} − s^post_t) / β, and a backward weight w_b, from
post to pre, by s^post_t ⊗ (s^pre_{t+1} − s^pre_t) / β: what the synapse's own two neurons do. C-VF
moves θ by η Δ_θ(t) at each step, as C-EP does; VF leaves it as it is until the second phase is over.

Where the weights are tied, F = ∂Φ/∂s, and Δ_θ(t) differs from that of Eq. (5) by one term of second
order: s^pre ⊗ s^post moves by

    s^pre_t ⊗ Δs^post + Δs^pre ⊗ s^post_t + Δs^pre ⊗ Δs^post

whose first two terms are what VF gives the one weight. The last is of order β² in the nudge.
"""

from dataclasses import replace

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Network, Theta
from eqprop_np.rules.continual import Instant, continual
from eqprop_np.rules.phases import Phases, Update


def cvf(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """dL/dθ by the continual vector field rule, C-VF: minus the sum of the Δ_θ(t).

    Parameters
    ----------
    x, y : the inputs (B, …) and the targets (B, classes).
    phases : with one nudge (see `Phases.draw`), and a rate for each parameter.
    """
    return continual(dynamics, theta, x, y, phases, field_delta)


def vf(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """dL/dθ by the vector field rule: the same as `cvf`, with θ at rest during the second phase."""
    return cvf(dynamics, theta, x, y, replace(phases, rates=dict.fromkeys(theta, 0.0)))


def field_delta(network: Network, beta: float, old: Instant, new: Instant) -> Theta:
    """Δ_θ(t) for the weights between free layers."""
    v = tuple((b - a) / beta for a, b in zip(old.rates, new.rates, strict=True))
    return network.inner_vjp_theta([(old.rates, v, old.switches)])
