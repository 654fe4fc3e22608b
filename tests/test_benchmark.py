"""Tests of the benchmark: what it prints and what it counts. No test depends on a measured time."""

import json
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import write_bands

from eqprop_np import benchmark
from eqprop_np.benchmark import Cost, Timed, main, measure
from eqprop_np.experiments import timing
from eqprop_np.experiments.datasets import load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.experiments.report import blas
from eqprop_np.experiments.timing import Batches, matrix_product, multiplications
from eqprop_np.network import Theta, chain
from eqprop_np.optimizers import SGD
from eqprop_np.relaxation import Alternating
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import Phases
from eqprop_np.samples import Samples

Patch = pytest.MonkeyPatch


@pytest.fixture
def data(tmp_path: Path, monkeypatch: Patch) -> Path:
    """Write images that fit every preset. A matrix product is not computed and counts as half a second."""
    monkeypatch.setattr(benchmark, "matrix_product", lambda: 0.5)
    return write_bands(tmp_path / "bands", side=16)


@pytest.fixture
def samples(data: Path) -> Samples:
    dataset = load(str(data))
    return Samples(dataset.train_images, dataset.train_labels)


def test_it_prints_a_row_for_each_preset(
    data: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each number stands under its title, and each preset is measured on the training images."""
    costs = {
        "p-1h": Cost(1234.4, 5.34, 5.2, 2.06, 1, 1.0, 9.3, 0.25, 0.615),
        "conv": Cost(7.6, 76.5, 140.0, 8.44, 2, 1.789, 28.0, 0.875, 0.5),
    }
    asked = []

    def instead(experiment: Experiment, samples: Samples, batches: int, warm_up: int) -> Cost:
        asked.append((experiment, len(samples), batches, warm_up))
        return costs[experiment.name]

    monkeypatch.setattr(benchmark, "measure", instead)
    options = ["--batches", "5", "--warm-up", "1", "--no-letter", "--data", str(data)]
    assert main(["p-1h", "conv", *options, "--json", str(data / "new" / "record.json")]) == 0
    assert asked == [(EXPERIMENTS[name], 60, 5, 1) for name in ("p-1h", "conv")]
    assert capsys.readouterr().out.splitlines() == [
        f"on bands, with {blas()}",
        "1 mm = 500 ms now",
        "preset    mm/epoch  s/epoch  core s / backprop   workers free steps in products of the peak",
        "p-1h          1234      5.3     5.2        2.1         1        9.3         25%         62%",
        "conv             8     76.5   140.0        8.4 2 (×1.79)       28.0         88%         50%",
    ]
    record = json.loads((data / "new" / "record.json").read_text("utf-8"))
    assert (record["dataset"], record["blas"]) == ("bands", blas())
    assert record["presets"]["conv"]["to_backpropagation"] == 8.44
    assert record["presets"].keys() == costs.keys()
    assert record["to the letter"] == []


@pytest.mark.parametrize("options", [["--json"], ["--scaling", "--json", "record.json", "--out"]])
def test_a_file_that_cannot_be_written_is_found_before_the_work(
    options: list[str], data: Path, tmp_path: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("directory.png").mkdir()
    for name in ("_presets", "_scaling"):
        monkeypatch.setattr(benchmark, name, lambda *arguments: pytest.fail("it has begun"))
    assert main([*options, "directory.png", "--data", str(data)]) == 2
    assert capsys.readouterr().err == "error: directory.png: this is not a regular file; choose another one\n"


def test_every_preset_can_be_measured(samples: Samples) -> None:
    for name in ("p-1h", "cvf-1h", "conv"):
        smaller = {"channels": (2, 2)} if name == "conv" else {"hidden": (4,)}
        cost = measure(EXPERIMENTS[name].override(**smaller, workers=1), samples, 1, 0)
        assert 1 <= cost.steps <= EXPERIMENTS[name].phases.free_steps
        assert 0 < cost.products < 1


def test_the_comparison_runs_both_dynamics_to_the_letter(
    data: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def instead(experiment: Experiment, samples: Samples, batches: int, warm_up: int) -> Cost:
        measured.append((experiment, batches))
        mm = {"eb-1h": 600, "eb-2h": 900, "p-1h": 100, "p-2h": 200}.get(experiment.name, 1)
        return Cost(mm, 3.0, mm / 7, 2.0, 1, 1.0, 1, 0.5, 0.5)

    monkeypatch.setattr(benchmark, "measure", instead)
    assert main(["p-3h", "--batches", "6", "--data", str(data), "--json", str(data / "record.json")]) == 0
    names = ["eb-1h", "p-1h", "eb-2h", "p-2h"]
    assert measured == [(EXPERIMENTS["p-3h"], 6), *((EXPERIMENTS[name].to_the_letter(), 2) for name in names)]
    printed = capsys.readouterr().out
    assert "eb-1h / p-1h = 6.0 = 2.8 × the number of steps T + K, times 2.14 × the time per step\n" in printed
    assert "eb-2h / p-2h = 4.5 = 3.7 × the number of steps T + K, times 1.23 × the time per step\n" in printed
    first, _ = json.loads((data / "record.json").read_text("utf-8"))["to the letter"]
    ratios = {"ratio": pytest.approx(6), "steps": 112 / 40, "per_step": pytest.approx(600 / 280)}
    assert first == {"presets": names[:2], **ratios}
    assert [line.split()[0] for line in printed.splitlines() if line.split()[1] in ("600", "100")] == names[
        :2
    ]


@pytest.fixture
def clock(monkeypatch: Patch) -> None:
    """Let the clock of this process advance by 1 s at each call."""
    ticks = count()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(ticks)))


def letter(**settings: Any) -> Experiment:
    """Return P-1h to the letter, which takes 30 steps in each first phase."""
    return EXPERIMENTS["p-1h"].to_the_letter().override(**settings)


@pytest.mark.parametrize("batch_size, batches", [(20, 3000), (70, 858)])
def test_the_cost_of_an_epoch_is_that_of_its_batches(
    batch_size: int, batches: int, samples: Samples, clock: None
) -> None:
    """Twenty batches take 1 s, and an mm half a second. The last batch of an epoch may be smaller."""
    cost = measure(letter(batch_size=batch_size, hidden=(4,)), samples, 30, 0)
    assert cost.mm_per_epoch == pytest.approx(batches / 20 / 0.5)
    assert cost.seconds_per_epoch == pytest.approx(batches / 20)
    assert cost.steps == 30


@pytest.mark.parametrize("workers", [1, 2])
def test_the_ratios_are_those_of_one_process(workers: int, samples: Samples, monkeypatch: Patch) -> None:
    """Twenty batches take 3 s, 4.5 s in one process, and backpropagation takes 1.5 s.

    The processor works for a tenth of the time only, and for a third of it in backpropagation.
    """
    now = work = 0.0

    def passing(seconds: float, steps: list[float], share: float = 0.1) -> Batches:
        def train(numbers: range) -> list[float]:
            nonlocal now, work
            now += seconds * len(numbers) / 20
            work += share * seconds * len(numbers) / 20
            return steps

        return train

    def by_rule(run: Any, *_: Any) -> Batches:
        alone = not isinstance(run.rule, benchmark.SharedRule)
        return passing(4.5, [8.0]) if alone and workers > 1 else passing(3, [6.0])

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now)
    monkeypatch.setattr(benchmark.time, "process_time", lambda: work)
    monkeypatch.setattr(benchmark, "by_rule", by_rule)
    monkeypatch.setattr(benchmark, "by_backpropagation", lambda *_: passing(1.5, [], 1 / 3))
    monkeypatch.setattr(benchmark, "_speed", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "_share", lambda *_: 0.5)
    cost = measure(letter(hidden=(4,), workers=workers), samples, 30, 7)
    assert (cost.workers, cost.gain) == (workers, 1.5 if workers > 1 else 1)
    processor = 0.45 if workers > 1 else 0.3
    assert cost.to_backpropagation == pytest.approx(processor / 0.5)
    assert cost.processor_seconds == pytest.approx(3000 / 20 * processor)
    assert cost.seconds_per_epoch == pytest.approx(3000 / 20 * 3)
    assert cost.steps == 6


def test_backpropagation_gets_the_same_batches(samples: Samples, monkeypatch: Patch) -> None:
    """It has its own θ and the rates of the experiment."""
    experiment, calls = letter(hidden=(4,), batch_size=7), []
    monkeypatch.setattr(timing, "descend", lambda *arguments: calls.append(arguments))
    monkeypatch.setattr(benchmark, "_speed", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "_share", lambda *_: 0.5)
    thetas, by_rule = [], benchmark.by_rule

    def spy(run: Any, theta: Theta, *rest: Any) -> Batches:
        thetas.append(theta)
        return by_rule(run, theta, *rest)

    monkeypatch.setattr(benchmark, "by_rule", spy)
    measure(experiment, samples, 2, 1)
    assert len(calls) == 20
    for number, (dynamics, theta, x, y, rates) in enumerate(calls, start=1):
        chosen = np.arange(7 * number, 7 * number + 7) % 60
        np.testing.assert_array_equal(x, samples.x[chosen].reshape(7, -1) / np.float32(255))
        np.testing.assert_array_equal(y.argmax(axis=1), samples.y[chosen])
        assert rates == experiment.rates(dynamics)
        assert all(theta is not other for other in thetas)


def test_the_rule_trains_with_the_state_of_the_optimizer(samples: Samples) -> None:
    """With momentum the second batch depends on the velocities of the first one."""
    experiment = letter(hidden=(4,), momentum=0.9, estimate="one-sided")
    dynamics = experiment.build((16, 16), 3)
    run, theta = experiment.run(dynamics), dynamics.init(np.random.default_rng(0))
    expected, state = dict(theta), run.optimizer.init(theta)
    assert len(timing.by_rule(run, theta, samples)(range(3))) == 3
    for x, y in timing.batches_of(run, samples, range(3)):
        gradient = ep(dynamics, expected, x, y, run.phases).gradient
        expected, state = run.optimizer.step(expected, gradient, state)
    for name, value in expected.items():
        np.testing.assert_allclose(theta[name], value, rtol=0, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("workers", [1, 2])
def test_the_throughput_is_in_units_of_the_matrix_product(
    workers: int, samples: Samples, clock: None
) -> None:
    """Twenty batches of 20 samples take 1 s, in whatever number of processes, and an mm half a second."""
    products = 20 * 20 * (256 * 4 + 30 * 2 * 4 * 3)
    cost = measure(letter(hidden=(4,), workers=workers), samples, 2, 0)
    assert cost.throughput == pytest.approx(products / (2048**3 / 0.5))


def test_the_throughput_is_measured_without_stopping_single_samples(samples: Samples) -> None:
    """Otherwise the multiplications of a step would depend on how many samples still move."""
    dynamics = letter(hidden=(4,)).build((16, 16), 3)
    theta, x = dynamics.init(np.random.default_rng(0)), samples.inputs(dynamics.network, np.float32)
    seen, run = [], benchmark.free_phase

    def spy(*arguments: Any) -> Any:
        seen.append(arguments[-1].schedule)
        return run(*arguments)

    phases = Phases(60, 5, 0.1, schedule=Alternating(tol=0.01, per_sample=True))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(benchmark, "free_phase", spy)
        benchmark._first_phase(x, dynamics, theta, phases)
    assert seen == [Alternating(tol=0.01)]


def test_the_share_is_that_of_the_matrix_products(samples: Samples, monkeypatch: Patch, clock: None) -> None:
    """A matrix product takes 1 s and the time until the next call another one; a sum takes no time."""

    def instead(run: Any, theta: Theta, images: Samples) -> Batches:
        x = images.x.reshape(len(images.x), -1).astype(np.float32)

        def train(numbers: range) -> list[float]:
            for _ in numbers:
                x @ theta["w0-1"] @ theta["w1-2"] + theta["b2"]
            return []

        return train

    monkeypatch.setattr(benchmark, "by_rule", instead)
    experiment = letter(hidden=(4,))
    dynamics = experiment.build((16, 16), 3)
    theta = dynamics.init(np.random.default_rng(0))
    share = benchmark._share(experiment.run(dynamics), theta, samples)
    assert share == pytest.approx(20 * 2 / (20 * (2 + 2 + 1) + 1))


def test_the_batches_follow_each_other_through_the_data(samples: Samples, monkeypatch: Patch) -> None:
    """After the warm-up the measured batches begin where it ended, and the data begin again at their end."""
    seen, inputs = [], Samples.inputs

    def spy(self: Samples, *arguments: Any) -> Any:
        seen.append(self.y)
        return inputs(self, *arguments)

    monkeypatch.setattr(Samples, "inputs", spy)
    monkeypatch.setattr(benchmark, "_speed", lambda *_: 1.0)
    monkeypatch.setattr(benchmark, "_share", lambda *_: 0.5)
    numbered = Samples(samples.x, np.arange(60) % 3)
    measure(letter(hidden=(4,), batch_size=7), numbered, 2, 4)
    numbers = [*range(4 + 20), *range(4, 4 + 20)]  # the second ones are those of backpropagation
    expected = [np.arange(7 * k, 7 * k + 7) % 60 % 3 for k in numbers]
    np.testing.assert_array_equal(seen, expected)


def test_a_matrix_product_is_the_best_of_five(monkeypatch: Patch) -> None:
    """After them the threads of BLAS get the time to end their active waiting."""
    now = iter((0, 5, 10, 13, 20, 22, 30, 34, 40, 46))
    shapes, pauses = [], []
    monkeypatch.setattr(timing.time, "sleep", pauses.append)
    monkeypatch.setattr(timing, "SIDE", 3)
    monkeypatch.setattr(timing.time, "perf_counter", lambda: float(next(now)))
    monkeypatch.setattr(timing.np, "matmul", lambda a, b, out: shapes.append((a.shape, b.shape, a.dtype)))
    assert matrix_product() == 2
    assert shapes == [((3, 3), (3, 3), np.float32)] * 5
    assert pauses == [0.2]


def test_it_trains_while_it_measures(samples: Samples, monkeypatch: Patch) -> None:
    """With constant weights the free phase would need another number of steps, and another throughput."""
    weights, used, step = [], [], SGD.step

    def spy(self: SGD, theta: Theta, *arguments: Any) -> Any:
        weights.append(theta["w1-2"].copy())
        return step(self, theta, *arguments)

    monkeypatch.setattr(SGD, "step", spy)
    monkeypatch.setattr(benchmark, "_speed", lambda _, theta, *__: used.append(theta["w1-2"].copy()) or 1.0)
    measure(EXPERIMENTS["p-1h"], samples, 10, 3)
    assert used[0].tobytes() not in {value.tobytes() for value in weights[:13]}
    assert len(weights) >= 13
    assert len({value.tobytes() for value in weights[:13]}) == 13  # it does not begin again after the warm-up


def test_timed_arrays_count_matrix_products_and_change_no_result(
    rng: np.random.Generator, monkeypatch: Patch
) -> None:
    a, b = rng.standard_normal((2, 4, 4)).astype(np.float32)
    timed = a.view(Timed)
    ticks = count()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(ticks)))
    monkeypatch.setattr(Timed, "seconds", 0.0)
    result = np.tanh(timed.T + b)
    assert Timed.seconds == 0
    result = result @ b
    assert Timed.seconds == 1
    np.matmul(b, timed, out=result)
    assert Timed.seconds == 2
    assert isinstance(result, Timed)
    assert result.dtype == np.float32
    np.testing.assert_array_equal(result, b @ a)


@pytest.mark.parametrize("steps", [1, 2, 13])
def test_the_multiplications_of_a_first_phase(steps: int) -> None:
    """The input's drive is computed once, and each other connection has two drives per step.

    Of conv, the layer of 64 channels begins at zero, so that its first drive costs nothing.
    """
    p_1h, conv = (EXPERIMENTS[name].build((28, 28), 10).network for name in ("p-1h", "conv"))
    assert multiplications(p_1h, steps) == 784 * 512 + steps * 2 * 5120
    first, second, output = 25 * 32 * 24**2, 25 * 32 * 64 * 8**2, 1024 * 10
    assert multiplications(conv, steps) == first + (2 * steps - 1) * second + 2 * steps * output
    assert multiplications(chain([4, 3]), steps) == 12


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["p-9h"], "no preset 'p-9h': choose from p-1h, p-2h, p-3h, eb-1h"),
        (["p-2h", "--scaling"], "no preset 'p-2h': choose from p-1h, conv"),
        (["--batches", "0"], "argument --batches: it must be an integer of at least 1, got '0'"),
        (["--warm-up", "-1"], "argument --warm-up: it must be an integer of at least 0, got '-1'"),
        (["--scaling", "--out", "scaling.txt"], "scaling.txt has the suffix '.txt'"),
        (["--batches", "many"], "argument --batches: it must be an integer of at least 1, got 'many'"),
    ],
    ids=str,
)
def test_wrong_arguments_exit_2(
    arguments: list[str], words: str, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--data", str(data)]) == 2
    assert words in capsys.readouterr().err


def test_missing_data_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere is not a directory")
