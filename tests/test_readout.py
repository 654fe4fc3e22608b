"""The readout: a cost with parameters, whose gradients are those of the loss for each rule that trains it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from estimators import (
    KINDS,
    STEADY,
    check_loss_gradient,
    distance,
    dynamics_of,
    flat,
    largest_distance,
    problem,
)

import eqprop_np as eq
from eqprop_np.activations import tanh
from eqprop_np.connections import Dense
from eqprop_np.costs import Cost, Readout, cross_entropy, squared_error
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.network import Network, Theta, chain, convolutional, toy
from eqprop_np.rules import RULES, telescoped
from eqprop_np.rules.vector_field import angle_between, untied
from eqprop_np.testing import check_cost, check_gradient

READOUT = Readout(3)
NETWORKS: dict[str, Network] = {
    "chain": chain([3, 4, 5]),
    "skip": toy(3, 4, 5),
    "conv": convolutional((7, 7, 1), [2, 2], [], kernel=2, pool=2),  # its last layer consists of images
}
TIED = list(NETWORKS)
NETWORKS |= {f"untied {name}": untied(network) for name, network in NETWORKS.items()}

every = pytest.mark.parametrize("name", NETWORKS)
each = pytest.mark.parametrize("kind", KINDS[:2])


def case(kind: str, name: str) -> tuple[Dynamics, Theta, np.ndarray, np.ndarray]:
    dynamics = dynamics_of(kind, NETWORKS[name], READOUT)
    return dynamics, *problem(dynamics, seed=0)


def order(errors: list[float]) -> float:
    """Return the order in β of two errors at β = 0.01 and 0.001."""
    return float(np.log10(errors[0] / errors[1]))


# --- dL/dθ of every parameter


@every
@each
def test_implicit_differentiation_and_bptt_give_the_gradient_of_the_loss(kind: str, name: str) -> None:
    arguments = case(kind, name)
    gradient = eq.implicit_gradient(*arguments, STEADY).gradient
    assert {"w-readout", "b-readout"} < gradient.keys()
    check_loss_gradient(*arguments, gradient)
    assert largest_distance(eq.bptt(*arguments, STEADY).gradient, gradient) < 1e-11


@pytest.mark.parametrize("name", ["chain", "skip", "untied chain"])
@each
def test_bptt_of_three_steps_is_the_gradient_of_the_loss_after_three_steps(kind: str, name: str) -> None:
    """The state still moves, so the readout's gradient at another state than s_T would be another one."""
    dynamics, theta, x, y = case(kind, name)
    synchronous = eq.Synchronous()

    def loss(theta: Theta) -> float:
        state = eq.relax(dynamics, theta, x, None, 3, schedule=synchronous).state
        return float(dynamics.cost.at(theta).value(state[-1], y).mean())

    phases = eq.Phases(3, 3, beta=0.1, schedule=synchronous)
    rng = np.random.default_rng(0)
    check_gradient(loss, lambda t: eq.bptt(dynamics, t, x, y, phases).gradient, theta, rng=rng)


@every
@each
def test_asymep_gives_it_with_an_error_of_order_beta_squared(kind: str, name: str) -> None:
    arguments = case(kind, name)
    exact = eq.implicit_gradient(*arguments, STEADY).gradient
    errors = [
        distance(eq.asymep(*arguments, replace(STEADY, beta=beta)).gradient, exact) for beta in (1e-2, 1e-3)
    ]
    assert errors[1] < 1e-5
    assert order(errors) == pytest.approx(2, abs=0.05)


@pytest.mark.parametrize("name", TIED)
@each
def test_ep_gives_it_with_an_error_of_order_beta_squared(kind: str, name: str) -> None:
    """Each parameter by itself, those of the readout included."""
    arguments = case(kind, name)
    exact = eq.implicit_gradient(*arguments, STEADY).gradient
    one, two = (
        eq.ep(*arguments, replace(STEADY, estimate="centered", beta=beta)).gradient for beta in (0.1, 0.05)
    )
    for key in exact:
        error, half = (distance({key: g[key]}, {key: exact[key]}) for g in (one, two))
        assert error < 0.02
        assert error / half == pytest.approx(4, rel=0.05)


