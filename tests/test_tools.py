"""Tests of the scripts in ``tools/``."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import pytest

import eqprop_np as eq
from eqprop_np import sweep
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.angles import update_angles
from eqprop_np.experiments.datasets import load

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("cvf_failure", ROOT / "tools" / "cvf_failure.py")
cvf_failure = importlib.util.module_from_spec(spec)
spec.loader.exec_module(cvf_failure)


def test_the_rank_correlation_has_an_interval(rng: np.random.Generator) -> None:
    x = np.arange(12.0)
    assert cvf_failure.rank_correlation(x, np.exp(x), 100) == pytest.approx((1, 1, 1))
    assert cvf_failure.rank_correlation(x, -(x**3), 100) == pytest.approx((-1, -1, -1))
    r, low, high = cvf_failure.rank_correlation(x, x + rng.normal(0, 5, 12), 200)
    assert -1 <= low < r < high <= 1


def test_the_ranks_of_the_recorded_sweep(capsys: pytest.CaptureFixture[str]) -> None:
    directory = ROOT / "data" / "results" / "paper"
    runs = cvf_failure.read_runs(directory, False)
    run = next(run for run in runs if (run["preset"], run["psi"]) == ("cvf-1h", 180))
    assert round(run["test_error"], 2) == 2.48
    assert 110 < run["before training"] < 116
    assert 95 < run["of the weights after the first epoch"] < 180
    assert (directory / "cvf-2h-135deg-seed0.json").exists()  # it has fewer epochs than that of ψ = 0
    assert sorted(run["psi"] for run in runs if run["preset"] == "cvf-2h") == [0, 90, 180]
    cvf_failure.main(["ranks", "--runs", str(directory), "--no-retraining"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"all runs, {len(runs)} runs, angle before training: ")
    assert {re.sub(r"\d+ runs", "N runs", line.split(":")[0]) for line in lines} >= {
        "all runs, N runs, angle before training",
        "across rules (ψ = 0), N runs, angle before training",
        "within C-VF-1h, N runs, angle before training",
        "within C-VF-1h, N runs, angle of the weights after the first epoch",
    }


def test_the_first_epoch_is_trained_again(tmp_path: Path) -> None:
    (point,) = sweep.grid(["cvf-1h"], [90], [3], "glyphs", 60, hidden=(6,), epochs=1)
    sweep.measure(point, tmp_path)
    _, progress = checkpoint.load(tmp_path / "checkpoint.npz")
    training, _ = point.samples(load("glyphs"))
    dynamics = point.experiment.build(point.image, point.classes)
    angles = update_angles(point.experiment, dynamics, training, 2, progress.theta)["published"]
    assert cvf_failure.angle_after(point.with_epochs(4), batches=2) == pytest.approx(
        np.mean(angles), rel=1e-12
    )


def test_a_variant_changes_what_it_names() -> None:
    data = load("glyphs")
    _, dynamics, _, plain = cvf_failure.begin_variant(data, 180, hidden=(6,))
    assert eq.weight_angle(dynamics.network, plain.theta) == pytest.approx(180, abs=0.1)
    scaled = cvf_failure.begin_variant(data, 180, hidden=(6,), scale=2.0)[-1]
    flipped = cvf_failure.begin_variant(data, 180, hidden=(6,), flip_forward=True)[-1]
    for name, value in plain.theta.items():
        np.testing.assert_array_equal(scaled.theta[name], 2 * value)
        other = {"w1-2": "w2-1", "w2-1": "w1-2"}.get(name, name)
        np.testing.assert_array_equal(flipped.theta[name], plain.theta[other])
    _, _, optimizer, _ = cvf_failure.begin_variant(data, 180, hidden=(6,), hold=True)
    assert [name for name, rate in optimizer.learning_rates.items() if not rate] == ["b1"]
    for name, changed in cvf_failure.VARIANTS.items():
        layers = (5, 4) if changed.get("preset") == "cvf-2h" else (6,)
        experiment = cvf_failure.begin_variant(data, 180, hidden=layers, **changed)[0]
        assert experiment.rule == "cvf", name


def test_a_variant_is_tested_at_several_moments() -> None:
    data = load("glyphs")
    found = cvf_failure.train_variant(data, 16, 180, hidden=(6,))
    errors, shares = found["test_errors"], found["shares"]
    assert len(errors) == len(shares) == 8
    assert all(10 <= share <= 100 for share in shares)
    for error, share in zip(errors, shares, strict=True):
        assert error >= share - 15  # about a tenth of the images have each label
    assert found["angles"][0] == pytest.approx(180, abs=0.1)


def test_the_variants_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    names = ["as the preset", "T = 20"]
    cvf_failure.main(["variants", "--batches", "2", "--data", "glyphs", "--only", *names])
    lines = capsys.readouterr().out.splitlines()
    for name, line in zip(names, lines, strict=True):
        assert line.startswith(f"{name}: test errors ")
        assert "angle of the weights 180° → 1" in line
