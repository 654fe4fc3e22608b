"""Tests of training: samples, SGD, batches in parts, the records of the epochs, and resuming a run."""

import pickle
import signal
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from threadpoolctl import threadpool_info, threadpool_limits

from eqprop_np import training
from eqprop_np.activations import ACTIVATIONS, Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.presets import DYNAMICS, EXPERIMENTS, Experiment
from eqprop_np.network import Theta
from eqprop_np.relaxation import Alternating, relax
from eqprop_np.rules import RULES
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import Phases
from eqprop_np.training import (
    Diverged,
    Progress,
    Run,
    Samples,
    batch_gradient,
    evaluate,
    parallel,
    sgd,
    train,
)

CLASSES, SIDE = 3, 6
TINY = replace(
    EXPERIMENTS["p-1h"],
    hidden=(5,),
    learning_rates=(0.5, 0.3),
    free_steps=12,
    nudged_steps=4,
    batch_size=4,
    epochs=2,
)
FORMS: dict[str, Experiment] = {
    "plain": TINY,
    "random sign": replace(TINY, estimate="random-sign"),
    "augmented": replace(TINY, augment=1, rate_decay=0.5),
    "both, real time": replace(TINY, estimate="random-sign", augment=2, dynamics="real-time"),
    "C-EP": replace(TINY, rule="cep"),
    "C-VF": replace(TINY, rule="cvf", estimate="random-sign", angle=90.0),
    "convolutional": replace(
        TINY, channels=(2,), hidden=(4,), learning_rates=(0.2, 0.1, 0.1), estimate="centered"
    ),
}
forms = pytest.mark.parametrize("experiment", FORMS.values(), ids=FORMS)


