"""Tests of backpropagation through the feed-forward network, against finite differences."""

import numpy as np
import pytest
from examples import all_clear

import eqprop_np as eq
from eqprop_np.activations import Array
from eqprop_np.connections import flat
from eqprop_np.costs import squared_error
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.experiments.feedforward import descend, forward
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.network import Theta, chain, convolutional
from eqprop_np.testing import check_gradient

CHAIN = chain([4, 5, 6, 3])
CNN = convolutional((10, 10, 1), [2, 3], [4, 3], kernel=3, pool=2)
DYNAMICS: dict[str, Dynamics] = {
    "dense": DiscreteTime(CHAIN),
    "one layer": DiscreteTime(chain([4, 3])),
    "real time": RealTime(CHAIN, eq.sigmoid),
    "untied": DiscreteTime(eq.untied(CHAIN)),
    "readout": DiscreteTime(chain([4, 5, 6]), cost=eq.Readout(3)),
    "convolutions": DiscreteTime(CNN),
    "convolutions, hard sigmoid": DiscreteTime(CNN, eq.hard_sigmoid),
    "convolutions, readout": DiscreteTime(convolutional((10, 10, 1), [2], [], 3), cost=eq.Readout(3)),
}


def problem(dynamics: Dynamics, rng: np.random.Generator) -> tuple[Theta, Array, Array]:
    """Return θ, x and y, at which small changes of θ move no switch of a max-pool."""
    while True:
        theta = dynamics.init(rng, np.float64)
        x = rng.random((3, *dynamics.network.shapes[0]))
        values = tuple(layer.value for layer in forward(dynamics, theta, x))
        if all_clear(dynamics.network, theta, x, values):
            return theta, x, np.eye(3)[[0, 2, 1]]


def loss(dynamics: Dynamics, theta: Theta, x: Array, y: Array) -> float:
    return float(dynamics.cost.at(theta).value(forward(dynamics, theta, x)[-1].value, y).mean())


@pytest.mark.parametrize("name", DYNAMICS)
def test_a_step_is_the_gradient_of_the_mean_cost(name: str, rng: np.random.Generator) -> None:
    """With rates of 1, a step changes θ by −dL/dθ; a backward weight, which is not used, stays as it is."""
    dynamics = DYNAMICS[name]
    theta, x, y = problem(dynamics, rng)

    def gradient(theta: Theta) -> Theta:
        new = {name: value.copy() for name, value in theta.items()}
        descend(dynamics, new, x, y, dict.fromkeys(theta, 1.0))
        return {name: theta[name] - new[name] for name in theta}

    assert set(theta) == set(dynamics.parameter_shapes)
    assert all(np.any(value) for name, value in gradient(theta).items() if name not in ("w2-1", "w3-2"))
    check_gradient(lambda theta: loss(dynamics, theta, x, y), gradient, theta, rng=rng)


@pytest.mark.parametrize("cost", ["squared-error", "cross-entropy"])
def test_each_layer_has_its_rate(cost: str, rng: np.random.Generator) -> None:
    """The bias of a layer has the rate of the weight that leads to it, as in an experiment."""
    experiment = EXPERIMENTS["p-2h"].override(hidden=(5, 4), cost=cost)
    dynamics = experiment.build((2, 2), 3)
    theta, x, y = problem(dynamics, rng)
    once, scaled = ({name: value.copy() for name, value in theta.items()} for _ in range(2))
    rates = experiment.rates(dynamics)
    descend(dynamics, once, x, y, dict.fromkeys(theta, 1.0))
    descend(dynamics, scaled, x, y, rates)
    assert len(set(rates.values())) == 3
    for name, rate in rates.items():
        expected = theta[name] + rate * (once[name] - theta[name])
        np.testing.assert_allclose(scaled[name], expected, rtol=1e-12, atol=1e-15)


def test_the_output_is_that_of_a_feed_forward_network(rng: np.random.Generator) -> None:
    """Written out for two dense layers."""
    dynamics = DiscreteTime(chain([4, 5, 3]))
    theta, x, _ = problem(dynamics, rng)
    hidden = eq.sigmoid.value(flat(x) @ theta["w0-1"] + theta["b1"])
    first, last = forward(dynamics, theta, x)
    np.testing.assert_allclose(first.value, hidden, rtol=1e-12)
    np.testing.assert_allclose(last.value, eq.sigmoid.value(hidden @ theta["w1-2"] + theta["b2"]), rtol=1e-12)


@pytest.mark.parametrize("name", ["p-1h", "eb-1h", "cvf-1h", "conv"])
def test_it_learns_in_single_precision(name: str, rng: np.random.Generator) -> None:
    """The arrays of θ stay, with their dtype, and the cost falls."""
    experiment = EXPERIMENTS[name]
    small = {"channels": (2, 3)} if name == "conv" else {"hidden": (6,)}
    dynamics = experiment.override(**small).build((16, 16), 3)
    theta = dynamics.init(rng)
    arrays = dict(theta)
    x = rng.random((8, *dynamics.network.shapes[0]), np.float32)
    y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, 8)]
    before = loss(dynamics, theta, x, y)
    for _ in range(20):
        descend(dynamics, theta, x, y, dict.fromkeys(theta, 0.1))
    assert loss(dynamics, theta, x, y) < 0.9 * before
    assert dynamics.cost is squared_error
    assert all(theta[name] is array and array.dtype == np.float32 for name, array in arrays.items())
