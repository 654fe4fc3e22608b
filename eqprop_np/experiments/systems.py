"""The systems on which Theorem 1 and the estimators are measured.

``python -m eqprop_np.theorem`` prints the distances of Eq. (8), and with ``--estimators`` the table of
estimators.
"""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array, hard_sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.experiments.console import Parser, command, whole
from eqprop_np.experiments.estimators import NEGLIGIBLE, Measurement, measure_estimators
from eqprop_np.network import Network, Theta, chain, convolutional, toy
from eqprop_np.rules.vector_field import untied
from eqprop_np.theorem import (
    Comparison,
    NotConverged,
    compare,
    drive_gradients,
    first_phase,
    gradients,
    order,
    updates,
)


@dataclass(frozen=True)
class System:
    """Dynamics with random parameters and random data, on which the theorem and the estimators are measured.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Of a tied or an untied network. Theorem 1 needs a tied one.
    steps : int
        K of Theorem 1, the length of the second phase.
    beta : float
        β of Theorem 1, for the named networks of the abstract that of the published curves.
    batch : int
        The number of samples. Their pixels are uniform in [0, 1] and their classes are random.
    eta : float
        η of C-EP, for every parameter. The published curves have 2e-5, on MNIST. Random pixels are on
        average several times as large as those of MNIST, and the deeper networks would diverge with 2e-5.
    """

    dynamics: Dynamics
    steps: int
    beta: float
    batch: int = 20
    eta: float = 5e-6

    def draw(self, seed: int, psi: float = 0.0) -> tuple[Theta, Array, Array]:
        """Return θ, x and y in float64. ψ is the angle between untied weights, in degrees."""
        rng = np.random.default_rng(seed)
        shapes = self.dynamics.network.shapes
        theta = self.dynamics.init(rng, np.float64, psi)
        x = rng.uniform(0, 1, (self.batch, *shapes[0]))
        classes = shapes[-1][0]
        return theta, x, np.eye(classes)[rng.integers(0, classes, self.batch)]


def _real_time(graph: Network) -> RealTime:
    return RealTime(graph, tanh, epsilon=0.08, clamp=False)


CHAIN = chain([6, 8, 7, 4])


def _small(dynamics: Dynamics) -> System:
    return System(dynamics, steps=40, beta=0.01, eta=3e-4)


SYSTEMS = {
    "chain": _small(DiscreteTime(CHAIN)),
    "chain-untied": _small(DiscreteTime(untied(CHAIN))),  # with tanh it would oscillate at ψ = 180°
    "chain-real": _small(RealTime(CHAIN, tanh, epsilon=0.5, clamp=False)),
    "chain-real-untied": _small(RealTime(untied(CHAIN), tanh, epsilon=0.5, clamp=False)),
    "toy": System(_real_time(toy()), steps=80, beta=0.01, batch=1, eta=3e-4),
    "eb-1h": System(_real_time(chain([784, 512, 10])), steps=80, beta=0.005),
    "eb-2h": System(_real_time(chain([784, 512, 512, 10])), steps=150, beta=0.01),
    "p-1h": System(DiscreteTime(chain([784, 512, 10]), tanh), steps=10, beta=0.01),
    "p-2h": System(DiscreteTime(chain([784, 512, 512, 10]), tanh), steps=40, beta=0.01),
    "p-3h": System(DiscreteTime(chain([784, 512, 512, 512, 10]), tanh), steps=40, beta=0.015),
    "conv": System(
        DiscreteTime(convolutional((28, 28, 1), (32, 64), (10,)), hard_sigmoid),
        steps=10,
        beta=0.02,
        batch=1,
        eta=2e-6,
    ),
}


# ---- Theorem 1


class Run(NamedTuple):
    """A process to measure, and a line of the table."""

    beta: float
    eta: float = 0.0
    centered: bool = False


def measure(system: System, runs: Sequence[Run], seed: int, *, drives: bool = False) -> list[Comparison]:
    """Compare each run with the gradients of BPTT, or with `drive_gradients`."""
    dynamics, (theta, x, y) = system.dynamics, system.draw(seed)
    rest = first_phase(dynamics, theta, x, system.steps)
    if drives:
        assert isinstance(dynamics, DiscreteTime), "drive gradients are those of discrete time"
        nablas = drive_gradients(dynamics, theta, x, y, rest)
    else:
        nablas = gradients(dynamics, theta, x, y, rest)
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
        f"{name:10}{run.beta:9.2g}{run.eta:9.2g}{c.distance_s:11.1e}{c.distance_theta:11.1e}{c.angle_theta:11.1e}"
    )


def print_theorem(name: str, seed: int) -> None:
    """Measure both sides of Eq. (8) for a named system and print their distances."""
    system = SYSTEMS[name]
    betas = [system.beta * scale for scale in (10, 1, 0.1, 0.01)]
    runs = [Run(beta, centered=centered) for centered in (False, True) for beta in betas]
    runs.append(Run(system.beta, system.eta))
    titles = {False: "relative distance of Δ from −∇, over all t"}
    if isinstance(system.dynamics, DiscreteTime):
        titles[True] = (
            "the same, where ∇ begins like EP without the output's σ′, and ∇_s is taken in the drives"
        )
    print(f"{name}: K = {system.steps}, batch {system.batch}, seed {seed}")
    for drives, title in titles.items():
        comparisons = measure(system, runs, seed, drives=drives)
        print(f"\n{title}")
        _print_table(runs, comparisons)
        chosen = comparisons[1]
        parts = ", ".join(f"{part} {chosen.distance(part):.1e}" for part in chosen.errors)
        print(f"each layer and parameter, one-sided, β = {system.beta}: {parts}")