def samples(size: int, seed: int = 0) -> Samples:
    """Noise with a bright band whose place tells the class."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, CLASSES, size).astype(np.uint8)
    images = rng.integers(0, 100, (size, SIDE, SIDE)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 150
    return Samples(images, labels)


def build(experiment: Experiment) -> Dynamics:
    return experiment.build((SIDE, SIDE), CLASSES)


def without_tol(experiment: Experiment) -> Phases:
    """Return the phases of an experiment with a free phase that takes every step."""
    return replace(experiment.phases, schedule=Alternating(tol=0))


def whole(function: Callable[..., Any], samples: Samples, *arguments: Any) -> list[Any]:
    """A `Run` in one part."""
    return [function(samples, *arguments)]


def in_thirds(function: Callable[..., Any], samples: Samples, *arguments: Any) -> list[Any]:
    """A `Run` in three parts of different sizes."""
    cuts = [0, 1, 3, len(samples)]
    return [function(samples[a:b], *arguments) for a, b in pairwise(cuts)]


def assert_same(a: Theta, b: Theta) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


# --- samples


def test_inputs_are_pixels_from_0_to_1_in_the_shape_of_the_input_layer() -> None:
    data = samples(7)
    data.images[0, 0, :2] = 0, 255
    for experiment, shape in ((TINY, (36,)), (FORMS["convolutional"], (6, 6, 1))):
        x = data.inputs(build(experiment))
        assert (x.dtype, x.shape) == (np.float32, (7, *shape))
        np.testing.assert_array_equal(x.reshape(7, 36), data.images.reshape(7, 36) / np.float32(255))
        assert (x.flat[0], x.flat[1]) == (0, 1)


def test_targets_are_one_hot() -> None:
    data = samples(9)
    y = data.targets(build(TINY))
    assert (y.dtype, y.shape) == (np.float32, (9, CLASSES))
    np.testing.assert_array_equal(y.argmax(axis=1), data.labels)
    assert (np.sort(y) == [0, 0, 1]).all()


def test_samples_are_cut_like_arrays() -> None:
    data = samples(9)
    for chosen in (slice(2, 5), slice(-3, None), np.array([4, 0, 4])):
        part = data[chosen]
        np.testing.assert_array_equal(part.images, data.images[chosen])
        np.testing.assert_array_equal(part.labels, data.labels[chosen])
        assert len(part) == 3


def shift(image: Array, down: int, right: int) -> Array:
    """Return the shifted image, computed pixel by pixel. The new pixels are black."""
    moved = np.zeros_like(image)
    for r, c in np.ndindex(*image.shape):
        if 0 <= r - down < image.shape[0] and 0 <= c - right < image.shape[1]:
            moved[r, c] = image[r - down, c - right]
    return moved


@pytest.mark.parametrize("pixels", [1, 2])
def test_shifted_moves_each_image_by_one_of_all_shifts(pixels: int, rng: np.random.Generator) -> None:
    data = samples(300)
    before = data.images.copy()
    found = data.shifted(pixels, rng)
    reach = range(-pixels, pixels + 1)
    seen = set()
    for image, moved in zip(data.images, found.images, strict=True):
        matches = [(d, r) for d in reach for r in reach if np.array_equal(moved, shift(image, d, r))]
        assert len(matches) == 1
        seen.add(matches[0])
    assert seen == {(d, r) for d in reach for r in reach}
    np.testing.assert_array_equal(found.labels, data.labels)
    np.testing.assert_array_equal(data.images, before)


# --- one step


def test_sgd_subtracts_the_gradient_times_the_rate_of_each_parameter() -> None:
    theta = {"a": np.array([1.0, 2.0]), "b": np.array([3.0])}
    arrays = dict(theta)
    sgd(theta, {"a": np.array([10.0, 20.0]), "b": np.array([30.0])}, {"a": 0.1, "b": 0.01})
    np.testing.assert_allclose(theta["a"], [0, 0], atol=1e-15)
    np.testing.assert_allclose(theta["b"], [2.7])
    assert all(theta[name] is arrays[name] for name in theta)


@pytest.mark.parametrize("name", [name for name, e in FORMS.items() if not RULES[e.rule].moves_weights])
def test_the_parts_of_a_batch_give_its_gradient(name: str) -> None:
    """Without a tolerance the samples do not depend on each other.

    Rules that move the weights in the second phase are left out: they move them by the mean over the batch.
    """
    experiment = FORMS[name]
    dynamics = build(experiment)
    theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    batch = samples(7)
    phases = without_tol(experiment)
    one = batch_gradient("ep", dynamics, theta, batch, phases, whole)
    parts = batch_gradient("ep", dynamics, theta, batch, phases, in_thirds)
    np.testing.assert_allclose(parts.output, one.output, rtol=0, atol=1e-6)
    assert parts.steps == one.steps
    for name in theta:
        np.testing.assert_allclose(parts.gradient[name], one.gradient[name], rtol=0, atol=1e-6, err_msg=name)


def test_a_batch_reports_the_output_and_steps_of_its_first_phase() -> None:
    """Of several parts, the outputs are concatenated and the steps are averaged."""
    dynamics = build(TINY)
    theta = dynamics.network.init(np.random.default_rng(0))
    batch = samples(7)
    phases = replace(TINY.phases, free_steps=100, schedule=Alternating(tol=1e-4))
    free = [
        ep(dynamics, theta, part.inputs(dynamics), part.targets(dynamics), phases).free
        for part in (batch[:1], batch[1:3], batch[3:])
    ]
    batch_result = batch_gradient("ep", dynamics, theta, batch, phases, in_thirds)
    np.testing.assert_array_equal(batch_result.output, np.concatenate([one.state[-1] for one in free]))
    assert batch_result.steps == np.mean([one.steps for one in free])
    assert batch_result.converged


def test_a_batch_has_converged_if_all_its_parts_have() -> None:
    """With one step fewer than the slowest part needs, that part and therefore the batch do not converge."""
    dynamics = build(TINY)
    theta = dynamics.network.init(np.random.default_rng(0))
    batch, schedule = samples(7), Alternating(tol=1e-4)
    steps = [
        relax(dynamics, theta, part.inputs(dynamics), schedule=schedule).steps
        for part in (batch[:1], batch[1:3], batch[3:])
    ]
    assert min(steps) < max(steps)  # otherwise no part would converge below
    for fewer, converged in ((0, True), (1, False)):
        phases = replace(TINY.phases, free_steps=2 * (max(steps) - fewer), schedule=schedule)
        assert batch_gradient("ep", dynamics, theta, batch, phases, in_thirds).converged is converged


def test_two_workers_equal_one() -> None:
    """Test real processes. Float32 sums of 7 terms have another order, at a gradient of about 0.1."""
    dynamics = build(TINY)
    theta = dynamics.network.init(np.random.default_rng(0))
    phases = without_tol(TINY)
    answers = []
    for workers in (1, 2):
        with parallel(workers) as run:
            seven = batch_gradient("ep", dynamics, theta, samples(7), phases, run)
            one = batch_gradient("ep", dynamics, theta, samples(1), phases, run)  # fewer than two workers
            answers.append((seven, one, evaluate(phases, dynamics, theta, samples(30), run)))
    for a, b in zip(*(answer[:2] for answer in answers), strict=True):
        for name in theta:
            np.testing.assert_allclose(a.gradient[name], b.gradient[name], rtol=0, atol=1e-5, err_msg=name)
        np.testing.assert_allclose(a.output, b.output, rtol=0, atol=1e-5)
        assert (a.steps, a.converged) == (b.steps, b.converged)
    assert answers[0][2] == answers[1][2]


@pytest.mark.parametrize("kind", DYNAMICS)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_dynamics_can_be_sent_to_a_worker(activation: str, kind: str) -> None:
    dynamics = build(replace(TINY, activation=activation, dynamics=kind))
    assert pickle.loads(pickle.dumps(dynamics)) == dynamics


def test_one_worker_is_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "ProcessPoolExecutor", None)
    with parallel(1) as run:
        assert run(lambda part, a: (len(part), a), samples(3), "a") == [(3, "a")]


def blas_threads(part: Samples) -> set[int]:
    """Return the numbers of threads that the loaded BLAS libraries may use in this process."""
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.mark.parametrize("workers", [1, 2])
def test_each_worker_has_one_blas_thread(workers: int) -> None:
    with threadpool_limits(2, "blas"):
        before = blas_threads(samples(2))
        with parallel(workers) as run:
            assert run(blas_threads, samples(4)) == workers * [{1}]
        assert blas_threads(samples(2)) == before == {2}


@pytest.mark.usefixtures("ctrl_c")
def test_workers_leave_ctrl_c_to_their_parent() -> None:
    with ProcessPoolExecutor(1, initializer=training.begin_worker) as pool:
        assert pool.submit(signal.getsignal, signal.SIGINT).result() == signal.SIG_IGN


# --- evaluation


@pytest.mark.parametrize("size", [1, 4, 5, 11])
@pytest.mark.parametrize("run", [whole, in_thirds], ids=["whole", "in thirds"])
def test_evaluate_counts_every_sample_once(size: int, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chunk may be smaller than the others."""
    monkeypatch.setattr(training, "EVALUATION_BATCH", 4)
    dynamics, data = build(TINY), samples(size)
    theta = dynamics.network.init(np.random.default_rng(1))
    phases = without_tol(TINY)
    steps = phases.schedule.steps(phases.free_steps)
    free = relax(dynamics, theta, data.inputs(dynamics), None, steps, schedule=phases.schedule)
    wrong = free.state[-1].argmax(axis=1) != data.labels
    lengths = []

    def counting(function: Callable[..., int], part: Samples, *arguments: Any) -> list[int]:
        lengths.append(len(part))
        return run(function, part, *arguments) if len(part) > 3 else whole(function, part, *arguments)

    assert evaluate(phases, dynamics, theta, data, counting) == pytest.approx(100 * wrong.mean())
    assert sum(lengths) == size
    assert max(lengths) <= 4


