"""Tests of the named systems, and of the numbers that `python -m eqprop_np.theorem` prints for them."""

import re
from typing import Any

import numpy as np
import pytest

from eqprop_np.activations import hard_sigmoid, sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, RealTime
from eqprop_np.experiments import systems
from eqprop_np.experiments.systems import (
    SYSTEMS,
    Run,
    System,
    estimators_of,
    exactness,
    measure,
    print_theorem,
)
from eqprop_np.network import chain
from eqprop_np.theorem import (
    Comparison,
    compare,
    drive_gradients,
    first_phase,
    gradients,
    order,
    updates,
)

Patch = pytest.MonkeyPatch

# ---- the systems

WHAT = {  # layers, time, σ, ε, K, β, batch and η
    "chain": ((6, 8, 7, 4), "discrete", sigmoid, None, 40, 0.01, 20, 3e-4),
    "chain-untied": ((6, 8, 7, 4), "discrete", sigmoid, None, 40, 0.01, 20, 3e-4),
    "chain-real": ((6, 8, 7, 4), "real", tanh, 0.5, 40, 0.01, 20, 3e-4),
    "chain-real-untied": ((6, 8, 7, 4), "real", tanh, 0.5, 40, 0.01, 20, 3e-4),
    "toy": ((10, 50, 5), "real", tanh, 0.08, 80, 0.01, 1, 3e-4),
    "eb-1h": ((784, 512, 10), "real", tanh, 0.08, 80, 0.005, 20, 5e-6),
    "eb-2h": ((784, 512, 512, 10), "real", tanh, 0.08, 150, 0.01, 20, 5e-6),
    "p-1h": ((784, 512, 10), "discrete", tanh, None, 10, 0.01, 20, 5e-6),
    "p-2h": ((784, 512, 512, 10), "discrete", tanh, None, 40, 0.01, 20, 5e-6),
    "p-3h": ((784, 512, 512, 512, 10), "discrete", tanh, None, 40, 0.015, 20, 5e-6),
    "conv": (((28, 28, 1), (12, 12, 32), (4, 4, 64), 10), "discrete", hard_sigmoid, None, 10, 0.02, 1, 2e-6),
}


def test_the_systems_are_these() -> None:
    assert list(SYSTEMS) == list(WHAT)


@pytest.mark.parametrize("name", WHAT)
def test_a_system_has_its_numbers(name: str) -> None:
    layers, time, sigma, epsilon, steps, beta, batch, eta = WHAT[name]
    system = SYSTEMS[name]
    dynamics, network = system.dynamics, system.dynamics.network
    assert network.shapes == tuple(size if isinstance(size, tuple) else (size,) for size in layers)
    assert [(c.pre, c.post) for c in network.connections] == (
        [(0, 1), (0, 2), (1, 2)] if name == "toy" else [(n, n + 1) for n in range(len(layers) - 1)]
    )
    assert network.tied == ("untied" not in name)
    assert isinstance(dynamics, RealTime if time == "real" else DiscreteTime)
    assert dynamics.sigma is sigma
    if epsilon is not None:
        assert (dynamics.epsilon, dynamics.clamp) == (epsilon, False)
    assert (system.steps, system.beta, system.batch, system.eta) == (steps, beta, batch, eta)


def test_a_system_draws_uniform_pixels_and_random_classes() -> None:
    system = System(DiscreteTime(chain([6, 8, 4])), steps=3, beta=0.1, batch=400)
    theta, x, y = system.draw(5)
    assert x.shape == (400, 6) and y.shape == (400, 4)
    assert 0 <= x.min() < 0.01 and 0.99 < x.max() <= 1
    assert abs(x.mean() - 0.5) < 0.02
    np.testing.assert_array_equal(y.sum(axis=1), 1)
    assert (y.sum(axis=0) > 60).all()  # each class about 100 times
    assert {value.dtype for value in (*theta.values(), x)} == {np.dtype(np.float64)}
    for again, same in ((system.draw(5), True), (system.draw(6), False)):
        assert np.array_equal(again[1], x) == same
        assert np.array_equal(again[0]["w0-1"], theta["w0-1"]) == same
    theta = SYSTEMS["chain-untied"].draw(0, 180.0)[0]
    np.testing.assert_array_equal(theta["w2-1"], -theta["w1-2"])


# ---- Theorem 1


def test_a_run_is_compared_with_the_gradients_that_were_asked_for() -> None:
    system = SYSTEMS["chain"]
    dynamics, (theta, x, y) = system.dynamics, system.draw(1)
    rest = first_phase(dynamics, theta, x, system.steps)
    runs = (Run(0.02), Run(0.03, centered=True), Run(0.04, eta=1e-3))
    for drives, nablas in ((False, gradients), (True, drive_gradients)):
        processes = (
            updates(dynamics, theta, x, y, rest, 0.02),
            updates(dynamics, theta, x, y, rest, 0.03, centered=True),
            updates(dynamics, theta, x, y, rest, 0.04, eta=1e-3),
        )
        expected = compare(nablas(dynamics, theta, x, y, rest), *processes)
        for found, wanted in zip(measure(system, runs, 1, drives=drives), expected, strict=True):
            assert (found.errors, found.norms) == (wanted.errors, wanted.norms)


