"""The table of rules: what each record says of its rule is true, and each rule checks its arguments."""

import copy
import inspect
import pickle
import re
import warnings
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from examples import NETWORKS
from test_continual import GRAPHS, assert_close, assert_states_close, problem

import eqprop_np as eq
from eqprop_np.activations import Array
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.network import Network, Theta
from eqprop_np.relaxation import Alternating, Synchronous, relax
from eqprop_np.rules import ESTIMATES, RULES, LearningRule, learning_rule
from eqprop_np.rules.phases import Phases, Rule, Update, free_phase
from eqprop_np.rules.telescoped import telescoped_cep, telescoped_cvf, telescoped_vf
from eqprop_np.rules.vector_field import untied

CHAIN = NETWORKS["chain"]
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)
FUNCTIONS: dict[str, Rule] = {name: rule.function for name, rule in RULES.items()} | {
    "telescoped_cep": telescoped_cep,
    "telescoped_cvf": telescoped_cvf,
}
each_function = pytest.mark.parametrize("function", FUNCTIONS.values(), ids=FUNCTIONS)


def networks_of(rule: LearningRule, graph: Network = CHAIN) -> list[Network]:
    return {"tied": [graph], "untied": [untied(graph)], "both": [graph, untied(graph)]}[rule.networks]


# --- the table


def test_it_has_these_rules() -> None:
    assert {name: (rule.function, rule.networks) for name, rule in RULES.items()} == {
        "ep": (eq.ep, "tied"),
        "cep": (eq.cep, "tied"),
        "vf": (eq.vf, "untied"),
        "cvf": (eq.cvf, "untied"),
        "bptt": (eq.bptt, "both"),
        "implicit": (eq.implicit_gradient, "both"),
        "holomorphic": (eq.holomorphic_ep, "tied"),
        "asymep": (eq.asymep, "both"),
    }
    assert {name: rule.twin for name, rule in RULES.items() if rule.twin} == {
        "cep": telescoped_cep,
        "vf": telescoped_vf,
        "cvf": telescoped_cvf,
    }
    assert [name for name, rule in RULES.items() if rule.moves_weights] == ["cep", "cvf"]
    assert [name for name, rule in RULES.items() if not rule.readout] == ["cep", "vf", "cvf", "holomorphic"]
    assert all(name == rule.name for name, rule in RULES.items())
    assert eq.RULES is RULES


@each_rule
def test_a_rule_of_the_table_has_its_record(rule: LearningRule) -> None:
    assert learning_rule(rule.function) is rule
    assert learning_rule(rule) is rule
    assert rule.in_table