def test_the_error_is_that_of_the_labels() -> None:
    dynamics, data = build(TINY), samples(40)
    theta = dynamics.network.init(np.random.default_rng(1))
    phases = without_tol(TINY)
    free = relax(dynamics, theta, data.inputs(dynamics), None, 6, schedule=phases.schedule)
    told = Samples(data.images, free.state[-1].argmax(axis=1).astype(np.uint8))
    wrong = Samples(data.images, (told.labels + 1) % CLASSES)
    assert evaluate(phases, dynamics, theta, told, whole) == 0
    assert evaluate(phases, dynamics, theta, wrong, whole) == 100


# --- epochs


def naive_training(
    experiment: Experiment, data: Samples, seed: int
) -> tuple[Theta, list[float], list[float], list[float]]:
    """Train as `train` does, without its hooks and counters.

    Returns θ, and for each epoch its training error, its mean steps and its share of converged batches.
    """
    rng = np.random.default_rng(seed)
    dynamics = build(experiment)
    theta = dynamics.network.init(rng, psi=experiment.angle)
    errors, steps, shares = [], [], []
    rule = RULES[experiment.rule].fastest(dynamics.network)
    for epoch in range(experiment.epochs):
        order = rng.permutation(len(data))
        wrong, taken, converged = 0, [], []
        for start in range(0, len(data), experiment.batch_size):
            batch = data[order[start : start + experiment.batch_size]]
            if experiment.augment:
                batch = batch.shifted(experiment.augment, rng)
            rates = experiment.rates(dynamics.network, epoch)
            phases = replace(experiment.phases.draw(rng), learning_rates=rates)
            update = rule(dynamics, theta, batch.inputs(dynamics), batch.targets(dynamics), phases)
            for name in theta:
                theta[name] = theta[name] - rates[name] * update.gradient[name]
            wrong += int((update.free.state[-1].argmax(axis=1) != batch.labels).sum())
            taken.append(update.free.steps)
            converged.append(update.free.converged)
        errors.append(100 * wrong / len(data))
        steps.append(float(np.mean(taken)))
        shares.append(float(np.mean(converged)))
    return theta, errors, steps, shares


