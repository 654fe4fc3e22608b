"""The checks of `eqprop_np.testing`: they pass what is right and fail on planted faults."""

import re
from collections.abc import Callable
from dataclasses import replace
from math import prod
from typing import Any

import numpy as np
import pytest
from examples import NETWORKS

from eqprop_np.activations import ACTIVATIONS, Activation, Array, sigmoid, tanh
from eqprop_np.connections import Connection, ConvPool, Dense
from eqprop_np.costs import Cost, squared_error
from eqprop_np.testing import (
    check_activation,
    check_adjoint,
    check_connection,
    check_cost,
    check_gradient,
)

Theta = dict[str, Array]


@pytest.fixture
def theta(rng: np.random.Generator) -> Theta:
    """A square matrix, so that its transpose has the right shape, and a vector a thousand times smaller."""
    return {"w": rng.standard_normal((5, 5)), "b": 1e-3 * rng.standard_normal(5)}


X = np.linspace(-1, 1, 5)


def f(theta: Theta) -> float:
    """Σ tanh(x w + b)²."""
    return float((np.tanh(X @ theta["w"] + theta["b"]) ** 2).sum())


def gradient(theta: Theta) -> Theta:
    t = np.tanh(X @ theta["w"] + theta["b"])
    b = 2 * t * (1 - t**2)
    return {"w": np.outer(X, b), "b": b}


def one_wrong_entry(g: Theta) -> Theta:
    w = g["w"].copy()
    w[3, 1] *= 1.001
    return g | {"w": w}


PLANTED: dict[str, Callable[[Theta], Theta]] = {
    "sign": lambda g: {name: -value for name, value in g.items()},
    "factor": lambda g: {name: (1 + 1e-4) * value for name, value in g.items()},
    "factor in one array": lambda g: g | {"b": (1 + 1e-4) * g["b"]},
    "one wrong entry": one_wrong_entry,
    "missing term": lambda g: g | {"b": np.zeros(5)},
    "additional term": lambda g: g | {"b": g["b"] + 1e-4},
    "transposed": lambda g: g | {"w": g["w"].T},
    "permuted": lambda g: g | {"b": g["b"][::-1]},
    "not a number": lambda g: g | {"b": np.full(5, np.nan)},
}


def test_the_right_gradient_passes(theta: Theta, rng: np.random.Generator) -> None:
    check_gradient(f, gradient, theta, rng=rng, directions=20)


@pytest.mark.parametrize("wrong", PLANTED.values(), ids=PLANTED)
@pytest.mark.parametrize("seed", range(5))
def test_a_wrong_gradient_fails(wrong: Callable[[Theta], Theta], seed: int, theta: Theta) -> None:
    with pytest.raises(AssertionError):
        check_gradient(f, lambda theta: wrong(gradient(theta)), theta, rng=np.random.default_rng(seed))


def test_the_message_names_the_array_and_both_numbers(theta: Theta, rng: np.random.Generator) -> None:
    def wrong(theta: Theta) -> Theta:
        return gradient(theta) | {"b": -gradient(theta)["b"]}

    with pytest.raises(AssertionError, match=r"argument\[0\]\['b'\]: ⟨gradient, v⟩ = ") as caught:
        check_gradient(f, wrong, theta, rng=rng)
    inner, difference = re.findall(r"(?:= |is )(-?[\d.]+)", str(caught.value))
    assert float(inner) == pytest.approx(-float(difference), rel=1e-6)


def test_several_arguments_want_a_tuple_of_gradients(rng: np.random.Generator) -> None:
    a, b = rng.standard_normal(4), (rng.standard_normal(4), {"c": rng.standard_normal(())})

    def product(a: Array, b: tuple[Array, Theta]) -> float:
        return float(a @ b[0] * b[1]["c"])

    def right(a: Array, b: tuple[Array, Theta]) -> Any:
        return b[0] * b[1]["c"], (a * b[1]["c"], {"c": np.array(a @ b[0])})

    check_gradient(product, right, a, b, rng=rng)
    with pytest.raises(AssertionError, match=re.escape("argument[1][1]['c']")):
        check_gradient(
            product, lambda a, b: (right(a, b)[0], (right(a, b)[1][0], {"c": b[1]["c"]})), a, b, rng=rng
        )


