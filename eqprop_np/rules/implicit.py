"""The exact gradient of the loss at the steady state, by implicit differentiation.

With F the free step, J = ∂F/∂s at the steady state s_*, and ℓ_s = ∂ℓ/∂s of each sample,

    s_* = F(x, s_*, θ)    ⇒    dL/dθ = λᵀ ∂F/∂θ,    λ = (I − Jᵀ)⁻¹ ℓ_s

λ is the fixed point of λ ← Jᵀ λ + ℓ_s. Its iterates are the partial sums of the ∇_s(t) of BPTT at the steady
state, Eq. (6), with K → ∞, and need no stored trajectory. The equation holds for tied and for untied weights
and in both dynamics. So this gradient is what every other estimate is measured against.

The method is recurrent backpropagation: L. B. Almeida, *A learning rule for asynchronous perceptrons with
feedback in a combinatorial environment* (1987), and F. J. Pineda, *Generalization of back-propagation to
recurrent neural networks* (1987).
"""

import warnings
from dataclasses import replace
from functools import partial

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.connections import flat
from eqprop_np.dynamics import Dynamics, LinearStep, linear_step
from eqprop_np.network import State, Theta
from eqprop_np.rules.bptt import loss_gradient
from eqprop_np.rules.phases import Phases, Update, checked, cost_gradient, free_phase


@partial(checked, signs="none")
def implicit_gradient(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ at the steady state by implicit differentiation.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Of a tied or an untied network.
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        The schedule's ``tol`` is also the tolerance of λ, relative to its largest entry; with 0 it is 32
        units in the last place. λ takes at most 10 T iterations. K, β and the estimate are not used.

    Returns
    -------
    Update
        Its ``free.converged`` says whether both the first phase and λ have converged. A sample whose λ has
        not converged counts as zero in the mean over the batch, because λ may grow without bound.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.

    Warns
    -----
    RuntimeWarning
        If λ has not converged.

    Examples
    --------
    >>> from eqprop_np.dynamics import DiscreteTime
    >>> from eqprop_np.network import chain
    >>> dynamics = DiscreteTime(chain([4, 8, 3]))
    >>> theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    >>> x, y = np.ones((1, 4)), np.array([[0.0, 1.0, 0.0]])
    >>> update = implicit_gradient(dynamics, theta, x, y, Phases(100, 1, beta=1.0))
    >>> print(update.free.converged, update.gradient["w1-2"].shape)
    True (8, 3)
    """
    static, free = free_phase(dynamics, theta, x, phases)  # s_*
    F = linear_step(dynamics, theta, static, free.state)  # ∂F/∂s and ∂F/∂θ at s_*
    loss_s = loss_gradient(dynamics, theta, free.state, y)  # ℓ_s
    lam, converged = adjoint(F, loss_s, phases.schedule.tol, 10 * phases.free_steps)  # λ
    gradient = F.vjp_theta(lam) | cost_gradient(dynamics, theta, y, free.state)  # λᵀ ∂F/∂θ
    return Update(gradient, replace(free, converged=free.converged and converged))


@np.errstate(over="ignore", invalid="ignore")  # a diverging λ gets the warning below
def adjoint(F: LinearStep, loss_s: State, tol: float, limit: int) -> tuple[State, bool]:
    """Return λ = (I − Jᵀ)⁻¹ ℓ_s, and whether it has converged, by iterating λ ← Jᵀ λ + ℓ_s.

    Each iteration contracts by the spectral radius of J, as a synchronous free step does near s_*. Where
    this is 1 or more, λ has no limit. A sample whose λ has not converged gets λ = 0.

    Parameters
    ----------
    F : LinearStep
        The free step, linearised at s_*, with the Jacobian J.
    loss_s : tuple of ndarray, each (B, …)
        ℓ_s.
    tol : float
        Stop when no entry of λ changes by more than ``tol`` times the largest entry; 0 stands for 32 units
        in the last place.
    limit : int
        The largest number of iterations.
    """
    tol = tol or float(32 * np.finfo(loss_s[-1].dtype).eps)
    lam, iterations = loss_s, 0
    changes, sizes = np.full(len(loss_s[-1]), np.inf), np.zeros(len(loss_s[-1]))  # the largest of each sample
    infinite = np.zeros(len(sizes), bool)
    while changes.max() > tol * sizes.max() and iterations < limit:
        new = tuple(a + b for a, b in zip(F.vjp(lam), loss_s, strict=True))  # λ ← Jᵀ λ + ℓ_s
        infinite |= ~np.isfinite(_largest(new))  # the other samples go on
        new = _without(infinite, new)
        changes, sizes = _largest(tuple(a - b for a, b in zip(new, lam, strict=True))), _largest(new)
        lam, iterations = new, iterations + 1
    converged = changes.max() <= tol * sizes.max()
    lost = infinite if converged else infinite | (changes > tol * sizes)
    if lost.any():
        warnings.warn(
            f"λ has not converged for {lost.sum()} of {len(lost)} samples, which the gradient leaves out: "
            f"after {iterations} iterations {infinite.sum()} of them are infinite, and the others still "
            f"change by up to {changes.max():.1e}: allow more free steps (λ takes up to 10 for each), a "
            "larger tol, or weights with which the synchronous step contracts",
            RuntimeWarning,
            stacklevel=5,  # the line that called the rule
        )
    return _without(lost, lam), not lost.any()


def _without(lost: Array, state: State) -> State:
    """Return the state with zeros for the samples that are lost."""
    if not lost.any():
        return state
    return tuple(np.where(lost.reshape(-1, *[1] * (a.ndim - 1)), 0, a) for a in state)


def _largest(state: State) -> Array:
    """Return the largest absolute entry of each sample."""
    return np.max([np.abs(flat(layer)).max(1) for layer in state], axis=0)
