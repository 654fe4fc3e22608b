"""Tests of the presets: the published numbers, the networks and rates that they build, refused settings."""

import math
import re
from dataclasses import FrozenInstanceError, replace
from typing import Any

import pytest

from eqprop_np.activations import ACTIVATIONS, sigmoid, tanh
from eqprop_np.connections import ConvPool
from eqprop_np.dynamics import DiscreteTime, RealTime
from eqprop_np.experiments.presets import EXPERIMENTS, SCHEDULES, UNTIED, Experiment, spread
from eqprop_np.relaxation import Alternating, Synchronous
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import ESTIMATES, Phases

every = pytest.mark.parametrize("experiment", EXPERIMENTS.values(), ids=EXPERIMENTS)

SHARED = {
    "rule": "ep",
    "batch_size": 20,
    "rate_decay": 1.0,
    "augment": 0,
    "channels": (),
    "activation": "sigmoid",
}
DISCRETE = {"dynamics": "discrete-time"}
REAL = {"dynamics": "real-time", "epsilon": 0.2, "beta": 0.5}
ONE, TWO, THREE = ({"hidden": (512,) * n} for n in (1, 2, 3))
PUBLISHED: dict[str, dict[str, Any]] = {
    "p-1h": DISCRETE | ONE | {"learning_rates": (0.08, 0.04), "beta": 0.1, "epochs": 30},
    "p-2h": DISCRETE | TWO | {"learning_rates": (0.2, 0.05, 0.005), "beta": 0.5, "epochs": 50},
    "p-3h": DISCRETE | THREE | {"learning_rates": (0.2, 0.05, 0.01, 0.002), "beta": 0.5, "epochs": 100},
    "eb-1h": REAL | ONE | {"learning_rates": (0.1, 0.05), "epochs": 30},
    "eb-2h": REAL | TWO | {"learning_rates": (0.4, 0.1, 0.01), "epochs": 50},
}
STEPS = {
    "p-1h": (range(30, 41), range(10, 16)),
    "p-2h": ([100], [20]),
    "p-3h": ([180], [20]),
    "eb-1h": ([100], [12]),
    "eb-2h": ([400], [40]),
}


def tiny(**settings: Any) -> Experiment:
    """Return a small experiment with these settings."""
    base = {"hidden": (4,), "learning_rates": (0.1, 0.2), "channels": ()}
    return replace(EXPERIMENTS["p-1h"], **base | settings)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_holds_the_published_numbers(name: str) -> None:
    experiment = EXPERIMENTS[name]
    expected = SHARED | PUBLISHED[name]
    assert {key: getattr(experiment, key) for key in expected} == expected
    free, nudged = STEPS[name]
    assert experiment.free_steps in free
    assert experiment.nudged_steps in nudged


def test_the_convolutional_preset_has_the_published_network() -> None:
    dynamics = EXPERIMENTS["conv"].build((28, 28), 10)
    assert dynamics.network.shapes == ((28, 28, 1), (12, 12, 32), (4, 4, 64), (10,))
    assert (EXPERIMENTS["conv"].activation, EXPERIMENTS["conv"].beta) == ("hard_sigmoid", 0.4)
    assert EXPERIMENTS["conv"].estimate != "one-sided"


@every
def test_a_preset_has_its_name_and_the_source_of_its_numbers(experiment: Experiment) -> None:
    assert EXPERIMENTS[experiment.name] is experiment
    assert re.match(r"\[[12]\]", experiment.source)


@every
def test_presets_are_frozen(experiment: Experiment) -> None:
    with pytest.raises(FrozenInstanceError):
        experiment.beta = 1.0


@every
def test_a_preset_builds_what_it_says(experiment: Experiment) -> None:
    dynamics = experiment.build((28, 28), 10)
    assert dynamics.sigma is ACTIVATIONS[experiment.activation]
    assert isinstance(dynamics, RealTime if experiment.dynamics == "real-time" else DiscreteTime)
    if isinstance(dynamics, RealTime):
        assert dynamics.epsilon == experiment.epsilon
        assert dynamics.clamp
    if not experiment.channels:
        assert dynamics.network.shapes == ((784,), *((size,) for size in experiment.hidden), (10,))


