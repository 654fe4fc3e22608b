"""Tests of the benchmark: what it prints and what it counts. No test depends on a measured time."""

from itertools import count, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from examples import write_bands

from eqprop_np import benchmark
from eqprop_np.benchmark import Cost, Timed, main, measure, multiplications
from eqprop_np.experiments.datasets import load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.network import Theta, chain
from eqprop_np.optimizers import SGD
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


def test_it_prints_a_row_for_each_preset(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ["p-1h", "cvf-1h", "conv"]
    assert main([*names, "--batches", "5", "--warm-up", "1", "--no-letter", "--data", str(data)]) == 0
    first, titles, *rows = capsys.readouterr().out.splitlines()
    assert first == "on bands; 1 mm = 500 ms now"
    assert titles.split("  ")[0] == "preset"
    assert [row.split()[0] for row in rows] == names
    for row in rows:
        _, cost, steps, share, peak = row.split()
        assert float(cost) >= 0
        assert float(steps) >= 1
        assert 0 <= float(share.rstrip("%")) <= 100
        assert float(peak.rstrip("%")) >= 0


def test_the_comparison_runs_both_dynamics_to_the_letter(
    data: Path, monkeypatch: Patch, capsys: pytest.CaptureFixture[str]
) -> None:
    measured = []

    def instead(experiment: Experiment, samples: Samples, batches: int, warm_up: int) -> Cost:
        measured.append((experiment, batches))
        return Cost(600 if experiment.name.startswith("eb") else 100, 1, 0.5, 0.5)

    monkeypatch.setattr(benchmark, "measure", instead)
    assert main(["p-3h", "--batches", "6", "--data", str(data)]) == 0
    names = ["eb-1h", "p-1h", "eb-2h", "p-2h"]
    assert measured == [(EXPERIMENTS["p-3h"], 6), *((EXPERIMENTS[name].to_the_letter(), 2) for name in names)]
    printed = capsys.readouterr().out
    assert "eb-1h / p-1h = 6.0\n" in printed
    assert "eb-2h / p-2h = 6.0\n" in printed


def test_the_cost_of_an_epoch_is_that_of_its_batches(samples: Samples, monkeypatch: Patch) -> None:
    """The clock advances by 1 s at each call: twenty batches take 1 s, and an epoch has 3000 batches."""
    ticks = count()
    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: float(next(ticks)))
    cost = measure(EXPERIMENTS["p-1h"].to_the_letter(), samples, 30, 0)
    assert cost.mm_per_epoch == pytest.approx(3000 / 20 / 0.5)
    assert cost.steps == EXPERIMENTS["p-1h"].phases.free_steps


def test_it_trains_while_it_measures(samples: Samples, monkeypatch: Patch) -> None:
    """With constant weights the free phase would need another number of steps."""
    weights, step = [], SGD.step

    def spy(self: SGD, theta: Theta, *arguments: Any) -> Any:
        weights.append(theta["w1-2"].copy())
        return step(self, theta, *arguments)

    monkeypatch.setattr(SGD, "step", spy)
    measure(EXPERIMENTS["p-1h"], samples, 10, 3)
    assert len(weights) >= 13
    assert all((a != b).any() for a, b in pairwise(weights[:13]))


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


def test_it_measures_what_several_processes_do(samples: Samples) -> None:
    """The multiplications of all processes count. Untied weights and one process are other cases."""
    for name, workers in (("p-1h", 2), ("p-1h", 1), ("cvf-1h", 1)):
        cost = measure(EXPERIMENTS[name].override(workers=workers, hidden=(4,)), samples, 2, 1)
        assert cost.throughput > 0
        assert 0 < cost.products < 1


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["p-9h"], "no preset 'p-9h'"),
        (["--batches", "0"], "--batches must be at least 1"),
        (["--warm-up", "-1"], "--warm-up not negative"),
        (["--batches", "many"], "invalid int value"),
    ],
    ids=str,
)
def test_wrong_arguments_exit_2(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2
    assert words in capsys.readouterr().err


def test_missing_data_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", "nowhere"]) == 2
    assert capsys.readouterr().err.startswith("error: nowhere is not a directory")


def test_a_matrix_product_takes_time() -> None:
    """Compute one matrix product without the substitute."""
    assert benchmark.matrix_product() > 0
