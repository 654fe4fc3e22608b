"""The telescoped forms of C-EP and C-VF equal the plain ones, and training uses them only for dense networks.

Both forms compute the same sums in another order, in float64 with values of order 1. So 1e-12 is rounding.
"""

import inspect
from dataclasses import dataclass, fields, replace

import numpy as np
import pytest
from examples import NETWORKS
from test_continual import (
    DENSE,
    RATE,
    assert_close,
    assert_states_close,
    distance,
    each_dynamics,
    each_setting,
    problem,
)

from eqprop_np import cep, cvf, ep, vf
from eqprop_np.activations import Array
from eqprop_np.connections import Dense
from eqprop_np.dynamics import DiscreteTime
from eqprop_np.network import Network, Theta, convolutional
from eqprop_np.relaxation import Alternating
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import Phases, Rule, Update
from eqprop_np.rules.telescoped import is_dense, telescoped_cep, telescoped_cvf, telescoped_vf
from eqprop_np.rules.vector_field import untied


@dataclass(frozen=True)
class Doubled(Dense):
    """A subclass of Dense with another drive, for which the telescoped forms would be wrong."""

    def to_post(self, w: Array, pre: Array, switches: Array | None = None) -> tuple[Array, None]:
        return 2 * super().to_post(w, pre)[0], None

    def to_pre(self, w: Array, post: Array, switches: Array | None = None) -> Array:
        return 2 * super().to_pre(w, post)

    def gradient(self, pre: Array, post: Array, switches: Array | None = None) -> Array:
        return 2 * super().gradient(pre, post)


class Own:
    """A connection of one's own, which is no Dense: all its members are those of one."""

    def __init__(self, dense: Dense) -> None:
        self.dense = dense


for member in {*dir(Dense), *(field.name for field in fields(Dense))}:
    if not member.startswith("__"):  # isinstance ignores __getattr__ since Python 3.12
        setattr(Own, member, property(lambda self, member=member: getattr(self.dense, member)))


def two_layers(*connections: object) -> Network:
    return Network(((4,), (5,), (3,)), connections)


FIRST, SECOND = Dense(0, 1, (4,), (5,)), Dense(1, 2, (5,), (3,))
GRAPHS = DENSE | {
    "image": convolutional((3, 2, 2), (), (4, 3)),
    "two connections": two_layers(
        FIRST, Dense(0, 1, (4,), (5,), "again"), SECOND, Dense(1, 2, (5,), (3,), "twice")
    ),
}
OTHERS = {
    "conv": NETWORKS["conv"],
    "two conv": NETWORKS["two conv"],
    "subclass": two_layers(FIRST, Doubled(1, 2, (5,), (3,))),
    "subclass at the input": two_layers(Doubled(0, 1, (4,), (5,)), SECOND),
    "own": two_layers(FIRST, Own(SECOND)),
}
UNTIED = {name: graph for name, graph in GRAPHS.items() if name != "two connections"}  # one backward name

each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)
each_untied = pytest.mark.parametrize("graph", [untied(graph) for graph in UNTIED.values()], ids=UNTIED)


def with_own_backward_weights(
    graph: Network, rate: float, beta: float = 0.3
) -> tuple[Theta, Array, Array, Phases]:
    """Return `problem` with backward weights that are independent of the forward ones."""
    theta, x, y, phases = problem(graph, rate, beta)
    rng = np.random.default_rng(1)
    names = [graph.backward_name(c) for c in graph.recurrent]
    return theta | {name: rng.uniform(-0.5, 0.5, theta[name].shape) for name in names}, x, y, phases


def assert_same(found: Update, expected: Update) -> None:
    assert_close(found.gradient, expected.gradient)
    assert_states_close(found.free.state, expected.free.state)
    assert found.free.residuals == expected.free.residuals


# --- the same result


@each_setting
@each_graph
def test_telescoped_cep_is_cep(graph: Network, rate: float, beta: float) -> None:
    """Also where x leads to two layers, or not to ŷ, and with two connections between the same layers."""
    for dynamics in each_dynamics(graph):
        arguments = dynamics, *problem(graph, rate, beta)
        assert_same(telescoped_cep(*arguments), cep(*arguments))