class Given(Comparison):
    """A comparison with given distances: powers of β, and numbers that differ for each quantity."""

    def __init__(self, run: Run, drives: bool) -> None:
        power = 2 if run.centered else 1
        self.given = (drives + 1) * run.beta**power + 10 * run.eta, 3 * run.beta ** (power + 1) + run.eta
        super().__init__(errors={"s1": 1.0, "b1": 4.0}, norms={"s1": run.beta**-2, "b1": run.beta**-2})

    distance_s = property(lambda self: self.given[0])
    distance_theta = property(lambda self: self.given[1])
    angle_theta = property(lambda self: 1000 * self.given[0])


@pytest.mark.parametrize("name, tables", [("chain", 2), ("toy", 1)])
def test_the_table_of_theorem_1(
    name: str, tables: int, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line shows the numbers of its run, under its name; in discrete time a second table follows."""
    asked: list[Any] = []

    def instead(system: System, runs: list[Run], seed: int, *, drives: bool = False) -> list[Given]:
        asked.append((system, runs, seed, drives))
        return [Given(run, drives) for run in runs]

    monkeypatch.setattr(systems, "measure", instead)
    print_theorem(name, 7)
    system = SYSTEMS[name]
    assert [(s, seed, drives) for s, _, seed, drives in asked] == [
        (system, 7, bool(k)) for k in range(tables)
    ]
    betas = [system.beta * scale for scale in (10, 1, 0.1, 0.01)]
    assert asked[0][1] == [
        *(Run(beta) for beta in betas),
        *(Run(beta, centered=True) for beta in betas),
        Run(system.beta, system.eta),
    ]
    head, *parts = capsys.readouterr().out.split("\n\n")
    assert head == f"{name}: K = {system.steps}, batch {system.batch}, seed 7"
    assert len(parts) == tables
    for drives, part in enumerate(parts):
        title, columns, *rows, last = part.strip().splitlines()
        assert ("∇ begins like EP" in title) == drives
        assert columns.split("  ")[-1].strip() == "angle (°)"
        assert re.split(r"\s{2,}", columns.strip()) == ["β", "η", "in s", "in θ", "angle (°)"]
        expected = []
        for label, centered in (("one-sided", False), ("centred", True)):
            shown = [Given(Run(beta, centered=centered), bool(drives)) for beta in betas]
            for beta, c in zip(betas, shown, strict=True):
                distances = [f"{v:.1e}" for v in (c.distance_s, c.distance_theta, c.angle_theta)]
                expected.append([label, f"{beta:.2g}", "0", *distances])
            powers = (order(betas, [c.given[k] for c in shown]) for k in (0, 1))
            expected.append([label, "order", "in", "β", *(f"{power:.2f}" for power in powers)])
        c = Given(Run(system.beta, system.eta), bool(drives))
        distances = [f"{v:.1e}" for v in (c.distance_s, c.distance_theta, c.angle_theta)]
        expected.append(["continual", f"{system.beta:.2g}", f"{system.eta:.2g}", *distances])
        assert [row.split() for row in rows] == expected
        beta = system.beta  # the distances of the layers and parameters are 1/norm and 2/norm
        assert last == (f"each layer and parameter, one-sided, β = {beta}: s1 {beta:.1e}, b1 {2 * beta:.1e}")


def test_the_table_of_a_system_is_that_of_its_measurements(capsys: pytest.CaptureFixture[str]) -> None:
    print_theorem("toy", 3)
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    system = SYSTEMS["toy"]
    one, both = measure(system, [Run(system.beta), Run(system.beta, centered=True)], 3)
    for label, c in (("one-sided", one), ("centred", both)):
        distances = [f"{v:.1e}" for v in (c.distance_s, c.distance_theta, c.angle_theta)]
        assert [label, "0.01", "0", *distances] in rows


# ---- the estimators


@pytest.mark.parametrize("name, angles", [("chain-real", [0.0]), ("chain-untied", [0.0, 90.0, 180.0])])
def test_the_estimators_are_measured_with_the_settings_of_the_system(
    name: str, angles: list[float], monkeypatch: Patch
) -> None:
    asked = []
    monkeypatch.setattr(
        systems, "measure_estimators", lambda *args, **settings: asked.append((args, settings))
    )
    system = SYSTEMS[name]
    assert list(estimators_of(system, 4)) == angles
    for psi, (arguments, settings) in zip(angles, asked, strict=True):
        dynamics, theta, x, y = arguments
        wanted = system.draw(4, psi)
        assert dynamics is system.dynamics
        for found, value in zip((*theta.values(), x, y), (*wanted[0].values(), *wanted[1:]), strict=True):
            np.testing.assert_array_equal(found, value)
        assert settings == {"beta": pytest.approx(0.1), "ratio": pytest.approx(0.03)}


@pytest.mark.parametrize(
    "name, plain",
    [
        ("chain", "EP, holomorphic EP and C-EP follow the gradient of another loss"),
        ("chain-real", "EP, holomorphic EP and C-EP follow the exact gradient"),
        ("chain-untied", "VF and C-VF follow the displacement"),
        ("chain-real-untied", "VF and C-VF follow the displacement"),
    ],
)
def test_the_sentences_below_the_table_of_estimators(name: str, plain: str) -> None:
    text = exactness(SYSTEMS[name], 0.634)
    assert text.startswith(plain)
    assert "is 63 % away from dL/dθ" in text
    small = exactness(SYSTEMS[name], 1e-10)
    assert small.startswith(f"For small parameters {plain.split(' follow')[0]} are exact here.")
    assert "away" not in small
