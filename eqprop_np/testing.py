"""Checks for derivatives that are written by hand, for the package's tests and for your own parts.

    check_gradient(f, gradient, theta, rng=rng)    ⟨∇f, v⟩ against (f(θ + hv) − f(θ − hv)) / 2h
    check_adjoint(A, At, u, v)                     ⟨A u, v⟩ against ⟨u, Aᵀ v⟩
    check_connection(connection)                   the contract of a `Connection`
    check_activation(sigma), check_cost(cost)      their derivatives

Arguments are float64 arrays, or tuples or dicts of them, nested in any way. So a state or a θ can be passed
as it is. Each array is moved separately, so that an error in a small one cannot hide behind a large one, and
the message names the array that failed. A random direction involves every entry, so it finds one wrong entry.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from eqprop_np.activations import Activation, Array
from eqprop_np.checks import check_kind
from eqprop_np.connections import Connection
from eqprop_np.costs import Cost

Tree = Any
"""A float64 array, or a tuple or dict of trees."""

EPSILON = float(np.finfo(np.float64).eps)

STEP = EPSILON ** (1 / 3)
"""The step h. A central difference has an error of about h² f‴/6 from its formula and ε f/h from rounding.
Where f and its derivatives are of order 1, their sum is smallest near h = ε^(1/3) ≈ 6e-6, and is then about
1e-10."""


def check_gradient(
    f: Callable[..., float],
    gradient: Callable[..., Tree],
    *arguments: Tree,
    rng: np.random.Generator,
    directions: int = 2,
    step: float = STEP,
    rtol: float = 1e-6,
) -> None:
    """Check that ``gradient`` is the gradient of the scalar function ``f`` at ``arguments``.

    Parameters
    ----------
    f : callable
        Maps the arguments to one number.
    gradient : callable
        Maps them to ∂f/∂argument, in the same structure; for several arguments, to a tuple.
    rng : numpy.random.Generator
        Draws the directions v. They are normal and of the length of the array, so ⟨∇f, v⟩ is about ‖∇f‖.
    directions : int
        The number of directions for each array.
    step : float
        h, see `STEP`. Keep the kinks of f farther than about 4h from the arguments.
    rtol : float
        The allowed error relative to ‖∇f‖ of the array. The default leaves the central difference a factor
        of 10⁴ for large third derivatives, and still distinguishes 1 from 1 + 1e-5. In addition the
        rounding of f is allowed, ε (1 + |f|) / h. So scale f such that ‖∇f‖ is not far below 1e-4.

    Raises
    ------
    AssertionError
        With the numbers, if the two disagree or have different structures.
    TypeError
        If an array or the value of f is not float64.

    Examples
    --------
    >>> theta = {"w": np.array([1.0, 2.0])}
    >>> rng = np.random.default_rng(0)
    >>> check_gradient(lambda t: (t["w"] ** 2).sum(), lambda t: {"w": 2 * t["w"]}, theta, rng=rng)
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
    """Check that ⟨A u, v⟩ = ⟨u, Aᵀ v⟩: the two linear maps are each other's adjoint.

    Parameters
    ----------
    A, At : callable
        The maps.
    u, v : ndarray, tuple or dict
        Random members of the domains of A and of At.
    rtol : float
        The allowed error relative to ‖A u‖ ‖v‖ or ‖u‖ ‖Aᵀ v‖. Only rounding makes the sides differ, by √n ε
        for sums of n terms. The default allows this for millions of terms.

    Raises
    ------
    AssertionError
        With the numbers, if the two disagree or if a result has another structure than u or v.
    TypeError
        If an array is not float64.

    Examples
    --------
    >>> w = np.array([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    >>> check_adjoint(lambda u: w @ u, lambda v: w.T @ v, np.ones(3), np.ones(2))
    """
    left, scale = _inner("A u", A(u), "v", v)
    right, other = _inner("Aᵀ v", At(v), "u", u)
    allowed = rtol * max(scale, other)
    error = abs(left - right)
    assert error <= allowed, (
        f"⟨A u, v⟩ = {left:.15g}, but ⟨u, Aᵀ v⟩ = {right:.15g}: "
        f"they differ by {error:.2g}, more than {allowed:.2g}"
    )


# ---- the parts of a network


def check_connection(connection: Connection, rng: np.random.Generator | None = None, batch: int = 3) -> None:
    """Check that a connection of your own keeps the contract of `Connection`.

    Its drives and its gradient must be the derivatives of φ, with their switches held, and its two drives
    must be each other's transpose.

    Parameters
    ----------
    connection : Connection
    rng : numpy.random.Generator, optional
        Draws the states and the weight.
    batch : int
        The number of samples.

    Raises
    ------
    AssertionError
        With the numbers, if something disagrees.

    Examples
    --------
    >>> from eqprop_np.connections import Dense
    >>> check_connection(Dense(1, 2, (4,), (3,)))
    """
    c, rng = connection, np.random.default_rng(0) if rng is None else rng
    w = rng.standard_normal(c.shape)
    pre, post = (rng.standard_normal((batch, *shape)) for shape in (c.pre_shape, c.post_shape))
    drive, switches = c.to_post(w, pre)
    assert drive.shape == post.shape, f"to_post returned shape {drive.shape}, but post has {post.shape}"
    assert c.has_switches == (switches is not None), (
        f"to_post returned {'no ' if switches is None else ''}switches, but has_switches is {c.has_switches}"
    )
    assert c.phi(w, pre, post, switches).shape == (batch,), "phi must return one number for each sample"

    def phi(w: Array, pre: Array, post: Array) -> float:
        return float(c.phi(w, pre, post, switches).sum())

    def derivatives(w: Array, pre: Array, post: Array) -> tuple[Array, Array, Array]:
        to_pre, to_post = c.to_pre(w, post, switches), c.to_post(w, pre, switches)[0]
        return c.gradient(pre, post, switches), to_pre, to_post

    check_gradient(phi, derivatives, w, pre, post, rng=rng)
    other = rng.standard_normal(pre.shape)  # its own switches differ from those held
    check_adjoint(lambda u: c.to_post(w, u, switches)[0], lambda v: c.to_pre(w, v, switches), other, post)
    again = c.to_post(w, pre, switches)[0]
    np.testing.assert_allclose(again, drive, rtol=1e-12, err_msg="to_post with its own switches held")


