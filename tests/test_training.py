"""Tests of training: the data, epochs, callbacks, resuming a run, interrupts, the bar, and evaluation."""

import json
import math
import os
import pickle
import pty
import random
import re
import select
import struct
import subprocess
import sys
import textwrap
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import eqprop_np as eq
from eqprop_np import samples, training
from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics
from eqprop_np.network import Theta
from eqprop_np.optimizers import Optimizer
from eqprop_np.relaxation import relax
from eqprop_np.rules import learning_rule
from eqprop_np.rules.phases import Phases, Update
from eqprop_np.samples import Samples, check_samples
from eqprop_np.training import Diverged, Progress

CLASSES, HEIGHT, WIDTH = 3, 6, 8
PIXELS = HEIGHT * WIDTH
PHASES = Phases(12, 4, beta=0.1)
CHAIN = eq.chain([PIXELS, 5, CLASSES])
PLAIN = eq.DiscreteTime(CHAIN)
TINY = eq.DiscreteTime(eq.chain([4, 3]))


def band(size: int, seed: int = 0) -> tuple[Array, Array]:
    """Return bytes (N, H, W) of noise with a bright band whose place tells the class, and labels."""
    rng = np.random.default_rng(seed)
    labels = np.arange(size) % CLASSES
    images = rng.integers(0, 100, (size, HEIGHT, WIDTH)).astype(np.uint8)
    for image, label in zip(images, labels, strict=True):
        image[2 * label : 2 * label + 2] += 150
    return images, labels


def half_of_ep(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
    """A rule of one's own."""
    update = eq.ep(dynamics, theta, x, y, phases)
    return Update({name: g / 2 for name, g in update.gradient.items()}, update.free)


RATES = eq.SGD({"w0-1": 0.5, "w1-2": 0.3, "b1": 0.5, "b2": 0.3})


@dataclass(frozen=True)
class Form:
    """What is trained, and how."""

    dynamics: Dynamics = PLAIN
    phases: Phases = PHASES
    rule: Any = eq.ep
    optimizer: Optimizer = RATES
    rate_schedule: Any = None
    transform: Any = None
    average: float = 0.0

    def fit(self, size: int = 18, epochs: int = 2, **settings: Any) -> Progress:
        """Train; the last of the 5 batches is smaller than the others."""
        X, y = band(size)
        settings = {"batch_size": 4, "seed": 5, "validation": band(7, seed=1)} | vars(self) | settings
        return eq.fit(X=X, y=y, epochs=epochs, **settings)


QUARTIC = eq.Cost(
    "quartic", lambda a, b: ((a - b) ** 4).sum(axis=1) / 4, lambda output, target: (output - target) ** 3
)
RANDOM_SIGN = replace(PHASES, estimate="random-sign")
FORMS = {
    "plain": Form(),
    "momentum, augmented": Form(
        optimizer=eq.SGD(0.3, 0.9, 0.01), transform=eq.random_shift(1), rate_schedule=eq.Exponential(0.5)
    ),
    "Adam, random sign": Form(optimizer=eq.Adam(0.01, weight_decay=0.1), phases=RANDOM_SIGN),
    "real time, augmented": Form(eq.RealTime(CHAIN), RANDOM_SIGN, transform=eq.random_shift(2)),
    "distorted": Form(transform=eq.random_distortion(1)),
    "C-EP": Form(rule=eq.cep, rate_schedule=eq.Steps(1, 0.5)),
    "averaged": Form(average=0.4, optimizer=eq.SGD(0.3, 0.9)),
    "C-EP, averaged": Form(rule=eq.cep, average=0.4),
    "C-VF": Form(
        eq.DiscreteTime(eq.untied(CHAIN)),
        RANDOM_SIGN,
        eq.cvf,
        eq.SGD({"w0-1": 0.5, "w1-2": 0.3, "w2-1": 0.3, "b1": 0.5, "b2": 0.3}),
    ),
    "convolutional, BPTT": Form(
        eq.DiscreteTime(eq.convolutional((HEIGHT, WIDTH, 1), [2], [4, CLASSES], 3)),
        rule=eq.bptt,
        optimizer=eq.SGD(0.1),
    ),
    "own cost, own rule": Form(eq.DiscreteTime(CHAIN, cost=QUARTIC), rule=half_of_ep),
}
forms = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)


def assert_same(a: Theta, b: Theta) -> None:
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def assert_same_run(a: Progress, b: Progress) -> None:
    """Everything is equal, the times excepted."""
    assert_same(a.theta, b.theta)
    assert_same(a.optimizer_state, b.optimizer_state)
    assert_same(a.average, b.average)
    assert a.rng.bit_generator.state == b.rng.bit_generator.state
    for name in ("epoch", "batch", "errors", "steps", "converged", "averaged"):
        assert getattr(a, name) == getattr(b, name)
    assert a.history | {"seconds": []} == b.history | {"seconds": []}


