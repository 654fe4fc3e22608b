"""C-EP against Eq. (5) written down twice: here, in plain steps, and in the library, telescoped.

All in float64. 1e-12 is what a few thousand roundings leave of it; whatever else is wrong shows far above.
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
from examples import NETWORKS

from eqprop_np import network
from eqprop_np.activations import Array, sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, Nudge, RealTime, step
from eqprop_np.experiments import EXPERIMENTS, Experiment
from eqprop_np.network import Network, State, Theta
from eqprop_np.rules import RULES, Phases, Update, cep, cvf, ep
from eqprop_np.rules.continual import Instant, contrast, second_phase
from eqprop_np.rules.phases import free_phase
from eqprop_np.theorem import System, compare, first_phase, gradients, order, updates
from eqprop_np.training import Progress, Samples, train

DENSE = {name: graph for name, graph in NETWORKS.items() if all(len(s) == 1 for s in graph.shapes)}
RATE = 0.2  # large, so that the weights' motion is seen in the neurons'

each_setting = pytest.mark.parametrize(("rate", "beta"), [(RATE, 0.3), (0.01, -0.2)])


def each_dynamics(graph: Network) -> list[Dynamics]:
    return [
        DiscreteTime(graph, sigmoid),
        RealTime(graph, sigmoid, epsilon=0.3),
        RealTime(graph, tanh, 0.1, False),
    ]


def problem(graph: Network, rate: float, beta: float = 0.3) -> tuple[Theta, Array, Array, Phases]:
    """θ, x and y of three samples, and a rate of its own for each parameter."""
    rng = np.random.default_rng(0)
    theta = graph.init(rng, np.float64)
    x = rng.random((3, *graph.shapes[0]))
    y = np.eye(*graph.shapes[-1])[rng.integers(0, graph.shapes[-1][0], 3)]
    shared = max(np.prod(shape[:-1]) for shape in graph.shapes[1:])  # pixels that a weight's update sums over
    rates = {name: float(rate / shared * rng.uniform(0.5, 1.5)) for name in theta}
    return theta, x, y, Phases(30, 6, beta, schedule="synchronous", tol=0.0, rates=rates)


def equation_5(
    dynamics: Dynamics, theta: Theta, x: Array, y: Array, s: State, phases: Phases
) -> Iterator[tuple[State, Theta, Theta]]:
    """Yield s_{t+1}, θ_{t+1} and Δ_θ(t)."""

    def dphi_dtheta(theta: Theta, s: State) -> Theta:
        return dynamics.network.dphi_dtheta(theta, x, tuple(map(dynamics.rates, s)))

    for _ in range(phases.nudged_steps):
        new = step(dynamics, theta, x, s, Nudge(phases.beta, y))
        after, before = dphi_dtheta(theta, new), dphi_dtheta(theta, s)
        delta = {name: (after[name] - before[name]) / phases.beta for name in theta}
        theta = {name: theta[name] + phases.rates[name] * delta[name] for name in theta}
        s = new
        yield s, theta, delta


def assert_close(found: Theta, expected: Theta) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=1e-12, err_msg=name)


def distance(a: Theta, b: Theta) -> float:
    """‖a − b‖ / ‖b‖, all parameters in one vector."""
    square = sum(((a[name] - b[name]) ** 2).sum() for name in b)
    return float(np.sqrt(square / sum((value**2).sum() for value in b.values())))


# --- Eq. (5)


@each_setting
@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_neurons_and_weights_move_as_equation_5_has_it(graph: Network, rate: float, beta: float) -> None:
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = problem(graph, rate, beta)
        clamped, free = free_phase(dynamics, theta, x, phases)
        start = Instant(free.state, free.rates, free.switches, {})
        expected = list(equation_5(dynamics, theta, x, y, free.state, phases))
        found = second_phase(dynamics, theta, clamped, start, y, phases, contrast)
        for instant, (state, _, delta) in zip(found, expected, strict=True):
            for one, two in zip(instant.state, state, strict=True):
                np.testing.assert_allclose(one, two, rtol=0, atol=1e-12)
            assert_close(instant.delta, delta)


@each_setting
@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_sgd_at_the_same_rates_lands_on_the_phases_last_weights(
    graph: Network, rate: float, beta: float
) -> None:
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = problem(graph, rate, beta)
        before = {name: value.copy() for name, value in theta.items()}
        update = cep(dynamics, theta, x, y, phases)
        *_, (_, last, _) = equation_5(dynamics, theta, x, y, update.free.state, phases)
        moved = {name: theta[name] - phases.rates[name] * update.gradient[name] for name in theta}
        assert_close(moved, last)
        assert all(np.array_equal(theta[name], before[name]) for name in theta)  # nothing is written into


@each_setting
@pytest.mark.parametrize("graph", DENSE.values(), ids=DENSE)
def test_what_telescopes_is_the_plain_phase(graph: Network, rate: float, beta: float) -> None:
    """Same states with the input's weights at rest, or all; also where x leads to two layers, or not to ŷ."""
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = problem(graph, rate, beta)
        clamped, free = free_phase(dynamics, theta, x, phases)
        start = Instant(free.state, free.rates, free.switches, {})
        plain, *others = (
            list(second_phase(dynamics, theta, clamped, start, y, phases, delta, telescope=telescope))
            for delta, telescope in ((contrast, False), (contrast, True), (None, True))
        )
        for telescoped in others:
            for one, two in zip(plain, telescoped, strict=True):
                for a, b in zip(one.state, two.state, strict=True):
                    np.testing.assert_allclose(a, b, rtol=0, atol=1e-12)
        total = {name: -sum(instant.delta[name] for instant in plain) for name in theta}
        assert_close(cep(dynamics, theta, x, y, phases).gradient, total)


