"""Tests of the main command: its output, its files, its exit codes, and resuming a run.

Most tests call `main` in this process with sixty images of 8 × 8 pixels. The tests of signals and of the
terminal start a process of their own.
"""

import json
import multiprocessing
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from examples import write_bands

import eqprop_np
from eqprop_np import mnist
from eqprop_np.experiments import checkpoint, datasets, report
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.mnist import main
from eqprop_np.optimizers import SGD, Cosine, Exponential, RateSchedule, Steps, Warmup
from eqprop_np.relaxation import Alternating, Synchronous

Patch = pytest.MonkeyPatch
TRAIN = 60
PLOT = report.Report._plot  # the other tests do not draw
NUMBERS = ("epoch", "train_error", "test_error", "seconds", "steps", "converged")


class Outcome(NamedTuple):
    code: int
    out: str
    err: str


Command = Callable[..., Outcome]


@pytest.fixture
def command(capfd: pytest.CaptureFixture[str], no_curves: None) -> Command:
    """Return a function that runs the command in this process and returns its exit code and output."""

    def run(*arguments: object) -> Outcome:
        capfd.readouterr()
        try:
            code = main([str(argument) for argument in arguments])
        except SystemExit as exit:
            code = exit.code
        return Outcome(code, *capfd.readouterr())

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_bands(tmp_path / "bands")


@pytest.fixture
def options(data: Path) -> list[object]:
    """Options of a small network that learns the bands in three epochs of three batches."""
    return ["--data", data, "--hidden", 8, "--learning-rates", 0.3, 0.2, "--epochs", 3]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def asked(directory: Path) -> Experiment:
    """Return the experiment that config.json describes."""
    config = read(directory / "config.json")
    del config["git_commits"]
    return Configuration.from_json(config).experiment