@pytest.mark.parametrize("name", TIED)
@each
def test_one_sided_ep_has_an_error_of_order_beta(kind: str, name: str) -> None:
    arguments = case(kind, name)
    exact = eq.implicit_gradient(*arguments, STEADY).gradient
    one, two = (eq.ep(*arguments, replace(STEADY, beta=beta)).gradient for beta in (2e-3, 1e-3))
    for key in exact:
        error, half = (distance({key: g[key]}, {key: exact[key]}) for g in (one, two))
        assert half < 0.01
        assert error / half == pytest.approx(2, rel=0.1)


class Outside(Readout):
    """A readout whose nudge stands outside σ, as that of an output does."""

    nudges_drive = False


@pytest.mark.parametrize(
    ("name", "far", "angle"), [("chain", 0.272, 15.2), ("skip", 0.586, 28.0), ("conv", 0.0335, 1.64)]
)
def test_a_nudge_outside_sigma_would_keep_ep_away_from_it(name: str, far: float, angle: float) -> None:
    """σ′ of the last layer is missing, for a β near 0 too. The gradients of W and c are exact."""
    dynamics, *arguments = case("discrete time", name)
    exact = eq.implicit_gradient(dynamics, *arguments, STEADY).gradient
    outside = replace(dynamics, cost=Outside(3))
    found = eq.ep(outside, *arguments, replace(STEADY, estimate="centered", beta=1e-3)).gradient
    assert distance(found, exact) == pytest.approx(far, rel=0.01)
    assert angle_between(flat(found), flat(exact)) == pytest.approx(angle, rel=0.01)
    for key in ("w-readout", "b-readout"):
        assert distance({key: found[key]}, {key: exact[key]}) < 1e-6


def test_in_discrete_time_the_nudge_stands_inside_sigma() -> None:
    """A saturated neuron of the last layer does not move, because no change of θ would move it."""
    network = chain([3, 2])
    dynamics = eq.DiscreteTime(network, eq.hard_sigmoid, READOUT)
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    theta |= {"w0-1": np.zeros((3, 2)), "b1": np.array([0.4, 2.0])}
    s, y, x = (np.array([[0.4, 1.0]]),), np.array([[0.0, 1.0, 0.0]]), np.ones((1, 3))
    z = s[0] @ theta["w-readout"] + theta["b-readout"]
    force = -0.3 * (np.exp(z) / np.exp(z).sum() - y) @ theta["w-readout"].T
    (nudged,) = eq.step(dynamics, theta, x, s, eq.Nudge(0.3, y))
    np.testing.assert_allclose(nudged, [[0.4 + force[0, 0], 1.0]], rtol=0, atol=1e-15)


@pytest.mark.parametrize("estimate", ["one-sided", "centered"])
def test_ep_takes_the_readouts_gradient_at_the_nudged_states(estimate: str) -> None:
    dynamics, theta, x, y = case("discrete time", "chain")
    phases = eq.Phases(100, 40, 0.3, estimate, eq.Alternating(tol=1e-14))
    found = eq.ep(dynamics, theta, x, y, phases).gradient
    free = eq.relax(dynamics, theta, x, None, 50, schedule=phases.schedule).state
    outputs = [
        eq.relax(dynamics, theta, x, free, 20, nudge=eq.Nudge(b, y), schedule=eq.Alternating(tol=0)).state[-1]
        for b in ((0.3,) if estimate == "one-sided" else (0.3, -0.3))
    ]
    w, c = np.zeros((5, 3)), np.zeros(3)
    for s in outputs:
        z = s @ theta["w-readout"] + theta["b-readout"]
        e = np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) - y
        w += s.T @ e / (2 * len(outputs))
        c += e.mean(axis=0) / len(outputs)
    np.testing.assert_allclose(found["w-readout"], w, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found["b-readout"], c, rtol=0, atol=1e-12)


