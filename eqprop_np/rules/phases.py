"""What the learning rules share: their settings, the first phase, and the record they return."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import SCHEDULES, Dynamics, Relaxation, Schedule, relax
from eqprop_np.network import Clamped, Theta

Estimate = Literal["one-sided", "random-sign", "centered"]
ESTIMATES = ("one-sided", "random-sign", "centered")


@dataclass(frozen=True)
class Phases:
    """The settings of a rule's two phases.

    Parameters
    ----------
    free_steps, nudged_steps : T and K, in synchronous steps.
    beta : strength of the nudge, of either sign.
    estimate : how β is used, see `eqprop_np.rules.ep`.
    schedule : of both phases, see `eqprop_np.dynamics.relax`.
    omega, tol : of the first phase, see there. The second takes all of its K steps; in real time ω holds
        for it too.
    rates : η of each parameter, at which a continual rule moves it within the second phase.

    Raises
    ------
    ValueError
        If a number is out of its range, or a name is not among the choices.
    """

    free_steps: int
    nudged_steps: int
    beta: float
    estimate: Estimate = "one-sided"
    schedule: Schedule = "alternating"
    omega: float = 1.0
    tol: float = 1e-3
    rates: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.beta == 0 or not math.isfinite(self.beta):
            raise ValueError(f"beta is {self.beta}, but EP divides by it: give any other number")
        if min(self.free_steps, self.nudged_steps) < 1:
            raise ValueError(f"T = {self.free_steps} and K = {self.nudged_steps} must be at least 1")
        if not 0 < self.omega < 2:
            raise ValueError(f"omega = {self.omega} must lie between 0 and 2: beyond, nothing comes to rest")
        if not 0 <= self.tol < math.inf:
            raise ValueError(f"tol = {self.tol} must not be negative, and finite")
        if self.estimate not in ESTIMATES:
            raise ValueError(f"estimate {self.estimate!r} is not one of {', '.join(ESTIMATES)}")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule {self.schedule!r} is not one of {', '.join(SCHEDULES)}")

    def draw(self, rng: np.random.Generator) -> "Phases":
        """The phases of one batch: a random sign becomes a definite one."""
        if self.estimate != "random-sign":
            return self
        return replace(self, estimate="one-sided", beta=self.beta * int(rng.choice((-1, 1))))

    def steps(self, synchronous: int) -> int:
        """The steps to take for so many synchronous ones: an alternating step goes as far as two.

        In real time it does if ω, which lengthens the Euler step, is near 2.
        """
        return synchronous if self.schedule == "synchronous" else -(-synchronous // 2)


class Update(NamedTuple):
    """What a rule returns.

    Attributes
    ----------
    gradient : dL/dθ, the mean over the batch, for each parameter.
    free : the first phase.
    """

    gradient: Theta
    free: Relaxation


def free_phase(
    dynamics: Dynamics, theta: Theta, x: Array, phases: Phases, but_last: int = 0
) -> tuple[Clamped, Relaxation]:
    """The first phase, but for its last ``but_last`` synchronous steps: from zero to the steady state s_*."""
    clamped = dynamics.network.clamp(theta, x)
    steps = phases.steps(phases.free_steps - but_last)
    return clamped, relax(
        dynamics, theta, clamped, None, steps, schedule=phases.schedule, omega=phases.omega, tol=phases.tol
    )
