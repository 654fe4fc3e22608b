"""C-EP against Eq. (5), written a second time with Python loops over samples and neurons.

All in float64, with values of order 1. Some thousand roundings leave an error below 1e-12; a wrong sign,
factor or index leaves a much larger one.
"""

import math
from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import product
from typing import Any

import numpy as np
import pytest
from examples import NETWORKS

from eqprop_np import cep, cvf, ep, network
from eqprop_np.activations import Array, sigmoid, tanh
from eqprop_np.connections import Dense
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime, step
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment, Layers
from eqprop_np.experiments.systems import System
from eqprop_np.network import Network, State, Theta, chain
from eqprop_np.optimizers import SGD, Exponential
from eqprop_np.relaxation import Synchronous, relax
from eqprop_np.rules import RULES
from eqprop_np.rules.continual import Instant, continual_phase
from eqprop_np.rules.phases import Phases, Rule, Update
from eqprop_np.rules.vector_field import untied
from eqprop_np.theorem import compare, first_phase, gradients, order, updates
from eqprop_np.training import fit

SIZES = ((4,), (3,), (5,), (4,), (2,))
GRAPHS = NETWORKS | {
    "recurrent skip": Network(
        SIZES,
        tuple(Dense(m, n, SIZES[m], SIZES[n]) for m, n in ((0, 1), (0, 3), (1, 2), (2, 3), (3, 4), (1, 4))),
    )
}
DENSE = {name: graph for name, graph in GRAPHS.items() if all(len(s) == 1 for s in graph.shapes)}
RATE = 0.2  # so large that the moving weights change the neurons visibly

each_setting = pytest.mark.parametrize(("rate", "beta"), [(RATE, 0.3), (RATE, -0.3), (0.01, -0.2)])


def each_dynamics(graph: Network) -> list[Dynamics]:
    return [
        DiscreteTime(graph, sigmoid),
        RealTime(graph, sigmoid, epsilon=0.3),
        RealTime(graph, tanh, 0.1, False),
    ]


def problem(graph: Network, rate: float, beta: float = 0.3) -> tuple[Theta, Array, Array, Phases]:
    """Return θ, x and y of three samples, and phases with a different rate for each parameter."""
    rng = np.random.default_rng(0)
    theta = graph.init(rng, np.float64)
    x = rng.random((3, *graph.shapes[0]))
    y = np.eye(*graph.shapes[-1])[rng.integers(0, graph.shapes[-1][0], 3)]
    shared = max(np.prod(shape[:-1]) for shape in graph.shapes[1:])  # a kernel's update is a sum over pixels
    rates = {name: float(rate / shared * rng.uniform(0.5, 1.5)) for name in theta}
    return theta, x, y, Phases(30, 6, beta, schedule=Synchronous(), learning_rates=rates)


def steady(dynamics: Dynamics, theta: Theta, x: Array, phases: Phases) -> State:
    """Return the state at the end of the first phase."""
    return relax(dynamics, theta, x, None, phases.free_steps, schedule=phases.schedule).state


def run(dynamics: Dynamics, theta: Theta, x: Array, y: Array, s: State, phases: Phases) -> list[Instant]:
    """Return the package's own form of Eq. (5), all steps."""
    nudge, rates = Nudge(phases.beta, y), phases.learning_rates
    return list(continual_phase(dynamics, theta, x, s, nudge, rates, phases.nudged_steps))


