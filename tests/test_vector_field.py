"""VF and C-VF: untied weights, their angle, their updates as sums of outer products, and EP as a limit."""

import json
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from eqprop_np.cost import cost
from examples import NETWORKS
from test_continual import assert_close, distance, each_dynamics, problem

from eqprop_np import mnist, network
from eqprop_np.activations import Array, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime, relax, step
from eqprop_np.experiments import EXPERIMENTS
from eqprop_np.network import Network, Theta, angle_between
from eqprop_np.rules import Phases, bptt, cep, cvf, ep, vf
from eqprop_np.rules.vector_field import field_delta
from eqprop_np.testing import check_gradient
from eqprop_np.theorem import System, compare, first_phase, gradients, order, updates

CHAIN = NETWORKS["long chain"]
GRAPHS = {name: NETWORKS[name] for name in ("chain", "long chain", "skip", "conv")}
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
ANGLES = (0, 22.5, 45, 67.5, 90, 112.5, 135, 157.5, 180)


def backward(name: str) -> str:
    """The name of the weight that leads back: "w2-1" for "w1-2"."""
    pre, post = name[1:].split("-")
    return f"w{post}-{pre}"


def symmetric(theta: Theta, graph: Network) -> Theta:
    """The untied parameters that do as the tied θ does."""
    return theta | {back: theta[forward].T.copy() for forward, back in network.untied(graph).pairs}


def free_weights(graph: Network) -> tuple[Theta, Array, Array, Phases]:
    """As `problem`, with forward and backward weights that have nothing in common."""
    theta, x, y, phases = problem(graph, 0.1)
    rng = np.random.default_rng(1)
    return theta | {back: rng.uniform(-1, 1, theta[back].shape) / 2 for _, back in graph.pairs}, x, y, phases


# --- the network


@each_graph
def test_each_way_between_free_layers_has_its_own_weight(graph: Network) -> None:
    """Shapes (n_pre, n_post); the input keeps its one weight, and no bias is lost."""
    shapes = network.untied(graph).parameter_shapes
    assert {name: shapes[name] for name in graph.parameter_shapes} == graph.parameter_shapes
    extra = {backward(c.name): c.shape[::-1] for c in graph.recurrent}
    assert {name: shapes[name] for name in shapes.keys() - graph.parameter_shapes.keys()} == extra


@each_graph
def test_with_equal_weights_it_moves_as_the_tied_network(graph: Network) -> None:
    theta, x, y, _ = problem(graph, 0.0)
    for tied, untied in zip(each_dynamics(graph), each_dynamics(network.untied(graph)), strict=True):
        for schedule in ("synchronous", "alternating"):
            states = (
                relax(dynamics, weights, x, None, 7, nudge=Nudge(0.3, y), schedule=schedule).state
                for dynamics, weights in ((tied, theta), (untied, symmetric(theta, graph)))
            )
            for a, b in zip(*states, strict=True):
                np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)


def test_a_layer_hears_the_backward_weight_and_not_the_forward_one() -> None:
    graph = network.untied(network.chain([2, 3, 4]))
    theta, x, _, _ = free_weights(graph)
    s = (np.ones((3, 3)), np.full((3, 4), 2.0))
    to_one, to_two = graph.dphi_ds(theta, x, s)
    np.testing.assert_allclose(to_one, x @ theta["w0-1"] + s[1] @ theta["w2-1"] + theta["b1"], rtol=1e-12)
    np.testing.assert_allclose(to_two, s[0] @ theta["w1-2"] + theta["b2"], rtol=1e-12)


def test_it_has_no_phi() -> None:
    graph = network.untied(network.chain([2, 3, 4]))
    theta, x, _, _ = free_weights(graph)
    with pytest.raises(ValueError, match="w1-2 is one way of an untied connection, which no Φ has"):
        graph.phi(theta, x, graph.zeros(3, np.float64))


def test_only_dense_connections_between_free_layers_can_be_untied() -> None:
    with pytest.raises(ValueError, match="w1-2 is a convolution"):
        network.untied(NETWORKS["two conv"])