def test_the_nudge_acts_on_the_state_itself() -> None:
    """In real time z = s^N W + c, not ρ(s^N) W + c, and the force is −β (ŷ − y) Wᵀ, scaled by ε."""
    dynamics, theta, x, y = case("real time", "chain")
    rng = np.random.default_rng(1)
    s = tuple(rng.standard_normal(value.shape) for value in dynamics.network.zeros(2, np.float64))
    z = s[-1] @ theta["w-readout"] + theta["b-readout"]
    force = -0.7 * (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True) - y) @ theta["w-readout"].T
    free, nudged = eq.step(dynamics, theta, x, s), eq.step(dynamics, theta, x, s, eq.Nudge(0.7, y))
    np.testing.assert_array_equal(free[0], nudged[0])
    np.testing.assert_allclose(nudged[1] - free[1], dynamics.nudge_scale * force, rtol=0, atol=1e-14)
    np.testing.assert_allclose(dynamics.scores(theta, s), z, rtol=0, atol=1e-14)


# --- the readout by itself


@pytest.mark.parametrize("layer", [(4,), (2, 3, 2)])
@pytest.mark.parametrize("loss", [cross_entropy, squared_error], ids=lambda loss: loss.name)
def test_its_derivatives(layer: tuple[int, ...], loss: Cost, rng: np.random.Generator) -> None:
    readout = Readout(3, loss)
    theta = readout.init(layer, rng, np.float64)
    s, y = rng.standard_normal((4, *layer)), rng.dirichlet(np.ones(3), 4)
    check_gradient(
        lambda theta, s: float(readout.at(theta).value(s, y).mean()),
        lambda theta, s: (readout.gradient(theta, s, y), readout.at(theta).derivative(s, y) / 4),
        theta,
        s,
        rng=rng,
    )


def test_cross_entropy_is_a_cost() -> None:
    check_cost(cross_entropy)
    z, y = np.log([[1.0, 2.0, 5.0]]), np.array([[0.0, 1.0, 0.0]])
    np.testing.assert_allclose(cross_entropy.value(z, y), [np.log(4)], rtol=1e-14)
    np.testing.assert_allclose(cross_entropy.derivative(z, y), [[0.125, -0.75, 0.625]], rtol=1e-14)


def test_cross_entropy_is_consistent_for_any_target(rng: np.random.Generator) -> None:
    z, y = rng.standard_normal((3, 4)), rng.standard_normal((3, 4))
    check_gradient(
        lambda z: float(cross_entropy.value(z, y).sum()),
        lambda z: cross_entropy.derivative(z, y),
        z,
        rng=rng,
    )


def test_large_scores_do_not_overflow() -> None:
    z, y = np.array([[1e4, 0.0, -1e4]], np.float32), np.array([[0.0, 0.0, 1.0]], np.float32)
    with np.errstate(all="raise", under="ignore"):
        assert cross_entropy.value(z, y) == 2e4
        np.testing.assert_array_equal(cross_entropy.derivative(z, y), [[1, 0, -1]])


def test_its_parameters_begin_as_those_of_the_network() -> None:
    dynamics = DiscreteTime(convolutional((28, 28, 1), [4, 64], []), cost=Readout(10))
    theta = dynamics.init(np.random.default_rng(0))
    assert {name: value.shape for name, value in theta.items()} == dynamics.parameter_shapes
    assert {value.dtype for value in theta.values()} == {np.dtype(np.float32)}
    assert theta["w-readout"].shape == (1024, 10)
    assert 0.99 / 32 < np.abs(theta["w-readout"]).max() <= 1 / 32
    assert theta["w-readout"].std() == pytest.approx(1 / 32 / np.sqrt(3), rel=0.02)
    assert np.abs(theta["b-readout"]).max() <= 1 / 32
    alone = dynamics.network.init(np.random.default_rng(0))
    assert all((theta[name] == alone[name]).all() for name in alone)