@every
def test_to_the_letter_is_synchronous_and_takes_every_step(experiment: Experiment) -> None:
    letter = experiment.to_the_letter()
    assert (letter.schedule, letter.omega, letter.tol) == ("synchronous", 1.0, 0.0)
    assert letter.phases.schedule == Synchronous(tol=0)
    assert letter.phases.schedule.steps(letter.free_steps) == experiment.free_steps
    assert (
        replace(letter, schedule=experiment.schedule, omega=experiment.omega, tol=experiment.tol)
        == experiment
    )


@pytest.mark.parametrize("estimate", ESTIMATES)
def test_phases_have_every_setting(estimate: str) -> None:
    settings = {"free_steps": 7, "nudged_steps": 5, "beta": -0.3, "estimate": estimate}
    schedules = {"synchronous": Synchronous(tol=0.02), "alternating": Alternating(omega=1.1, tol=0.02)}
    assert tuple(schedules) == SCHEDULES[::-1]
    for name, schedule in schedules.items():
        experiment = tiny(**settings, schedule=name, omega=1.1, tol=0.02)
        assert experiment.phases == Phases(**settings, schedule=schedule)


# --- networks


@pytest.mark.parametrize("image, classes", [((8, 8), 10), ((5, 7), 3), ((1, 1), 2)])
def test_dense_networks_fit_any_image_and_number_of_classes(image: tuple[int, int], classes: int) -> None:
    network = tiny(hidden=(6, 4), learning_rates=(1, 1, 1)).build(image, classes).network
    assert network.shapes == ((image[0] * image[1],), (6,), (4,), (classes,))


def test_a_network_needs_no_hidden_layer() -> None:
    network = tiny(hidden=(), learning_rates=(0.1,)).build((4, 4), 3).network
    assert network.shapes == ((16,), (3,))


def test_convolutional_networks_fit_other_images_and_have_several_dense_layers() -> None:
    experiment = tiny(channels=(3, 2), hidden=(7, 5), learning_rates=(1, 1, 1, 1, 1))
    network = experiment.build((20, 16), 4).network
    assert network.shapes == ((20, 16, 1), (8, 6, 3), (2, 1, 2), (7,), (5,), (4,))
    assert [isinstance(c, ConvPool) for c in network.connections] == [True, True, False, False, False]


def test_a_convolution_that_does_not_fit_is_refused_by_its_sizes() -> None:
    with pytest.raises(ValueError, match="layer 2: a 5×5 convolution does not fit on 2 pixels"):
        tiny(channels=(3, 2), learning_rates=(1,) * 4).build((8, 8), 4)


@pytest.mark.parametrize("rule", RULES)
def test_the_rules_of_untied_networks_get_them(rule: str) -> None:
    network = tiny(rule=rule).build((4, 4), 3).network
    assert network.tied == (rule not in UNTIED)
    assert UNTIED == ("vf", "cvf")


def test_settings_of_the_dynamics_are_passed_on() -> None:
    assert tiny(activation="tanh").build((4, 4), 3).sigma is tanh
    real = tiny(dynamics="real-time", epsilon=0.07).build((4, 4), 3)
    assert (real.sigma, real.epsilon) == (sigmoid, 0.07)


# --- rates


def test_each_connection_has_its_rate_and_a_bias_that_of_the_connection_that_enters() -> None:
    experiment = tiny(hidden=(4, 3), learning_rates=(0.3, 0.2, 0.1))
    rates = experiment.rates(experiment.build((4, 4), 3).network, 0)
    assert rates == {"w0-1": 0.3, "b1": 0.3, "w1-2": 0.2, "b2": 0.2, "w2-3": 0.1, "b3": 0.1}


def test_a_backward_weight_has_the_rate_of_its_forward_weight() -> None:
    experiment = tiny(rule="vf", hidden=(4, 3), learning_rates=(0.3, 0.2, 0.1))
    rates = experiment.rates(experiment.build((4, 4), 3).network, 0)
    assert (rates["w2-1"], rates["w3-2"]) == (rates["w1-2"], rates["w2-3"]) == (0.2, 0.1)


