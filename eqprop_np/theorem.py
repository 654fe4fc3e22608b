"""Theorem 1: the updates of EP are the gradients of BPTT, Eqs. (7)-(8).

    Δ_s(t) = (s_{t+1} − s_t) / β,    Δ_θ(t) = (∂Φ/∂θ(s_{t+1}) − ∂Φ/∂θ(s_t)) / β        Eq. (7)
    Δ_s(t) → −∇_s(t),                Δ_θ(t) → −∇_θ(t)                                    Eq. (8)

as η → 0 and β → 0, with s_0 = s_*, where the first phase has been at rest for K steps, and ∇ the
gradients of Eq. (6).

**Why.** The nudge displaces the output by −β ∂ℓ/∂s, and the step s′ = F(s) carries a small
displacement on by ∂F/∂s; BPTT carries ∂ℓ/∂s back by (∂F/∂s)ᵀ. Both start from the same vector, and
where F = ∂Φ/∂s the two matrices are one, the symmetric ∂²Φ/∂s². In real time this is so.

**The limits do not commute.** At a given η, θ moves by η Δ_θ whatever β is, and so moves s by the order
of η; Δ_s divides that by β. It is η/β that must vanish: first η → 0, then β → 0, although Eq. (8)
as printed has it the other way round.

**In discrete time**, F = σ(a) with the drive a = ∂Φ/∂s. Its Jacobian is D·H, with D = diag(σ′(a)) and
H = ∂²Φ/∂s²; BPTT multiplies by the transpose, H·D, which is another matrix. But D (H·D)^t = (D·H)^t D,
so BPTT's gradients in the *drives*, D·∇_s(t), do follow EP's −Δ_s(t), if they begin as it does. They do
not: the nudge stands outside σ, so that EP begins with ∂ℓ/∂s where BPTT begins with D·∂ℓ/∂s. That
factor σ′ of the output is all that separates Δ_θ from −∇_θ, however deep the network. Without it
(`drive_gradients`) the theorem is exact again. In other words, EP follows the exact gradient of
another loss, with ∂ℓ̃/∂ŷ = (ŷ − y)/σ′(a); for the sigmoid, where σ′ = 4ŷ(1 − ŷ), ℓ̃ is a quarter of the
cross-entropy.

A hard sigmoid has σ′ = 1 or 0: in θ, the theorem is exact for a sample unless an output that differs
from its target is saturated. And with max-pooling the drive is not continuous: a nudge large enough
to move a switch makes the state jump.

``python -m eqprop_np.theorem --system toy`` prints the numbers.
"""

import argparse
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from eqprop_np import network
from eqprop_np.activations import Array, hard_sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime, Relaxation, relax
from eqprop_np.network import State, Theta
from eqprop_np.rules import Phases
from eqprop_np.rules.bptt import loss_gradient, unroll
from eqprop_np.rules.continual import Delta, Instant, contrast, second_phase


class Moment(NamedTuple):
    """A process at one t: a part for each layer, in each sample, and one for each parameter."""

    state: State
    theta: Theta

    def parts(self) -> dict[str, Array]:
        """All of it by name; layer n is "s{n}"."""
        return {f"s{n}": value for n, value in enumerate(self.state, start=1)} | self.theta


# ---- the first phase


class NotAtRest(RuntimeError):
    """The first phase still moves, so that Theorem 1 says nothing."""


