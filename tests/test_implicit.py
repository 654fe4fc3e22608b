"""The implicit gradient against central differences of the loss and against BPTT."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from estimators import (
    EXACT,
    KINDS,
    NETWORKS,
    STEADY,
    check_loss_gradient,
    distance,
    dynamics_of,
    largest_distance,
    problem,
    steady_state,
)

from eqprop_np.activations import hard_sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, RealTime, linearize
from eqprop_np.network import chain
from eqprop_np.relaxation import Alternating, Synchronous
from eqprop_np.rules import implicit
from eqprop_np.rules.bptt import bptt
from eqprop_np.rules.implicit import adjoint, implicit_gradient
from eqprop_np.rules.vector_field import untied

every = pytest.mark.parametrize("name", NETWORKS)
both = pytest.mark.parametrize("kind", KINDS)


@every
@both
def test_it_is_the_gradient_of_the_loss(name: str, kind: str) -> None:
    dynamics = dynamics_of(kind, NETWORKS[name])
    theta, x, y = problem(dynamics)
    update = implicit_gradient(dynamics, theta, x, y, STEADY)
    assert update.free.converged
    check_loss_gradient(dynamics, theta, x, y, update.gradient)


@every
@both
def test_it_is_bptt_from_the_steady_state_with_large_k(name: str, kind: str) -> None:
    dynamics = dynamics_of(kind, NETWORKS[name])
    arguments = dynamics, *problem(dynamics)
    expected = bptt(*arguments, STEADY).gradient
    assert largest_distance(implicit_gradient(*arguments, STEADY).gradient, expected) < 1e-11


@both
def test_it_is_the_solution_of_the_linear_equation(kind: str) -> None:
    dynamics = dynamics_of(kind, NETWORKS["untied chain"])
    theta, x, y = problem(dynamics, batch=1)
    s = steady_state(dynamics, theta, x).state
    F, sizes = linearize(dynamics, theta, x, s), [value.size for value in s]

    def split(v: np.ndarray) -> tuple[np.ndarray, ...]:
        return tuple(part[np.newaxis] for part in np.split(v, np.cumsum(sizes)[:-1]))

    transposed = np.stack([np.concatenate(F.vjp(split(e)), axis=1)[0] for e in np.eye(sum(sizes))], axis=1)
    loss_s = (*map(np.zeros_like, s[:-1]), s[-1] - y)
    expected = np.linalg.solve(np.eye(sum(sizes)) - transposed, np.concatenate(loss_s, axis=1)[0])
    lam, converged = adjoint(F, loss_s, 0.0, 1000)
    assert converged
    np.testing.assert_allclose(np.concatenate(lam, axis=1)[0], expected, rtol=0, atol=1e-13)


def test_a_batch_gets_the_mean_of_its_samples() -> None:
    dynamics = dynamics_of("discrete time", NETWORKS["untied chain"])
    theta, x, y = problem(dynamics, batch=2)
    both = implicit_gradient(dynamics, theta, x, y, STEADY).gradient
    one, two = (
        implicit_gradient(dynamics, theta, x[i : i + 1], y[i : i + 1], STEADY).gradient for i in (0, 1)
    )
    assert distance(both, {k: (one[k] + two[k]) / 2 for k in theta}) < 1e-12


def test_the_tolerance_is_the_schedules() -> None:
    dynamics = dynamics_of("real time", NETWORKS["chain"])
    arguments = dynamics, *problem(dynamics)
    exact = implicit_gradient(*arguments, STEADY).gradient
    errors = [
        distance(
            implicit_gradient(*arguments, replace(STEADY, schedule=Alternating(tol=tol))).gradient, exact
        )
        for tol in (1e-2, 1e-4, 1e-6)
    ]
    assert all(tol / 100 < error < 10 * tol for tol, error in zip((1e-2, 1e-4, 1e-6), errors, strict=True))


def test_without_a_tolerance_lambda_converges_to_rounding() -> None:
    dynamics = dynamics_of("discrete time", NETWORKS["chain"])
    theta, x, y = problem(dynamics)
    exact = implicit_gradient(dynamics, theta, x, y, STEADY).gradient
    fixed = replace(STEADY, free_steps=300, schedule=Synchronous())
    assert distance(implicit_gradient(dynamics, theta, x, y, fixed).gradient, exact) < 1e-13
    theta = {name: value.astype(np.float32) for name, value in theta.items()}
    x, y = x.astype(np.float32), y.astype(np.float32)
    single = implicit_gradient(dynamics, theta, x, y, fixed).gradient
    assert all(value.dtype == np.float32 for value in single.values())
    assert distance(single, exact) < 1e-5


def test_a_target_that_is_met_has_no_gradient() -> None:
    dynamics = dynamics_of("discrete time", NETWORKS["chain"])
    theta, x, _ = problem(dynamics)
    y = steady_state(dynamics, theta, x).state[-1]
    update = implicit_gradient(dynamics, theta, x, y, STEADY)
    assert update.free.converged
    assert all(np.abs(value).max() < 1e-15 for value in update.gradient.values())


# --- what does not converge


def test_too_few_iterations_are_reported() -> None:
    dynamics = dynamics_of("real time", NETWORKS["chain"])
    theta, x, _ = problem(dynamics)
    F = linearize(dynamics, theta, x, steady_state(dynamics, theta, x).state)
    loss_s = tuple(np.ones_like(value) for value in F.at.activities[1:])
    with pytest.warns(RuntimeWarning, match="λ has not converged.*after 5 iterations"):
        _, converged = adjoint(F, loss_s, 1e-12, 5)
    assert not converged


@pytest.mark.filterwarnings("ignore:invalid value")
def test_the_free_phase_may_converge_where_lambda_does_not() -> None:
    """With ε = 1.9 the synchronous step is unstable here. ω = 0.5 makes an ε of 0.95 of it."""
    dynamics = RealTime(chain([3, 4, 2]), tanh, epsilon=1.9, clamp=False)
    theta, x, y = problem(dynamics)
    phases = replace(STEADY, free_steps=2000, schedule=Alternating(omega=0.5, tol=1e-12))
    with pytest.warns(RuntimeWarning, match="λ has not converged"):
        update = implicit_gradient(dynamics, theta, x, y, phases)
    assert update.free.residuals[-1] <= 1e-12
    assert not update.free.converged


def test_a_sample_whose_lambda_grows_is_left_out() -> None:
    """A chain x → 1 neuron ⇄ 1 neuron with w = 1.02, where λ grows if σ′ = 1, and is ℓ_s if σ′ = 0."""
    dynamics = DiscreteTime(chain([1, 1, 1]), hard_sigmoid)
    theta = {
        "w0-1": np.ones((1, 1)),
        "w1-2": np.full((1, 1), 1.02),
        "b1": np.zeros(1),
        "b2": np.full(1, -0.01),
    }
    x, steady = np.array([[-0.01], [2.0], [-2.0]]), np.array([[0.5], [1.0], [0.0]])
    F = linearize(dynamics, theta, x, (steady, steady))
    loss_s = (np.zeros((3, 1)), steady - 0.3)
    with pytest.warns(RuntimeWarning, match="for 1 of 3 samples, which the gradient leaves out"):
        lam, converged = adjoint(F, loss_s, 1e-12, 1000)
    assert not converged
    np.testing.assert_array_equal(lam[0], 0)
    np.testing.assert_array_equal(lam[1], [[0], [0.7], [-0.3]])


def test_a_sample_that_overflows_does_not_stop_the_others() -> None:
    """In float32 λ of the first sample, which grows by 3 per iteration, is infinite after 81 of them."""
    factors = np.array([[3.0], [0.97]], np.float32)
    F = SimpleNamespace(vjp=lambda lam: tuple(factors * layer for layer in lam))
    loss_s = (np.zeros((2, 1), np.float32), np.ones((2, 1), np.float32))
    with pytest.warns(RuntimeWarning, match="for 1 of 2 samples, .* 1 of them are infinite"):
        lam, converged = adjoint(F, loss_s, 1e-6, 3000)
    assert not converged
    np.testing.assert_allclose(lam[1], [[0], [1 / (1 - 0.97)]], rtol=1e-4)


def test_more_iterations_are_needed_as_the_spectral_radius_nears_1() -> None:
    """A chain x → 1 neuron ⇄ 1 neuron in discrete time: J has the eigenvalues ±w √(σ′₁ σ′₂)."""
    dynamics = DiscreteTime(untied(chain([1, 1, 1])))
    x = np.ones((1, 1))
    radii = []
    for w in (0.5, 0.9, 0.98):
        # With the drive ½ everywhere, s = ½ and σ′ = 1.
        theta = {"w0-1": np.zeros((1, 1)), "w1-2": np.full((1, 1), w), "w2-1": np.full((1, 1), w)}
        theta |= {name: np.full(1, 0.5 - 0.5 * w) for name in ("b1", "b2")}
        F = linearize(dynamics, theta, x, (np.full((1, 1), 0.5),) * 2)
        loss_s = (np.zeros((1, 1)), np.ones((1, 1)))
        # k iterations leave w^k of the error: log(tol)/log(w) are needed.
        needed = int(np.ceil(np.log(1e-6 * (1 / (1 - w**2))) / np.log(w)))
        _, converged = adjoint(F, loss_s, 1e-6, needed + 5)
        assert converged
        with pytest.warns(RuntimeWarning, match="λ has not converged"):
            adjoint(F, loss_s, 1e-6, needed - 5)
        radii.append(needed)
    assert radii == sorted(radii)
    assert radii[-1] > 20 * radii[0]


@pytest.mark.parametrize("schedule", [Synchronous(), EXACT])
def test_k_beta_and_the_estimate_are_not_used(schedule: Synchronous | Alternating) -> None:
    dynamics = dynamics_of("discrete time", NETWORKS["chain"])
    arguments = dynamics, *problem(dynamics)
    phases = replace(STEADY, free_steps=50, schedule=schedule)
    one = implicit_gradient(*arguments, phases).gradient
    two = implicit_gradient(
        *arguments, replace(phases, nudged_steps=1, beta=-7.0, estimate="centered")
    ).gradient
    assert all((one[name] == two[name]).all() for name in one)


def test_lambda_takes_up_to_ten_iterations_for_each_free_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tolerance is that of the schedule."""
    asked = []
    monkeypatch.setattr(implicit, "adjoint", lambda F, u, *numbers: asked.append(numbers) or (u, True))
    dynamics = dynamics_of("discrete time", NETWORKS["chain"])
    phases = replace(STEADY, free_steps=37, schedule=Alternating(tol=0.02))
    implicit_gradient(dynamics, *problem(dynamics), phases)
    assert asked == [(0.02, 370)]
