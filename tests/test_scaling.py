"""Tests of the measurement of how cost grows. No test depends on a measured time."""

import json
from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import write_bands

from eqprop_np import benchmark
from eqprop_np.experiments import scaling
from eqprop_np.experiments.datasets import load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.experiments.report import blas
from eqprop_np.experiments.scaling import (
    VARIATIONS,
    Point,
    draw_scaling,
    exponents,
    measure_point,
    multiplications_of_a_batch,
    resized,
)
from eqprop_np.network import chain
from eqprop_np.rules.phases import Phases

Patch = pytest.MonkeyPatch
CASES = [(name, variable) for name, settings in VARIATIONS.items() for variable in settings]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_bands(tmp_path / "bands", side=16)


@pytest.fixture
def samples(data: Path) -> benchmark.Samples:
    dataset = load(str(data))
    return benchmark.Samples(dataset.train_images, dataset.train_labels)


def point(
    value: int, seconds: float = 1.0, memory: float = 1.0, work: float = 1.0, steps: float = 1.0
) -> Point:
    return Point(value, seconds, memory, work, steps)


def test_the_exponents_are_those_of_power_laws() -> None:
    points = [point(n, 3 * n**2, 5 / n, 7 * n**0.5, 4) for n in (5, 10, 20, 80)]
    assert exponents(points) == pytest.approx(
        {"seconds": 2, "memory": -1, "work": 0.5, "steps": 0}, abs=1e-12
    )


def test_the_exponent_is_that_of_the_least_squares() -> None:
    """The logarithms to base 2 are 0, 1, 2 and 0, 1, 1, whose best line has the slope 1/2."""
    assert exponents([point(1, 1), point(2, 2), point(4, 2)])["seconds"] == pytest.approx(0.5)


@pytest.mark.parametrize("name, variable", CASES)
def test_each_setting_varies_alone_around_the_preset(name: str, variable: str) -> None:
    """One value is that of the preset. The values rise, and so does the work of a batch, with the others."""
    values, change = VARIATIONS[name][variable]
    assert all(a < b for a, b in pairwise(values))
    preset = EXPERIMENTS[name].override(workers=1)
    varied = [change(preset, value) for value in values]
    sides = values if variable == "image side" else [28] * len(values)
    networks = [e.build((side, side), 10).network for e, side in zip(varied, sides, strict=True)]
    parts = [(network, e.training, e.phases) for network, e in zip(networks, varied, strict=True)]
    assert (preset.build((28, 28), 10).network, preset.training, preset.phases) in parts
    total = [
        e.training.batch_size * e.training.workers * multiplications_of_a_batch(network, e.phases)
        for e, network in zip(varied, networks, strict=True)
    ]
    assert all(a < b for a, b in pairwise(total))
    if variable == "depth":
        assert [network.depth - 1 for network in networks] == list(values)


def test_the_multiplications_of_a_batch() -> None:
    """Nine steps and, in a nudged phase of ten synchronous steps, five."""
    network = chain([7, 5, 3])
    one, both = Phases(30, 10, 0.1), Phases(30, 10, 0.1, "centered")
    drives, gradient = 35 + 9 * 2 * 15, 35 + 2 * 15
    assert multiplications_of_a_batch(network, one) == drives + 5 * 2 * 15 + gradient
    assert multiplications_of_a_batch(network, both) == drives + 2 * 5 * 2 * 15 + gradient


def test_images_of_another_side() -> None:
    images = np.arange(9).reshape(1, 3, 3)
    np.testing.assert_array_equal(resized(images, 3), images)
    np.testing.assert_array_equal(resized(images, 2), [[[0, 1], [3, 4]]])
    np.testing.assert_array_equal(resized(images, 6), images.repeat(2, axis=1).repeat(2, axis=2))


@pytest.fixture
def small(monkeypatch: Patch) -> list[Experiment]:
    """Make the presets small, and return a list of the experiments that are measured."""
    measured, run = [], Experiment.run

    def spy(self: Experiment, *arguments: Any) -> Any:
        measured.append(self)
        return run(self, *arguments)

    monkeypatch.setattr(Experiment, "run", spy)
    monkeypatch.setitem(scaling.EXPERIMENTS, "p-1h", EXPERIMENTS["p-1h"].override(hidden=(4,)))
    return measured


def test_a_point_is_the_median_per_sample(
    samples: benchmark.Samples, small: list[Experiment], monkeypatch: Patch
) -> None:
    """The first batch shows the memory, two more warm up, and three are timed: 1, 2 and 6 s."""
    now = iter((0, 1, 10, 12, 20, 26))
    monkeypatch.setattr(scaling.time, "process_time", lambda: float(next(now)))
    trained = []

    def by_rule(*_: Any) -> benchmark.Batches:
        def train(numbers: range) -> list[float]:
            trained.extend(numbers)
            return [float(number) for number in numbers]

        return train

    monkeypatch.setattr(scaling, "by_rule", by_rule)
    found = measure_point("p-1h", "batch size", 10, samples, 3, 2)
    assert trained == [0, 1, 2, 3, 4, 5]
    assert (found.value, found.seconds, found.steps) == (10, 2 / 10, (3 + 4 + 5) / 3)
    (measured,) = small
    assert (measured.training.batch_size, measured.training.workers) == (10, 1)
    assert measured.phases.free_steps == 400


