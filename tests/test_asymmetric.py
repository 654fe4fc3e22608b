"""AsymEP against the implicit gradient: exact for any weights, with an error of order β²."""

from dataclasses import replace

import numpy as np
import pytest
from estimators import (
    CHAIN,
    EXACT,
    KINDS,
    NETWORKS,
    STEADY,
    distance,
    dynamics_of,
    problem,
    steady_state,
)

from eqprop_np.dynamics import Nudge, RealTime, linear_step, step
from eqprop_np.network import State
from eqprop_np.relaxation import Synchronous
from eqprop_np.rules.asymmetric import asymep, corrected_phase
from eqprop_np.rules.bptt import bptt
from eqprop_np.rules.ep import ep
from eqprop_np.rules.implicit import implicit_gradient
from eqprop_np.rules.vector_field import untied, vf
from eqprop_np.theorem import order

BETAS = [1e-1, 1e-2, 1e-3, 1e-4]


def errors(kind: str, name: str, betas: list[float], psi: float = 90.0) -> list[float]:
    """Return the distance from the implicit gradient at each β."""
    dynamics = dynamics_of(kind, NETWORKS[name])
    arguments = dynamics, *problem(dynamics, psi=psi)
    exact = implicit_gradient(*arguments, STEADY).gradient
    return [distance(asymep(*arguments, replace(STEADY, beta=beta)).gradient, exact) for beta in betas]


@pytest.mark.parametrize("psi", [0, 90, 180])
@pytest.mark.parametrize("kind", KINDS)
def test_the_error_is_of_order_beta_squared(kind: str, psi: float) -> None:
    found = errors(kind, "untied chain", BETAS, psi)
    assert order(BETAS, found) == pytest.approx(2, abs=0.05)
    assert found[-1] < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", KINDS)
def test_it_holds_for_every_network(kind: str, name: str) -> None:
    """Tied and untied, chain, skip and convolution, where β is too small to move a switch or a clamp."""
    betas = [1e-2, 1e-3]
    found = errors(kind, name, betas)
    assert found[1] < 1e-4
    assert order(betas, found) == pytest.approx(2, abs=0.05)


def test_it_is_exact_where_ep_is_not() -> None:
    """In discrete time the nudge stands outside σ: EP's error does not vanish with β."""
    dynamics = dynamics_of("discrete time", CHAIN)
    arguments = dynamics, *problem(dynamics)
    exact = implicit_gradient(*arguments, STEADY).gradient
    phases = replace(STEADY, beta=1e-3, estimate="centered")
    assert distance(asymep(*arguments, phases).gradient, exact) < 1e-5
    assert distance(ep(*arguments, phases).gradient, exact) > 0.1


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exact_where_the_vector_field_is_not(kind: str) -> None:
    dynamics = dynamics_of(kind, NETWORKS["untied chain"])
    arguments = dynamics, *problem(dynamics, psi=180)
    exact = implicit_gradient(*arguments, STEADY).gradient
    phases = replace(STEADY, beta=1e-3)
    assert distance(asymep(*arguments, phases).gradient, exact) < 1e-5
    assert distance(vf(*arguments, phases).gradient, exact) > 0.05


@pytest.mark.parametrize("kind", KINDS)
def test_the_phase_is_its_equation(kind: str) -> None:
    """Far from s_*, with a large β: s_{t+1} = F(s_t) + (Jᵀ − J)(s_t − s_*) − b ∂ℓ/∂s(s_t), then clamped."""
    dynamics = dynamics_of(kind, NETWORKS["untied chain"])
    theta, x, y = problem(dynamics)
    rest, b = steady_state(dynamics, theta, x).state, 0.8 * dynamics.nudge_scale
    static = dynamics.network.input_drive(theta, x)
    F = linear_step(dynamics, theta, static, rest)
    free = replace(dynamics, clamp=False) if isinstance(dynamics, RealTime) else dynamics
    s = rest
    for _ in range(3):
        delta = tuple(p - q for p, q in zip(s, rest, strict=True))
        force = (*map(np.zeros_like, s[:-1]), -b * (s[-1] - y))
        s = _sum(step(free, theta, x, s), F.vjp(delta), tuple(-v for v in F.jvp(delta)), force)
        if kind.endswith("clamped"):
            s = tuple(np.clip(value, 0, 1) for value in s)
    found = corrected_phase(dynamics, theta, static, rest, F, Nudge(0.8, y), 3)
    assert max(abs(p - q).max() for p, q in zip(s, rest, strict=True)) > 0.05
    for p, q in zip(found, s, strict=True):
        np.testing.assert_allclose(p, q, rtol=0, atol=1e-14)


def _sum(*states: State) -> State:
    return tuple(sum(parts) for parts in zip(*states, strict=True))


def test_clamped_neurons_stay_within_their_bounds() -> None:
    dynamics = dynamics_of("real time, clamped", NETWORKS["untied chain"])
    theta, x, y = problem(dynamics)
    free = steady_state(dynamics, theta, x)
    static = dynamics.network.input_drive(theta, x)
    F = linear_step(dynamics, theta, static, free.state)
    nudged = corrected_phase(dynamics, theta, static, free.state, F, Nudge(2.0, 3 * y - 1), 50)
    assert min(value.min() for value in nudged) == 0
    assert max(value.max() for value in nudged) <= 1
    assert any(((value == 0) | (value == 1)).any() for value in free.state)


def test_the_estimate_is_centred_whatever_is_asked_for() -> None:
    dynamics = dynamics_of("discrete time", NETWORKS["untied chain"])
    arguments = dynamics, *problem(dynamics)
    phases = replace(STEADY, free_steps=50, nudged_steps=10, schedule=Synchronous())
    one, two, three = (
        asymep(*arguments, p).gradient
        for p in (phases, replace(phases, estimate="centered"), replace(phases, beta=-phases.beta))
    )
    assert all((one[name] == two[name]).all() for name in one)
    assert distance(one, three) < 1e-12


def test_k_is_the_number_of_corrected_steps() -> None:
    """For β → 0, K steps give the first K terms of λ = Σ_t (Jᵀ)^t ℓ_s, which BPTT of K steps has too."""
    dynamics = dynamics_of("discrete time", NETWORKS["untied chain"])
    arguments = dynamics, *problem(dynamics)
    for steps in (1, 2, 5):
        phases = replace(STEADY, nudged_steps=steps, beta=1e-4)
        assert distance(asymep(*arguments, phases).gradient, bptt(*arguments, phases).gradient) < 1e-7


def test_float32_stays_float32_and_arguments_are_only_read() -> None:
    for kind in KINDS:
        dynamics = dynamics_of(kind, NETWORKS["untied conv"])
        theta, x, y = problem(dynamics)
        theta = {name: value.astype(np.float32) for name, value in theta.items()}
        x, y = x.astype(np.float32), y.astype(np.float32)
        for array in (*theta.values(), x, y):
            array.flags.writeable = False
        update = asymep(dynamics, theta, x, y, replace(STEADY, free_steps=20, nudged_steps=5, schedule=EXACT))
        assert {name: (g.dtype, g.shape) for name, g in update.gradient.items()} == {
            name: (np.float32, value.shape) for name, value in theta.items()
        }


def test_a_wrong_target_is_refused() -> None:
    dynamics = dynamics_of("discrete time", untied(CHAIN))
    theta, x, _ = problem(dynamics)
    with pytest.raises(ValueError, match="y must have shape"):
        asymep(dynamics, theta, x, np.ones((2, 3)), STEADY)
