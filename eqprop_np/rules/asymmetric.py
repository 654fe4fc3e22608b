"""AsymEP: exact equilibrium propagation for asymmetric weights.

With untied weights the displacement of a nudged state follows J = ∂F/∂s, where the gradient needs Jᵀ. The
second phase is therefore corrected by the antisymmetric part of J:

    s_{t+1} = F(x, s_t, θ) + (Jᵀ − J)(s_t − s_*) − b ∂ℓ/∂s(s_t)

b is the nudge in units of F: β in discrete time, εβ in real time. Near s_* the displacement δ = s_t − s_*
obeys δ ← Jᵀ δ − b ℓ_s. At its fixed point −δ/b is λ = (I − Jᵀ)⁻¹ ℓ_s of `eqprop_np.rules.implicit`, and the
difference of two phases has an error of order β²:

    λ = −(s_*^β − s_*^−β) / 2b,    dL/dθ = λᵀ ∂F/∂θ

The rule is exact for tied weights too, also in discrete time, where the nudge of the output stands outside
σ and plain EP follows the gradient of another loss. It needs J at s_*, so it is not local as EP is. It
shows what VF and C-VF leave out.

Source: the AsymEP of arXiv:2602.03670.
"""

from dataclasses import replace
from functools import partial

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, LinearStep, Nudge, RealTime, linear_step, one_step, output_force
from eqprop_np.network import InputDrive, State, Theta
from eqprop_np.rules.phases import Phases, Update, checked, cost_gradient, free_phase


@partial(checked, signs="both", synchronous=True)
def asymep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ by equilibrium propagation with a corrected second phase (AsymEP).

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Of a tied or an untied network.
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        The second phase is synchronous and runs with β and with −β, whatever the estimate is.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.

    Examples
    --------
    >>> from eqprop_np.dynamics import DiscreteTime
    >>> from eqprop_np.network import chain
    >>> from eqprop_np.rules.vector_field import untied
    >>> dynamics = DiscreteTime(untied(chain([4, 8, 3])))
    >>> theta = dynamics.network.init(np.random.default_rng(0), np.float64, psi=180)
    >>> x, y = np.ones((1, 4)), np.array([[0.0, 1.0, 0.0]])
    >>> update = asymep(dynamics, theta, x, y, Phases(100, 50, beta=0.01))
    >>> print(sorted(update.gradient))
    ['b1', 'b2', 'w0-1', 'w1-2', 'w2-1']
    """
    static, free = free_phase(dynamics, theta, x, phases)  # s_*
    F = linear_step(dynamics, theta, static, free.state)  # J = ∂F/∂s and ∂F/∂θ at s_*
    plus, minus = (
        corrected_phase(dynamics, theta, static, free.state, F, Nudge(beta, y), phases.nudged_steps)
        for beta in (phases.beta, -phases.beta)
    )  # s_*^β, s_*^−β
    b = dynamics.nudge_scale * phases.beta
    lam = tuple((p - m) / (-2 * b) for p, m in zip(plus, minus, strict=True))  # λ = −(s_*^β − s_*^−β) / 2b
    return Update(F.vjp_theta(lam) | cost_gradient(dynamics, theta, y, free.state), free)  # λᵀ ∂F/∂θ


def corrected_phase(
    dynamics: Dynamics, theta: Theta, static: InputDrive, rest: State, F: LinearStep, nudge: Nudge, steps: int
) -> State:
    """Return the state after K corrected steps from the steady state s_* = ``rest``.

    Parameters
    ----------
    F : LinearStep
        The free step, linearised at s_*: its Jacobian J and its switches are held.
    steps : int
        K.
    """
    clamp, free, s = False, dynamics, rest
    if isinstance(dynamics, RealTime) and dynamics.clamp:  # clamping comes after the correction
        clamp, free = True, replace(dynamics, clamp=False)
    scale = dynamics.nudge_scale  # b = scale · β
    for _ in range(steps):
        *moved, output = one_step(free, theta, static, s)  # F(x, s_t, θ)
        moved.append(output + scale * output_force(dynamics, theta, s[-1], nudge))  # − b ∂ℓ/∂s(s_t)
        delta = tuple(a - b for a, b in zip(s, rest, strict=True))  # s_t − s_*
        correction = zip(F.vjp(delta), F.jvp(delta), strict=True)
        s = tuple(f + (jt - j) for f, (jt, j) in zip(moved, correction, strict=True))  # s_{t+1}
        if clamp:
            s = tuple(np.clip(value, 0, 1) for value in s)
    return s