def test_a_constant_next_to_zero_and_a_large_offset_pass(rng: np.random.Generator) -> None:
    """Rounding of f is no error of its gradient."""
    x = rng.standard_normal(3)
    check_gradient(lambda x: 7.0, np.zeros_like, x, rng=rng)
    check_gradient(lambda x: 1e8 + float(x @ x), lambda x: 2 * x, x, rng=rng)


@pytest.mark.parametrize(
    "wrong", [lambda x: x[:-1], lambda x: (x, x), lambda x: {"x": x}], ids=["shorter", "tuple", "dict"]
)
def test_a_gradient_of_another_structure_fails(
    wrong: Callable[[Array], Any], rng: np.random.Generator
) -> None:
    with pytest.raises(AssertionError, match="shapes"):
        check_gradient(lambda x: float(x @ x), wrong, np.ones(3), rng=rng)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.complex128])
def test_other_precisions_are_refused(dtype: type, rng: np.random.Generator) -> None:
    x = np.ones(3, dtype)
    with pytest.raises(TypeError, match=f"must be a float64 array, got {np.dtype(dtype)} array: "):
        check_gradient(lambda x: 1.0, lambda x: x, x, rng=rng)
    with pytest.raises(TypeError, match=f"must be a float64 array, got {np.dtype(dtype)} array: "):
        check_gradient(lambda x: 1.0, lambda _: x, np.ones(3), rng=rng)
    with pytest.raises(TypeError, match=f"must be a float64 array, got {np.dtype(dtype)} array: "):
        check_adjoint(lambda u: x, lambda v: v, np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match=r"argument\[0\] must be a float64 array, got float: "):
        check_gradient(lambda x: x, lambda x: 1.0, 2.0, rng=rng)


@pytest.mark.parametrize("value", [np.ones(2), np.float32(1), 1])
def test_f_returns_one_float64(value: Any, rng: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="f must return one float64 number, got "):
        check_gradient(lambda x: value, lambda x: x, np.ones(2), rng=rng)


def test_arguments_are_not_written_into(theta: Theta, rng: np.random.Generator) -> None:
    before = {name: value.copy() for name, value in theta.items()}
    check_gradient(f, gradient, theta, rng=rng)
    for name, value in before.items():
        np.testing.assert_array_equal(theta[name], value)


# --- adjoints


def test_a_transpose_is_an_adjoint(rng: np.random.Generator) -> None:
    m, u, v = rng.standard_normal((300, 200)), rng.standard_normal(200), rng.standard_normal(300)
    check_adjoint(lambda u: m @ u, lambda v: m.T @ v, u, v)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda m, v: -(m.T @ v),
        lambda m, v: (1 + 1e-4) * (m.T @ v),
        lambda m, v: m @ v,
        lambda m, v: m.T @ v + 1e-9,
        lambda m, v: (m * (np.arange(m.size).reshape(m.shape) != 7)).T @ v,
        lambda m, v: np.nan * v,
        lambda m, v: (m.T @ v)[:-1],
        lambda m, v: (m.T @ v,),
    ],
    ids=["sign", "factor", "transposed", "not linear", "one entry", "not a number", "shape", "structure"],
)
def test_another_map_is_not(wrong: Callable[[Array, Array], Any], rng: np.random.Generator) -> None:
    m, u, v = rng.standard_normal((9, 9)), rng.standard_normal(9), rng.standard_normal(9)
    with pytest.raises(AssertionError, match=r"differ by|shapes"):
        check_adjoint(lambda u: m @ u, lambda v: wrong(m, v), u, v)


def test_adjoints_of_structured_maps(rng: np.random.Generator) -> None:
    m = rng.standard_normal((3, 4))
    u, v = (rng.standard_normal(4), rng.standard_normal(3)), {"a": rng.standard_normal(3)}
    check_adjoint(lambda u: {"a": m @ u[0] + u[1]}, lambda v: (m.T @ v["a"], v["a"]), u, v)
    with pytest.raises(AssertionError, match="differ by"):
        check_adjoint(lambda u: {"a": m @ u[0] - u[1]}, lambda v: (m.T @ v["a"], v["a"]), u, v)


