"""Equilibrium propagation, Eq. (2): two steady states, and the difference of ∂Φ/∂θ between them.

    Δθ = (1/β) (∂Φ/∂θ(x, s_*^β, θ) − ∂Φ/∂θ(x, s_*, θ))

Three estimates use the nudge differently:

- ``one-sided``: Eq. (2) as it stands, with a bias of order β;
- ``random-sign``: the same with β of random sign for each batch, so that the bias cancels on average
  (`Phases.draw` draws it);
- ``centered``: (∂Φ/∂θ(s_*^β) − ∂Φ/∂θ(s_*^−β)) / 2β, whose bias is of order β².
"""

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, Nudge, Relaxation, relax
from eqprop_np.network import Clamped, Theta
from eqprop_np.rules.phases import Phases, Update, free_phase


def ep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """dL/dθ by equilibrium propagation: minus the Δθ of Eq. (2).

    Parameters
    ----------
    x, y : the inputs (B, …) and the targets (B, classes).
    phases : a ``random-sign`` estimate must have been drawn, see `Phases.draw`.
    """
    clamped, free = free_phase(dynamics, theta, x, phases)

    def nudged(beta: float) -> Relaxation:
        return relax(
            dynamics,
            theta,
            clamped,
            free.state,
            phases.steps(phases.nudged_steps),
            nudge=Nudge(beta, y),
            schedule=phases.schedule,
            omega=dynamics.nudged_omega(phases.omega),
            switches=free.switches,
        )

    beta = phases.beta
    if phases.estimate == "centered":
        return Update(_contrast(dynamics, clamped, nudged(beta), nudged(-beta), 2 * beta), free)
    return Update(_contrast(dynamics, clamped, nudged(beta), free, beta), free)


def _contrast(dynamics: Dynamics, clamped: Clamped, a: Relaxation, b: Relaxation, beta: float) -> Theta:
    """−(∂Φ/∂θ(a) − ∂Φ/∂θ(b)) / β. Each state brings its own switches, as Eq. (4) has it."""
    terms = [(-1 / beta, a.rates, a.switches), (1 / beta, b.rates, b.switches)]
    return dynamics.network.combine_dphi_dtheta(clamped.x, terms)