def test_weights_that_move_are_seen_in_the_neurons() -> None:
    """The tests above would pass if neither side moved θ: at these rates it matters a hundred digits."""
    graph = NETWORKS["chain"]
    theta, x, y, phases = problem(graph, RATE)
    found = cep(DiscreteTime(graph), theta, x, y, phases).gradient
    assert distance(found, ep(DiscreteTime(graph), theta, x, y, phases).gradient) > 0.1


def test_a_quantity_of_synapse_and_neurons_is_conserved() -> None:
    """Eq. (5) keeps θ − (η/β) ∂Φ/∂θ(s) as it is: so its sum over t is Eq. (2), with the moving θ's states."""
    graph = NETWORKS["skip"]
    dynamics = DiscreteTime(graph)
    theta, x, y, phases = problem(graph, RATE)
    update = cep(dynamics, theta, x, y, phases)
    *_, (last, _, _) = equation_5(dynamics, theta, x, y, update.free.state, phases)
    after, before = (graph.dphi_dtheta(theta, x, s) for s in (last, update.free.state))
    assert_close(update.gradient, {name: (before[name] - after[name]) / phases.beta for name in theta})


# --- limits


@pytest.mark.parametrize("graph", NETWORKS.values(), ids=NETWORKS)
def test_at_rate_zero_it_is_ep(graph: Network) -> None:
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
    """Theorem 1 at a β so small that what is left is due to η, and doubles with it."""
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


# --- what it refuses, and what it keeps


def test_it_refuses_what_makes_no_sense() -> None:
    graph = NETWORKS["chain"]
    theta, x, y, phases = problem(graph, 0.1)
    with pytest.raises(ValueError, match="one nudge: choose one-sided or random-sign"):
        cep(DiscreteTime(graph), theta, x, y, replace(phases, estimate="centered"))
    with pytest.raises(ValueError, match=r"every parameter, but Phases.rates lacks \['b2', 'w1-2'\]"):
        few = {name: rate for name, rate in phases.rates.items() if name not in ("b2", "w1-2")}
        cep(DiscreteTime(graph), theta, x, y, replace(phases, rates=few))


@pytest.mark.parametrize("rule", [ep, cep])
def test_rules_that_need_phi_refuse_untied_weights(rule: type(cep)) -> None:
    graph = network.untied(NETWORKS["chain"])
    theta, x, y, phases = problem(graph, 0.1)
    with pytest.raises(ValueError, match="no Φ: its rules are vf and cvf"):
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
    assert (e.rule, e.hidden, e.learning_rates) == (name[:3], hidden, rates)
    assert ((e.free_steps, e.nudged_steps), e.beta, e.estimate, e.epochs) == (steps, beta, estimate, epochs)
    assert (e.dynamics, e.activation, e.batch_size) == ("discrete-time", "sigmoid", 20)


@pytest.mark.parametrize(
    ("preset", "settings", "message"),
    [
        ("cep-1h", {"workers": 2}, "cep moves the weights by the mean over the batch .* choose 1"),
        ("cep-1h", {"estimate": "centered"}, "cep has one nudge"),
        ("cvf-1h", {"estimate": "centered"}, "cvf has one nudge"),
        ("cep-1h", {"angle": 10.0}, "which rule cep ties: choose rule vf or cvf"),
        ("p-1h", {"angle": 10.0}, "which rule ep ties"),
        ("cvf-1h", {"angle": 181.0}, "not between 0 and 180"),
        ("cvf-1h", {"angle": -1.0}, "not between 0 and 180"),
    ],
)
def test_experiments_refuse_what_makes_no_sense(preset: str, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(EXPERIMENTS[preset], **settings)


def test_vf_may_share_a_batch() -> None:
    assert isinstance(replace(EXPERIMENTS["cvf-1h"], rule="vf", workers=2), Experiment)


def test_an_untied_weight_has_the_rate_of_the_one_it_runs_against() -> None:
    e = replace(EXPERIMENTS["cvf-2h"], rate_decay=0.5)
    rates = e.rates(e.build((28, 28), 10).network, epoch=1)
    for names, rate in ((("w0-1", "b1"), 0.009), (("w1-2", "w2-1", "b2"), 0.0016)):
        assert {rates.pop(name) for name in names} == {rate / 2}
    assert rates == dict.fromkeys(("w2-3", "w3-2", "b3"), 0.00016 / 2)


def test_training_gives_a_rule_the_epochs_rates_and_a_sign_for_each_batch(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At these very rates, since SGD then takes the weights where the phase left them."""
    seen: list[Phases] = []

    def spy(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        seen.append(phases)
        return cvf(dynamics, theta, x, y, phases)

    monkeypatch.setitem(RULES, "cvf", spy)
    e = replace(EXPERIMENTS["cvf-1h"], hidden=(5,), epochs=2, rate_decay=0.5, batch_size=1)
    samples = Samples(np.ones((12, 2, 2), np.uint8), np.arange(12) % 3)
    dynamics = e.build((2, 2), 3)
    train(e, dynamics, samples, samples, Progress.begin(e, dynamics, seed=0))
    assert [phases.rates for phases in seen] == [e.rates(dynamics.network, n // 12) for n in range(24)]
    assert {(phases.beta, phases.estimate) for phases in seen} == {(0.2, "one-sided"), (-0.2, "one-sided")}
