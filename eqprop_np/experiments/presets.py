"""The named experiments: P-1h, …, as frozen dataclasses that say where each number comes from.

Sizes, rates, T, K, β and ε are those of the authors:

- [1] Ernoult, Grollier, Querlioz, Bengio, Scellier, *Updates of Equilibrium Prop Match Gradients of
  Backprop Through Time in an RNN with Static Input*, NeurIPS 2019 (arXiv:1905.13633).
- [2] The same, *Equilibrium Propagation with Continual Weight Updates*, 2020 (arXiv:2005.04168).

``omega`` and ``tol`` are ours: they are settings of the fast exact form of the phases
(`eqprop_np.dynamics.relax`), chosen by the cosine of EP's gradient to the one at the exact steady
states. ``to_the_letter`` leaves them out.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from eqprop_np.activations import ACTIVATIONS
from eqprop_np.dynamics import DiscreteTime, Dynamics, RealTime
from eqprop_np.network import Network, chain, convolutional
from eqprop_np.relaxation import Alternating, Schedule, Synchronous
from eqprop_np.rules import RULES
from eqprop_np.rules.phases import Estimate, Phases
from eqprop_np.rules.vector_field import untied

DYNAMICS = ("discrete-time", "real-time")
SCHEDULES = ("alternating", "synchronous")
UNTIED = tuple(rule.name for rule in RULES.values() if rule.networks == "untied")
"""The rules for which the commands untie the weights."""


@dataclass(frozen=True)
class Experiment:
    """A network, its dynamics, a learning rule, and how long to train.

    Parameters
    ----------
    dynamics, activation : "discrete-time" or "real-time"; a name in `eqprop_np.activations.ACTIVATIONS`.
    channels : of the convolutional layers; none by default.
    hidden : sizes of the dense hidden layers.
    learning_rates : one per connection, from the input to the output; a layer's bias has the rate of
        the connection that enters it, and an untied weight that of the one it runs against.
    rate_decay : the factor on every rate from one epoch to the next.
    free_steps, nudged_steps, beta, estimate, schedule, omega, tol : see `eqprop_np.rules.Phases`.
    epsilon : the Euler step of real-time dynamics; without a meaning in discrete time.
    augment : shift each training image by up to so many pixels, at random; 0 for none.
    workers : processes that share each batch, each with one BLAS thread; 1 for none but this one.
    angle : ψ between forward and backward weights at the start, in degrees, for the rules that untie them.
    source : where the numbers come from.

    Raises
    ------
    ValueError
        If a number is out of its range, or the rates are not one per connection.
    """

    name: str
    dynamics: Literal["discrete-time", "real-time"]
    activation: str
    hidden: tuple[int, ...]
    learning_rates: tuple[float, ...]
    free_steps: int
    nudged_steps: int
    beta: float
    epochs: int
    source: str
    channels: tuple[int, ...] = ()
    rule: str = "ep"
    estimate: Estimate = "one-sided"
    schedule: Literal["alternating", "synchronous"] = "alternating"
    omega: float = 1.0
    tol: float = 1e-3
    epsilon: float = 0.2
    batch_size: int = 20
    rate_decay: float = 1.0
    augment: int = 0
    workers: int = 1
    angle: float = 0.0

    def __post_init__(self) -> None:
        connections = len(self.channels) + len(self.hidden) + 1
        if len(self.learning_rates) != connections:
            raise ValueError(
                f"{len(self.learning_rates)} learning rates for {connections} connections: give one for each"
            )
        choices = {
            "dynamics": DYNAMICS,
            "activation": ACTIVATIONS,
            "rule": RULES,
            "schedule": SCHEDULES,
        }
        for name, possible in choices.items():
            if getattr(self, name) not in possible:
                raise ValueError(f"{name} {getattr(self, name)!r} is not one of {', '.join(possible)}")
        for name in ("epochs", "batch_size", "workers", "free_steps", "nudged_steps", "hidden", "channels"):
            if not all(isinstance(value, int) and value > 0 for value in _values(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)} must be positive, and whole")
        for name in ("learning_rates", "epsilon", "rate_decay"):
            if not all(0 < value < math.inf for value in _values(self, name)):
                raise ValueError(f"{name} = {getattr(self, name)} must be positive, and finite")
        if not isinstance(self.augment, int) or self.augment < 0:
            raise ValueError(f"augment = {self.augment} must not be negative, and whole")
        _ = self.phases
        self._check_rule()

    def _check_rule(self) -> None:
        """Raise a ValueError where the rule and the other settings do not go together."""
        if not 0 <= self.angle <= 180:
            raise ValueError(f"angle = {self.angle} is not between 0 and 180 degrees")
        if self.angle and self.rule not in UNTIED:
            raise ValueError(
                f"angle = {self.angle} is between forward and backward weights, which rule {self.rule} "
                f"ties: choose rule {' or '.join(UNTIED)}"
            )
        rule = RULES[self.rule]
        if self.estimate not in rule.estimates:
            raise ValueError(
                f"rule {self.rule} does not use the estimate {self.estimate}: "
                f"choose {' or '.join(rule.estimates)}"
            )
        if rule.moves_weights and self.workers > 1:
            raise ValueError(
                f"rule {self.rule} moves the weights by the mean over the batch at each step, so that "
                f"{self.workers} workers cannot share one: choose 1"
            )

    @property
    def phases(self) -> Phases:
        """The settings of the rule's two phases."""
        alternating = self.schedule == "alternating"
        schedule: Schedule = Alternating(self.omega, self.tol) if alternating else Synchronous(self.tol)
        return Phases(self.free_steps, self.nudged_steps, self.beta, self.estimate, schedule)

    def build(self, image: tuple[int, int], classes: int) -> Dynamics:
        """The dynamics of the network for images of so many pixels and so many classes."""
        sigma = ACTIVATIONS[self.activation]
        graph = self._network(image, classes)
        if self.dynamics == "real-time":
            return RealTime(graph, sigma, self.epsilon)
        return DiscreteTime(graph, sigma)

    def _network(self, image: tuple[int, int], classes: int) -> Network:
        if self.channels:
            graph = convolutional((*image, 1), self.channels, (*self.hidden, classes))
        else:
            graph = chain((image[0] * image[1], *self.hidden, classes))
        return untied(graph) if self.rule in UNTIED else graph

    def rates(self, graph: Network, epoch: int) -> dict[str, float]:
        """Return the learning rate of each parameter in an epoch, counted from 0."""
        entering = {n: self.learning_rates[n - 1] * self.rate_decay**epoch for n in graph.layers}
        rates = {f"b{n}": rate for n, rate in entering.items()}
        rates |= {c.name: entering[c.post] for c in graph.connections}
        return rates | {graph.backward_name(c): entering[c.post] for c in graph.recurrent}

    def to_the_letter(self) -> "Experiment":
        """The same as published: T and K synchronous steps."""
        return replace(self, schedule="synchronous", omega=1.0, tol=0.0)


