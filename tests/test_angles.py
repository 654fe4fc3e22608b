"""Tests of the angle of Fig. 1(c): its conventions against the rules themselves, and its known limits."""

from dataclasses import replace

import numpy as np
import pytest

from eqprop_np.dynamics import Nudge
from eqprop_np.experiments.angles import CONVENTIONS, has_angle, update_angles
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.relaxation import Synchronous
from eqprop_np.rules import RULES
from eqprop_np.rules.continual import continual_phase
from eqprop_np.rules.phases import Phases
from eqprop_np.rules.vector_field import angle_between, field_delta
from eqprop_np.samples import Samples

SHAPE, CLASSES = (4, 4), 3


@pytest.fixture
def samples(rng: np.random.Generator) -> Samples:
    return Samples(rng.integers(0, 256, (40, *SHAPE), np.uint8), rng.integers(0, CLASSES, 40))


def angles(samples: Samples, preset: str = "p-1h", **settings: object) -> dict[str, list[float]]:
    experiment = EXPERIMENTS[preset].override(**{"hidden": (6,)} | settings)
    return update_angles(experiment, experiment.build(SHAPE, CLASSES), samples)


def test_theorem_1_makes_the_angles_of_ep_small(samples: Samples) -> None:
    long = {"preset": "eb-1h", "free_steps": 800, "nudged_steps": 100}
    for beta, allowed in ((1e-5, 0.01), (0.5, None)):
        found = angles(samples, beta=beta, **long)
        assert found.keys() == set(CONVENTIONS)
        for values in found.values():
            assert len(values) == 2  # batches of 20
            assert max(values) < allowed if allowed else min(values) > 0.5


def test_by_the_theorem_the_angle_is_that_of_the_rules(samples: Samples) -> None:
    """The nudge is +β, although C-VF draws its sign in training, and each batch has fresh weights."""
    settings = {"hidden": (6,), "psi": 45, "batch_size": 10, "schedule": Synchronous()}
    experiment = EXPERIMENTS["cvf-1h"].override(**settings, learning_rates=(0.3, 0.2))
    dynamics = experiment.build(SHAPE, CLASSES)
    phases = replace(experiment.phases, estimate="one-sided", learning_rates=experiment.rates(dynamics))
    found = update_angles(experiment, dynamics, samples, batches=3)["theorem"]
    assert len(found) == 3
    theta = dynamics.init(np.random.default_rng(1), np.float32, 45)  # the seed of the second batch
    given = update_angles(experiment, dynamics, samples, 3, theta)["theorem"]
    assert given[1] == pytest.approx(found[1], abs=1e-3)  # θ is rounded to float32
    assert given[0] != pytest.approx(found[0], abs=0.1)
    for k, value in enumerate(found):
        theta = dynamics.init(np.random.default_rng(k), np.float64, 45)
        batch = samples[10 * k : 10 * k + 10]
        x, y = batch.inputs(dynamics.network, np.float64), batch.targets(dynamics, np.float64)
        flat = [
            flattened(RULES[rule].function(dynamics, theta, x, y, phases).gradient)
            for rule in ("cvf", "bptt")
        ]
        assert value == pytest.approx(angle_between(*flat), abs=1e-6)


def flattened(theta: dict[str, np.ndarray]) -> np.ndarray:
    return np.concatenate([theta[name].ravel() for name in sorted(theta)])


@pytest.mark.parametrize("moved", [False, True], ids=["published", "moved weights"])
def test_the_published_angle_leaves_out_the_first_step_and_the_biases(samples: Samples, moved: bool) -> None:
    """The sums from t = 1 are those over K steps minus those over one step of the rules."""
    settings = {"hidden": (6,), "psi": 45, "learning_rates": (0.3, 0.2), "schedule": Synchronous()}
    experiment = EXPERIMENTS["cvf-1h"].override(**settings)
    dynamics = experiment.build(SHAPE, CLASSES)
    theta = dynamics.init(np.random.default_rng(0), np.float64, 45)
    batch = samples[:20]
    x, y = batch.inputs(dynamics.network, np.float64), batch.targets(dynamics, np.float64)
    rates = experiment.rates(dynamics) | {"b1": 0.0}
    phases = replace(experiment.phases, estimate="one-sided", learning_rates=rates)

    def without_first(rule: str, theta: dict, phases: Phases) -> np.ndarray:
        many, one = (
            RULES[rule].function(dynamics, theta, x, y, replace(phases, nudged_steps=k)).gradient
            for k in (phases.nudged_steps, 1)
        )
        return flattened({name: many[name] - one[name] for name in ("w0-1", "w1-2", "w2-1")})

    update = without_first("cvf", theta, phases)
    if moved:
        free = RULES["cvf"].function(dynamics, theta, x, y, phases).free
        nudge = Nudge(phases.beta, y)
        theta = [
            *continual_phase(dynamics, theta, x, free.state, nudge, rates, phases.nudged_steps, field_delta)
        ][-1].theta
        assert np.array_equal(theta["b1"], dynamics.init(np.random.default_rng(0), np.float64, 45)["b1"])
    expected = angle_between(update, without_first("bptt", theta, phases))
    assert angles(samples, "cvf-1h", **settings)[CONVENTIONS[1 + moved]][0] == pytest.approx(
        expected, abs=1e-6
    )


def test_the_angle_grows_with_that_of_the_weights(samples: Samples) -> None:
    found = [angles(samples, "cvf-1h", psi=psi, free_steps=200) for psi in (0, 90, 180)]
    for name in CONVENTIONS:
        means = [np.mean(values[name]) for values in found]
        assert means == sorted(means)
        assert means[-1] > means[0] + 10


def test_only_rules_with_a_process_have_an_angle() -> None:
    names = {rule for rule in RULES if has_angle(EXPERIMENTS["p-1h"].override(rule=rule))}
    assert names == {"ep", "cep", "vf", "cvf"}
    assert not has_angle(EXPERIMENTS["p-1h"].override(cost="cross-entropy"))
