"""Why does C-VF fail at ψ ≥ 135° in the published Fig. 1(c), and does the error follow the angle?

    python tools/cvf_failure.py variants --batches 3000
    python tools/cvf_failure.py ranks --runs runs/paper

``variants`` trains C-VF at ψ = 180° for some thousand batches with one setting changed at a time: two hidden
layers, another scale of the initial weights, the flipped signs on the forward instead of the backward
weights, other T and K, the sign of β held, and the bias of the first hidden layer held. A line gives the test
error at equally spaced moments, the share of the test images that got the most frequent prediction at these
moments, and the angle between forward and backward weights before and after. Several moments are needed
because the network can predict one class for nearly all images, and recover some hundred batches later.

``ranks`` computes Spearman's rank correlation of the final test error of the runs of a sweep
(`eqprop_np.sweep`) with three angles: that of the update to BPTT before training, the same after the first
epoch, and that of the weights after the first epoch. The interval contains 95 % of the bootstrap. Runs with
fewer epochs than another run of their preset are left out. The second angle needs the parameters after the
first epoch, so this epoch is trained again, with the same result.
"""

import argparse
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
from scipy.stats import bootstrap, spearmanr

import eqprop_np as eq
from eqprop_np.experiments.angles import update_angles
from eqprop_np.experiments.configuration import Configuration
from eqprop_np.experiments.datasets import Dataset, load
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment
from eqprop_np.figures import CONVENTION, FAMILIES
from eqprop_np.training import train

BATCH = 20
TEST = 1000  # number of test images for a variant
MOMENTS = 8  # number of tests of a variant

# ---- variants of C-VF

VARIANTS: dict[str, dict[str, Any]] = {  # what differs from the preset cvf-1h
    "as the preset": {},
    "two hidden layers": {"preset": "cvf-2h"},
    "initial weights × 0.5": {"scale": 0.5},
    "initial weights × 2": {"scale": 2.0},
    "two hidden layers, weights × 0.5": {"preset": "cvf-2h", "scale": 0.5},
    "two hidden layers, weights × 2": {"preset": "cvf-2h", "scale": 2.0},
    "flips on the forward weights": {"flip_forward": True},
    "T = 20": {"free_steps": 20},
    "T = 100": {"free_steps": 100},
    "K = 5": {"nudged_steps": 5},
    "K = 30": {"nudged_steps": 30},
    "β always positive": {"estimate": "one-sided"},
    "β always negative": {"estimate": "one-sided", "beta": -0.2},
    "b1 held": {"hold": True},
}


def begin_variant(
    data: Dataset,
    psi: float,
    seed: int = 0,
    preset: str = "cvf-1h",
    scale: float = 1.0,
    flip_forward: bool = False,
    hold: bool = False,
    **settings: Any,
) -> tuple[Experiment, eq.DiscreteTime, eq.SGD, eq.Progress]:
    """Return C-VF with changed settings before its first batch.

    Parameters
    ----------
    data : Dataset
    psi : float
        The angle between forward and backward weights.
    scale : float
        Factor on the initial weights and biases.
    flip_forward : bool
        Flip the signs of the forward weights instead of the backward ones.
    hold : bool
        Do not train the bias of the first hidden layer.
    **settings : Any
        Settings of the preset, as in `Experiment.override`.
    """
    experiment = EXPERIMENTS[preset].override(psi=psi, **settings)
    dynamics = experiment.build(data.train_images.shape[1:], data.classes)
    optimizer = eq.SGD(experiment.rates(dynamics) | ({"b1": 0.0} if hold else {}))
    progress = eq.Progress.begin(dynamics, optimizer, seed, psi=psi)
    theta = {name: np.float32(scale) * value for name, value in progress.theta.items()}
    if flip_forward:
        for c in dynamics.network.recurrent:
            back = dynamics.network.backward_name(c)
            theta[c.name], theta[back] = theta[back], theta[c.name]
    progress.theta = theta
    return experiment, dynamics, optimizer, progress


