"""Draw the figures of the abstract, the estimators beyond it, and what a trained network has learned.

The commands are ``python -m eqprop_np.figures fig1a``, ``fig1b``, ``fig1c``, ``estimators``, ``settle``,
``filters`` and ``errors``.

- Fig. 1(a) shows the free phase unrolled with BPTT's gradients, and the nudged phase with EP's updates.
- Fig. 1(b) compares Δ_θ(t) and −∇_θ(t) for some synapses in standard EP, continual EP and a discrete-time
  CNN.
- Fig. 1(c) plots the test error after training against the angle between updates and gradients before
  training. Its points are the recorded runs of `eqprop_np.sweep`, and the published ones in grey.
- The figure of estimators plots the error of every estimator of the gradient against its cost.
- The animation ``settle`` shows both phases of a small network (`eqprop_np.animation`).
- The filters are those of the first layer of a CNN, with the steady states of three samples.
- The errors are those of a checkpoint on its test set: the confusion matrix and the worst errors.

The colours are those of `eqprop_np.plots.COLOURS`, which colour-blind readers can distinguish.
"""

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, NamedTuple

import numpy as np
from matplotlib import style
from matplotlib.animation import FuncAnimation
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator
from matplotlib.transforms import Bbox

from eqprop_np.activations import Array
from eqprop_np.animation import draw_settling, require_gif, save_animation, small_network
from eqprop_np.dynamics import Dynamics
from eqprop_np.experiments.checkpoint import checkpoint_of, load
from eqprop_np.experiments.console import Parser, command, whole
from eqprop_np.experiments.datasets import load as load_data
from eqprop_np.experiments.estimators import Measurement
from eqprop_np.experiments.systems import SYSTEMS, estimators_of
from eqprop_np.files import read_text, replacing
from eqprop_np.network import Theta
from eqprop_np.plots import COLOURS, plot_confusion_matrix, plot_worst_errors
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.samples import Samples
from eqprop_np.theorem import NotConverged, first_phase, gradients, updates
from eqprop_np.training import outputs

GREY = "0.45"
DATA = Path(__file__).resolve().parent / "data"  # installed with the package
STYLE: dict[str, Any] = {
    "font.size": 11,
    "mathtext.fontset": "cm",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "text.usetex": False,  # the user's matplotlibrc may ask for LaTeX, which may be missing
}


# ---- Fig. 1(a)


