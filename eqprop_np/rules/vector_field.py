"""VF and C-VF: untied weights, with a vector field F(x, s, θ) in the place of ∂Φ/∂s.

Here F is the drives without σ; in the other modules F is the whole step. In real time s stands for ρ(s).

    Δ_θ(t) = (1/β) (∂F/∂θ(x, s_t, θ))ᵀ (s_{t+1} − s_t)

A connection has a forward weight w_f (pre → post) and a backward weight w_b (post → pre), both of the
shape of the connection's weight. The forward weight moves by s^pre_t ⊗ (s^post_{t+1} − s^post_t) / β,
and the backward weight by (s^pre_{t+1} − s^pre_t) ⊗ s^post_t / β: each follows the two neurons that it
joins. C-VF moves θ by η Δ_θ(t) at each step, as C-EP does. VF moves θ after the second phase only.

For tied weights F = ∂Φ/∂s, and Δ_θ(t) differs from that of Eq. (5) by one term. In Eq. (5),
s^pre ⊗ s^post changes by

    s^pre_t ⊗ Δs^post + Δs^pre ⊗ s^post_t + Δs^pre ⊗ Δs^post

The first two terms are what VF gives to the one weight. The last is of order β² in the nudge.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import check_kind, check_theta
from eqprop_np.dynamics import Dynamics, snapshot
from eqprop_np.network import Network, State, Theta
from eqprop_np.rules.continual import sum_of_deltas
from eqprop_np.rules.phases import Phases, Update, checked


def untied(network: Network) -> Network:
    """Return the network with two weights for each connection between free layers.

    VF and C-VF are rules for such networks. "w1-2" is the forward weight from layer 1 to layer 2 and "w2-1"
    the backward weight, of the same shape. `Network.init` takes the angle ψ between them.

    Parameters
    ----------
    network : Network
        A network, tied or untied.

    Raises
    ------
    TypeError
        If ``network`` is of another kind.

    Examples
    --------
    >>> from eqprop_np.network import chain
    >>> print(untied(chain([784, 512, 10])).parameter_shapes)
    {'w0-1': (784, 512), 'w1-2': (512, 10), 'b1': (512,), 'b2': (10,), 'w2-1': (512, 10)}
    """
    _check_network(network)
    return replace(network, tied=False)


def weight_angle(network: Network, theta: Theta) -> float | None:
    """Return the angle ψ between all forward and all backward weights as flat vectors, in degrees.

    It is None for a network without untied weights.

    Parameters
    ----------
    network : Network
    theta : dict of ndarray
        It may hold more than the parameters of the network.

    Raises
    ------
    TypeError, ValueError
        If θ does not fit the network.
    """
    _check_network(network)
    check_kind("theta", theta, Mapping, "a dict from names to arrays")
    shapes = network.parameter_shapes
    check_theta({name: value for name, value in theta.items() if name in shapes}, shapes)
    if network.tied or not network.recurrent:
        return None
    forward = np.concatenate([theta[c.name].ravel() for c in network.recurrent])
    backward = np.concatenate([theta[network.backward_name(c)].ravel() for c in network.recurrent])
    return angle_between(forward, backward)


def _check_network(network: Network) -> None:
    check_kind("network", network, Network, "of the class Network, such as chain([784, 512, 10])")


def angle_between(a: Array, b: Array) -> float:
    """Return the angle between two flat vectors in degrees; NaN if one of them is zero.

    Parameters
    ----------
    a, b : array-like, shape (n,)
        Real numbers.

    Raises
    ------
    TypeError, ValueError
        If they are complex, or if their shapes differ.

    Examples
    --------
    >>> print(round(angle_between(np.array([1.0, 0.0]), np.array([1.0, 1.0])), 6))
    45.0
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.shape != b.shape:
        raise ValueError(f"the two vectors must have the same shape, got {a.shape} and {b.shape}")
    if np.iscomplexobj(a) or np.iscomplexobj(b):
        raise TypeError(f"the two vectors must be real, got {a.dtype} and {b.dtype}")
    a, b = a.astype(np.float64), b.astype(np.float64)
    norm_a, norm_b = np.linalg.norm(a), np.linalg.norm(b)
    if norm_a == 0 or norm_b == 0:
        return float("nan")
    a, b = a / norm_a, b / norm_b
    # Accurate for small angles too, at which the cosine is 1 to all digits (W. Kahan).
    return float(np.degrees(2 * np.arctan2(np.linalg.norm(a - b), np.linalg.norm(a + b))))


def field_delta(dynamics: Dynamics, theta: Theta, x: Array, old: State, new: State, beta: complex) -> Theta:
    """Return Δ_θ(t) of C-VF, (1/β) (∂F/∂θ(x, s_t, θ))ᵀ (s_{t+1} − s_t), the mean over the batch."""
    before, after = snapshot(dynamics, theta, x, old), map(dynamics.activity, new)
    change = tuple((b - a) / beta for a, b in zip(before.activities[1:], after, strict=True))
    return dynamics.network.vjp_theta([(before, change)])


@partial(checked, synchronous=True)
def cvf(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ by continual vector field EP (C-VF): minus the sum of the Δ_θ(t).

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Of a tied or an untied network.
    theta : dict of ndarray
    x : ndarray, shape (B, …)
    y : ndarray, shape (B, classes)
    phases : Phases
        With a learning rate for each parameter.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, if the estimate is centred, or if a parameter has no rate.
    """
    return sum_of_deltas(dynamics, theta, x, y, phases, field_delta)


@partial(checked, synchronous=True)
def vf(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """Return dL/dθ by the vector field rule: `cvf` with constant θ in the second phase.

    The parameters and the errors are those of `cvf`; the learning rates are not used.
    """
    constant = replace(phases, learning_rates=dict.fromkeys(theta, 0.0))
    return sum_of_deltas(dynamics, theta, x, y, constant, field_delta)
