"""The systems on which Theorem 1 is measured, and the table that ``python -m eqprop_np.theorem`` prints."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from eqprop_np.activations import Array, hard_sigmoid, tanh
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.network import Network, Theta, chain, convolutional, toy
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
        theta = self.dynamics.init(rng, np.float64)
        x = rng.uniform(0, 1, (self.batch, *shapes[0]))
        classes = shapes[-1][0]
        return theta, x, np.eye(classes)[rng.integers(0, classes, self.batch)]


def _real_time(graph: Network) -> RealTime:
    return RealTime(graph, tanh, epsilon=0.08, clamp=False)


SYSTEMS = {
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
    except NotConverged as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0