def test_a_rule_of_ones_own_gets_a_record() -> None:
    def mine(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        return eq.ep(dynamics, theta, x, y, phases)

    record = learning_rule(mine)
    assert record == LearningRule("mine", mine, networks="both")
    assert record.estimates == ESTIMATES
    assert not record.in_table
    assert record.fastest(CHAIN) is mine


@each_rule
def test_a_record_cannot_be_changed(rule: LearningRule) -> None:
    with pytest.raises(FrozenInstanceError):
        rule.name = "other"


@pytest.mark.filterwarnings("ignore:λ has not converged")  # the phases are short
@each_rule
def test_a_rule_keeps_the_contract(rule: LearningRule) -> None:
    """The gradient has the shape of each parameter, and the first phase is that of `relax`."""
    for base in (CHAIN, NETWORKS["conv"], GRAPHS["recurrent skip"]):
        for graph in networks_of(rule, base):
            for dynamics in (DiscreteTime(graph), RealTime(graph, clamp=rule.name != "holomorphic")):
                theta, x, y, phases = problem(graph, 0.1)
                before = {name: value.copy() for name, value in theta.items()}
                update = rule.function(dynamics, theta, x, y, phases)
                assert isinstance(update, Update)
                assert {name: g.shape for name, g in update.gradient.items()} == graph.parameter_shapes
                free = relax(dynamics, theta, x, None, phases.free_steps, schedule=phases.schedule)
                assert_states_close(update.free.state, free.state)
                assert update.free.residuals == pytest.approx(free.residuals, rel=0, abs=1e-12)
                assert all(np.array_equal(theta[name], before[name]) for name in theta)


@each_rule
def test_it_descends_the_loss(rule: LearningRule) -> None:
    """A small step against the gradient lowers the cost at the steady state, whatever the rule."""
    for graph in networks_of(rule):
        dynamics = DiscreteTime(graph)
        theta, x, y, phases = problem(graph, 1e-3, beta=0.01)
        phases = replace(phases, free_steps=200, nudged_steps=30)
        gradient = rule.function(dynamics, theta, x, y, phases).gradient
        moved = {name: theta[name] - 1e-3 * gradient[name] for name in theta}
        one, two = (
            dynamics.cost.value(relax(dynamics, p, x, None, 200, schedule=Synchronous()).state[-1], y).mean()
            for p in (theta, moved)
        )
        assert two < one


@each_rule
@pytest.mark.parametrize("estimate", ["one-sided", "centered"])
def test_it_accepts_exactly_its_estimates(rule: LearningRule, estimate: str) -> None:
    for graph in networks_of(rule):
        theta, x, y, phases = problem(graph, 0.1)
        arguments = DiscreteTime(graph), theta, x, y, replace(phases, estimate=estimate)
        if estimate in rule.estimates:
            rule.function(*arguments)
        else:
            with pytest.raises(ValueError, match=f"the estimate cannot be {estimate}"):
                rule.function(*arguments)
    assert set(rule.estimates) <= set(ESTIMATES)
    assert "random-sign" in rule.estimates


@each_rule
def test_the_learning_rates_matter_exactly_if_the_weights_move(rule: LearningRule) -> None:
    for graph in networks_of(rule):
        theta, x, y, phases = problem(graph, 0.1)
        faster = replace(phases, learning_rates={n: 2 * r for n, r in phases.learning_rates.items()})
        one, two = (rule.function(DiscreteTime(graph), theta, x, y, p).gradient for p in (phases, faster))
        assert rule.moves_weights == any(not np.array_equal(one[name], two[name]) for name in theta)
        none = replace(phases, learning_rates={})
        if rule.moves_weights:
            with pytest.raises(ValueError, match="needs a learning rate for every parameter"):
                rule.function(DiscreteTime(graph), theta, x, y, none)
        else:
            again = rule.function(DiscreteTime(graph), theta, x, y, none).gradient
            assert all(np.array_equal(one[name], again[name]) for name in theta)


@each_rule
def test_a_rule_for_tied_networks_refuses_untied_ones_and_the_others_accept_both(rule: LearningRule) -> None:
    for graph in (CHAIN, untied(CHAIN)):
        theta, x, y, phases = problem(graph, 0.1)
        if rule.networks == "tied" and not graph.tied:
            with pytest.raises(ValueError, match="untied, so it has no Φ: use the rule"):
                rule.function(DiscreteTime(graph), theta, x, y, phases)
        else:
            rule.function(DiscreteTime(graph), theta, x, y, phases)


def test_the_refusal_of_untied_weights_names_every_rule_that_takes_them() -> None:
    *first, last = (name for name, rule in RULES.items() if rule.networks != "tied")
    with pytest.raises(ValueError, match=f"use the rule {', '.join(first)} or {last}$"):
        untied(CHAIN).require_tied()


@each_rule
def test_the_fastest_form_has_the_same_result_and_no_checks(rule: LearningRule) -> None:
    for base in (CHAIN, GRAPHS["recurrent skip"], NETWORKS["conv"]):
        for graph in networks_of(rule, base):
            fastest = rule.fastest(graph)
            assert inspect.unwrap(fastest) is fastest
            arguments = DiscreteTime(graph), *problem(graph, 0.1)
            found, expected = fastest(*arguments), rule.function(*arguments)
            assert_close(found.gradient, expected.gradient)
            assert_states_close(found.free.state, expected.free.state)


@pytest.mark.parametrize("name", ["ep", "asymep", "bptt"])
def test_a_rule_without_a_twin_is_its_own_fastest_form(name: str) -> None:
    for graph in (CHAIN, NETWORKS["conv"]):
        assert RULES[name].fastest(graph) is inspect.unwrap(RULES[name].function)


def test_a_rule_of_ones_own_is_one_record() -> None:
    def zero(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        _, free = free_phase(dynamics, theta, x, phases)
        return Update({name: np.zeros_like(value) for name, value in theta.items()}, free)

    rule = LearningRule("zero", zero)
    assert (rule.networks, rule.estimates, rule.moves_weights, rule.twin) == ("tied", ESTIMATES, False, None)
    assert rule.fastest(CHAIN) is zero
    large = replace(rule, twin=eq.ep, twin_applies=lambda network: network.depth > 2)
    assert large.fastest(CHAIN) is zero
    assert large.fastest(NETWORKS["long chain"]) is eq.ep  # it checks, because the record is not in the table


@pytest.mark.parametrize(
    "settings, error, words",
    [
        ({"function": 5}, TypeError, "function must be a rule such as eqprop_np.ep, got 5"),
        ({"networks": "Tied"}, ValueError, "networks must be tied, untied or both, got 'Tied'"),
        ({"estimates": "one-sided"}, TypeError, "estimates must be a tuple of estimates such as"),
        ({"estimates": ("two-sided",)}, ValueError, "estimates must be some of one-sided, random-sign, cent"),
    ],
)
def test_a_record_that_does_not_fit_is_refused(settings: dict, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=re.escape(words)):
        LearningRule(**{"name": "mine", "function": eq.ep} | settings)


def test_a_shared_rule_outside_its_context_is_refused() -> None:
    with pytest.raises(TypeError, match=r"write `with eqprop_np\.share"):
        learning_rule(eq.share(eq.ep, 2))


# --- the checks of the arguments


def test_a_copy_of_the_dynamics_is_checked_as_the_original() -> None:
    for copied in (copy.deepcopy(DiscreteTime(CHAIN)), pickle.loads(pickle.dumps(DiscreteTime(CHAIN)))):
        theta = copied.init(np.random.default_rng(0))
        x, y = np.ones((1, *CHAIN.shapes[0]), np.float32), np.eye(*CHAIN.shapes[-1])[:1]
        with pytest.raises(ValueError, match="beta must be between -1 and 1 in discrete time"):
            eq.ep(copied, theta, x, y, Phases(50, 5, 1.5))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["ep", "cep", "asymep", "implicit"])
def test_a_nudge_below_rounding_is_refused(name: str, dtype: type) -> None:
    """The implicit gradient has no nudge."""
    dynamics = DiscreteTime(CHAIN)
    theta = dynamics.init(np.random.default_rng(0), dtype)
    x, y = np.ones((1, *CHAIN.shapes[0]), dtype), np.eye(*CHAIN.shapes[-1], dtype=dtype)[:1]
    phases = Phases(
        50,
        5,
        5 * float(np.finfo(dtype).eps),
        schedule=Synchronous(),
        learning_rates=dict.fromkeys(theta, 0.1),
    )
    if name == "implicit":
        RULES[name].function(dynamics, theta, x, y, phases)
        return
    with pytest.raises(ValueError, match=f"for {np.dtype(dtype)}, got .*: rounding hides the effect"):
        RULES[name].function(dynamics, theta, x, y, phases)
    with pytest.raises(ValueError, match="beta must be at least"):
        eq.fit(dynamics, x, y, phases=phases, rule=RULES[name])


@pytest.mark.parametrize(
    "changes, warned",
    [({}, True), ({"tol": 1e-3}, False), ({"estimate": "centered"}, False), ({"beta": -0.06}, False)],
)
def test_a_tolerance_that_hides_the_nudge_is_reported(changes: dict, warned: bool) -> None:
    """The first phase leaves an error of the order of its tolerance, which EP divides by β."""
    changes = {"tol": 5e-3, "beta": 0.04} | changes
    dynamics = DiscreteTime(CHAIN)
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    x, y = np.ones((1, *CHAIN.shapes[0])), np.eye(*CHAIN.shapes[-1])[:1]
    schedule = Alternating(tol=changes.pop("tol"))
    phases = Phases(50, 5, schedule=schedule, **changes)
    for call in (
        lambda: eq.ep(dynamics, theta, x, y, phases),
        lambda: eq.fit(dynamics, x, y, phases=phases, epochs=1),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert [w.filename == __file__ for w in caught] == [True] * warned
        assert all("more than a tenth of beta, 0.04, so" in str(w.message) for w in caught)


def graph_for(function: Rule) -> Network:
    return untied(CHAIN) if function in (eq.vf, eq.cvf, telescoped_cvf) else CHAIN


REFUSED: dict[str, tuple[type[Exception], str, Callable]] = {
    "network as dynamics": (
        TypeError, "dynamics must be DiscreteTime(...) or RealTime(...), got Network",
        lambda d, t, x, y, p: (d.network, t, x, y, p),
    ),
    "settings as a dict": (
        TypeError, "phases must be Phases(...), got dict",
        lambda d, t, x, y, p: (d, t, x, y, {"beta": 0.1}),
    ),
    "sign not drawn": (
        ValueError, "the sign of a random-sign estimate is not drawn: pass phases.draw(rng)",
        lambda d, t, x, y, p: (d, t, x, y, replace(p, estimate="random-sign")),
    ),
    "theta as a list": (
        TypeError, "theta must be a dict from names to arrays, got list",
        lambda d, t, x, y, p: (d, [*t.values()], x, y, p),
    ),
    "missing parameter": (
        ValueError, "but it lacks b1",
        lambda d, t, x, y, p: (d, {name: value for name, value in t.items() if name != "b1"}, x, y, p),
    ),
    "unknown parameter": (
        ValueError, "but it also has w0-2",
        lambda d, t, x, y, p: (d, t | {"w0-2": t["b1"]}, x, y, p),
    ),
    "weight of another shape": (
        ValueError, "theta['w1-2'] must have shape (5, 3), got (3, 5)",
        lambda d, t, x, y, p: (d, t | {"w1-2": t["w1-2"].T}, x, y, p),
    ),
    "NaN in a weight": (
        ValueError, "theta['b2'] must be finite",
        lambda d, t, x, y, p: (d, t | {"b2": np.full(3, np.nan)}, x, y, p),
    ),
    "one sample without the batch": (
        ValueError, "for one sample write x[np.newaxis]",
        lambda d, t, x, y, p: (d, t, x[0], y[0], p),
    ),
    "bytes": (
        TypeError, "x must be floating-point numbers, got uint8",
        lambda d, t, x, y, p: (d, t, x.astype(np.uint8), y, p),
    ),
    "labels": (
        ValueError, "y must have shape (3, 3) = (B, classes), got (3,): labels must be one-hot",
        lambda d, t, x, y, p: (d, t, x, y.argmax(axis=1), p),
    ),
    "targets of other samples": (
        ValueError, "y must have shape (3, 3) = (B, classes), got (2, 3)",
        lambda d, t, x, y, p: (d, t, x, y[:2], p),
    ),
    "infinite target": (
        ValueError, "y must be finite",
        lambda d, t, x, y, p: (d, t, x, np.where(y > 0, np.inf, y), p),
    ),
}  # fmt: skip


@each_function
@pytest.mark.parametrize("case", REFUSED)
def test_every_rule_refuses_wrong_arguments(function: Rule, case: str) -> None:
    error, words, change = REFUSED[case]
    graph = graph_for(function)
    with pytest.raises(error, match=re.escape(words)):
        function(*change(DiscreteTime(graph), *problem(graph, 0.1)))


@each_function
def test_every_rule_takes_one_hot_integers_and_lists_as_targets(function: Rule) -> None:
    graph = graph_for(function)
    theta, x, y, phases = problem(graph, 0.1)
    expected = function(DiscreteTime(graph), theta, x, y, phases).gradient
    for target in (y.astype(int), y > 0, y.tolist()):
        found = function(DiscreteTime(graph), theta, x, target, phases).gradient
        assert all(np.array_equal(found[name], expected[name]) for name in theta)


@each_function
def test_every_rule_takes_drawn_phases(function: Rule) -> None:
    graph = graph_for(function)
    theta, x, y, phases = problem(graph, 0.1, beta=0.2)
    drawn = replace(phases, estimate="random-sign").draw(np.random.default_rng(0))
    found = function(DiscreteTime(graph), theta, x, y, drawn).gradient
    expected = function(DiscreteTime(graph), theta, x, y, replace(phases, beta=drawn.beta)).gradient
    assert all(np.array_equal(found[name], expected[name]) for name in theta)


@each_function
def test_every_rule_uses_the_schedule_of_the_first_phase(function: Rule) -> None:
    """It stops at the tolerance; bptt then takes the last K steps synchronously, without stopping."""
    graph = graph_for(function)
    theta, x, y, phases = problem(graph, 0.1)
    phases = replace(phases, free_steps=400, schedule=Alternating(1.1, 1e-6))
    free = function(DiscreteTime(graph), theta, x, y, phases).free
    last = phases.nudged_steps if function is eq.bptt else 0
    assert free.converged
    assert last + 3 < free.steps < 200
    assert free.residuals[-1] <= 1e-6


def test_an_update_shows_its_norms_and_its_first_phase() -> None:
    text = repr(eq.ep(DiscreteTime(CHAIN), *problem(CHAIN, 0.1)))
    found = re.fullmatch(r"<Update: norms of dL/dθ: (.*); <Relaxation: .*>>", text)
    names = [re.fullmatch(r"(\S+) \d\.\d\de[+-]\d\d", norm).group(1) for norm in found.group(1).split(", ")]
    assert sorted(names) == sorted(CHAIN.parameter_shapes)
