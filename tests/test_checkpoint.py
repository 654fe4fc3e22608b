"""Test the checkpoints.

Saved values are loaded unchanged. Damaged files are refused with a message of one line. A failed write
leaves the old file unchanged.
"""

import io
import json
import os
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from eqprop_np import files
from eqprop_np.experiments.checkpoint import CheckpointError, load, save
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.datasets import SHA256
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.files import replacing
from eqprop_np.optimizers import Cosine, Exponential, Steps, Warmup
from eqprop_np.relaxation import Alternating, Synchronous
from eqprop_np.rules.vector_field import weight_angle
from eqprop_np.samples import Samples
from eqprop_np.training import Progress, train

EXPERIMENT = EXPERIMENTS["p-1h"].override(hidden=(3,), epochs=2, batch_size=4, free_steps=4, nudged_steps=2)
DIGESTS, GLYPHS = ("a", "b", "c", "d"), "glyphs (not MNIST)"
CONFIGURATION = Configuration(EXPERIMENT, "auto", GLYPHS, DIGESTS, (3, 4), 2, 10, 0, seed=7)

Meta = dict[str, Any]
Arrays = dict[str, Any]


def advance(progress: Progress, batches: int, experiment: Experiment = EXPERIMENT) -> Progress:
    """Train until this number of batches is done in all, or to the end. An epoch has three batches."""
    rng = np.random.default_rng(1)
    data = Samples(rng.integers(0, 256, (10, 3, 4)).astype(np.uint8), np.arange(10) % 2)
    run = experiment.run(experiment.build((3, 4), 2))
    train(run, data, data, progress, on_batch=lambda p: 3 * p.epoch + p.batch == batches)
    return progress


def begin(experiment: Experiment = EXPERIMENT) -> Progress:
    """Return the progress of a run before its first batch."""
    dynamics = experiment.build((3, 4), 2)
    return Progress.begin(dynamics, experiment.optimizer(dynamics), 7, psi=experiment.psi or 0.0)


