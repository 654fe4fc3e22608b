"""What the tests of the estimators beyond the abstract share: small problems, the loss, and distances."""

from dataclasses import replace

import numpy as np

from eqprop_np.activations import Array, tanh
from eqprop_np.costs import Cost, Readout, squared_error
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.network import Network, State, Theta, chain, convolutional, toy
from eqprop_np.relaxation import Alternating, Relaxation, relax
from eqprop_np.rules.phases import Phases
from eqprop_np.rules.vector_field import untied
from eqprop_np.testing import check_gradient

EXACT = Alternating(tol=3e-15)
"""A schedule that stops when only rounding is left."""

STEADY = Phases(free_steps=5000, nudged_steps=300, beta=0.1, schedule=EXACT)
"""Phases long enough that only β separates an estimate from its limit."""

CHAIN = chain([3, 4, 3, 2])
NETWORKS: dict[str, Network] = {
    "chain": CHAIN,
    "skip": toy(3, 4, 2),
    "conv": convolutional((7, 7, 1), [2, 2], [2], kernel=2, pool=2),
}
NETWORKS |= {f"untied {name}": untied(network) for name, network in NETWORKS.items()}

KINDS = ["discrete time", "real time", "real time, clamped"]


def dynamics_of(kind: str, network: Network, cost: Cost | Readout = squared_error) -> Dynamics:
    """Return dynamics with a smooth σ."""
    if kind == "discrete time":
        return DiscreteTime(network, cost=cost)
    if kind == "real time":
        return RealTime(network, tanh, epsilon=0.5, clamp=False, cost=cost)
    return RealTime(network, epsilon=0.5, cost=cost)


def problem(
    dynamics: Dynamics, seed: int = 6, psi: float = 90.0, batch: int = 2
) -> tuple[Theta, Array, Array]:
    """Return θ, x and y in float64; for untied weights with the angle ψ between both directions."""
    network, rng = dynamics.network, np.random.default_rng(seed)
    theta = dynamics.init(rng, np.float64, psi=0.0 if network.tied else psi)
    x = rng.uniform(0, 1, (batch, *network.shapes[0]))
    (classes,) = dynamics.target_shape
    return theta, x, np.eye(classes)[rng.integers(0, classes, batch)]


def steady_state(dynamics: Dynamics, theta: Theta, x: Array, start: State | None = None) -> Relaxation:
    """Return the first phase until only rounding is left, in real time with over-relaxation."""
    schedule = replace(EXACT, omega=1.2) if dynamics.keeps_state else EXACT
    free = relax(dynamics, theta, x, start, 5000, schedule=schedule)
    assert free.converged
    return free


def check_loss_gradient(dynamics: Dynamics, theta: Theta, x: Array, y: Array, gradient: Theta) -> None:
    """Check that this is dL/dθ of the mean cost at the steady state, along two directions for each parameter.

    The switches must be the same at every point, because L has a kink where one changes.
    """
    rest = steady_state(dynamics, theta, x)

    def loss(moved: Theta) -> float:
        free = steady_state(dynamics, moved, x, rest.state)
        for name, switches in rest.switches.items():
            np.testing.assert_array_equal(free.switches[name], switches)
        return float(dynamics.cost.at(moved).value(free.state[-1], y).mean())

    assert gradient.keys() == theta.keys()
    ordered = {name: gradient[name] for name in theta}
    check_gradient(loss, lambda _: ordered, theta, rng=np.random.default_rng(1), step=2e-5, rtol=1e-7)


def flat(gradient: Theta) -> Array:
    return np.concatenate([gradient[name].ravel() for name in sorted(gradient)])


def distance(a: Theta, b: Theta) -> float:
    """Return ‖a − b‖ relative to ‖b‖, over all parameters."""
    assert a.keys() == b.keys()
    return float(np.linalg.norm(flat(a) - flat(b)) / np.linalg.norm(flat(b)))


def largest_distance(a: Theta, b: Theta) -> float:
    """Return the largest `distance` of a single parameter."""
    assert a.keys() == b.keys()
    return max(distance({name: a[name]}, {name: b[name]}) for name in b)