# --- its derivatives, and BPTT on it


@each_graph
def test_its_vector_jacobian_products_are_derivatives(graph: Network, rng: np.random.Generator) -> None:
    graph = network.untied(graph)
    theta, x, _, _ = free_weights(graph)
    s = tuple(rng.standard_normal((3, *graph.shapes[n])) for n in graph.layers)
    v = tuple(rng.standard_normal(value.shape) for value in s)
    switches = graph.find_switches(theta, x, s)

    def product(theta: Theta, s: tuple[Array, ...]) -> float:
        return float(sum((a * b).sum() for a, b in zip(v, graph.dphi_ds(theta, x, s), strict=True)))

    check_gradient(lambda s: product(theta, s), lambda s: graph.vjp_s(theta, v, switches), s, rng=rng)
    check_gradient(
        lambda theta: product(theta, s) / len(x),
        lambda theta: graph.vjp_theta(x, [(s, v, switches)]),
        theta,
        rng=rng,
    )


@each_graph
def test_bptt_on_it_is_the_derivative_of_the_loss(graph: Network, rng: np.random.Generator) -> None:
    for dynamics in each_dynamics(network.untied(graph))[::2]:  # without the clamp, which has kinks
        theta, x, y, _ = free_weights(dynamics.network)
        phases = Phases(6, 6, 1.0, schedule="synchronous", tol=0.0)

        def loss(theta: Theta, dynamics: Dynamics = dynamics, x: Array = x, y: Array = y) -> float:
            s = relax(dynamics, theta, x, None, 6, schedule="synchronous").state
            return float(cost(s[-1], y).mean())

        check_gradient(loss, lambda theta: bptt(dynamics, theta, x, y, phases).gradient, theta, rng=rng)  # noqa: B023


# --- the angle


@pytest.mark.parametrize("angle", ANGLES)
def test_sign_flips_set_the_angle(angle: float) -> None:
    """The cosine's mean is cos ψ; its deviation, for n weights drawn uniformly, is √(p(1−p) 7.2 / n)."""
    graph = network.untied(network.chain([5, 200, 100, 10]))
    theta = graph.init(np.random.default_rng(0), np.float64, angle)
    n = sum(theta[forward].size for forward, _ in graph.pairs)
    p = (1 - np.cos(np.deg2rad(angle))) / 2
    cosine = np.cos(np.deg2rad(graph.angle(theta)))
    assert abs(cosine - np.cos(np.deg2rad(angle))) <= 4 * np.sqrt(p * (1 - p) * 7.2 / n) + 1e-15
    for forward, back in graph.pairs:
        assert np.array_equal(abs(theta[back]), abs(theta[forward].T))  # signs, and no more


def test_at_0_the_weights_are_equal_and_at_180_opposite() -> None:
    graph = network.untied(CHAIN)
    for angle, sign in ((0, 1), (180, -1)):
        theta = graph.init(np.random.default_rng(0), np.float64, angle)
        assert graph.angle(theta) == angle
        for forward, back in graph.pairs:
            assert np.array_equal(theta[back], sign * theta[forward].T)


def test_a_seed_gives_the_same_weights_tied_or_not() -> None:
    tied = CHAIN.init(np.random.default_rng(3))
    untied = network.untied(CHAIN).init(np.random.default_rng(3), angle=90)
    assert all(np.array_equal(untied[name], value) for name, value in tied.items())
    assert {value.dtype for value in untied.values()} == {np.dtype(np.float32)}


def test_the_angle_between_vectors() -> None:
    a = np.array([3.0, 4.0])
    assert angle_between(a, np.array([-4.0, 3.0])) == pytest.approx(90, abs=1e-12)
    assert angle_between(a, 7 * a) == 0
    assert angle_between(a, -a) == 180
    small = 1e-10  # radians: its cosine is 1
    assert angle_between(a, a + small * np.array([-4.0, 3.0])) == pytest.approx(np.degrees(small), rel=1e-5)


# --- the updates