# ---- the estimators


PSI = (0.0, 90.0, 180.0)
"""ψ of the untied systems, in degrees."""


def estimators_of(system: System, seed: int) -> dict[float, Measurement]:
    """Return the measured estimators of a system for each ψ: 0 for tied weights, `PSI` for untied ones.

    β and r are ten times the system's β, and the largest η/β of C-EP is that of the system.
    """
    angles = PSI[:1] if system.dynamics.network.tied else PSI
    return {
        psi: measure_estimators(
            system.dynamics, *system.draw(seed, psi), beta=10 * system.beta, ratio=system.eta / system.beta
        )
        for psi in angles
    }


def estimator_lines(measurement: Measurement) -> Iterator[str]:
    """Yield the lines of the table of estimators: its head, and a line for each record."""
    limits = any(r.limit_error is not None for r in measurement.records)
    head = f"{'estimator':24}{'setting':22}{'error':>9}{'angle (°)':>11}{'order':>7}"
    yield head + (f"{'to limit':>10}{'order':>7}" if limits else "") + f"{'steps':>7}{'drives':>8}"
    for r in measurement.records:
        line = f"{r.estimator:24}{r.setting:22}{r.error:9.1e}{r.angle:11.1e}{_order(r.order):>7}"
        if limits:
            distance = "–" if r.limit_error is None else f"{r.limit_error:.1e}"
            line += f"{distance:>10}{_order(r.limit_order):>7}"
        yield f"{line}{r.steps:7}{r.drives:8}"


def _order(value: float | None) -> str:
    return "–" if value is None else f"{round(value, 2) + 0.0:.2f}"  # + 0.0 turns −0 into 0


def exactness(system: System, bias: float) -> str:
    """Return the sentences that say which estimators follow the exact gradient of the system.

    Parameters
    ----------
    system : System
    bias : float
        `eqprop_np.experiments.estimators.Measurement.bias`.
    """
    discrete = isinstance(system.dynamics, DiscreteTime)
    if not system.dynamics.network.tied:
        plain, verb = "VF and C-VF", "follow the displacement (I − J)⁻¹ ℓ_s, where dL/dθ needs (I − Jᵀ)⁻¹ ℓ_s"
    elif discrete:
        plain, verb = (
            "EP, holomorphic EP and C-EP",
            "follow the gradient of another loss, because the nudge is added outside σ",
        )
    else:
        plain, verb = "EP, holomorphic EP and C-EP", "follow the exact gradient, because J is symmetric"
    if bias < NEGLIGIBLE:
        return f"For small parameters {plain} are exact here. AsymEP and BPTT are exact for β → 0 and K → ∞."
    return (
        f"{plain} {verb}.\nTheir limit for β → 0 and η/β → 0 is {100 * bias:.0f} % away from dL/dθ; "
        "'to limit' is the error against this limit.\n"
        "AsymEP and BPTT follow the true gradient: their errors vanish for β → 0 and K → ∞."
    )


def print_estimators(name: str, seed: int) -> None:
    """Measure the estimators of a named system and print their table."""
    system = SYSTEMS[name]
    kind = "discrete time" if isinstance(system.dynamics, DiscreteTime) else "real time"
    tied = "tied" if system.dynamics.network.tied else "untied"
    print(f"{name}: {kind}, {tied} weights, batch {system.batch}, seed {seed}")
    print("error: ‖g − dL/dθ‖ / ‖dL/dθ‖; order: its power of β, r or η, 0 where it does not vanish")
    print("steps, drives: what it takes after the first phase; a complex drive counts twice")
    for psi, measurement in estimators_of(system, seed).items():
        print("" if tied == "tied" else f"\nψ = {psi:.0f}°")
        print(*estimator_lines(measurement), sep="\n")
        print(exactness(system, measurement.bias))
    print("\nleft out:", *measurement.left_out, sep="\n  ")


# ---- the command


@command()
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code: 0, 1 (the first phase does not converge) or 2 (bad input)."""
    parser = Parser(
        prog="python -m eqprop_np.theorem",
        usage="%(prog)s [options]",
        description="Measure the distance of EP's updates from minus the gradients of BPTT (Theorem 1), or "
        "the error of every estimator of the gradient.",
    )
    parser.add_argument(
        "--system",
        choices=SYSTEMS,
        metavar="NAME",
        default="toy",
        help=f"network with random weights and data: {', '.join(SYSTEMS)}; -untied has two weights for each "
        "connection (for --estimators), chain-real, toy and eb are in real time, and the others in discrete "
        "time (default: toy)",
    )
    parser.add_argument(
        "--seed", type=whole(0), default=0, metavar="S", help="seed of the weights and the data (default: 0)"
    )
    parser.add_argument(
        "--estimators",
        action="store_true",
        help="print a table of all estimators of the gradient: error, order and cost",
    )
    options = parser.parse_args(arguments)
    if not options.estimators and not SYSTEMS[options.system].dynamics.network.tied:
        parser.error(
            f"--system {options.system} has untied weights, so Theorem 1 does not apply: add --estimators"
        )
    try:
        (print_estimators if options.estimators else print_theorem)(options.system, options.seed)
    except NotConverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