def naive_phase(
    dynamics: Dynamics, theta: Theta, x: Array, y: Array, s: State, phases: Phases
) -> Iterator[tuple[list, Theta, Theta]]:
    """Yield s_{t+1}, Δ_θ(t) and θ_{t+1} of Eq. (5) for a dense network, neuron by neuron.

    It uses no function of the package and no matrix product: numbers, loops and `math` only.
    """
    edges = [(c.pre, c.post) for c in dynamics.network.connections]
    sizes = [size for (size,) in dynamics.network.shapes]
    batch, last, beta = len(x), len(sizes) - 1, phases.beta
    real_time = isinstance(dynamics, RealTime)

    def rho(a: float) -> float:
        return math.tanh(a) if dynamics.sigma is tanh else 1 / (1 + math.exp(-4 * (a - 0.5)))

    def slope(a: float) -> float:
        return 1 - math.tanh(a) ** 2 if dynamics.sigma is tanh else 4 * rho(a) * (1 - rho(a))

    def seen(state: list) -> list:
        """What the layers see of each other; x at index 0."""
        if not real_time:
            return state
        return [state[0], *([[rho(a) for a in sample] for sample in layer] for layer in state[1:])]

    def drive(theta: Theta, activities: list, n: int, b: int, i: int) -> float:
        total = float(theta[f"b{n}"][i])
        for pre, post in edges:
            if post == n:
                for j in range(sizes[pre]):
                    total += activities[pre][b][j] * float(theta[f"w{pre}-{post}"][j, i])
            if pre == n:
                for j in range(sizes[post]):
                    total += activities[post][b][j] * float(theta[f"w{pre}-{post}"][i, j])
        return total

    state = [value.tolist() for value in (x, *s)]
    for _ in range(phases.nudged_steps):
        activities, new = seen(state), [state[0]]
        for n in range(1, last + 1):
            layer = [[0.0] * sizes[n] for _ in range(batch)]
            for b, i in product(range(batch), range(sizes[n])):
                a, old = drive(theta, activities, n, b, i), state[n][b][i]
                force = beta * (float(y[b, i]) - old) if n == last else 0.0
                if real_time:
                    value = old + dynamics.epsilon * (slope(old) * a - old + force)
                    layer[b][i] = min(max(value, 0.0), 1.0) if dynamics.clamp else value
                else:
                    layer[b][i] = rho(a) + force
            new.append(layer)
        after, delta = seen(new), {}
        for pre, post in edges:
            delta[f"w{pre}-{post}"] = np.zeros((sizes[pre], sizes[post]))
            for i, j in product(range(sizes[pre]), range(sizes[post])):
                change = 0.0
                for b in range(batch):
                    change += after[pre][b][i] * after[post][b][j]
                    change -= activities[pre][b][i] * activities[post][b][j]
                delta[f"w{pre}-{post}"][i, j] = change / (beta * batch)
        for n in range(1, last + 1):
            changes = [
                sum(after[n][b][i] - activities[n][b][i] for b in range(batch)) for i in range(sizes[n])
            ]
            delta[f"b{n}"] = np.array(changes) / (beta * batch)
        theta = {name: theta[name] + phases.learning_rates[name] * delta[name] for name in theta}
        state = new
        yield state[1:], delta, theta


def assert_close(found: Theta, expected: Theta) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)


def assert_states_close(found: State, expected: State) -> None:
    for n, (one, two) in enumerate(zip(found, expected, strict=True), start=1):
        np.testing.assert_allclose(one, two, rtol=0, atol=1e-12, err_msg=f"layer {n}")


def distance(a: Theta, b: Theta) -> float:
    """Return ‖a − b‖ / ‖b‖, all parameters in one vector."""
    square = sum(((a[name] - b[name]) ** 2).sum() for name in b)
    return float(np.sqrt(square / sum((value**2).sum() for value in b.values())))


# --- Eq. (5)


@each_setting
@pytest.mark.parametrize("name", ["skip", "long chain", "recurrent skip"])
def test_the_phase_equals_its_naive_twin(name: str, rate: float, beta: float) -> None:
    """In states, Δ_θ and θ, at each step, with a different rate for each parameter."""
    for dynamics in each_dynamics(GRAPHS[name]):
        theta, x, y, phases = problem(dynamics.network, rate, beta)
        assert len(set(phases.learning_rates.values())) == len(theta)
        s = steady(dynamics, theta, x, phases)
        found = run(dynamics, theta, x, y, s, phases)
        expected = list(naive_phase(dynamics, theta, x, y, s, phases))
        assert len(found) == phases.nudged_steps
        for instant, (state, delta, moved) in zip(found, expected, strict=True):
            assert_states_close(instant.state, tuple(map(np.array, state)))
            assert_close(instant.delta, delta)
            assert_close(instant.theta, moved)


@each_setting
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_each_step_is_equation_5_in_public_functions(graph: Network, rate: float, beta: float) -> None:
    """For every network: s_{t+1} with θ_t, both ∂Φ/∂θ with θ_t and their own switches, then θ_{t+1}."""
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = problem(graph, rate, beta)
        s = steady(dynamics, theta, x, phases)
        for instant in run(dynamics, theta, x, y, s, phases):
            assert_states_close(instant.state, step(dynamics, theta, x, s, Nudge(beta, y)))
            after, before = (
                graph.dphi_dtheta(theta, x, tuple(map(dynamics.activity, state)))
                for state in (instant.state, s)
            )
            assert_close(instant.delta, {name: (after[name] - before[name]) / beta for name in theta})
            rates = phases.learning_rates
            moved = {name: theta[name] + rates[name] * instant.delta[name] for name in theta}
            assert_close(instant.theta, moved)
            s, theta = instant.state, instant.theta


@each_setting
@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_sgd_with_the_same_rates_leads_to_the_weights_after_the_phase(
    graph: Network, rate: float, beta: float
) -> None:
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = problem(graph, rate, beta)
        before = {name: value.copy() for name, value in theta.items()}
        update = cep(dynamics, theta, x, y, phases)
        assert_states_close(update.free.state, steady(dynamics, theta, x, phases))
        last = run(dynamics, theta, x, y, update.free.state, phases)[-1].theta
        moved = {name: theta[name] - phases.learning_rates[name] * update.gradient[name] for name in theta}
        assert_close(moved, last)
        assert all(np.array_equal(theta[name], before[name]) for name in theta)  # the arguments are only read


