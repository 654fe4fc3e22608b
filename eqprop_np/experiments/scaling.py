"""How the cost of training by EP grows: ``python -m eqprop_np.benchmark --scaling``.

Width, depth, batch size, image side, channels and the number of processes vary one at a time around p-1h and
conv. The images are those of the data, with pixels repeated or left out. The other settings are those of the
preset, but for T. It is so large that the first phase ends when the state has converged, so the number of its
steps is measured too. A power law is fitted to each quantity, a straight line on logarithmic axes.

The *work* is the number of multiplications in the matrix products of a batch with 9 steps in the first phase.
Time that grows faster than the work has one of two reasons: the state needs more steps, or the arrays leave
a cache.
"""

import time
import tracemalloc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, median
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from eqprop_np.activations import Array
from eqprop_np.experiments.presets import EXPERIMENTS, Experiment, spread
from eqprop_np.experiments.timing import by_rule, multiplications, processes
from eqprop_np.network import Network
from eqprop_np.plots import COLOURS
from eqprop_np.rules.phases import Phases
from eqprop_np.samples import Samples

IMAGE_SIDE = "image side"
STEPS = 9  # of the first phase, for the work: about those of both presets after the warm-up
LONGEST = 400  # T
WARM_UP = {"p-1h": 300, "conv": 20}  # batches, of which one takes 40 times as long in conv
BATCHES = {"p-1h": 60, "conv": 20}


class Variation(NamedTuple):
    """A setting that varies: its values, and how a value changes an experiment."""

    values: tuple[int, ...]
    change: Callable[[Experiment, int], Experiment]


def _hidden(experiment: Experiment, depth: int) -> Experiment:
    """Return p-1h, p-2h or p-3h with p-1h's schedule, because p-1h's rates and β do not train more layers."""
    return EXPERIMENTS[f"p-{depth}h"].override(schedule=experiment.phases.schedule)


def _convolutions(experiment: Experiment, depth: int) -> Experiment:
    """Add 3×3 convolutions of 64 channels without pooling before the output."""
    more = depth - 2
    return experiment.override(
        channels=(32, 64) + (64,) * more,
        kernel=(5, 5) + (3,) * more,
        pool=(2, 2) + (1,) * more,
        padding=(0, 0) + (1,) * more,
        learning_rates=spread(experiment.training.learning_rates, depth + 1),
    )


BATCH_SIZE = Variation((5, 10, 20, 40, 80), lambda e, n: e.override(batch_size=n))
WORKERS = Variation((1, 2), lambda e, n: e.override(workers=n))
VARIATIONS: dict[str, dict[str, Variation]] = {
    "p-1h": {
        "width": Variation((128, 256, 512, 1024, 2048), lambda e, n: e.override(hidden=(n,))),
        "depth": Variation((1, 2, 3), _hidden),
        "batch size": BATCH_SIZE,
        IMAGE_SIDE: Variation((14, 20, 28, 40, 56), lambda e, n: e),
        "workers": WORKERS,
    },
    "conv": {
        "channels": Variation((8, 16, 32, 64), lambda e, n: e.override(channels=(n, 2 * n))),
        "depth": Variation((2, 3, 4), _convolutions),
        "batch size": BATCH_SIZE,
        IMAGE_SIDE: Variation((16, 20, 28, 40, 56), lambda e, n: e),
        "workers": WORKERS,
    },
}


@dataclass(frozen=True)
class Point:
    """What was measured at a value of the setting.

    Attributes
    ----------
    value : int
        The value.
    seconds : float
        The time of training per sample. It is the processor's, unless several processes share a batch.
    memory : float
        The largest memory that θ and the arrays of a batch take, in bytes per sample. It is that of the first
        process, which also sends θ and receives gradients, times the number of processes.
    work : int
        The multiplications per sample, with 9 steps in the first phase.
    steps : float
        The mean number of steps of the first phase, until its last sample has converged.
    """

    value: int
    seconds: float
    memory: float
    work: int
    steps: float


QUANTITIES = ("seconds", "memory", "work", "steps")
Points = Mapping[str, Sequence[Point]]
"""From the name of a setting to its points."""


