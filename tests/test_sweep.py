"""Tests of the sweep: each point is a run, finished points are kept, and a failure affects only one point."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Executor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples import ctrl_c_as_in_a_terminal, interrupting
from threadpoolctl import threadpool_info

from eqprop_np import mnist, sweep
from eqprop_np.experiments import report
from eqprop_np.experiments.angles import update_angles
from eqprop_np.experiments.checkpoint import CheckpointError
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.datasets import load
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.experiments.report import Report
from eqprop_np.files import locked
from eqprop_np.sweep import OwnProcesses, grid, main, measure, measure_angles, point_name
from eqprop_np.training import Progress

ROOT = Path(__file__).parents[1]
SMALL = {"hidden": (6,), "epochs": 1}
NAMES = ["p-1h-seed3", "cvf-1h-0deg-seed3", "cvf-1h-22.5deg-seed3"]


def points() -> list[Configuration]:
    return grid(["p-1h", "cvf-1h"], (0, 22.5), [3], "glyphs", 60, **SMALL)


@pytest.fixture
def executor() -> Executor:
    return ThreadPoolExecutor(1)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace `measure` by a function that trains nothing, and return the names of the measured points."""
    names: list[str] = []

    def instead(point: Configuration, directory: Path) -> sweep.Record:
        assert directory.name == point_name(point)
        names.append(point_name(point))
        history = [{"test_error": float(n), "train_error": n + 1.0, "seconds": n / 7} for n in range(7)]
        return {
            "preset": point.experiment.name,
            "configuration": point.to_json(),
            "seed": point.seed,
            "epochs": 7,
            "history": history,
            "seconds": 1.0,
        }

    def angles(point: Configuration) -> sweep.Record:
        return {"theorem": {"mean": 30.0 + (point.experiment.psi or 0.0), "std": 2.0}}

    monkeypatch.setattr(sweep, "measure", instead)
    monkeypatch.setattr(sweep, "measure_angles", angles)
    return names


# --- the points


def test_a_grid_has_every_angle_where_weights_are_untied() -> None:
    found = grid(["cep-1h", "cvf-1h"], (0, 90), (1, 2), "glyphs", 50, epochs=3)
    assert [point_name(point) for point in found] == [
        "cep-1h-seed1",
        "cep-1h-seed2",
        "cvf-1h-0deg-seed1",
        "cvf-1h-0deg-seed2",
        "cvf-1h-90deg-seed1",
        "cvf-1h-90deg-seed2",
    ]
    assert {(point.train_size, point.experiment.training.epochs) for point in found} == {(50, 3)}
    assert found[-1].experiment == EXPERIMENTS["cvf-1h"].override(psi=90, epochs=3)
    workers = grid(["conv"], (0,), [0], "glyphs")[0].experiment.training.workers
    assert workers == 1  # one process per run


def test_a_grid_takes_settings_of_every_part_and_seeds_of_numpy() -> None:
    settings = {"hidden": [6], "beta": 0.3, "momentum": 0.5, "activation": "tanh"}
    (point,) = grid(["p-1h"], (), np.arange(1), "glyphs", 50, **settings)
    assert point.experiment == EXPERIMENTS["p-1h"].override(**settings)
    assert Configuration.from_json(json.loads(json.dumps(point.to_json()))) == point


def test_a_point_is_the_run_that_the_main_command_makes(tmp_path: Path) -> None:
    record = measure(points()[-1], tmp_path / "point")
    out = tmp_path / "run"
    command = [
        "--preset",
        "cvf-1h",
        "--angle",
        "22.5",
        "--hidden",
        "6",
        "--epochs",
        "1",
        "--train-size",
        "60",
    ]
    assert mnist.main([*command, "--seed", "3", "--data", "glyphs", "--out", str(out), "--quiet"]) == 0
    summary = json.loads((out / "summary.json").read_text("utf-8"))
    for one in (record, summary):
        del one["seconds"], one["history"][0]["seconds"]
    assert json.loads(json.dumps(record)) == summary


def test_it_refuses_other_data_than_the_points(tmp_path: Path) -> None:
    words = r"trained on mnist, but the data found \(glyphs \(not MNIST\)\) have other contents: provide the"
    with pytest.raises(ValueError, match=words):
        measure(replace(points()[0], dataset="mnist", digests=("0",) * 4), tmp_path)


class Killed(BaseException):
    """The end of a process within an epoch."""