# ---- connections

SQUARE = Dense(1, 2, (4,), (4,))
"""With as many neurons below as above, so that a transposed weight has the right shape."""

IMAGES = ConvPool(1, 2, (6, 6, 2), 3, kernel=3, pool=2)
CONVOLUTION = ConvPool(1, 2, (5, 4, 2), 3, kernel=2, pool=1, padding=1)

CONNECTIONS = {f"{name}: {c.name}": c for name, network in NETWORKS.items() for c in network.connections} | {
    "square": SQUARE,
    "one neuron": Dense(0, 1, (1,), (1,)),
    "image to vector": Dense(2, 3, (2, 2, 3), (5,)),
    "padded, stride 2": ConvPool(1, 2, (7, 7, 2), 3, kernel=3, pool=2, stride=2, padding=1),
    "padded, unpooled": CONVOLUTION,
}


@pytest.mark.parametrize("connection", CONNECTIONS.values(), ids=CONNECTIONS)
@pytest.mark.parametrize("seed", range(3))
def test_the_connections_of_the_package_pass(connection: Connection, seed: int) -> None:
    check_connection(connection, np.random.default_rng(seed), batch=1 + seed)


class Planted:
    """A connection with some members replaced. A replaced method gets the sound connection first."""

    def __init__(self, sound: Connection, **members: Any) -> None:
        self._sound, self._members = sound, members

    def __getattr__(self, name: str) -> Any:
        member = self._members.get(name, getattr(self._sound, name))
        if name in self._members and callable(member):
            return lambda *arguments: member(self._sound, *arguments)
        return member


def scaled(method: str, factor: float) -> dict[str, Any]:
    """Return a replacement of the method whose result is multiplied by a factor."""

    def planted(c: Connection, *arguments: Any) -> Any:
        result = getattr(c, method)(*arguments)
        return (factor * result[0], result[1]) if method == "to_post" else factor * result

    return {method: planted}


def of_shape(method: str, change: Callable[[Array], Array]) -> dict[str, Any]:
    """Return a replacement of the method whose result has another shape."""

    def planted(c: Connection, *arguments: Any) -> Any:
        result = getattr(c, method)(*arguments)
        return (change(result[0]), result[1]) if method == "to_post" else change(result)

    return {method: planted}


METHODS = ("phi", "to_post", "to_pre", "gradient")

FAULTS: dict[str, tuple[Connection, dict[str, Any]]] = {
    f"{method}: {fault}": (c, scaled(method, factor))
    for method in METHODS
    for fault, factor, c in (
        ("sign", -1, SQUARE),
        ("factor", 1 + 1e-4, SQUARE),
        ("zero", 0, SQUARE),
        ("sign, images", -1, IMAGES),
        ("factor, images", 1 + 1e-4, IMAGES),
    )
}
FAULTS |= {
    "phi: one number for the batch": (SQUARE, of_shape("phi", np.sum)),
    "phi: one axis too many": (SQUARE, of_shape("phi", lambda a: a[:, None])),
    "to_post: shape": (SQUARE, of_shape("to_post", lambda a: a[:, 1:])),
    "to_post: an axis too many": (SQUARE, of_shape("to_post", lambda a: a[:, :, None])),
    "to_pre: shape": (SQUARE, of_shape("to_pre", lambda a: a[:, 1:])),
    "gradient: shape": (SQUARE, of_shape("gradient", lambda a: a[1:])),
    "gradient: flat": (SQUARE, of_shape("gradient", np.ravel)),
    "gradient: mean over the batch": (SQUARE, scaled("gradient", 1 / 3)),
    "gradient: transposed": (SQUARE, of_shape("gradient", np.transpose)),
    "gradient: layers exchanged": (
        SQUARE,
        {"gradient": lambda c, pre, post, switches=None: c.gradient(post, pre, switches)},
    ),
    "gradient: of the first sample": (
        SQUARE,
        {"gradient": lambda c, pre, post, switches=None: c.gradient(pre[:1], post[:1], switches)},
    ),
    "to_post: transposed": (
        SQUARE,
        {"to_post": lambda c, w, pre, switches=None: c.to_post(w.T, pre, switches)},
    ),
    "to_pre: transposed": (
        SQUARE,
        {"to_pre": lambda c, w, post, switches=None: c.to_pre(w.T, post, switches)},
    ),
    "both drives twice as large": (SQUARE, scaled("to_post", 2) | scaled("to_pre", 2)),
    "to_post: a constant added": (SQUARE, of_shape("to_post", lambda a: a + 1e-3)),
    "to_post: not linear": (SQUARE, of_shape("to_post", lambda a: a + 1e-3 * a**2)),
    "switches without has_switches": (IMAGES, {"has_switches": False}),
    "has_switches without switches": (SQUARE, {"has_switches": True}),
    "to_post: held switches ignored": (
        IMAGES,
        {"to_post": lambda c, w, pre, switches=None: c.to_post(w, pre)},
    ),
    "to_pre: switches of another batch": (
        IMAGES,
        {"to_pre": lambda c, w, post, switches=None: c.to_pre(w, post, switches[::-1])},
    ),
    "gradient: switches of another batch": (
        IMAGES,
        {"gradient": lambda c, pre, post, switches=None: c.gradient(pre, post, switches[::-1])},
    ),
    "to_pre: kernel flipped": (
        CONVOLUTION,
        {"to_pre": lambda c, w, post, switches=None: c.to_pre(w[::-1, ::-1], post, switches)},
    ),
}


