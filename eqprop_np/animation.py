"""An animation of both phases: a small network converges, is nudged, and converges again.

``python -m eqprop_np.figures settle`` writes it as a GIF. Beside the network, the contrast of Eq. (2) grows:

    (1/β) (ρ(s^pre) ρ(s^post) at the step t of the nudged phase − the product at s_*)

for each weight from the hidden to the output layer. At the end it is near −∂L/∂w, up to an error of order β.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib import style
from matplotlib.animation import FuncAnimation, PillowWriter
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from eqprop_np.activations import Array, sigmoid
from eqprop_np.dynamics import Dynamics, Nudge, RealTime, snapshot
from eqprop_np.files import replacing
from eqprop_np.network import Theta, chain
from eqprop_np.plots import COLOURS
from eqprop_np.relaxation import Synchronous, relax
from eqprop_np.rules.implicit import implicit_gradient
from eqprop_np.rules.phases import Phases

FREE, NUDGED = COLOURS[0], COLOURS[1]
"""The colours of the two phases."""

FRAMES_PER_SECOND = 10


@dataclass(frozen=True)
class Settling:
    """Both phases of one sample in a network with one hidden layer.

    Attributes
    ----------
    activities : tuple of ndarray
        (x, ρ(s¹), ρ(s²)); a row for each step from 0 to T + K, and a column for each neuron. x is one row.
    residuals : ndarray, shape (T + K,)
        The largest change of a neuron in each step.
    contrast : ndarray, shape (T + K + 1, hidden, outputs)
        The contrast at each step, 0 in the free phase.
    gradient : ndarray, shape (hidden, outputs)
        ∂L/∂w of the weights from the hidden to the output layer.
    target : ndarray, shape (outputs,)
        y.
    weights : tuple of ndarray
        The weights of both connections.
    free_steps : int
        T.
    """

    activities: tuple[Array, ...]
    residuals: Array
    contrast: Array
    gradient: Array
    target: Array
    weights: tuple[Array, ...]
    free_steps: int

    @property
    def steps(self) -> int:
        """T + K, the number of steps of both phases."""
        return len(self.residuals)


def settling(dynamics: Dynamics, theta: Theta, x: Array, y: Array, phases: Phases) -> Settling:
    """Return both phases of one sample, step by step.

    Parameters
    ----------
    dynamics : DiscreteTime or RealTime
        Of a network ``chain([inputs, hidden, outputs])``.
    theta : dict of ndarray
    x : ndarray, shape (1, inputs)
    y : ndarray, shape (1, outputs)
    phases : Phases
        T, K and β. The steps are synchronous.

    Raises
    ------
    TypeError, ValueError
        If an argument does not fit the network.
    """
    every = Synchronous()
    free = relax(dynamics, theta, x, None, phases.free_steps, schedule=every, trajectory=True)
    nudge = Nudge(phases.beta, y)
    nudged = relax(
        dynamics, theta, x, free.state, phases.nudged_steps, nudge=nudge, schedule=every, trajectory=True
    )
    states = free.trajectory + nudged.trajectory[1:]
    rest = snapshot(dynamics, theta, x, free.state)  # s_*
    contrast = [np.zeros_like(theta["w1-2"])] * phases.free_steps + [
        dynamics.network.contrast(snapshot(dynamics, theta, x, s), rest, phases.beta)["w1-2"]
        for s in nudged.trajectory
    ]
    exact = implicit_gradient(dynamics, theta, x, y, Phases(5000, 1, beta=1.0, schedule=Synchronous(1e-12)))
    hidden, output = (np.array([dynamics.activity(s[n])[0] for s in states]) for n in (0, 1))
    return Settling(
        (x, hidden, output),
        np.array(free.residuals + nudged.residuals),
        np.array(contrast),
        exact.gradient["w1-2"],
        y[0],
        (theta["w0-1"], theta["w1-2"]),
        phases.free_steps,
    )


def small_network(steps: int = 120) -> Settling:
    """Return both phases of a network 3-5-2 in real time, each with so many steps."""
    dynamics = RealTime(chain([3, 5, 2]), sigmoid, epsilon=0.08, clamp=False)
    theta = dynamics.init(np.random.default_rng(13), np.float64)
    theta |= {"w0-1": 1.5 * theta["w0-1"], "w1-2": 1.5 * theta["w1-2"]}  # so that the neurons differ
    theta |= {"b1": theta["b1"] + 0.5, "b2": theta["b2"] + 0.4}
    x, y = np.array([[0.9, 0.2, 0.6]]), np.array([[1.0, 0.0]])
    return settling(dynamics, theta, x, y, Phases(steps, steps, beta=0.2))


# ---- drawing


def draw_settling(record: Settling, steps_per_frame: int = 3) -> FuncAnimation:
    """Draw an animation of both phases.

    Parameters
    ----------
    record : Settling
        The phases, as `settling` returns them.
    steps_per_frame : int
        A frame is drawn for step 0 and after each so many steps.

    Returns
    -------
    FuncAnimation
        With the network and its activities on the left, and the contrast on the right.
    """
    figure = Figure(figsize=(7, 4), dpi=100)
    headline = figure.text(0.03, 0.94, "", fontsize=17, weight="bold", va="center")
    clock = figure.text(0.97, 0.94, "", fontsize=13, va="center", ha="right", family="monospace")
    network = figure.add_axes((0.01, 0.42, 0.50, 0.46))
    curves = figure.add_axes((0.09, 0.13, 0.42, 0.26))
    bars = figure.add_axes((0.62, 0.13, 0.36, 0.62))
    updates = [
        _draw_network(network, record),
        _draw_curves(curves, record),
        _draw_contrast(bars, record),
    ]

    def draw(t: int) -> list[Any]:
        nudged = t > record.free_steps
        headline.set_text("nudged phase" if nudged else "free phase")
        headline.set_color(NUDGED if nudged else FREE)
        residual = f"{record.residuals[t - 1]:.0e}" if t else "  –  "
        clock.set_text(f"time {t:3d}   residual {residual}")
        for update in updates:
            update(t)
        return []

    times = range(0, record.steps + 1, steps_per_frame)
    return FuncAnimation(
        figure, draw, frames=times, init_func=list, interval=1000 / FRAMES_PER_SECOND, repeat=True
    )


Update = Callable[[int], None]


def _draw_network(axes: Axes, record: Settling) -> Update:
    """Draw the network with the neurons' activities as colours; return what moves it to step t."""
    sizes = [value.shape[-1] for value in record.activities]
    places = [[(1.5 * n, (size - 1) / 2 - i) for i in range(size)] for n, size in enumerate(sizes)]
    for n, w in enumerate(record.weights):
        for (i, j), value in np.ndenumerate(w):
            (x0, y0), (x1, y1) = places[n][i], places[n + 1][j]
            axes.plot((x0, x1), (y0, y1), color="0.75", lw=0.4 + 1.2 * abs(value), zorder=1)
    edges = ("0.2", "0.2", _output_colours(record))
    layers = [
        _draw_neurons(axes, place, record.activities[n][0], edge)
        for n, (place, edge) in enumerate(zip(places, edges, strict=True))
    ]
    target = [(3.9, y) for _, y in places[-1]]
    wanted = _draw_neurons(axes, target, record.target, edges[-1], marker="s")
    numbers = [
        [
            axes.text(x, y - 0.03, f"{i}", fontsize=9, ha="center", va="center", zorder=4)
            for i, (x, y) in named
        ]
        for named in (enumerate(place, start=1) for place in places[1:])
    ]
    arrows = [
        axes.annotate("", (3.2, y), (3.75, y), arrowprops={"arrowstyle": "-|>", "color": NUDGED, "lw": 2.2})
        for _, y in places[-1]
    ]
    label = axes.text(3.9, 1.15, "target", ha="center", fontsize=10, color=NUDGED)
    for name, x, y in (("input", 0, 1.65), ("hidden", 1.5, 2.5), ("output", 3, 1.15)):
        axes.text(x, y, name, ha="center", fontsize=10)
    axes.set(xlim=(-0.5, 4.4), ylim=(-2.6, 3.1))
    axes.axis("off")

    def update(t: int) -> None:
        for activities, layer, texts in zip(record.activities[1:], layers[1:], numbers, strict=True):
            layer.set_array(activities[t])
            for text, value in zip(texts, activities[t], strict=True):
                text.set_color("white" if value < 0.6 else "black")
        for artist in (wanted, label, *arrows):
            artist.set_visible(t > record.free_steps)

    return update