def train_variant(data: Dataset, batches: int, psi: float, seed: int = 0, **changed: Any) -> dict[str, Any]:
    """Train a variant for some batches, each sample at most once, and return its errors and angles.

    The parameters are those of `begin_variant`.
    """
    experiment, dynamics, optimizer, progress = begin_variant(data, psi, seed, **changed)
    angles = [eq.weight_angle(dynamics.network, progress.theta)]
    order = np.random.default_rng(seed).permutation(len(data.train_labels))[: BATCH * batches]
    x, y = data.test_images[:TEST], data.test_labels[:TEST]
    errors, shares = [], []

    def test(progress: eq.Progress) -> None:
        if progress.batch % max(batches // MOMENTS, 1) == 0:
            predictions = eq.predict(dynamics, progress.theta, x, experiment.phases)
            errors.append(100 * float(np.mean(predictions != y)))
            shares.append(100 * np.bincount(predictions).max() / len(y))

    eq.fit(
        dynamics,
        data.train_images[order],
        np.eye(data.classes)[data.train_labels[order]],
        phases=experiment.phases,
        rule=eq.cvf,
        optimizer=optimizer,
        epochs=1,
        batch_size=BATCH,
        progress=progress,
        on_batch=test,
        show_progress=False,
    )
    angles.append(eq.weight_angle(dynamics.network, progress.theta))
    return {
        "test_errors": errors,
        "shares": shares,
        "train_error": progress.history["train_error"][0],
        "angles": angles,
    }


def print_variants(options: argparse.Namespace) -> None:
    """Print a line for each chosen variant."""
    data = load(options.data)
    for name in options.only or VARIANTS:
        found = train_variant(data, options.batches, options.psi, options.seed, **VARIANTS[name])
        errors, shares = (
            " ".join(f"{value:.0f}" for value in found[key]) for key in ("test_errors", "shares")
        )
        before, after = found["angles"]
        print(
            f"{name}: test errors {errors} %, largest class {shares} %, train error "
            f"{found['train_error']:.1f} %, angle of the weights {before:.0f}° → {after:.0f}°",
            flush=True,
        )


# ---- rank correlations


def rank_correlation(x: Sequence[float], y: Sequence[float], resamples: int = 1000) -> tuple[float, ...]:
    """Return Spearman's rank correlation of two sequences, and the ends of its bootstrap interval of 95 %."""
    found = bootstrap(
        (x, y),
        lambda a, b: spearmanr(a, b).statistic,
        paired=True,
        vectorized=False,
        n_resamples=resamples,
        method="percentile",
        random_state=0,
    )
    return spearmanr(x, y).statistic, *found.confidence_interval


def read_runs(directory: Path, after: bool = True) -> list[dict[str, Any]]:
    """Return for each run of a sweep its preset, ψ, final test error and the angles.

    Runs with fewer epochs than another run of their preset are left out. With ``after`` the first epoch is
    trained again for the angle of the update after it.
    """
    records = [json.loads(path.read_text("utf-8")) for path in sorted(directory.glob("*-seed*.json"))]
    runs = []
    for record in records:
        configuration = Configuration.from_json(record["configuration"])
        experiment = configuration.experiment
        longest = max(other["epochs"] for other in records if other["preset"] == experiment.name)
        if experiment.name not in FAMILIES or record["epochs"] < longest:
            continue
        name = f"{experiment.name}-{experiment.psi or 0.0:g}deg" if experiment.untied else experiment.name
        angles = json.loads((directory / "angles" / f"{name}.json").read_text("utf-8"))
        first = record["history"][0]
        runs.append(
            {
                "preset": experiment.name,
                "psi": experiment.psi or 0.0,
                "test_error": fmean(epoch["test_error"] for epoch in record["history"][-5:]),
                "before training": angles[CONVENTION]["mean"],
                "after the first epoch": angle_after(configuration) if after else None,
                "of the weights after the first epoch": first.get("weight_angle", first.get("angle")),
            }
        )
    return runs


def angle_after(configuration: Configuration, batches: int = 20) -> float:
    """Return the angle of the update to BPTT after the first epoch of a run, which is trained again."""
    data = load(configuration.source)
    training, _ = configuration.samples(data)
    experiment = configuration.experiment.override(epochs=1)
    dynamics = experiment.build(configuration.image, configuration.classes)
    run = experiment.run(dynamics)
    progress = eq.Progress.begin(dynamics, run.optimizer, configuration.seed, psi=experiment.psi or 0.0)
    train(run, training, None, progress)
    return fmean(update_angles(experiment, dynamics, training, batches, progress.theta)[CONVENTION])


def groups(runs: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, list[Mapping[str, Any]]]]:
    """Yield sets of runs and their names: all, one point per rule, and the runs of each preset."""
    yield "all runs", list(runs)
    yield "across rules (ψ = 0)", [run for run in runs if run["psi"] == 0]
    for preset, (label, *_) in FAMILIES.items():
        yield f"within {label}", [run for run in runs if run["preset"] == preset]


def print_ranks(options: argparse.Namespace) -> None:
    """Print the rank correlations of each set of at least five runs in which the angle differs."""
    runs = read_runs(options.runs, not options.no_retraining)
    for name, group in groups(runs):
        for angle in ("before training", "after the first epoch", "of the weights after the first epoch"):
            x, y = ([run[key] for run in group if run[angle] is not None] for key in (angle, "test_error"))
            if len(x) >= 5 and min(x) < max(x):
                r, low, high = rank_correlation(x, y)
                print(f"{name}, {len(x)} runs, angle {angle}: {r:.2f} [{low:.2f}, {high:.2f}]", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the two investigations."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    commands = parser.add_subparsers(required=True)
    variants = commands.add_parser("variants", help="train variants of C-VF")
    variants.add_argument("--batches", type=int, default=3000, metavar="N")
    variants.add_argument("--psi", type=float, default=180.0, metavar="DEGREES")
    variants.add_argument("--seed", type=int, default=0, metavar="S")
    variants.add_argument("--data", default="auto", help="data set, as in eqprop_np.mnist")
    variants.add_argument("--only", nargs="+", choices=VARIANTS, metavar="NAME", help="some variants")
    variants.set_defaults(run=print_variants)
    ranks = commands.add_parser("ranks", help="rank correlation of the error with the angles")
    ranks.add_argument("--runs", type=Path, required=True, metavar="DIR", help="directory of the sweep")
    ranks.add_argument("--no-retraining", action="store_true", help="leave out what needs the first epoch")
    ranks.set_defaults(run=print_ranks)
    options = parser.parse_args(arguments)
    options.run(options)


if __name__ == "__main__":
    main()