@pytest.mark.parametrize("epoch", [0, 1, 5])
def test_rates_decay_by_a_factor_per_epoch(epoch: int) -> None:
    experiment = tiny(rate_decay=0.5)
    rates = experiment.rates(experiment.build((4, 4), 3).network, epoch)
    assert rates == {
        "w0-1": 0.1 * 0.5**epoch,
        "b1": 0.1 * 0.5**epoch,
        "w1-2": 0.2 * 0.5**epoch,
        "b2": 0.2 * 0.5**epoch,
    }


@every
def test_every_parameter_has_a_rate(experiment: Experiment) -> None:
    network = experiment.build((28, 28), 10).network
    assert experiment.rates(network, 0).keys() == network.parameter_shapes.keys()


# --- refusals


@pytest.mark.parametrize(
    "wrong, words",
    [
        ({"learning_rates": (0.1,)}, "1 learning rates for 2 connections: give one for each"),
        ({"learning_rates": (0.1,) * 3}, "3 learning rates for 2 connections"),
        ({"hidden": (4, 4)}, "2 learning rates for 3 connections"),
        ({"channels": (4,)}, "2 learning rates for 3 connections"),
        ({"hidden": (0,)}, "hidden = (0,) must be positive"),
        ({"hidden": (), "channels": (-1,)}, "channels = (-1,) must be positive"),
        ({"hidden": (4.5,)}, "hidden = (4.5,) must be positive, and whole"),
        ({"learning_rates": (0.1, 0.0)}, "learning_rates = (0.1, 0.0) must be positive, and finite"),
        ({"learning_rates": (0.1, math.inf)}, "learning_rates = (0.1, inf) must be positive, and finite"),
        ({"learning_rates": (math.nan, 0.1)}, "learning_rates = (nan, 0.1) must be positive, and finite"),
        ({"epochs": 0}, "epochs = 0 must be positive, and whole"),
        ({"epochs": 1.5}, "epochs = 1.5 must be positive, and whole"),
        ({"batch_size": 0}, "batch_size = 0 must be positive"),
        ({"workers": -1}, "workers = -1 must be positive"),
        ({"free_steps": 0}, "free_steps = 0 must be positive"),
        ({"nudged_steps": 2.5}, "nudged_steps = 2.5 must be positive, and whole"),
        ({"epsilon": 0.0}, "epsilon = 0.0 must be positive"),
        ({"rate_decay": 0.0}, "rate_decay = 0.0 must be positive"),
        ({"augment": -1}, "augment = -1 must not be negative"),
        ({"augment": 1.5}, "augment = 1.5 must not be negative, and whole"),
        ({"beta": 0.0}, "beta must be a finite number other than 0, got 0.0: EP divides by it"),
        ({"tol": -1.0}, "tol must be a finite number from 0, got -1.0"),
        ({"omega": 0.0}, "omega must be between 0 and 2, got 0.0"),
        ({"rule": "backprop"}, "rule 'backprop' is not one of ep"),
        ({"dynamics": "slow"}, "dynamics 'slow' is not one of discrete-time, real-time"),
        ({"activation": "relu"}, "activation 'relu' is not one of sigmoid, hard_sigmoid, tanh"),
        ({"estimate": "both"}, "estimate must be one of one-sided, random-sign, centered, got 'both'"),
        ({"schedule": "none"}, "schedule 'none' is not one of alternating, synchronous"),
        (
            {"angle": 90.0},
            "is between forward and backward weights, which rule ep ties: choose rule vf or cvf",
        ),
        ({"rule": "vf", "angle": 181.0}, "angle = 181.0 is not between 0 and 180 degrees"),
        (
            {"rule": "cep", "estimate": "centered"},
            "rule cep does not use the estimate centered: choose one-s",
        ),
        ({"rule": "vf", "estimate": "centered"}, "rule vf does not use the estimate centered: choose one-s"),
        ({"rule": "cep", "workers": 2}, "rule cep moves the weights by the mean over the batch at each step"),
    ],
    ids=str,
)
def test_a_setting_that_cannot_be_is_refused(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        tiny(**wrong)


def test_spread_keeps_the_ends_and_the_ratio() -> None:
    assert spread((0.2, 0.05, 0.02), 3) == (0.2, 0.05, 0.02)
    assert spread((0.16, 0.01), 5) == (0.16, 0.08, 0.04, 0.02, 0.01)
    assert spread((0.2, 0.05, 0.02), 2) == (0.2, 0.02)
    assert spread((0.2, 0.05), 1) == (0.2,)
