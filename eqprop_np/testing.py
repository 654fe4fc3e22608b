"""Directional finite-difference checks: is a derivative right, is one map the adjoint of another?

    check_gradient(f, gradient, theta, rng=rng)    ⟨∇f, v⟩ against (f(θ + hv) − f(θ − hv)) / 2h
    check_adjoint(A, At, u, v)                     ⟨A u, v⟩ against ⟨u, Aᵀ v⟩

Arguments are float64 arrays, or tuples or dicts of them, nested at will: a state or a θ goes in as it
is. Each array is moved on its own, so that a small one's error cannot hide behind a large one, and the
message names the array that failed. A random direction meets every entry: one wrong entry shows.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from eqprop_np.activations import Array

Tree = Any
"""A float64 array, or a tuple or dict of trees."""

EPSILON = float(np.finfo(np.float64).eps)

STEP = EPSILON ** (1 / 3)
"""A central difference errs by some h² f‴/6 from its formula and ε f/h from rounding; where f and its
derivatives are of order 1, the sum is least near h = ε^(1/3) ≈ 6e-6, and then about 1e-10."""


def check_gradient(
    f: Callable[..., float],
    gradient: Callable[..., Tree],
    *arguments: Tree,
    rng: np.random.Generator,
    directions: int = 2,
    step: float = STEP,
    rtol: float = 1e-6,
) -> None:
    """Demand that ``gradient`` is the gradient of the scalar function ``f`` at ``arguments``.

    Parameters
    ----------
    f : maps the arguments to one number.
    gradient : maps them to ∂f/∂argument, in the same structure; for several arguments, to a tuple.
    rng : draws the directions v, normal and as long as the array is, so that ⟨∇f, v⟩ is about ‖∇f‖.
    directions : how many to try for each array.
    step : h, see `STEP`. Keep f's kinks farther than some 4h from the arguments.
    rtol : the error allowed, relative to ‖∇f‖ of the array. The default leaves the central difference
        a factor of 10⁴ for large third derivatives, and still tells 1 from 1 + 1e-5. On top, what
        rounding does to f is allowed, ε (1 + |f|) / h: so scale f such that ‖∇f‖ is not far below 1e-4.

    Raises
    ------
    AssertionError
        With the numbers, if the two disagree or have different structures.
    TypeError
        If an array or the value of f is not float64.
    """
    claimed = gradient(*arguments)
    expected = dict(_leaves(arguments))
    found = dict(_leaves((claimed,) if len(arguments) == 1 else claimed))
    shapes, wanted = ({path: a.shape for path, a in tree.items()} for tree in (found, expected))
    assert shapes == wanted, f"the gradient has arrays of shapes {shapes}, its arguments {wanted}"
    for path, g in found.items():
        for _ in range(directions):
            v = rng.standard_normal(g.shape)
            plus = _number(f(*_moved(arguments, path, step * v)))
            minus = _number(f(*_moved(arguments, path, -step * v)))
            difference = (plus - minus) / (2 * step)
            inner = float(np.vdot(g, v))
            scale = max(float(np.linalg.norm(g)), abs(difference))
            allowed = rtol * scale + EPSILON * (1 + abs(plus) + abs(minus)) / step
            error = abs(inner - difference)
            assert error <= allowed, (
                f"argument{path}: ⟨gradient, v⟩ = {inner:.10g}, but the central difference is "
                f"{difference:.10g}: they differ by {error:.2g}, more than {allowed:.2g}"
            )


def check_adjoint(
    A: Callable[[Tree], Tree], At: Callable[[Tree], Tree], u: Tree, v: Tree, rtol: float = 1e-12
) -> None:
    """Demand that ⟨A u, v⟩ = ⟨u, Aᵀ v⟩: the two linear maps are each other's adjoint.

    Parameters
    ----------
    A, At : the maps.
    u, v : random members of the domain of A and of At.
    rtol : the error allowed, relative to ‖A u‖ ‖v‖ or ‖u‖ ‖Aᵀ v‖. Only rounding divides the two
        sides, √n ε for sums of n terms; the default allows it for millions of them.

    Raises
    ------
    AssertionError
        With the numbers, if the two disagree or a result has another structure than u or v.
    TypeError
        If an array is not float64.
    """
    left, scale = _inner("A u", A(u), "v", v)
    right, other = _inner("Aᵀ v", At(v), "u", u)
    allowed = rtol * max(scale, other)
    error = abs(left - right)
    assert error <= allowed, (
        f"⟨A u, v⟩ = {left:.15g}, but ⟨u, Aᵀ v⟩ = {right:.15g}: "
        f"they differ by {error:.2g}, more than {allowed:.2g}"
    )


def _inner(a_name: str, a: Tree, b_name: str, b: Tree) -> tuple[float, float]:
    """⟨a, b⟩ and ‖a‖ ‖b‖."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    shapes, wanted = ({path: leaf.shape for path, leaf in tree.items()} for tree in (left, right))
    assert shapes == wanted, f"{a_name} has arrays of shapes {shapes}, {b_name} of {wanted}"
    squares = [sum(float(np.vdot(leaf, leaf)) for leaf in tree.values()) for tree in (left, right)]
    inner = sum(float(np.vdot(leaf, right[path])) for path, leaf in left.items())
    return inner, float(np.sqrt(squares[0] * squares[1]))


def _leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Array]]:
    """Each array of a tree, with its place: "[1]['w0-1']"."""
    if isinstance(tree, dict | tuple):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(branch, f"{path}[{key!r}]")
    elif isinstance(tree, np.ndarray) and tree.dtype == np.float64:
        yield path, tree
    else:
        kind = f"{tree.dtype} array" if isinstance(tree, np.ndarray) else type(tree).__name__
        raise TypeError(f"argument{path} is a {kind}: these checks need the precision of float64 arrays")


def _moved(tree: Tree, place: str, by: Array, path: str = "") -> Tree:
    """The tree with ``by`` added to the array at ``place``."""
    if isinstance(tree, dict):
        return {key: _moved(branch, place, by, f"{path}[{key!r}]") for key, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_moved(branch, place, by, f"{path}[{i}]") for i, branch in enumerate(tree))
    return tree + by if path == place else tree


def _number(value: Any) -> float:
    if np.ndim(value) != 0 or np.asarray(value).dtype != np.float64:
        value = np.asarray(value)
        raise TypeError(f"f returned {value.dtype} of shape {value.shape}, not one float64 number")
    return float(value)
