"""The angle of Fig. 1(c): between a rule's total update and BPTT's gradient, before training.

The abstract defines it as the angle between Σ_t Δ_θ(t) and −Σ_t ∇_θ(t). It is 0 where Theorem 1 holds
exactly. It depends on four choices that the abstract leaves open, so `update_angles` returns it by three
conventions:

- "theorem": all parameters, and all t from 0 to K − 1, as in Theorem 1.
- "published": the sums leave out t = 0, the vectors contain the weights and no biases, and the bias of the
  first hidden layer does not move. The authors' code fills its arrays from t = 1, and its C-VF does not train
  this bias.
- "published, moved weights": besides, BPTT starts anew with the weights at the end of the second phase. The
  authors' code does this.

The nudge is +β in all of them, also where training nudges by ±β. With the weights of C-VF as they are before
training, −β would give about 70°, whatever ψ is.
"""

from collections.abc import Sequence

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.dynamics import Dynamics, Nudge
from eqprop_np.experiments.presets import Experiment
from eqprop_np.network import Theta
from eqprop_np.relaxation import Relaxation, Synchronous, relax
from eqprop_np.rules.continual import Delta, continual_phase, contrast_delta
from eqprop_np.rules.vector_field import angle_between, field_delta
from eqprop_np.samples import Samples
from eqprop_np.theorem import gradients

BATCHES = 100  # each with fresh weights; the angles of C-EP are spread by some 15°
CONVENTIONS = ("theorem", "published", "published, moved weights")
DELTAS: dict[str, Delta] = {  # Δ_θ(t) of each rule
    "ep": contrast_delta,
    "cep": contrast_delta,
    "vf": field_delta,
    "cvf": field_delta,
}


def has_angle(experiment: Experiment) -> bool:
    """Return whether the rule of an experiment has a Δ_θ(t), and its cost no parameters of its own."""
    return experiment.rule in DELTAS and experiment.cost == "squared-error"


def update_angles(
    experiment: Experiment,
    dynamics: Dynamics,
    samples: Samples,
    batches: int = BATCHES,
    theta: Theta | None = None,
) -> dict[str, list[float]]:
    """Return the angle in degrees by each convention, one for each batch.

    The first phase takes T synchronous steps, and the computation is in float64.

    Parameters
    ----------
    experiment : Experiment
        The rule, its phases, the learning rates, ψ and the batch size.
    dynamics : Dynamics
        The dynamics of the network.
    samples : Samples
        The training samples. The batches are taken in order from the start.
    batches : int
        The number of batches, if there are enough samples.
    theta : dict of ndarray, optional
        The parameters. By default each batch has fresh ones: those of batch k are drawn with the seed k.

    Returns
    -------
    dict of list of float
        The angles from 0 to 180, by the names in ``CONVENTIONS``.
    """
    size = experiment.training.batch_size
    angles: dict[str, list[float]] = {name: [] for name in CONVENTIONS}
    for seed, first in enumerate(range(0, min(len(samples), batches * size), size)):
        fresh = dynamics.init(np.random.default_rng(seed), np.float64, experiment.psi or 0.0)
        used = fresh if theta is None else {name: value.astype(np.float64) for name, value in theta.items()}
        batch = samples[first : first + size]
        x, y = batch.inputs(dynamics.network, np.float64), batch.targets(dynamics, np.float64)
        for name, angle in zip(CONVENTIONS, _angles(experiment, dynamics, used, x, y), strict=True):
            angles[name].append(angle)
    return angles


def _angles(
    experiment: Experiment, dynamics: Dynamics, theta: Theta, x: Array, y: Array
) -> tuple[float, float, float]:
    """Return the angle of one batch by each convention."""
    rates = experiment.rates(dynamics) if experiment.rule in ("cep", "cvf") else dict.fromkeys(theta, 0.0)
    rest = _first_phase(experiment, dynamics, theta, x)
    before = [moment.theta for moment in gradients(dynamics, theta, x, y, rest)]  # ∇_θ(t)

    moves = _second_phase(experiment, dynamics, theta, x, y, rest, rates)[0]
    theorem = _angle(moves, before, list(theta))

    moves, moved = _second_phase(experiment, dynamics, theta, x, y, rest, rates | {"b1": 0.0})
    weights = sorted(theta.keys() - {f"b{n}" for n in dynamics.network.layers})
    published = _angle(moves[1:], before[1:], weights)

    rest = _first_phase(experiment, dynamics, moved, x)
    after = [moment.theta for moment in gradients(dynamics, moved, x, y, rest)]
    return theorem, published, _angle(moves[1:], after[1:], weights)


def _first_phase(experiment: Experiment, dynamics: Dynamics, theta: Theta, x: Array) -> Relaxation:
    """Return the last K of the T steps, with their trajectory."""
    T, K = experiment.phases.free_steps, experiment.phases.nudged_steps
    first = relax(dynamics, theta, x, steps=max(T - K, 0), schedule=Synchronous())
    return relax(dynamics, theta, x, first.state, steps=K, schedule=Synchronous(), trajectory=True)


def _second_phase(
    experiment: Experiment,
    dynamics: Dynamics,
    theta: Theta,
    x: Array,
    y: Array,
    rest: Relaxation,
    rates: dict[str, float],
) -> tuple[list[Theta], Theta]:
    """Return Δ_θ(t) for t = 0…K−1, and θ at the end."""
    nudge, delta = Nudge(experiment.phases.beta, y), DELTAS[experiment.rule]
    instants = [*continual_phase(dynamics, theta, x, rest.state, nudge, rates, rest.steps, delta)]
    return [instant.delta for instant in instants], instants[-1].theta


def _angle(deltas: Sequence[Theta], nablas: Sequence[Theta], names: Sequence[str]) -> float:
    """Return the angle between Σ_t Δ_θ(t) and −Σ_t ∇_θ(t) of the named parameters as flat vectors."""
    delta, nabla = (
        np.concatenate([np.sum([theta[name] for theta in process], axis=0).ravel() for name in names])
        for process in (deltas, nablas)
    )
    return angle_between(delta, -nabla)