def _draw_neurons(
    axes: Axes, places: Sequence[tuple[float, float]], values: Array, edges: Any, marker: str = "o"
) -> PathCollection:
    """Draw neurons with their activities as colours, dark for 0 and light for 1."""
    x, y = zip(*places, strict=True)
    return axes.scatter(
        x, y, s=260, c=values, cmap="viridis", norm=Normalize(0, 1), marker=marker, ec=edges, lw=2, zorder=3
    )


def _draw_curves(axes: Axes, record: Settling) -> Update:
    """Draw the activities over time; return what moves them to step t."""
    _, hidden, output = record.activities
    lines = [axes.plot([], [], color="0.7", lw=1)[0] for _ in hidden.T]
    lines += [axes.plot([], [], color=colour, lw=2)[0] for colour in _output_colours(record)]
    values = np.hstack([hidden, output])
    T = record.free_steps
    axes.axvspan(0, T, color=FREE, alpha=0.08, lw=0)
    axes.axvspan(T, record.steps, color=NUDGED, alpha=0.1, lw=0)
    axes.set(xlim=(0, record.steps), ylim=(0, 1), yticks=(0, 0.5, 1), xticks=(0, T, record.steps))
    axes.set_xlabel("time (steps)", fontsize=10, labelpad=1)
    axes.set_ylabel("activity", fontsize=10)
    axes.tick_params(labelsize=9)

    def update(t: int) -> None:
        for line, value in zip(lines, values.T, strict=True):
            line.set_data(np.arange(t + 1), value[: t + 1])

    return update