def first_phase(dynamics: Dynamics, theta: Theta, x: Array, steps: int, limit: int = 20_000) -> Relaxation:
    """The first phase, at rest for its last ``steps`` steps (K), whose states are the trajectory.

    It follows the alternating schedule until it rests, since that finds a steady state even where the
    two interleaved chains of the synchronous one would end in different ones; the last K steps are
    synchronous. At rest means that no neuron moves by more than 8 units in the last place of 1.

    Raises
    ------
    NotAtRest
        If a neuron still moves after ``limit`` steps.
    """
    tolerance = 8 * np.finfo(x.dtype).eps
    settled = relax(dynamics, theta, x, None, limit, tol=tolerance / 2)
    rest = relax(dynamics, theta, x, settled.state, steps, schedule="synchronous", trajectory=True)
    if not max(rest.residuals) <= tolerance:
        raise NotAtRest(
            f"the first phase is not at rest: a neuron still moves by {max(rest.residuals):.1e} per step "
            f"after {settled.steps} steps, but Theorem 1 wants none to move by more than {tolerance:.1e} "
            f"for K = {steps} steps: allow more steps, or choose weights with which it settles"
        )
    return rest


# ---- the processes


def updates(
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    y: Array,
    rest: Relaxation,
    beta: float,
    *,
    eta: float = 0.0,
    centered: bool = False,
    delta: Delta = contrast,
) -> Iterator[Moment]:
    """Eq. (7): Δ_s(t) and Δ_θ(t) of EP, or with η > 0 of C-EP, for t = 0…K−1.

    Parameters
    ----------
    rest : the first phase; K is the number of its last steps (`first_phase`).
    beta : of the nudge. In real time, the β of Eq. (7) is ε times it.
    eta : after each step, θ moves by η Δ_θ(t), as Eq. (5) has it.
    centered : the mean of the processes with β and −β, which differs from the limit by O(β²).
    delta : another one than Eq. (7)'s, `eqprop_np.rules.vector_field.field_delta` for VF and C-VF.
    """
    if centered:
        pair = (updates(dynamics, theta, x, y, rest, b, eta=eta, delta=delta) for b in (beta, -beta))
        for a, b in zip(*pair, strict=True):
            mean = {name: (a.theta[name] + b.theta[name]) / 2 for name in theta}
            yield Moment(tuple((p + q) / 2 for p, q in zip(a.state, b.state, strict=True)), mean)
        return
    phases = Phases(1, rest.steps, beta, rates=dict.fromkeys(theta, eta))
    before = Instant(rest.state, rest.rates, rest.switches, {})
    clamped = dynamics.network.clamp(theta, x)
    for after in second_phase(dynamics, theta, clamped, before, y, phases, delta):
        moves = zip(after.state, before.state, strict=True)
        yield Moment(tuple((a - b) / (beta * dynamics.nudge_scale()) for a, b in moves), after.delta)
        before = after


def gradients(dynamics: Dynamics, theta: Theta, x: Array, y: Array, rest: Relaxation) -> Iterator[Moment]:
    """Eq. (6): ∇_s(t) and ∇_θ(t) of BPTT for t = 0…K−1."""
    start = loss_gradient(rest.state, y)
    for g in unroll(dynamics, theta, dynamics.network.clamp(theta, x), rest.trajectory, start):
        yield Moment(g.state, dynamics.network.vjp_theta(x, [g.term]))


def drive_gradients(
    dynamics: DiscreteTime, theta: Theta, x: Array, y: Array, rest: Relaxation
) -> Iterator[Moment]:
    """What the updates of EP are equal to in discrete time: gradients in the drives, begun with ∂ℓ/∂s."""
    graph, v = dynamics.network, loss_gradient(rest.state, y)
    yield Moment(v, graph.vjp_theta(x, [(rest.rates, v, rest.switches)]))
    u = graph.vjp_s(theta, v, rest.switches)
    for g in unroll(dynamics, theta, graph.clamp(theta, x), rest.trajectory[:-1], u):
        _, v, _ = g.term
        yield Moment(v, graph.vjp_theta(x, [g.term]))


# ---- how far apart they are