def spread(rates: tuple[float, ...], connections: int) -> tuple[float, ...]:
    """As many rates as there are connections: from the first of ``rates`` to the last, geometrically."""
    places = np.linspace(0, len(rates) - 1, connections)
    logarithms = np.interp(places, range(len(rates)), np.log(rates))
    return tuple(float(f"{rate:.2g}") for rate in np.exp(logarithms))


def _values(experiment: Experiment, name: str) -> tuple[float, ...]:
    value = getattr(experiment, name)
    return value if isinstance(value, tuple) else (value,)


EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        Experiment(
            name="p-1h",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512,),
            learning_rates=(0.08, 0.04),
            free_steps=30,
            nudged_steps=10,
            beta=0.1,
            epochs=30,
            tol=3e-3,
            source="[1]; T and K are the lower ends of its 30-40 and 10-15",
        ),
        Experiment(
            name="p-2h",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512, 512),
            learning_rates=(0.2, 0.05, 0.005),
            free_steps=100,
            nudged_steps=20,
            beta=0.5,
            epochs=50,
            omega=1.4,
            source="[1]",
        ),
        Experiment(
            name="p-3h",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512, 512, 512),
            learning_rates=(0.2, 0.05, 0.01, 0.002),
            free_steps=180,
            nudged_steps=20,
            beta=0.5,
            epochs=100,
            omega=1.6,
            tol=3e-3,
            source="[1]",
        ),
        Experiment(
            name="eb-1h",
            dynamics="real-time",
            activation="sigmoid",
            hidden=(512,),
            learning_rates=(0.1, 0.05),
            free_steps=100,
            nudged_steps=12,
            beta=0.5,
            epsilon=0.2,
            epochs=30,
            omega=1.9,
            source="[1]",
        ),
        Experiment(
            name="eb-2h",
            dynamics="real-time",
            activation="sigmoid",
            hidden=(512, 512),
            learning_rates=(0.4, 0.1, 0.01),
            free_steps=400,
            nudged_steps=40,
            beta=0.5,
            epsilon=0.2,
            epochs=50,
            omega=1.9,
            tol=3e-4,
            source="[1]",
        ),
        Experiment(
            name="cep-1h",
            rule="cep",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512,),
            learning_rates=(0.0056, 0.0028),
            free_steps=40,
            nudged_steps=15,
            beta=0.2,
            epochs=100,
            omega=1.2,
            source="[2]",
        ),
        Experiment(
            name="cep-2h",
            rule="cep",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512, 512),
            learning_rates=(0.01, 0.0018, 0.00018),
            free_steps=100,
            nudged_steps=20,
            beta=0.5,
            epochs=150,
            omega=1.4,
            source="[2]",
        ),
        Experiment(
            name="cvf-1h",
            rule="cvf",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512,),
            learning_rates=(0.0076, 0.0038),
            free_steps=40,
            nudged_steps=15,
            beta=0.2,
            estimate="random-sign",
            epochs=100,
            source="[2]",
        ),
        Experiment(
            name="cvf-2h",
            rule="cvf",
            dynamics="discrete-time",
            activation="sigmoid",
            hidden=(512, 512),
            learning_rates=(0.009, 0.0016, 0.00016),
            free_steps=100,
            nudged_steps=20,
            beta=0.35,
            estimate="random-sign",
            epochs=150,
            source="[2]",
        ),
        Experiment(
            name="conv",
            dynamics="discrete-time",
            activation="hard_sigmoid",
            channels=(32, 64),
            hidden=(),
            learning_rates=(0.2, 0.05, 0.02),
            rate_decay=0.87,
            free_steps=28,
            nudged_steps=8,
            beta=0.4,
            estimate="centered",
            epochs=12,
            omega=1.2,
            tol=3e-2,
            workers=2,
            source="[1] for the layers and β; the estimate, T, K, rates and their decay are ours",
        ),
    )
}