def test_the_memory_is_that_of_the_parameters_and_a_batch(
    samples: benchmark.Samples, small: list[Experiment], monkeypatch: Patch
) -> None:
    """θ and its gradient take 2·4·256·n bytes for n hidden neurons, of which all but those of x are few."""
    monkeypatch.setitem(scaling.EXPERIMENTS, "p-1h", EXPERIMENTS["p-1h"].override(hidden=(400,)))
    found = measure_point("p-1h", "batch size", 5, samples, 1, 0)
    theta = 4 * 256 * 400
    assert 2 * theta < 5 * found.memory < 3 * theta
    twice = measure_point("p-1h", "batch size", 10, samples, 1, 0)
    assert found.memory / twice.memory == pytest.approx(2, rel=0.1)


def test_two_processes_are_measured(
    samples: benchmark.Samples, small: list[Experiment], monkeypatch: Patch
) -> None:
    """Each of them has θ and a gradient. The first one also sends θ and receives a gradient."""
    monkeypatch.setitem(scaling.EXPERIMENTS, "p-1h", EXPERIMENTS["p-1h"].override(hidden=(400,)))
    one, two = (measure_point("p-1h", "workers", value, samples, 2, 0) for value in (1, 2))
    assert [measured.training.workers for measured in small] == [1, 2]
    assert 3.5 < two.memory / one.memory < 8
    assert two.steps > 0


def test_the_side_of_the_images_varies(samples: benchmark.Samples, small: list[Experiment]) -> None:
    works = [measure_point("p-1h", "image side", side, samples, 1, 0).work for side in (14, 28)]
    assert works[1] - works[0] == 2 * (28**2 - 14**2) * 4


def test_the_command_prints_draws_and_records(
    data: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked, ticks = [], count(1)

    def instead(name: str, variable: str, value: int, samples: Any, batches: Any, warm_up: Any) -> Point:
        asked.append((name, variable, value, len(samples), batches, warm_up))
        return point(value, 1e-5 * value, 2e3 * value**2, 3e6, float(next(ticks)))

    monkeypatch.setattr(benchmark, "measure_point", instead)
    out, record = data / "scaling.png", data / "scaling.json"
    options = ["--data", str(data), "--out", str(out), "--json", str(record)]
    assert benchmark.main(["p-1h", "--scaling", *options]) == 0
    values = [(variable, n) for variable, variation in VARIATIONS["p-1h"].items() for n in variation.values]
    assert asked == [("p-1h", variable, n, 60, None, None) for variable, n in values]
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        f"on bands, with {blas()}",
        "p-1h, per sample:        µs        kB 10⁶ mult.  steps",
        "width        128      1280     32768      3.00    1.0",
    ]
    assert lines[7] == "        exponent      1.00      2.00      0.00   0.56"
    assert lines[-1] == str(out)
    assert out.read_bytes().startswith(b"\x89PNG")
    content = json.loads(record.read_text("utf-8"))
    assert content["dataset"] == "bands"
    width = content["scaling"]["p-1h"]["width"]
    assert width["exponents"]["memory"] == pytest.approx(2)
    assert [p["value"] for p in width["points"]] == [128, 256, 512, 1024, 2048]
    assert width["points"][0]["steps"] == 1


def test_the_numbers_of_batches_can_be_given(data: Path, monkeypatch: Patch) -> None:
    asked = []

    def instead(*arguments: Any) -> Point:
        asked.append(arguments[4:])
        return point(arguments[2])

    monkeypatch.setattr(benchmark, "measure_point", instead)
    options = ["--data", str(data), "--out", str(data / "x.png"), "--batches", "3", "--warm-up", "0"]
    assert benchmark.main(["conv", "--scaling", *options]) == 0
    assert set(asked) == {(3, 0)}


def test_the_figure_shows_each_quantity_relative_to_its_first_point() -> None:
    points = [point(n, 2 * n, 6 / n, 5 * n**2, 7) for n in (10, 20, 40)]
    figure = draw_scaling({"p-1h": {"width": points}, "conv": {"channels": points[:2]}})
    assert [axes.get_xlabel() for axes in figure.axes] == ["width", "channels"]
    assert [axes.get_ylabel().split(":")[0] for axes in figure.axes] == ["p-1h", "conv"]
    width = figure.axes[0]
    drawn = {line.get_label(): line for line in width.lines}
    np.testing.assert_allclose(drawn["time per sample"].get_data(), [(10, 20, 40), (1, 2, 4)])
    np.testing.assert_allclose(drawn["peak memory per sample"].get_ydata(), [1, 1 / 2, 1 / 4])
    np.testing.assert_allclose(drawn["multiplications per sample"].get_ydata(), [1, 4, 16])
    np.testing.assert_allclose(drawn["steps of the first phase"].get_ydata(), [1, 1, 1])
    colours = {label: line.get_color() for label, line in drawn.items()}
    said = {text.get_color(): text.get_text() for text in width.texts}
    assert said[colours["time per sample"]] == "1.00"
    assert said[colours["peak memory per sample"]] == "-1.00"
    assert said[colours["multiplications per sample"]] == "2.00"
