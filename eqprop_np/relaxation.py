"""The two phases: repeat a step of the dynamics until the state converges, or a fixed number of times.

A schedule says which layers move together. `Synchronous` is Eq. (1) to the letter: all layers move at
once. `Alternating` has the same steady states and reaches them with less computation.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import as_python, check_integer, check_kind, describe, is_number
from eqprop_np.connections import flat
from eqprop_np.dynamics import Dynamics, Nudge, check_arguments, check_nudge, one_step, output_force
from eqprop_np.network import Activities, InputDrive, Network, Snapshot, State, Switches, Theta


@dataclass(frozen=True)
class Relaxation:
    """The result of `relax`.

    Attributes
    ----------
    state : tuple of ndarray
        (s¹, …, s^N) at the end.
    activities : tuple of ndarray
        What Φ sees of it: (x, s¹, …, s^N), or (x, ρ(s¹), …, ρ(s^N)) in real time.
    switches : dict
        The switches of each connection that has some, at ``state``.
    residuals : tuple of float
        For each step taken, the largest change of a neuron (see the schedules), or of those samples that
        still moved.
    converged : bool
        Whether the last residual was at most the schedule's tolerance (0 if it has none), and the state
        is finite.
    trajectory : tuple of states
        Every state from the first to the last if it was asked for, else empty.
    """

    state: State
    activities: Activities
    switches: Switches
    residuals: tuple[float, ...]
    converged: bool
    trajectory: tuple[State, ...] = ()

    @property
    def steps(self) -> int:
        """The number of steps taken."""
        return len(self.residuals)

    @property
    def snapshot(self) -> Snapshot:
        """The activities and their switches: all that ∂Φ/∂θ needs."""
        return Snapshot(self.activities, self.switches)

    def __repr__(self) -> str:
        shapes = ", ".join(str(value.shape) for value in self.state)
        last = f", last residual {self.residuals[-1]:.1e}" if self.residuals else ""
        state = "converged" if self.converged else "not converged"
        return f"<Relaxation: {state} after {self.steps} steps{last}; state {shapes}>"


@dataclass
class _Motion:
    """The state while it moves, with what the next sweep needs of it.

    ``s`` and ``activities`` have one entry per layer, the input's first, so that index n is layer n.
    """

    s: list[Array]
    activities: list[Array]
    switches: Switches

    def take(self, samples: Array) -> "_Motion":
        """Return the motion of these samples of the batch."""
        return _Motion(
            [value[samples] for value in self.s],
            [value[samples] for value in self.activities],
            {name: value[samples] for name, value in self.switches.items() if value is not None},
        )


@dataclass(frozen=True)
class Synchronous:
    """All layers move at once, as Eq. (1) says.

    The residual is the largest absolute change of a neuron in a step.

    Parameters
    ----------
    tol : float
        Stop when the residual is at most ``tol``. With 0, the default, every step is taken.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.
    """

    tol: float = 0.0
    per_sample = False

    def __post_init__(self) -> None:
        _check_tol(self.tol)
        object.__setattr__(self, "tol", as_python(self.tol))

    def steps(self, synchronous: int) -> int:
        """Return how many steps of this schedule go as far as so many synchronous steps."""
        return synchronous

    def for_nudged_phase(self, dynamics: Dynamics) -> "Synchronous":
        """Return the schedule of a second phase, which takes all its steps."""
        return Synchronous()

    def sweep(
        self, dynamics: Dynamics, theta: Theta, static: InputDrive, motion: _Motion, nudge: Nudge | None
    ) -> Array:
        """Take one step, writing into ``motion``, and return the residual."""
        old = tuple(motion.s[1:])
        new = one_step(dynamics, theta, static, old, nudge)
        motion.s[1:], motion.activities[1:] = new, map(dynamics.activity, new)
        motion.switches = {}  # they belonged to the old state
        return reduce(np.maximum, [_largest_change(a, b) for a, b in zip(new, old, strict=True)])


@dataclass(frozen=True)
class Alternating:
    """One group of layers moves, then the other; no connection joins two layers of a group.

    In a chain the groups are the odd and the even layers. A free synchronous iteration in discrete time
    consists of two interleaved sequences that do not interact. This schedule computes one of them, so one
    step of it goes as far as two synchronous steps, to the same steady states. In real time, with a nudge
    or with the switches of a free layer, a layer also depends on its own last state. Then the two schedules
    take different paths, to the same steady states. A nudged phase begins with the output's group.

    The residual is the largest absolute change of a neuron in a step. In a free phase the first group
    has just been computed from the second. So the remaining distance of its layers to their fixed points
    is |1 − 1/ω| per unit of change in discrete time, and its changes are scaled by this factor. With ω = 1
    they count in full if the group has a layer with switches, whose drive depends on its own last state.

    Parameters
    ----------
    omega : float
        Over-relaxation factor ω, between 0 and 2. Each layer moves ω times as far as the dynamics would
        move it. The steady states do not change.
    tol : float
        Stop when the residual is at most ``tol``. With 0 every step is taken.
    nudged_tol : float
        The tolerance of a second phase. With 0 it takes all its steps.
    per_sample : bool
        Stop each sample when its own residual is at most the tolerance. So no sample waits for the slowest
        one of its batch, and its state does not depend on the others. This saves time where the matrix
        products of a step are large, as in a CNN.

    Raises
    ------
    TypeError, ValueError
        If a parameter is of another kind or out of its range.

    Notes
    -----
    Alternating updates are a Gauss-Seidel iteration on a graph of two colours, and ω makes them successive
    over-relaxation (D. Young, 1954). If alternating contracts by a real λ per step near the steady state,
    then ω = 2/(1 + √(1 − λ)) contracts by ω − 1: λ = 0.65 becomes 0.26. In real time ω multiplies ε.

    In discrete time with ω > 1 most neurons overshoot in the same direction. The residual is a maximum
    and hides this, and one-sided EP divides the error by β. Use a smaller ``tol`` with a large ω.
    """

    omega: float = 1.0
    tol: float = 1e-3
    nudged_tol: float = 0.0
    per_sample: bool = False

    def __post_init__(self) -> None:
        if not is_number(self.omega) or not 0 < self.omega < 2:
            raise ValueError(
                f"omega must be between 0 and 2, got {describe(self.omega)}: "
                "outside, the iteration does not converge"
            )
        object.__setattr__(self, "omega", as_python(self.omega))
        for name in ("tol", "nudged_tol"):
            _check_tol(getattr(self, name))
            object.__setattr__(self, name, as_python(getattr(self, name)))
        check_kind("per_sample", self.per_sample, bool | np.bool_, "True or False")
        object.__setattr__(self, "per_sample", bool(self.per_sample))

    def steps(self, synchronous: int) -> int:
        """Return how many steps of this schedule go as far as so many synchronous steps: half of them.

        In real time this holds if ω, which multiplies the Euler step, is near 2.
        """
        return -(-synchronous // 2)

    def for_nudged_phase(self, dynamics: Dynamics) -> "Alternating":
        """Return the schedule of a second phase, with the tolerance ``nudged_tol``.

        ω is kept in real time only. In discrete time the nudge is added outside σ, and the output would
        oscillate with ω > 1.
        """
        return replace(self, omega=self.omega if dynamics.keeps_state else 1.0, tol=self.nudged_tol)

    def sweep(
        self, dynamics: Dynamics, theta: Theta, static: InputDrive, motion: _Motion, nudge: Nudge | None
    ) -> Array:
        """Move one group after the other, writing into ``motion``, and return the residual.

        With ``per_sample`` there is one residual for each sample.
        """
        network, groups = dynamics.network, dynamics.network.groups
        if nudge is not None and network.depth in groups[-1]:
            groups = groups[::-1]
        changes: list[Array] = []
        for group in groups:
            follows = group is not groups[-1] and nudge is None and not dynamics.keeps_state
            own = any(c.has_switches and c.pre in group for c in network.recurrent)
            remaining = abs(1 - 1 / self.omega) or float(own) if follows else 1.0
            drives, switches = network.drives(theta, motion.activities, static, group, motion.switches)
            for n in group:
                old = motion.s[n]
                output = n == network.depth
                force = output_force(dynamics, theta, old, nudge) if output and nudge is not None else None
                new = dynamics.update(old, motion.activities[n], drives[n], force, output)
                if self.omega != 1:  # old + ω (new − old)
                    new -= old
                    new *= self.omega
                    new += old
                    if dynamics.clamp:
                        np.clip(new, 0, 1, out=new)
                if remaining:
                    changes.append(remaining * _largest_change(new, old, self.per_sample))
                motion.s[n], motion.activities[n] = new, dynamics.activity(new)
            for c in network.recurrent:
                if c.has_switches and c.pre in group:  # they belonged to the old state of layer pre
                    switches.pop(c.name)
            motion.switches = switches
        return reduce(np.maximum, changes)


Schedule = Synchronous | Alternating


def tight_schedule(network: Network, tol: float) -> Schedule:
    """Return the alternating schedule, or the synchronous one where the graph has no two groups."""
    try:
        network.groups  # noqa: B018
    except ValueError:  # a graph with a cycle of odd length
        return Synchronous(tol=tol)
    return Alternating(tol=tol)


def _largest_change(new: Array, old: Array, per_sample: bool = False) -> Array:
    """Return the largest absolute change of a neuron, or NaN if one is NaN: in the batch, or per sample."""
    change = np.abs(new - old)
    largest: Array = flat(change).max(axis=1) if per_sample else change.max()
    return largest


def _check_tol(tol: float) -> None:
    if not is_number(tol) or tol < 0:
        raise ValueError(f"tol must be a finite number from 0, got {describe(tol)}")


def relax(
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    s: State | None = None,
    steps: int = 100,
    *,
    nudge: Nudge | None = None,
    schedule: Schedule | None = None,
    trajectory: bool = False,
) -> Relaxation:
    """Let the state move for a number of steps, or until it converges.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
    theta : dict of ndarray
    x : ndarray, shape (B, …)
        The input.
    s : tuple of ndarray, each (B, …), optional
        The state to start from; zeros by default.
    steps : int
        The largest number of steps of the schedule.
    nudge : Nudge, optional
        The force of a second phase on the output.
    schedule : Synchronous or Alternating, optional
        ``Alternating()`` by default. Its ``tol`` says when to stop.
    trajectory : bool
        Keep every state.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network or is out of its range, if the graph has no two groups for
        the alternating schedule, or if a trajectory is asked for where each sample stops by itself.

    Examples
    --------
    >>> from eqprop_np.dynamics import DiscreteTime
    >>> from eqprop_np.network import chain
    >>> dynamics = DiscreteTime(chain([4, 8, 3]))
    >>> theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    >>> free = relax(dynamics, theta, np.ones((1, 4)), schedule=Alternating(tol=1e-6))
    >>> print(free.converged, free.steps < 20)
    True True
    """
    check_arguments(dynamics, theta, x, s)
    nudge = check_nudge(dynamics, nudge, x)
    check_integer("steps", steps, least=0)
    schedule = require_schedule(Alternating() if schedule is None else schedule)
    if trajectory and schedule.per_sample:
        raise ValueError(
            "there is no trajectory of the batch with per_sample=True, because its samples stop at different "
            "steps: leave out trajectory or per_sample"
        )
    static = dynamics.input_drive(theta, x)
    return settle(dynamics, theta, static, s, steps, schedule, nudge=nudge, trajectory=trajectory)


def require_schedule(schedule: Schedule) -> Schedule:
    """Return the schedule, or raise a TypeError if it is not one."""
    check_kind("schedule", schedule, Schedule, "Synchronous(...) or Alternating(...)")
    return schedule


def settle(
    dynamics: Dynamics,
    theta: Theta,
    static: InputDrive,
    s: State | None,
    steps: int,
    schedule: Schedule,
    *,
    nudge: Nudge | None = None,
    switches: Switches | None = None,
    trajectory: bool = False,
) -> Relaxation:
    """Return `relax` without its checks, for an input whose drive is known.

    ``switches`` are those of the state ``s``, if they are known.
    """
    network = dynamics.network
    state = network.zeros(len(static.x), static.x.dtype) if s is None else s
    motion = _Motion([static.x, *state], [static.x, *map(dynamics.activity, state)], dict(switches or {}))
    residuals: list[float] = []
    states = [tuple(state)]
    if schedule.per_sample:
        motion, residuals = _settle_each(dynamics, theta, static, motion, steps, schedule, nudge)
    else:
        while len(residuals) < steps:
            residuals.append(float(schedule.sweep(dynamics, theta, static, motion, nudge)))
            if trajectory:
                states.append(tuple(motion.s[1:]))
            if schedule.tol and residuals[-1] <= schedule.tol:
                break
    for c in network.recurrent:
        if c.has_switches and c.name not in motion.switches:
            motion.switches[c.name] = c.to_post(theta[c.name], motion.activities[c.pre])[1]
    return Relaxation(
        state=tuple(motion.s[1:]),
        activities=tuple(motion.activities),
        switches=static.switches | motion.switches,
        residuals=tuple(residuals),
        converged=bool(residuals) and residuals[-1] <= schedule.tol and _finite(motion.s[1:]),
        trajectory=tuple(states) if trajectory else (),
    )


def _settle_each(
    dynamics: Dynamics,
    theta: Theta,
    static: InputDrive,
    motion: _Motion,
    steps: int,
    schedule: Schedule,
    nudge: Nudge | None,
) -> tuple[_Motion, list[float]]:
    """Move each sample until it converges, and return the motion of the whole batch and the residuals.

    A residual is the largest of the samples that still move.
    """
    moving = np.arange(len(static.x))
    residuals: list[float] = []
    parts: list[tuple[Array, _Motion]] = []  # the samples that stopped together
    while len(residuals) < steps and len(moving):
        residual = schedule.sweep(dynamics, theta, static, motion, nudge)  # one per sample
        residuals.append(float(residual.max()))
        stops = (residual <= schedule.tol) & (schedule.tol > 0)
        if stops.any():
            parts.append((moving[stops], motion.take(stops)))
            moving, motion, static = moving[~stops], motion.take(~stops), static.take(~stops)
            nudge = None if nudge is None else nudge._replace(target=nudge.target[~stops])
    return _together([*parts, (moving, motion)]), residuals


def _together(parts: Sequence[tuple[Array, _Motion]]) -> _Motion:
    """Return the motion of a whole batch from parts of it, each with the indices of its samples."""
    if len(parts) == 1:
        return parts[0][1]
    order = np.argsort(np.concatenate([samples for samples, _ in parts]))
    motions = [motion for _, motion in parts]

    def join(arrays: Iterable[Array | None]) -> Array:
        return np.concatenate([value for value in arrays if value is not None])[order]

    return _Motion(
        [join(values) for values in zip(*(m.s for m in motions), strict=True)],
        [join(values) for values in zip(*(m.activities for m in motions), strict=True)],
        {name: join(m.switches[name] for m in motions) for name in motions[0].switches},
    )


def _finite(state: Sequence[Array]) -> bool:
    """Return whether the state has no NaN and no infinity, also in a layer that the residual leaves out."""
    return all(bool(np.isfinite(value).all()) for value in state)
