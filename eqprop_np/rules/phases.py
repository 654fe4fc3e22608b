"""What the learning rules share: the settings of the phases, the first phase, and the result.

A rule is a function of (dynamics, θ, x, y, phases) that returns an `Update`.
"""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import wraps
from typing import Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from eqprop_np.activations import Array
from eqprop_np.checks import (
    as_python,
    check_beta,
    check_integer,
    check_kind,
    check_target,
    describe,
    is_integer,
    is_number,
)
from eqprop_np.costs import squared_error
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime, check_arguments
from eqprop_np.network import InputDrive, State, Theta
from eqprop_np.relaxation import Alternating, Relaxation, Schedule, require_schedule, settle

Estimate = Literal["one-sided", "random-sign", "centered"]
ESTIMATES: tuple[Estimate, ...] = get_args(Estimate)


@dataclass(frozen=True)
class Phases:
    """The settings of a rule's two phases.

    Parameters
    ----------
    free_steps, nudged_steps : int
        T and K, the lengths of the first and of the second phase in synchronous steps.
    beta : float
        The strength of the nudge, of either sign.
    estimate : {"one-sided", "random-sign", "centered"}
        How β is used, see `eqprop_np.rules.ep`.
    schedule : Synchronous or Alternating
        Which layers move together, and when a phase stops.
    learning_rates : dict
        η of each parameter, with which a continual rule moves it during the second phase.
    points : int
        N, the number of nudges of holomorphic EP, on a circle of radius β.

    Raises
    ------
    TypeError, ValueError
        If a value is out of its range or of another kind.

    Examples
    --------
    >>> Phases(free_steps=30, nudged_steps=10, beta=0.1).schedule.tol
    0.001
    """

    free_steps: int
    nudged_steps: int
    beta: float
    estimate: Estimate = "one-sided"
    schedule: Schedule = field(default_factory=Alternating)
    learning_rates: Mapping[str, float] = field(default_factory=dict)
    points: int = 4

    def __post_init__(self) -> None:
        check_integer("free_steps", self.free_steps, least=1)
        check_integer("nudged_steps", self.nudged_steps, least=1)
        if not is_integer(self.points) or self.points < 2:
            raise ValueError(f"points must be an integer from 2, got {describe(self.points)}")
        check_beta(self.beta)
        if not isinstance(self.estimate, str) or self.estimate not in ESTIMATES:
            raise ValueError(f"estimate must be one of {', '.join(ESTIMATES)}, got {describe(self.estimate)}")
        require_schedule(self.schedule)
        check_kind("learning_rates", self.learning_rates, Mapping, "a dict from names to numbers")
        for name, rate in self.learning_rates.items():
            if not is_number(rate):
                raise ValueError(f"learning_rates[{name!r}] must be a finite number, got {describe(rate)}")
        rates = {name: as_python(rate) for name, rate in self.learning_rates.items()}
        for name in ("free_steps", "nudged_steps", "beta", "points"):
            object.__setattr__(self, name, as_python(getattr(self, name)))  # the dataclass is frozen
        object.__setattr__(self, "learning_rates", rates)

    def draw(self, rng: np.random.Generator) -> "Phases":
        """Return the phases of one batch: "random-sign" becomes one-sided with ±β."""
        check_kind("rng", rng, np.random.Generator, "a random generator such as np.random.default_rng(0)")
        if self.estimate != "random-sign":
            return self
        return replace(self, estimate="one-sided", beta=self.beta * int(rng.choice((-1, 1))))


@dataclass(frozen=True)
class Update:
    """The result of a learning rule.

    Attributes
    ----------
    gradient : dict of ndarray
        dL/dθ for each parameter, the mean over the batch. Descend along it.
    free : Relaxation
        The first phase.
    """

    gradient: Theta
    free: Relaxation

    def __repr__(self) -> str:
        norms = ", ".join(f"{name} {np.linalg.norm(g):.2e}" for name, g in self.gradient.items())
        return f"<Update: norms of dL/dθ: {norms}; {self.free!r}>"


Rule = Callable[[Dynamics, Theta, Array, Array, Phases], Update]
"""A learning rule: (dynamics, θ, x, y, phases) → `Update`."""


Signs = Literal["none", "estimate", "both"]
"""The signs of β that a rule uses: it does not nudge, or the estimate decides, or both always."""


