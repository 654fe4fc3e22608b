"""The checker itself: it finds planted errors, and passes what is right."""

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from eqprop_np.activations import Array
from eqprop_np.testing import check_adjoint, check_gradient

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
    with pytest.raises(TypeError, match=f"{np.dtype(dtype)} array"):
        check_gradient(lambda x: 1.0, lambda x: x, x, rng=rng)
    with pytest.raises(TypeError, match=f"{np.dtype(dtype)} array"):
        check_gradient(lambda x: 1.0, lambda _: x, np.ones(3), rng=rng)
    with pytest.raises(TypeError, match=f"{np.dtype(dtype)} array"):
        check_adjoint(lambda u: x, lambda v: v, np.ones(3), np.ones(3))
    with pytest.raises(TypeError, match="a float: "):
        check_gradient(lambda x: x, lambda x: 1.0, 2.0, rng=rng)


@pytest.mark.parametrize("value", [np.ones(2), np.float32(1), 1])
def test_f_returns_one_float64(value: Any, rng: np.random.Generator) -> None:
    with pytest.raises(TypeError, match="not one float64 number"):
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