def test_moving_weights_change_the_neurons() -> None:
    """The tests above would also pass if θ moved on neither side: with these rates it changes the result."""
    graph = NETWORKS["chain"]
    theta, x, y, phases = problem(graph, RATE)
    found = cep(DiscreteTime(graph), theta, x, y, phases).gradient
    assert distance(found, ep(DiscreteTime(graph), theta, x, y, phases).gradient) > 0.1


def test_a_quantity_of_synapse_and_neurons_is_conserved() -> None:
    """Eq. (5) keeps θ − (η/β) ∂Φ/∂θ(s) constant: its sum over t is Eq. (2), at the states of the moving θ."""
    graph = NETWORKS["skip"]
    dynamics = DiscreteTime(graph)
    theta, x, y, phases = problem(graph, RATE)
    update = cep(dynamics, theta, x, y, phases)
    last = run(dynamics, theta, x, y, update.free.state, phases)[-1].state
    after, before = (graph.dphi_dtheta(theta, x, s) for s in (last, update.free.state))
    assert_close(update.gradient, {name: (before[name] - after[name]) / phases.beta for name in theta})


# --- limits


@pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
def test_with_rate_zero_it_is_ep(graph: Network) -> None:
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = problem(graph, 0.0)
        assert_close(cep(dynamics, theta, x, y, phases).gradient, ep(dynamics, theta, x, y, phases).gradient)


def test_its_distance_from_ep_is_of_first_order_in_the_rate() -> None:
    etas = [1e-1, 1e-2, 1e-3, 1e-4]
    for dynamics in each_dynamics(NETWORKS["long chain"]):
        distances = []
        for eta in etas:
            theta, x, y, phases = problem(dynamics.network, eta)
            expected = ep(dynamics, theta, x, y, phases).gradient
            distances.append(distance(cep(dynamics, theta, x, y, phases).gradient, expected))
        assert order(etas[1:], distances[1:]) == pytest.approx(1, abs=0.02)
        assert distances == sorted(distances, reverse=True)


def test_its_distance_from_bptt_grows_with_the_rate() -> None:
    """Theorem 1 with a β so small that the distance comes from η only and is proportional to it."""
    system = System(RealTime(network.toy(6, 8, 3), tanh, 0.1, clamp=False), steps=30, beta=1e-5, batch=3)
    theta, x, y = system.draw(0)
    rest = first_phase(system.dynamics, theta, x, system.steps)
    etas = [0.0, 1e-8, 2e-8, 4e-8]
    processes = (updates(system.dynamics, theta, x, y, rest, system.beta, eta=eta) for eta in etas)
    comparisons = compare(gradients(system.dynamics, theta, x, y, rest), *processes)
    limit, *distances = (comparison.distance_theta for comparison in comparisons)
    assert limit < 2e-5  # of order β: measured 9.5e-6, and 2.6e-3 with the first η
    assert min(distances) > 100 * limit
    assert order(etas[1:], distances) == pytest.approx(1, abs=0.02)


# --- refusals, and the dtype


@pytest.mark.parametrize("rule", [cep, cvf])
def test_continual_rules_refuse_the_centred_estimate(rule: Rule) -> None:
    graph = NETWORKS["chain"]
    theta, x, y, phases = problem(graph, 0.1)
    with pytest.raises(
        ValueError, match="one nudged phase, so the estimate cannot be centered: use one-sided"
    ):
        rule(DiscreteTime(graph), theta, x, y, replace(phases, estimate="centered"))


@pytest.mark.parametrize("rule", [cep, cvf])
def test_continual_rules_refuse_missing_learning_rates(rule: Rule) -> None:
    graph = NETWORKS["chain"]
    theta, x, y, phases = problem(graph, 0.1)
    few = {name: rate for name, rate in phases.learning_rates.items() if name not in ("b2", "w1-2")}
    with pytest.raises(ValueError, match=r"rate for every parameter: Phases.learning_rates lacks b2, w1-2$"):
        rule(DiscreteTime(graph), theta, x, y, replace(phases, learning_rates=few))


@pytest.mark.parametrize("rule", [ep, cep])
def test_rules_that_need_phi_refuse_untied_weights(rule: Rule) -> None:
    graph = untied(NETWORKS["chain"])
    theta, x, y, phases = problem(graph, 0.1)
    with pytest.raises(ValueError, match="untied, so it has no Φ: use the rule"):
        rule(DiscreteTime(graph), theta, x, y, phases)