def check_activation(sigma: Activation, low: float = -2.0, high: float = 3.0) -> None:
    """Check the derivatives σ′ and σ″ of an activation, and σ′ from its value, on an interval.

    Parameters
    ----------
    sigma : Activation
    low, high : float
        The interval. Its 20 test points are at equal distances; keep kinks of σ away from them.

    Raises
    ------
    AssertionError
        With the numbers, if something disagrees.

    Examples
    --------
    >>> from eqprop_np.activations import sigmoid
    >>> check_activation(sigmoid)
    """
    a, rng = np.linspace(low, high, 20) + 0.01, np.random.default_rng(0)
    shape = sigma.value(a).shape
    assert shape == a.shape, f"value returned shape {shape} for an array of shape {a.shape}"
    pairs = ((sigma.value, sigma.derivative), (sigma.derivative, sigma.second))
    for function, derivative in pairs:
        check_gradient(lambda a, f=function: float(f(a).sum()), derivative, a, rng=rng)
    slope = sigma.slope(a, sigma.value(a))
    np.testing.assert_allclose(slope, sigma.derivative(a), rtol=1e-9, atol=1e-12, err_msg="σ′ from σ")


def check_cost(cost: Cost, classes: int = 3, batch: int = 2) -> None:
    """Check the derivative of a cost at a random output and a one-hot target.

    Parameters
    ----------
    cost : Cost
        A plain cost; that of a readout is ``readout.at(theta)``.
    classes, batch : int
        The numbers of outputs and of samples.

    Raises
    ------
    AssertionError
        With the numbers, if something disagrees.
    TypeError
        If ``cost`` is of another kind.

    Examples
    --------
    >>> from eqprop_np.costs import squared_error
    >>> check_cost(squared_error)
    """
    check_kind("cost", cost, Cost, "a Cost; that of a readout is readout.at(theta)")
    rng = np.random.default_rng(0)
    output, target = rng.uniform(0.1, 0.9, (batch, classes)), np.eye(classes)[np.arange(batch) % classes]
    assert cost.value(output, target).shape == (batch,), "value must return one number for each sample"
    check_gradient(
        lambda s: float(cost.value(s, target).sum()), lambda s: cost.derivative(s, target), output, rng=rng
    )


# ---- trees of arrays


def _inner(a_name: str, a: Tree, b_name: str, b: Tree) -> tuple[float, float]:
    """Return ⟨a, b⟩ and ‖a‖ ‖b‖."""
    left, right = dict(_leaves(a)), dict(_leaves(b))
    shapes, wanted = ({path: leaf.shape for path, leaf in tree.items()} for tree in (left, right))
    assert shapes == wanted, f"{a_name} has arrays of shapes {shapes}, {b_name} of {wanted}"
    squares = [sum(float(np.vdot(leaf, leaf)) for leaf in tree.values()) for tree in (left, right)]
    inner = sum(float(np.vdot(leaf, right[path])) for path, leaf in left.items())
    return inner, float(np.sqrt(squares[0] * squares[1]))


def _leaves(tree: Tree, path: str = "") -> Iterator[tuple[str, Array]]:
    """Yield each array of a tree with its place, such as "[1]['w0-1']"."""
    if isinstance(tree, dict | tuple):
        for key, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _leaves(branch, f"{path}[{key!r}]")
    elif isinstance(tree, np.ndarray) and tree.dtype == np.float64:
        yield path, tree
    else:
        kind = f"{tree.dtype} array" if isinstance(tree, np.ndarray) else type(tree).__name__
        raise TypeError(f"argument{path} must be a float64 array, got {kind}: the checks need its precision")


def _moved(tree: Tree, place: str, by: Array, path: str = "") -> Tree:
    """Return the tree with ``by`` added to the array at ``place``."""
    if isinstance(tree, dict):
        return {key: _moved(branch, place, by, f"{path}[{key!r}]") for key, branch in tree.items()}
    if isinstance(tree, tuple):
        return tuple(_moved(branch, place, by, f"{path}[{i}]") for i, branch in enumerate(tree))
    return tree + by if path == place else tree


def _number(value: Any) -> float:
    if np.ndim(value) != 0 or np.asarray(value).dtype != np.float64:
        value = np.asarray(value)
        raise TypeError(f"f must return one float64 number, got {value.dtype} of shape {value.shape}")
    return float(value)