@each_setting
@each_graph
def test_telescoped_cvf_is_cvf_for_tied_weights(graph: Network, rate: float, beta: float) -> None:
    for dynamics in each_dynamics(graph):
        arguments = dynamics, *problem(graph, rate, beta)
        assert_same(telescoped_cvf(*arguments), cvf(*arguments))


@each_setting
@each_untied
def test_telescoped_cvf_is_cvf_for_untied_weights(graph: Network, rate: float, beta: float) -> None:
    for dynamics in each_dynamics(graph):
        arguments = dynamics, *with_own_backward_weights(graph, rate, beta)
        assert_same(telescoped_cvf(*arguments), cvf(*arguments))
        assert_same(telescoped_vf(*arguments), vf(*arguments))


@pytest.mark.parametrize(
    ("telescoped", "plain"), [(telescoped_cep, cep), (telescoped_vf, vf), (telescoped_cvf, cvf)]
)
@pytest.mark.parametrize("steps", [1, 2, 25])
@pytest.mark.parametrize("batch", [1, 3])
def test_for_short_and_long_phases_and_one_sample(
    telescoped: Rule, plain: Rule, steps: int, batch: int
) -> None:
    """After an alternating first phase, too, as in training."""
    for graph in (DENSE["skip"], DENSE["recurrent skip"]):
        for dynamics in each_dynamics(graph):
            theta, x, y, phases = problem(graph, 0.1)
            phases = replace(phases, nudged_steps=steps, schedule=Alternating(1.2, 1e-3))
            arguments = dynamics, theta, x[:batch], y[:batch], phases
            assert_same(telescoped(*arguments), plain(*arguments))


@each_graph
def test_the_rates_matter_in_these_examples(graph: Network) -> None:
    """Each parameter's own rate changes the result, so that the tests above find a wrong one."""
    theta, x, y, phases = problem(graph, RATE)
    dynamics = DiscreteTime(graph)
    found = telescoped_cep(dynamics, theta, x, y, phases).gradient
    for name in theta:
        rates = phases.learning_rates | {name: 2 * phases.learning_rates[name]}
        other = telescoped_cep(dynamics, theta, x, y, replace(phases, learning_rates=rates)).gradient
        assert distance(other, found) > 1e-4, name
    assert distance(found, ep(dynamics, theta, x, y, phases).gradient) > 0.01


@pytest.mark.parametrize("rule", [telescoped_cep, telescoped_cvf])
def test_float32_stays_float32_and_arguments_are_only_read(rule: Rule) -> None:
    for graph in GRAPHS.values():
        theta, x, y, phases = problem(graph, 0.1)
        theta = {name: value.astype(np.float32) for name, value in theta.items()}
        x, y = x.astype(np.float32), y.astype(np.float32)
        for array in (*theta.values(), x, y):
            array.flags.writeable = False
        for dynamics in each_dynamics(graph):
            update = rule(dynamics, theta, x, y, phases)
            assert {name: g.shape for name, g in update.gradient.items()} == graph.parameter_shapes
            assert {g.dtype for g in (*update.gradient.values(), *update.free.state)} == {
                np.dtype(np.float32)
            }


# --- where they apply


def test_they_apply_if_every_connection_is_exactly_dense() -> None:
    assert all(is_dense(graph) and is_dense(untied(graph)) for graph in UNTIED.values())
    assert is_dense(GRAPHS["two connections"])
    assert not any(map(is_dense, OTHERS.values()))
    shapes = ((4,), (2, 2, 1), (3,))  # a dense connection takes an image as a flat vector
    image = Network(shapes, tuple(Dense(n, n + 1, shapes[n], shapes[n + 1]) for n in range(2)))
    assert not is_dense(image)
    theta, x, y, phases = problem(image, 0.1)
    assert RULES["cep"].fastest(image) is inspect.unwrap(cep)
    with pytest.raises(ValueError, match="between layers that are vectors"):
        telescoped_cep(DiscreteTime(image), theta, x, y, phases)