# --- the data


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f8"])
def test_floats_are_taken_as_they_are(dtype: Any) -> None:
    X, y = np.random.default_rng(0).random((9, 4)).astype(dtype), np.arange(9) % 3
    seen: list[Array] = []

    def rule(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        seen.append(x)
        return eq.ep(dynamics, theta, x, y, phases)

    progress = eq.fit(TINY, X, y, phases=PHASES, rule=rule, epochs=1, batch_size=9)
    native = np.dtype(dtype).newbyteorder("=")
    assert {value.dtype for value in (*progress.theta.values(), *seen)} == {native}
    np.testing.assert_array_equal(np.sort(seen[0], axis=0), np.sort(X, axis=0))


def test_bytes_are_scaled_and_this_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    samples._SAID.clear()
    X, y = band(9)
    floats = X.astype(np.float32) / np.float32(255)
    one, two = (eq.fit(PLAIN, data, y, phases=PHASES, epochs=1) for data in (X, floats))
    eq.predict(PLAIN, one.theta, X)
    assert_same(one.theta, two.theta)
    assert capsys.readouterr().err == "note: bytes (uint8) are scaled from 0…255 to 0…1\n"


def test_inputs_far_outside_0_to_1_get_one_warning() -> None:
    X, y = band(9)
    far = X.astype(np.float32)
    calls: list[Callable[[], Any]] = [
        lambda: eq.fit(PLAIN, far, y, phases=PHASES, epochs=1, validation=(-far, y)),
        lambda: eq.fit(PLAIN, X, y, phases=PHASES, epochs=1, validation=(-far, y)),
        lambda: eq.predict(PLAIN, CHAIN.init(np.random.default_rng(0)), far),
        lambda: eq.error_rate(PLAIN, CHAIN.init(np.random.default_rng(0)), far, y),
    ]
    for call, what in zip(calls, ("X", "the validation X", "X", "X"), strict=True):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        (warning,) = caught
        assert str(warning.message).startswith(f"{what} has values up to 2")
        assert warning.filename == __file__
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        eq.fit(PLAIN, far / 30 - 4, y, phases=PHASES, epochs=1)  # standardized data, for example


ONE_HOT = np.eye(3)[np.arange(9) % 3]


@pytest.mark.parametrize(
    "y",
    [
        (np.arange(9) % 3).astype(np.uint8),
        (np.arange(9) % 3).astype(float),
        (np.arange(9) % 3).tolist(),
        ONE_HOT,
        ONE_HOT.astype(bool),
        ONE_HOT.astype(int),
        ONE_HOT.tolist(),
    ],
    ids=["bytes", "floats", "list", "one-hot", "bool", "int", "one-hot list"],
)
def test_labels_and_one_hot_are_equal(y: Any) -> None:
    X, labels = band(9)
    samples = check_samples(eq.DiscreteTime(CHAIN), X, y)
    np.testing.assert_array_equal(samples.targets(eq.DiscreteTime(CHAIN), np.float32), ONE_HOT)
    assert samples.targets(eq.DiscreteTime(CHAIN), np.float32).dtype == np.float32
    assert samples.count_wrong(ONE_HOT) == 0
    assert samples.count_wrong(ONE_HOT[:, ::-1]) == 6
    one, two = (eq.fit(PLAIN, X, labels, phases=PHASES, epochs=1, validation=(X, a)) for a in (labels, y))
    assert one.history["validation_error"] == two.history["validation_error"]


def test_two_classes_may_be_booleans() -> None:
    dynamics = eq.DiscreteTime(eq.chain([4, 2]))
    progress = eq.fit(dynamics, np.eye(4), [True, False, True, False], phases=PHASES, epochs=1)
    assert len(progress.history["train_error"]) == 1


NINE = np.ones((9, PIXELS))


@pytest.mark.parametrize(
    "X, y, message",
    [
        (NINE, np.arange(9) % 3 - 1, "labels must be from 0 to 2, .* got -1 to 1"),
        (NINE, np.arange(9) % 4, "labels must be from 0 to 2, .* got 0 to 3"),
        (NINE, np.full(9, 2**63, np.uint64), "labels must be from 0 to 2"),
        (NINE, np.arange(9) % 2, "every class from 0 to 2, but 2 is missing"),
        (NINE, np.arange(9) % 2 + 1, "every class from 0 to 2, but 0 is missing"),
        (NINE, list("abcabcabc"), "labels must be integers, got <U1: number the classes from 0"),
        (NINE, np.arange(9) / 2, "labels must be integers, got float64"),
        (NINE, np.full(9, np.nan), "labels must be integers"),
        (NINE, np.full(9, np.inf), "labels must be integers"),
        (NINE, np.arange(8) % 3, r"y must have one entry for each of the 9 samples of X, got shape \(8,\)"),
        (NINE, 1, "y must have one entry for each of the 9"),
        (NINE, np.ones((9, 2)), r"y must be labels \(N,\) or targets \(N, 3\), got shape \(9, 2\)"),
        (NINE, [[1, 0, 0]] * 8 + [[1]], "y must be an array, got rows of different lengths"),
        (NINE, ONE_HOT * np.nan, "y must be finite"),
        (NINE, ONE_HOT.astype(complex), "targets must be real"),
        (NINE[:, 1:], np.arange(9) % 3, r"X must have shape \(N, 48\), got \(9, 47\)"),
        (NINE[0], [0], r"X must have shape \(N, 48\), got \(48,\)"),
        (NINE[:0], [], r"X must have shape \(N, 48\), got \(0, 48\)"),
        ([[1.0], [1.0, 2.0]], [0, 1], "X must be an array, got rows of different lengths"),
        (NINE.astype(int), np.arange(9) % 3, r"X must be float32, float64, or bytes .*, got int64"),
        (NINE.astype(np.float16), np.arange(9) % 3, "got float16"),
        (NINE.astype(complex), np.arange(9) % 3, "got complex128"),
        (NINE * np.nan, np.arange(9) % 3, "X must be finite"),
        (NINE * -np.inf, np.arange(9) % 3, "X must be finite"),
    ],
)
def test_data_that_do_not_fit_are_refused(X: Any, y: Any, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        eq.fit(PLAIN, X, y, phases=PHASES)


def test_validation_data_may_lack_a_class_but_must_fit() -> None:
    assert Form().fit(validation=(NINE[:2], [0, 0]), epochs=1).history["validation_error"]
    with pytest.raises(ValueError, match=r"the validation X must have shape \(N, 48\), got \(9, 4\)"):
        Form().fit(validation=(NINE[:, :4], [0] * 9))
    for pair in (NINE, (NINE,), "Xy"):
        with pytest.raises(TypeError, match=r"validation must be a pair \(X, y\), got"):
            Form().fit(validation=pair)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"dynamics": CHAIN}, r"dynamics must be DiscreteTime\(...\) or RealTime\(...\), got Network"),
        ({"phases": None}, r"phases must be Phases\(...\), got None"),
        ({"rule": "ep"}, "rule must be a function"),
        ({"rule": eq.vf, "phases": Phases(2, 1, 0.1, "centered")}, "rule vf does not use the estimate"),
        ({"dynamics": eq.DiscreteTime(eq.untied(CHAIN)), "optimizer": None}, "weights are untied"),
        ({"optimizer": 0.1}, r"optimizer must be SGD\(...\) or Adam\(...\), got 0.1"),
        ({"optimizer": eq.SGD({"b1": 1.0})}, "learning_rates must have the parameters w0-1"),
        ({"optimizer": eq.Adam({"b1": 1.0})}, "learning_rates must have the parameters w0-1"),
        ({"epochs": -1}, "epochs must be a non-negative integer, got -1"),
        ({"epochs": 1.5}, "epochs must be a non-negative integer, got 1.5"),
        ({"batch_size": 0}, "batch_size must be a positive integer, got 0"),
        ({"batch_size": True}, "batch_size must be a positive integer, got True"),
        ({"rate_schedule": 0.9}, "rate_schedule must be a function, got 0.9"),
        ({"rate_schedule": lambda epoch: math.nan}, "rate_schedule must return a finite number from 0"),
        ({"transform": 1}, "transform must be a function, got 1"),
        ({"transform": lambda x, rng: x[:1]}, r"transform must keep the shape \(4, 6, 8\) of a batch"),
        ({"on_batch": 1}, "on_batch must be a function"),
        ({"on_epoch": "print"}, "on_epoch must be a function"),
        ({"progress": {}}, "progress must be a Progress"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        Form().fit(**settings)


@pytest.mark.parametrize("form", [FORMS["C-EP"], FORMS["C-VF"]], ids=["cep", "cvf"])
@pytest.mark.parametrize("optimizer", [eq.SGD(0.1, 0.9), eq.SGD(0.1, 0.0, 0.1), eq.Adam(0.1)])
def test_continual_rules_take_plain_sgd_only(form: Form, optimizer: Optimizer) -> None:
    with pytest.raises(ValueError, match="moves the weights during the second phase at its own rates"):
        form.fit(optimizer=optimizer)


@pytest.mark.parametrize("schedule", [eq.Exponential(0.5), lambda epoch: np.float64(0.5**epoch)])
def test_continual_rules_get_the_rates_of_the_epoch(schedule: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, float]] = []
    record = learning_rule(eq.cep)

    def spy(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        seen.append(dict(phases.learning_rates))
        return record.fastest(CHAIN)(dynamics, theta, x, y, phases)

    rule = replace(record, function=spy, twin=None)
    rates = {"w0-1": 0.5, "w1-2": 0.3, "b1": 0.5, "b2": 0.3}
    progress = Form().fit(rule=rule, rate_schedule=schedule, epochs=3)
    assert seen == [
        {name: rate * f for name, rate in rates.items()} for f in (1, 0.5, 0.25) for _ in range(5)
    ]
    assert_same(progress.theta, Form(rule=eq.cep, rate_schedule=eq.Exponential(0.5)).fit(epochs=3).theta)


@pytest.mark.parametrize("change", ["missing", "shape", "other"])
def test_a_rule_of_ones_own_must_return_the_gradient_of_theta(change: str) -> None:
    def rule(*arguments: Any) -> Any:
        update = eq.ep(*arguments)
        if change == "other":
            return update.gradient
        gradient = dict(update.gradient)
        gradient["b1"] = gradient["b1"][:1]
        if change == "missing":
            del gradient["b1"]
        return Update(gradient, update.free)

    with pytest.raises((ValueError, TypeError), match=r"the gradient of rule rule must|must be an Update"):
        Form().fit(rule=rule)


def test_a_rule_of_ones_own_may_keep_its_arrays_and_wrap_another() -> None:
    """It may also have float64 gradients. `functools.wraps` must not lead past it to the inner rule."""
    from functools import wraps

    total: Theta = {}

    @wraps(eq.ep)
    def rule(*arguments: Any) -> Update:
        update = eq.ep(*arguments)
        for name, g in update.gradient.items():
            total[name] = g.astype(float) if name not in total else total[name]
            total[name] += g
        return Update(total, update.free)

    progress = Form().fit(rule=rule, epochs=1)
    assert {value.dtype for value in progress.theta.values()} == {np.dtype(np.float32)}
    assert not any(np.shares_memory(total[name], progress.theta[name]) for name in total)
    assert not np.array_equal(progress.theta["w0-1"], Form().fit(epochs=1).theta["w0-1"])


# --- transforms


def test_the_validation_data_are_not_transformed() -> None:
    """The transform makes every image black, so that only the error of training is that of chance."""

    def black(x: Array, rng: np.random.Generator) -> Array:
        return np.zeros_like(x)

    X, y = band(18)
    begun = Form().fit(epochs=4)
    still = eq.SGD(0.0)
    progress = Form(optimizer=still, transform=black).fit(
        epochs=5, progress=replace(begun, optimizer_state={}), validation=(X, y)
    )
    assert progress.history["validation_error"][-1] == 0
    assert progress.history["train_error"][-1] == pytest.approx(100 * 2 / 3)


def test_training_and_validation_errors_are_those_of_their_data() -> None:
    """The labels of the validation data are wrong on purpose."""
    X, y = band(18)
    progress = Form().fit(epochs=6, validation=(X, (y + 1) % CLASSES))
    assert progress.history["train_error"][-1] == 0
    assert progress.history["validation_error"][-1] == 100


# --- epochs


def naive_training(form: Form, size: int, epochs: int) -> tuple[Theta, dict[str, list[float]]]:
    """Train as `fit` does, without its counters and checks; return θ and the history."""
    rng = np.random.default_rng(5)
    network = form.dynamics.network
    theta = network.init(rng)
    (X, y), optimizer = band(size), form.optimizer
    state = optimizer.init(theta)
    history: dict[str, list[float]] = {"train_error": [], "steps": [], "converged": []}
    rule = learning_rule(form.rule).fastest(network)
    for epoch in range(epochs):
        order = rng.permutation(size)
        wrong, taken, converged = 0, [], []
        factor = form.rate_schedule(epoch) if form.rate_schedule else 1.0
        phases = form.phases
        if isinstance(optimizer, eq.SGD):
            phases = replace(phases, learning_rates=optimizer.rates(theta, factor))
        for start in range(0, size, 4):
            chosen = order[start : start + 4]
            x = form.transform(X[chosen], rng) if form.transform else X[chosen]
            x = x.reshape(-1, *network.shapes[0]).astype(np.float32) / np.float32(255)
            target = np.eye(CLASSES, dtype=np.float32)[y[chosen]]
            update = rule(form.dynamics, theta, x, target, phases.draw(rng))
            wrong += int((update.free.state[-1].argmax(axis=1) != y[chosen]).sum())
            taken.append(update.free.steps)
            converged.append(update.free.converged)
            theta, state = optimizer.step(theta, update.gradient, state, factor)
        history["train_error"].append(100 * wrong / size)
        history["steps"].append(float(np.mean(taken)))
        history["converged"].append(float(np.mean(converged)))
    return theta, history


@forms
def test_training_equals_the_naive_loop(form: Form) -> None:
    """Bit for bit, over epochs whose last batch is smaller."""
    progress = form.fit()
    theta, history = naive_training(form, 18, 2)
    assert_same(progress.theta, theta)
    assert {name: progress.history[name] for name in history} == history
    error = eq.error_rate(form.dynamics, theta, *band(7, seed=1), phases=form.phases)
    assert progress.history["validation_error"][-1] == error
    counters = progress.epoch, progress.batch, progress.errors, progress.steps, progress.converged
    assert counters == (2, 0, 0, 0, 0)
    first, second = progress.history["seconds"]
    assert 0 <= first <= second <= progress.seconds + 0.005


@forms
def test_the_history_consists_of_lists_of_floats(form: Form) -> None:
    progress = form.fit()
    names = {"train_error", "validation_error", "seconds", "steps", "converged"}
    names |= set() if form.dynamics.network.tied else {"weight_angle"}
    names |= {"average_validation_error"} if form.average else set()
    assert progress.history.keys() == names
    for values in progress.history.values():
        assert type(values) is list
        assert [type(value) for value in values] == [float, float]
    assert [record["epoch"] for record in progress.records] == [1, 2]
    assert progress.records[1]["train_error"] == progress.history["train_error"][1]
    json.dumps(progress.history)


@pytest.mark.parametrize("form", [FORMS["averaged"], FORMS["C-EP, averaged"]])
def test_the_average_equals_the_naive_one_and_changes_nothing_else(form: Form) -> None:
    """Its decay is min(0.4, (1 + t)/(10 + t)), which is smaller for the first six of ten batches."""
    begun, thetas = Progress.begin(form.dynamics, form.optimizer, seed=5), []
    plain = replace(form, average=0.0).fit(progress=begun, on_batch=lambda p: thetas.append(p.theta))
    expected = dict(Progress.begin(form.dynamics, form.optimizer, seed=5).theta)
    for t, theta in enumerate(thetas):
        decay = min(0.4, (1 + t) / (10 + t))
        expected = {name: decay * w + (1 - decay) * theta[name] for name, w in expected.items()}
    found = form.fit()
    assert found.average.keys() == expected.keys()
    for name, w in found.average.items():
        assert w.dtype == np.float32
        np.testing.assert_allclose(w, expected[name], rtol=0, atol=3e-7)
    assert_same(found.theta, plain.theta)
    assert (found.averaged, plain.averaged, plain.average) == (10, 0, {})
    assert found.history["validation_error"] == plain.history["validation_error"]
    error = eq.error_rate(form.dynamics, found.average, *band(7, seed=1), phases=form.phases)
    assert found.history["average_validation_error"][-1] == error


def test_the_averaged_error_is_that_of_the_average() -> None:
    """Large learning rates, so that the parameters and their average have different errors."""
    form = Form(optimizer=eq.SGD(20.0), average=0.9)
    progress = form.fit(epochs=4, validation=band(40, seed=1))
    assert progress.history["average_validation_error"] != progress.history["validation_error"]
    errors = [
        eq.error_rate(PLAIN, theta, *band(40, seed=1), phases=PHASES)
        for theta in (progress.theta, progress.average)
    ]
    assert errors == [progress.history[f"{name}validation_error"][-1] for name in ("", "average_")]


def test_an_average_can_begin_in_the_middle_but_not_end_there() -> None:
    begun = Form().fit(epochs=1)
    first = begun.theta
    continued = Form(average=0.5).fit(epochs=2, progress=begun, batch_size=99)
    for name, w in continued.theta.items():
        np.testing.assert_allclose(continued.average[name], 0.1 * first[name] + 0.9 * w, rtol=0, atol=3e-7)
    assert [set(record) >= {"average_validation_error"} for record in continued.records] == [False, True]
    with pytest.raises(ValueError, match="the progress has an average of the parameters, which would not"):
        Form().fit(epochs=3, progress=continued)
    with pytest.raises(ValueError, match="average must be a finite number from 0 to below 1, got 1"):
        Form(average=1).fit()


def test_it_learns() -> None:
    X, y = band(60)
    progress = Form().fit(size=60, epochs=2, validation=band(60, seed=1))
    assert progress.history["validation_error"][-1] < 5
    assert eq.error_rate(PLAIN, progress.theta, X, y) < 5


def test_the_samples_have_another_order_in_each_epoch() -> None:
    X, y, seen = np.random.default_rng(0).random((12, 4)), np.arange(12) % 3, []

    def rule(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        seen.extend(int(np.flatnonzero((row == X).all(axis=1))[0]) for row in x)
        return eq.ep(dynamics, theta, x, y, phases)

    eq.fit(TINY, X, y, phases=PHASES, rule=rule, epochs=3, batch_size=5)
    epochs = [tuple(seen[k : k + 12]) for k in (0, 12, 24)]
    assert all(sorted(epoch) == list(range(12)) for epoch in epochs)
    assert len({*epochs, tuple(range(12))}) == 4


def test_the_arrays_of_the_caller_are_not_changed() -> None:
    X, y = band(18)
    kept = X.copy(), y.copy()
    eq.fit(PLAIN, X, y, phases=PHASES, epochs=1, transform=lambda x, rng: np.multiply(x, 0, out=x))
    np.testing.assert_array_equal(X, kept[0])
    np.testing.assert_array_equal(y, kept[1])


# --- callbacks


def test_callbacks_see_every_batch_and_epoch() -> None:
    batches: list[Any] = []
    epochs: list[Any] = []
    Form().fit(
        size=10,
        on_batch=lambda p: batches.append((p.epoch, p.batch)),
        on_epoch=lambda p: epochs.append((p.epoch, p.batch, len(p.history["train_error"]))),
    )
    assert batches == [(0, 1), (0, 2), (0, 3), (1, 1), (1, 2), (1, 3)]
    assert epochs == [(1, 0, 1), (2, 0, 2)]


@pytest.mark.parametrize("answer", [True, np.True_])
def test_a_callback_that_returns_true_stops_training(answer: Any) -> None:
    progress = Form().fit(on_batch=lambda p: answer if p.batch == 2 else None)
    assert (progress.epoch, progress.batch) == (0, 2)
    progress = Form().fit(epochs=9, on_epoch=lambda p: answer if p.epoch == 3 else False)
    assert (progress.epoch, progress.batch) == (3, 0)


@pytest.mark.parametrize("answer", [None, False, 1, "yes", np.ones(2)])
def test_another_answer_does_not_stop_training(answer: Any) -> None:
    """A function such as ``file.write`` returns a number."""
    assert Form().fit(on_batch=lambda p: answer, on_epoch=lambda p: answer).epoch == 2


def test_a_callback_can_keep_the_best_parameters() -> None:
    """The parameters are replaced and not changed in place."""
    kept: list[Any] = []
    Form().fit(on_batch=lambda p: kept.append((p.theta, {n: w.copy() for n, w in p.theta.items()})))
    for theta, copy in kept:
        assert_same(theta, copy)


# --- resuming


def stopped(form: Form, stop: int, **settings: Any) -> Progress:
    """Return the progress after so many batches."""
    count = 0

    def on_batch(progress: Progress) -> bool:
        nonlocal count
        count += 1
        return count == stop

    return form.fit(on_batch=on_batch, **settings)


@forms
def test_stopped_anywhere_saved_and_resumed_equals_uninterrupted(form: Form, tmp_path: Path) -> None:
    """Bit for bit, after any number of the 2 × 5 batches."""
    through = form.fit()
    for stop in range(1, 10):
        progress = stopped(form, stop)
        assert (progress.epoch, progress.batch) == divmod(stop, 5) if stop != 5 else progress.batch == 5
        progress.save(tmp_path / "run.npz")
        loaded = Progress.load(tmp_path / "run.npz")
        assert_same_run(loaded, progress)
        assert loaded.epoch_start == progress.epoch_start
        assert_same_run(form.fit(progress=loaded), through)


def test_a_shared_rule_resumes_to_the_bit(tmp_path: Path) -> None:
    form = FORMS["momentum, augmented"]
    with eq.share(eq.ep, 2) as rule:
        through = form.fit(rule=rule)
        stopped(form, 3, rule=rule).save(tmp_path / "run.npz")
    with eq.share(eq.ep, 2) as rule:
        assert_same_run(form.fit(rule=rule, progress=Progress.load(tmp_path / "run.npz")), through)


def test_a_finished_run_is_not_changed() -> None:
    progress = Form().fit()
    before = pickle.dumps(progress)
    Form().fit(progress=progress)
    assert pickle.dumps(progress) == before


@forms
def test_more_epochs_go_on_where_fewer_ended(form: Form) -> None:
    short = form.fit(epochs=1)
    assert_same_run(form.fit(epochs=3, progress=short), form.fit(epochs=3))


def test_a_seed_determines_the_run() -> None:
    one, two, other = (Form().fit(seed=seed) for seed in (1, 1, 2))
    assert_same_run(one, two)
    assert not np.array_equal(one.theta["w0-1"], other.theta["w0-1"])
    begun = Progress.begin(CHAIN, Form().optimizer, 1)
    assert begun.epoch_start == begun.rng.bit_generator.state
    assert_same_run(Form().fit(progress=begun), one)


def test_a_progress_of_another_run_is_refused() -> None:
    progress = stopped(Form(), 3)
    for settings, message in (
        ({"size": 6}, "in an epoch of 18 samples in batches of 4, got 6 samples in batches of 4: pass the"),
        ({"batch_size": 5}, "in an epoch of 18 samples in batches of 4, got 18 samples in batches of 5"),
        ({"optimizer": eq.Adam(0.1)}, "the state of another optimizer than Adam"),
        ({"optimizer": eq.SGD(0.1, 0.9)}, "the state of another optimizer than SGD"),
        ({"dynamics": eq.DiscreteTime(eq.chain([PIXELS, 4, CLASSES]))}, r"theta\['w0-1'\] must have shape"),
    ):
        with pytest.raises(ValueError, match=message):
            Form().fit(progress=progress, **settings)
    progress.abandon_epoch()
    assert Form().fit(size=12, batch_size=5, progress=progress, epochs=1).history["train_error"] != []


def test_an_abandoned_epoch_is_trained_from_its_beginning() -> None:
    progress = stopped(Form(), 3)
    theta = progress.theta
    progress.abandon_epoch()
    seen: list[int] = []
    Form().fit(progress=progress, epochs=1, on_batch=lambda p: seen.append(p.batch))
    assert seen == [1, 2, 3, 4, 5] and theta is not progress.theta


def test_a_generator_that_cannot_be_saved_is_refused() -> None:
    progress = Progress.begin(PLAIN, RATES)
    progress.rng = np.random.Generator(np.random.MT19937(0))
    with pytest.raises(ValueError, match=r"progress\.rng must be a generator that can be saved"):
        Form().fit(progress=progress)


def test_a_transform_keeps_the_kind_of_the_numbers() -> None:
    """Bytes that became floats would not be scaled, and floats that became bytes would be."""
    X, y = band(18)
    floats = (X / 255).astype(np.float32)
    for given, changed in ((X, np.float64), (X, np.int64), (floats, np.uint8)):
        with pytest.raises(TypeError, match="transform must keep the dtype"):
            eq.fit(PLAIN, given, y, phases=PHASES, transform=lambda x, rng, to=changed: x.astype(to))
    for transform in (lambda x, rng: x.astype(np.float64), lambda x, rng: x):
        progress = eq.fit(PLAIN, floats, y, phases=PHASES, transform=transform, epochs=1)
        assert progress.theta["w0-1"].dtype == np.float32


def test_one_output_is_refused() -> None:
    """The largest of one output is always the right one."""
    dynamics = eq.DiscreteTime(eq.chain([PIXELS, 1]))
    X, y = band(18)
    with pytest.raises(ValueError, match="at least 2 neurons, one for each class, but its shape is "):
        eq.fit(dynamics, X, y[:, None] > 0, phases=PHASES)
    image = eq.DiscreteTime(eq.convolutional((HEIGHT, WIDTH, 1), [2], [], 3, 1))
    for own in (dynamics, image):
        with pytest.raises(ValueError, match="the output must be a layer of at least 2 neurons"):
            eq.predict(own, own.init(np.random.default_rng(0)), X)


@pytest.mark.parametrize("dtype", [np.complex64, np.float16])
def test_parameters_are_float32_or_float64(dtype: type) -> None:
    with pytest.raises(TypeError, match=r"dtype must be np\.float32 or np\.float64, got "):
        Progress.begin(PLAIN, RATES, dtype=dtype)
    progress = Progress.begin(PLAIN, RATES)
    progress.theta = {name: value.astype(dtype) for name, value in progress.theta.items()}
    X, y = band(18)
    for call in (lambda: Form().fit(progress=progress), lambda: eq.error_rate(PLAIN, progress.theta, X, y)):
        with pytest.raises(TypeError, match=r"theta\['w0-1'\] must be float32 or float64, got "):
            call()


def test_masked_and_sparse_arrays_are_refused() -> None:
    from scipy.sparse import csr_array

    X, y = band(18)
    with pytest.raises(TypeError, match="X must not be a masked array: remove or fill"):
        eq.fit(PLAIN, np.ma.masked_array(X, X > 9), y, phases=PHASES)
    with pytest.raises(TypeError, match=r"X must be an array, got csr_array: convert it, as with \.toarray"):
        eq.fit(PLAIN, csr_array(X.reshape(18, -1)), y, phases=PHASES)


@pytest.mark.parametrize("damage", ["truncated", "flipped", "other", "pickle", "npy", "empty"])
def test_a_damaged_file_gives_one_sentence(damage: str, tmp_path: Path) -> None:
    path = tmp_path / "run.npz"
    progress = FORMS["Adam, random sign"].fit()
    progress.save(path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    contents = {
        "truncated": [whole[:n] for n in rng.integers(1, len(whole), 25)],
        "flipped": [
            whole[:n] + bytes([whole[n] ^ flip]) + whole[n + 1 :]
            for n in (*rng.integers(0, len(whole), 40), *range(len(whole) - 22, len(whole)))
            for flip in (1, 255)
        ],
        "other": [b"no such file", b"PK\x03\x04" + b"0" * 99],
        "pickle": [pickle.dumps({"theta": 1})],
        "empty": [b""],
    }
    if damage == "npy":
        np.save(path.with_suffix(".npy"), np.ones(3))
        contents["npy"] = [path.with_suffix(".npy").read_bytes()]
    for content in contents[damage]:
        path.write_bytes(content)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            try:
                loaded = Progress.load(path)
            except ValueError as error:
                assert str(error).startswith(f"{path} is damaged or not a training state (")
                assert "\n" not in str(error)
            else:  # the byte is one that nothing reads, such as a time in the archive
                assert damage == "flipped"
                assert_same_run(loaded, progress)


def test_an_array_that_is_missing_is_noticed(tmp_path: Path) -> None:
    """Damage to the directory of the archive can hide an array, for example of the optimizer."""
    path = tmp_path / "run.npz"
    FORMS["Adam, random sign"].fit().save(path)
    with np.load(path) as content:
        arrays = dict(content)
    del arrays["optimizer/v/b2"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="some arrays are missing"):
        Progress.load(path)


def test_a_missing_file_is_no_damage(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        Progress.load(tmp_path / "none.npz")


def test_a_file_is_replaced_only_by_a_complete_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.npz"
    Form().fit().save(path)
    before = path.read_bytes()

    def full(file: Any, **arrays: Any) -> None:
        file.write(b"PK")
        raise OSError("no space left")

    monkeypatch.setattr(np, "savez", full)
    with pytest.raises(OSError, match="no space"):
        Form().fit().save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# --- interrupts


def interrupting(count: int, files: tuple[str, ...]) -> Callable[[Any, str, Any], Any]:
    """Return a trace function that raises KeyboardInterrupt at the count-th line of these modules."""
    left = count

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal left
        if not frame.f_code.co_filename.endswith(files):
            return None
        if event in ("line", "return"):
            left -= 1
            if left == 0:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize("name", ["momentum, augmented", "Adam, random sign", "averaged"])
def test_an_interrupt_at_any_line_loses_no_complete_batch(name: str) -> None:
    """KeyboardInterrupt is raised at many lines of training and of the optimizer, also within a step."""
    form = FORMS[name]
    through = form.fit(size=9)
    files = ("eqprop_np/training.py", "eqprop_np/optimizers.py")
    random_lines = random.Random(0)
    stops = set()
    for _ in range(60):
        progress = Progress.begin(CHAIN, form.optimizer, 5)
        sys.settrace(interrupting(random_lines.randint(250, 1200), files))
        try:
            form.fit(size=9, progress=progress)
        except KeyboardInterrupt:
            stops.add((progress.epoch, progress.batch))
        finally:
            sys.settrace(None)
        assert_same_run(form.fit(size=9, progress=progress), through)
    assert len(stops) > 4


SCRIPT = """
import sys
import numpy as np
import eqprop_np as eq
from pathlib import Path
sys.path.insert(0, str(Path(__file__).parent))
path = Path(sys.argv[1])
rng = np.random.default_rng(0)
X, y = rng.random((60, 6, 5), np.float32), np.arange(60) % 3
dynamics, optimizer = eq.DiscreteTime(eq.chain([30, 8, 3])), eq.Adam(0.01)
phases = eq.Phases(12, 4, beta=0.1, estimate="random-sign")
if path.exists():
    progress = eq.Progress.load(path)
else:
    progress = eq.Progress.begin(dynamics.network, optimizer)
print("begun", flush=True)
eq.fit(
    dynamics, X, y, phases=phases, optimizer=optimizer, epochs=10, batch_size=4, progress=progress,
    transform=eq.random_distortion(1), average=0.9, on_batch=lambda p: p.save(path),
    validation=(X[:9], y[:9]),
)
progress.save(path)
"""


def killed_and_resumed(
    directory: Path, kills: int, seed: int, window: float = 0.2
) -> tuple[Progress, list[tuple[int, int]]]:
    """Kill a script so many times at random moments, let it end, and return its progress.

    ``window`` is the longest time in seconds from the start of training to a kill. Also return the epoch
    and the batch of the file after each kill.
    """
    script, path, moments = directory / "script.py", directory / "run.npz", random.Random(seed)
    script.write_text(SCRIPT, "utf-8")
    environment = os.environ | {"PYTHONPATH": str(Path(eq.__file__).parents[1])}
    found = []
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, str(script), str(path)], stdout=subprocess.PIPE, env=environment
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(moments.uniform(0, window))
            process.kill()
        if path.exists():
            progress = Progress.load(path)
            found.append((progress.epoch, progress.batch))
    subprocess.run([sys.executable, str(script), str(path)], env=environment, check=True, timeout=60)
    return Progress.load(path), found


def test_a_script_killed_at_random_moments_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    (tmp_path / "through").mkdir()
    through, _ = killed_and_resumed(tmp_path / "through", 0, 0)
    resumed, _ = killed_and_resumed(tmp_path, 3, 0)
    assert (through.epoch, through.batch) == (10, 0)
    assert_same_run(resumed, through)


# --- the progress bar


def on_terminal(tmp_path: Path, body: str) -> str:
    """Return what a script writes to a terminal of 24 × 80 characters."""
    import fcntl
    import termios

    script = tmp_path / "script.py"
    script.write_text(
        "import numpy as np, time\nimport eqprop_np as eq\n"
        "X, y = np.random.default_rng(0).random((60, 4)), np.arange(60) % 3\n"
        "dynamics, phases = eq.DiscreteTime(eq.chain([4, 3])), eq.Phases(12, 4, beta=0.1)\n"
        "settings = dict(phases=phases, batch_size=10, on_batch=lambda p: time.sleep(0.03))\n"
        "def line(p): print(f'epoch {p.epoch} is complete')\n" + textwrap.dedent(body),
        "utf-8",
    )
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = os.environ | {"PYTHONPATH": str(Path(eq.__file__).parents[1]), "TERM": "xterm"}
    written = b""
    with subprocess.Popen(
        [sys.executable, str(script)], stdout=theirs, stderr=theirs, env=environment
    ) as process:
        os.close(theirs)
        while select.select([ours], [], [], 20)[0]:
            try:
                part = os.read(ours, 4096)
            except OSError:  # Linux, when the other end is closed
                break
            if not part:
                break
            written += part
    os.close(ours)
    assert process.returncode == 0, written.decode()
    return written.decode()


def screen(written: str) -> Iterator[list[str]]:
    """Yield the lines of the terminal after each carriage return or new line."""
    lines, column = [""], 0
    for character in written.replace("\x1b[A", ""):
        if character == "\n":
            lines.append("")
            column = 0
        elif character == "\r":
            yield list(lines)
            column = 0
        else:
            lines[-1] = lines[-1][:column].ljust(column) + character + lines[-1][column + 1 :]
            column += 1
    yield list(lines)


def counts(written: str) -> list[tuple[int, int, int]]:
    """Return the epoch, the batches done and their total number that the bar showed."""
    pattern = r"epoch (\d+)/\d+: .*? (\d+)/(\d+) \["
    return [tuple(map(int, match)) for match in re.findall(pattern, written)]  # type: ignore[misc]


def test_the_bar_on_a_terminal_counts_in_every_epoch(tmp_path: Path) -> None:
    written = on_terminal(tmp_path, "eq.fit(dynamics, X, y, epochs=3, on_epoch=line, **settings)")
    shown = counts(written)
    assert {total for *_, total in shown} == {18}
    for epoch in (1, 2, 3):
        in_epoch = [done for number, done, _ in shown if number == epoch]
        assert len(set(in_epoch)) > 1
        assert 6 * (epoch - 1) <= min(in_epoch) <= max(in_epoch) <= 6 * epoch
    assert [done for _, done, _ in shown] == sorted(done for _, done, _ in shown)
    frames = list(screen(written))
    assert max(len(line) for frame in frames for line in frame) <= 80
    assert [line.strip() for line in frames[-1] if line.strip()] == [
        f"epoch {epoch} is complete" for epoch in (1, 2, 3)
    ]


def test_the_bar_of_a_resumed_run_counts_from_where_it_resumes(tmp_path: Path) -> None:
    written = on_terminal(
        tmp_path,
        """
        stop = lambda p: (p.epoch, p.batch) == (1, 2)
        progress = eq.fit(
            dynamics, X, y, phases=phases, batch_size=10, epochs=3, on_batch=stop, show_progress=False
        )
        eq.fit(dynamics, X, y, epochs=3, progress=progress, **settings)
        """,
    )
    shown = counts(written)
    assert {epoch for epoch, *_ in shown} == {2, 3}
    assert min(done for _, done, _ in shown) == 9
    assert max(done for _, done, _ in shown) in (17, 18)
    speeds = [float(speed) for speed in re.findall(r"([\d.]+)batch/s", written)]
    assert len(speeds) > 1
    assert max(speeds[1:]) < 60  # a batch takes at least 0.03 s, and the batches before do not count


def test_without_a_terminal_nothing_is_written(capfd: pytest.CaptureFixture[str]) -> None:
    eq.fit(TINY, np.eye(4)[:3], [0, 1, 2], phases=PHASES)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("show", [None, True, False])
def test_the_bar_in_a_notebook_and_on_request(
    show: bool | None, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if show is None:
        monkeypatch.setitem(sys.modules, "ipykernel", object())  # type: ignore[arg-type]
    eq.fit(TINY, np.eye(4)[:3], [0, 1, 2], phases=PHASES, show_progress=show)
    assert ("batch" in capfd.readouterr().err) is (show is not False)


def test_without_standard_error_there_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stderr", None)  # as in a program without a console on Windows
    assert eq.fit(TINY, np.eye(4)[:3], [0, 1, 2], phases=PHASES, epochs=2).epoch == 2


# --- the share of converged first phases


@pytest.mark.parametrize(
    "phases, rule, share",
    [
        (Phases(1, 4, 0.1), eq.ep, 0.0),
        (Phases(500, 4, 0.1), eq.ep, 1.0),
        (Phases(500, 4, 0.1, schedule=eq.Synchronous(1e-3)), eq.ep, 1.0),
        (Phases(500, 4, 0.1), eq.bptt, 1.0),
    ],
)
def test_a_record_has_the_share_of_converged_first_phases(phases: Phases, rule: Any, share: float) -> None:
    assert Form(phases=phases, rule=rule).fit().history["converged"] == [share, share]


def test_the_share_is_the_number_of_converged_batches_over_all_batches() -> None:
    """The threshold lies between the residuals of the batches, so that some converge and some do not."""
    X, y = band(18)
    samples = check_samples(eq.DiscreteTime(CHAIN), X, y)
    rng = np.random.default_rng(5)
    theta = CHAIN.init(rng)
    order = rng.permutation(18)
    residuals = [
        relax(
            PLAIN,
            theta,
            samples[order[k : k + 4]].inputs(CHAIN, np.float32),
            None,
            6,
            schedule=eq.Alternating(tol=0),
        ).residuals[-1]
        for k in range(0, 18, 4)
    ]
    two = float(np.mean(sorted(residuals)[1:3]))
    phases = replace(PHASES, schedule=eq.Alternating(tol=two))
    assert Form(phases=phases, optimizer=eq.SGD(0.0)).fit(epochs=1).history["converged"] == [2 / 5]


@pytest.mark.parametrize("schedule", [eq.Alternating(tol=0), eq.Synchronous()], ids=repr)
def test_without_a_tolerance_no_share_is_recorded(schedule: Any) -> None:
    assert "converged" not in Form(phases=replace(PHASES, schedule=schedule)).fit().history


def test_an_epoch_that_was_not_counted_from_its_start_has_no_share() -> None:
    """Such a progress comes from the file of an older version. The next epoch is counted again."""
    progress = stopped(Form(), 2)
    progress.converged = None
    Form().fit(progress=progress)
    assert ["converged" in record for record in progress.records] == [False, True]


def test_a_value_that_an_epoch_lacks_leaves_the_others_in_their_places() -> None:
    """The first and the third epoch have validation data."""
    progress = Form().fit(epochs=1)
    Form().fit(epochs=2, progress=progress, validation=None)
    Form().fit(epochs=3, progress=progress)
    assert ["validation_error" in record for record in progress.records] == [True, False, True]
    assert math.isnan(progress.history["validation_error"][1])


# --- divergence


def exploding(value: float) -> Callable[[Progress], None]:
    """Return a callback that sets a weight to this value after the second batch."""

    def on_batch(progress: Progress) -> None:
        if progress.batch == 2:
            progress.theta["w0-1"][0, 0] = value

    return on_batch


WHITE = np.full((18, HEIGHT, WIDTH), 255, np.uint8)  # so that each weight affects every neuron of its layer


def test_an_output_that_is_not_finite_stops_training_at_once() -> None:
    progress = Progress.begin(CHAIN, Form().optimizer)
    with pytest.raises(Diverged, match="the output is not finite in epoch 1, batch 3"):
        eq.fit(
            PLAIN, WHITE, np.arange(18) % 3, phases=PHASES, optimizer=Form().optimizer, batch_size=4,
            progress=progress, on_batch=exploding(np.nan),
        )  # fmt: skip
    assert (progress.epoch, progress.batch, progress.history) == (0, 2, {})


def test_a_parameter_that_is_not_finite_ends_an_epoch_unrecorded() -> None:
    """An infinite weight from a white pixel saturates σ, so the output stays finite."""
    progress = Progress.begin(CHAIN, Form().optimizer)
    epochs: list[Any] = []
    with pytest.raises(Diverged, match="parameter w0-1 is not finite after epoch 1, batch 5"):
        eq.fit(
            PLAIN, WHITE, np.arange(18) % 3, phases=PHASES, optimizer=Form().optimizer, batch_size=4,
            progress=progress, on_batch=exploding(np.inf), on_epoch=epochs.append,
        )  # fmt: skip
    assert (progress.epoch, progress.history, epochs) == (0, {}, [])


def test_a_stop_reports_divergence_first() -> None:
    """The caller saves the progress after a stop, and must not save parameters that are not finite."""

    def on_batch(progress: Progress) -> bool:
        progress.theta["b1"][0] = np.nan
        return True

    with pytest.raises(Diverged, match="parameter b1 is not finite after epoch 1, batch 1"):
        Form().fit(on_batch=on_batch)


# --- evaluation


@pytest.mark.parametrize("size", [1, 4, 5, 11])
def test_each_sample_is_evaluated_once(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last chunk may be smaller than the others."""
    monkeypatch.setattr(training, "EVALUATION_BATCH", 4)
    X, y = band(size)
    theta = CHAIN.init(np.random.default_rng(1))
    phases = replace(PHASES, schedule=eq.Alternating(tol=0))
    x = X.reshape(size, -1).astype(np.float32) / np.float32(255)
    free = relax(PLAIN, theta, x, None, 6, schedule=phases.schedule)
    np.testing.assert_allclose(eq.outputs(PLAIN, theta, X, phases), free.state[-1], rtol=0, atol=1e-6)
    wrong = free.state[-1].argmax(axis=1) != y
    assert eq.error_rate(PLAIN, theta, X, y, phases) == pytest.approx(100 * wrong.mean())


@pytest.mark.parametrize("form", [Form(), FORMS["convolutional, BPTT"], FORMS["real time, augmented"]])
def test_a_prediction_is_the_largest_output_at_the_steady_state(form: Form) -> None:
    X, y = band(40, seed=2)
    theta = form.fit(size=36, epochs=1).theta
    exact = {name: value.astype(np.float64) for name, value in theta.items()}
    x = X.reshape(len(X), *form.dynamics.network.shapes[0]) / 255
    free = relax(form.dynamics, exact, x, None, 5000, schedule=eq.Synchronous(tol=1e-12))
    assert free.converged
    np.testing.assert_allclose(eq.outputs(form.dynamics, theta, X), free.state[-1], rtol=0, atol=1e-6)
    found = eq.predict(form.dynamics, theta, X)
    assert found.shape == (40,)
    np.testing.assert_array_equal(found, free.state[-1].argmax(axis=1))
    wrong = 100 * float(np.mean(found != y))
    assert eq.error_rate(form.dynamics, theta, X, y) == wrong
    assert eq.error_rate(form.dynamics, theta, X, np.eye(CLASSES)[y]) == wrong
    assert eq.error_rate(form.dynamics, theta, X, found) == 0
    assert eq.error_rate(form.dynamics, theta, X, (found + 1) % CLASSES) == 100


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_an_output_does_not_depend_on_the_other_samples(dtype: Any) -> None:
    rng = np.random.default_rng(0)
    X = (rng.random((300, PIXELS)) * rng.choice([0.01, 1, 5], (300, 1))).astype(dtype)
    theta = {name: 2 * w for name, w in CHAIN.init(rng, dtype).items()}
    together = eq.outputs(PLAIN, theta, X)
    alone = np.concatenate([eq.outputs(PLAIN, theta, x[np.newaxis]) for x in X[:60]])
    backwards = eq.outputs(PLAIN, theta, X[::-1])[::-1]
    np.testing.assert_allclose(together[:60], alone, rtol=0, atol=1e-6)
    np.testing.assert_allclose(together, backwards, rtol=0, atol=1e-6)


def test_a_network_with_a_cycle_of_odd_length_can_be_evaluated() -> None:
    shapes = ((4,), (3,), (3,), (3,))
    pairs = ((0, 1), (1, 2), (2, 3), (1, 3))
    network = eq.Network(shapes, tuple(eq.Dense(a, b, shapes[a], shapes[b]) for a, b in pairs))
    dynamics = eq.DiscreteTime(network)
    theta = {name: w / 3 for name, w in network.init(np.random.default_rng(0)).items()}
    assert relax(dynamics, theta, np.eye(4, dtype=np.float32), schedule=eq.Synchronous(1e-4)).converged
    assert eq.predict(dynamics, theta, np.eye(4)).shape == (4,)


def test_a_state_that_does_not_converge_gets_a_warning() -> None:
    network = eq.chain([2, 2, 2])
    theta = {"w0-1": np.zeros((2, 2)), "w1-2": 9 * np.array([[1.0, -1], [-1, 1]]), "b1": np.ones(2) / 9}
    theta["b2"] = theta["b1"]
    slow = eq.RealTime(network, epsilon=1e-5)
    with pytest.warns(UserWarning, match="the state did not converge in 1000 steps"):
        eq.predict(slow, theta, np.eye(2))


def test_evaluation_refuses_what_does_not_fit() -> None:
    theta = CHAIN.init(np.random.default_rng(0))
    for call, message in (
        (lambda: eq.predict(CHAIN, theta, NINE), "dynamics must be DiscreteTime"),
        (lambda: eq.predict(PLAIN, {}, NINE), "theta must have the parameters"),
        (lambda: eq.predict(PLAIN, theta, NINE[:, :3]), r"X must have shape \(N, 48\), got \(9, 3\)"),
        (lambda: eq.outputs(PLAIN, theta, NINE * np.nan), "X must be finite"),
        (lambda: eq.predict(PLAIN, theta, NINE, 30), r"phases must be Phases\(...\), got 30"),
        (lambda: eq.error_rate(PLAIN, theta, NINE, [0] * 8), "y must have one entry for each of the 9"),
        (lambda: eq.error_rate(PLAIN, theta, NINE, [3] * 9), "labels must be from 0 to 2"),
    ):
        with pytest.raises((ValueError, TypeError), match=message):
            call()


# --- samples


def test_samples_are_cut_like_arrays() -> None:
    X, y = band(9)
    data = Samples(X, y)
    for chosen in (slice(2, 5), slice(-3, None), np.array([4, 0, 4])):
        part = data[chosen]
        np.testing.assert_array_equal(part.x, X[chosen])
        np.testing.assert_array_equal(part.y, y[chosen])
        assert len(part) == 3


def test_inputs_are_from_0_to_1_in_the_shape_of_the_input_layer() -> None:
    X, y = band(7)
    X[0, 0, :2] = 0, 255
    for name, shape in (("plain", (PIXELS,)), ("convolutional, BPTT", (HEIGHT, WIDTH, 1))):
        x = Samples(X, y).inputs(FORMS[name].dynamics.network, np.float32)
        assert (x.dtype, x.shape) == (np.float32, (7, *shape))
        np.testing.assert_array_equal(x.reshape(7, -1), X.reshape(7, -1) / np.float32(255))
        assert (x.flat[0], x.flat[1]) == (0, 1)


def test_the_class_of_a_sample_depends_on_its_batch_by_no_more_than_the_tolerance(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A batch stops when its slowest sample has converged. The steps contract by more than a half here."""
    dynamics = eq.DiscreteTime(eq.chain([4, 8, 3]))
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    X = np.random.default_rng(1).random((20, 4)) * np.linspace(0, 3, 20)[:, np.newaxis]
    for tol in (1e-2, 1e-4, 1e-6):
        phases = Phases(400, 1, beta=0.1, schedule=eq.Alternating(tol=tol))
        together = eq.outputs(dynamics, theta, X, phases)
        with monkeypatch.context() as patch:
            patch.setattr(training, "EVALUATION_BATCH", 1)
            alone = eq.outputs(dynamics, theta, X, phases)
        assert 0 < np.abs(together - alone).max() < 2 * tol


@pytest.mark.parametrize("seed", [-1, 1.5, "x", None])
def test_a_seed_that_is_no_natural_number_is_refused(seed: Any) -> None:
    with pytest.raises(ValueError, match="seed must be a non-negative integer, got"):
        eq.fit(eq.DiscreteTime(eq.chain([2, 2])), np.ones((2, 2)), [0, 1], phases=PHASES, seed=seed)


def test_the_progress_of_an_evaluation_is_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It appears in the evaluation after an epoch, if the progress of training is shown."""
    monkeypatch.setattr(training, "DELAY", 0.0)
    X, y = np.random.default_rng(0).random((6, 2)), np.arange(6) % 2
    dynamics = eq.DiscreteTime(eq.chain([2, 2]))
    for show in (True, False):
        eq.fit(dynamics, X, y, phases=PHASES, epochs=1, validation=(X, y), show_progress=show)
        assert ("evaluating: " in capsys.readouterr().err) is show