def _draw_contrast(axes: Axes, record: Settling) -> Update:
    """Draw the contrast of each weight with its limit; return what moves it to step t."""
    hidden, outputs = record.gradient.shape
    width, every = 0.8 / outputs, np.arange(hidden)
    groups = []
    for k, colour in enumerate(_output_colours(record)):
        at = every + (k - (outputs - 1) / 2) * width
        groups.append(axes.bar(at, np.zeros(hidden), width, color=colour, label=f"to output {k + 1}"))
        for x, value in zip(at, -record.gradient[:, k], strict=True):
            axes.plot((x - width / 2, x + width / 2), (value, value), color="black", lw=2)
    axes.plot([], [], color="black", lw=2, label=r"$-\partial L/\partial w$")
    axes.axhline(0, color="0.3", lw=0.8)
    low, high = (f(-record.gradient.min(), -record.gradient.max(), 0) for f in (min, max))
    room = 0.15 * (high - low)
    axes.set(xlim=(-0.6, hidden - 0.4), ylim=(low - room, high + room), xticks=every)
    axes.set_xticklabels([f"{i + 1}" for i in every])
    axes.set_xlabel("hidden neuron", fontsize=10, labelpad=1)
    axes.set_ylabel("pre · post", fontsize=10, labelpad=1)
    axes.tick_params(labelsize=9)
    axes.set_title("contrast: (nudged − free) / β", fontsize=11, pad=26)
    place = {"loc": "lower center", "bbox_to_anchor": (0.5, 0.99), "ncols": outputs + 1}
    axes.legend(
        frameon=False,
        fontsize=9,
        handlelength=1,
        columnspacing=0.8,
        handletextpad=0.4,
        borderpad=0.2,
        **place,
    )

    def update(t: int) -> None:
        for k, group in enumerate(groups):
            for bar, value in zip(group, record.contrast[t, :, k], strict=True):
                bar.set_height(value)

    return update


def _output_colours(record: Settling) -> tuple[str, ...]:
    return (COLOURS[2], COLOURS[3], COLOURS[4], COLOURS[5])[: len(record.target)]


def save_animation(animation: FuncAnimation, path: Path) -> None:
    """Write an animation to a GIF file. It is written completely or not at all.

    Parameters
    ----------
    animation : FuncAnimation
        The animation.
    path : Path
        The file, with the suffix .gif. Missing directories are created.

    Raises
    ------
    ValueError
        If the file has another suffix.
    """
    require_gif(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory() as scratch:  # PillowWriter needs a file with the suffix
        drawn = Path(scratch, "drawn.gif")
        with style.context({"savefig.dpi": "figure"}):
            animation.save(str(drawn), writer=PillowWriter(fps=FRAMES_PER_SECOND))
        with replacing(path, "wb") as file:
            file.write(drawn.read_bytes())


def require_gif(path: Path) -> None:
    """Raise a ValueError if a file has another suffix than .gif."""
    if path.suffix.lower() != ".gif":
        raise ValueError(f"{path} has the suffix {path.suffix!r}, but an animation is a GIF: use .gif")