@forms
def test_training_equals_the_naive_loop(experiment: Experiment) -> None:
    """Bit for bit, over epochs whose last batch is smaller."""
    data, test = samples(18), samples(10, seed=1)
    dynamics = build(experiment)
    progress = Progress.begin(experiment, dynamics, 5)
    assert train(experiment, dynamics, data, test, progress)
    theta, errors, steps, shares = naive_training(experiment, data, 5)
    assert_same(progress.theta, theta)
    assert [record["train_error"] for record in progress.history] == errors
    assert [record["free_steps"] for record in progress.history] == steps
    assert [record["converged"] for record in progress.history] == shares
    assert [record["epoch"] for record in progress.history] == [1, 2]
    error = evaluate(experiment.phases, dynamics, theta, test, whole)
    assert progress.history[-1]["test_error"] == error
    counters = progress.epoch, progress.batch, progress.errors, progress.steps, progress.converged
    assert counters == (2, 0, 0, 0, 0)
    assert progress.history[0]["seconds"] <= progress.history[1]["seconds"] <= progress.seconds + 0.005


def test_it_learns() -> None:
    dynamics, test = build(TINY), samples(60, seed=1)
    progress = Progress.begin(TINY, dynamics, 0)
    assert evaluate(TINY.phases, dynamics, progress.theta, test, whole) > 50
    train(TINY, dynamics, samples(60), test, progress)
    assert progress.history[-1]["test_error"] < 5


def test_hooks_see_every_batch_and_epoch() -> None:
    dynamics = build(TINY)
    progress = Progress.begin(TINY, dynamics, 0)
    batches, epochs = [], []

    def on_batch(p: Progress) -> bool:
        batches.append((p.epoch, p.batch))
        return False

    train(
        TINY, dynamics, samples(10), samples(3), progress,
        on_batch=on_batch, on_epoch=lambda p: epochs.append((p.epoch, p.batch, len(p.history))),
    )  # fmt: skip
    assert batches == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert epochs == [(1, 0, 1), (2, 0, 2)]


def test_a_finished_run_is_not_changed() -> None:
    dynamics = build(TINY)
    progress = Progress.begin(TINY, dynamics, 0)
    train(TINY, dynamics, samples(10), samples(3), progress)
    before = pickle.dumps(progress)
    assert train(TINY, dynamics, samples(10), samples(3), progress)
    assert pickle.dumps(progress) == before


@forms
@pytest.mark.parametrize("stop", range(1, 10))
def test_stopped_anywhere_and_resumed_equals_uninterrupted(experiment: Experiment, stop: int) -> None:
    """Bit for bit, after any number of the 2 × 5 batches. A pickle replaces the checkpoint here."""
    dynamics, data, test = build(experiment), samples(18), samples(6, seed=1)
    through = Progress.begin(experiment, dynamics, 3)
    train(experiment, dynamics, data, test, through)

    count = 0

    def on_batch(progress: Progress) -> bool:
        nonlocal count
        count += 1
        return count == stop

    progress = Progress.begin(experiment, dynamics, 3)
    assert not train(experiment, dynamics, data, test, progress, on_batch=on_batch)
    assert count == stop
    progress = pickle.loads(pickle.dumps(progress))
    assert train(experiment, dynamics, data, test, progress)
    assert_same(progress.theta, through.theta)
    assert progress.rng.bit_generator.state == through.rng.bit_generator.state
    for one, two in zip(progress.history, through.history, strict=True):
        assert one | {"seconds": 0} == two | {"seconds": 0}


# --- the share of converged free phases


def trained(experiment: Experiment, size: int = 18) -> Progress:
    """Return the progress of a finished run."""
    dynamics = build(experiment)
    progress = Progress.begin(experiment, dynamics, 0)
    train(experiment, dynamics, samples(size), samples(3), progress)
    return progress


@pytest.mark.parametrize(
    "settings, share",
    [
        ({"free_steps": 1}, 0.0),
        ({"free_steps": 500}, 1.0),
        ({"free_steps": 500, "schedule": "synchronous"}, 1.0),
        ({"free_steps": 500, "rule": "bptt"}, 1.0),
        ({"free_steps": 500, "workers": 2}, 1.0),
    ],
    ids=str,
)
def test_a_record_has_the_share_of_converged_free_phases(settings: dict[str, Any], share: float) -> None:
    progress = trained(replace(TINY, **settings))
    assert [record["converged"] for record in progress.history] == [share, share]


