"""The public functions refuse what does not fit, in one sentence, at the call, and check once."""

import inspect
import pickle
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, is_dataclass, replace
from functools import wraps
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest

import eqprop_np as eq
from eqprop_np.rules.telescoped import telescoped_cep, telescoped_cvf
from eqprop_np.rules.vector_field import field_delta

B, NAN, INF = 3, float("nan"), float("inf")
NETWORK = eq.chain([4, 5, B])  # as many classes as samples, so that B labels have the length of a row of y
UNTIED = eq.untied(NETWORK)
IMAGES = eq.convolutional((4, 4, 1), [2], [3], kernel=3, pool=2)


@dataclass(frozen=True)
class Arguments:
    """Arguments that fit each other. A test replaces one of them by what does not fit."""

    dynamics: Any
    theta: Any
    x: Any
    s: Any
    y: Any
    phases: Any
    rest: Any
    beta: Any = 0.1


def arguments(network: eq.Network = NETWORK, dtype: Any = np.float64, phases: Any = None) -> Arguments:
    rng = np.random.default_rng(0)
    theta = network.init(rng, dtype)
    x, *s = (rng.uniform(0, 1, (B, *shape)).astype(dtype) for shape in network.shapes)
    dynamics = eq.DiscreteTime(network)
    rates = dict.fromkeys(theta, 1e-3)
    if phases is None:
        phases = eq.Phases(4, 3, 0.1, schedule=eq.Synchronous(), learning_rates=rates)
    return Arguments(
        dynamics, theta, x, tuple(s), np.eye(B)[[2, 0, 1]], phases, eq.first_phase(dynamics, theta, x, 3)
    )


GOOD = arguments()


def nudged(a: Arguments) -> eq.Nudge:
    return eq.Nudge(a.beta, a.y)


Call = Callable[[Arguments], Any]

ON_A_STATE: dict[str, Call] = {
    "phi": lambda a: a.dynamics.network.phi(a.theta, a.x, a.s),
    "dphi_ds": lambda a: a.dynamics.network.dphi_ds(a.theta, a.x, a.s),
    "dphi_dtheta": lambda a: a.dynamics.network.dphi_dtheta(a.theta, a.x, a.s),
}
STEPS: dict[str, Call] = {
    "step": lambda a: eq.step(a.dynamics, a.theta, a.x, a.s),
    "relax": lambda a: eq.relax(a.dynamics, a.theta, a.x, a.s, 3),
    "linearize": lambda a: eq.linearize(a.dynamics, a.theta, a.x, a.s),
}
NUDGED: dict[str, Call] = {
    "nudged step": lambda a: eq.step(a.dynamics, a.theta, a.x, a.s, nudged(a)),
    "nudged relax": lambda a: eq.relax(a.dynamics, a.theta, a.x, a.s, 3, nudge=nudged(a)),
}
RULES: dict[str, Call] = {
    rule.__name__: lambda a, rule=rule: rule(a.dynamics, a.theta, a.x, a.y, a.phases)
    for rule in (eq.ep, eq.cep, eq.vf, eq.cvf, eq.bptt, telescoped_cep, telescoped_cvf)
}
UPDATES: dict[str, Call] = {
    "updates": lambda a: eq.updates(a.dynamics, a.theta, a.x, a.y, a.rest, a.beta),
    "updates, centred": lambda a: eq.updates(a.dynamics, a.theta, a.x, a.y, a.rest, a.beta, centered=True),
}
GRADIENTS: dict[str, Call] = {
    "gradients": lambda a: eq.gradients(a.dynamics, a.theta, a.x, a.y, a.rest),
    "drive_gradients": lambda a: eq.drive_gradients(a.dynamics, a.theta, a.x, a.y, a.rest),
}
FIRST: dict[str, Call] = {
    "relax from zero": lambda a: eq.relax(a.dynamics, a.theta, a.x),
    "first_phase": lambda a: eq.first_phase(a.dynamics, a.theta, a.x, 3),
}
THEOREM = UPDATES | GRADIENTS
ALL = ON_A_STATE | STEPS | NUDGED | RULES | THEOREM | FIRST

TAKES: dict[str, dict[str, Call]] = {
    "theta": ALL,
    "x": ALL,
    "s": ON_A_STATE | STEPS | NUDGED,
    "y": NUDGED | RULES | THEOREM,
    "dynamics": STEPS | NUDGED | RULES | THEOREM | FIRST,
    "phases": RULES,
    "rest": THEOREM,
    "beta": NUDGED | UPDATES,
}
"""The functions that take each argument."""