def test_a_plain_cost_has_no_parameters() -> None:
    for dynamics in (DiscreteTime(NETWORKS["chain"]), RealTime(NETWORKS["chain"])):
        theta, cost = dynamics.init(np.random.default_rng(0), np.float64), dynamics.cost
        assert dynamics.parameter_shapes == dynamics.network.parameter_shapes
        assert theta.keys() == dynamics.parameter_shapes.keys()
        assert dynamics.target_shape == (5,)
        assert cost.at(theta) is cost
        s = (np.ones((2, 4)), np.ones((2, 5)))
        assert cost.gradient(theta, s[-1], s[-1]) == {}
        assert dynamics.scores(theta, s) is s[-1]


def test_init_takes_the_angle_of_untied_weights() -> None:
    dynamics = DiscreteTime(NETWORKS["untied chain"], cost=READOUT)
    theta = dynamics.init(np.random.default_rng(0), np.float64, psi=180)
    assert eq.weight_angle(dynamics.network, theta) == 180
    assert "w-readout" in theta


@pytest.mark.parametrize("rule", ["ep", "implicit", "bptt", "asymep"])
def test_float32_stays_float32_and_arguments_are_only_read(rule: str) -> None:
    for kind in KINDS:
        dynamics, theta, x, y = case(kind, "conv")
        theta = {name: value.astype(np.float32) for name, value in theta.items()}
        x, y = x.astype(np.float32), y.astype(np.float32)
        for array in (*theta.values(), x, y):
            array.flags.writeable = False
        phases = eq.Phases(60, 5, 0.1, "centered", eq.Alternating(tol=1e-4))
        gradient = RULES[rule].function(dynamics, theta, x, y, phases).gradient
        assert {name: (g.dtype, g.shape) for name, g in gradient.items()} == {
            name: (np.float32, shape) for name, shape in dynamics.parameter_shapes.items()
        }


def test_a_batch_gets_the_mean_of_its_samples() -> None:
    dynamics, theta, x, y = case("discrete time", "chain")
    for rule in (eq.ep, eq.implicit_gradient, eq.bptt, eq.asymep):
        both = rule(dynamics, theta, x, y, STEADY).gradient
        one, two = (rule(dynamics, theta, x[i : i + 1], y[i : i + 1], STEADY).gradient for i in (0, 1))
        assert distance(both, {k: (one[k] + two[k]) / 2 for k in theta}) < 1e-11


# --- training


