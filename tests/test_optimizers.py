"""Tests of the optimizers against loops over single numbers, and of the schedules of the learning rate."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from eqprop_np.network import Theta, is_weight
from eqprop_np.optimizers import (
    SGD,
    Adam,
    Cosine,
    Exponential,
    Optimizer,
    Steps,
    Warmup,
    averaged,
    rates_of,
)

RATES = {"w0-1": 0.3, "b1": 0.02}


def example(dtype: Any = np.float64, seed: int = 0) -> Theta:
    rng = np.random.default_rng(seed)
    return {"w0-1": rng.normal(size=(3, 2)).astype(dtype), "b1": rng.normal(size=2).astype(dtype)}


def steps(optimizer: Optimizer, count: int, dtype: Any = np.float64, factor: float = 1.0) -> Theta:
    """Return θ after some steps with a new random gradient each."""
    theta = example(dtype)
    state = optimizer.init(theta)
    for k in range(count):
        theta, state = optimizer.step(theta, example(dtype, seed=k + 1), state, factor)
    return theta


def naive_sgd(momentum: float, weight_decay: float, count: int, factor: float) -> Theta:
    theta, gradients = example(), [example(seed=k + 1) for k in range(count)]
    for name, values in theta.items():
        for index in np.ndindex(values.shape):
            w, v = float(values[index]), 0.0
            for gradient in gradients:
                decay = weight_decay * w if name != "b1" else 0.0
                v = momentum * v + float(gradient[name][index]) + decay
                w = w - factor * RATES[name] * v
            values[index] = w
    return theta


def naive_adam(a: Adam, count: int, factor: float) -> Theta:
    theta, gradients = example(), [example(seed=k + 1) for k in range(count)]
    for name, values in theta.items():
        for index in np.ndindex(values.shape):
            w, m, v = float(values[index]), 0.0, 0.0
            for t, gradient in enumerate(gradients, start=1):
                g = float(gradient[name][index])
                m = a.beta1 * m + (1 - a.beta1) * g
                v = a.beta2 * v + (1 - a.beta2) * g * g
                step = m / (1 - a.beta1**t) / (math.sqrt(v / (1 - a.beta2**t)) + a.epsilon)
                w -= factor * RATES[name] * (step + (a.weight_decay * w if name != "b1" else 0.0))
            values[index] = w
    return theta


def assert_close(a: Theta, b: Theta) -> None:
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_allclose(a[name], b[name], rtol=1e-12, atol=1e-13, err_msg=name)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_plain_sgd_equals_the_step_in_place_to_the_bit(dtype: Any) -> None:
    """The step before there were optimizers: ``g *= rate; theta -= g``."""
    expected = example(dtype)
    for k in range(5):
        for name, g in example(dtype, seed=k + 1).items():
            g *= RATES[name]
            expected[name] -= g
    found = steps(SGD(RATES), 5, dtype)
    for name in found:
        assert found[name].dtype == dtype
        np.testing.assert_array_equal(found[name], expected[name])


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_equals_the_loop_over_numbers(momentum: float, weight_decay: float) -> None:
    found = steps(SGD(RATES, momentum, weight_decay), 4, factor=0.5)
    assert_close(found, naive_sgd(momentum, weight_decay, 4, 0.5))


@pytest.mark.parametrize(
    "adam", [Adam(RATES), Adam(RATES, beta1=0.5, beta2=0.6, epsilon=0.1), Adam(RATES, weight_decay=0.1)]
)
def test_adam_equals_the_loop_over_numbers(adam: Adam) -> None:
    assert_close(steps(adam, 4, factor=0.5), naive_adam(adam, 4, 0.5))


def test_two_steps_of_adam_by_hand() -> None:
    """With β₁ = β₂ = ½, η = 1, ε = 1 and g = 2, then 4.

    m = 1, v = 2, and without bias 2 and 4: w = 0 − 2/(2 + 1) = −2/3.
    m = 2.5, v = 9, and without bias 10/3 and 12: w = −2/3 − (10/3)/(√12 + 1).
    """
    adam, theta = Adam(1.0, beta1=0.5, beta2=0.5, epsilon=1.0), {"b1": np.zeros(1)}
    state = adam.init(theta)
    theta, state = adam.step(theta, {"b1": np.array([2.0])}, state)
    np.testing.assert_allclose(theta["b1"], [-2 / 3], rtol=1e-15)
    theta, state = adam.step(theta, {"b1": np.array([4.0])}, state)
    np.testing.assert_allclose(theta["b1"], [-2 / 3 - (10 / 3) / (math.sqrt(12) + 1)], rtol=1e-15)
    assert state["t"] == 2


@pytest.mark.parametrize("optimizer", [SGD(0.1, weight_decay=0.5), Adam(0.1, weight_decay=0.5)])
def test_weight_decay_acts_on_the_weights_only(optimizer: Optimizer) -> None:
    theta = {name: np.ones(shape) for name, shape in {"w0-1": (2, 2), "gain": (2,), "b1": (2,)}.items()}
    zero = {name: np.zeros_like(value) for name, value in theta.items()}
    new, _ = optimizer.step(theta, zero, optimizer.init(theta))
    for name, expected in (("w0-1", 0.95), ("gain", 0.95), ("b1", 1.0)):
        np.testing.assert_allclose(new[name], expected)
    assert [is_weight(name) for name in ("w0-1", "b1", "b12", "bottleneck", "w1-2")] == [1, 0, 0, 1, 1]
    assert [is_weight(name) for name in ("w-readout", "b-readout")] == [True, False]


@pytest.mark.parametrize(
    "make",
    [
        lambda number: SGD(0.1, momentum=number),
        lambda number: SGD(0.1, weight_decay=number),
        lambda number: Adam(0.1, beta1=number),
        lambda number: Adam(0.1, beta2=number),
        lambda number: Adam(0.1, epsilon=number),
        lambda number: Adam(0.1, weight_decay=number),
    ],
)
def test_a_number_of_numpy_does_not_change_the_dtype(make: Callable[[float], Optimizer]) -> None:
    optimizer = make(np.float64(0.5))
    theta = {"w0-1": np.ones((2, 2), np.float32)}
    state = optimizer.init(theta)
    for _ in range(2):
        theta, state = optimizer.step(theta, {"w0-1": np.ones((2, 2), np.float32)}, state)
    assert theta["w0-1"].dtype == np.float32


@pytest.mark.parametrize("optimizer", [SGD(0.1), SGD(0.1, 0.9), SGD(0.1, 0.9, 0.1), Adam(0.1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_step_leaves_the_old_parameters_and_state_and_keeps_the_dtype(
    optimizer: Optimizer, dtype: Any
) -> None:
    theta = example(dtype)
    first, state = optimizer.step(theta, example(dtype, 1), optimizer.init(theta))
    kept = {name: value.copy() for name, value in (first | state).items()}
    second, new_state = optimizer.step(first, example(dtype, 2), state)
    for name, value in (first | state).items():
        np.testing.assert_array_equal(value, kept[name])
    assert {value.dtype for value in second.values()} == {np.dtype(dtype)}
    for name, value in new_state.items():
        assert value.dtype == state[name].dtype
        assert not any(np.shares_memory(value, other) for other in second.values())


def test_one_rate_is_that_of_all_parameters() -> None:
    assert rates_of(0.5, {"a": 0, "b": 0}) == {"a": 0.5, "b": 0.5}
    rates = rates_of({"a": np.float32(0.5)}, {"a": 0})
    assert type(rates["a"]) is float
    assert SGD({"a": 0.5}).rates({"a": 0}, 0.1) == {"a": 0.05}


@pytest.mark.parametrize("names", [{"w0-1"}, {"w0-1", "b1", "b2"}])
def test_rates_by_name_are_those_of_all_parameters(names: set[str]) -> None:
    rates = dict.fromkeys(names, 0.1)
    for optimizer in (SGD(rates), Adam(rates)):
        with pytest.raises(ValueError, match="learning_rates must have the parameters w0-1, b1, got"):
            optimizer.step(example(), example(), optimizer.init(example()))


@pytest.mark.parametrize(
    "make",
    [
        lambda: SGD(-0.1), lambda: SGD(math.nan), lambda: SGD(math.inf), lambda: SGD({"b1": -1.0}),
        lambda: SGD("0.1"), lambda: SGD(None), lambda: SGD(True), lambda: SGD(np.ones(2)), lambda: SGD(0.1j),
        lambda: SGD(0.1, 1.0), lambda: SGD(0.1, -0.1), lambda: SGD(0.1, 0.0, -1.0), lambda: SGD(0.1, 0, None),
        lambda: Adam(-1.0), lambda: Adam(beta1=1.0), lambda: Adam(beta2=-0.1), lambda: Adam(epsilon=0.0),
        lambda: Adam(weight_decay=math.inf), lambda: Exponential(0.0), lambda: Exponential("0.5"),
        lambda: Steps(0), lambda: Steps(1.5), lambda: Steps(2, 0.0), lambda: Cosine(0), lambda: Cosine(True),
    ],
)  # fmt: skip
def test_a_setting_out_of_its_range_is_refused(make: Any) -> None:
    with pytest.raises(ValueError, match=r"must be .*, got"):
        make()


# --- the average of the parameters


@pytest.mark.parametrize("decay", [0.0, 0.3, 0.99])
def test_the_average_of_one_number_by_hand(decay: float) -> None:
    """The smaller d of the first batches is 1/10, 2/11, 3/12, …"""
    average, expected = {"b1": np.array([4.0])}, 4.0
    for t, w in enumerate([1.0, -2.0, 5.0, 0.5]):
        d = min(decay, [1 / 10, 2 / 11, 3 / 12, 4 / 13][t])
        expected = d * expected + (1 - d) * w
        average = averaged(average, {"b1": np.array([w])}, decay, t)
        np.testing.assert_allclose(average["b1"], [expected], rtol=1e-14)


def test_the_average_covers_the_last_batches_and_changes_no_argument() -> None:
    """With a constant d = 0.9, a change of θ remains with 0.9ⁿ after n more batches."""
    before, theta = example(np.float32), example(np.float32, seed=1)
    kept = [{name: value.copy() for name, value in values.items()} for values in (before, theta)]
    average = before
    for t in range(1000, 1005):
        average = averaged(average, theta, 0.9, t)
    for name, value in average.items():
        assert value.dtype == np.float32
        expected = theta[name] + 0.9**5 * (before[name] - theta[name])
        np.testing.assert_allclose(value, expected, rtol=0, atol=1e-6)
        for values, old in zip((before, theta), kept, strict=True):
            np.testing.assert_array_equal(values[name], old[name])
            assert not np.shares_memory(value, values[name])


# --- schedules of the rate


def test_the_schedules_of_the_rate() -> None:
    assert [Exponential()(epoch) for epoch in range(3)] == [1, 1, 1]
    assert [Exponential(0.87)(epoch) for epoch in range(3)] == [1, 0.87, 0.87**2]
    assert [Steps(3, 0.5)(epoch) for epoch in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]
    cosine = [Cosine(5)(epoch) for epoch in range(8)]
    assert cosine[0] == 1
    np.testing.assert_allclose(
        cosine[:6], [(1 + math.cos(math.pi * epoch / 5)) / 2 for epoch in range(6)], atol=1e-15
    )
    assert cosine[5:] == pytest.approx([0, 0, 0], abs=1e-15)
    assert [Warmup(3)(epoch) for epoch in range(5)] == [0.25, 0.5, 0.75, 1, 1]
    warm = Warmup(2, lambda epoch: 9.0 + epoch)
    assert [warm(epoch) for epoch in range(5)] == pytest.approx([3, 6, 9, 10, 11])
    with pytest.raises(TypeError, match=r"then must be a schedule such as Exponential\(0.9\), got 'cosine'"):
        Warmup(1, "cosine")  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [Exponential(0.5), Steps(2), Cosine(4), Warmup(2, Cosine(4))], ids=repr)
def test_a_factor_is_a_number_of_python(schedule: Any) -> None:
    """A NumPy number would change the dtype of what it multiplies."""
    assert {type(schedule(epoch)) for epoch in range(6)} == {float}