@each_graph
@pytest.mark.parametrize("rule", [vf, cvf])
def test_a_weight_moves_by_what_its_two_neurons_do(graph: Network, rule: Callable) -> None:
    """w_f by s^pre_t ⊗ (s^post_{t+1} − s^post_t), w_b by s^post_t ⊗ (s^pre_{t+1} − s^pre_t)."""
    for dynamics in each_dynamics(network.untied(graph)):
        theta, x, y, phases = free_weights(dynamics.network)
        found = rule(dynamics, theta, x, y, phases)
        s, moving = found.free.state, theta
        total = {name: np.zeros_like(value) for name, value in theta.items()}
        for _ in range(phases.nudged_steps):
            new = step(dynamics, moving, x, s, Nudge(phases.beta, y))
            layers, after = ((x, *map(dynamics.rates, state)) for state in (s, new))
            delta = {}
            for c in dynamics.network.connections:
                if not c.pools:
                    pre, change = (a.reshape(3, -1) for a in (layers[c.pre], after[c.post] - layers[c.post]))
                    delta[c.name] = np.einsum("bi,bj->ij", pre, change) / (phases.beta * 3)
            for n in dynamics.network.layers:
                change = (after[n] - layers[n]).reshape(3, -1, theta[f"b{n}"].size)
                delta[f"b{n}"] = change.sum(axis=(0, 1)) / (phases.beta * 3)
            for c in dynamics.network.inputs:
                if c.pools:
                    switches = c.to_post(moving[c.name], x)[1]
                    delta[c.name] = c.gradient(x, after[c.post] - layers[c.post], switches) / (
                        phases.beta * 3
                    )
            total = {name: total[name] - delta[name] for name in theta}
            if rule is cvf:
                moving = {name: moving[name] + phases.rates[name] * delta[name] for name in theta}
            s = new
        assert_close(found.gradient, total)


@each_graph
def test_at_rate_zero_cvf_is_vf(graph: Network) -> None:
    for dynamics in each_dynamics(network.untied(graph)):
        theta, x, y, phases = free_weights(dynamics.network)
        at_rest = replace(phases, rates=dict.fromkeys(theta, 0.0))
        assert_close(vf(dynamics, theta, x, y, phases).gradient, cvf(dynamics, theta, x, y, at_rest).gradient)


# --- EP and C-EP as limits


@each_graph
def test_with_equal_weights_vf_is_ep_but_for_a_term_of_second_order(graph: Network) -> None:
    """Δ(pre ⊗ post) = pre_t ⊗ Δpost + Δpre ⊗ post_t + Δpre ⊗ Δpost, of which w_f and w_b have the first two.

    The states are the same, since no weight moves. So the sum of w_f's and w_bᵀ's update is EP's
    without the last term, to all digits; the input's weights and the biases are EP's.
    """
    for tied, untied in zip(each_dynamics(graph), each_dynamics(network.untied(graph)), strict=True):
        theta, x, y, phases = problem(graph, 0.0)
        expected = ep(tied, theta, x, y, phases)
        found = vf(untied, symmetric(theta, graph), x, y, phases).gradient
        steps = relax(
            tied, theta, x, expected.free.state, phases.nudged_steps,
            nudge=Nudge(phases.beta, y), schedule="synchronous", trajectory=True,
        ).trajectory  # fmt: skip
        rates = [[tied.rates(value).reshape(3, -1) for value in s] for s in steps]
        moves = [[b - a for a, b in zip(*pair, strict=True)] for pair in pairwise(rates)]
        for c in graph.recurrent:
            second = sum(move[c.pre - 1].T @ move[c.post - 1] for move in moves) / (phases.beta * 3)
            found[c.name] = found[c.name] + found.pop(backward(c.name)).T - second
        assert_close(found, expected.gradient)