def toy_data(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return points of the square, and which of three bands they are in."""
    X = rng.random((150, 2))
    return X, np.digitize(X.sum(axis=1), [0.8, 1.2])


@pytest.mark.parametrize("rule", ["ep", "implicit", "bptt", "asymep"])
def test_fit_trains_it_and_predict_uses_its_scores(rule: str, rng: np.random.Generator) -> None:
    X, y = toy_data(rng)
    dynamics = DiscreteTime(chain([2, 12]), cost=READOUT)
    phases = eq.Phases(20, 8, 0.2, "centered")
    progress = eq.fit(
        dynamics, X, y, phases=phases, rule=RULES[rule], optimizer=eq.SGD(0.5), epochs=12, validation=(X, y)
    )
    errors = progress.history["validation_error"]
    assert errors[-1] < min(20, errors[0])
    assert errors[-1] == pytest.approx(eq.error_rate(dynamics, progress.theta, X, y, phases))
    state = eq.relax(dynamics, progress.theta, X, schedule=eq.Alternating(tol=1e-4)).state
    scores = state[-1] @ progress.theta["w-readout"] + progress.theta["b-readout"]
    np.testing.assert_allclose(eq.outputs(dynamics, progress.theta, X), scores, rtol=0, atol=1e-3)
    assert (eq.predict(dynamics, progress.theta, X) == scores.argmax(axis=1)).mean() > 0.98


def test_a_run_with_it_resumes_bit_for_bit(tmp_path: Path, rng: np.random.Generator) -> None:
    X, y = toy_data(rng)
    dynamics = DiscreteTime(chain([2, 6]), cost=READOUT)
    settings = {"phases": eq.Phases(10, 4, 0.2), "optimizer": eq.SGD(0.5, momentum=0.5)}
    whole = eq.fit(dynamics, X, y, epochs=2, **settings)
    eq.fit(dynamics, X, y, epochs=1, **settings).save(tmp_path / "run.npz")
    loaded = eq.Progress.load(tmp_path / "run.npz")
    resumed = eq.fit(dynamics, X, y, epochs=2, progress=loaded, **settings)
    assert resumed.theta.keys() == dynamics.parameter_shapes.keys()
    assert all((resumed.theta[name] == whole.theta[name]).all() for name in whole.theta)


@pytest.mark.parametrize("rule", [name for name in RULES if not RULES[name].readout])
def test_fit_refuses_a_rule_that_does_not_train_it(rule: str, rng: np.random.Generator) -> None:
    with pytest.raises(ValueError, match="does not train the parameters of the cost"):
        eq.fit(
            DiscreteTime(chain([2, 6]), cost=READOUT),
            *toy_data(rng),
            phases=STEADY,
            rule=RULES[rule],
            epochs=0,
        )


# --- what is refused


@pytest.mark.parametrize(
    "rule",
    [RULES[name].function for name in RULES if not RULES[name].readout]
    + [telescoped.telescoped_cep, telescoped.telescoped_cvf],
    ids=lambda rule: rule.__name__,
)
def test_a_rule_that_does_not_train_it_refuses_it(rule: eq.rules.phases.Rule) -> None:
    dynamics = DiscreteTime(NETWORKS["chain"], tanh, READOUT)
    theta, x, y = problem(dynamics)
    phases = replace(STEADY, learning_rates=dict.fromkeys(theta, 0.1))
    message = "does not train the parameters of the cost 'cross-entropy of a readout': use the rule ep, bptt,"
    with pytest.raises(ValueError, match=re.escape(message)):
        rule(dynamics, theta, x, y, phases)


def test_theorem_1_refuses_it() -> None:
    dynamics, theta, x, y = case("discrete time", "chain")
    rest = eq.first_phase(dynamics, theta, x, 5)
    for call in (
        lambda: eq.updates(dynamics, theta, x, y, rest, 0.1),
        lambda: eq.gradients(dynamics, theta, x, y, rest),
        lambda: eq.drive_gradients(dynamics, theta, x, y, rest),
    ):
        with pytest.raises(ValueError, match="does not train the parameters of the cost"):
            call()


def test_theta_and_the_target_must_fit() -> None:
    dynamics, theta, x, y = case("discrete time", "chain")
    missing = {name: value for name, value in theta.items() if name != "b-readout"}
    with pytest.raises(ValueError, match="it lacks b-readout"):
        eq.ep(dynamics, missing, x, y, STEADY)
    with pytest.raises(ValueError, match=r"theta\['w-readout'\] must have shape \(5, 3\), got \(3, 5\)"):
        eq.relax(dynamics, theta | {"w-readout": theta["w-readout"].T.copy()}, x)
    with pytest.raises(ValueError, match=r"y must have shape \(2, 3\)"):
        eq.implicit_gradient(dynamics, theta, x, np.ones((2, 5)), STEADY)
    with pytest.raises(ValueError, match="it also has b-readout, w-readout"):
        eq.ep(DiscreteTime(NETWORKS["chain"]), theta, x, np.ones((2, 5)), STEADY)


@pytest.mark.parametrize("classes", [0, -1, 2.0, True, None])
def test_classes_are_a_positive_integer(classes: object) -> None:
    with pytest.raises(ValueError, match="classes must be a positive integer, got"):
        Readout(classes)


def test_the_loss_is_a_plain_cost() -> None:
    for wrong in ("cross-entropy", Readout(3)):
        with pytest.raises(TypeError, match="loss must be a Cost such as cross_entropy, got"):
            Readout(3, wrong)


def test_a_connection_must_have_another_name() -> None:
    network = Network(((4,), (3,)), (Dense(0, 1, (4,), (3,), name="w-readout"),))
    with pytest.raises(ValueError, match="w-readout"):
        DiscreteTime(network, cost=READOUT)