@pytest.fixture
def killed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> tuple[Configuration, Path]:
    """Return a point and the directory in which its run was killed in its second epoch."""
    (point,) = grid(["cvf-1h"], [90], [3], "glyphs", 60, hidden=(6,), epochs=3)

    def batch(report: Report, progress: Progress) -> None:
        if progress.epoch == 1 and progress.batch == 2:
            report.save(progress)
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Report, "batch", batch)
        patch.setattr(report, "git_commit", lambda: "old")
        with pytest.raises(Killed):
            measure(point, tmp_path / "killed")
    return point, tmp_path / "killed"


def test_a_killed_point_continues_from_its_checkpoint(
    killed: tuple[Configuration, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    point, directory = killed
    monkeypatch.setattr(report, "git_commit", lambda: "new")
    begun: list[tuple[int, int]] = []
    begin = Report.begin

    def note(report: Report, progress: Progress) -> None:
        begun.append((progress.epoch, progress.batch))
        begin(report, progress)

    monkeypatch.setattr(Report, "begin", note)
    resumed, whole = (measure(point, place) for place in (directory, tmp_path / "whole"))
    assert begun == [(1, 2), (0, 0)]
    assert resumed["git_commits"] == ["old", "new"]
    assert whole["git_commits"] == ["new"]
    for record in (resumed, whole):
        for name in ("seconds", "git_commit", "git_commits"):
            del record[name]
        for epoch in record["history"]:
            del epoch["seconds"]
    assert resumed == whole


def test_a_run_that_was_killed_before_its_first_checkpoint_leaves_no_commit(
    killed: tuple[Configuration, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    point, directory = killed
    (directory / "checkpoint.npz").unlink()
    monkeypatch.setattr(report, "git_commit", lambda: "new")
    assert measure(point, directory)["git_commits"] == ["new"]


def test_the_checkpoint_of_another_point_is_refused(killed: tuple[Configuration, Path]) -> None:
    point, directory = killed
    with pytest.raises(CheckpointError, match=r"checkpoint\.npz is of a run with other settings: choose"):
        measure(replace(point, seed=4), directory)


def test_the_angles_of_a_point_are_those_of_its_training_images() -> None:
    point = points()[-1]
    dynamics = point.experiment.build(point.image, point.classes)
    training, _ = point.samples(load("glyphs"))
    expected = update_angles(point.experiment, dynamics, training)
    found = measure_angles(point)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        assert len(values) == 3  # batches of 20
        assert found[name] == {
            "mean": pytest.approx(np.mean(values)),
            "std": pytest.approx(np.std(values, ddof=1)),
        }
    (single,) = grid(["p-1h"], (), [0], "glyphs", 20, **SMALL)
    assert all(angle["std"] == 0 for angle in measure_angles(single).values())


def test_the_time_to_an_error_is_that_of_the_first_epoch_with_it() -> None:
    history = [
        {"test_error": error, "train_error": error - 2, "seconds": 10.0 * n}
        for n, error in enumerate((9, 6, 4, 5, 3), start=1)
    ]
    epochs = [sweep._epochs_to({"history": history}, error) for error in (5, 4, 3.5, 2, None)]
    assert epochs == [3, 3, 5, np.inf, np.inf]


def test_the_minutes_of_a_run_count_each_epoch_as_long_as_the_shortest() -> None:
    """The first epoch begins at 0 and can be the shortest one."""
    for ends in ((30, 90, 210), (60, 90, 210), (60, 180, 210)):
        record = {"history": [{"seconds": float(end)} for end in ends]}
        assert [sweep._minutes(record, epochs) for epochs in (3, 2, np.inf)] == [1.5, 1, np.inf]
    assert sweep._minutes({"history": [{"seconds": 120.0}]}, 1) == 2


# --- the files of a sweep


def test_a_sweep_writes_a_file_for_each_point_and_a_summary(
    tmp_path: Path, executor: Executor, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert sweep.sweep(points(), tmp_path / "new" / "sweep", executor) == {}
    assert measured == NAMES
    directory = tmp_path / "new" / "sweep"
    assert {path.stem for path in directory.glob("*.json")} == {*NAMES, "summary"}
    lines = json.loads((directory / "summary.json").read_text("utf-8"))["points"]
    assert {path.stem for path in (directory / "angles").iterdir()} == {
        "p-1h",
        "cvf-1h-0deg",
        "cvf-1h-22.5deg",
    }
    assert sorted((line["preset"], line["psi"], line["angles"]["theorem"]["mean"]) for line in lines) == [
        ("cvf-1h", 0, 30),
        ("cvf-1h", 22.5, 52.5),
        ("p-1h", 0, 30),
    ]
    # The test errors of the epochs are 0, 1, …, 6, and the mean of the last five is 4.
    assert {(line["seed"], line["epochs"], line["test_error"]) for line in lines} == {(3, 7, 4.0)}
    shown = capsys.readouterr()
    assert "\ncvf-1h-22.5deg-seed3: test error 4.00 %, 1 s\n" in shown.out
    line = "angles/cvf-1h-22.5deg: angle to BPTT before training 52.5 ± 2.0° (theorem)"
    assert f"\n{line}\n" in shown.out
    assert shown.err == ""  # stderr is not a terminal, so there is no bar


def test_a_restart_does_what_is_missing(tmp_path: Path, executor: Executor, measured: list[str]) -> None:
    sweep.sweep(points()[:1], tmp_path, executor)
    kept = (tmp_path / f"{NAMES[0]}.json").stat().st_mtime_ns
    assert sweep.sweep(points(), tmp_path, executor) == {}
    assert measured == NAMES
    assert (tmp_path / f"{NAMES[0]}.json").stat().st_mtime_ns == kept
    assert len(json.loads((tmp_path / "summary.json").read_text("utf-8"))["points"]) == 3


def test_a_point_without_digests_is_recognized(
    tmp_path: Path, executor: Executor, measured: list[str]
) -> None:
    """Files of schema 1 have none, except those of MNIST."""
    sweep.sweep(points(), tmp_path, executor)
    path = tmp_path / f"{NAMES[0]}.json"
    record = json.loads(path.read_text("utf-8"))
    path.write_text(
        json.dumps(record | {"configuration": record["configuration"] | {"digests": []}}), "utf-8"
    )
    assert sweep.sweep(points(), tmp_path, executor) == {}
    assert measured == NAMES
    other = record["configuration"] | {"digests": ["0"] * 4}
    path.write_text(json.dumps(record | {"configuration": other}), "utf-8")
    with pytest.raises(ValueError, match="holds a run with other settings"):
        sweep.sweep(points(), tmp_path, executor)


@pytest.mark.skipif("EQPROP_NP_DATA" not in os.environ, reason="EQPROP_NP_DATA names no MNIST")
def test_the_recorded_sweep_is_complete(tmp_path: Path, executor: Executor, measured: list[str]) -> None:
    """The recorded points are those that the lists make today."""
    recorded = ROOT / "data" / "results" / "paper"
    shutil.copytree(recorded, tmp_path, dirs_exist_ok=True)
    lists = [sweep.read_list(ROOT / "data" / "lists" / f"{name}.txt") for name in ("table", "fig1c")]
    runs = {sweep._name(run.experiment, run.seed): run[:2] for runs in lists for run in runs}
    found = [run for name, run in runs.items() if (recorded / f"{name}.json").exists()]
    assert len(found) > 30
    found = sweep._resolve(found, "mnist", None)
    assert sweep.sweep(found, tmp_path, executor) == {}
    assert measured == []
    written, kept = (json.loads((d / "summary.json").read_text("utf-8")) for d in (tmp_path, recorded))
    assert written["points"] == kept["points"]


def test_a_point_with_other_settings_is_not_taken_for_the_same(
    tmp_path: Path, executor: Executor, measured: list[str]
) -> None:
    sweep.sweep(points(), tmp_path, executor)
    others = grid(["p-1h"], (), [3], "glyphs", 60, **SMALL | {"epochs": 2})
    with pytest.raises(ValueError, match=r"p-1h-seed3\.json holds a run with other settings"):
        sweep.sweep(others, tmp_path, executor)
    assert measured == NAMES


def test_a_point_that_fails_is_reported_and_the_others_are_kept(
    tmp_path: Path,
    executor: Executor,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = sweep.measure

    def bad(point: Configuration, directory: Path) -> sweep.Record:
        if point.experiment.psi == 0 and point.experiment.rule == "cvf":
            raise RuntimeError("no luck")
        return good(point, directory)

    monkeypatch.setattr(sweep, "measure", bad)
    assert sweep.sweep(points(), tmp_path, executor) == {NAMES[1]: "RuntimeError: no luck"}
    assert capsys.readouterr().err == f"{NAMES[1]} failed: RuntimeError: no luck\n"
    assert {path.stem for path in tmp_path.glob("*.json")} == {NAMES[0], NAMES[2], "summary"}
    monkeypatch.setattr(sweep, "measure", good)
    assert sweep.sweep(points(), tmp_path, executor) == {}
    assert measured == [NAMES[0], NAMES[2], NAMES[1]]


def test_an_interrupt_cancels_what_has_not_begun(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch, ctrl_c: None
) -> None:
    def line(name: str, record: sweep.Record) -> str:
        if name == NAMES[0]:
            signal.raise_signal(signal.SIGINT)
        return name

    monkeypatch.setattr(sweep, "_line", line)
    with ThreadPoolExecutor(1) as executor, pytest.raises(KeyboardInterrupt):
        sweep.sweep(points(), tmp_path, executor)
    assert (tmp_path / f"{NAMES[0]}.json").exists()
    assert len(json.loads((tmp_path / "summary.json").read_text("utf-8"))["points"]) == 1


def test_it_goes_on_if_nobody_reads_its_output(
    tmp_path: Path, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in ``| head -1``."""
    reader, writer = os.pipe()
    os.close(reader)
    monkeypatch.setattr(sweep, "OwnProcesses", ThreadPoolExecutor)
    arguments = ["p-1h", "--seeds", "0", "1", "--data", "glyphs", "--train-size", "40"]
    with open(writer, "w", encoding="utf-8") as unread:
        monkeypatch.setattr(sys, "stdout", unread)
        assert main([*arguments, "--out", str(tmp_path)]) == 0
    assert {path.stem for path in tmp_path.glob("*.json")} == {"p-1h-seed0", "p-1h-seed1", "summary"}


# --- full disks, foreign files, and other sweeps


def test_two_sweeps_do_not_share_a_directory(
    tmp_path: Path, executor: Executor, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with locked(tmp_path):
        assert main(["p-1h", "--data", "glyphs", "--train-size", "40", "--out", str(tmp_path)]) == 2
        err = capsys.readouterr().err
        assert (
            err == f"error: {tmp_path} is in use by another run: wait until it ends, or choose another one\n"
        )
        with pytest.raises(BlockingIOError):
            sweep.sweep(points(), tmp_path, executor)
    assert measured == []
    assert sweep.sweep(points(), tmp_path, executor) == {}


class FullDisk:
    """A replacement of `write_json` that fails for a file as often as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, name: str, times: float) -> None:
        self.name, self.times, self.write = name, times, sweep.write_json
        monkeypatch.setattr(sweep, "write_json", self)

    def __call__(self, path: Path, content: dict) -> None:
        if path.name == self.name and self.times > 0:
            self.times -= 1
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self.write(path, content)


def test_a_result_is_kept_while_the_disk_is_full(
    tmp_path: Path,
    executor: Executor,
    measured: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    FullDisk(monkeypatch, f"{NAMES[0]}.json", times=2)
    assert sweep.sweep(points(), tmp_path, executor) == {}
    assert {path.stem for path in tmp_path.glob("*.json")} == {*NAMES, "summary"}
    assert len(json.loads((tmp_path / "summary.json").read_text("utf-8"))["points"]) == 3
    line = (
        f"{NAMES[0]} failed: {tmp_path / NAMES[0]}.json cannot be written (No space left on device): the "
        "result is kept in memory and written later\n"
    )
    assert capsys.readouterr().err == 2 * line


def test_a_result_that_has_no_place_is_written_elsewhere(
    tmp_path: Path, executor: Executor, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep.tempfile, "mkdtemp", lambda prefix: str(tmp_path))
    FullDisk(monkeypatch, f"{NAMES[0]}.json", times=4)  # for each of the three points, and at the end
    failed = sweep.sweep(points(), tmp_path / "sweep", executor)
    kept = tmp_path / f"{NAMES[0]}.json"
    assert failed[NAMES[0]].endswith(f"the result is in {kept}; move it to {tmp_path / 'sweep'}")
    shutil.move(kept, tmp_path / "sweep")
    assert sweep.sweep(points(), tmp_path / "sweep", executor) == {}
    assert measured == NAMES


def test_a_summary_that_cannot_be_written_is_a_failure(
    tmp_path: Path, executor: Executor, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "angles").mkdir()
    monkeypatch.setattr(sweep, "_prepare", lambda directory, points: None)
    FullDisk(monkeypatch, "summary.json", times=1)
    failed = sweep.sweep(points(), tmp_path, executor)
    assert failed == {"summary.json": "OSError: [Errno 28] No space left on device"}
    assert {path.stem for path in tmp_path.glob("*.json")} == set(NAMES)


def test_training_goes_on_while_no_checkpoint_can_be_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(path: Path, *content: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(report.checkpoint, "save", full)
    record = measure(points()[0], tmp_path)
    assert len(record["history"]) == 1
    assert capsys.readouterr().err == f"{tmp_path}: no checkpoint was saved (No space left on device)\n"


@pytest.mark.parametrize("content", ["", "{", "[]", '{"preset": "p-1h"}', '{"configuration": {}}'])
def test_a_foreign_file_with_the_name_of_a_point_is_refused(
    content: str, tmp_path: Path, measured: list[str], executor: Executor, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine-seed1.json"
    path.write_text(content, "utf-8")
    with pytest.raises(ValueError, match=rf"^{path} is not the record of a point \(\w+\): remove it"):
        sweep.sweep(points(), tmp_path, executor)
    assert measured == []
    assert path.read_text("utf-8") == content
    path.rename(tmp_path / "p-1h-seed0.json")
    assert main(["--table", str(listed(tmp_path / "list", "p-1h")), "--out", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {tmp_path / 'p-1h-seed0.json'} is not the record of a point")


@pytest.mark.parametrize("missing", ["preset", "seed", "epochs", "history", "train_error", "seconds"])
def test_a_record_without_a_field_is_refused(
    missing: str, tmp_path: Path, measured: list[str], executor: Executor
) -> None:
    sweep.sweep(points(), tmp_path, executor)
    path = tmp_path / "p-1h-seed3.json"
    record = json.loads(path.read_text("utf-8"))
    for holder in (record, *record["history"]):
        holder.pop(missing, None)
    for content in (json.dumps(record), "[" * 100_000):
        path.write_text(content, "utf-8")
        with pytest.raises(ValueError, match=rf"^{path} is not the record of a point \(\w+\): remove it"):
            sweep.sweep(points(), tmp_path, executor)


def test_a_record_with_the_name_of_another_is_refused(
    tmp_path: Path, measured: list[str], executor: Executor
) -> None:
    """Otherwise one run would count as two seeds."""
    sweep.sweep(points(), tmp_path, executor)
    copy = tmp_path / "p-1h-seed4.json"
    copy.write_text((tmp_path / "p-1h-seed3.json").read_text("utf-8"), "utf-8")
    with pytest.raises(ValueError, match=f"{copy} is the record of p-1h-seed3: give it this name, or remove"):
        sweep.sweep(points(), tmp_path, executor)


@pytest.mark.parametrize("source, size", [("glyphs", 50), ("glyphs", 70)])
def test_one_directory_has_runs_of_one_data_set(
    source: str, size: int, tmp_path: Path, measured: list[str], executor: Executor,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    sweep.sweep(points(), tmp_path, executor)
    measured.clear()
    others = grid(["p-1h"], (), [4], source, size, **SMALL)
    with pytest.raises(ValueError, match="and p-1h-seed4 differ in their data or in the number of training"):
        sweep.sweep(others, tmp_path, executor)
    assert measured == []
    sweep.sweep(others, tmp_path / "other", executor)
    path = listed(tmp_path / "list", "p-1h --seeds 3 4")
    for run in sweep.read_list(path):
        (file,) = tmp_path.rglob(f"p-1h-seed{run.seed}.json")
        record = json.loads(file.read_text("utf-8"))
        configuration = Configuration.from_json(record["configuration"])
        record["configuration"] = replace(configuration, experiment=run.experiment).to_json()
        (tmp_path / file.name).write_text(json.dumps(record), "utf-8")
    assert main(["--table", str(path), "--out", str(tmp_path)]) == 2
    assert "p-1h-seed3 and p-1h-seed4 differ in their data" in capsys.readouterr().err


def test_a_point_given_twice_and_a_useless_directory_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = listed(tmp_path / "file")
    for arguments, words in (
        (["--seeds", "0", "0"], "p-1h-seed0 is given more than once"),
        (["--out", str(file)], f"{file} cannot be used for the results (File exists): choose another --out"),
        (["--out", str(file / "sub")], f"{file / 'sub'} cannot be used for the results (Not a directory)"),
        (["--out", ""], "argument --out: it must name a directory, got an empty name; see --help"),
        (["--workers", "0"], "--workers must be a positive integer, got 0"),
    ):
        assert main(["p-1h", "--data", "glyphs", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"error: {words}")
    assert file.read_text("utf-8") == ""


def test_the_command_runs_in_a_thread(tmp_path: Path) -> None:
    """There it can handle no signal."""
    file = listed(tmp_path / "list", "p-1h")
    with ThreadPoolExecutor(1) as executor:
        assert executor.submit(main, ["--table", str(file), "--out", str(tmp_path)]).result() == 0


# --- the angles


def test_a_sweep_measures_the_angles_once_for_all_seeds(
    tmp_path: Path, executor: Executor, measured: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep.sweep(grid(["p-1h"], (), [3, 4], "glyphs", 60, **SMALL), tmp_path, executor)
    (tmp_path / "angles" / "p-1h.json").write_text('{"theorem": {"mean": 1.0, "std": 0.5}}', "utf-8")
    others = grid(["p-1h"], (), [5], "glyphs", 60, **SMALL)
    no_angle = grid(["eb-1h"], (), [3], "glyphs", 60, **SMALL, rule="bptt")
    assert sweep.sweep(others + no_angle, tmp_path, executor) == {}
    points = json.loads((tmp_path / "summary.json").read_text("utf-8"))["points"]
    found = [(point["preset"], point["seed"], point["angles"]) for point in points]
    kept = {"theorem": {"mean": 1.0, "std": 0.5}}
    assert found == [("eb-1h", 3, {}), *(("p-1h", seed, kept) for seed in (3, 4, 5))]


def test_a_foreign_file_of_angles_is_refused(tmp_path: Path, executor: Executor, measured: list[str]) -> None:
    (tmp_path / "angles").mkdir()
    (tmp_path / "angles" / "p-1h.json").write_text("[]", "utf-8")
    with pytest.raises(ValueError, match=r"angles/p-1h\.json is not the record of angles \(AttributeError\)"):
        sweep.sweep(points(), tmp_path, executor)


def test_the_angles_have_their_mean_and_spread() -> None:
    point = points()[2]
    found = measure_angles(point)
    training, _ = point.samples(load("glyphs"))
    angles = update_angles(point.experiment, point.experiment.build((28, 28), 10), training)
    assert found.keys() == angles.keys()
    for name, values in angles.items():
        assert len(values) == 3  # batches of 20 images
        assert found[name] == {
            "mean": pytest.approx(np.mean(values)),
            "std": pytest.approx(np.std(values, ddof=1)),
        }


# --- lists and tables


def listed(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(lines), "utf-8")
    return path


def test_a_list_has_the_runs_of_its_lines_in_their_order(tmp_path: Path) -> None:
    path = listed(
        tmp_path / "list",
        "# ψ",
        "",
        "cvf-1h --angles 90 0 --epochs 2 --published 2.43 # C-VF",
        "p-1h --seeds 1 0",
    )
    preset = EXPERIMENTS["cvf-1h"]
    assert sweep.read_list(path) == [
        (preset.override(psi=90, epochs=2), 0, 2.43),
        (preset.override(psi=0, epochs=2), 0, 2.43),
        (EXPERIMENTS["p-1h"], 1, None),
        (EXPERIMENTS["p-1h"], 0, None),
    ]


@pytest.mark.parametrize(
    "line, words",
    [
        ("p-9h", "p-9h is not a preset: choose from p-1h, "),
        ("p-1h --seeds", "argument --seeds: expected at least one argument"),
        ("p-1h --angel 3", "unrecognized arguments: --angel 3"),
        ("p-1h --out there", "unrecognized arguments: --out there"),
        (
            "p-1h --angles 0 90",
            "--angles has no effect, because p-1h has tied weights: leave it out, or give",
        ),
        ("cvf-1h --angles 200", "the angle must be from 0 to 180 degrees, got 200.0"),
        ('p-1h "', "No closing quotation"),
    ],
)
def test_a_faulty_line_is_named(
    line: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = listed(tmp_path / "list", "p-1h", line)
    assert main(["--list", str(path)]) == 2
    (found,) = capsys.readouterr().err.splitlines()
    assert found.startswith(f"error: {path}, line 2: {words}")


def test_angles_of_tied_weights_are_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["p-1h", "cep-1h", "--angles", "90"]) == 2
    words = "--angles has no effect, because p-1h and cep-1h have tied weights: leave it out, or give cvf-1h"
    assert words in capsys.readouterr().err


def test_a_list_without_runs_and_other_points_beside_a_list_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    empty, good = listed(tmp_path / "empty", "# nothing"), listed(tmp_path / "good", "p-1h")
    for arguments, words in (
        (["--list", empty], f"{empty} lists no run"),
        (["--list", tmp_path / "none"], f"{tmp_path / 'none'} is not a readable list of runs"),
        (["--list", good, "p-1h"], "p-1h was given, but --list takes the points from its file"),
        (["--list", good, "--seeds", 1], "--seeds was given, but --list takes the points from its file"),
        ([], "give a preset (p-1h, "),
        (["--table", good, "p-1h"], "p-1h was given, but --table takes the runs from its file"),
        (["--table", good, "--epochs", 1], "--epochs was given, but --table takes the runs from its file"),
        (["--table", good, "--data", "auto"], "--data was given, but --table takes the runs from its file"),
        (["--table", good, "--workers", 2], "--workers was given, but --table takes the runs from its file"),
    ):
        assert main(list(map(str, arguments))) == 2
        (found,) = capsys.readouterr().err.splitlines()
        assert found.startswith(f"error: {words}")


def test_a_table_has_a_row_for_each_run_beside_the_published_error(
    tmp_path: Path, executor: Executor, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = listed(
        tmp_path / "list",
        "cvf-1h --angles 22.5 --published 3",
        "eb-1h --authors-code",
        "eb-1h",
        "p-1h --seeds 3 1 7 --published 4.5",
    )
    runs = [run for run in sweep.read_list(path) if run.seed != 7]
    points = sweep._resolve([run[:2] for run in runs], "glyphs", None)
    sweep.sweep([point for point in points if point.experiment.name != "eb-1h"], tmp_path, executor)
    capsys.readouterr()
    commit_time = {"one": [60, 120, 180, 900, 960, 1020, 1080], "two": [90, 120, 240, 340, 440, 540, 600]}
    for seed, errors, commit in ((1, range(7), "one"), (3, range(2, 9), "two")):
        file = tmp_path / f"p-1h-seed{seed}.json"
        history = [
            {"test_error": 9.0 - error, "train_error": error / 2, "seconds": commit_time[commit][n]}
            for n, error in enumerate(errors)
        ]
        record = json.loads(file.read_text("utf-8"))
        file.write_text(
            json.dumps(record | {"history": history, "git_commits": [commit], "seconds": 420}), "utf-8"
        )
    assert main(["--table", str(path), "--out", str(tmp_path)]) == 0
    _, _, *rows, _, commits, missing = capsys.readouterr().out.splitlines()
    # The mean over the last five epochs is 5 and 3, of the training error 2 and 3.
    # The shortest epochs take 60 and 30 seconds, so 7 of them 7 and 3.5 minutes.
    # They had 4.5 % after 6 and 4 epochs.
    assert rows == [
        "| p-1h | 30 | 3, 1 | 4.00 ± 1.41 | 4.50 | 2.50 ± 0.71 | 5.2 ± 2.5 | 4.0 ± 2.8 |",
        "| eb-1h, authors’ code | 30 | – | – | – | – | – | – |",
        "| eb-1h | 30 | – | – | – | – | – | – |",
        "| cvf-1h, ψ = 22.5° | 100 | 0 | 4.00 | 3.00 | 5.00 | 0.0 | 0.0 |",
    ]
    assert commits == "Commits of the code: one, two, unknown."
    assert missing == "Missing: eb-1h-authors-code-seed0, eb-1h-seed0, p-1h-seed7."


def test_a_row_has_no_time_to_an_error_that_one_run_did_not_reach() -> None:
    records = [{"history": [{"test_error": error, "seconds": 60.0}]} for error in (2.0, 2.6)]
    assert [sweep._epochs_to(record, 2.5) for record in records] == [1, np.inf]
    assert sweep._spread([1.0, np.inf]) == "–"


def test_a_table_refuses_a_record_with_other_settings(
    tmp_path: Path, executor: Executor, measured: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    sweep.sweep(points(), tmp_path, executor)
    path = listed(tmp_path / "list", "p-1h --seeds 3")
    assert main(["--table", str(path), "--out", str(tmp_path)]) == 2
    assert "p-1h-seed3.json holds a run with other settings than the list" in capsys.readouterr().err


@pytest.mark.parametrize("path", sorted((ROOT / "data" / "lists").glob("*.txt")), ids=lambda path: path.stem)
def test_the_committed_lists_have_no_point_twice(path: Path) -> None:
    names = [sweep._name(run.experiment, run.seed) for run in sweep.read_list(path)]
    assert len(names) == len(set(names))


# --- processes and clusters


def test_a_process_that_dies_takes_no_other_with_it() -> None:
    executor = OwnProcesses(2)
    bad, good, threads = (
        executor.submit(*call) for call in ((os._exit, 3), (os.getpid,), (threadpool_info,))
    )
    with pytest.raises(BrokenProcessPool) as error:
        bad.result()
    assert sweep._reason(error.value).startswith(
        "its process ended (see its messages above; without any, memory perhaps ran out); run"
    )
    assert good.result() != os.getpid()
    assert {pool["num_threads"] for pool in threads.result() if pool["user_api"] == "blas"} <= {1}


@pytest.mark.parametrize("failed, code", [({}, 0), ({"p-1h-seed0": "RuntimeError: no luck"}, 1)])
def test_the_exit_code_tells_of_a_failure(
    failed: dict[str, str], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweep, "sweep", lambda *arguments: failed)
    assert main(["p-1h", "--data", "glyphs", "--train-size", "40"]) == code


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["p-1h", "--data", "glyphs", "--train-size", "40", "--out", str(tmp_path), "--workers", "1"]
    assert main([*command, "--epochs", "1"]) == 0
    assert capsys.readouterr().out.endswith(f"{tmp_path / 'summary.json'}\n")
    assert json.loads((tmp_path / "p-1h-seed0.json").read_text("utf-8"))["train_size"] == 40
    kept = (tmp_path / "p-1h-seed0.json").read_bytes()
    path = listed(tmp_path / "list", "p-1h --epochs 1")
    assert main(["--list", str(path), *command[1:]]) == 0
    assert (tmp_path / "p-1h-seed0.json").read_bytes() == kept
    assert main([*command, "--epochs", "2"]) == 2
    assert "holds a run with other settings" in capsys.readouterr().err
    assert main(["cvf-1h", "--angles", "200", "--data", "glyphs"]) == 2
    assert "the angle must be from 0 to 180 degrees, got 200.0" in capsys.readouterr().err


@pytest.mark.parametrize("number, code", [(signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_command_leaves_no_process_behind(number: int, code: int, tmp_path: Path) -> None:
    """`communicate` returns only when the last process that holds the pipe has ended."""
    out = tmp_path / "sweep"
    running = start(out)
    while not (out / "p-1h-seed0").exists():  # now the run trains
        assert running.poll() is None
        time.sleep(0.05)
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode == code
    if number == signal.SIGTERM:
        assert err == "interrupted; run the same command again to continue\n"


@pytest.mark.skipif(os.name == "nt", reason="process groups are POSIX's")
def test_ctrl_c_while_a_run_starts_prints_one_line(tmp_path: Path) -> None:
    """A terminal sends Ctrl-C to each process, also to a new one that still imports its modules."""
    when = "'--multiprocessing-fork' in sys.orig_argv and name == 'numpy'"
    running = start(
        tmp_path / "sweep",
        PYTHONPATH=f"{ROOT}{os.pathsep}{interrupting(tmp_path / 'hook', when, group=True)}",
    )
    _, err = running.communicate(timeout=60)
    assert (running.returncode, err) == (130, "interrupted; run the same command again to continue\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_second_ctrl_c_does_not_stop_the_end_of_the_processes(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Python waits at its exit for each process that is left, so the command would hang."""
    ended = []

    def end(executor: OwnProcesses) -> None:
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        ended.append(executor)

    monkeypatch.setattr(OwnProcesses, "end", end)
    monkeypatch.setattr(sweep, "sweep", lambda *arguments: signal.raise_signal(number))
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["p-1h", "--data", "glyphs", "--out", str(tmp_path)]) == 130
    assert len(ended) == 1
    assert capsys.readouterr().err == "interrupted; run the same command again to continue\n"
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers


def start(out: Path, **environment: str) -> subprocess.Popen[str]:
    """Start a sweep that does not end by itself, in a process group of its own."""
    options = ["--data", "glyphs", "--train-size", "40", "--epochs", "100000", "--out", str(out)]
    return subprocess.Popen(
        [sys.executable, "-m", "eqprop_np.sweep", "p-1h", *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        start_new_session=True,
        preexec_fn=ctrl_c_as_in_a_terminal if os.name == "posix" else None,
    )


def test_it_runs_on_a_dask_cluster(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    bad = replace(points()[0], dataset="other", digests=("0",) * 4)
    cluster = distributed.LocalCluster(1, threads_per_worker=1, processes=True, dashboard_address=None)
    with cluster, distributed.Client(cluster) as client:
        failed = sweep.sweep([bad, *points()[1:]], tmp_path, client.get_executor())
    assert failed == {
        NAMES[0]: "DataError: it was trained on other, but the data found (glyphs (not MNIST)) have other "
        "contents: provide the data of the point on this machine"
    }
    assert {path.stem for path in tmp_path.glob("*.json")} == {*NAMES[1:], "summary"}
    here = measure(points()[1], tmp_path / "here")["history"][0]["test_error"]
    assert json.loads((tmp_path / f"{NAMES[1]}.json").read_text("utf-8"))["history"][0]["test_error"] == here