@pytest.mark.parametrize(("rule", "twin"), [(vf, ep), (cvf, cep)])
def test_with_tied_weights_the_term_vanishes_with_beta(rule: Callable, twin: Callable) -> None:
    """C-VF with one weight for both ways, which takes both their updates, is C-EP as β → 0, at any η/β.

    The term is of order β² in Φ, and so of order β in Δ_θ. But in discrete time neighbours take turns:
    from rest, the nudge's news reaches every other layer only, so that two moves meet only where the
    output's own force or moving weights bring them together, and one of the two is smaller by β.
    """
    betas = [1e-1, 1e-2, 1e-3, 1e-4]
    for dynamics in each_dynamics(CHAIN):
        distances = []
        for beta in betas:
            theta, x, y, phases = problem(CHAIN, 0.3 * beta, beta)
            phases = replace(phases, free_steps=2000, tol=1e-15)
            expected = twin(dynamics, theta, x, y, phases).gradient
            distances.append(distance(rule(dynamics, theta, x, y, phases).gradient, expected))
        expected_order = 2 if rule is vf and isinstance(dynamics, DiscreteTime) else 1
        assert order(betas[1:], distances[1:]) == pytest.approx(expected_order, abs=0.02)


def test_with_tied_weights_its_first_step_differs_by_that_term_alone() -> None:
    """Before the weights have moved, the algebra holds for C-VF and C-EP too, to all digits."""
    for dynamics in each_dynamics(CHAIN):
        theta, x, y, phases = problem(CHAIN, 0.1)
        phases = replace(phases, nudged_steps=1)
        expected, found = (rule(dynamics, theta, x, y, phases) for rule in (cep, cvf))
        after = step(dynamics, theta, x, expected.free.state, Nudge(phases.beta, y))
        moves = [
            dynamics.rates(b) - dynamics.rates(a) for a, b in zip(expected.free.state, after, strict=True)
        ]
        for c in CHAIN.recurrent:
            found.gradient[c.name] -= moves[c.pre - 1].T @ moves[c.post - 1] / (phases.beta * 3)
        assert_close(found.gradient, expected.gradient)


def test_theorem_1_holds_for_equal_weights_and_fails_with_the_angle() -> None:
    """The step's Jacobian is symmetric at ψ = 0 alone; elsewhere no β brings EP's updates to BPTT's."""
    graph = network.untied(network.toy(6, 8, 3))
    system = System(RealTime(graph, tanh, 0.1, clamp=False), steps=30, beta=1e-5, batch=3)
    _, x, y = system.draw(0)
    etas, angles = [0.0, 1e-8, 2e-8, 4e-8], []
    for angle in (0, 90, 180):
        theta = graph.init(np.random.default_rng(0), np.float64, angle)
        rest = first_phase(system.dynamics, theta, x, system.steps)
        processes = (
            updates(system.dynamics, theta, x, y, rest, system.beta, eta=eta, delta=field_delta)
            for eta in etas
        )
        comparisons = compare(gradients(system.dynamics, theta, x, y, rest), *processes)
        angles.append(comparisons[0].angle)
        if angle == 0:
            limit, *distances = (comparison.distance_theta for comparison in comparisons)
    assert limit < 2e-5  # measured: 4.6e-6, and 2.9e-3 with the first η
    assert order(etas[1:], distances) == pytest.approx(1, abs=0.02)
    assert angles[0] < 1e-3
    assert 5 < angles[1] < angles[2]


# --- a run


@pytest.mark.parametrize("rule", ["vf", "cvf"])
def test_a_run_records_the_angle(rule: str, tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["--preset", "cvf-1h", "--rule", rule, "--angle", "90", "--hidden", "30", "--data", "glyphs"]
    assert mnist.main([*command, "--train-size", "200", "--epochs", "2", "--out", str(out), "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    graph = replace(EXPERIMENTS["cvf-1h"], hidden=(30,)).build((28, 28), 10).network
    assert summary["angle"] == graph.angle(graph.init(np.random.default_rng(0), angle=90.0))
    first, second = (record["angle"] for record in summary["history"])
    assert abs(summary["angle"] - 90) < 15
    assert first != summary["angle"] != second != first


def test_other_runs_record_none(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["--preset", "cep-1h", "--hidden", "30", "--data", "glyphs", "--train-size", "100"]
    assert mnist.main([*command, "--epochs", "1", "--out", str(out), "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert summary["angle"] is None
    assert "angle" not in summary["history"][0]