def test_the_share_is_the_number_of_converged_batches_over_all_batches() -> None:
    """The threshold lies between the residuals of the batches, so that some converge and some do not."""
    dynamics, data = build(TINY), samples(18)
    still = replace(TINY, epochs=1, learning_rates=(1e-30, 1e-30))  # θ does not change
    theta = Progress.begin(still, dynamics, 0).theta
    rng = np.random.default_rng(0)
    dynamics.network.init(rng)
    order = rng.permutation(18)
    steps = still.phases.schedule.steps(still.free_steps)
    residuals = [
        relax(
            dynamics, theta, data[order[k : k + 4]].inputs(dynamics), None, steps, schedule=Alternating(tol=0)
        ).residuals[-1]
        for k in range(0, 18, 4)
    ]
    two = float(np.mean(sorted(residuals)[1:3]))
    (record,) = trained(replace(still, tol=two)).history
    assert record["converged"] == 2 / 5


@pytest.mark.parametrize("schedule", ["alternating", "synchronous"])
def test_without_a_tolerance_no_share_is_recorded(schedule: str) -> None:
    for record in trained(replace(TINY, schedule=schedule, tol=0.0)).history:
        assert "converged" not in record


def test_an_epoch_that_was_not_counted_from_its_start_has_no_share() -> None:
    """Such a progress comes from the checkpoint of an older version. The next epoch is counted again."""
    dynamics, data = build(TINY), samples(18)
    progress = Progress.begin(TINY, dynamics, 0)
    train(TINY, dynamics, data, data, progress, on_batch=lambda p: p.batch == 2)
    progress.converged = None
    train(TINY, dynamics, data, data, progress)
    assert ["converged" in record for record in progress.history] == [False, True]


# --- more epochs, and the beginning


def test_more_epochs_go_on_where_fewer_ended() -> None:
    dynamics, data = build(TINY), samples(10)
    short, long = Progress.begin(TINY, dynamics, 3), Progress.begin(TINY, dynamics, 3)
    for epochs in (1, 3):
        train(replace(TINY, epochs=epochs), dynamics, data, data, short)
    train(replace(TINY, epochs=3), dynamics, data, data, long)
    assert_same(short.theta, long.theta)
    assert len(short.history) == 3


def test_a_seed_determines_the_beginning() -> None:
    dynamics = build(TINY)
    one, two, other = (Progress.begin(TINY, dynamics, seed) for seed in (1, 1, 2))
    assert_same(one.theta, two.theta)
    assert one.epoch_start == two.epoch_start == one.rng.bit_generator.state
    assert not np.array_equal(one.theta["w0-1"], other.theta["w0-1"])


# --- divergence


def exploding(value: float) -> Callable[[Progress], bool]:
    """Return a hook that sets a weight to this value after the second batch."""

    def on_batch(progress: Progress) -> bool:
        if progress.batch == 2:
            progress.theta["w0-1"][0, 0] = value
        return False

    return on_batch


def test_an_output_that_is_not_finite_stops_training_at_once() -> None:
    dynamics = build(TINY)
    progress = Progress.begin(TINY, dynamics, 0)
    data = samples(18)
    data.images[:] = 255  # so that this weight affects every neuron of its layer
    with pytest.raises(Diverged, match="the output is not finite in epoch 1, batch 3"):
        train(TINY, dynamics, data, data, progress, on_batch=exploding(np.nan))
    assert (progress.epoch, progress.batch, progress.history) == (0, 2, [])


def test_a_parameter_that_is_not_finite_ends_an_epoch_unrecorded() -> None:
    """An infinite weight from a white pixel saturates σ, so the output stays finite."""
    dynamics = build(TINY)
    progress = Progress.begin(TINY, dynamics, 0)
    data = samples(18)
    data.images[:] = 255
    epochs = []
    with pytest.raises(Diverged, match="parameter w0-1 is not finite after epoch 1, batch 5"):
        train(
            TINY, dynamics, data, data, progress,
            on_batch=exploding(np.inf), on_epoch=epochs.append,
        )  # fmt: skip
    assert (progress.epoch, progress.history, epochs) == (0, [], [])


def test_a_stop_reports_divergence_first() -> None:
    """The caller saves the progress after a stop, and must not save parameters that are not finite."""
    dynamics = build(TINY)
    progress = Progress.begin(TINY, dynamics, 0)

    def on_batch(progress: Progress) -> bool:
        progress.theta["b1"][0] = np.nan
        return True

    with pytest.raises(Diverged, match="parameter b1 is not finite after epoch 1, batch 1"):
        train(TINY, dynamics, samples(18), samples(2), progress, on_batch=on_batch)