def checked(rule: Rule, signs: Signs = "estimate", synchronous: bool = False) -> Rule:
    """Return the rule with a check of its arguments.

    The rule itself stays available as ``inspect.unwrap(rule)``, for a caller that has checked them, and
    `signs_of` tells its ``signs``. ``synchronous`` says that the nudged phase does not follow the schedule.
    """

    @wraps(rule)
    def check_and_call(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Update:
        y = check_problem(dynamics, theta, x, y, phases)
        check_stable(dynamics, phases, check_and_call)
        check_resolution(phases, check_and_call, np.result_type(x, *theta.values()), stacklevel=3)
        return rule(dynamics, theta, x, y, phases)

    vars(check_and_call).update(signs=signs, synchronous=synchronous)
    return check_and_call


def signs_of(rule: Rule) -> Signs:
    """Return the signs of β that a rule uses; "none" for a rule of your own, which is not known."""
    return getattr(rule, "signs", "none")


def check_stable(dynamics: Dynamics, phases: Phases, rule: Rule) -> None:
    """Check that the phases of a rule can converge.

    The leak of real time multiplies a displacement by 1 − ωε at each step. With the squared error, the force
    β (y − ŷ) of a nudged phase feeds the output back to itself. A step multiplies a displacement of ŷ by −β
    in discrete time and by 1 − ωε(1 + β) in real time, besides what returns from the other layers. Here ω is
    1 if the nudged phase of the rule is synchronous. The force of a readout is bounded, and that of your own
    cost is not known.
    """
    omega = phases.schedule.omega if isinstance(phases.schedule, Alternating) else 1.0
    if isinstance(dynamics, RealTime) and omega * dynamics.epsilon >= 2:
        raise ValueError(
            f"omega * epsilon must be below 2 in real time, got {omega:g} * {dynamics.epsilon:g}: each step "
            "would overshoot by more than it corrects, so no phase converges; choose a smaller epsilon"
        )
    signs = signs_of(rule)
    if dynamics.cost != squared_error or signs == "none":
        return
    beta = phases.beta
    both = signs == "both" or phases.estimate != "one-sided"
    least, most = (-abs(beta), abs(beta)) if both else (beta, beta)
    if isinstance(dynamics, DiscreteTime):
        if max(-least, most) >= 1:
            raise ValueError(
                f"beta must be between -1 and 1 in discrete time, got {beta:g}: the nudge multiplies a "
                "change of the output by -beta at each step, so the nudged phase does not converge"
            )
        return
    name, factor = ("", "") if (synchronous := vars(rule)["synchronous"]) else ("omega * ", f"{omega:g} * ")
    if (1.0 if synchronous else omega) * dynamics.epsilon * (1 + max(most, 0)) >= 2:
        raise ValueError(
            f"{name}epsilon * (1 + beta) must be below 2 in real time, got {factor}{dynamics.epsilon:g} * "
            f"(1 + {max(most, 0):g}): each step would overshoot by more than it corrects, so the nudged "
            "phase does not converge; choose a smaller beta or epsilon"
        )
    if least < -1 and not dynamics.clamp:  # at -1 a displacement of the output stays as it is
        raise ValueError(
            f"beta must be at least -1 in real time without clamping, got {least:g}: the nudge would push "
            "the output away from the target by more than the leak returns, so the phase does not converge"
        )


def check_resolution(phases: Phases, rule: Rule, dtype: DTypeLike, stacklevel: int) -> None:
    """Raise a ValueError if rounding hides the effect of the nudge; warn if the tolerance may do so.

    A rule divides the difference of two states by β. Each of them has an error: that of rounding, and what
    the first phase, which stops at the schedule's tolerance, has left.
    """
    if signs_of(rule) == "none":
        return
    beta, least = abs(phases.beta), float(10 * np.finfo(dtype).eps)
    if beta < least:
        raise ValueError(
            f"beta must be at least {least:.0e} in size for {np.dtype(dtype)}, got {phases.beta:g}: rounding "
            "hides the effect of a smaller nudge"
        )
    if phases.estimate != "centered" and phases.schedule.tol > 0.1 * beta:
        warnings.warn(
            f"the tolerance of the first phase, {phases.schedule.tol:g}, is more than a tenth of beta, "
            f"{phases.beta:g}, so the update may consist of what the first phase has left: choose a smaller "
            "tol or a larger beta",
            stacklevel=stacklevel,
        )


def check_problem(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Array:
    """Check a rule's arguments and return y as a float array.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network, or if the sign of a random-sign estimate was not drawn.
    """
    check_arguments(dynamics, theta, x)
    check_kind("phases", phases, Phases, "Phases(...)")
    if phases.estimate == "random-sign":
        raise ValueError("the sign of a random-sign estimate is not drawn: pass phases.draw(rng)")
    return check_target(dynamics.target_shape, y, x)


def free_phase(
    dynamics: Dynamics, theta: Theta, x: Array, phases: Phases, without_last: int = 0
) -> tuple[InputDrive, Relaxation]:
    """Run the first phase from zero to the steady state s_*.

    Parameters
    ----------
    without_last : int
        Leave out so many of the T synchronous steps.

    Returns
    -------
    static, free
        The drive of the input, which the second phase needs too, and the first phase.
    """
    static = dynamics.input_drive(theta, x)
    steps = phases.schedule.steps(phases.free_steps - without_last)
    return static, settle(dynamics, theta, static, None, steps, phases.schedule)


def cost_gradient(dynamics: Dynamics, theta: Theta, y: Array, *states: State) -> Theta:
    """Return ∂ℓ/∂θ of the cost's own parameters, the mean over the states and the batch.

    It is empty for a cost without parameters.
    """
    first, *others = (dynamics.cost.gradient(theta, s[-1], y) for s in states)
    return {name: sum((g[name] for g in others), value) / len(states) for name, value in first.items()}


def require_plain_cost(dynamics: Dynamics) -> None:
    """Raise a ValueError if the cost has parameters."""
    if dynamics.cost.parameter_shapes(dynamics.network.shapes[-1]):
        raise ValueError(
            f"this rule does not train the parameters of the cost {dynamics.cost.name!r}: use the rule "
            "ep, bptt, implicit or asymep, or a cost without parameters such as squared_error"
        )