@dataclass
class Comparison:
    """How far Δ is from −∇, the two sides of Eq. (8), over all t.

    Attributes
    ----------
    errors, norms : Σ_t ‖Δ(t) + ∇(t)‖² and Σ_t ‖∇(t)‖², for each layer and parameter.
    total_delta, total_nabla : Σ_t Δ_θ(t) and Σ_t ∇_θ(t).
    """

    errors: dict[str, float] = field(default_factory=dict)
    norms: dict[str, float] = field(default_factory=dict)
    total_delta: Theta = field(default_factory=dict)
    total_nabla: Theta = field(default_factory=dict)

    def add(self, delta: Moment, nabla: Moment) -> None:
        """Take in one t."""
        gradient = nabla.parts()
        for name, value in delta.parts().items():
            self.errors[name] = self.errors.get(name, 0.0) + _square(value + gradient[name])
            self.norms[name] = self.norms.get(name, 0.0) + _square(gradient[name])
        for name in delta.theta:
            self.total_delta[name] = self.total_delta.get(name, 0) + delta.theta[name]
            self.total_nabla[name] = self.total_nabla.get(name, 0) + nabla.theta[name]

    def distance(self, *names: str) -> float:
        """‖Δ + ∇‖ / ‖∇‖ over all t and the named layers or parameters together."""
        return float(np.sqrt(sum(self.errors[n] for n in names) / sum(self.norms[n] for n in names)))

    @property
    def distance_s(self) -> float:
        """Over all layers."""
        return self.distance(*(name for name in self.errors if name not in self.total_delta))

    @property
    def distance_theta(self) -> float:
        """Over all parameters."""
        return self.distance(*self.total_delta)

    @property
    def angle(self) -> float:
        """Between Σ_t Δ_θ(t) and −Σ_t ∇_θ(t), all parameters in one vector, in degrees."""
        a, b = (
            np.concatenate([sign * total[name].ravel() for name in self.total_delta])
            for sign, total in ((1, self.total_delta), (-1, self.total_nabla))
        )
        return network.angle_between(a, b)


def _square(a: Array) -> float:
    return float((a * a).sum())


def compare(nablas: Iterable[Moment], *processes: Iterable[Moment]) -> list[Comparison]:
    """Each process against the same gradients, all of them side by side in t: none is stored."""
    comparisons = [Comparison() for _ in processes]
    for nabla, *deltas in zip(nablas, *processes, strict=True):
        for comparison, delta in zip(comparisons, deltas, strict=True):
            comparison.add(delta, nabla)
    return comparisons


def order(betas: Sequence[float], distances: Sequence[float]) -> float:
    """The slope of log distance against log β."""
    return float(np.polyfit(np.log(betas), np.log(distances), 1)[0])


# ---- the systems


@dataclass(frozen=True)
class System:
    """What the theorem is tried on: dynamics with random parameters and random data.

    Parameters
    ----------
    steps : K.
    beta : that of the published curves.
    batch : samples, with pixels drawn from [0, 1] and random classes.
    eta : of the continual process, for every parameter. (Published curves have 2e-5, on MNIST; x drawn
        from all of [0, 1] is several times as large, and the deeper networks would run away.)
    """

    dynamics: Dynamics
    steps: int
    beta: float
    batch: int = 20
    eta: float = 5e-6

    def draw(self, seed: int) -> tuple[Theta, Array, Array]:
        """θ, x and y in float64."""
        rng = np.random.default_rng(seed)
        shapes = self.dynamics.network.shapes
        theta = self.dynamics.network.init(rng, np.float64)
        x = rng.uniform(0, 1, (self.batch, *shapes[0]))
        return theta, x, np.eye(*shapes[-1])[rng.integers(0, shapes[-1][0], self.batch)]


def _real_time(graph: network.Network) -> RealTime:
    return RealTime(graph, tanh, epsilon=0.08, clamp=False)


