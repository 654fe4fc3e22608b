"""Holomorphic EP: the derivative at β = 0 from nudges on a circle in the complex plane.

With an analytic σ the steady state is an analytic function of a complex β near 0, and EP's gradient is a
derivative at β = 0. By Cauchy's formula this derivative is a mean over a circle of radius r. The mean over N
points of the circle differs from it by terms of order r^N:

    dL/dθ = −Re (1/N) Σ_k (1/β_k) ∂Φ/∂θ(x, s_*^{β_k}, θ),    β_k = r e^{2πik/N},    k = 0…N−1

N = 2 is the centred estimate of `eqprop_np.rules.ep`. The states at β and at its conjugate are conjugates. So
N/2 + 1 nudged phases (rounded down) give the sum over all N.

The limit N → ∞ or r → 0 is that of EP for β → 0: the exact gradient in real time without clamping, and the
gradient of another loss in discrete time (see `eqprop_np.theorem`). A large r is possible, so noise in the
states, which is divided by r, has less effect. Beyond the radius of convergence, the distance of the nearest
singularity of s_*^β, the sum is wrong whatever N is. In discrete time with the squared error the steady
output is (σ(a) + β y)/(1 + β), and the nudged phase diverges for |β| > 1. In real time the radius can be
smaller.

Source: A. Laborieux and F. Zenke, *Holomorphic Equilibrium Propagation Computes Exact Gradients Through
Finite Size Oscillations*, NeurIPS 2022 (arXiv:2209.00530).
"""

import cmath
import math
from dataclasses import replace
from functools import partial

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, Nudge, one_step
from eqprop_np.network import InputDrive, State, Theta
from eqprop_np.relaxation import Relaxation
from eqprop_np.rules.ep import nudged_phase
from eqprop_np.rules.phases import Phases, Update, checked, free_phase, require_plain_cost


@partial(checked, signs="both")
def holomorphic_ep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ by equilibrium propagation with N complex nudges.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        With a smooth activation and without clamping; max-pooling only directly after the input.
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        ``points`` is N and β is the radius r. The estimate is not used.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, if its weights are untied, or if the step is not analytic.

    Examples
    --------
    >>> from eqprop_np.dynamics import DiscreteTime
    >>> from eqprop_np.network import chain
    >>> dynamics = DiscreteTime(chain([4, 8, 3]))
    >>> theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    >>> x, y = np.ones((1, 4)), np.array([[0.0, 1.0, 0.0]])
    >>> update = holomorphic_ep(dynamics, theta, x, y, Phases(100, 50, beta=0.2, points=4))
    >>> print(update.gradient["w1-2"].dtype, update.gradient["w1-2"].shape)
    float64 (8, 3)
    """
    require_plain_cost(dynamics)
    require_analytic(dynamics, theta, x, y)
    static, free = free_phase(dynamics, theta, x, phases)  # s_*
    N, r = phases.points, phases.beta
    gradient: Theta = {name: np.zeros_like(value) for name, value in theta.items()}
    for k in range(N // 2 + 1):
        share = (1 if 2 * k in (0, N) else 2) / N  # the points k and N − k are conjugates
        term = circle_term(dynamics, theta, static, free, y, circle_point(r, k, N), phases)
        gradient = {name: value + share * term[name].real for name, value in gradient.items()}
    return Update(gradient, free)


def full_circle(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Theta:
    """Return −(1/N) Σ_k (1/β_k) ∂Φ/∂θ(s_*^{β_k}) from all N nudged phases, in complex numbers.

    Its real part equals the gradient of `holomorphic_ep`, and its imaginary part vanishes, up to rounding.
    It does not check its arguments.
    """
    static, free = free_phase(dynamics, theta, x, phases)
    N, r = phases.points, phases.beta
    terms = [circle_term(dynamics, theta, static, free, y, circle_point(r, k, N), phases) for k in range(N)]
    return {name: np.sum([term[name] for term in terms], axis=0) / N for name in theta}


def circle_point(r: float, k: int, points: int) -> complex:
    """Return β_k = r e^{2πik/N}, real where it lies on the real axis."""
    if 2 * k % points == 0:
        return r if k == 0 else -r
    return r * cmath.exp(2j * math.pi * k / points)


def circle_term(
    dynamics: Dynamics,
    theta: Theta,
    static: InputDrive,
    free: Relaxation,
    y: Array,
    beta: complex,
    phases: Phases,
) -> Theta:
    """Return −(1/β) (∂Φ/∂θ(s_*^β) − ∂Φ/∂θ(s_*)), the mean over the batch.

    ∂Φ/∂θ(s_*) adds nothing to the sum over the circle. Subtracting it keeps the terms small.
    """
    start = free
    if isinstance(beta, complex):
        start = replace(free, state=tuple(value + 0j for value in free.state))
    nudged = nudged_phase(dynamics, theta, static, start, Nudge(beta, y), phases)  # s_*^β
    return dynamics.network.contrast(nudged.snapshot, free.snapshot, -beta)


def require_analytic(dynamics: Dynamics, theta: Theta, x: Array, y: Array) -> None:
    """Raise a ValueError if a nudged step is not an analytic function of the state.

    The derivative of an analytic function is the same along the real and the imaginary axis
    (Cauchy-Riemann). The check compares the two for one sample, one state and one direction.
    """
    network = dynamics.network
    network.require_tied()
    static, nudge = dynamics.input_drive(theta, x[:1]), Nudge(1.0, y[:1])
    state = tuple(value + 0.6 for value in network.zeros(1, np.result_type(x, *theta.values())))
    step = float(np.cbrt(np.finfo(state[-1].dtype).eps))

    def derivative(h: complex) -> State:
        ends = (tuple(value + sign * h for value in state) for sign in (1, -1))
        after, before = (one_step(dynamics, theta, static, s, nudge) for s in ends)
        return tuple((a - b) / (2 * h) for a, b in zip(after, before, strict=True))

    try:
        pairs = list(zip(derivative(step), derivative(1j * step), strict=True))
    except TypeError as error:
        raise ValueError(f"holomorphic EP needs complex states, but {error}") from error
    if not all(np.allclose(a, b, 0, 1e-2 * max(1, np.abs(a).max())) for a, b in pairs):
        raise ValueError(
            "holomorphic EP needs an analytic step, but the activation or the cost is not: use a smooth "
            "function of complex numbers, without np.abs and comparisons"
        )
