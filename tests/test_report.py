"""Tests of the report on a run: its lines, its summary and its plot show the numbers of a given history."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from eqprop_np.experiments import report
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.experiments.report import Report, blas, describe, records, summarize
from eqprop_np.optimizers import Exponential, Steps, Warmup
from eqprop_np.relaxation import Synchronous
from eqprop_np.rules.vector_field import weight_angle
from eqprop_np.samples import Samples
from eqprop_np.training import Progress

Patch = pytest.MonkeyPatch

HISTORY = {  # in no epoch are two numbers equal, and the last test error is not the smallest
    "train_error": [9.25, 5.5, 3.75],
    "validation_error": [8.5, 4.25, 6.5],
    "seconds": [11.0, 22.0, 33.5],
    "steps": [14.0, 12.5, 10.25],
    "converged": [0.5, 0.75, 0.875],
    "weight_angle": [39.0, 38.0, 37.0],
}


def configuration(experiment: Experiment | None = None, validation: int = 0) -> Configuration:
    experiment = experiment or EXPERIMENTS["cvf-1h"].override(hidden=(6,), psi=60.0, epochs=3)
    return Configuration(experiment, "bands", "bands", (), (4, 5), 3, 50, validation, seed=2)


def finished() -> Progress:
    """Return the progress after three epochs, whose weights are no longer those of the start."""
    chosen = configuration()
    dynamics = chosen.experiment.build(chosen.image, chosen.classes)
    progress = Progress.begin(dynamics, chosen.experiment.optimizer(dynamics), chosen.seed, psi=90.0)
    progress.commit(epoch=3, history=HISTORY)
    return progress


@pytest.fixture
def drawn(monkeypatch: Patch) -> list[Figure]:
    """Keep the figures that the report draws, and do not write them."""
    figures: list[Figure] = []

    class Kept(Figure):
        def savefig(self, file: Any, **settings: Any) -> None:
            figures.append(self)

    monkeypatch.setattr("matplotlib.figure.Figure", Kept)
    return figures


@pytest.mark.parametrize("validation", [0, 20])
def test_the_curves_are_the_errors_of_the_epochs(
    validation: int, drawn: list[Figure], tmp_path: Path
) -> None:
    Report(tmp_path, configuration(validation=validation), quiet=True).end(finished())
    ((axes,),) = (figure.axes for figure in drawn)
    training, test = axes.get_lines()
    np.testing.assert_array_equal(training.get_xydata(), [(1, 9.25), (2, 5.5), (3, 3.75)])
    np.testing.assert_array_equal(test.get_xydata(), [(1, 8.5), (2, 4.25), (3, 6.5)])
    assert (training.get_linestyle(), test.get_linestyle()) == ("--", "-")
    labels = ["training", "validation" if validation else "test"]
    assert [line.get_label() for line in (training, test)] == labels
    assert [text.get_text() for text in axes.get_legend().get_texts()] == labels
    assert (axes.get_xlabel(), axes.get_ylabel(), axes.get_yscale()) == ("epoch", "error (%)", "log")
    assert axes.get_title() == "cvf-1h on bands"


def test_the_summary_has_the_numbers_of_the_last_epoch() -> None:
    chosen = configuration()
    summary = summarize(chosen, finished(), ["first", "second"])
    network = chosen.experiment.build(chosen.image, chosen.classes).network
    start = network.init(np.random.default_rng(2), psi=60.0)
    expected = {
        "preset": "cvf-1h",
        "rule": "cvf",
        "dataset": "bands",
        "train_size": 50,
        "epochs": 3,
        "seed": 2,
        "test_error": 6.5,
        "tested_on": "test set",
        "train_error": 3.75,
        "weight_angle": weight_angle(network, start),
        "seconds": 33.5,
        "git_commit": "first",
        "git_commits": ["first", "second"],
        "configuration": chosen.to_json(),
        "history": records(finished()),
    }
    assert {name: value for name, value in summary.items() if name != "versions"} == expected
    assert summary["weight_angle"] != weight_angle(network, finished().theta)
    assert summarize(configuration(validation=9), finished())["tested_on"] == "held-out training images"
    tied = configuration(EXPERIMENTS["p-1h"].override(hidden=(6,)))
    assert summarize(tied, finished())["weight_angle"] is None


def test_a_record_has_every_number_of_its_epoch() -> None:
    second = {
        "epoch": 2,
        "train_error": 5.5,
        "test_error": 4.25,
        "seconds": 22.0,
        "steps": 12.5,
        "converged": 0.75,
        "weight_angle": 38.0,
    }
    assert records(finished())[1] == second


def test_the_lines_of_an_epoch_and_of_the_end(
    drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = Report(tmp_path, configuration(validation=9), quiet=False)
    told.epoch(finished())
    told.end(finished())
    assert capsys.readouterr().out.splitlines() == [
        "epoch 3/3: train error 3.75 %, validation error 6.50 %, 10.2 steps, 34 s",
        "in the last epoch 12.5 % of the free phases did not converge within T = 40 steps to tol 0.001: "
        "try a larger --free-steps or --tol",
        "cvf-1h on bands: validation error 6.50 % after 3 epochs",
    ]
    assert json.loads((tmp_path / "metrics.jsonl").read_text("utf-8")) == records(finished())[-1]
    assert json.loads((tmp_path / "summary.json").read_text("utf-8"))["test_error"] == 6.5


def test_the_errors_of_the_averaged_weights_stand_beside_the_others(
    drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    progress = finished()
    progress.commit(history=HISTORY | {"average_validation_error": [7.75, 5.25, 2.5]})
    told = Report(tmp_path, configuration(), quiet=False)
    told.epoch(progress)
    told.end(progress)
    first, *_, last = capsys.readouterr().out.splitlines()
    assert "test error 6.50 % (averaged weights 2.50 %), 10.2 steps" in first
    assert last == "cvf-1h on bands: test error 6.50 % (averaged weights 2.50 %) after 3 epochs"
    for text in ((tmp_path / name).read_text("utf-8") for name in ("metrics.jsonl", "summary.json")):
        record = json.loads(text)
        assert (record["test_error"], record["average_test_error"]) == (6.5, 2.5)
    line = drawn[0].axes[0].get_lines()[2]
    assert line.get_label() == "test, averaged weights"
    np.testing.assert_array_equal(line.get_ydata(), [7.75, 5.25, 2.5])


def test_the_first_lines_have_every_setting() -> None:
    """No two numbers are equal."""
    untied = EXPERIMENTS["cvf-1h"].override(
        hidden=(6, 7),
        learning_rates=(0.3, 0.2, 0.1),
        psi=60.0,
        free_steps=41,
        nudged_steps=13,
        beta=0.25,
        schedule=Synchronous(0.002),
        rate_schedule=Steps(8, 0.75),
        epochs=17,
        batch_size=22,
    )
    assert describe(configuration(untied, validation=9)) == [
        "cvf-1h: rule cvf, ψ 60°, discrete-time, sigmoid, hidden layers 6-7",
        "data: bands, 50 training images, 9 held out of 4×5 pixels, 3 classes, seed 2",
        "phases: T 41, K 13, β 0.25 random-sign, synchronous, tol 0.002",
        "training: 17 epochs, batches of 22, sgd, rates 0.3 0.2 0.1 times 0.75 every 8 epochs, workers 1",
    ]
    conv = EXPERIMENTS["conv"].override(
        channels=(11,),
        hidden=(12,),
        kernel=2,
        stride=3,
        padding=4,
        pool=5,
        learning_rates=(0.3, 0.2, 0.1),
        dynamics="real-time",
        epsilon=0.35,
        momentum=0.6,
        weight_decay=0.07,
        augment=8,
        distort=0.5,
        average=0.99,
        rate_schedule=Warmup(2, Exponential(0.9)),
    )
    assert describe(configuration(conv)) == [
        "conv: rule ep, real-time, ε 0.35, hard_sigmoid, hidden layers 11 channels-12, kernel 2, pool 5, "
        "stride 3, padding 4",
        "data: bands, 50 training images of 4×5 pixels, 3 classes, seed 2",
        "phases: T 28, K 12, β 0.4 centered, alternating, ω 1.2, tol 0.03 and 0.02 (nudged) for each sample",
        "training: 12 epochs, batches of 20, sgd, momentum 0.6, weight decay 0.07, augment 8, "
        "distort 0.5, average 0.99, "
        "rates 0.3 0.2 0.1 rising for 2 epochs, then times 0.9 per epoch, workers 2",
    ]


# --- the axis of the errors, and pictures that cannot be drawn


def curves(drawn: list[Figure], tmp_path: Path, errors: list[float]) -> Any:
    """Return the Axes of the curves of these test errors, drawn once so that the labels are complete."""
    progress = finished()
    progress.commit(epoch=len(errors), history=dict.fromkeys(HISTORY, errors) | {"converged": [1.0]})
    Report(tmp_path, configuration(), quiet=True).end(progress)
    drawn[-1].draw_without_rendering()
    return drawn[-1].axes[0]


@pytest.mark.parametrize(
    "errors, scale, labels",
    [
        ([30.0, 20.0], "log", ["20", "50"]),
        ([12.0, 3.0], "log", ["2", "5", "10", "20"]),
        ([9.0, 0.25], "log", ["0.2", "0.5", "1", "2", "5", "10"]),
        ([50.0, 0.0, 20.0], "symlog", ["0", "20", "50"]),
        ([0.0, 0.0], "symlog", ["0", "1"]),
        ([2.0, 2.0], "log", ["2"]),
    ],
    ids=str,
)
def test_the_errors_have_plain_numbers_and_none_is_left_out(
    errors: list[float], scale: str, labels: list[str], drawn: list[Figure], tmp_path: Path
) -> None:
    axes = curves(drawn, tmp_path, errors)
    assert axes.get_yscale() == scale
    assert [label.get_text() for label in axes.get_yticklabels()] == labels
    bottom, top = axes.get_ylim()
    assert all(bottom < error < top for error in errors)
    assert [label.get_text() for label in axes.get_yticklabels(minor=True)] == []


def test_a_name_is_no_formula_and_latex_is_not_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = replace(configuration(), dataset="$^$")
    with matplotlib.rc_context({"text.usetex": True}):
        Report(tmp_path, chosen, quiet=False).end(finished())
    out, err = capsys.readouterr()
    assert err == ""
    assert out.splitlines()[-1].startswith("cvf-1h on $^$: test error")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_picture_that_fails_costs_no_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Patch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("no font")

    monkeypatch.setattr(Figure, "savefig", fail)
    Report(tmp_path, configuration(), quiet=False).end(finished())
    out, err = capsys.readouterr()
    assert err == "curves.png could not be drawn (no font)\n"
    assert out.splitlines()[-1] == "cvf-1h on bands: test error 6.50 % after 3 epochs"
    assert (tmp_path / "summary.json").exists()


# --- saturation


@pytest.mark.parametrize("preset", ["p-1h", "eb-1h"])
def test_a_saturated_run_says_so(
    preset: str, drawn: list[Figure], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large weights saturate the hidden layer. The line is printed only if the error is large too."""
    chosen = configuration(EXPERIMENTS[preset].override(hidden=(6,), epochs=3))
    dynamics = chosen.experiment.build(chosen.image, chosen.classes)
    rng = np.random.default_rng(0)
    test = Samples(rng.integers(100, 255, (7, 4, 5)).astype(np.uint8), np.zeros(7, np.uint8))
    lines = []
    for scale, error in ((100, 60.0), (100, 20.0), (0.1, 60.0)):
        progress = Progress.begin(dynamics, chosen.experiment.optimizer(dynamics))
        theta = {name: np.float32(scale) * value for name, value in progress.theta.items()}
        history = HISTORY | {"converged": [1.0] * 3, "validation_error": [error] * 3}
        progress.commit(theta=theta, epoch=3, history=history)
        Report(tmp_path, chosen, quiet=False).end(progress, test)
        lines.append(capsys.readouterr().out.splitlines()[:-1])
    assert len(lines[0]) == 1
    assert re.fullmatch(
        r"\d+ % of the neurons of layer 1 are saturated, so that they hardly learn: try smaller "
        "--learning-rates",
        lines[0][0],
    )
    assert lines[1:] == [[], []]


def test_the_blas_is_numpys_with_its_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """SciPy may have a library of its own, which is loaded later, and OpenMP is none."""
    threads = {"user_api": "openmp", "internal_api": "openmp", "version": None}
    first, second = (
        {"user_api": "blas", "internal_api": "openblas", "version": version, "architecture": "Zen"}
        for version in ("0.3.31", "0.3.27")
    )
    for libraries, expected in (
        ([threads, first, second], "openblas 0.3.31 Zen"),
        ([{"user_api": "blas", "internal_api": "mkl", "version": None}], "mkl"),
        ([threads], "unknown"),
    ):
        monkeypatch.setattr(report, "threadpool_info", lambda libraries=libraries: libraries)
        assert blas() == expected