SYSTEMS = {
    "toy": System(_real_time(network.toy()), steps=80, beta=0.01, batch=1, eta=3e-4),
    "eb-1h": System(_real_time(network.chain([784, 512, 10])), steps=80, beta=0.005),
    "eb-2h": System(_real_time(network.chain([784, 512, 512, 10])), steps=150, beta=0.01),
    "p-1h": System(DiscreteTime(network.chain([784, 512, 10]), tanh), steps=10, beta=0.01),
    "p-2h": System(DiscreteTime(network.chain([784, 512, 512, 10]), tanh), steps=40, beta=0.01),
    "p-3h": System(DiscreteTime(network.chain([784, 512, 512, 512, 10]), tanh), steps=40, beta=0.015),
    "conv": System(
        DiscreteTime(network.convolutional((28, 28, 1), (32, 64), (10,)), hard_sigmoid),
        steps=10,
        beta=0.02,
        batch=1,
        eta=2e-6,
    ),
}


# ---- the command


class Run(NamedTuple):
    """A process to measure, and a line of the table."""

    beta: float
    eta: float = 0.0
    centered: bool = False


def measure(system: System, runs: Sequence[Run], seed: int, *, drives: bool = False) -> list[Comparison]:
    """Compare each run with the gradients of BPTT, or with `drive_gradients`."""
    dynamics, (theta, x, y) = system.dynamics, system.draw(seed)
    rest = first_phase(dynamics, theta, x, system.steps)
    nablas = (drive_gradients if drives else gradients)(dynamics, theta, x, y, rest)
    return compare(
        nablas,
        *(updates(dynamics, theta, x, y, rest, r.beta, eta=r.eta, centered=r.centered) for r in runs),
    )


def _print_table(runs: Sequence[Run], comparisons: Sequence[Comparison]) -> None:
    """A line per run: EP's with each estimate and their order in β, then C-EP's."""
    print(f"{'':10}{'β':>9}{'η':>9}{'in s':>11}{'in θ':>11}{'angle (°)':>11}")
    pairs = list(zip(runs, comparisons, strict=True))
    for centered, name in ((False, "one-sided"), (True, "centred")):
        limit = [(run, c) for run, c in pairs if run.centered == centered and not run.eta]
        for run, c in limit:
            _print_line(name, run, c)
        betas = [run.beta for run, _ in limit]
        in_s = order(betas, [c.distance_s for _, c in limit])
        in_theta = order(betas, [c.distance_theta for _, c in limit])
        print(f"{name:10}{'order in β':>18}{in_s:11.2f}{in_theta:11.2f}")
    for run, c in pairs:
        if run.eta:
            _print_line("continual", run, c)


def _print_line(name: str, run: Run, c: Comparison) -> None:
    print(
        f"{name:10}{run.beta:9.2g}{run.eta:9.2g}{c.distance_s:11.1e}{c.distance_theta:11.1e}{c.angle:11.1e}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, or 1 if the first phase does not come to rest."""
    parser = argparse.ArgumentParser(
        prog="python -m eqprop_np.theorem",
        description="Measure how far the updates of EP are from minus the gradients of BPTT (Theorem 1).",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("--system", choices=SYSTEMS, default="toy", help="what to try it on")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="of θ and the data")
    options = parser.parse_args(arguments)
    system = SYSTEMS[options.system]
    betas = [system.beta * scale for scale in (10, 1, 0.1, 0.01)]
    runs = [Run(beta, centered=centered) for centered in (False, True) for beta in betas]
    runs.append(Run(system.beta, system.eta))
    titles = {False: "relative distance of Δ from −∇, over all t"}
    if isinstance(system.dynamics, DiscreteTime):
        titles[True] = (
            "the same, where ∇ begins like EP without the output's σ′, and ∇_s is taken in the drives"
        )
    print(f"{options.system}: K = {system.steps}, batch {system.batch}, seed {options.seed}")
    try:
        for drives, title in titles.items():
            comparisons = measure(system, runs, options.seed, drives=drives)
            print(f"\n{title}")
            _print_table(runs, comparisons)
            chosen = comparisons[1]
            parts = ", ".join(f"{name} {chosen.distance(name):.1e}" for name in chosen.errors)
            print(f"each layer and parameter, one-sided, β = {system.beta}: {parts}")
    except NotAtRest as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
