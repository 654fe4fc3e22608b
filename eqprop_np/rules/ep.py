"""Equilibrium propagation, Eq. (2): the difference of ∂Φ/∂θ between two steady states.

    Δθ = (1/β) (∂Φ/∂θ(x, s_*^β, θ) − ∂Φ/∂θ(x, s_*, θ))

There are three estimates:

- ``one-sided``: Eq. (2) as it stands, with a bias of order β;
- ``random-sign``: Eq. (2) with β of random sign for each batch, so that this bias cancels on average
  (`Phases.draw` draws the sign);
- ``centered``: (∂Φ/∂θ(s_*^β) − ∂Φ/∂θ(s_*^−β)) / 2β, with a bias of order β².

The parameters of a readout follow ∂ℓ/∂θ at s_*^β, or in the mean over s_*^β and s_*^−β.
"""

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, Nudge
from eqprop_np.network import InputDrive, Theta
from eqprop_np.relaxation import Relaxation, settle
from eqprop_np.rules.phases import Phases, Update, checked, cost_gradient, free_phase


@checked
def ep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ by equilibrium propagation: minus the Δθ of Eq. (2).

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        The sign of a random-sign estimate must have been drawn (`Phases.draw`).

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, or if its weights are untied.

    Examples
    --------
    >>> import numpy as np
    >>> from eqprop_np.dynamics import DiscreteTime
    >>> from eqprop_np.network import chain
    >>> dynamics = DiscreteTime(chain([4, 8, 3]))
    >>> theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    >>> x, y = np.ones((1, 4)), np.array([[0.0, 1.0, 0.0]])
    >>> update = ep(dynamics, theta, x, y, Phases(100, 50, beta=0.01, estimate="centered"))
    >>> print(update.gradient["w1-2"].shape)
    (8, 3)
    """
    network, beta = dynamics.network, phases.beta
    network.require_tied()
    static, free = free_phase(dynamics, theta, x, phases)  # s_*
    plus = nudged_phase(dynamics, theta, static, free, Nudge(beta, y), phases)  # s_*^β
    if phases.estimate == "centered":
        minus = nudged_phase(dynamics, theta, static, free, Nudge(-beta, y), phases)  # s_*^−β
        gradient = network.contrast(plus.snapshot, minus.snapshot, -2 * beta)
        return Update(gradient | cost_gradient(dynamics, theta, y, plus.state, minus.state), free)
    gradient = network.contrast(plus.snapshot, free.snapshot, -beta)  # dL/dθ = −Δθ, Eq. (2)
    return Update(gradient | cost_gradient(dynamics, theta, y, plus.state), free)


def nudged_phase(
    dynamics: Dynamics, theta: Theta, static: InputDrive, free: Relaxation, nudge: Nudge, phases: Phases
) -> Relaxation:
    """Run a second phase of K steps from the steady state of the first."""
    schedule = phases.schedule.for_nudged_phase(dynamics)
    steps = schedule.steps(phases.nudged_steps)
    return settle(dynamics, theta, static, free.state, steps, schedule, nudge=nudge, switches=free.switches)
