"""How far do the phases of the preset conv converge, and what does it save that each sample stops by itself?

    python tools/conv_convergence.py > data/results/conv-convergence.txt

Two settings are compared: ``whole batch``, in which the batch stops when its slowest sample has converged and
the nudged phases take K = 8, and ``per sample``, that of the preset. For the weights after 400 batches of
training, and for those of ``eqprop_np/data/conv.npz``, a line has for each connection the cosine between the
gradient of 280 training images, shifted by up to one pixel, and their gradient with phases that converge to a
tolerance of 1e-6, and the processor's time of a batch relative to that of ``whole batch`` in turn.

Then follows how many of the test images change their class with batches of 1 in the place of 250 (the first
1500 images), and with a tolerance of 1e-3 and ten times T (all of them). It needs MNIST and some minutes.
"""

import time
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

import eqprop_np as eq
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.datasets import load
from eqprop_np.experiments.presets import EXPERIMENTS
from eqprop_np.samples import Samples

PRESET = EXPERIMENTS["conv"].override(workers=1)
DYNAMICS = PRESET.build((28, 28), 10)
PER_SAMPLE = PRESET.phases
WHOLE = replace(PER_SAMPLE, nudged_steps=8, schedule=eq.Alternating(omega=1.2, tol=0.03))
SETTINGS = {"whole batch": WHOLE, "per sample": PER_SAMPLE}
CONVERGED = replace(
    PER_SAMPLE, free_steps=800, nudged_steps=400,
    schedule=eq.Alternating(omega=1.2, tol=1e-6, nudged_tol=1e-6, per_sample=True),
)  # fmt: skip
TRAINED = Path(__file__).parents[1] / "eqprop_np" / "data" / "conv.npz"
WEIGHTS = ("w0-1", "w1-2", "w2-3")
Theta = dict[str, Any]


def early(samples: Samples) -> Theta:
    """Return θ after 400 batches of the preset, with the seed 0."""
    theta, rates = DYNAMICS.init(np.random.default_rng(0)), PRESET.rates(DYNAMICS)
    for k in range(400):
        update = gradient(theta, samples[np.arange(20 * k, 20 * k + 20)], PER_SAMPLE)
        theta = {name: theta[name] - rates[name] * update[name] for name in theta}
    return theta


def gradient(theta: Theta, batch: Samples, phases: eq.Phases) -> Theta:
    x, y = batch.inputs(DYNAMICS.network, np.float32), batch.targets(DYNAMICS, np.float32)
    return eq.ep(DYNAMICS, theta, x, y, phases).gradient


def compare(name: str, theta: Theta, samples: Samples) -> None:
    """Print the cosine for each connection and the time of each setting."""
    shift, rng = eq.random_shift(1), np.random.default_rng(5)
    sums: dict[str, Theta] = {setting: dict.fromkeys(WEIGHTS, 0.0) for setting in (*SETTINGS, "converged")}
    ratios: dict[str, list[float]] = {setting: [] for setting in SETTINGS}
    for k in range(14):
        batch = samples[20_000 + np.arange(20 * k, 20 * k + 20)]
        batch = Samples(shift(batch.x, rng), batch.y)
        times = {}
        for setting, phases in (*SETTINGS.items(), ("converged", CONVERGED)):
            start = time.process_time()
            found = gradient(theta, batch, phases)
            times[setting] = time.process_time() - start
            sums[setting] = {w: sums[setting][w] + found[w] for w in WEIGHTS}
        for setting in SETTINGS:
            ratios[setting].append(times[setting] / times["whole batch"])
    for setting in SETTINGS:
        angles = [eq.angle_between(sums[setting][w], sums["converged"][w]) for w in WEIGHTS]
        cosines = " ".join(f"{np.cos(np.radians(angle)):.3f}" for angle in angles)
        print(f"{name}, {setting}: cosines {cosines}, time {median(ratios[setting]):.2f}", flush=True)


def classes(theta: Theta, images: Any, phases: eq.Phases, batch: int = 250) -> Any:
    """Return the predicted classes, with the first phase of a training."""
    parts = [images[k : k + batch] for k in range(0, len(images), batch)]
    return np.concatenate([eq.predict(DYNAMICS, theta, part, phases=phases) for part in parts])


def main() -> None:
    """Print what the module's head says."""
    data = load("mnist")
    samples = Samples(data.train_images, data.train_labels)
    trained = checkpoint.load(TRAINED)[1].theta
    images, labels = data.test_images.astype(np.float32)[..., None] / 255, data.test_labels
    with threadpool_limits(1, "blas"):
        compare("after 400 batches", early(samples), samples)
        compare("trained", trained, samples)
        for setting, phases in SETTINGS.items():
            found = classes(trained, images, phases)
            single = classes(trained, images[:1500], phases, 1) != found[:1500]
            tighter = replace(phases.schedule, tol=1e-3)
            further = classes(trained, images, replace(phases, free_steps=280, schedule=tighter))
            errors = [100 * (predicted != labels).mean() for predicted in (found, further)]
            print(
                f"{setting}: {single.sum()} of 1500 classes change with batches of 1, "
                f"{(further != found).sum()} of 10000 if the states converge further; "
                f"test error {errors[0]:.2f} % and {errors[1]:.2f} %",
                flush=True,
            )


if __name__ == "__main__":
    main()