@pytest.mark.parametrize(
    ("name", "twin", "plain"),
    [("cep", telescoped_cep, cep), ("vf", telescoped_vf, vf), ("cvf", telescoped_cvf, cvf)],
)
def test_fastest_is_the_twin_exactly_where_it_applies(name: str, twin: Rule, plain: Rule) -> None:
    for graph in (*GRAPHS.values(), *map(untied, UNTIED.values())):
        assert RULES[name].fastest(graph) is inspect.unwrap(twin)
    for graph in OTHERS.values():
        assert RULES[name].fastest(graph) is inspect.unwrap(plain)
    assert inspect.unwrap(twin) is not twin
    assert inspect.unwrap(plain) is not plain


@pytest.mark.parametrize("rule", ["cep", "vf", "cvf"])
@pytest.mark.parametrize("graph", OTHERS.values(), ids=OTHERS)
def test_the_fastest_form_is_right_for_other_connections(graph: Network, rule: str) -> None:
    for dynamics in each_dynamics(graph):
        arguments = dynamics, *problem(graph, 0.1)
        assert_same(RULES[rule].fastest(graph)(*arguments), RULES[rule].function(*arguments))


@pytest.mark.parametrize("rule", [telescoped_cep, telescoped_cvf])
@pytest.mark.parametrize("graph", OTHERS.values(), ids=OTHERS)
def test_they_refuse_other_connections(graph: Network, rule: Rule) -> None:
    """For a subclass of Dense the result would be wrong without any other sign."""
    with pytest.raises(ValueError, match="needs Dense connections between layers that are vectors: use cep"):
        rule(DiscreteTime(graph), *problem(graph, 0.1))


@pytest.mark.parametrize("rule", [telescoped_cep, telescoped_cvf])
def test_they_refuse_what_the_plain_rules_refuse(rule: Rule) -> None:
    graph = GRAPHS["chain"]
    theta, x, y, phases = problem(graph, 0.1)
    for changes, words in (
        ({"estimate": "centered"}, "cannot be centered"),
        ({"estimate": "random-sign"}, "not drawn"),
        ({"learning_rates": {"b1": 0.1}}, "lacks b2, w0-1, w1-2"),
    ):
        with pytest.raises(ValueError, match=words):
            rule(DiscreteTime(graph), theta, x, y, replace(phases, **changes))
    with pytest.raises(ValueError, match="x must have shape"):
        rule(DiscreteTime(graph), theta, x[:, :2], y, phases)


def test_telescoped_cep_refuses_untied_weights() -> None:
    graph = untied(GRAPHS["chain"])
    with pytest.raises(ValueError, match="untied, so it has no Φ: use the rule"):
        telescoped_cep(DiscreteTime(graph), *problem(graph, 0.1))


# --- training


TRAINED = [DENSE["long chain"], DENSE["skip"], OTHERS["subclass"], NETWORKS["two conv"]]


@pytest.mark.parametrize(
    ("name", "rule", "graph"),
    [
        *(("cep", cep, graph) for graph in TRAINED),
        *(("cvf", cvf, graph) for graph in (*TRAINED, *map(untied, TRAINED))),
    ],
)
def test_the_rule_of_training_gives_the_gradient_of_the_plain_rule(
    name: str, rule: Rule, graph: Network
) -> None:
    """Training calls `LearningRule.fastest`, which does not check its arguments."""
    for dynamics in each_dynamics(graph):
        theta, x, y, phases = with_own_backward_weights(graph, 0.1)
        found, expected = (
            RULES[name].fastest(graph)(dynamics, theta, x, y, phases),
            rule(dynamics, theta, x, y, phases),
        )
        assert_close(found.gradient, expected.gradient)
        np.testing.assert_allclose(found.free.state[-1], expected.free.state[-1], rtol=0, atol=1e-12)
        assert found.free.steps == expected.free.steps