def metrics(directory: Path) -> list[dict[str, float]]:
    """Return the records of metrics.jsonl with the measured seconds set to 0."""
    lines = (directory / "metrics.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) | {"seconds": 0} for line in lines]


def assert_same_run(one: Path, two: Path) -> None:
    """Check that two runs have the same parameters, random state and records, bit for bit."""
    a, b = (checkpoint.load(directory / "checkpoint.npz")[1] for directory in (one, two))
    for one_dict, other in ((a.theta, b.theta), (a.optimizer_state, b.optimizer_state)):
        assert one_dict.keys() == other.keys()
        for name in one_dict:
            np.testing.assert_array_equal(one_dict[name], other[name], err_msg=name)
    assert a.rng.bit_generator.state == b.rng.bit_generator.state
    assert (a.epoch, a.batch) == (b.epoch, b.batch)
    assert metrics(one) == metrics(two)


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


# --- the files of a run


def test_a_run_leaves_its_five_files(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    monkeypatch.setattr(report.Report, "_plot", PLOT)
    out = tmp_path / "run"
    assert command(*options, "--out", out, "--seed", 4).code == 0
    assert sorted(contents(out)) == [
        "checkpoint.npz",
        "config.json",
        "curves.png",
        "metrics.jsonl",
        "summary.json",
    ]
    config, summary, lines = read(out / "config.json"), read(out / "summary.json"), metrics(out)
    configuration, progress = checkpoint.load(out / "checkpoint.npz")
    commits = config.pop("git_commits")
    assert config == json.loads(json.dumps(configuration.to_json()))
    assert config["experiment"]["layers"]["hidden"] == [8]
    assert (config["dataset"], config["seed"], config["train_size"]) == ("bands", 4, TRAIN)
    assert [line["epoch"] for line in lines] == [1, 2, 3]
    assert all(tuple(line) == NUMBERS for line in lines)
    assert progress.epoch == 3
    expected = {
        "preset": "p-1h",
        "rule": "ep",
        "dataset": "bands",
        "train_size": TRAIN,
        "epochs": 3,
        "seed": 4,
        "test_error": lines[-1]["test_error"],
        "train_error": lines[-1]["train_error"],
        "configuration": config,
    }
    assert {key: summary[key] for key in expected} == expected
    assert summary["seconds"] >= 0
    assert summary["versions"]["numpy"] == np.__version__
    assert summary["git_commits"] == commits == [summary["git_commit"]]
    assert [line | {"seconds": 0} for line in summary["history"]] == lines
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_it_learns(command: Command, options: list[object], tmp_path: Path) -> None:
    command(*options, "--out", tmp_path / "run", "--epochs", 5)
    assert metrics(tmp_path / "run")[-1]["test_error"] < 10


def test_without_out_a_new_directory_under_runs_is_made(command: Command, options: list[object]) -> None:
    for _ in range(2):
        assert command(*options, "--epochs", 1).code == 0
    made = list(Path("runs").iterdir())
    assert len(made) == 2
    assert all(directory.name.startswith("p-1h-") for directory in made)


def test_the_same_seed_is_the_same_run(command: Command, options: list[object], tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("two", 1), ("other", 2)):
        command(*options, "--seed", seed, "--out", tmp_path / name)
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert metrics(tmp_path / "one") != metrics(tmp_path / "other")


# --- printed lines


def test_it_prints_its_configuration_a_line_per_epoch_and_the_error(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """Four lines describe the run. There is no progress bar on stderr, because it is not a terminal here."""
    out = tmp_path / "run"
    code, printed, err = command(*options, "--out", out)
    assert (code, err) == (0, "")
    lines, history = printed.splitlines(), metrics(out)
    assert lines[:-4] == [
        "p-1h: rule ep, discrete-time, sigmoid, hidden layers 8",
        "data: bands, 60 training images of 8×8 pixels, 3 classes, seed 0",
        "phases: T 30, K 10, β 0.1 one-sided, alternating, ω 1, tol 0.003",
        "training: 3 epochs, batches of 20, sgd, rates 0.3 0.2 constant, workers 1",
        f"run directory: {out}",
    ]
    for n, (line, record) in enumerate(zip(lines[-4:-1], history, strict=True), start=1):
        expected = (
            f"epoch {n}/3: train error {record['train_error']:.2f} %, test error {record['test_error']:.2f} %"
        )
        assert line.startswith(f"{expected}, {record['steps']:.1f} steps, ")
    assert lines[-1] == f"p-1h on bands: test error {history[-1]['test_error']:.2f} % after 3 epochs"


@pytest.mark.parametrize(
    "more, words",
    [
        (["--preset", "cvf-1h", "--angle", 30], "rule cvf, ψ 30°, discrete-time, sigmoid, hidden layers 8"),
        (["--preset", "eb-1h"], "real-time, ε 0.2, sigmoid"),
        (["--validation", 20], "bands, 40 training images, 20 held out of 8×8 pixels"),
        (["--schedule", "synchronous"], "β 0.1 one-sided, synchronous, tol 0.003"),
        (["--rate-decay", 0.9], "rates 0.3 0.2 times 0.9 per epoch"),
        (["--rate-schedule", "steps:2:0.1"], "rates 0.3 0.2 times 0.1 every 2 epochs"),
        (["--rate-schedule", "cosine"], "rates 0.3 0.2 falling to 0 as a cosine"),
        (["--momentum", 0.5, "--weight-decay", 0.01], "sgd, momentum 0.5, weight decay 0.01, rates"),
        (["--optimizer", "adam", "--augment", 2, "--distort", 0.5], "adam, augment 2, distort 0.5, rates"),
        (
            ["--channels", 2, "--kernel", 3, "--padding", 1, "--learning-rates", 0.1, 0.1, 0.1],
            "hidden layers 2 channels-8, kernel 3, pool 2, stride 1, padding 1",
        ),
    ],
    ids=str,
)
def test_the_first_lines_tell_the_settings(
    more: list[object], words: str, command: Command, options: list[object], tmp_path: Path
) -> None:
    code, printed, _ = command(*options, *more, "--epochs", 1, "--out", tmp_path / "run")
    assert code == 0
    assert words in "\n".join(printed.splitlines()[:4])


def test_quiet_prints_only_the_last_line(command: Command, options: list[object], tmp_path: Path) -> None:
    loud = command(*options, "--out", tmp_path / "loud")
    quiet = command(*options, "--out", tmp_path / "quiet", "--quiet")
    assert quiet == (0, loud.out.splitlines()[-1] + "\n", "")
    assert_same_run(tmp_path / "loud", tmp_path / "quiet")


NOT_CONVERGED = (
    r"in the last epoch (\S+) % of the free phases did not converge within T = (\d+) steps? to tol "
)


def test_it_says_that_free_phases_did_not_converge(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """The line stands before the last one. A resumed run that has no epoch left prints it again."""
    out = tmp_path / "run"
    lines = command(*options, "--free-steps", 1, "--out", out).out.splitlines()
    assert lines[-2] == (
        "in the last epoch 100 % of the free phases did not converge within T = 1 step to tol 0.003: "
        "try a larger --free-steps or --tol"
    )
    assert lines[-1].startswith("p-1h on bands: test error ")
    assert [line["converged"] for line in metrics(out)] == [0, 0, 0]
    assert [line["converged"] for line in read(out / "summary.json")["history"]] == [0, 0, 0]
    assert command("--resume", out).out.splitlines()[-2:] == lines[-2:]
    quiet = command(*options, "--free-steps", 1, "--quiet", "--out", tmp_path / "quiet")
    assert quiet == (0, lines[-1] + "\n", "")


def test_it_says_nothing_if_all_free_phases_converged(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """It says nothing either if the schedule has no tolerance, because then nothing is counted."""
    printed = command(*options, "--free-steps", 200, "--out", tmp_path / "converged").out
    assert not re.search(NOT_CONVERGED, printed)
    assert [line["converged"] for line in metrics(tmp_path / "converged")] == [1, 1, 1]
    printed = command(*options, "--tol", 0, "--free-steps", 1, "--out", tmp_path / "no tol").out
    assert not re.search(NOT_CONVERGED, printed)
    assert not any("converged" in line for line in metrics(tmp_path / "no tol"))


def test_the_share_that_it_prints_is_that_of_the_last_epoch(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """Some of the eight batches converge and some do not, and the share differs between the epochs."""
    out = tmp_path / "run"
    printed = command(*options, "--batch-size", 8, "--tol", 1e-3, "--free-steps", 12, "--out", out).out
    *others, share = (line["converged"] for line in metrics(out))
    assert 0 < share < 1
    assert share not in others
    said, steps = re.search(NOT_CONVERGED, printed).groups()
    assert float(said) == pytest.approx(100 * (1 - share), rel=5e-3)
    assert steps == "12"


def test_glyphs_are_never_taken_for_mnist(command: Command, monkeypatch: Patch, tmp_path: Path) -> None:
    monkeypatch.setattr(mnist, "load", lambda *_, **__: datasets.glyphs(100, 20))
    out = tmp_path / "run"
    arguments = ["--epochs", 1, "--hidden", 8, "--out", out]
    assert command(*arguments, "--quiet").out.startswith("p-1h on glyphs (not MNIST): test error ")
    assert (
        read(out / "summary.json")["dataset"] == read(out / "config.json")["dataset"] == "glyphs (not MNIST)"
    )
    evaluated = command("--evaluate", out / "checkpoint.npz").out
    assert evaluated.startswith("p-1h on glyphs (not MNIST): ")


# --- settings


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_preset_runs(name: str, command: Command, tmp_path: Path) -> None:
    """A run has the preset's settings except the overridden ones, such as sizes that fit 16 × 16 pixels."""
    data = write_bands(tmp_path / "larger", side=16)
    preset = EXPERIMENTS[name]
    smaller = ["--hidden", *([4] * len(preset.layers.hidden))]
    if preset.layers.channels:
        smaller += ["--channels", *([2] * len(preset.layers.channels)), "--workers", 1]
    out = tmp_path / "run"
    sizes = {
        "hidden": [4] * len(preset.layers.hidden),
        "channels": [2] * len(preset.layers.channels),
        "workers": 1,
        "epochs": 1,
    }
    assert command("--preset", name, *smaller, "--data", data, "--epochs", 1, "--out", out).code == 0
    assert asked(out) == preset.override(**sizes)


def test_without_a_preset_it_is_a_short_p_1h(command: Command, data: Path, tmp_path: Path) -> None:
    command("--data", data, "--out", tmp_path / "run")
    assert asked(tmp_path / "run") == EXPERIMENTS["p-1h"].override(epochs=10)
    assert read(tmp_path / "run" / "config.json")["seed"] == 0


def test_a_named_preset_has_its_own_number_of_epochs(command: Command, data: Path, tmp_path: Path) -> None:
    command("--preset", "p-1h", "--hidden", 8, "--data", data, "--out", tmp_path / "run")
    assert len(metrics(tmp_path / "run")) == EXPERIMENTS["p-1h"].training.epochs


SETTINGS: dict[str, Any] = {
    "rule": "ep",
    "estimate": "centered",
    "batch_size": 30,
    "epochs": 2,
    "channels": [2, 3],
    "hidden": [5],
    "kernel": [5, 3],
    "pool": [2, 1],
    "stride": [1, 2],
    "padding": [2, 1],
    "activation": "tanh",
    "learning_rates": [0.1, 0.2, 0.3, 0.4],
    "free_steps": 6,
    "nudged_steps": 4,
    "beta": -0.2,
    "augment": 2,
    "distort": 0.5,
    "average": 0.9,
    "workers": 2,
    "weight_decay": 0.01,
}


def test_real_time_can_follow_the_authors_code(command: Command, data: Path, tmp_path: Path) -> None:
    arguments = ("--preset", "eb-1h", "--hidden", 4, "--epochs", 1, "--data", data, "--authors-code")
    found = command(*arguments, "--out", tmp_path / "run")
    configuration, _ = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    assert configuration.experiment.authors_code
    assert "real-time, ε 0.2 as in the authors' code" in found.out


@pytest.mark.parametrize(
    "words, schedule",
    [
        (["--schedule", "synchronous", "--tol", 0.02], Synchronous(0.02)),
        (["--schedule", "synchronous"], Synchronous(0.003)),
        (["--schedule", "alternating", "--omega", 0.9], Alternating(0.9, 0.003)),
        (["--tol", 0.02], Alternating(1.0, 0.02)),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "more",
    [
        {"optimizer": "adam", "rate_decay": 0.8},
        {"momentum": 0.9, "rate_schedule": "exponential:0.8"},
    ],
    ids=str,
)
def test_every_setting_can_be_overridden(
    words: list[object], schedule: Any, more: dict[str, Any], command: Command, tmp_path: Path
) -> None:
    data = write_bands(tmp_path / "larger", side=16)
    settings = SETTINGS | more
    arguments = list(words)
    for name, value in settings.items():
        arguments += [f"--{name.replace('_', '-')}", *(value if isinstance(value, list) else [value])]
    out = tmp_path / "run"
    assert command(*arguments, "--data", data, "--out", out, "--seed", 3, "--train-size", 40).code == 0
    settings.pop("rate_decay", None)
    settings |= {"rate_schedule": Exponential(0.8), "schedule": schedule}
    assert asked(out) == EXPERIMENTS["p-1h"].override(**settings)
    config = read(out / "config.json")
    assert (config["seed"], config["train_size"]) == (3, 40)


@pytest.mark.parametrize(
    "more, layers",
    [
        ({"kernel": 1}, [(8, 8, 2), (4, 4, 3)]),
        ({"kernel": "3 2"}, [(7, 7, 2), (3, 3, 3)]),
        ({"pool": "3 1", "kernel": 2}, [(5, 5, 2), (4, 4, 3)]),
        ({"stride": 2, "kernel": 2}, [(4, 4, 2), (1, 1, 3)]),
        ({"stride": "2 1", "pool": 1, "kernel": 2}, [(8, 8, 2), (7, 7, 3)]),
        ({"padding": 1, "kernel": 3}, [(8, 8, 2), (4, 4, 3)]),
        ({"padding": "2 1"}, [(8, 8, 2), (3, 3, 3)]),
    ],
    ids=str,
)
def test_convolutions_have_one_value_or_one_for_each_layer(
    more: dict[str, object], layers: list[tuple[int, ...]], command: Command, tmp_path: Path
) -> None:
    data, out = write_bands(tmp_path / "larger", side=16), tmp_path / "run"
    arguments = [word for name, value in more.items() for word in (f"--{name}", *str(value).split())]
    small = ["--preset", "conv", "--channels", 2, 3, "--workers", 1, "--epochs", 1]
    assert command(*small, *arguments, "--data", data, "--out", out).code == 0
    configuration, _ = checkpoint.load(out / "checkpoint.npz")
    network = configuration.experiment.build(configuration.image, configuration.classes).network
    assert network.shapes == ((16, 16, 1), *layers, (3,))
    assert command("--evaluate", out).code == 0


def test_a_stack_with_a_layer_without_pooling_learns(command: Command, data: Path, tmp_path: Path) -> None:
    stack = ["--channels", 4, 4, "--kernel", 3, "--padding", 1, "--pool", 1, 2, "--hidden", 12]
    more = ["--learning-rates", *[0.1] * 4, "--batch-size", 10, "--free-steps", 60, "--epochs", 6]
    out = tmp_path / "run"
    assert command("--preset", "conv", *stack, *more, "--workers", 1, "--data", data, "--out", out).code == 0
    assert metrics(out)[-1]["test_error"] < 10 < metrics(out)[0]["test_error"]
    configuration, _ = checkpoint.load(out / "checkpoint.npz")
    network = configuration.experiment.build(configuration.image, configuration.classes).network
    assert network.shapes == ((8, 8, 1), (8, 8, 4), (4, 4, 4), (12,), (3,))


@pytest.mark.parametrize(
    "words, schedule",
    [
        ("exponential:0.5", Exponential(0.5)),
        ("steps:2:0.1", Steps(2, 0.1)),
        ("cosine", Cosine(3)),
        ("warmup:1:cosine", Warmup(1, Cosine(2))),
        ("warmup:2:exponential:0.5", Warmup(2, Exponential(0.5))),
        ("warmup:4:steps:1:0.5", Warmup(4, Steps(1, 0.5))),
    ],
)
def test_the_rates_follow_their_schedule(
    words: str,
    schedule: RateSchedule,
    command: Command,
    options: list[object],
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    factors, step = [], SGD.step

    def spy(self: SGD, theta: Any, gradient: Any, state: Any, factor: float) -> Any:
        factors.append(factor)
        return step(self, theta, gradient, state, factor)

    monkeypatch.setattr(SGD, "step", spy)
    assert command(*options, "--rate-schedule", words, "--out", tmp_path / "run").code == 0
    assert asked(tmp_path / "run").training.rate_schedule == schedule
    assert factors == [schedule(epoch) for epoch in range(3) for _ in range(3)]


@pytest.mark.parametrize(
    "words, schedule", [("cosine", Cosine(2)), ("warmup:1:cosine", Warmup(1, Cosine(1)))]
)
def test_a_cosine_ends_with_the_epochs_of_the_run(
    words: str, schedule: RateSchedule, command: Command, data: Path, tmp_path: Path
) -> None:
    """More epochs would change nothing, because the rates are 0, so they are refused."""
    out = tmp_path / "run"
    command("--data", data, "--hidden", 8, "--rate-schedule", words, "--epochs", 2, "--out", out)
    assert asked(out).training.rate_schedule == schedule
    refused = command("--resume", out, "--epochs", 3)
    assert_refused(refused, "the cosine schedule of the run sets the learning rates to 0 after 2 epochs")
    assert command("--resume", out, "--epochs", 2).code == 0
    command("--data", data, "--hidden", 8, "--rate-schedule", "cosine", "--out", tmp_path / "default")
    assert asked(tmp_path / "default").training.rate_schedule == Cosine(10)


@pytest.mark.parametrize("rule", ["ep", "vf"])
@pytest.mark.parametrize("optimizer", [["--momentum", 0.5], ["--optimizer", "adam"]], ids=str)
def test_other_optimizers_learn(
    rule: str, optimizer: list[object], command: Command, options: list[object], tmp_path: Path
) -> None:
    rates = ["--learning-rates", 0.01, 0.01] if "adam" in optimizer else ["--learning-rates", 0.2, 0.1]
    more = [*optimizer, *rates, "--rule", rule, "--epochs", 8]
    assert command(*options, *more, "--out", tmp_path / "run").code == 0
    assert metrics(tmp_path / "run")[-1]["test_error"] < 10


def test_augment_alone_shifts_by_a_pixel(command: Command, data: Path, tmp_path: Path) -> None:
    command("--data", data, "--augment", "--epochs", 1, "--out", tmp_path / "run")
    assert asked(tmp_path / "run").training.augment == 1


def test_other_layers_get_rates_between_the_presets(command: Command, data: Path, tmp_path: Path) -> None:
    command("--data", data, "--hidden", 8, 8, "--epochs", 1, "--out", tmp_path / "run")
    assert asked(tmp_path / "run").training.learning_rates == (0.08, 0.057, 0.04)


def test_to_the_letter_takes_t_steps(command: Command, options: list[object], tmp_path: Path) -> None:
    command(*options, "--schedule", "synchronous", "--tol", 0, "--out", tmp_path / "run")
    assert {line["steps"] for line in metrics(tmp_path / "run")} == {EXPERIMENTS["p-1h"].phases.free_steps}


def test_train_size_takes_the_first_images(
    command: Command, options: list[object], monkeypatch: Patch, tmp_path: Path
) -> None:
    command(*options, "--train-size", 31, "--out", tmp_path / "asked")
    whole = mnist.load

    def shorter(*arguments: Any, **named: Any) -> datasets.Dataset:
        d = whole(*arguments, **named)
        return replace(d, train_images=d.train_images[:31], train_labels=d.train_labels[:31])

    monkeypatch.setattr(mnist, "load", shorter)
    command(*options, "--out", tmp_path / "given")
    assert_same_run(tmp_path / "asked", tmp_path / "given")


def test_validation_holds_out_the_last_images_and_tests_on_them(
    command: Command, options: list[object], monkeypatch: Patch, tmp_path: Path
) -> None:
    out = tmp_path / "asked"
    code, printed, _ = command(*options, "--validation", 20, "--out", out)
    assert code == 0
    assert ", validation error " in printed.splitlines()[-2]
    assert printed.splitlines()[-1].startswith("p-1h on bands: validation error ")
    summary = read(out / "summary.json")
    assert (summary["tested_on"], summary["train_size"]) == ("held-out training images", 40)
    whole = mnist.load

    def moved(*arguments: Any, **named: Any) -> datasets.Dataset:
        d = whole(*arguments, **named)
        images, labels = d.train_images, d.train_labels
        return datasets.Dataset(
            d.name, images[:40], labels[:40], images[40:], labels[40:], d.classes, d.digests
        )

    monkeypatch.setattr(mnist, "load", moved)
    command(*options, "--out", tmp_path / "given")
    assert_same_run(out, tmp_path / "given")


def test_list_presets_names_each_with_its_numbers(command: Command) -> None:
    code, printed, err = command("--list-presets")
    assert (code, err) == (0, "")
    for name, experiment in EXPERIMENTS.items():
        (line,) = [number for number, line in enumerate(printed.splitlines()) if line.split()[0] == name]
        entry = " ".join(printed.splitlines()[line : line + 2])
        phases, rates = experiment.phases, experiment.training.learning_rates
        for value in (*rates, phases.free_steps, phases.nudged_steps, phases.beta, experiment.source):
            assert str(value) in entry


def test_help_shows_defaults_and_choices_in_groups(command: Command) -> None:
    code, printed, _ = command("--help")
    assert code == 0
    text = " ".join(printed.split())
    for name in ("what to train", "data", "the run", "settings that override"):
        assert f"{name}" in text
    for words in ("(default: p-1h)", "(default: auto)", "(default: 0)", "(default: a new one under runs/)"):
        assert words in text
    for choices in (",".join(EXPERIMENTS), "one-sided,random-sign,centered", "alternating,synchronous"):
        assert choices in text.replace(", ", ",")


# --- evaluating


def test_evaluate_prints_the_recorded_error(command: Command, options: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    last = command(*options, "--out", out).out.splitlines()[-1]
    before = contents(out)
    for more in ([], ["--preset", "p-1h"], ["--quiet"], ["--data", options[1]]):
        for path in (out / "checkpoint.npz", out):
            code, printed, err = command("--evaluate", path, *more)
            assert (code, err) == (0, "")
            run = last.removesuffix(" after 3 epochs")
            assert printed == f"{run} (recorded after epoch 3: {run.split()[-2]} %)\n"
    assert contents(out) == before


def test_the_averaged_weights_have_a_test_error_of_their_own(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command(*options, "--average", 0.999, "--out", out)
    last = read(out / "summary.json")
    assert last["history"][-1]["average_test_error"] == last["average_test_error"] != last["test_error"]
    for more, which, name in (
        ([], "", "test_error"),
        (["--averaged"], " of the averaged weights", "average_test_error"),
    ):
        error = f"{last[name]:.2f} %"
        printed = command("--evaluate", out, *more).out
        assert printed == f"p-1h on bands: test error{which} {error} (recorded after epoch 3: {error})\n"


def test_the_test_error_is_that_of_the_test_set(
    command: Command, options: list[object], data: Path, tmp_path: Path
) -> None:
    """The labels of the test set are wrong on purpose, so its error is far from those of training images."""
    file = data / "t10k-labels-idx1-ubyte"
    header, labels = file.read_bytes()[:8], file.read_bytes()[8:]
    file.write_bytes(header + bytes((label + 1) % 3 for label in labels))
    out = tmp_path / "run"
    printed = command(*options, "--epochs", 5, "--out", out).out
    last = metrics(out)[-1]
    assert last["train_error"] < 10 < 90 < last["test_error"]
    error = f"test error {last['test_error']:.2f} %"
    assert f"train error {last['train_error']:.2f} %, {error}, " in printed.splitlines()[-2]
    assert command("--evaluate", out).out == (
        f"p-1h on bands: {error} (recorded after epoch 5: {last['test_error']:.2f} %)\n"
    )
    held_out = tmp_path / "held out"
    command(*options, "--epochs", 5, "--validation", 20, "--out", held_out)
    error = metrics(held_out)[-1]["test_error"]
    assert error < 20
    assert command("--evaluate", held_out).out == (
        f"p-1h on bands: validation error {error:.2f} % (recorded after epoch 5: {error:.2f} %)\n"
    )


def test_evaluate_refuses_what_it_cannot_evaluate(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command(*options, "--out", out)
    other = write_bands(tmp_path / "other", test=26)
    path = out / "checkpoint.npz"
    for arguments, words in (
        ([path, "--preset", "p-2h"], "has preset p-1h, not p-2h: leave out --preset"),
        (
            [path, "--data", other],
            "was trained on bands, but the data found (other) have other contents: give",
        ),
        ([tmp_path / "none.npz"], "the checkpoint does not exist"),
        ([out / "config.json"], "damaged or not a checkpoint"),
        ([path, "--hidden", 4], "--evaluate"),
        ([path, "--averaged"], "has no averaged weights: leave out --averaged, or train with --average"),
    ):
        assert_refused(command("--evaluate", *arguments), words)


# --- refusals


def assert_refused(outcome: Outcome, words: str) -> None:
    """Check for exit code 2, one line with the reason on stderr, and nothing on stdout."""
    code, printed, err = outcome
    assert (code, printed) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert words in err


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--preset", "p-9h"], "p-9h"),
        (["--estimate", "both"], "both"),
        (["--rule", "backprop"], "backprop"),
        (["--schedule", "none"], "none"),
        (["--activation", "relu"], "relu"),
        (["--epochs", "many"], "many"),
        (["--unknown"], "--unknown"),
        (["stray"], "stray"),
        (["--epochs", 0], "epochs must be an integer of at least 1, got 0"),
        (["--epochs", -1], "epochs must be an integer of at least 1, got -1"),
        (["--batch-size", 0], "batch_size must be an integer of at least 1, got 0"),
        (["--beta", 0], "beta must be a finite number other than 0, got 0.0"),
        (["--beta", "nan"], "beta must be a finite number other than 0, got nan"),
        (["--tol", -1], "tol must be a finite number from 0, got -1.0"),
        (["--omega", 2], "omega must be between 0 and 2, got 2.0"),
        (
            ["--schedule", "synchronous", "--omega", 1.2],
            "--omega is used only by the alternating schedule: leave out --omega or --schedule",
        ),
        (["--omega", 1, "--preset", "p-2h", "--schedule", "synchronous"], "leave out --omega or --schedule"),
        (["--hidden", 8, 8, "--learning-rates", 0.1, 0.1], "2 learning rates for 3 connections"),
        (["--learning-rates", 0.1, -0.1], "learning_rates must be positive and finite, got (0.1, -0.1)"),
        (["--free-steps", 0], "free_steps must be a positive integer, got 0"),
        (["--workers", 0], "workers must be an integer of at least 1, got 0"),
        (["--average", 1], "average must be a finite number from 0 to below 1, got 1.0"),
        (["--averaged"], "--averaged says which weights --evaluate tests: leave it out, or give --evaluate"),
        (["--distort", -1], "distort must be a number from 0 to 10, got -1.0"),
        (["--augment", -1], "augment must be an integer of at least 0, got -1"),
        (
            ["--preset", "conv"],
            "layer 1: a 5×5 convolution turns 9 pixels into 5, which pooling by 2 does not",
        ),
        *(
            (["--rate-schedule", words], f"exponential:FACTOR, steps:EVERY:FACTOR or cosine, perhaps {more}")
            for more in ["after warmup:N:, with EVERY and N integers from 1, FACTOR positive, and N below"]
            for words in (
                *("", "linear", "exponential", "exponential:", "exponential:x", "exponential:0"),
                *("exponential:0.5:1", "exponential:nan", "steps", "steps:2", "steps:2.5:0.1", "steps:0:0.1"),
                *("steps:2:-1", "steps:2:0.1:3", "cosine:3", "Cosine"),
                *("warmup", "warmup:2", "warmup:0:cosine", "warmup:-1:cosine", "warmup:x:cosine"),
                *("warmup:10:cosine", "warmup:1:warmup:1:cosine", "warmup:1:exponential"),
            )
        ),
        (["--rate-schedule", "cosine", "--rate-decay", 0.9], "not allowed with argument"),
        (["--rate-decay", 0], "decay must be a positive finite number, got 0.0"),
        (["--optimizer", "lbfgs"], "lbfgs"),
        (["--momentum", 1], "momentum must be a finite number from 0 to below 1, got 1.0"),
        (["--momentum", "nan"], "momentum must be a finite number from 0 to below 1, got nan"),
        (["--weight-decay", -1], "weight_decay must be a finite number from 0, got"),
        (["--optimizer", "adam", "--momentum", 0.9], "momentum belongs to the optimizer sgd, not to adam"),
        *(
            (["--preset", preset, *option], f"rule {preset[:3]} moves the weights during the second phase")
            for preset in ("cep-1h", "cvf-1h")
            for option in (["--momentum", 0.9], ["--weight-decay", 0.1], ["--optimizer", "adam"])
        ),
        (["--preset", "cep-1h", "--workers", 2], "2 workers cannot share a batch: choose 1"),
        *(
            ([f"--{name}", 2], f"--{name} is for convolutional layers, but the network has none")
            for name in ("kernel", "pool", "stride", "padding")
        ),
        *(
            (
                ["--preset", "conv", f"--{name}", 2, 2, 2],
                f"{name} must have one value, or one for each of the 2",
            )
            for name in ("kernel", "pool", "stride", "padding")
        ),
        (["--preset", "conv", "--kernel", 0], "kernel must be an integer of at least 1, got 0"),
        (["--preset", "conv", "--padding", -1], "padding must be an integer of at least 0, got -1"),
        (["--preset", "conv", "--kernel"], "--kernel: expected at least one argument"),
        (["--preset", "conv", "--kernel", 30], "layer 1: a 30×30 convolution does not fit"),
        (["--train-size", 0], "--train-size must be from 1 to 60 (the available images), got 0"),
        (["--train-size", 61], "--train-size must be from 1 to 60 (the available images), got 61"),
        (["--train-size", 41, "--validation", 20], "must be from 1 to 40 (the available images), got 41"),
        (["--validation", 60], "--validation must be from 0 to 59, got 60: there are 60 training images"),
        (["--validation", -1], "--validation must be from 0 to 59, got -1"),
        (["--seed", -1], "seed must be an integer of at least 0, got -1"),
        (["--data", "nowhere"], "nowhere is not a directory"),
        (["--resume", "nowhere"], "the checkpoint does not exist"),
        (["--resume", "a", "--evaluate", "b"], "--evaluate"),
        (["--out", "file"], "cannot create the run directory"),
        (["--out", "file/below"], "cannot create the run directory"),
    ],
    ids=str,
)
def test_wrong_arguments_are_refused_and_leave_nothing(
    arguments: list[object], words: str, command: Command, tmp_path: Path
) -> None:
    data = write_bands(tmp_path / "data", side=9)
    Path("file").touch()
    before = sorted(tmp_path.iterdir())
    assert_refused(command("--data", data, *arguments), words)
    assert sorted(tmp_path.iterdir()) == before


def test_a_finished_run_is_not_overwritten(command: Command, options: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    command(*options, "--out", out)
    before = contents(out)
    assert_refused(command(*options, "--out", out), f"{out} holds a finished run: choose another --out")
    assert contents(out) == before


def test_an_unfinished_run_is_not_overwritten(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    out = tmp_path / "run"
    interrupt_after(4, monkeypatch)
    assert command(*options, "--out", out).code == 130
    monkeypatch.undo()
    before = contents(out)
    assert_refused(command(*options, "--out", out), f"{out} holds an unfinished run: use --resume")
    assert contents(out) == before


@pytest.mark.parametrize(
    "name, content",
    [
        ("config.json", "{}"),
        ("config.json", '{"git_commits": []}'),
        ("config.json", "user: me"),
        ("metrics.jsonl", "{}\n"),
        ("summary.json", "{}"),
        ("curves.png", ""),
    ],
)
def test_files_of_the_user_are_not_overwritten(
    name: str, content: str, command: Command, options: list[object], tmp_path: Path
) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / name).write_text(content, "utf-8")
    (out / "notes.txt").touch()
    before = contents(out)
    words = f"{out} holds {name}, which the run would overwrite: choose another --out, or move the files"
    assert_refused(command(*options, "--out", out), words)
    assert contents(out) == before
    (out / name).unlink()
    assert command(*options, "--epochs", 1, "--out", out).code == 0


@pytest.mark.parametrize("option", ["--out", "--resume", "--evaluate"])
def test_an_empty_name_is_not_the_current_directory(
    option: str, command: Command, options: list[object]
) -> None:
    before = sorted(Path().iterdir())
    words = f"argument {option}: must name a directory, got an empty string"
    assert_refused(command(*(options if option == "--out" else ()), option, ""), words)
    assert sorted(Path().iterdir()) == before


def test_two_runs_do_not_share_a_directory(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A second run in a directory in use is refused, and the result of the first does not change."""
    out, step, outcomes, batches = tmp_path / "run", SGD.step, [], []
    command(*options, "--out", tmp_path / "through")

    def second(*arguments: Any) -> Any:
        if batches.append(1) or len(batches) in (4, 7):  # in the second epoch, and in the resumed third one
            for others in ([*options, "--out", out], ["--resume", out]):
                outcomes.append(command(*others))
        return step(*arguments)

    monkeypatch.setattr(SGD, "step", second)
    assert command(*options, "--epochs", 2, "--out", out).code == 0
    assert command("--resume", out, "--epochs", 3).code == 0
    assert len(outcomes) == 4
    for outcome in outcomes:
        assert_refused(outcome, f"{out} is in use by another run: wait until it ends, or choose another one")
    assert_same_run(out, tmp_path / "through")


# --- resuming


def interrupt_after(batches: int, monkeypatch: Patch, signals: int = 1) -> None:
    """Raise SIGINT within a batch, before its gradient is applied to the parameters."""
    seen = 0

    def step(*arguments: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == batches:
            for _ in range(signals):
                signal.raise_signal(signal.SIGINT)
        return descend(*arguments)

    descend = SGD.step
    monkeypatch.setattr(SGD, "step", step)


@pytest.mark.parametrize("batches", [1, 2, 3, 5, 8])
@pytest.mark.parametrize(
    "more",
    [
        [],
        ["--estimate", "random-sign", "--augment", 1, "--distort", 1],
        ["--momentum", 0.9, "--rate-schedule", "warmup:1:cosine", "--average", 0.9],
    ],
    ids=["plain", "random", "momentum"],
)
def test_interrupted_and_resumed_equals_uninterrupted(
    batches: int,
    more: list[object],
    command: Command,
    options: list[object],
    tmp_path: Path,
    monkeypatch: Patch,
) -> None:
    through, parts = tmp_path / "through", tmp_path / "parts"
    command(*options, *more, "--out", through)
    with monkeypatch.context() as patch:
        interrupt_after(batches, patch)
        code, printed, err = command(*options, *more, "--out", parts)
    assert code == 130
    assert err == f"interrupted; to continue: python -m eqprop_np.mnist --resume {parts}\n"
    assert "after" not in printed.splitlines()[-1]
    _, progress = checkpoint.load(parts / "checkpoint.npz")
    assert 3 * progress.epoch + progress.batch == batches, "the batch under way was finished"
    assert not (parts / "summary.json").exists()
    assert command("--resume", parts).code == 0
    assert_same_run(through, parts)
    one, two = (read(run / "summary.json") for run in (through, parts))
    timeless = {"seconds": 0, "history": 0}
    assert one | timeless == two | timeless


def test_interrupted_again_and_again(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    through, parts = tmp_path / "through", tmp_path / "parts"
    command(*options, "--out", through)
    arguments: list[object] = [*options, "--out", parts]
    for _ in range(4):
        with monkeypatch.context() as patch:
            interrupt_after(2, patch)
            assert command(*arguments).code == 130
        arguments = ["--resume", parts]
    assert command(*arguments).code == 0
    assert_same_run(through, parts)


@pytest.mark.usefixtures("ctrl_c")
def test_a_second_ctrl_c_ends_it_at_once(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """The last checkpoint, which is that of the first epoch, stays."""
    out = tmp_path / "run"
    interrupt_after(5, monkeypatch, signals=2)
    code, _, err = command(*options, "--out", out)
    assert (code, err) == (130, "interrupted\n")
    _, progress = checkpoint.load(out / "checkpoint.npz")
    assert (progress.epoch, progress.batch) == (1, 0)


@pytest.mark.usefixtures("ctrl_c")
def test_ctrl_c_is_given_back(command: Command, options: list[object], tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT)
    command(*options, "--out", tmp_path / "run")
    assert signal.getsignal(signal.SIGINT) is before


def test_epochs_are_the_total_on_resume(command: Command, options: list[object], tmp_path: Path) -> None:
    """A larger total gives the same run as starting with it. The same total changes nothing."""
    through, parts = tmp_path / "through", tmp_path / "parts"
    command(*options, "--epochs", 5, "--out", through)
    command(*options, "--epochs", 2, "--out", parts)
    printed = command("--resume", parts, "--epochs", 5).out.splitlines()
    assert [line.split(":")[0] for line in printed[-4:-1]] == ["epoch 3/5", "epoch 4/5", "epoch 5/5"]
    assert_same_run(through, parts)
    assert read(parts / "config.json") == read(through / "config.json")
    assert read(parts / "summary.json")["epochs"] == 5
    last = command("--resume", parts, "--quiet").out
    assert last.splitlines()[-1] == printed[-1]
    assert_same_run(through, parts)
    assert_refused(command("--resume", parts, "--epochs", 4), "--epochs 4 was given, but epoch 5 has ended")


@pytest.mark.usefixtures("ctrl_c")
def test_a_new_total_of_epochs_counts_at_once(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """All files get the new total, even if no epoch is left or none ends. It must cover each begun epoch."""
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        interrupt_after(7, patch, signals=2)  # two SIGINTs end it at once, after two epochs of three batches
        assert command(*options, "--out", out).code == 130
    assert command("--resume", out, "--epochs", 2).code == 0
    configuration, progress = checkpoint.load(out / "checkpoint.npz")
    summary = read(out / "summary.json")
    epochs = configuration.experiment.training.epochs, progress.epoch, summary["epochs"]
    assert epochs == (2, 2, 2)
    stored = json.loads(json.dumps(configuration.to_json()))
    assert summary["configuration"] == stored
    assert read(out / "config.json") == stored | {"git_commits": summary["git_commits"]}
    for signals in (2, 1):  # 2: ends at once without saving; 1: after the batch, saving
        with monkeypatch.context() as patch:
            interrupt_after(1, patch, signals)
            assert command("--resume", out, *(["--epochs", 4] if signals == 2 else [])).code == 130
        configuration, _ = checkpoint.load(out / "checkpoint.npz")
        assert configuration.experiment.training.epochs == 4
    refused = command("--resume", out, "--epochs", 2)
    assert_refused(
        refused,
        "--epochs 2 was given, but epoch 3 has begun: --epochs is the total number, so give at least 3",
    )


def test_metrics_left_over_by_a_crash_are_not_kept_twice(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """If a line is missing, repeated or truncated, the lines are restored from the checkpoint."""
    out = tmp_path / "run"
    command(*options, "--epochs", 2, "--out", out)
    lines = (out / "metrics.jsonl").read_text("utf-8")
    for damaged in ("", lines.splitlines()[0] + "\n", lines + lines, lines[:-5]):
        (out / "metrics.jsonl").write_text(damaged, "utf-8")
        command("--resume", out)
        assert [line["epoch"] for line in metrics(out)] == [1, 2]


@pytest.mark.parametrize(
    "setting",
    [
        ["--hidden", 4],
        ["--preset", "p-1h"],
        ["--seed", 0],
        ["--seed", 1],
        ["--out", "elsewhere"],
        ["--train-size", 50],
        ["--validation", 5],
        ["--beta", 0.2],
        ["--batch-size", 20],
    ],
    ids=str,
)
def test_a_resumed_run_keeps_its_settings(
    setting: list[object], command: Command, options: list[object], tmp_path: Path
) -> None:
    command(*options, "--out", tmp_path / "run")
    before = contents(tmp_path / "run")
    assert_refused(
        command("--resume", tmp_path / "run", *setting),
        f"{setting[0]} was given, but a saved run keeps its settings",
    )
    assert contents(tmp_path / "run") == before


def test_a_damaged_checkpoint_is_not_resumed(command: Command, options: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    command(*options, "--out", out)
    path = out / "checkpoint.npz"
    path.write_bytes(path.read_bytes()[:-100])
    before = contents(out)
    assert_refused(command("--resume", out), "damaged or not a checkpoint")
    assert contents(out) == before


def test_fewer_images_than_before_are_not_gone_on_with(
    command: Command, options: list[object], data: Path, tmp_path: Path
) -> None:
    command(*options, "--out", tmp_path / "run")
    shutil.rmtree(data)
    write_bands(data, train=50)
    refused = command("--resume", tmp_path / "run", "--epochs", 4)
    assert_refused(refused, "was trained on bands, but the data found (bands) have other contents")
    configuration, _ = checkpoint.load(tmp_path / "run" / "checkpoint.npz")
    unknown = replace(configuration, digests=(), validation=5, train_size=55)  # of a file of schema 1
    assert unknown.mismatch(datasets.load(str(data))) == (
        "it uses 60 training images, but the data found have only 50"
    )


def change_pixel(data: Path, file: str = "train-images-idx3-ubyte") -> None:
    """Change the last byte of a file: a pixel, or a label that stays in its range."""
    content = bytearray((data / file).read_bytes())
    content[-1] ^= 1
    (data / file).write_bytes(content)


@pytest.mark.parametrize(
    "file", ["train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte"]
)
def test_changed_data_of_the_same_name_are_refused(
    file: str, command: Command, options: list[object], data: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    command(*options, "--out", out)
    change_pixel(data, file)
    before = contents(out)
    words = (
        "it was trained on bands, but the data found (bands) have other contents: give the data of the run"
    )
    for arguments in (
        ["--resume", out, "--epochs", 4],
        ["--evaluate", out],
        ["--evaluate", out, "--data", data],
    ):
        assert_refused(command(*arguments), words)
    assert contents(out) == before


def test_the_same_data_in_a_renamed_directory_are_accepted(
    command: Command, options: list[object], data: Path, tmp_path: Path
) -> None:
    """The run keeps the name of its data, and a run without a change is the same run."""
    command(*options, "--epochs", 5, "--out", tmp_path / "through")
    out = tmp_path / "run"
    command(*options, "--out", out)
    moved = data.rename(tmp_path / "moved")
    assert_refused(command("--resume", out, "--epochs", 5), "bands is not a directory")
    assert command("--resume", out, "--epochs", 5, "--data", moved).code == 0
    assert_same_run(out, tmp_path / "through")
    assert command("--evaluate", out, "--data", moved).out.startswith("p-1h on bands: test error ")


def test_a_directory_named_mnist_is_not_mnist(
    command: Command, options: list[object], data: Path, tmp_path: Path
) -> None:
    """Only the contents decide, also when the run is evaluated or resumed."""
    named, out = data.rename(tmp_path / "mnist"), tmp_path / "run"
    printed = command(*options, "--data", named, "--out", out).out.splitlines()
    assert printed[1].startswith("data: mnist (not MNIST), 60 training images")
    assert printed[-1].startswith("p-1h on mnist (not MNIST): test error ")
    assert read(out / "summary.json")["dataset"] == "mnist (not MNIST)"
    assert command("--evaluate", out).out.startswith("p-1h on mnist (not MNIST): test error ")
    configuration, _ = checkpoint.load(out / "checkpoint.npz")
    assert configuration.mismatch(datasets.load(str(named))) is None
    genuine = replace(datasets.load(str(named)), name="mnist", digests=tuple(datasets.SHA256.values()))
    assert "have other contents" in configuration.mismatch(genuine)


def test_a_run_without_digests_is_known_by_name_and_gets_them(
    command: Command, options: list[object], data: Path, tmp_path: Path
) -> None:
    """A checkpoint of schema 1 has no digests. They are stored when the run is resumed."""
    out = tmp_path / "run"
    command(*options, "--out", out)
    path = out / "checkpoint.npz"
    configuration, progress = checkpoint.load(path)
    checkpoint.save(path, replace(configuration, digests=()), progress)
    other = write_bands(tmp_path / "other")
    words = (
        "was trained on bands (8×8 pixels, 3 classes), but the data found are other (8×8 pixels, 3 classes)"
    )
    assert_refused(command("--evaluate", out, "--data", other), words)
    assert command("--evaluate", out).code == 0
    assert command("--resume", out, "--epochs", 4).code == 0
    assert checkpoint.load(path)[0].digests == configuration.digests
    change_pixel(data)
    assert_refused(command("--resume", out, "--epochs", 5), "have other contents")


def test_the_checkpoint_itself_can_be_resumed(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    for name in ("one", "two"):
        command(*options, "--epochs", 1, "--out", tmp_path / name)
    assert command("--resume", tmp_path / "one", "--epochs", 2).code == 0
    assert command("--resume", tmp_path / "two" / "checkpoint.npz", "--epochs", 2).code == 0
    assert_same_run(tmp_path / "one", tmp_path / "two")
    assert contents(tmp_path / "two").keys() == contents(tmp_path / "one").keys()


def test_another_checkpoint_is_not_taken_for_that_of_the_run(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """Otherwise the run in its directory would be continued, which has other weights."""
    out = tmp_path / "run"
    command(*options, "--epochs", 1, "--out", out)
    shutil.copy(out / "checkpoint.npz", out / "best.npz")
    before = contents(out)
    assert_refused(
        command("--resume", out / "best.npz"),
        f"--resume needs the directory of a run or its checkpoint.npz, got {out / 'best.npz'}",
    )
    assert contents(out) == before


def test_the_commits_of_all_parts_are_recorded(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A damaged or old config.json does not tell them: None stands for the unknown ones."""
    out = tmp_path / "run"
    for epochs, commit in ((1, "a"), (2, "b"), (3, "b")):
        monkeypatch.setattr(report, "git_commit", lambda commit=commit: commit)
        arguments = (
            ["--resume", out, "--epochs", epochs] if epochs > 1 else [*options, "--epochs", 1, "--out", out]
        )
        assert command(*arguments).code == 0
    summary = read(out / "summary.json")
    assert (summary["git_commit"], summary["git_commits"]) == ("a", ["a", "b"])
    for damaged in ("{", "[]", "{}", '{"git_commits": 3}'):
        (out / "config.json").write_text(damaged, "utf-8")
        assert command("--resume", out).code == 0
        assert read(out / "summary.json")["git_commits"] == [None, "b"]


def test_a_checkpoint_is_saved_once_a_minute(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A batch takes 25 s here, so a checkpoint is saved after each third batch and after each epoch."""
    now, saved, save, step = [0.0], [], checkpoint.save, SGD.step

    def slow(*arguments: Any) -> Any:
        now[0] += 25
        return step(*arguments)

    def spy(path: Path, configuration: Configuration, progress: Any) -> None:
        saved.append((progress.epoch, progress.batch))
        save(path, configuration, progress)

    monkeypatch.setattr(report.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(SGD, "step", slow)
    monkeypatch.setattr(checkpoint, "save", spy)
    command(*options, "--batch-size", 10, "--epochs", 2, "--out", tmp_path / "run")
    assert saved == [(0, 3), (0, 6), (1, 0), (1, 3), (1, 6), (2, 0)]


# --- divergence, a full disk, and a killed worker


@pytest.mark.filterwarnings("error")
def test_divergence_keeps_the_last_good_checkpoint(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """The rates grow by a factor of 10⁵⁰ after the first epoch, and float32 overflows above 10³⁸."""
    out = tmp_path / "run"
    code, printed, err = command(*options, "--rate-decay", 1e50, "--out", out)
    assert code == 3
    assert err.startswith("error: training diverged: ")
    assert err.count("\n") == 1
    assert printed.splitlines()[-1].startswith("epoch 1/3: ")
    _, progress = checkpoint.load(out / "checkpoint.npz")
    assert (progress.epoch, progress.batch) == (1, 0)
    assert not (out / "summary.json").exists()


def test_divergence_with_a_huge_beta_is_also_blamed_on_it(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """The force of a readout is bounded, so a large beta is not refused."""
    more = ["--cost", "cross-entropy", "--learning-rates", 1e39, 1e39]
    for beta, remedy in (
        (0.5, "Try smaller learning rates."),
        (50, "Try smaller learning rates or a smaller beta."),
    ):
        code, _, err = command(*options, *more, "--beta", beta, "--out", tmp_path / str(beta))
        assert code == 3
        assert err.endswith(f"{remedy}\n")


def test_parameters_that_diverge_within_an_epoch_are_not_saved(
    command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """A checkpoint is due after each batch here. The outputs of a network can be finite where θ is not."""
    out, step = tmp_path / "run", SGD.step

    def overflow(self: SGD, theta: Any, *arguments: Any) -> Any:
        theta, state = step(self, theta, *arguments)
        if seen.append(1) or len(seen) > 4:
            theta["b2"][0] = np.inf
        return theta, state

    seen: list[int] = []
    monkeypatch.setattr(SGD, "step", overflow)
    monkeypatch.setattr(report, "SAVE_EVERY", -1.0)
    assert command(*options, "--out", out).code == 3
    _, progress = checkpoint.load(out / "checkpoint.npz")
    assert (progress.epoch, progress.batch) == (1, 1)


@pytest.mark.filterwarnings("error")
def test_divergence_from_the_start_leaves_no_checkpoint(
    command: Command, options: list[object], tmp_path: Path
) -> None:
    """The directory can therefore be used again."""
    out = tmp_path / "run"
    assert command(*options, "--learning-rates", 1e39, 1e39, "--out", out).code == 3
    assert not (out / "checkpoint.npz").exists()
    assert command(*options, "--out", out).code == 0


@pytest.mark.skipif(sys.platform != "linux", reason="/proc gives the names of open files")
@pytest.mark.parametrize("file", ["config.json", "metrics.jsonl", "checkpoint.npz", "summary.json"])
@pytest.mark.parametrize("times", [1, 2])
def test_a_full_disk_is_one_line_and_loses_nothing(
    times: int, file: str, command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    """The disk is full when a file is written for the first or second time. What was saved stays."""
    out, through = tmp_path / "run", tmp_path / "through"
    command(*options, "--out", through)
    synchronize, opened = os.fsync, []

    def full(descriptor: int) -> None:
        synchronize(descriptor)
        opened.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.rpartition(".")[0])
        if opened.count(f".{file}") == times:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        code, _, err = command(*options, "--out", out)
    if opened.count(f".{file}") < times:
        assert code == 0
        return
    hint = (
        f"; to continue: python -m eqprop_np.mnist --resume {out}"
        if times == 2 or file == "summary.json"
        else ""
    )
    assert (code, err) == (3, f"error: [Errno 28] No space left on device: '{out / file}'{hint}\n")
    assert not [name for name in os.listdir(out) if name.startswith(".")]
    assert command(*(["--resume", out] if hint else [*options, "--out", out])).code == 0
    assert_same_run(out, through)


@pytest.mark.skipif(os.name == "nt", reason="the test kills a process as POSIX does")
@pytest.mark.parametrize("batches", [1, 4])
def test_a_killed_worker_ends_the_run_which_can_be_resumed(
    batches: int, command: Command, options: list[object], tmp_path: Path, monkeypatch: Patch
) -> None:
    through, parts = tmp_path / "through", tmp_path / "parts"
    settings = [*options, "--workers", 2, "--estimate", "random-sign", "--augment", 1]
    command(*settings, "--out", through)
    seen, step = [], SGD.step

    def kill(*arguments: Any) -> Any:
        result = step(*arguments)
        if seen.append(1) or len(seen) == batches:
            for child in multiprocessing.active_children():
                child.kill()
                child.join()
        return result

    with monkeypatch.context() as patch:
        patch.setattr(SGD, "step", kill)
        code, _, err = command(*settings, "--out", parts)
    assert code == 3
    assert err.startswith("error: a worker process was killed")
    assert err.endswith(f"to continue: python -m eqprop_np.mnist --resume {parts}\n")
    assert err.count("\n") == 1
    assert not multiprocessing.active_children()
    _, progress = checkpoint.load(parts / "checkpoint.npz")
    assert 3 * progress.epoch + progress.batch == batches
    assert command("--resume", parts).code == 0
    assert_same_run(through, parts)


# --- in a process of its own


def environment() -> dict[str, str]:
    root = Path(eqprop_np.__file__).parents[1]
    return os.environ | {"PYTHONPATH": str(root), "OPENBLAS_NUM_THREADS": "1"}


def start(*arguments: object, **named: Any) -> subprocess.Popen[str]:
    """Start the command. It handles signals as in a terminal, also if the tests run under nohup."""
    command = [sys.executable, "-m", "eqprop_np.mnist", *map(str, arguments)]
    options: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    if os.name == "posix":
        options["preexec_fn"] = signals_as_in_a_terminal
    return subprocess.Popen(command, env=environment(), encoding="utf-8", **options | named)


def signals_as_in_a_terminal() -> None:
    """Restore the signals that nohup or a background job of a script would ignore."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


def test_exit_codes_and_streams_of_the_process(options: list[object], tmp_path: Path) -> None:
    done = start(*options, "--out", tmp_path / "run", "--quiet")
    out, err = done.communicate(timeout=60)
    assert (done.returncode, err) == (0, "")
    assert out.startswith("p-1h on bands: test error ")
    wrong = start(*options, "--out", tmp_path / "run")
    out, err = wrong.communicate(timeout=60)
    assert (wrong.returncode, out) == (2, "")
    assert "Traceback" not in err


def wait_for_an_epoch(process: subprocess.Popen[str], out: Path) -> None:
    while not (out / "metrics.jsonl").exists() or not metrics(out):
        assert process.poll() is None
        time.sleep(0.02)


posix = pytest.mark.skipif(os.name == "nt", reason="signals and process groups are POSIX's")


@posix
@pytest.mark.parametrize(
    "name, workers", [("SIGINT", 1), ("SIGINT", 2), ("SIGTERM", 1), ("SIGTERM", 2), ("SIGHUP", 2)]
)
def test_a_signal_finishes_the_batch_saves_and_says_how_to_resume(
    name: str, workers: int, options: list[object], tmp_path: Path, command: Command
) -> None:
    """The signal goes to the whole process group, workers included.

    A terminal sends SIGINT and SIGHUP in this way, and a batch system SIGTERM.
    """
    parts, through = tmp_path / "parts", tmp_path / "through"
    settings = [*options, "--workers", workers, "--epochs", 100_000]
    process = start(*settings, "--out", parts, start_new_session=True)
    wait_for_an_epoch(process, parts)
    os.killpg(process.pid, getattr(signal, name))
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err == f"interrupted; to continue: python -m eqprop_np.mnist --resume {parts}\n"
    _, progress = checkpoint.load(parts / "checkpoint.npz")
    total = progress.epoch + 2
    assert command("--resume", parts, "--epochs", total).code == 0
    assert command(*settings, "--epochs", total, "--out", through).code == 0
    assert_same_run(parts, through)


@posix
def test_under_nohup_a_closed_terminal_does_not_stop_it(options: list[object], tmp_path: Path) -> None:
    out = tmp_path / "run"
    ignore = {"preexec_fn": lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN)}
    process = start(*options, "--epochs", 100_000, "--out", out, **ignore)
    wait_for_an_epoch(process, out)
    process.send_signal(signal.SIGHUP)
    seen = len(metrics(out))
    while len(metrics(out)) < seen + 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.terminate()
    process.communicate(timeout=60)
    assert process.returncode == 130


@posix
def test_a_closed_output_does_not_stop_it(options: list[object], tmp_path: Path) -> None:
    """For example of ``| head -1``: nobody reads the lines any more, and the files are complete."""
    out = tmp_path / "run"
    process = start(*options, "--epochs", 30, "--out", out)
    assert process.stdout.readline().startswith("p-1h: ")
    process.stdout.close()
    assert (process.wait(timeout=60), process.stderr.read()) == (0, "")
    assert len(metrics(out)) == 30
    assert sorted(contents(out))[-1] == "summary.json"


def test_it_runs_in_a_thread(options: list[object], tmp_path: Path) -> None:
    """A thread cannot handle signals. A notebook or a web server may run the command in one."""
    codes: list[int] = []
    arguments = [str(word) for word in (*options, "--out", tmp_path / "run", "--quiet")]
    thread = threading.Thread(target=lambda: codes.append(main(arguments)))
    thread.start()
    thread.join()
    assert codes == [0]


@pytest.mark.skipif(os.name == "nt", reason="pseudo-terminals are POSIX's")
def test_the_bar_stands_on_a_terminal(options: list[object], tmp_path: Path) -> None:
    """It is only on stderr and shows the batches of all epochs, the epoch and its running error.

    With --quiet there is no bar.
    """
    import fcntl
    import pty
    import termios

    def shown(*more: object) -> str:
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 100, 0, 0))
        slow = ["--tol", 0, "--free-steps", 6000]  # the bar is updated at most ten times a second
        process = start(*options, *slow, *more, "--out", tmp_path / f"run{len(more)}", stderr=slave)
        os.close(slave)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0
        assert "batch/s" not in out
        return read_all(master)

    bar = shown()
    assert re.search(r"epoch [123]/3: .* [1-9]/9 \[.*, error \d+\.\d\d %\]", bar)
    assert shown("--quiet") == ""


def read_all(descriptor: int) -> str:
    chunks = []
    try:
        while chunk := os.read(descriptor, 1 << 16):
            chunks.append(chunk)
    except OSError:  # raised when the other end is closed
        pass
    os.close(descriptor)
    return b"".join(chunks).decode()


# --- with the real data


@pytest.mark.skipif("EQPROP_NP_DATA" not in os.environ, reason="EQPROP_NP_DATA names no MNIST")
def test_on_mnist_a_thousand_images_are_enough_to_begin_with(command: Command, tmp_path: Path) -> None:
    code, printed, _ = command("--train-size", 1000, "--epochs", 2, "--out", tmp_path / "run", "--quiet")
    assert code == 0
    assert printed.startswith("p-1h on mnist: test error ")
    assert read(tmp_path / "run" / "summary.json")["test_error"] < 25
