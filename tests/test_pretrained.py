"""Tests of the committed weights: their record, their error, and EP's gradient against BPTT's with them."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from eqprop_np import mnist
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.datasets import glyphs, load
from eqprop_np.experiments.report import records
from eqprop_np.relaxation import Alternating
from eqprop_np.rules.bptt import bptt
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import Phases
from eqprop_np.samples import Samples

DATA = Path(__file__).resolve().parents[1] / "data"
WEIGHTS = DATA.parent / "eqprop_np" / "data" / "conv.npz"
RECORD = json.loads((DATA / "results" / "conv-augment.json").read_text("utf-8"))


def test_they_are_of_the_recorded_run_and_small() -> None:
    """The file has schema 1, which must remain readable."""
    with np.load(WEIGHTS) as file:
        assert json.loads(str(file["meta"]))["schema"] == 1
    configuration, progress = checkpoint.load(WEIGHTS)
    assert configuration == Configuration.from_json(RECORD["configuration"])
    assert [record | {"free_steps": record.pop("steps")} for record in records(progress)] == RECORD["history"]
    assert WEIGHTS.stat().st_size < 400_000


@pytest.mark.skipif("EQPROP_NP_DATA" not in os.environ, reason="EQPROP_NP_DATA names no MNIST")
def test_they_make_the_errors_of_the_recorded_network(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluate 300 images of the test set, among which are six of the fifty errors.

    On the whole test set the command prints the recorded error, but this takes half a minute.
    """
    whole, part = load("mnist"), slice(2000, 2300)
    some = replace(whole, test_images=whole.test_images[part], test_labels=whole.test_labels[part])
    monkeypatch.setattr(mnist, "load", lambda *_, **__: some)
    assert mnist.main(["--preset", "conv", "--evaluate", str(WEIGHTS), "--data", "mnist"]) == 0
    recorded = f"(recorded after epoch {RECORD['epochs']}: {RECORD['test_error']:.2f} %)"
    assert capsys.readouterr().out == f"conv on mnist: test error 2.00 % {recorded}\n"


def test_on_them_ep_has_the_gradient_of_bptt() -> None:
    """Compare Eq. (2) with a small β and Eq. (6) for each connection of a trained CNN.

    Theorem 1 does not hold for an output that is wrong and saturated, because the slope of a hard sigmoid is
    0 there. The test checks that there is none.
    """
    configuration, progress = checkpoint.load(WEIGHTS)
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    theta = {name: value.astype(np.float64) for name, value in progress.theta.items()}
    drawn = glyphs(train=10, test=3)
    samples = Samples(drawn.test_images[:2], drawn.test_labels[:2])
    network = dynamics.network
    x, y = samples.inputs(network, np.float32).astype(np.float64), samples.targets(dynamics, np.float64)
    phases = Phases(1500, 100, beta=1e-4, estimate="centered", schedule=Alternating(tol=1e-12))
    estimate = ep(dynamics, theta, x, y, phases)
    assert estimate.free.converged
    output = estimate.free.state[-1]
    assert not (((output <= 0) | (output >= 1)) & (output != y)).any()
    exact = bptt(dynamics, theta, x, y, phases).gradient
    for name, g in exact.items():
        error = np.linalg.norm(estimate.gradient[name] - g) / np.linalg.norm(g)
        assert error < 1e-6, name  # measured 2e-8: of order β², and the truncation of both phases