def test_float32_stays_float32() -> None:
    for graph in NETWORKS.values():
        theta, x, y, phases = problem(graph, 0.1)
        theta = {name: value.astype(np.float32) for name, value in theta.items()}
        update = cep(DiscreteTime(graph), theta, x.astype(np.float32), y.astype(np.float32), phases)
        assert {value.dtype for value in (*update.gradient.values(), *update.free.state)} == {
            np.dtype(np.float32)
        }


# --- the experiments


@pytest.mark.parametrize(
    ("name", "hidden", "rates", "steps", "beta", "estimate", "epochs"),
    [
        ("cep-1h", (512,), (0.0056, 0.0028), (40, 15), 0.2, "one-sided", 100),
        ("cep-2h", (512, 512), (0.01, 0.0018, 0.00018), (100, 20), 0.5, "one-sided", 150),
        ("cvf-1h", (512,), (0.0076, 0.0038), (40, 15), 0.2, "random-sign", 100),
        ("cvf-2h", (512, 512), (0.009, 0.0016, 0.00016), (100, 20), 0.35, "random-sign", 150),
    ],
)
def test_presets_have_the_published_numbers(
    name: str, hidden: tuple, rates: tuple, steps: tuple, beta: float, estimate: str, epochs: int
) -> None:
    e = EXPERIMENTS[name]
    p, t = e.phases, e.training
    assert (e.rule, e.layers, t.learning_rates) == (name[:3], Layers(hidden), rates)
    assert ((p.free_steps, p.nudged_steps), p.beta, p.estimate, t.epochs) == (steps, beta, estimate, epochs)
    assert (e.dynamics, e.activation, t.batch_size) == ("discrete-time", "sigmoid", 20)


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("cep-1h", {"workers": 2}, "cep moves the weights by the mean over the batch .* choose 1"),
        ("cep-1h", {"estimate": "centered"}, "cep does not use the estimate centered: choose one-sided or"),
        ("cvf-1h", {"estimate": "centered"}, "cvf does not use the estimate centered: choose one-sided or"),
        ("cep-1h", {"psi": 10.0}, "which rule cep ties: choose rule vf or cvf"),
        ("p-1h", {"psi": 10.0}, "which rule ep ties"),
        ("cvf-1h", {"psi": 181.0}, "from 0 to 180"),
        ("cvf-1h", {"psi": -1.0}, "from 0 to 180"),
    ],
)
def test_experiments_refuse_settings_that_do_not_fit(preset: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        changed(EXPERIMENTS[preset], **settings)


def test_vf_may_share_a_batch() -> None:
    assert isinstance(changed(replace(EXPERIMENTS["cvf-1h"], rule="vf"), workers=2), Experiment)


def test_a_backward_weight_has_the_rate_of_its_forward_weight() -> None:
    e = EXPERIMENTS["cvf-2h"]
    rates = e.rates(e.build((28, 28), 10))
    for names, rate in ((("w0-1", "b1"), 0.009), (("w1-2", "w2-1", "b2"), 0.0016)):
        assert {rates.pop(name) for name in names} == {rate}
    assert rates == dict.fromkeys(("w2-3", "w3-2", "b3"), 0.00016)


def changed(experiment: Experiment, **settings: Any) -> Experiment:
    """Return the experiment with other settings, each of the object to which it belongs."""
    for part in ("phases", "training"):
        names = settings.keys() & {field.name for field in fields(getattr(experiment, part))}
        new = replace(getattr(experiment, part), **{name: settings.pop(name) for name in names})
        experiment = replace(experiment, **{part: new})
    return replace(experiment, **settings)


def test_training_gives_a_rule_the_rates_of_the_epoch_and_a_sign_for_each_batch() -> None:
    """With exactly these rates, because one step of SGD then leads to the weights after the phase."""
    seen: list[Phases] = []

    def spy(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        seen.append(phases)
        return cvf(dynamics, theta, x, y, phases)

    rule = replace(RULES["cvf"], function=spy, twin=None)
    dynamics = DiscreteTime(untied(chain([4, 5, 3])))
    rates = {name: 0.01 * (k + 1) for k, name in enumerate(dynamics.network.parameter_shapes)}
    fit(
        dynamics,
        np.ones((12, 4)),
        np.arange(12) % 3,
        rule=rule,
        phases=Phases(5, 5, 0.2, "random-sign"),
        optimizer=SGD(rates),
        rate_schedule=Exponential(0.5),
        epochs=2,
        batch_size=1,
    )
    assert [phases.learning_rates for phases in seen] == [
        {name: rate * 0.5 ** (n // 12) for name, rate in rates.items()} for n in range(24)
    ]
    assert {(phases.beta, phases.estimate) for phases in seen} == {(0.2, "one-sided"), (-0.2, "one-sided")}