@pytest.mark.parametrize("sound, members", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("seed", range(3))
def test_a_faulty_connection_fails(sound: Connection, members: dict[str, Any], seed: int) -> None:
    check_connection(Planted(sound), np.random.default_rng(seed))  # without a fault it passes
    with pytest.raises(AssertionError):
        check_connection(Planted(sound, **members), np.random.default_rng(seed))


def test_a_connection_of_ones_own_passes() -> None:
    """One that the package does not have: a diagonal weight, which joins neuron i to neuron i only."""

    class Diagonal:
        pre, post, name, has_switches = 1, 2, "w1-2", False
        pre_shape = post_shape = (2, 3)
        shape, fan_in = (2, 3), 1
        multiplications = prod(shape)

        def phi(self, w: Array, pre: Array, post: Array, switches: None = None) -> Array:
            return (w * pre * post).sum(axis=(1, 2))

        def to_post(self, w: Array, pre: Array, switches: None = None) -> tuple[Array, None]:
            return w * pre, None

        def to_pre(self, w: Array, post: Array, switches: None = None) -> Array:
            return w * post

        def gradient(self, pre: Array, post: Array, switches: None = None) -> Array:
            return (pre * post).sum(axis=0)

    check_connection(Diagonal())


# ---- activations

ARCTAN = Activation(
    "arctan",
    np.arctan,
    lambda a: 1 / (1 + a**2),
    lambda a: -2 * a / (1 + a**2) ** 2,
    lambda value: np.cos(value) ** 2,
)


@pytest.mark.parametrize("sigma", [*ACTIVATIONS.values(), ARCTAN], ids=lambda sigma: sigma.name)
def test_right_activations_pass(sigma: Activation) -> None:
    check_activation(sigma)
    check_activation(sigma, -0.9, 0.8)
    check_activation(replace(sigma, derivative_from_value=None))


def without(sigma: Activation, **members: Any) -> Activation:
    """Return the activation with other members, and without σ′ from σ if that is not among them."""
    return replace(sigma, **{"derivative_from_value": None} | members)


WRONG_ACTIVATIONS: dict[str, Activation] = {
    "σ: factor": without(tanh, value=lambda a: (1 + 1e-4) * np.tanh(a)),
    "σ: sign": without(tanh, value=lambda a: -np.tanh(a)),
    "σ: shape": without(tanh, value=lambda a: np.tanh(a)[None]),
    "σ: its sum": without(tanh, value=lambda a: np.tanh(a).sum()),
    "σ′: sign": without(tanh, derivative=lambda a: np.tanh(a) ** 2 - 1),
    "σ′: factor": without(sigmoid, derivative=lambda a: (1 + 1e-4) * sigmoid.derivative(a)),
    "σ′: without the 4 of the sigmoid": without(sigmoid, derivative=lambda a: sigmoid.derivative(a) / 4),
    "σ′: shape": without(tanh, derivative=lambda a: tanh.derivative(a)[1:]),
    "σ′: one number": without(tanh, derivative=lambda a: np.ones(())),
    "σ′: not a number": without(tanh, derivative=lambda a: np.nan * a),
    "σ″: sign": without(tanh, second=lambda a: -tanh.second(a)),
    "σ″: factor": without(tanh, second=lambda a: (1 + 1e-4) * tanh.second(a)),
    "σ″: without the 2": without(tanh, second=lambda a: tanh.second(a) / 2),
    "σ″: zero": without(tanh, second=np.zeros_like),
    "σ″: is σ′": without(tanh, second=tanh.derivative),
    "σ″: shape": without(tanh, second=lambda a: tanh.second(a)[None]),
    "from the value: factor": replace(tanh, derivative_from_value=lambda v: (1 + 1e-4) * (1 - v**2)),
    "from the value: sign": replace(tanh, derivative_from_value=lambda v: v**2 - 1),
    "from the value: as if from a": replace(tanh, derivative_from_value=tanh.derivative),
    "from the value: of another σ": replace(sigmoid, derivative_from_value=lambda v: v * (1 - v)),
    "from the value: not a number": replace(tanh, derivative_from_value=lambda v: np.nan * v),
    "from the value: shape": replace(tanh, derivative_from_value=lambda v: (1 - v**2)[1:]),
}


@pytest.mark.parametrize("sigma", WRONG_ACTIVATIONS.values(), ids=WRONG_ACTIVATIONS)
def test_a_wrong_activation_fails(sigma: Activation) -> None:
    with pytest.raises(AssertionError):
        check_activation(sigma)


def test_an_activation_that_returns_no_array_is_refused() -> None:
    with pytest.raises(TypeError, match="must be a float64 array, got float"):
        check_activation(without(tanh, derivative=lambda a: 1.0))


# ---- costs

ABSOLUTE = Cost(
    "absolute error",
    value=lambda output, target: np.abs(output - target).sum(axis=1),
    derivative=lambda output, target: np.sign(output - target),
)


@pytest.mark.parametrize("cost", [squared_error, ABSOLUTE], ids=lambda cost: cost.name)
def test_right_costs_pass(cost: Cost) -> None:
    check_cost(cost)
    check_cost(cost, classes=1, batch=1)
    check_cost(cost, classes=10, batch=4)


WRONG_COSTS: dict[str, Cost] = {
    "value: without the half": replace(squared_error, value=lambda o, y: ((o - y) ** 2).sum(axis=1)),
    "value: the printed root": replace(
        squared_error, value=lambda o, y: np.sqrt(((o - y) ** 2).sum(axis=1)) / 2
    ),
    "value: mean over the classes": replace(
        squared_error, value=lambda o, y: ((o - y) ** 2).mean(axis=1) / 2
    ),
    "value: one number for the batch": replace(squared_error, value=lambda o, y: ((o - y) ** 2).sum() / 2),
    "value: one per neuron": replace(squared_error, value=lambda o, y: (o - y) ** 2 / 2),
    "derivative: sign": replace(squared_error, derivative=lambda o, y: y - o),
    "derivative: factor": replace(squared_error, derivative=lambda o, y: (1 + 1e-4) * (o - y)),
    "derivative: mean over the batch": replace(squared_error, derivative=lambda o, y: (o - y) / len(o)),
    "derivative: of another cost": replace(squared_error, derivative=lambda o, y: np.sign(o - y)),
    "derivative: samples exchanged": replace(squared_error, derivative=lambda o, y: (o - y)[::-1]),
    "derivative: shape": replace(squared_error, derivative=lambda o, y: (o - y)[:, 1:]),
    "derivative: not a number": replace(squared_error, derivative=lambda o, y: np.nan * o),
}


@pytest.mark.parametrize("cost", WRONG_COSTS.values(), ids=WRONG_COSTS)
def test_a_wrong_cost_fails(cost: Cost) -> None:
    with pytest.raises(AssertionError):
        check_cost(cost)
