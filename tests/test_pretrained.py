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
AUGMENTED = DATA.parent / "eqprop_np" / "data" / "conv.npz"
BEST = DATA / "pretrained" / "conv-best.npz"
RECORDS = {
    path: json.loads((DATA / "results" / f"{name}.json").read_text("utf-8"))
    for path, name in ((AUGMENTED, "conv-augment"), (BEST, "conv-best-seed0"))
}
both = pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)


@both
def test_they_are_of_the_recorded_run_and_small(path: Path) -> None:
    configuration, progress = checkpoint.load(path)
    assert configuration == Configuration.from_json(RECORDS[path]["configuration"])
    older = {"free_steps": "steps"}  # the name in older records
    history = [
        {older.get(name, name): value for name, value in epoch.items()} for epoch in RECORDS[path]["history"]
    ]
    assert records(progress) == history
    assert path.stat().st_size < 1_000_000


def test_a_file_of_schema_1_remains_readable() -> None:
    with np.load(AUGMENTED) as file:
        assert json.loads(str(file["meta"]))["schema"] == 1


@pytest.mark.skipif("EQPROP_NP_DATA" not in os.environ, reason="EQPROP_NP_DATA names no MNIST")
@pytest.mark.parametrize("path, preset, error", [(AUGMENTED, "conv", 2.0), (BEST, "conv-best", 1.33)])
def test_they_make_the_errors_of_the_recorded_network(
    path: Path, preset: str, error: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Evaluate 300 images of the test set, among which are several of the errors.

    On the whole test set the command prints the recorded error, but this takes half a minute.
    """
    whole, part = load("mnist"), slice(2000, 2300)
    some = replace(whole, test_images=whole.test_images[part], test_labels=whole.test_labels[part])
    monkeypatch.setattr(mnist, "load", lambda *_, **__: some)
    assert mnist.main(["--preset", preset, "--evaluate", str(path), "--data", "mnist"]) == 0
    recorded = f"(recorded after epoch {RECORDS[path]['epochs']}: {RECORDS[path]['test_error']:.2f} %)"
    assert capsys.readouterr().out == f"{preset} on mnist: test error {error:.2f} % {recorded}\n"


def test_on_them_ep_has_the_gradient_of_bptt() -> None:
    """Compare Eq. (2) with a small β and Eq. (6) for each connection of a trained CNN.

    Theorem 1 does not hold for an output that is wrong and saturated, because the slope of a hard sigmoid is
    0 there. The test checks that there is none.
    """
    configuration, progress = checkpoint.load(AUGMENTED)
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