def measure_point(
    name: str, variable: str, value: int, samples: Samples, batches: int | None, warm_up: int | None
) -> Point:
    """Train a preset with one value of a setting, and return what it costs.

    Parameters
    ----------
    name, variable : str
        The preset and the setting.
    value : int
    samples : Samples
        Square images with labels.
    batches, warm_up : int, optional
        How many batches are timed, and trained before; those of the preset by default.
    """
    warm_up = WARM_UP[name] if warm_up is None else warm_up
    batches = BATCHES[name] if batches is None else batches
    base = EXPERIMENTS[name].override(workers=1)
    experiment = VARIATIONS[name][variable].change(base, value).override(free_steps=LONGEST)
    size, workers = experiment.training.batch_size, experiment.training.workers
    chosen = samples[np.arange((1 + warm_up + batches) * size) % len(samples)]
    if variable == IMAGE_SIDE:
        chosen = Samples(resized(chosen.x, value), chosen.y)
    clock = time.process_time if workers == 1 else time.perf_counter
    dynamics = experiment.build(chosen.x.shape[1:], int(samples.y.max()) + 1)
    with processes(experiment) as shared:
        tracemalloc.start()  # NumPy reports its arrays to it
        theta = dynamics.init(np.random.default_rng(0))
        tracemalloc.reset_peak()  # the random numbers were double
        train = by_rule(experiment.run(dynamics, shared), theta, chosen)
        train(range(1))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        train(range(1, 1 + warm_up))
        times, steps = [], []
        for number in range(1 + warm_up, 1 + warm_up + batches):
            start = clock()
            steps += train(range(number, number + 1))
            times.append(clock() - start)
    return Point(
        value=value,
        seconds=median(times) / size,
        memory=peak * workers / size,
        work=multiplications_of_a_batch(dynamics.network, experiment.phases),
        steps=fmean(steps),
    )


def resized(images: Array, side: int) -> Array:
    """Return square images (N, H, H) with another side: pixels are repeated or left out."""
    places = np.arange(side) * images.shape[1] // side
    return images[:, places][:, :, places]


def multiplications_of_a_batch(network: Network, phases: Phases) -> int:
    """Return the multiplications of EP for one sample of a batch, with 9 steps in the first phase.

    A nudged phase has two drives per step and connection. The contrast computes the gradient of a weight of
    the input once, and that of another weight at two states.
    """
    inputs, recurrent = (
        sum(c.multiplications for c in group) for group in (network.inputs, network.recurrent)
    )
    nudged = (2 if phases.estimate == "centered" else 1) * phases.schedule.steps(phases.nudged_steps)
    return multiplications(network, STEPS) + 2 * nudged * recurrent + inputs + 2 * recurrent


def exponents(points: Sequence[Point]) -> dict[str, float]:
    """Return the exponents of the power laws that fit best on logarithmic axes, with two decimals."""
    logarithms = np.log([[getattr(p, name) for name in ("value", *QUANTITIES)] for p in points])
    slopes, _ = np.polyfit(logarithms[:, 0], logarithms[:, 1:], 1)
    rounded = [round(float(slope), 2) + 0.0 for slope in slopes]  # + 0.0 turns −0.0 into 0.0
    return dict(zip(QUANTITIES, rounded, strict=True))


# ---- the figure

LINES = {  # the label, the colour and the line of each quantity
    "seconds": ("time per sample", COLOURS[0], "o-"),
    "work": ("multiplications per sample", COLOURS[7], "--"),
    "steps": ("steps of the first phase", COLOURS[2], "^:"),
    "memory": ("peak memory per sample", COLOURS[1], "s-"),
}


def draw_scaling(measured: Mapping[str, Points]) -> Figure:
    """Draw each quantity relative to its first point, on logarithmic axes.

    Parameters
    ----------
    measured : dict
        From the name of a preset to its points.

    Returns
    -------
    Figure
        One row for each preset, with a panel for each setting. The panel says the exponents.
    """
    columns = max(map(len, measured.values()))
    figure = Figure(figsize=(2.2 * columns + 0.6, 2.7 * len(measured) + 0.5), layout="constrained")
    grid = figure.subplots(len(measured), columns, squeeze=False, sharey="row")
    for row, (name, settings) in zip(grid, measured.items(), strict=True):
        for axes, (variable, points) in zip(row, settings.items(), strict=True):
            _draw_panel(axes, points)
            axes.set(xlabel=variable)
        row[0].set_ylabel(f"{name}: relative")
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=len(LINES), frameon=False,
        title="above each panel: the exponents of the power laws",
    )  # fmt: skip
    return figure


def _draw_panel(axes: Axes, points: Sequence[Point]) -> None:
    values, powers = [point.value for point in points], exponents(points)
    for name, (label, colour, line) in LINES.items():
        first, *_ = quantities = [getattr(point, name) for point in points]
        axes.plot(values, [q / first for q in quantities], line, color=colour, label=label, ms=4, mfc="none")
    for k, (name, (_, colour, _)) in enumerate(LINES.items()):
        at = (k + 0.5) / len(LINES)
        axes.text(at, 1.03, f"{powers[name]:.2f}", color=colour, ha="center", fontsize=9,
                  transform=axes.transAxes)  # fmt: skip
    axes.set(xscale="log", yscale="log")
    axes.set_xticks(values, map(str, values))
    axes.xaxis.set_minor_locator(NullLocator())