def draw_fig1a() -> Figure:
    """Draw Fig. 1(a), in which an update and the gradient that it equals have the same colour.

    Returns
    -------
    Figure
        BPTT's gradients are on the left and EP's updates on the right.
    """
    figure = Figure(figsize=(7, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    _draw_gradients(left)
    _draw_updates(right)
    for axes, begin in ((left, -0.35), (right, -0.9)):
        axes.set(xlim=(begin, begin + 4.3), ylim=(-1.3, 1.75), aspect="equal")
        axes.axis("off")
    figure.supxlabel(
        r"same colour:  $\Delta_s(t) = -\nabla_{\!s}(t)$,   $\Delta_\theta(t) = -\nabla_{\!\theta}(t)$"
        r"   as $\beta \to 0$ and $\eta/\beta \to 0$",
        fontsize=11,
    )
    return figure


def _draw_gradients(axes: Axes) -> None:
    """Draw Eq. (6): the last three steps of the free phase and the gradients that BPTT computes for them."""
    axes.set_title("first phase, and BPTT", fontsize=11)
    names = [r"T\!-\!3", r"T\!-\!2", r"T\!-\!1", "T"]
    for x, name in enumerate(names):
        t = 3 - x
        colour = COLOURS[t] if t < 3 else GREY
        _node(axes, (x, 0), f"$s_{{{name}}}$", colour)
        _arrow(axes, (x, 0), (x + 1, 0))
        if t < 3:
            _node(axes, (x, 1), rf"$\theta_{{{name}}}$", colour)
            _arrow(axes, (x, 1), (x, 0))
            _label(axes, (x, 1.5), rf"$\nabla_{{\!\theta}}({t})$", colour)
            _label(axes, (x, -0.52), rf"$\nabla_{{\!s}}({t})$", colour)
            _arrow(axes, (x - 0.33, -0.52), (x - 0.67, -0.52), colour, shrink=0)
    _label(axes, (3.85, 0), r"$\ell$", "black")


def _draw_updates(axes: Axes) -> None:
    """Draw Eq. (7): the first three steps of the nudged phase, in which s moves and, in C-EP, θ too."""
    axes.set_title("second phase, and EP", fontsize=11)
    for x in range(4):
        _node(axes, (x, 0), f"$s_{x}$", GREY)
        if x:
            _arrow(axes, (x, -1.2), (x, 0))
        _node(axes, (x, 1), rf"$\theta_{x}$", GREY)
    for t in range(3):
        colour = COLOURS[t]
        _arrow(axes, (t, 1), (t + 1, 0))
        _arrow(axes, (t, 0), (t + 1, 0), colour, width=2.2)
        _arrow(axes, (t, 1), (t + 1, 1), colour, width=2.2)
        _label(axes, (t + 0.5, 1.5), rf"$\Delta_\theta({t})$", colour)
        _label(axes, (t + 0.5, -0.52), rf"$\Delta_s({t})$", colour)
    _label(axes, (-0.55, 0), r"$s_*=$", "black")
    _label(axes, (0.35, -1.05), r"$-\beta\,\partial\ell/\partial s$", "black")


def _node(axes: Axes, at: tuple[float, float], text: str, colour: str) -> None:
    axes.plot(*at, "o", ms=27, mfc="white", mec=colour, mew=1.6, zorder=3)
    axes.text(*at, text, ha="center", va="center", zorder=4)


def _arrow(
    axes: Axes,
    start: tuple[float, float],
    end: tuple[float, float],
    colour: str = GREY,
    width: float = 1.0,
    shrink: float = 14,
) -> None:
    style = {"arrowstyle": "-|>", "color": colour, "lw": width, "shrinkA": shrink, "shrinkB": shrink}
    axes.annotate("", end, start, arrowprops=style, annotation_clip=False)


def _label(axes: Axes, at: tuple[float, float], text: str, colour: str) -> None:
    axes.text(*at, text, color=colour, ha="center", va="center", fontsize=12)


# ---- Fig. 1(b)


class Panel(NamedTuple):
    """One panel of Fig. 1(b).

    Attributes
    ----------
    title : str
        Title of the panel.
    system : str
        A name in `eqprop_np.experiments.systems.SYSTEMS`.
    continual : bool
        Whether θ moves during the nudged phase.
    """

    title: str
    system: str
    continual: bool


PAPER = (
    Panel("standard EP", "toy", False),
    Panel("continual EP", "toy", True),
    Panel("discrete-time CNN", "conv", False),
)


def draw_fig1b(panels: Sequence[Panel] = PAPER, seed: int = 0) -> Figure:
    """Draw Fig. 1(b): Δ_θ(t) as plain and −∇_θ(t) as dashed lines, with one colour per synapse.

    Parameters
    ----------
    panels : sequence of Panel
        The panels from left to right. The default is the paper's three.
    seed : int, default 0
        Seed of θ and the data.

    Returns
    -------
    Figure
        Two synapses of each connection are shown in each panel.

    Raises
    ------
    NotConverged
        If a free phase does not reach its steady state.
    """
    figure = Figure(figsize=(7, 2.7), layout="constrained")
    for axes, panel in zip(
        figure.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True
    ):
        deltas, nablas = _processes(panel, seed)
        for colour, delta, nabla in zip(COLOURS, deltas, nablas, strict=False):
            axes.plot(delta, color=colour, lw=3, alpha=0.4, solid_capstyle="butt")
            axes.plot(nabla, "--", color=colour, lw=1.3)
        axes.axhline(0, color="0.8", lw=0.8, zorder=0)
        axes.set(xlabel="$t$", xlim=(0, len(deltas[0]) - 1), ylim=(-1.3, 1.3), yticks=(-1, 0, 1))
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.set_title(panel.title, fontsize=11)
    figure.axes[0].set_ylabel("update, relative")
    lines = [Line2D([], [], color="0.2", lw=3, alpha=0.4), Line2D([], [], color="0.2", lw=1.3, ls="--")]
    names = [r"$\Delta_\theta(t)$, EP", r"$-\nabla_{\!\theta}(t)$, BPTT"]
    figure.legend(lines, names, loc="outside lower center", ncols=2, frameon=False)
    return figure


def _processes(panel: Panel, seed: int) -> tuple[list[Array], list[Array]]:
    """Return Δ_θ and −∇_θ, each a list of arrays of shape (K,), for two synapses of each connection.

    The two synapses have the largest and the smallest Σ_t ∇_θ(t). The choice does not depend on Δ_θ. All
    values are divided by the largest |∇_θ(t)| of all connections into the same layer.
    """
    system = SYSTEMS[panel.system]
    dynamics, (theta, x, y) = system.dynamics, system.draw(seed)
    rest = first_phase(dynamics, theta, x, system.steps)
    connections = dynamics.network.connections
    totals: dict[str, Any] = {c.name: 0 for c in connections}
    largest = {c.post: 0.0 for c in connections}
    for nabla in gradients(dynamics, theta, x, y, rest):
        for c in connections:
            totals[c.name] = totals[c.name] - nabla.theta[c.name]
            largest[c.post] = max(largest[c.post], np.abs(nabla.theta[c.name]).max())
    chosen = [(c, i) for c in connections for i in (totals[c.name].argmax(), totals[c.name].argmin())]
    eta = system.eta if panel.continual else 0.0
    processes = (
        (1, updates(dynamics, theta, x, y, rest, system.beta, eta=eta)),
        (-1, gradients(dynamics, theta, x, y, rest)),
    )
    deltas, nablas = (
        np.array([[sign * m.theta[c.name].flat[i] / largest[c.post] for c, i in chosen] for m in process]).T
        for sign, process in processes
    )
    return list(deltas), list(nablas)


# ---- Fig. 1(c)


FAMILIES = {  # the preset's name in the paper, its marker and its colour
    "p-1h": ("EP-1h", "s", COLOURS[0]),
    "p-2h": ("EP-2h", "D", COLOURS[0]),
    "cep-1h": ("C-EP-1h", "s", COLOURS[1]),
    "cep-2h": ("C-EP-2h", "D", COLOURS[1]),
    "cvf-1h": ("C-VF-1h", "o", COLOURS[2]),
    "cvf-2h": ("C-VF-2h", "^", COLOURS[3]),
}
RECORDED = DATA / "fig1c"
CONVENTION = "published"  # of the angles, see `eqprop_np.experiments.angles`


def read_sweep(directory: Path) -> list[dict[str, Any]]:
    """Read the points of a sweep from the ``summary.json`` in its directory.

    Parameters
    ----------
    directory : Path
        Directory of the sweep.

    Returns
    -------
    list of dict
        The points of the presets of ``FAMILIES``, as `eqprop_np.sweep.sweep` writes them.

    Raises
    ------
    ValueError
        If the file is missing or unreadable, or has no such points with their angles.
    """
    path = directory / "summary.json"
    try:
        points = json.loads(read_text(path))["points"]
        found = [point for point in points if point["preset"] in FAMILIES]
        for group in _groups(found):
            _place(group)
        if found:
            return found
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pass
    raise ValueError(
        f"{path} is not the summary of a sweep of {', '.join(FAMILIES)}, with the angles of its points: "
        "run python -m eqprop_np.sweep first"
    )


def published_points() -> list[dict[str, Any]]:
    """Return the points of the published Fig. 1(c), with the spread of the test error where it is known."""
    content: dict[str, list[dict[str, Any]]] = json.loads((RECORDED / "published.json").read_text("utf-8"))
    return content["points"]


def draw_fig1c(points: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw Fig. 1(c): the test error after training against the angle to BPTT's gradients before it.

    A second panel has ψ, the angle between forward and backward weights, instead. The published points are
    grey.

    Parameters
    ----------
    points : sequence of dict
        The points as `read_sweep` returns them. Points that differ only in their seeds are drawn as one
        marker at their mean. Its bars are one standard deviation: of the error over the seeds, and of the
        angle over batches with fresh weights.

    Returns
    -------
    Figure
        One curve per preset and number of epochs in the first panel, and one for each rule with a ψ in the
        second. Its markers are hollow if the preset has points with more epochs.
    """
    figure = Figure(figsize=(9, 4), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for preset, (label, marker, colour) in FAMILIES.items():
        found = [point for point in points if point["preset"] == preset]
        if not found:
            continue
        published = [point for point in published_points() if point["preset"] == preset]
        grey = {"fmt": f"{marker}:", "color": "0.7", "ms": 5, "lw": 1, "zorder": 0}
        old = np.transpose([(p["psi"], p["angle"], p["test_error"], p.get("spread", 0)) for p in published])
        left.errorbar(old[1], old[2], old[3], **grey)
        if len(published) > 1:
            right.errorbar(old[0], old[2], old[3], **grey)
        numbers = sorted({point["epochs"] for point in found}, reverse=True)
        for epochs in numbers:
            groups = _groups([point for point in found if point["epochs"] == epochs])
            psi, angle, spread, error, deviation = np.transpose([_place(group) for group in groups])
            style = {"fmt": f"{marker}:", "color": colour, "ms": 6, "lw": 1}
            style |= {"label": f"{label}, {epochs} epochs"}
            style |= {"mfc": colour if epochs == numbers[0] else "white"}
            left.errorbar(angle, error, deviation, spread, **style)
            if len(published) > 1:
                right.errorbar(psi, error, deviation, **style)
    left.set(xlabel="angle to BPTT's gradients before training (°)", ylabel="test error (%)")
    left.set(yscale="log", ylim=(1.5, 130))
    right.set(xlabel=r"initial angle $\psi$ of the weights (°)", xticks=range(0, 181, 45))
    left.yaxis.set_major_locator(FixedLocator([2, 5, 10, 20, 50, 100]))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_locator(NullLocator())
    grey_point = Line2D([], [], color="0.7", marker="o", ls=":", label="published")
    left.legend(
        handles=[*left.get_legend_handles_labels()[0], grey_point],
        frameon=False,
        loc="upper left",
        fontsize=9,
    )
    return figure


def _groups(points: Sequence[Mapping[str, Any]]) -> list[list[Mapping[str, Any]]]:
    """Return the points of each preset and ψ, which differ in their seeds, in the order of ψ."""
    keys = sorted({(point["preset"], point["psi"]) for point in points})
    return [[point for point in points if (point["preset"], point["psi"]) == key] for key in keys]


def _place(points: Sequence[Mapping[str, Any]]) -> tuple[float, ...]:
    """Return ψ, the angle to BPTT and its spread, and the test error and its spread over the seeds."""
    errors = [point["test_error"] for point in points]
    angle = points[0]["angles"][CONVENTION]
    spread = stdev(errors) if len(errors) > 1 else 0.0
    return points[0]["psi"], angle["mean"], angle["std"], fmean(errors), spread


# ---- the estimators


MARKS = {  # the marker and the colour of each estimator
    "one-sided EP": ("o", COLOURS[0]),
    "random-sign EP": ("D", COLOURS[0]),
    "centred EP": ("s", COLOURS[0]),
    "holomorphic EP": ("^", COLOURS[2]),
    "C-EP": ("v", COLOURS[4]),
    "VF": ("<", COLOURS[3]),
    "C-VF": (">", COLOURS[4]),
    "AsymEP": ("P", COLOURS[1]),
    "BPTT": ("X", COLOURS[6]),
    "implicit": ("*", COLOURS[6]),
}
ESTIMATOR_PANELS = {  # the systems and the titles of their panels
    "chain": "tied weights, discrete time",
    "chain-real": "tied weights, real time",
    "chain-untied": "untied weights, discrete time",
    "chain-real-untied": "untied weights, real time",
}
SMALLEST = 1e-9
"""Smaller errors, as that of the implicit gradient, which is 0, are drawn here."""


class Point(NamedTuple):
    """A mark of the figure of estimators.

    Attributes
    ----------
    estimator : str
        A name in ``MARKS``.
    label : str
        What distinguishes the mark from others of the same estimator; may be empty.
    drives : int
        Its cost.
    error : float
        Its error relative to the exact gradient.
    """

    estimator: str
    label: str
    drives: int
    error: float


def estimator_points(measurements: Mapping[float, Measurement]) -> list[Point]:
    """Return the marks of one system.

    Parameters
    ----------
    measurements : dict
        From ψ to the measured estimators, as `eqprop_np.experiments.systems.estimators_of` returns them.

    Returns
    -------
    list of Point
        With several ψ, BPTT and the implicit gradient are taken from ψ = 90° only, because they do not
        depend much on it.
    """
    several = len(measurements) > 1
    points: list[Point] = []
    for psi, measurement in measurements.items():
        for record in measurement.records:
            name, _, detail = record.estimator.partition(", ")
            if name in ("BPTT", "implicit"):
                if several and psi != 90:
                    continue
                label = record.setting
            elif several:
                label = f"ψ = {psi:g}°"
            else:
                label = record.setting.split(", ")[0] if name == "C-EP" else detail
            points.append(
                Point(name, label.replace(" = ", "=").replace("e-0", "e-"), record.drives, record.error)
            )
    return points


def draw_estimators(systems: Mapping[str, Mapping[float, Measurement]]) -> Figure:
    """Draw the error of every estimator against its cost, on logarithmic axes.

    Parameters
    ----------
    systems : dict
        From the title of a panel to the measured estimators of its system for each ψ.

    Returns
    -------
    Figure
        A panel per system in two columns, with one mark for each estimator and setting.
    """
    rows = -(-len(systems) // 2)
    figure = Figure(figsize=(10, 0.7 + 3.3 * rows), layout="constrained")
    grid = figure.subplots(rows, 2, squeeze=False, sharex=True, sharey=True)
    panels = list(zip(grid.flat, systems.items(), strict=False))
    shown: set[str] = set()
    for axes, (title, measurements) in panels:
        points = estimator_points(measurements)
        shown |= {point.estimator for point in points}
        for point in points:
            marker, colour = MARKS[point.estimator]
            at = (point.drives, max(point.error, SMALLEST))
            axes.plot(*at, marker, color=colour, mfc="none", mew=1.4, ms=8, clip_on=False)
        axes.set(xscale="log", yscale="log", xlim=(8, 9000), ylim=(SMALLEST, 10))
        axes.set_yticks([10.0**power for power in (0, -2, -4, -6, -8)])
        axes.yaxis.set_minor_locator(NullLocator())
        axes.set_title(title, fontsize=11)
        axes.grid(color="0.92", lw=0.8)
        note = f"on the axis: below {SMALLEST:.0e}".replace("e-0", "e-")
        axes.text(0.02, 0.03, note, fontsize=8, color=GREY, transform=axes.transAxes)
    for axes in grid.flat[len(panels) :]:
        axes.axis("off")
    for axes in grid[-1]:
        axes.set_xlabel("cost: drives after the first phase")
    for axes in grid[:, 0]:
        axes.set_ylabel("error, relative to the exact gradient")
    names = [name for name in MARKS if name in shown]
    looks = [MARKS[name] for name in names]
    handles = [Line2D([], [], ls="", marker=m, color=c, mfc="none", mew=1.4, ms=8) for m, c in looks]
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=10)
    figure.draw_without_rendering()  # the labels' places depend on the layout
    figure.set_layout_engine("none")
    for axes, (_, measurements) in panels:
        _label_points(figure, axes, estimator_points(measurements))
    return figure


def _label_points(figure: Figure, axes: Axes, points: Sequence[Point]) -> None:
    """Write each label beside its mark, where it covers neither another label nor a mark."""
    scale = figure.dpi / 72
    centres = [axes.transData.transform((p.drives, max(p.error, SMALLEST))) for p in points]
    taken = [Bbox.from_bounds(x - 5 * scale, y - 5 * scale, 10 * scale, 10 * scale) for x, y in centres]
    for point, (x, y) in zip(points, centres, strict=True):
        if not point.label:
            continue
        text = axes.text(0, 0, point.label, fontsize=8)
        box = text.get_window_extent()
        text.remove()
        for radius, angle in _around():
            dx, dy = radius * np.cos(angle), radius * np.sin(angle)
            left = x + dx * scale - box.width * (1 - np.cos(angle)) / 2
            place = Bbox.from_bounds(left, y + dy * scale - box.height / 2, box.width, box.height)
            frame = axes.bbox
            inside = frame.x0 <= place.x0 and place.x1 <= frame.x1
            inside &= frame.y0 + 3 * scale <= place.y0 and place.y1 <= frame.y1
            if inside and not place.padded(1.5).count_overlaps(taken):
                break
        taken.append(place)
        colour = MARKS[point.estimator][1]
        at = ((place.x0 + place.width / 2 - x) / scale, (place.y0 + place.height / 2 - y) / scale)
        line = {"arrowstyle": "-", "color": colour, "lw": 0.6, "shrinkA": 1, "shrinkB": 4}
        axes.annotate(
            point.label,
            (point.drives, max(point.error, SMALLEST)),
            at,
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=8,
            color=colour,
            arrowprops=line if radius > 12 else None,
            annotation_clip=False,
        )


def _around() -> Iterator[tuple[float, float]]:
    """Yield places around a mark as (distance in points, angle), the nearest first."""
    for radius in range(8, 90, 6):
        for angle in (0, 180, 90, 270, 45, 135, 315, 225, 22, 158, 338, 202):
            yield radius, np.deg2rad(angle)


# ---- a trained CNN


WEIGHTS = DATA / "conv.npz"


def draw_filters(dynamics: Dynamics, theta: Theta, samples: Samples, phases: Phases) -> Figure:
    """Draw the first layer's filters and the steady states of a trained CNN for a few samples.

    Parameters
    ----------
    dynamics : Dynamics
        The dynamics of the CNN.
    theta : Theta
        Its parameters.
    samples : Samples
        The samples. Each is one row of the figure.
    phases : Phases
        Settings of the free phase.

    Returns
    -------
    Figure
        The filters on the left, and on the right x, the feature maps and ŷ of each sample, in which the
        output of the label is orange.

    Raises
    ------
    ValueError
        If the first connection is not a convolution.
    """
    first, *_ = dynamics.network.inputs
    if len(first.shape) != 4:
        raise ValueError(f"{first.name} is not a convolution: choose the checkpoint of a CNN")
    shapes = dynamics.network.shapes[1:]
    maps = [n for n, shape in enumerate(shapes) if len(shape) == 3]
    figure = Figure(figsize=(8, 0.4 + 1.2 * len(samples)), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1, 1.9], squeeze=False)[0]
    axes = left.subplots()
    filters = theta[first.name].sum(axis=2).transpose(2, 0, 1)
    limit = np.abs(filters).max()
    axes.imshow(_mosaic(filters), cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes.set_title(f"the {len(filters)} filters of layer 1", fontsize=11)
    axes.set_anchor("N")
    axes.axis("off")
    _, free = free_phase(dynamics, theta, samples.inputs(dynamics.network, np.float32), phases)
    scores = dynamics.scores(theta, free.state)
    grid = right.subplots(len(samples), len(maps) + 2, squeeze=False)
    titles = ["$x$", *(f"$s^{n + 1}$" for n in maps), r"$\hat{y}$"]
    for i, row in enumerate(grid):
        pictures = [samples.x[i], *(_mosaic(free.state[n][i].transpose(2, 0, 1)) for n in maps)]
        for axes, picture in zip(row, pictures, strict=False):
            axes.imshow(picture, cmap="gray")
            axes.set_anchor("N")
            axes.axis("off")
        output = scores[i]
        colours = [COLOURS[0]] * len(output)
        colours[samples.y[i]] = COLOURS[1]
        row[-1].bar(range(len(output)), output, color=colours)
        row[-1].set(ylim=(0, 1.05), yticks=(0, 1), xticks=range(len(output)), box_aspect=1)
        row[-1].tick_params(labelsize=6, length=2)
    patches = [Patch(color=COLOURS[1], label="output of the label"), Patch(color=COLOURS[0], label="others")]
    right.legend(handles=patches, loc="outside lower right", ncols=2, frameon=False, fontsize=8)
    for axes, title in zip(grid[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    return figure


def _mosaic(tiles: Array) -> Array:
    """Return one image of the n tiles (n, H, W) in a nearly square grid, with NaN between the tiles."""
    n, height, width = tiles.shape
    columns = next(c for c in range(1, n + 1) if c * c >= n and n % c == 0)
    rows = n // columns
    picture = np.full((rows, height + 1, columns, width + 1), np.nan)
    for k, tile in enumerate(tiles):
        picture[k // columns, :height, k % columns, :width] = tile
    return picture.reshape(rows * (height + 1), columns * (width + 1))[:-1, :-1]


# ---- the errors of a trained network


def draw_errors(samples: Samples, found: Array) -> Figure:
    """Draw the confusion matrix and the worst errors of a trained network.

    Parameters
    ----------
    samples : Samples
        The test set, with labels.
    found : ndarray, shape (N, classes)
        The outputs for it.

    Returns
    -------
    Figure
        The confusion matrix on the left, and the 25 worst errors on the right.
    """
    figure = Figure(figsize=(10.5, 5.2), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=[1.2, 1], squeeze=False)[0]
    plot_confusion_matrix(samples.y, found.argmax(axis=1), left.subplots())
    plot_worst_errors(samples.x, samples.y, found, right)
    return figure


# ---- the command


@command(NotConverged, ValueError)
def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code.

    Parameters
    ----------
    arguments : sequence of str, optional
        The command line without the program's name. None uses ``sys.argv``.

    Returns
    -------
    int
        0, or 2 if the figure cannot be drawn or written.
    """
    options = _parser().parse_args(arguments)
    out = options.out or Path("runs") / f"{options.figure}.png"
    with style.context(STYLE):
        drawn = options.draw(options)
        if isinstance(drawn, FuncAnimation):
            save_animation(drawn, out)
        else:
            save(drawn, out)
    print(out)
    return 0


def _parser() -> Parser:
    parser = Parser(
        prog="python -m eqprop_np.figures", usage="%(prog)s FIGURE [options]", description="Draw a figure."
    )
    common = Parser(add_help=False)
    common.add_argument(
        "--out", type=Path, metavar="FILE", help="output file: .png, .pdf or .svg (default: runs/FIGURE.png)"
    )
    figures = parser.add_subparsers(
        dest="figure", required=True, metavar="FIGURE", prog="python -m eqprop_np.figures"
    )
    fig1a = figures.add_parser("fig1a", parents=[common], help="the computational graph of Theorem 1")
    fig1a.set_defaults(draw=lambda options: draw_fig1a())
    fig1b = figures.add_parser(
        "fig1b", parents=[common], help="updates of EP and gradients of BPTT over time"
    )
    tied = [name for name, system in SYSTEMS.items() if system.dynamics.network.tied]
    fig1b.add_argument(
        "--system",
        choices=tied,
        metavar="NAME",
        help=f"system for EP and C-EP: {', '.join(tied)} (default: the paper's three panels)",
    )
    fig1b.add_argument(
        "--seed", type=whole(0), default=0, metavar="S", help="seed of θ and the data (default: 0)"
    )
    fig1b.set_defaults(draw=_fig1b)
    fig1c = figures.add_parser(
        "fig1c", parents=[common], help="test error against the angle to BPTT's gradients"
    )
    fig1c.add_argument(
        "--runs",
        type=Path,
        metavar="DIR",
        default=RECORDED,
        help="directory of a sweep (default: the recorded one, eqprop_np/data/fig1c)",
    )
    fig1c.set_defaults(draw=lambda options: draw_fig1c(read_sweep(options.runs)))
    filters = figures.add_parser(
        "filters", parents=[common], help="filters and steady states of a trained CNN"
    )
    filters.add_argument(
        "--weights",
        type=Path,
        metavar="CHECKPOINT",
        default=WEIGHTS,
        help="checkpoint or run of a CNN (default: the one of the package, eqprop_np/data/conv.npz)",
    )
    filters.add_argument(
        "--data", metavar="DIR", default="auto", help="data set, as in eqprop_np.mnist (default: auto)"
    )
    filters.set_defaults(draw=_filters)
    errors = figures.add_parser(
        "errors", parents=[common], help="confusion matrix and worst errors of a checkpoint on its test set"
    )
    errors.add_argument(
        "--weights",
        type=Path,
        metavar="CHECKPOINT",
        default=WEIGHTS,
        help="checkpoint or directory of a run (default: the one of the package, eqprop_np/data/conv.npz)",
    )
    errors.add_argument(
        "--data", metavar="DIR", help="data set, as in eqprop_np.mnist (default: that of the run)"
    )
    errors.set_defaults(draw=_errors)
    estimators = figures.add_parser(
        "estimators", parents=[common], help="the error of every estimator of the gradient against its cost"
    )
    estimators.add_argument(
        "--seed", type=whole(0), default=0, metavar="S", help="seed of θ and the data (default: 0)"
    )
    estimators.set_defaults(draw=_estimators)
    settle = figures.add_parser("settle", help="animation of a small network in both phases")
    settle.add_argument(
        "--out", type=Path, metavar="FILE", help="output file: .gif (default: runs/settle.gif)"
    )
    settle.set_defaults(draw=_settle, out=Path("runs/settle.gif"))
    return parser


def _estimators(options: argparse.Namespace) -> Figure:
    return draw_estimators(
        {title: estimators_of(SYSTEMS[name], options.seed) for name, title in ESTIMATOR_PANELS.items()}
    )


def _settle(options: argparse.Namespace) -> FuncAnimation:
    require_gif(options.out)  # before the work
    return draw_settling(small_network())


def _fig1b(options: argparse.Namespace) -> Figure:
    if options.system is None:
        return draw_fig1b(seed=options.seed)
    names = ((f"{options.system}: {name}", name == "C-EP") for name in ("EP", "C-EP"))
    return draw_fig1b([Panel(title, options.system, continual) for title, continual in names], options.seed)


def _filters(options: argparse.Namespace) -> Figure:
    configuration, progress = load(checkpoint_of(options.weights))
    dataset = load_data(options.data, progress=True)
    experiment = configuration.experiment
    dynamics = experiment.build(configuration.image, configuration.classes)
    wanted, found = (
        f"images of {image} pixels and {classes} classes"
        for image, classes in (
            (configuration.image, configuration.classes),
            (dataset.test_images.shape[1:], dataset.classes),
        )
    )
    if wanted != found:
        raise ValueError(f"{options.weights} needs {wanted}, but the data have {found}: choose other --data")
    samples = Samples(dataset.test_images, dataset.test_labels)[:3]
    return draw_filters(dynamics, progress.theta, samples, experiment.phases)


def _errors(options: argparse.Namespace) -> Figure:
    path = checkpoint_of(options.weights)
    configuration, progress = load(path)
    dataset = load_data(configuration.source if options.data is None else options.data, progress=True)
    if mismatch := configuration.mismatch(dataset):
        raise ValueError(f"{path}: {mismatch}: give the data of the run with --data")
    experiment = configuration.experiment
    dynamics = experiment.build(configuration.image, configuration.classes)
    _, test = configuration.samples(dataset)
    figure = draw_errors(test, outputs(dynamics, progress.theta, test.x, experiment.phases))
    title = f"{experiment.name} on {configuration.dataset}, {configuration.tested} set"
    figure.suptitle(title, parse_math=False)  # the data's name is that of a directory, which may contain $
    return figure


def require_format(path: Path) -> None:
    """Raise a ValueError if matplotlib cannot write the format of the file's suffix."""
    if path.suffix.lstrip(".").lower() not in Figure().canvas.get_supported_filetypes():
        raise ValueError(
            f"{path} has the suffix {path.suffix!r}, which is not a figure format: use .png, .pdf or .svg"
        )


def save(figure: Figure, path: Path) -> None:
    """Write a figure to a file in the format of the file's suffix.

    The figure is written completely or not at all. In the second case an existing file stays unchanged.

    Parameters
    ----------
    figure : Figure
        The figure.
    path : Path
        The file. Missing directories are created.

    Raises
    ------
    ValueError
        If matplotlib cannot write the format of the suffix.
    """
    require_format(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path, "wb") as file:
        figure.savefig(file, format=path.suffix.lstrip(".").lower(), dpi=200)


if __name__ == "__main__":
    sys.exit(main())