def progress(batches: int = 4, experiment: Experiment = EXPERIMENT) -> Progress:
    """Return the progress of a run after this number of batches."""
    return advance(begin(experiment), batches, experiment)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Write a valid checkpoint, and return its path."""
    save(tmp_path / "checkpoint.npz", CONFIGURATION, progress())
    return tmp_path / "checkpoint.npz"


def refusal(path: Path) -> str:
    """Return the message of the CheckpointError for a file. It is one line, and the path is removed."""
    with pytest.raises(CheckpointError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert "\n" not in message
    return message.removeprefix(f"{path}: ")


# --- the round trip


AVERAGED = EXPERIMENT.override(average=0.9)
MOMENTUM, ADAM = EXPERIMENT.override(momentum=0.9), EXPERIMENT.override(optimizer="adam", weight_decay=0.01)


@pytest.mark.parametrize(
    "experiment", [EXPERIMENT, MOMENTUM, ADAM, AVERAGED], ids=["sgd", "momentum", "adam", "averaged"]
)
@pytest.mark.parametrize("batches", [0, 1, 3, 4, 5, 6])
def test_what_is_saved_comes_back(tmp_path: Path, batches: int, experiment: Experiment) -> None:
    """Test a run before its first batch, within an epoch, between epochs, and at its end."""
    before = begin(experiment) if batches == 0 else progress(batches, experiment)
    asked = replace(CONFIGURATION, experiment=experiment)
    save(tmp_path / "c.npz", asked, before)
    configuration, after = load(tmp_path / "c.npz")
    assert configuration == asked
    for found, expected in (
        (after.theta, before.theta),
        (after.optimizer_state, before.optimizer_state),
        (after.average, before.average),
    ):
        assert found.keys() == expected.keys()
        for name in expected:
            assert found[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(found[name], expected[name])
            found[name] += 1  # the arrays must be writeable, because training updates them
    assert (
        len(after.optimizer_state)
        == {"sgd": 4 if experiment is MOMENTUM else 0, "adam": 9}[experiment.training.optimizer]
    )
    assert after.rng.bit_generator.state == before.rng.bit_generator.state
    assert after.rng is not before.rng
    for name in vars(before).keys() - {"theta", "rng", "optimizer_state", "average"}:
        assert getattr(after, name) == getattr(before, name), name


def through_json(configuration: Configuration) -> Configuration:
    return Configuration.from_json(json.loads(json.dumps(configuration.to_json())))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_preset_survives_json(name: str) -> None:
    configuration = replace(CONFIGURATION, experiment=EXPERIMENTS[name], image=(28, 28), validation=5)
    assert through_json(configuration) == configuration
    assert configuration.to_json()["schema"] == 2


@pytest.mark.parametrize("schedule", [Alternating(1.3, 0.02), Synchronous(), Synchronous(0.1)], ids=repr)
@pytest.mark.parametrize(
    "rate_schedule",
    [Exponential(), Exponential(0.9), Steps(3, 0.1), Cosine(7), Warmup(2, Steps(3, 0.1))],
    ids=repr,
)
def test_every_schedule_survives_json(schedule: Any, rate_schedule: Any) -> None:
    experiment = EXPERIMENT.override(schedule=schedule, rate_schedule=rate_schedule)
    configuration = replace(CONFIGURATION, experiment=experiment)
    assert through_json(configuration) == configuration
    assert type(through_json(configuration).experiment.phases.schedule) is type(schedule)
    assert type(through_json(configuration).experiment.training.rate_schedule) is type(rate_schedule)


def test_every_other_setting_survives_json() -> None:
    """Numbers of NumPy are stored as those of Python."""
    experiment = EXPERIMENTS["conv"].override(
        hidden=[np.int64(4)], channels=np.array([2, 3]), kernel=(3, 2), pool=[2], stride=(1, 2), padding=1,
        learning_rates=np.float32([0.5, 0.1, 0.2, 0.4]), optimizer="adam", weight_decay=np.float64(0.1),
        free_steps=np.int64(3), beta=np.float32(-0.25), activation="tanh",
        schedule=Alternating(np.float32(1.25), np.float64(0.1)),
        dynamics="real-time", epsilon=np.float32(0.5), workers=np.int32(3), augment=2,
        distort=np.float32(0.5), average=np.float32(0.5),
        rate_schedule=Steps(np.int64(3), np.float32(0.5)),
    )  # fmt: skip
    configuration = replace(CONFIGURATION, experiment=experiment, seed=np.int64(3), train_size=np.int32(9))
    assert through_json(configuration) == configuration
    untied = replace(CONFIGURATION, experiment=EXPERIMENTS["cvf-1h"].override(psi=np.float32(30)))
    assert through_json(untied) == untied


def test_a_checkpoint_needs_no_pickle(path: Path) -> None:
    with np.load(path, allow_pickle=False) as file:
        assert set(file.files) == {"meta", "w0-1", "w1-2", "b1", "b2"}
        assert all(file[name].dtype != object for name in file.files)


@pytest.mark.parametrize("batches", [1, 3, 4])
def test_a_run_continues_with_the_same_records(tmp_path: Path, batches: int) -> None:
    """In this run some free phases converge and some do not."""
    schedule = Alternating(tol=2e-3)
    experiment = EXPERIMENT.override(learning_rates=(2.0, 1.0), free_steps=6, schedule=schedule)
    through = progress(99, experiment)
    assert all(0 < record["converged"] < 1 for record in through.records)
    save(tmp_path / "c.npz", replace(CONFIGURATION, experiment=experiment), progress(batches, experiment))
    _, resumed = load(tmp_path / "c.npz")
    advance(resumed, 99, experiment)
    records = [[record | {"seconds": 0} for record in run.records] for run in (resumed, through)]
    assert records[0] == records[1]


# --- files of schema 1


UNTIED = EXPERIMENTS["cvf-1h"].override(
    hidden=(3, 5),
    learning_rates=(0.1, 0.1, 0.1),
    psi=60.0,
    epochs=3,
    batch_size=4,
    free_steps=40,
    nudged_steps=2,
)


def flat(experiment: Experiment) -> dict[str, Any]:
    """Return the fields of an experiment as schema 1 had them."""
    phases, training, layers = experiment.phases, experiment.training, experiment.layers
    alternating = isinstance(phases.schedule, Alternating)
    return {
        "name": experiment.name,
        "dynamics": experiment.dynamics,
        "activation": experiment.activation,
        "hidden": layers.hidden,
        "learning_rates": training.learning_rates,
        "free_steps": phases.free_steps,
        "nudged_steps": phases.nudged_steps,
        "beta": phases.beta,
        "epochs": training.epochs,
        "source": experiment.source,
        "channels": layers.channels,
        "rule": experiment.rule,
        "estimate": phases.estimate,
        "schedule": "alternating" if alternating else "synchronous",
        "omega": phases.schedule.omega if alternating else 1.0,
        "tol": phases.schedule.tol,
        "epsilon": experiment.epsilon,
        "batch_size": training.batch_size,
        "rate_decay": training.rate_schedule.decay,
        "augment": training.augment,
        "workers": training.workers,
        "angle": experiment.psi or 0.0,
    }


OLD_NAMES = {"validation_error": "test_error", "steps": "free_steps", "weight_angle": "angle"}


def write_schema_1(path: Path, experiment: Experiment, progress: Progress, dataset: str = GLYPHS) -> None:
    """Write a checkpoint as the program did before schema 2."""
    records = [{OLD_NAMES.get(k, k): v for k, v in r.items() if k != "converged"} for r in progress.records]
    meta = {
        "schema": 1,
        "configuration": {
            "experiment": flat(experiment),
            "source": "auto",
            "dataset": dataset,
            "image": [3, 4],
            "classes": 2,
            "train_size": 10,
            "validation": 0,
            "seed": 7,
        },
        "rng": progress.rng.bit_generator.state,
        "progress": {
            "epoch_start": progress.epoch_start,
            "epoch": progress.epoch,
            "batch": progress.batch,
            "errors": progress.errors,
            "steps": progress.steps,
            "seconds": progress.seconds,
            "history": records,
            "angle": weight_angle(experiment.build((3, 4), 2).network, progress.theta),
        },
    }
    backward = {name: progress.theta[name].T for name in ("w2-1", "w3-2") if name in progress.theta}
    np.savez(path, meta=np.array(json.dumps(meta)), **progress.theta | backward)


@pytest.mark.parametrize(
    "stop, counted",
    [("after an epoch", [2, 3]), (1, [2, 3]), (3, [2, 3]), (4, [3])],
)
@pytest.mark.parametrize("experiment", [EXPERIMENT, UNTIED], ids=["tied", "untied"])
def test_a_file_of_schema_1_loads_and_its_run_continues(
    tmp_path: Path, experiment: Experiment, stop: str | int, counted: list[int]
) -> None:
    """Bit for bit. Only the epochs that began with this program have a share of converged free phases."""
    experiment = experiment.override(epochs=3)
    through = progress(99, experiment)
    within_epoch = isinstance(stop, int)
    before = progress(stop, experiment) if within_epoch else progress(99, experiment.override(epochs=1))
    write_schema_1(tmp_path / "c.npz", experiment, before)
    configuration, after = load(tmp_path / "c.npz")
    assert configuration == replace(CONFIGURATION, experiment=experiment, digests=())
    assert after.theta.keys() == before.theta.keys()
    for name in before.theta:
        np.testing.assert_array_equal(after.theta[name], before.theta[name], err_msg=name)
    assert after.converged == (None if within_epoch else 0)
    save(tmp_path / "new.npz", configuration, after)
    _, after = load(tmp_path / "new.npz")  # schema 2 keeps what is not known
    advance(after, 99, experiment)
    for name in before.theta:
        np.testing.assert_array_equal(after.theta[name], through.theta[name], err_msg=name)
    assert [record["epoch"] for record in after.records if "converged" in record] == counted


def test_each_number_of_a_history_of_schema_1_has_its_new_name(tmp_path: Path) -> None:
    experiment = CONFIGURATION.experiment.override(epochs=1)
    before = progress(99, experiment)
    history = {"train_error": [9.5], "validation_error": [8.5], "seconds": [7.5], "steps": [6.5]}
    before.commit(history=history)
    write_schema_1(tmp_path / "c.npz", experiment, before)
    assert load(tmp_path / "c.npz")[1].history == history


def test_the_backward_weights_of_schema_1_are_transposed(tmp_path: Path) -> None:
    """The old "w2-1" of 3 and 5 neurons has shape (5, 3), and the new one has the shape of "w1-2", (3, 5)."""
    dynamics = UNTIED.build((3, 4), 2)
    before = begin(UNTIED)
    write_schema_1(tmp_path / "c.npz", UNTIED, before)
    with np.load(tmp_path / "c.npz") as file:
        assert (file["w1-2"].shape, file["w2-1"].shape, file["w3-2"].shape) == ((3, 5), (5, 3), (2, 5))
    _, after = load(tmp_path / "c.npz")
    assert {name: value.shape for name, value in after.theta.items()} == dynamics.network.parameter_shapes
    assert all(value.flags.c_contiguous for value in after.theta.values())
    np.testing.assert_array_equal(np.abs(after.theta["w2-1"]), np.abs(after.theta["w1-2"]))
    angles = [weight_angle(dynamics.network, theta) for theta in (after.theta, before.theta)]
    assert angles[0] == angles[1] > 0


def test_a_file_of_schema_2_is_not_transposed(tmp_path: Path) -> None:
    """A square weight has the same shape when it is transposed, so that only the schema decides."""
    square = UNTIED.override(hidden=(4, 4))
    for write in (
        lambda path, p: save(path, replace(CONFIGURATION, experiment=square), p),
        lambda path, p: write_schema_1(path, square, p),
    ):
        before = begin(square)
        write(tmp_path / "c.npz", before)
        np.testing.assert_array_equal(load(tmp_path / "c.npz")[1].theta["w2-1"], before.theta["w2-1"])


def test_mnist_of_schema_1_is_the_genuine_one(tmp_path: Path) -> None:
    write_schema_1(tmp_path / "c.npz", EXPERIMENT, progress(), dataset="mnist")
    assert load(tmp_path / "c.npz")[0].digests == tuple(SHA256.values())


@pytest.mark.parametrize("schedule", [Alternating(1.1, 0.01), Synchronous(0.1)], ids=str)
def test_every_setting_of_schema_1_is_read(schedule: Any) -> None:
    experiment = EXPERIMENTS["conv"].override(
        hidden=(7,), learning_rates=(0.1, 0.2, 0.3, 0.4), schedule=schedule, dynamics="real-time",
        epsilon=0.1,
        augment=2, workers=3, rate_schedule=Exponential(0.7), estimate="random-sign", batch_size=7,
    )  # fmt: skip
    presets = [preset for preset in EXPERIMENTS.values() if "conv" not in preset.name]  # newer schedules
    for one in (experiment, UNTIED, *presets):
        content = json.loads(json.dumps(CONFIGURATION.to_json() | {"experiment": flat(one)}))
        del content["schema"], content["digests"]
        assert Configuration.from_json(content) == replace(CONFIGURATION, experiment=one, digests=())


@pytest.mark.parametrize("place, value", [("schedule", "none"), ("unknown", 1), ("psi", 1.0), ("tol", None)])
def test_a_wrong_setting_of_schema_1_is_refused(tmp_path: Path, place: str, value: Any) -> None:
    write_schema_1(tmp_path / "c.npz", EXPERIMENT, progress())
    rewrite(tmp_path / "c.npz", lambda m, _: replaced(m, f"configuration.experiment.{place}", value))
    refusal(tmp_path / "c.npz")


# --- damage


def rewrite(path: Path, change: Callable[[Meta, Arrays], None]) -> None:
    """Apply `change` to the meta and the arrays of the checkpoint, and write it again."""
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    meta = json.loads(str(arrays.pop("meta")))
    change(meta, arrays)
    np.savez(path, **{"meta": np.array(json.dumps(meta))} | arrays)


def with_array(name: str, value: Any) -> Callable[[Meta, Arrays], None]:
    """Return a change that replaces or adds one array."""
    return lambda meta, arrays: arrays.update({name: value})


ARRAYS: dict[str, tuple[Callable[[Meta, Arrays], None], str]] = {
    "missing": (
        lambda meta, arrays: arrays.pop("b2"),
        "theta must have the parameters w0-1, w1-2, b1, b2, but it lacks b2",
    ),
    "extra": (with_array("b3", np.zeros(2, np.float32)), "but it also has b3"),
    "shape": (
        with_array("w0-1", np.zeros((3, 12), np.float32)),
        "theta['w0-1'] must have shape (12, 3), got (3, 12)",
    ),
    "dimensions": (
        with_array("b1", np.zeros((3, 1), np.float32)),
        "theta['b1'] must have shape (3,), got (3, 1)",
    ),
    "dtype": (with_array("b1", np.zeros(3)), "one dtype, got float32 and float64"),
    "integers": (with_array("b1", np.zeros(3, int)), "theta['b1'] must be floating-point numbers, got int64"),
    "byte order": (with_array("b1", np.zeros(3, ">f4")), "one dtype, got >f4 and float32"),
    "not a number": (
        with_array("b1", np.float32([0, np.nan, 0])),
        "theta['b1'] must be finite, but it contains NaN or infinity",
    ),
    "infinite": (
        with_array("b1", np.float32([0, 0, -np.inf])),
        "theta['b1'] must be finite, but it contains NaN or infinity",
    ),
    "state of an optimizer": (
        with_array("optimizer/v/b1", np.zeros(3, np.float32)),
        "optimizer's state must",
    ),
    "pickled": (with_array("b1", np.array([None, None, None])), "allow_pickle=False"),
    "meta missing": (lambda meta, arrays: arrays.update(meta=np.zeros(0)), "damaged or not a checkpoint"),
    "meta no JSON": (with_array("meta", np.array("{")), "damaged or not a checkpoint"),
    "meta no object": (with_array("meta", np.array("[1]")), "damaged or not a checkpoint"),
    "meta deep": (with_array("meta", np.array("[" * 100_000)), "damaged or not a checkpoint"),
}


@pytest.mark.parametrize("change, words", ARRAYS.values(), ids=ARRAYS)
def test_arrays_that_do_not_fit_are_refused(
    path: Path, change: Callable[[Meta, Arrays], None], words: str
) -> None:
    rewrite(path, change)
    assert words in refusal(path)


AVERAGES: dict[str, tuple[Callable[[Meta, Arrays], None], str]] = {
    "one missing": (lambda meta, arrays: arrays.pop("average/b2"), "but it lacks b2"),
    "all missing": (
        lambda meta, arrays: [arrays.pop(name) for name in list(arrays) if name.startswith("average/")],
        "the history has unknown fields: average_validation_error",
    ),
    "dtype": (with_array("average/b1", np.zeros(3)), "one dtype"),
    "not a number": (with_array("average/b1", np.float32([0, np.nan, 0])), "must be finite"),
    "number": (lambda meta, arrays: replaced(meta, "progress.averaged", -1), "averaged must be a number"),
    "history": (
        lambda meta, arrays: replaced(meta, "progress.history.average_validation_error", None),
        "average_validation_error must be a list of 1 numbers",
    ),
    "unwanted": (
        lambda meta, arrays: replaced(meta, "configuration.experiment.training.average", 0.0),
        "the averaged parameters must be there if the run averages them, and only then",
    ),
}


@pytest.mark.parametrize("change, words", AVERAGES.values(), ids=AVERAGES)
def test_an_average_that_does_not_fit_is_refused(
    tmp_path: Path, change: Callable[[Meta, Arrays], None], words: str
) -> None:
    path = tmp_path / "c.npz"
    save(path, replace(CONFIGURATION, experiment=AVERAGED), progress(4, AVERAGED))
    load(path)
    rewrite(path, change)
    assert words in refusal(path)


def test_an_average_that_the_run_should_have_is_missed(path: Path) -> None:
    rewrite(path, lambda m, _: replaced(m, "configuration.experiment.training.average", 0.5))
    assert "the averaged parameters must be there if the run averages them" in refusal(path)


def test_a_checkpoint_without_the_newer_settings_is_read(path: Path) -> None:
    """It was written before the program had them."""
    expected = load(path)

    def older(meta: Meta, arrays: Arrays) -> None:
        del meta["progress"]["averaged"]
        for name in ("distort", "average"):
            del meta["configuration"]["experiment"]["training"][name]

    rewrite(path, older)
    configuration, found = load(path)
    assert configuration == expected[0]
    assert found.to_arrays()[1] == expected[1].to_arrays()[1]


def replaced(meta: Meta, place: str, value: Any) -> Meta:
    """Set the value at a place such as "progress.epoch". None removes it."""
    *parents, last = place.split(".")
    inner = meta
    for parent in parents:
        inner = inner[int(parent) if isinstance(inner, list) else parent]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    return meta


PARTS = ("layers", "phases", "training")
SCHEDULES = ("phases.schedule", "training.rate_schedule")
META: list[tuple[str, Any]] = [
    *[(place, value) for place in ("schema", "configuration", "progress") for value in (None, [], "x")],
    *[("progress.rng", value) for value in (None, [], "x")],
    ("progress.rng.state", {}),
    ("progress.rng.state.state", -1),
    ("progress.rng.state.state", 2**130),
    ("progress.rng.bit_generator", "MT19937"),
    *[("progress.epoch_start", value) for value in (None, [], {}, {"bit_generator": "PCG64"}, 3)],
    *[("progress.epoch", value) for value in (None, "1", -1, 1.5, 0, 2, [])],
    *[("progress.batch", value) for value in (None, "1", -1, 1.5, 4, {})],
    *[("progress.errors", value) for value in (None, "1", -1, 1.5)],
    *[("progress.steps", value) for value in (None, "1", -1.0, float("nan"))],
    *[("progress.seconds", value) for value in (None, "1", -1.0, float("nan"))],
    *[("progress.history", value) for value in (None, {}, [], [1], [{}], {"train_error": [1.0]})],
    *[
        (f"progress.history.{name}", value)
        for name in ("train_error", "validation_error", "seconds", "steps")
        for value in (None, [], ["1"], [1.0, 2.0], 1.0, [None], [float("nan")], [True])
    ],
    *[("progress.history.weight_angle", value) for value in ("0", ["0"], {}, [0.0, 1.0], 3)],
    ("progress.history.epoch", [1]),
    *[("progress.converged", value) for value in (None, "1", -1, 0.5, 2, [])],
    *[("progress.history.converged", [value]) for value in ("1", -0.1, 1.1, float("nan"), [])],
    *[("progress.history.converged", value) for value in ([0.5, 0.5], 0.5, "1")],
    ("progress.unknown", 1),
    *[("configuration.experiment", value) for value in (None, [], "p-1h", {})],
    *[(f"configuration.experiment.{part}", value) for part in PARTS for value in (None, [], "x", {}, 3)],
    *[(f"configuration.experiment.{part}.unknown", 1) for part in PARTS],
    *[(f"configuration.experiment.{part}", value) for part in SCHEDULES for value in (None, [], "x", {})],
    *[(f"configuration.experiment.{part}.kind", value) for part in SCHEDULES for value in (None, "x", [])],
    *[(f"configuration.experiment.{part}.unknown", 1) for part in SCHEDULES],
    ("configuration.experiment.phases.schedule.kind", "cosine"),
    ("configuration.experiment.training.rate_schedule.kind", "alternating"),
    *[("configuration.experiment.training.rate_schedule.decay", value) for value in ("1", 0)],
    *[("configuration.experiment.phases.schedule.tol", value) for value in ("1", -1, float("nan"))],
    *[("configuration.experiment.training.momentum", value) for value in ("1", -1, 1, float("nan"))],
    *[("configuration.experiment.training.optimizer", value) for value in ("x", 1, "adam")],
    *[("configuration.digests", value) for value in (None, "abcd", ["a"], [1, 2, 3, 4], 3)],
    *[("configuration.experiment.layers.hidden", value) for value in (None, 3, "3", ["3"], [0], [3.0], [4])],
    *[
        ("configuration.experiment.training.learning_rates", value)
        for value in (None, 0.1, [0.1], ["a", "b"])
    ],
    *[("configuration.experiment.activation", value) for value in (None, "relu", 3, [1], {})],
    *[("configuration.experiment.dynamics", value) for value in (None, "slow", 3)],
    *[("configuration.experiment.rule", value) for value in ("backprop", 3)],
    *[("configuration.experiment.training.epochs", value) for value in (None, "2", 0, 1.5)],
    *[("configuration.experiment.training.batch_size", value) for value in ("2", 0, 1.5)],
    *[("configuration.experiment.phases.beta", value) for value in (None, "2", 0, float("nan"))],
    ("configuration.experiment.layers.channels", [3]),
    ("configuration.experiment.unknown", 3),
    *[("configuration.image", value) for value in (None, [3], [3, 4, 1], ["3", "4"], [0, 4], 12, [4, 4])],
    *[("configuration.classes", value) for value in (None, "2", 1, 3, 2.0)],
    *[("configuration.train_size", value) for value in (None, "2", 0, 10.0)],
    *[("configuration.validation", value) for value in (None, "2", -1)],
    *[("configuration.seed", value) for value in (None, "2", -1)],
    *[(f"configuration.{name}", value) for name in ("dataset", "source") for value in (None, 3, [])],
    ("configuration.unknown", 3),
]


@pytest.mark.parametrize("place, value", META, ids=str)
def test_meta_that_makes_no_sense_is_refused(path: Path, place: str, value: Any) -> None:
    rewrite(path, lambda meta, arrays: replaced(meta, place, value))
    refusal(path)


def test_another_schema_is_told_apart_from_damage(path: Path) -> None:
    rewrite(path, lambda meta, arrays: meta.update(schema=99))
    assert refusal(path) == "the schema must be 1 or 2, got 99; use the version of this program that wrote it"


def test_a_field_of_schema_2_in_a_file_of_schema_1_is_refused(path: Path, tmp_path: Path) -> None:
    rewrite(path, lambda meta, arrays: meta.update(schema=1))
    refusal(path)
    write_schema_1(path, EXPERIMENT, progress())
    rewrite(path, lambda meta, arrays: meta["progress"].update(converged=0))
    assert "the progress of schema 1 has unknown fields: converged" in refusal(path)
    write_schema_1(path, EXPERIMENT, progress())
    rewrite(path, lambda meta, arrays: meta["progress"]["history"][0].update(converged=0))
    assert "converged" in refusal(path)


def test_other_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.npz"
    assert refusal(path) == "the checkpoint does not exist; check the path"
    npy = io.BytesIO()
    np.save(npy, np.zeros(3))
    pickled = io.BytesIO()
    np.save(pickled, np.array([{}]), allow_pickle=True)
    for content in (b"", b"PK\3\4", b"\0" * 500, b"hello", npy.getvalue(), pickled.getvalue()):
        path.write_bytes(content)
        assert refusal(path).startswith("the file is damaged or not a checkpoint")
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("meta", "{}")
    assert refusal(path).startswith("the file is damaged or not a checkpoint")
    path.unlink()
    path.mkdir()
    assert refusal(path).startswith("this is not a regular file; give a checkpoint")


def test_a_long_reason_becomes_one_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("two\n   lines")

    monkeypatch.setattr(np, "load", fail)
    assert refusal(path).endswith("(RuntimeError: two lines); use another file")


def test_a_file_cut_short_is_refused_wherever_it_was_cut(path: Path) -> None:
    content = path.read_bytes()
    for length in range(0, len(content), 41):
        path.write_bytes(content[:length])
        refusal(path)


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_does_not_matter(
    tmp_path_factory: pytest.TempPathFactory, place: float, flip: int
) -> None:
    """Flip bits of one byte. The zip checksums detect this in the data, but not everywhere in the headers."""
    path = tmp_path_factory.mktemp("flipped") / "c.npz"
    before = progress()
    save(path, CONFIGURATION, before)
    content = bytearray(path.read_bytes())
    content[int(place * len(content))] ^= flip
    path.write_bytes(content)
    try:
        configuration, after = load(path)
    except CheckpointError as error:
        assert "\n" not in str(error)
    else:
        assert configuration == CONFIGURATION
        assert all(np.array_equal(after.theta[name], before.theta[name]) for name in before.theta)


# --- writing


def failing(error: BaseException) -> Callable[..., None]:
    """Return a substitute for `numpy.savez` that writes a few bytes and then raises `error`."""

    def savez(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise error

    return savez


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["disk full", "Ctrl-C"])
def test_a_failure_half_way_leaves_the_old_checkpoint(
    path: Path, error: BaseException, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()
    monkeypatch.setattr(np, "savez", failing(error))
    with pytest.raises(type(error)):
        save(path, CONFIGURATION, progress(5))
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_the_old_checkpoint_is_replaced_only_by_a_whole_one(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Check that the new file is complete, and written to the disk, before it replaces the old file."""
    events: list[str] = []
    replace_file, synchronize = os.replace, os.fsync

    def replacing_spy(source: Path, target: Path) -> None:
        events.append("replace")
        assert Path(target) == path
        assert Path(source).parent == path.parent
        load(source)
        replace_file(source, target)

    monkeypatch.setattr(files.os, "fsync", lambda fd: events.append("fsync") or synchronize(fd))
    monkeypatch.setattr(files.os, "replace", replacing_spy)
    save(path, CONFIGURATION, progress(5))
    assert events == ["fsync", "replace"]
    assert load(path)[1].batch == 2
    assert os.listdir(path.parent) == [path.name]


def test_text_is_written_as_utf_8_whatever_the_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("locale.getpreferredencoding", lambda *_: "ascii")
    monkeypatch.setattr("locale.getencoding", lambda: "ascii", raising=False)
    with replacing(tmp_path / "text") as file:
        assert file.encoding == "utf-8"
        file.write("β")
    assert (tmp_path / "text").read_bytes() == "β".encode()