def refused(call: Callable[[], Any], *words: str) -> None:
    with pytest.raises((TypeError, ValueError)) as caught:
        call()
    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == [], message


def put(value: float) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function that copies an array with a value in its last place."""

    def copy(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flat[-1] = value
        return array

    return copy


def weight(change: Callable[[np.ndarray], Any]) -> Callable[[eq.network.Theta], dict[str, Any]]:
    return lambda theta: theta | {"w1-2": change(theta["w1-2"])}


def output(change: Callable[[np.ndarray], Any]) -> Callable[[eq.network.State], tuple[Any, ...]]:
    return lambda s: (*s[:-1], change(s[-1]))


REFUSED: list[tuple[str, Callable[[Any], Any], tuple[str, ...]]] = [
    # what is replaced, by what, and the words of the message
    ("x", lambda x: x[:, 1:], ("x must have shape (B, 4)", "got (3, 3)")),
    ("x", lambda x: x[:, :, None, None][:, :3], ("x must have shape (B, 4)", "got (3, 3, 1, 1)")),
    ("x", lambda x: x[0], ("x must have shape (B, 4)", "got (4,)", "x[np.newaxis]")),
    ("x", lambda x: x[:, 0], ("x must have shape (B, 4)", "got (3,)")),
    ("x", lambda x: x[0, 0], ("x must be a NumPy array", "got " + repr(np.float64(0.5))[:-2])),
    ("x", lambda x: x[:0], ("at least one sample", "got (0, 4)")),
    ("x", lambda x: (255 * x).astype(np.uint8), ("x must be floating-point", "got uint8", "astype")),
    ("x", lambda x: x > 0.5, ("x must be floating-point", "got bool")),
    ("x", lambda x: x.astype(str), ("x must be floating-point", "got <U")),
    ("x", lambda x: x.astype(object), ("x must be floating-point", "got object")),
    ("x", lambda x: x.tolist(), ("x must be a NumPy array", "got list")),
    ("x", lambda x: None, ("x must be a NumPy array", "got None")),
    ("x", put(NAN), ("x must be finite", "NaN")),
    ("x", put(INF), ("x must be finite", "infinity")),
    ("theta", lambda theta: {k: v for k, v in theta.items() if k != "b2"}, ("b2", "lacks b2")),
    ("theta", lambda theta: theta | {"w2-3": theta["w1-2"]}, ("w0-1, w1-2, b1, b2", "also has w2-3")),
    ("theta", lambda theta: {1: theta["b1"]}, ("lacks b1, b2, w0-1, w1-2 and also has 1",)),
    ("theta", lambda theta: list(theta.values()), ("theta must be a dict", "got list")),
    ("theta", lambda theta: "theta.npz", ("theta must be a dict", "got 'theta.npz'")),
    ("theta", weight(np.transpose), ("theta['w1-2'] must have shape (5, 3)", "got (3, 5)")),
    ("theta", weight(lambda w: w.astype(int)), ("theta['w1-2'] must be floating-point", "got int64")),
    ("theta", weight(np.ndarray.tolist), ("theta['w1-2'] must be a NumPy array", "got list")),
    ("theta", weight(put(NAN)), ("theta['w1-2'] must be finite",)),
    ("theta", weight(put(-INF)), ("theta['w1-2'] must be finite",)),
    ("s", lambda s: s[0], ("tuple of 2 arrays", "got an array of shape (3, 5)")),
    ("s", lambda s: s[:1], ("tuple of 2 arrays", "got 1")),
    ("s", lambda s: (*s, s[-1]), ("tuple of 2 arrays", "got 3")),
    ("s", lambda s: "zeros", ("tuple of 2 arrays", "got 'zeros'")),
    ("s", lambda s: [0.0, 0.0], ("layer 1 of the state must be a NumPy array", "got 0.0")),
    ("s", lambda s: s[::-1], ("layer 1 of the state must have shape (3, 5)", "got (3, 3)")),
    ("s", output(lambda a: a[:2]), ("layer 2 of the state must have shape (3, 3)", "got (2, 3)")),
    ("s", output(lambda a: a.astype(np.float32)), ("layer 2", "must be float64", "got float32")),
    ("s", output(lambda a: a.astype(int)), ("layer 2 of the state must be floating-point", "got int64")),
    ("s", output(put(NAN)), ("layer 2 of the state must be finite",)),
    ("y", lambda y: y.argmax(axis=1), ("y must have shape (3, 3)", "got (3,)", "one-hot")),
    ("y", lambda y: y.argmax(axis=1)[:, None], ("y must have shape (3, 3)", "got (3, 1)", "one-hot")),
    ("y", lambda y: 1.0, ("y must have shape (3, 3)", "got ()")),
    ("y", lambda y: None, ("y must have shape (3, 3)", "got ()")),
    ("y", lambda y: y[:1], ("y must have shape (3, 3)", "got (1, 3)")),
    ("y", lambda y: y[:, :2], ("y must have shape (3, 3)", "got (3, 2)")),
    ("y", lambda y: [[1], [0, 1], [1]], ("y must have shape (3, 3)", "rows of different lengths")),
    ("y", lambda y: y + 0j, ("y must be real", "got complex128")),
    ("y", lambda y: y.astype(str), ("y must be real", "got <U")),
    ("y", put(NAN), ("y must be finite",)),
    ("y", put(INF), ("y must be finite",)),
    ("dynamics", lambda d: "discrete-time", ("dynamics must be DiscreteTime", "got 'discrete-time'")),
    ("dynamics", lambda d: eq.DiscreteTime, ("dynamics must be DiscreteTime", "the class DiscreteTime")),
    ("dynamics", lambda d: d.network, ("dynamics must be DiscreteTime", "got Network")),
    ("phases", lambda p: "p-1h", ("phases must be Phases(...)", "got 'p-1h'")),
    ("phases", lambda p: (4, 3, 0.1), ("phases must be Phases(...)", "got tuple")),
    ("phases", lambda p: replace(p, estimate="random-sign"), ("not drawn", "phases.draw(rng)")),
    ("rest", lambda rest: rest.state, ("rest must be the Relaxation that first_phase returns", "got tuple")),
    ("rest", lambda rest: replace(rest, state=rest.state[:1]), ("tuple of 2 arrays", "got 1")),
    ("rest", lambda rest: replace(rest, state=rest.state[::-1]), ("layer 1", "(3, 5)", "got (3, 3)")),
    *(
        ("beta", lambda beta, bad=bad: bad, ("beta must be a finite ", f"got {bad!r}"))
        for bad in (NAN, INF, "0.1", None, 0.1j, True)
    ),
    ("beta", lambda beta: np.ones(2), ("beta must be a finite ", "got an array of shape (2,)")),
]


@pytest.mark.parametrize(
    ("field", "change", "words", "call"),
    [
        pytest.param(field, change, words, call, id=f"{words[-1]}-{name}")
        for field, change, words in REFUSED
        for name, call in TAKES[field].items()
    ],
)
def test_what_does_not_fit_is_refused_and_left_as_it_was(
    field: str, change: Callable[[Any], Any], words: tuple[str, ...], call: Call
) -> None:
    bad = replace(GOOD, **{field: change(getattr(GOOD, field))})
    arrays = (bad.theta, bad.x, bad.s, bad.y, bad.rest)
    before = pickle.dumps(arrays)
    refused(lambda: call(bad), *words)
    assert pickle.dumps(arrays) == before


# ---- arguments of single functions


def relax(**changed: Any) -> eq.Relaxation:
    return eq.relax(GOOD.dynamics, GOOD.theta, GOOD.x, **changed)


def first_phase(**changed: Any) -> eq.Relaxation:
    return eq.first_phase(GOOD.dynamics, GOOD.theta, GOOD.x, **changed)


def updates(a: Arguments = GOOD, **changed: Any) -> Any:
    return eq.updates(a.dynamics, a.theta, a.x, a.y, a.rest, **({"beta": 0.1} | changed))


@pytest.mark.parametrize("bad", [-1, 2.0, True, "3", None, np.float64(3), np.ones(2)])
def test_a_number_of_steps_is_an_integer(bad: Any) -> None:
    refused(lambda: relax(steps=bad), "steps must be a non-negative integer, got ")
    refused(lambda: first_phase(steps=bad), "steps must be a positive integer, got ")
    refused(lambda: first_phase(steps=3, limit=bad), "limit must be a positive integer, got ")
    refused(lambda: eq.Phases(bad, 3, 0.1), "free_steps must be a positive integer, got ")
    refused(lambda: eq.Phases(3, bad, 0.1), "nudged_steps must be a positive integer, got ")


def test_no_steps_are_allowed_only_in_relax() -> None:
    assert relax(steps=0).steps == 0
    refused(lambda: first_phase(steps=0), "steps must be a positive integer, got 0")
    refused(lambda: eq.Phases(0, 3, 0.1), "free_steps must be a positive integer, got 0")
    refused(lambda: eq.Phases(3, 0, 0.1), "nudged_steps must be a positive integer, got 0")


@pytest.mark.parametrize("bad", [NAN, INF, "0.1", None, 1j, True, np.ones((2, 2))])
def test_a_setting_is_a_finite_number(bad: Any) -> None:
    refused(lambda: eq.Phases(3, 3, bad), "beta must be a finite number other than 0, got ")
    refused(lambda: eq.Phases(3, 3, 0.1, learning_rates={"b1": bad}), "learning_rates['b1']", "got ")
    refused(lambda: eq.Alternating(omega=bad), "omega must be between 0 and 2, got ")
    refused(lambda: updates(eta=bad), "eta must be a finite number, got ")
    refused(lambda: eq.Alternating(tol=bad), "tol must be a finite number from 0, got ")
    refused(lambda: eq.Synchronous(tol=bad), "tol must be a finite number from 0, got ")
    refused(lambda: eq.RealTime(NETWORK, epsilon=bad), "epsilon must be above 0 and at most 2, got ")
    rng = np.random.default_rng(0)
    refused(lambda: UNTIED.init(rng, psi=bad), "psi must be from 0 to 180 degrees", "got ")


def seeded() -> np.random.Generator:
    return np.random.default_rng(0)


SETTINGS: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: eq.Phases(3, 3, 0), ("beta must be a finite number other than 0", "got 0")),
    (lambda: updates(beta=0.0), ("beta must be a finite number other than 0", "got 0.0")),
    (lambda: eq.Phases(3, 3, 0.1, "centred"), ("one-sided, random-sign, centered", "got 'centred'")),
    (lambda: eq.Phases(3, 3, 0.1, np.ones(2)), ("estimate must be one of", "shape (2,)")),
    (lambda: eq.Phases(3, 3, 0.1, schedule="synchronous"), ("Synchronous(...)", "got 'synchronous'")),
    (lambda: eq.Phases(3, 3, 0.1, schedule=eq.Alternating), ("schedule", "the class Alternating")),
    (lambda: eq.Phases(3, 3, 0.1, learning_rates=0.1), ("learning_rates must be a dict", "got 0.1")),
    (lambda: GOOD.phases.draw(0), ("rng must be a random generator", "got 0")),
    (lambda: relax(schedule="alternating"), ("schedule must be Synchronous(...)", "got 'alternating'")),
    (lambda: relax(nudge=0.1), ("nudge must be Nudge(beta, target)", "got 0.1")),
    (lambda: relax(nudge=(0.1, GOOD.y)), ("nudge must be Nudge(beta, target)", "got tuple")),
    (lambda: eq.Synchronous(tol=-1e-3), ("tol must be a finite number from 0", "got -0.001")),
    (lambda: eq.Alternating(tol=-1e-3), ("tol must be a finite number from 0", "got -0.001")),
    (lambda: eq.Alternating(omega=0), ("omega must be between 0 and 2", "got 0")),
    (lambda: eq.Alternating(omega=2), ("omega must be between 0 and 2", "got 2")),
    (lambda: eq.RealTime(NETWORK, epsilon=0), ("epsilon must be above 0 and at most 2", "got 0")),
    (lambda: eq.RealTime(NETWORK, epsilon=-0.2), ("epsilon must be above 0 and at most 2", "got -0.2")),
    (lambda: eq.RealTime(NETWORK, epsilon=2.5), ("epsilon must be above 0 and at most 2", "got 2.5")),
    (lambda: eq.RealTime(NETWORK, clamp="no"), ("clamp must be True or False", "got 'no'")),
    (lambda: UNTIED.init(seeded(), psi=-1), ("psi must be from 0 to 180 degrees", "got -1")),
    (lambda: UNTIED.init(seeded(), psi=181), ("psi must be from 0 to 180 degrees", "got 181")),
    (lambda: NETWORK.init(seeded(), psi=45), ("0 for tied weights", "got 45")),
    (lambda: NETWORK.init(0), ("rng must be a random generator", "got 0")),
    (lambda: NETWORK.init(seeded(), int), ("dtype must be np.float32 or np.float64", "got int64")),
    (lambda: eq.untied("p-1h"), ("network must be of the class Network", "got 'p-1h'")),
    (lambda: eq.weight_angle("p-1h", {}), ("network must be of the class Network", "got 'p-1h'")),
    (lambda: eq.angle_between(np.ones(3), np.ones(1)), ("the same shape", "got (3,) and (1,)")),
    (lambda: updates(delta="contrast"), ("delta must be a function", "got 'contrast'")),
]


@pytest.mark.parametrize(("call", "words"), SETTINGS, ids=[", ".join(words) for _, words in SETTINGS])
def test_a_setting_that_does_not_fit_is_refused(call: Callable[[], Any], words: tuple[str, ...]) -> None:
    refused(call, *words)


@pytest.mark.parametrize("dynamics", [eq.DiscreteTime, eq.RealTime])
@pytest.mark.parametrize(
    ("part", "bad", "words"),
    [
        ("network", "p-1h", ("network must be a Network", "chain", "got 'p-1h'")),
        ("network", [4, 5, 3], ("network must be a Network", "chain", "got list")),
        ("sigma", "tanh", ("sigma must be an Activation", "got 'tanh'")),
        ("sigma", np.tanh, ("sigma must be an Activation", "got ufunc")),
        ("cost", "squared error", ("cost must be a Cost", "got 'squared error'")),
    ],
)
def test_a_part_of_the_dynamics_is_an_object_and_not_its_name(
    dynamics: Any, part: str, bad: Any, words: tuple[str, ...]
) -> None:
    refused(lambda: dynamics(**({"network": NETWORK} | {part: bad})), *words)


# ---- arguments that fit the network, but not each other or the function


def test_one_number_for_each_sample_is_not_a_batch() -> None:
    a = arguments(eq.chain([1, B]))
    refused(lambda: eq.relax(a.dynamics, a.theta, a.x[:, 0]), "x must have shape (B, 1)", "got (3,)")


@pytest.mark.parametrize("name", ["cep", "cvf", "telescoped_cep", "telescoped_cvf"])
def test_a_continual_rule_needs_one_nudge_and_all_rates(name: str) -> None:
    some = replace(GOOD.phases, learning_rates={"b1": 0.1})
    refused(lambda: RULES[name](replace(GOOD, phases=some)), "learning rate", "lacks b2, w0-1, w1-2")
    centered = replace(GOOD.phases, estimate="centered")
    refused(lambda: RULES[name](replace(GOOD, phases=centered)), "one-sided or random-sign")


def test_untied_weights_have_no_phi(monkeypatch: pytest.MonkeyPatch) -> None:
    a = arguments(UNTIED)
    monkeypatch.setattr("eqprop_np.rules.ep.free_phase", None)  # it is refused before the phases run
    for name in ("phi", "dphi_dtheta", "ep", "cep", "telescoped_cep", *UPDATES):
        refused(lambda name=name: ALL[name](a), "untied", "use the rule")
    assert len(list(updates(a, delta=field_delta))) == a.rest.steps


@pytest.mark.parametrize("call", GRADIENTS.values(), ids=GRADIENTS)
def test_the_gradients_need_a_trajectory(call: Call) -> None:
    refused(lambda: call(replace(GOOD, rest=relax())), "trajectory", "got 0 states", "first_phase")


def test_the_gradients_at_the_drives_are_of_discrete_time() -> None:
    real_time = replace(GOOD, dynamics=eq.RealTime(NETWORK))
    refused(
        lambda: GRADIENTS["drive_gradients"](real_time),
        "dynamics must be DiscreteTime(...), in real time use gradients, got RealTime",
    )


@pytest.mark.parametrize(
    ("dynamics", "calls", "words"),
    [
        (eq.DiscreteTime(NETWORK, eq.hard_sigmoid), {}, "the hard sigmoid is not analytic"),
        (eq.RealTime(NETWORK, eq.hard_sigmoid, clamp=False), {}, "the hard sigmoid is not analytic"),
        (eq.RealTime(NETWORK, eq.tanh), {}, "clamping is not analytic"),
        (eq.DiscreteTime(IMAGES, eq.tanh), ON_A_STATE, "max-pooling is not analytic"),
    ],
    ids=["hard sigmoid", "hard sigmoid in real time", "clamping", "max-pooling"],
)
def test_what_is_not_analytic_refuses_complex_numbers(
    dynamics: Any, calls: dict[str, Call], words: str
) -> None:
    a = arguments(dynamics.network)
    x, s = a.x.astype(np.complex128), tuple(value.astype(np.complex128) for value in a.s)
    a = replace(a, dynamics=dynamics, x=x, s=s)
    for name, call in (calls | STEPS | NUDGED | RULES | FIRST).items():
        if not (name.startswith("telescoped") and dynamics.network is IMAGES):
            refused(lambda call=call: call(a), words, "complex128", "use a smooth activation")
    for name in THEOREM.keys() - {"drive_gradients"}:  # their first phase cannot have been complex
        refused(lambda name=name: THEOREM[name](a), "layer 1", "must be complex128", "got float64")


# ---- networks


def network(*connections: Any, shapes: Any = ((4,), (5,), (3,)), tied: Any = True) -> eq.Network:
    return eq.Network(shapes, connections, tied)


FIRST_TWO, LAST_TWO = eq.Dense(0, 1, (4,), (5,)), eq.Dense(1, 2, (5,), (3,))

GRAPHS: list[tuple[Callable[[], Any], tuple[str, ...]]] = [
    (lambda: eq.chain([]), ("its input", "at least one layer", "got 0")),
    (lambda: eq.chain([4]), ("its input", "at least one layer", "got 1")),
    (lambda: eq.chain([4, 0, 3]), ("layer 1 must have a shape of positive integers", "got (0,)")),
    (lambda: eq.chain([4, -2]), ("layer 1 must have a shape of positive integers", "got (-2,)")),
    (lambda: eq.chain([4, 2.5]), ("layer 1 must have a shape of positive integers", "got (2.5,)")),
    (lambda: eq.chain([4, True]), ("layer 1 must have a shape of positive integers", "got (True,)")),
    (lambda: eq.chain([(4,), (3,)]), ("layer 0 must have a shape of positive integers", "got ((4,),)")),
    (lambda: eq.chain("4-3"), ("sizes must be a sequence such as [784, 512, 10]", "got '4-3'")),
    (lambda: eq.chain(4), ("sizes must be a sequence such as [784, 512, 10]", "got 4")),
    (lambda: eq.toy(hidden=0), ("layer 1 must have a shape of positive integers", "got (0,)")),
    (lambda: eq.convolutional(28, [2], [3]), ("image must be the shape (H, W, C)", "got 28")),
    (lambda: eq.convolutional((28, 28), [2], [3]), ("needs images (H, W, C)", "has shape (28, 28)")),
    (lambda: eq.convolutional((28, 2.5, 1), [2], [3]), ("layer 0", "positive integers", "(28, 2.5, 1)")),
    (lambda: eq.convolutional((28, 28, 0), [2], [3]), ("layer 0", "positive integers", "(28, 28, 0)")),
    (lambda: eq.convolutional((28, 28, 1), 2, [3]), ("channels must be a sequence", "got 2")),
    (lambda: eq.convolutional((28, 28, 1), [2], 3), ("dense must be a sequence", "got 3")),
    (lambda: eq.convolutional((28, 28, 1), [0], [3]), ("layer 1: features must be an integer from 1", "0")),
    (lambda: eq.convolutional((28, 28, 1), ["a"], [3]), ("layer 1: features must be an integer", "'a'")),
    (lambda: eq.convolutional((28, 28, 1), [2], [3], 0), ("layer 1: kernel must be an integer from 1", "0")),
    (lambda: eq.convolutional((28, 28, 1), [2], [3], 5.0), ("layer 1: kernel must be an integer", "5.0")),
    (lambda: eq.convolutional((28, 28, 1), [2], [3], True), ("layer 1: kernel must be an integer", "True")),
    (lambda: eq.convolutional((28, 28, 1), [2], [3], 5, 0), ("layer 1: pool must be an integer from 1", "0")),
    (lambda: eq.convolutional((4, 4, 1), [2], [3]), ("layer 1: a 5×5 convolution does not fit", "4 pixels")),
    (
        lambda: eq.convolutional((9, 9, 1), [2], [3]),
        ("turns 9 pixels into 5", "pooling by 2 does not"),
    ),
    (lambda: eq.convolutional((28, 28, 1), [], []), ("its input", "at least one layer", "got 1")),
    (lambda: eq.ConvPool(0, 1, 28, 2), ("needs images (H, W, C)", "has shape 28")),
    (lambda: network(FIRST_TWO, LAST_TWO, shapes=((4,), (6,), (3,))), ("w0-1", "(5,)", "layer 1", "(6,)")),
    (lambda: network(FIRST_TWO), ("no connection leads to layer 2", "from an earlier layer")),
    (lambda: network(LAST_TWO), ("no connection leads to layer 1", "from an earlier layer")),
    (lambda: network(FIRST_TWO, LAST_TWO, FIRST_TWO), ("two parameters have the name w0-1", "another name")),
    *(
        (lambda name=name: network(replace(FIRST_TWO, name=name), LAST_TWO), (repr(name), "a bias or a part"))
        for name in ("b2", "b7", "b-readout", "meta", "file", "average/w", "optimizer/w")
    ),
    (lambda: network(replace(FIRST_TWO, name="w2-1"), LAST_TWO, tied=False), ("two parameters", "w2-1")),
    (lambda: network(replace(FIRST_TWO, name=5), LAST_TWO), ("name of a connection must be a string", "5")),
    *(
        (lambda pre=pre, post=post: network(FIRST_TWO, eq.Dense(pre, post, (5,), (3,))), words)
        for pre, post, words in (
            (1, 3, ("from layer 1 to 3", "a later one of 0…2")),
            (-1, 2, ("from layer -1 to 2", "a later one of 0…2")),
            (2, 1, ("from layer 2 to 1", "a later one of 0…2")),
            (1, 1, ("from layer 1 to 1", "a later one of 0…2")),
            ("1", 2, ("from layer 1 to 2", "a later one of 0…2")),
            (1.0, 2, ("from layer 1.0 to 2", "a later one of 0…2")),
        )
    ),
    (lambda: network("dense"), ("a connection must be a Dense, a ConvPool", "got 'dense'")),
    (lambda: network(eq.Dense), ("a connection must be a Dense, a ConvPool", "got the class Dense")),
    (lambda: eq.Network(((4,), (5,)), FIRST_TWO), ("connections must be a tuple of", "got Dense")),
    (lambda: network(FIRST_TWO, shapes=(4, 5)), ("the shape of layer 0 must be a tuple", "got 4")),
    (lambda: network(FIRST_TWO, shapes="ab"), ("shapes must be a tuple of the layers' shapes", "got 'ab'")),
    (lambda: network(FIRST_TWO, shapes=((), (5,))), ("layer 0", "positive integers", "got ()")),
    (lambda: network(FIRST_TWO, LAST_TWO, tied="no"), ("tied must be True or False", "got 'no'")),
]


@pytest.mark.parametrize(("call", "words"), GRAPHS, ids=[", ".join(words) for _, words in GRAPHS])
def test_a_graph_that_does_not_fit_is_refused(call: Callable[[], Any], words: tuple[str, ...]) -> None:
    refused(call, *words)


# ---- what is legal


def leaves(result: Any) -> list[np.ndarray]:
    """Return all arrays of a result in order."""
    if isinstance(result, np.ndarray):
        return [result]
    if is_dataclass(result) and not isinstance(result, eq.Network):
        result = list(vars(result).values())
    if isinstance(result, Mapping):
        result = list(result.values())
    if isinstance(result, Iterator | tuple | list):
        return [array for part in result for array in leaves(part)]
    return []


def assert_equal(result: Any, expected: Any) -> None:
    arrays = leaves(expected)
    assert arrays
    for a, b in zip(leaves(result), arrays, strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("convert", [lambda y: y > 0, lambda y: y.astype(np.uint8), np.ndarray.tolist])
@pytest.mark.parametrize("name", TAKES["y"])
def test_a_one_hot_target_may_be_boolean_integer_or_a_list(name: str, convert: Any) -> None:
    result = ALL[name](replace(GOOD, y=convert(GOOD.y)))
    assert_equal(result, ALL[name](GOOD))


@pytest.mark.parametrize("name", ALL)
def test_a_flat_input_takes_images_of_as_many_pixels(name: str) -> None:
    results = [leaves(ALL[name](replace(GOOD, x=x))) for x in (GOOD.x, GOOD.x.reshape(B, 2, 2))]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a.ravel(), b.ravel(), rtol=1e-12)


@pytest.mark.parametrize("name", STEPS | NUDGED | RULES)
def test_a_state_may_be_a_list_and_theta_any_mapping(name: str) -> None:
    changed = replace(GOOD, s=list(GOOD.s), theta=MappingProxyType(GOOD.theta))
    assert_equal(ALL[name](changed), ALL[name](GOOD))


@pytest.mark.parametrize("number", [np.float64, np.float32, np.float16])
@pytest.mark.parametrize("name", TAKES["beta"] | RULES | FIRST)
def test_numbers_of_numpy_are_numbers_and_do_not_change_the_dtype(name: str, number: Any) -> None:
    results = []
    for real, whole in ((float, int), (number, np.int64)):
        rates = dict.fromkeys(GOOD.theta, real(0.25))
        schedule = eq.Alternating(real(1.25), real(0.0))
        phases = eq.Phases(whole(4), whole(3), real(0.5), schedule=schedule, learning_rates=rates)
        a = arguments(dtype=np.float32, phases=phases)
        a = replace(a, dynamics=eq.RealTime(eq.chain([*map(whole, (4, 5, B))]), epsilon=real(0.25)))
        results.append(leaves(ALL[name](replace(a, beta=real(0.5)))))
    assert_equal(*results)
    assert {array.dtype for array in results[0]} == {np.dtype(np.float32)}


def test_sizes_of_numpy_are_sizes() -> None:
    assert eq.chain(np.array([4, 5, 3])).parameter_shapes == NETWORK.parameter_shapes
    sizes = np.array([4, 4, 1]), np.array([2]), np.array([3]), np.int64(3), np.int64(2)
    assert eq.convolutional(*sizes).parameter_shapes == IMAGES.parameter_shapes


@pytest.mark.parametrize("name", STEPS | NUDGED | RULES | THEOREM | FIRST)
def test_smooth_dynamics_take_complex_numbers(name: str) -> None:
    x, s = GOOD.x.astype(np.complex128), tuple(value.astype(np.complex128) for value in GOOD.s)
    rest = eq.first_phase(GOOD.dynamics, GOOD.theta, x, 3)
    result = ALL[name](replace(GOOD, x=x, s=s, rest=rest))
    for a, b in zip(leaves(result), leaves(ALL[name](GOOD)), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-12)


# ---- the checks run once


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """Count the calls of each function of `eqprop_np.checks`, in whatever module it is called."""
    count: Counter[str] = Counter()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            count[function.__name__] += 1
            return function(*args, **kwargs)

        return wrapper

    for module in [module for name, module in sys.modules.items() if name.startswith("eqprop_np")]:
        for name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == "eqprop_np.checks":
                monkeypatch.setattr(module, name, counted(function))
    return count


def test_relax_checks_once(calls: Counter[str]) -> None:
    relaxation = relax(s=GOOD.s, steps=50, nudge=nudged(GOOD), schedule=eq.Synchronous())
    assert relaxation.steps == 50
    for name in ("check_batch", "check_theta", "check_input", "check_state", "check_target"):
        assert calls[name] == 1
    assert calls["_check_array"] == len(GOOD.theta) + 1 + len(GOOD.s)


@pytest.mark.parametrize("name", RULES)
def test_a_rule_checks_once(name: str, calls: Counter[str]) -> None:
    a = replace(GOOD, phases=replace(GOOD.phases, free_steps=50, nudged_steps=50))
    calls.clear()
    RULES[name](a)
    for check in ("check_batch", "check_theta", "check_input", "check_target"):
        assert calls[check] == 1
    assert calls["_check_array"] == len(GOOD.theta) + 1


@pytest.mark.parametrize("name", STEPS | NUDGED | RULES | THEOREM | FIRST)
def test_the_number_of_checks_does_not_depend_on_the_number_of_steps(
    name: str, calls: Counter[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = []
    for steps in (2, 20):
        phases = replace(GOOD.phases, free_steps=2 * steps, nudged_steps=steps)
        a = replace(GOOD, phases=phases, rest=first_phase(steps=steps))
        calls.clear()
        leaves(ALL[name](a))
        counts.append(dict(calls))
    assert counts[0] == counts[1]
    assert counts[0]["check_batch"] == 1


@pytest.mark.parametrize("rule", [eq.ep, eq.cep, eq.vf, eq.cvf, eq.bptt, telescoped_cep, telescoped_cvf])
def test_an_unwrapped_rule_does_not_check_its_arguments(rule: Any, calls: Counter[str]) -> None:
    inspect.unwrap(rule)(GOOD.dynamics, GOOD.theta, GOOD.x, GOOD.y, GOOD.phases)
    assert not calls.keys() & {"check_batch", "check_target", "_check_array"}
