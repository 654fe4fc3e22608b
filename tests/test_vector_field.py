"""VF and C-VF: untied weights, the angle between them, the rule against loops, and EP as a limit.

All in float64, with values of order 1: 1e-12 is rounding.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from examples import NETWORKS
from test_continual import GRAPHS, assert_close, assert_states_close, distance, each_dynamics, problem

from eqprop_np import bptt, cep, cvf, ep, mnist, network, relax, vf
from eqprop_np.activations import Array, tanh
from eqprop_np.connections import ConvPool, Dense
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime, step
from eqprop_np.experiments.systems import System
from eqprop_np.network import Network, Pair, Snapshot, State, Theta, chain
from eqprop_np.relaxation import Alternating, Synchronous
from eqprop_np.rules.phases import Phases, Rule
from eqprop_np.rules.vector_field import angle_between, field_delta, untied, weight_angle
from eqprop_np.testing import check_adjoint, check_gradient
from eqprop_np.theorem import compare, first_phase, gradients, order, updates

CHAIN = NETWORKS["long chain"]
each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
ANGLES = (0, 22.5, 45, 67.5, 90, 112.5, 135, 157.5, 180)


def backward(name: str) -> str:
    """Return the name of the backward weight: "w2-1" for "w1-2"."""
    pre, post = name[1:].split("-")
    return f"w{post}-{pre}"


def backward_names(graph: Network) -> dict[str, str]:
    return {c.name: backward(c.name) for c in graph.recurrent}


def symmetric(theta: Theta, graph: Network) -> Theta:
    """Return untied parameters with which the network moves like the tied one with ``theta``."""
    return theta | {back: theta[forward].copy() for forward, back in backward_names(graph).items()}


def free_weights(graph: Network, rate: float = 0.1, beta: float = 0.3) -> tuple[Theta, Array, Array, Phases]:
    """Return `problem` with backward weights that are independent of the forward ones."""
    theta, x, y, phases = problem(graph, rate, beta)
    rng = np.random.default_rng(1)
    own = {back: rng.uniform(-1, 1, theta[back].shape) / 2 for back in backward_names(graph).values()}
    return theta | own, x, y, phases


# --- the network


@each_graph
def test_each_direction_between_free_layers_has_its_own_weight(graph: Network) -> None:
    """Of the same shape. The input keeps its one weight, and the biases stay."""
    shapes = untied(graph).parameter_shapes
    assert {name: shapes[name] for name in graph.parameter_shapes} == graph.parameter_shapes
    extra = {backward(c.name): c.shape for c in graph.recurrent}
    assert {name: shapes[name] for name in shapes.keys() - graph.parameter_shapes.keys()} == extra


def test_a_skip_between_free_layers_has_two_weights_too() -> None:
    graph = untied(GRAPHS["recurrent skip"])
    assert graph.parameter_shapes.keys() - GRAPHS["recurrent skip"].parameter_shapes.keys() == {
        "w2-1", "w3-2", "w4-3", "w4-1",
    }  # fmt: skip
    theta, x, _, _ = free_weights(graph)
    s = tuple(np.random.default_rng(2).standard_normal((3, *graph.shapes[n])) for n in graph.layers)
    one, two, three, four = graph.dphi_ds(theta, x, s)
    w, b = theta.get, theta.get
    expected = (
        x @ w("w0-1") + s[1] @ w("w2-1").T + s[3] @ w("w4-1").T + b("b1"),
        s[0] @ w("w1-2") + s[2] @ w("w3-2").T + b("b2"),
        x @ w("w0-3") + s[1] @ w("w2-3") + s[3] @ w("w4-3").T + b("b3"),
        s[2] @ w("w3-4") + s[0] @ w("w1-4") + b("b4"),
    )
    assert_states_close((one, two, three, four), expected)


def test_untied_leaves_the_network_as_it_is_and_is_idempotent() -> None:
    assert CHAIN.tied
    assert untied(untied(CHAIN)) == untied(CHAIN) != CHAIN
    assert (untied(CHAIN).shapes, untied(CHAIN).connections) == (CHAIN.shapes, CHAIN.connections)


def test_each_of_two_connections_between_the_same_layers_has_its_own_backward_weight() -> None:
    shapes = ((2,), (3,), (4,))
    twice = Network(
        shapes, (Dense(0, 1, (2,), (3,)), Dense(1, 2, (3,), (4,)), Dense(1, 2, (3,), (4,), "again"))
    )
    shapes_of = untied(twice).parameter_shapes
    assert {name: shapes_of[name] for name in ("w1-2", "w2-1", "again", "again-backward")} == dict.fromkeys(
        ("w1-2", "w2-1", "again", "again-backward"), (3, 4)
    )


@each_graph
def test_with_equal_weights_it_moves_as_the_tied_network(graph: Network) -> None:
    theta, x, y, _ = problem(graph, 0.0)
    for tied, other in zip(each_dynamics(graph), each_dynamics(untied(graph)), strict=True):
        for schedule in (Synchronous(), Alternating(tol=0)):
            states = (
                relax(dynamics, weights, x, None, 7, nudge=Nudge(0.3, y), schedule=schedule).state
                for dynamics, weights in ((tied, theta), (other, symmetric(theta, graph)))
            )
            assert_states_close(*states)


def test_the_drive_to_a_layer_uses_the_weight_that_leads_to_it() -> None:
    graph = untied(network.chain([2, 3, 4]))
    theta, x, _, _ = free_weights(graph)
    s = (np.ones((3, 3)), np.full((3, 4), 2.0))
    to_one, to_two = graph.dphi_ds(theta, x, s)
    np.testing.assert_allclose(to_one, x @ theta["w0-1"] + s[1] @ theta["w2-1"].T + theta["b1"], rtol=1e-12)
    np.testing.assert_allclose(to_two, s[0] @ theta["w1-2"] + theta["b2"], rtol=1e-12)


def test_it_has_no_phi() -> None:
    graph = untied(network.chain([2, 3, 4]))
    theta, x, _, _ = free_weights(graph)
    zeros = graph.zeros(3, np.float64)
    at = Snapshot((x, *zeros), {})
    for call in (
        lambda: graph.phi(theta, x, zeros),
        lambda: graph.dphi_dtheta(theta, x, zeros),
        lambda: graph.contrast(at, at, 0.1),
    ):
        with pytest.raises(ValueError, match="weights are untied, so it has no Φ: use the rule"):
            call()


# --- its derivatives, and BPTT on it


@each_graph
def test_its_vector_jacobian_products_are_derivatives(graph: Network, rng: np.random.Generator) -> None:
    """With convolutions, too: their maxima lead by far more than the differences move them."""
    graph = untied(graph)
    theta, x, _, _ = free_weights(graph)
    s = tuple(rng.standard_normal((3, *graph.shapes[n])) for n in graph.layers)
    v = tuple(rng.standard_normal(value.shape) for value in s)
    switches = graph.find_switches(theta, (x, *s))

    def product(theta: Theta, s: tuple[Array, ...]) -> float:
        return float(sum((a * b).sum() for a, b in zip(v, graph.dphi_ds(theta, x, s), strict=True)))

    check_gradient(lambda s: product(theta, s), lambda s: graph.vjp_s(theta, v, switches), s, rng=rng)
    check_gradient(
        lambda theta: product(theta, s) / len(x),
        lambda theta: graph.vjp_theta([(Snapshot((x, *s), switches), v)]),
        theta,
        rng=rng,
    )
    u = tuple(rng.standard_normal(value.shape) for value in s)
    check_adjoint(lambda u: graph.jvp_s(theta, u, switches), lambda v: graph.vjp_s(theta, v, switches), u, v)


@each_graph
def test_bptt_on_it_is_the_derivative_of_the_loss(graph: Network, rng: np.random.Generator) -> None:
    for dynamics in each_dynamics(untied(graph))[::2]:  # without the clamp, which has kinks
        theta, x, y, _ = free_weights(dynamics.network)
        phases = Phases(6, 6, 1.0, schedule=Synchronous())

        def loss(theta: Theta, dynamics: Dynamics = dynamics, x: Array = x, y: Array = y) -> float:
            s = relax(dynamics, theta, x, None, 6, schedule=Synchronous()).state
            return float(dynamics.cost.value(s[-1], y).mean())

        check_gradient(loss, lambda theta: bptt(dynamics, theta, x, y, phases).gradient, theta, rng=rng)  # noqa: B023


# --- the angle


WIDE = {
    "dense": network.chain([5, 200, 100, 10]),
    "convolutional": network.convolutional((14, 14, 1), [20, 30], [10], kernel=5, pool=1),
}


@pytest.mark.parametrize("angle", ANGLES)
@pytest.mark.parametrize("graph", WIDE.values(), ids=WIDE)
def test_sign_flips_set_the_angle(graph: Network, angle: float) -> None:
    """The cosine between the weights is cos ψ, and the share of flips is p, within four standard deviations.

    The cosine is Σ ±w² / Σ w². A weight drawn uniformly from ±a has the mean a²/3 and the second moment a⁴/5
    of w². With signs that are negative with probability p, the variance is 4p(1−p) (9/5) Σ a⁴ / (Σ a²)².
    """
    graph = untied(graph)
    theta = graph.init(np.random.default_rng(0), np.float64, angle)
    p = (1 - np.cos(np.deg2rad(angle))) / 2
    squares = np.concatenate([np.full(np.prod(c.shape), 1 / c.fan_in) for c in graph.recurrent])  # a²
    deviation = np.sqrt(7.2 * p * (1 - p) * (squares**2).sum()) / squares.sum()
    cosine = np.cos(np.deg2rad(weight_angle(graph, theta)))
    assert abs(cosine - np.cos(np.deg2rad(angle))) <= 4 * deviation + 1e-15
    for c in graph.recurrent:
        w, back = theta[c.name], theta[backward(c.name)]
        assert np.array_equal(abs(back), abs(w))  # only signs differ
        flips = np.count_nonzero(back != w)  # binomial
        assert abs(flips - w.size * p) <= 4 * np.sqrt(w.size * p * (1 - p)) + 1e-9


def test_at_0_the_weights_are_equal_and_at_180_opposite() -> None:
    for graph in map(untied, (CHAIN, NETWORKS["two conv"])):
        for angle, sign in ((0, 1), (180, -1)):
            theta = graph.init(np.random.default_rng(0), np.float64, angle)
            assert weight_angle(graph, theta) == angle
            for c in graph.recurrent:
                assert np.array_equal(theta[backward(c.name)], sign * theta[c.name])


def test_signs_are_flipped_independently() -> None:
    """Of two neighbours, along either axis, both are flipped with probability p², within four deviations.

    √(3p²) bounds the deviation per pair, since a pair is correlated with itself and its two neighbours only.
    """
    graph, p = untied(network.chain([2, 100, 100])), 0.25
    theta = graph.init(np.random.default_rng(0), np.float64, 60)
    flipped = theta["w2-1"] != theta["w1-2"]
    for pair in (flipped[1:] & flipped[:-1], flipped[:, 1:] & flipped[:, :-1]):
        assert abs(pair.mean() - p**2) < 4 * np.sqrt(3 * p**2 / pair.size)


def test_a_seed_gives_the_same_weights_tied_or_not() -> None:
    tied = CHAIN.init(np.random.default_rng(3))
    other = untied(CHAIN).init(np.random.default_rng(3), psi=90)
    assert all(np.array_equal(other[name], value) for name, value in tied.items())
    assert {value.dtype for value in other.values()} == {np.dtype(np.float32)}


@pytest.mark.parametrize("graph", [CHAIN, untied(CHAIN)], ids=["tied", "untied"])
@pytest.mark.parametrize("psi", [-1, 180.5, np.nan])
def test_an_impossible_angle_is_refused(graph: Network, psi: float) -> None:
    with pytest.raises(
        ValueError, match=f"psi must be from 0 to 180 degrees, and 0 for tied weights, got {psi}"
    ):
        graph.init(np.random.default_rng(0), psi=psi)


def test_an_angle_between_tied_weights_is_refused() -> None:
    with pytest.raises(ValueError, match="and 0 for tied weights, got 30"):
        CHAIN.init(np.random.default_rng(0), psi=30)


def test_weight_angle_is_over_all_untied_weights_as_one_vector() -> None:
    graph = untied(CHAIN)
    theta = free_weights(graph)[0]
    one, two = (
        np.concatenate([theta[name].ravel() for name in names])
        for names in (("w1-2", "w2-3", "w3-4"), ("w2-1", "w3-2", "w4-3"))
    )
    cosine = one @ two / np.sqrt((one @ one) * (two @ two))
    assert weight_angle(graph, theta) == pytest.approx(np.degrees(np.arccos(cosine)), abs=1e-9)


def test_weight_angle_is_none_without_untied_weights() -> None:
    for graph in (CHAIN, untied(NETWORKS["one layer"])):
        assert weight_angle(graph, graph.init(np.random.default_rng(0))) is None


def test_the_angle_between_vectors() -> None:
    a = np.array([3.0, 4.0])
    assert angle_between(a, np.array([-4.0, 3.0])) == pytest.approx(90, abs=1e-12)
    assert angle_between(a, 7 * a) == 0
    assert angle_between(a, -a) == 180
    small = 1e-10  # radians: its cosine is 1
    assert angle_between(a, a + small * np.array([-4.0, 3.0])) == pytest.approx(np.degrees(small), rel=1e-5)
    assert np.isnan(angle_between(a, 0 * a)) and np.isnan(angle_between(0 * a, a))


# --- the rule against loops


Place = tuple[tuple[int, int, int, int], tuple[slice, slice]]


def winners(c: ConvPool, w: Array, pre: Array) -> list[Place]:
    """Return for each neuron (b, i, j, d) of post the patch of pre at the maximum of its pooling window."""
    assert (c.stride, c.padding) == (1, 0)
    places = []
    for b, i, j, d in np.ndindex(len(pre), *c.post_shape):
        corners = product(range(i * c.pool, (i + 1) * c.pool), range(j * c.pool, (j + 1) * c.pool))
        patches = [(slice(row, row + c.kernel), slice(column, column + c.kernel)) for row, column in corners]
        best = max(patches, key=lambda patch: (pre[b][patch] * w[..., d]).sum())
        places.append(((b, i, j, d), best))
    return places


def naive_field(graph: Network, theta: Theta, a: list[Array]) -> list[Array]:
    """Return the vector field F at the activities a, index n for layer n, from loops and `einsum`."""
    field = [np.zeros_like(a[0]), *(np.zeros_like(a[n]) + theta[f"b{n}"] for n in graph.layers)]
    for c in graph.connections:
        up, down = theta[c.name], theta[backward(c.name) if c.pre and not graph.tied else c.name]
        if isinstance(c, ConvPool):
            for (b, i, j, d), patch in winners(c, up, a[c.pre]):
                field[c.post][b, i, j, d] += (a[c.pre][b][patch] * up[..., d]).sum()
                field[c.pre][b][patch] += down[..., d] * a[c.post][b, i, j, d]
        else:
            pre = a[c.pre].reshape(len(a[0]), -1)
            field[c.post] += np.einsum("bi,ij->bj", pre, up)
            field[c.pre] += np.einsum("bj,ij->bi", a[c.post], down).reshape(a[c.pre].shape)
    return field


def naive_delta(graph: Network, theta: Theta, a: list[Array], after: list[Array], beta: float) -> Theta:
    """Return Δ_θ(t): w_f by s^pre_t ⊗ Δs^post / β and w_b by Δs^pre ⊗ s^post_t / β, in the batch's mean.

    With a convolution, ⊗ pairs a neuron of post with the patch of pre at its switch of time t.
    """
    v = [(new - old) / (beta * len(a[0])) for old, new in zip(a, after, strict=True)]
    delta = {name: np.zeros_like(value) for name, value in theta.items()}
    for c in graph.connections:
        up, down = delta[c.name], delta[backward(c.name) if c.pre and not graph.tied else c.name]
        if isinstance(c, ConvPool):
            for (b, i, j, d), patch in winners(c, theta[c.name], a[c.pre]):
                up[..., d] += a[c.pre][b][patch] * v[c.post][b, i, j, d]
                down[..., d] += v[c.pre][b][patch] * a[c.post][b, i, j, d]
        else:
            pre, change = (value[c.pre].reshape(len(a[0]), -1) for value in (a, v))
            up += np.einsum("bi,bj->ij", pre, v[c.post])
            down += np.einsum("bi,bj->ij", change, a[c.post])
    for n in graph.layers:
        delta[f"b{n}"] = v[n].sum(axis=tuple(range(v[n].ndim - 1)))
    return delta


def naive_phase(
    dynamics: Dynamics, theta: Theta, x: Array, y: Array, s: State, phases: Phases, moving: bool
) -> Iterator[tuple[State, Theta]]:
    """Yield s_{t+1} and Δ_θ(t) of VF, or of C-VF if the weights are ``moving``."""
    graph, sigma, beta = dynamics.network, dynamics.sigma, phases.beta
    real_time = isinstance(dynamics, RealTime)
    for _ in range(phases.nudged_steps):
        a = [x, *(sigma.value(value) if real_time else value for value in s)]
        drives = naive_field(graph, theta, a)[1:]
        force = [np.zeros_like(value) for value in s[:-1]] + [beta * (y - s[-1])]
        if real_time:
            new = [
                value + dynamics.epsilon * (sigma.derivative(value) * drive - value + push)
                for value, drive, push in zip(s, drives, force, strict=True)
            ]
            new = [np.clip(value, 0, 1) if dynamics.clamp else value for value in new]
        else:
            new = [sigma.value(drive) + push for drive, push in zip(drives, force, strict=True)]
        after = [x, *(sigma.value(value) if real_time else value for value in new)]
        delta = naive_delta(graph, theta, a, after, beta)
        if moving:
            theta = {name: theta[name] + phases.learning_rates[name] * delta[name] for name in theta}
        s = tuple(new)
        yield s, delta


@each_graph
@pytest.mark.parametrize("rule", [vf, cvf])
@pytest.mark.parametrize("tie", [untied, lambda graph: graph], ids=["untied", "tied"])
@pytest.mark.parametrize("beta", [0.3, -0.2])
def test_a_weight_moves_by_the_activity_of_its_two_neurons(
    graph: Network, rule: Rule, tie: Callable[[Network], Network], beta: float
) -> None:
    for dynamics in each_dynamics(tie(graph)):
        make = problem if dynamics.network.tied else free_weights
        theta, x, y, phases = make(dynamics.network, 0.1, beta)
        phases = replace(phases, nudged_steps=4)
        found = rule(dynamics, theta, x, y, phases)
        total = {name: np.zeros_like(value) for name, value in theta.items()}
        for _, delta in naive_phase(dynamics, theta, x, y, found.free.state, phases, moving=rule is cvf):
            total = {name: total[name] - delta[name] for name in theta}
        assert_close(found.gradient, total)


@pytest.mark.parametrize("graph", [CHAIN, NETWORKS["three conv, two dense"]], ids=["dense", "conv"])
def test_moving_weights_matter_in_these_examples(graph: Network) -> None:
    """Without this, the test above could pass with weights that do not move."""
    graph = untied(graph)
    theta, x, y, phases = free_weights(graph)
    one, two = (rule(DiscreteTime(graph), theta, x, y, phases).gradient for rule in (vf, cvf))
    assert distance(two, one) > 1e-3


@each_graph
def test_with_rate_zero_cvf_is_vf(graph: Network) -> None:
    for dynamics in each_dynamics(untied(graph)):
        theta, x, y, phases = free_weights(dynamics.network)
        zero = replace(phases, learning_rates=dict.fromkeys(theta, 0.0))
        assert_close(vf(dynamics, theta, x, y, phases).gradient, cvf(dynamics, theta, x, y, zero).gradient)


def test_vf_needs_no_learning_rates() -> None:
    graph = untied(CHAIN)
    theta, x, y, phases = free_weights(graph)
    none = replace(phases, learning_rates={})
    found, expected = (vf(DiscreteTime(graph), theta, x, y, p).gradient for p in (none, phases))
    assert all(np.array_equal(found[name], expected[name]) for name in theta)


@pytest.mark.parametrize("rule", [vf, cvf])
def test_it_refuses_the_centred_estimate(rule: Rule) -> None:
    graph = untied(CHAIN)
    theta, x, y, phases = free_weights(graph)
    with pytest.raises(ValueError, match="so the estimate cannot be centered: use one-sided or random-sign"):
        rule(DiscreteTime(graph), theta, x, y, replace(phases, estimate="centered"))


@pytest.mark.parametrize("graph", [CHAIN, NETWORKS["two conv"]], ids=["dense", "conv"])
def test_float32_stays_float32_and_arguments_are_only_read(graph: Network) -> None:
    graph = untied(graph)
    theta, x, y, phases = free_weights(graph)
    theta = {name: value.astype(np.float32) for name, value in theta.items()}
    x, y = x.astype(np.float32), y.astype(np.float32)
    for array in (*theta.values(), x, y):
        array.flags.writeable = False
    for rule in (vf, cvf):
        for dynamics in each_dynamics(graph):
            gradient = rule(dynamics, theta, x, y, phases).gradient
            assert {g.dtype for g in gradient.values()} == {np.dtype(np.float32)}
            assert {name: g.shape for name, g in gradient.items()} == graph.parameter_shapes


# --- EP and C-EP as limits


def scaled(s: State, factor: float) -> State:
    return tuple(factor * value for value in s)


@each_graph
def test_with_equal_weights_vf_is_ep_except_for_a_term_of_second_order(graph: Network) -> None:
    """Δ(pre ⊗ post) = pre_t ⊗ Δpost + Δpre ⊗ post_t + Δpre ⊗ Δpost; w_f and w_b get the first two terms.

    The states are the same, because no weight moves. So the sum of the updates of w_f and w_b is the update
    of EP without the last term, up to rounding. For the input's weights and the biases they are equal. If the
    maxima of a max-pooling move, EP also has the change of ∂Φ/∂θ(s_{t+1}) from the old switches to the new.
    """
    for tied, other in zip(each_dynamics(graph), each_dynamics(untied(graph)), strict=True):
        theta, x, y, phases = problem(graph, 0.0)
        expected = ep(tied, theta, x, y, phases)
        found = vf(other, symmetric(theta, graph), x, y, phases).gradient
        states = relax(
            tied, theta, x, expected.free.state, phases.nudged_steps,
            nudge=Nudge(phases.beta, y), schedule=Synchronous(), trajectory=True,
        ).trajectory  # fmt: skip
        pairs = []
        for before, after in pairwise((x, *map(tied.activity, s)) for s in states):
            old, new = graph.find_switches(theta, before), graph.find_switches(theta, after)
            move = tuple(b - a for a, b in zip(before, after, strict=True))
            pairs += [
                Pair(move, scaled(move, 1 / (phases.beta * 3)), old),
                Pair(after, scaled(after, 1 / (phases.beta * 3)), new),
                Pair(after, scaled(after, -1 / (phases.beta * 3)), old),
            ]
        second = graph.pair_gradient(pairs)
        for c in graph.recurrent:
            found[c.name] = found[c.name] + found.pop(backward(c.name)) - second[c.name]
        assert_close(found, expected.gradient)


@pytest.mark.parametrize(("rule", "twin"), [(vf, ep), (cvf, cep)])
def test_with_tied_weights_the_term_vanishes_with_beta(rule: Rule, twin: Rule) -> None:
    """C-VF with one weight for both directions, which gets both updates, tends to C-EP as β → 0, at any η/β.

    The term is of order β² in Φ, and so of order β in Δ_θ. In discrete time, though, the nudge reaches only
    every second layer at each step from the steady state. Two neighbours then move in the same step only
    because of the force on the output or of moving weights, and one of the two moves is smaller by β.
    """
    betas = [1e-1, 1e-2, 1e-3, 1e-4]
    for dynamics in each_dynamics(CHAIN):
        distances = []
        for beta in betas:
            theta, x, y, phases = problem(CHAIN, 0.3 * beta, beta)
            phases = replace(phases, free_steps=2000, schedule=Synchronous(tol=1e-15))
            expected = twin(dynamics, theta, x, y, phases).gradient
            distances.append(distance(rule(dynamics, theta, x, y, phases).gradient, expected))
        expected_order = 2 if rule is vf and isinstance(dynamics, DiscreteTime) else 1
        assert order(betas[1:], distances[1:]) == pytest.approx(expected_order, abs=0.02)


def test_with_tied_weights_its_first_step_differs_only_by_that_term() -> None:
    """Before the weights have moved, the algebra holds for C-VF and C-EP too, up to rounding."""
    for dynamics in each_dynamics(CHAIN):
        theta, x, y, phases = problem(CHAIN, 0.1)
        phases = replace(phases, nudged_steps=1)
        expected, found = (rule(dynamics, theta, x, y, phases) for rule in (cep, cvf))
        after = step(dynamics, theta, x, expected.free.state, Nudge(phases.beta, y))
        moves = [
            dynamics.activity(b) - dynamics.activity(a)
            for a, b in zip(expected.free.state, after, strict=True)
        ]
        for c in CHAIN.recurrent:
            found.gradient[c.name] -= moves[c.pre - 1].T @ moves[c.post - 1] / (phases.beta * 3)
        assert_close(found.gradient, expected.gradient)


def test_theorem_1_holds_for_equal_weights_and_fails_with_the_angle() -> None:
    """The Jacobian of a step is symmetric only for ψ = 0. For other ψ no β makes the updates BPTT's."""
    graph = untied(network.toy(6, 8, 3))
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
        angles.append(comparisons[0].angle_theta)
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
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    graph = untied(chain([784, 30, 10]))
    assert summary["weight_angle"] == weight_angle(graph, graph.init(np.random.default_rng(0), psi=90.0))
    first, second = (record["weight_angle"] for record in summary["history"])
    assert abs(summary["weight_angle"] - 90) < 15
    assert first != summary["weight_angle"] != second != first


def test_other_runs_record_none(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = ["--preset", "cep-1h", "--hidden", "30", "--data", "glyphs", "--train-size", "100"]
    assert mnist.main([*command, "--epochs", "1", "--out", str(out), "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    assert summary["weight_angle"] is None
    assert "weight_angle" not in summary["history"][0]
