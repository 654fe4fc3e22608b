"""What the notebooks share: colours, sliders and checks of exercises.

The plots of a single notebook are functions here too, if their code is long and not part of the lesson.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

import eqprop_np as eq
from eqprop_np import figures

plt.switch_backend(plt.get_backend())  # load it, so that IPython shows a Figure that pyplot did not make

# One colour for one thing in every notebook (Okabe and Ito; distinguishable for the colour-blind).
COLOURS = {
    "free": "#0072B2",  # the first phase, a free state, a layer s¹
    "nudged": "#D55E00",  # the second phase, a nudged state, the nudge itself
    "ep": "#009E73",  # an update of EP
    "bptt": "#000000",  # a gradient of BPTT or a finite difference, dashed
    "second": "#CC79A7",  # a second layer, a second case
    "third": "#E69F00",
    "fourth": "#56B4E9",
    "muted": "#999999",
}
LAYERS = ("#0072B2", "#CC79A7", "#E69F00", "#56B4E9")
"""The colours of layers 1, 2, 3, 4."""


def play(draw: Callable[..., Figure], **controls: tuple[float, float, float, float]) -> None:
    """Show a figure with a slider for each argument of ``draw``.

    A control is (smallest, largest, step, default). With the environment variable EQPROP_NP_STATIC the
    figure is drawn at the smallest, the largest and the default values, and only the last one is shown, so
    that a stored notebook can be read without a kernel.
    """
    default = {name: control[3] for name, control in controls.items()}
    if os.environ.get("EQPROP_NP_STATIC"):
        for k in (0, 1):
            plt.close(draw(**{name: control[k] for name, control in controls.items()}))
        _show(draw(**default))
        return
    from ipywidgets import FloatSlider, interact

    sliders = {
        name: FloatSlider(
            default[name], min=low, max=high, step=step, description=name, continuous_update=False
        )
        for name, (low, high, step, _) in controls.items()
    }
    interact(lambda **values: _show(draw(**values)), **sliders)


def _show(figure: Figure) -> None:
    display(figure)
    plt.close(figure)


def check(test: Callable[[], Any]) -> None:
    """Run a test of an exercise and print whether the answer is right.

    Use it as a decorator of a function that asserts, with a message, what the answer must fulfil. An
    unfinished answer can raise any other exception, whose name is then printed.
    """
    try:
        test()
    except AssertionError as error:
        print(f"not yet: {error}")
    except Exception as error:
        print(f"not yet, {type(error).__name__}: {error}")
    else:
        print("right")


# ---- the landscape of two neurons, notebooks 1, 2, 3 and 7

Height = Callable[[Any, Any], Any]
"""A function of (s₁, s₂) that takes arrays, such as an energy."""

REACH = 1.9  # the landscapes show both neurons from −REACH to REACH


def pair_energy(s1: Any, s2: Any, w: Any = 1.0, x: float = 0.3) -> Any:
    """Return the energy E of two neurons with ρ = tanh: x drives s₁, and w joins s₁ and s₂."""
    rho1, rho2 = np.tanh(s1), np.tanh(s2)
    return s1**2 / 2 + s2**2 / 2 - x * rho1 - w * rho1 * rho2


def slope(height: Height, s1: Any, s2: Any) -> Any:
    """Return the two partial derivatives of ``height``, by central differences."""
    h = 1e-6
    along_1 = (height(s1 + h, s2) - height(s1 - h, s2)) / (2 * h)
    along_2 = (height(s1, s2 + h) - height(s1, s2 - h)) / (2 * h)
    return np.array([along_1, along_2])


def descend(height: Height, start: Any = (0.0, 0.0), epsilon: float = 0.2, steps: int = 500) -> Any:
    """Return the path of Euler steps down a height, shape (steps + 1, 2, …).

    Parameters
    ----------
    height : callable
    start : array, shape (2, …)
        One start or several.
    epsilon : float
        The length of a step.
    steps : int
    """
    path = [np.array(start, float)]
    for _ in range(steps):
        path.append(path[-1] - epsilon * slope(height, *path[-1]))
    return np.array(path)


def draw_landscape(ax: Axes, height: Height, low: float = -REACH, high: float = REACH) -> None:
    """Draw the level lines of a height over (s₁, s₂), both from ``low`` to ``high``. Dark is low."""
    grid = np.meshgrid(*[np.linspace(low, high, 81)] * 2)
    values = height(*grid)
    levels = values.min() + np.ptp(values) * np.linspace(0, 1, 19) ** 1.7  # denser near the minima
    ax.contourf(*grid, values, levels, cmap="Greys_r", vmin=values.min() - 0.8 * np.ptp(values))
    ax.contour(*grid, values, levels, colors="white", linewidths=0.5, linestyles="solid")
    ax.set(xlabel="$s_1$", ylabel="$s_2$", aspect="equal", xlim=(low, high), ylim=(low, high))


def draw_descent(height: Height, title: str = "") -> Figure:
    """Draw the motion of two neurons down a landscape from six starts, and its height over time."""
    figure = Figure(figsize=(7, 3.2))
    left, right = figure.subplots(1, 2)
    draw_landscape(left, height)
    arrows = np.array(np.meshgrid(*[np.linspace(-1.7, 1.7, 11)] * 2))
    left.quiver(*arrows, *-slope(height, *arrows), color="0.25", width=0.004)
    starts = np.array([(-1.7, 1.2), (-1.5, -1.6), (0.2, -1.7), (1.7, 1.6), (1.6, -0.7), (-0.6, 1.7)]).T
    path = descend(height, starts, epsilon=0.02, steps=1500)
    left.plot(path[:, 0], path[:, 1], color=COLOURS["free"])
    left.plot(*starts, "o", color=COLOURS["free"], markersize=3)
    left.plot(*path[-1], "*", color="white", markeredgecolor="black", markersize=12)
    left.set_title(title)
    right.plot(0.02 * np.arange(351), height(path[:, 0], path[:, 1])[:351], color=COLOURS["free"])
    right.set(xlabel="time", ylabel="energy $E$", title="The energy along each line")
    return figure


def draw_two_floors() -> Figure:
    """Draw s(t) and E(t) of ds/dt = −dE/ds for E = e^(−s) and for E = ½s² − tanh s."""
    t = np.linspace(0, 40, 401)
    steady = descend(lambda a, b: a**2 / 2 - np.tanh(a) + 0 * b, epsilon=0.1, steps=400)[:, 0]
    figure = Figure(figsize=(7, 2.5))
    for ax, without, with_bowl, label in zip(
        figure.subplots(1, 2),
        (np.log1p(t), 1 / (1 + t)),
        (steady, steady**2 / 2 - np.tanh(steady)),
        ("state $s$", "energy $E$"),
        strict=True,
    ):
        ax.plot(t, without, color=COLOURS["nudged"], label=r"$E = e^{-s}$")
        ax.plot(t, with_bowl, color=COLOURS["free"], label=r"$E = \frac{1}{2}s^2 - \tanh s$")
        ax.set(xlabel="time", ylabel=label)
        ax.legend()
    return figure


def draw_splits(weights: Any, inputs: Sequence[float] = (0.0, 0.3)) -> Figure:
    """Draw where the first of two neurons converges from two opposite starts, over the weight w."""
    figure = Figure(figsize=(7, 2.6))
    for ax, x in zip(figure.subplots(1, len(inputs), sharey=True), inputs, strict=True):
        for sign, colour in ((1, COLOURS["free"]), (-1, COLOURS["second"])):
            start = np.array([np.full_like(weights, 2.0 * sign), 2.0 * sign * np.sign(weights)])
            end = descend(lambda a, b, x=x: pair_energy(a, b, weights, x), start, steps=3000)[-1, 0]
            ax.plot(weights, end, ".", color=colour, label=f"from $s_1 = {2 * sign}$")
        ax.set(xlabel="weight $w$", title=f"$x = {x:g}$")
    figure.axes[0].set_ylabel("steady state $s_1$")
    figure.axes[0].legend()
    return figure


def draw_euler(height: Height, epsilon: float, start: Any = (-1.6, 1.3)) -> Figure:
    """Draw Euler steps of length ``epsilon`` down a landscape, and their distance from the lowest point."""
    bottom = descend(height, start, epsilon=0.2, steps=1000)[-1]
    figure = Figure(figsize=(7, 3.2))
    left, right = figure.subplots(1, 2)
    draw_landscape(left, height)
    path = descend(height, start, epsilon, steps=60)
    left.plot(*path.T, ".-", color=COLOURS["free"], linewidth=0.9)
    left.plot(*bottom, "*", color="white", markeredgecolor="black", markersize=12)
    left.set_title(rf"$\varepsilon = {epsilon:g}$")
    for value, name in ((0.1, "third"), (0.5, "second"), (1.1, "fourth"), (epsilon, "free")):
        away = np.linalg.norm(descend(height, start, value, steps=60) - bottom, axis=1)
        away[away < 1e-7] = np.nan  # the steady state is known to about so many digits
        width = 2 if value == epsilon else 1
        right.semilogy(away, color=COLOURS[name], linewidth=width, label=rf"$\varepsilon = {value:g}$")
    right.legend(loc="lower left")
    right.set(xlabel="step $t$", ylim=(1e-7, 9), title="Distance from the steady state")
    return figure


def draw_settling(activities: Sequence[Sequence[Any]], residuals: Any, times: Sequence[int]) -> Figure:
    """Draw the activities of each layer as squares of pixels at some times, and the residual of each step.

    Parameters
    ----------
    activities : sequence of states, each (ρ(s¹), …, ρ(s^N)) of one sample
        Sizes of layers must be squares.
    residuals : sequence of float
    times : sequence of int
    """
    layers = len(activities[0])
    figure = Figure(figsize=(9.4, 2.7))
    maps, curve = figure.subfigures(1, 2, width_ratios=[2.8, 1])
    axes = maps.subplots(layers, len(times))
    for n, row in enumerate(axes):
        side = round(np.sqrt(activities[0][n].size))
        for ax, t in zip(row, times, strict=True):
            frame = activities[t][n].reshape(side, side)
            image = ax.imshow(frame, vmin=-0.5, vmax=0.5, cmap="RdBu_r")
            ax.set(xticks=[], yticks=[])
            if n == 0:
                ax.set_title(f"$t = {t}$", loc="center")
        row[0].set_ylabel(f"layer {n + 1}")
    maps.colorbar(image, ax=axes, aspect=30, pad=0.02, label="activity ρ(s)", extend="both")
    ax = curve.subplots()
    ax.semilogy(range(1, len(residuals) + 1), residuals, color=COLOURS["free"])
    ax.set(xlabel="step $t$", title="Largest change of a neuron")
    return figure


# ---- E + βℓ of two neurons


def nudged_minimum(beta: Any, w: Any = 1.0, x: float = 0.3, target: float = 1.0) -> Any:
    """Return the minimum of E + βℓ that two neurons reach from the free steady state, shape (2, …).

    The cost is ℓ = ½(s₂ − target)². ``beta`` and ``w`` may be arrays of the same shape.
    """
    beta = np.asarray(beta, float)
    free = descend(lambda a, b: pair_energy(a, b, w, x), np.zeros((2, *np.broadcast(beta, w).shape)))[-1]

    def height(s1: Any, s2: Any) -> Any:
        return pair_energy(s1, s2, w, x) + beta * (s2 - target) ** 2 / 2

    return descend(height, free)[-1]


def draw_sliding_minimum(beta: float, w: float = 1.0, x: float = 0.3, target: float = 1.0) -> Figure:
    """Draw the landscape E + βℓ with its minimum, and ρ₁ρ₂ of the minimum over β with a secant.

    The slope of the secant between 0 and β is the contrast of Eq. (2) for the weight w; that of the
    tangent at 0 is minus the derivative of the loss.
    """
    free, nudged = nudged_minimum(np.array([0.0, beta]), w, x, target).T
    betas = np.linspace(-0.2, 2, 67)
    curve = nudged_minimum(betas, w, x, target)
    figure = Figure(figsize=(8.4, 3.3))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])

    draw_landscape(left, lambda a, b: pair_energy(a, b, w, x) + beta * (b - target) ** 2 / 2, -0.7, 1.7)
    left.axhline(target, color="black", linestyle=":", linewidth=1)
    left.text(-0.65, target + 0.07, "target", fontsize=8)
    left.plot(*curve, color="black", linewidth=1)
    for point, name in ((free, "free"), (nudged, "nudged")):
        left.plot(*point, "o", color=COLOURS[name], markersize=7)
    left.set_title(rf"$E + \beta\ell$ with $\beta = {beta:.2f}$")

    h = 1e-3
    product = np.prod(np.tanh(curve), axis=0)
    at_free, at_nudged = np.prod(np.tanh(free)), np.prod(np.tanh(nudged))
    ends = np.prod(np.tanh(nudged_minimum(np.array([-h, h]), w, x, target)), axis=0)
    tangent = (ends[1] - ends[0]) / (2 * h)
    right.plot(betas, product, color="black", linewidth=1, label=r"$\rho_1\rho_2$ at the minimum")
    near = betas[betas < 0.7]
    right.plot(
        near,
        at_free + tangent * near,
        "--",
        color=COLOURS["bptt"],
        label=f"tangent at 0, slope {tangent:.3f}",
    )
    if abs(beta) > h:
        secant = (at_nudged - at_free) / beta
        right.plot(
            [0, beta], [at_free, at_nudged], color=COLOURS["ep"], label=f"contrast, slope {secant:.3f}"
        )
    right.plot(0, at_free, "o", color=COLOURS["free"], markersize=7)
    right.plot(beta, at_nudged, "o", color=COLOURS["nudged"], markersize=7)
    right.set(xlabel=r"nudge $\beta$", ylabel=r"$\rho(s_1)\,\rho(s_2)$", title="What the weight reads")
    right.legend(loc="lower right")
    return figure


# ---- notebook 2


def draw_updates(exact: Any, updates: Any, names: Sequence[str]) -> Figure:
    """Draw minus the gradient of each parameter as bars, and the updates of EP for some β as marks.

    Parameters
    ----------
    exact : dict of ndarray
        dL/dθ.
    updates : dict
        For each label, Δθ as a dict of arrays.
    names : sequence of str
        The parameters to draw.
    """
    figure = Figure(figsize=(8.4, 2.9))
    ax = figure.subplots()
    flat = np.concatenate([exact[name].ravel() for name in names])
    places = np.arange(len(flat))
    ax.bar(places, -flat, color="0.82", label=r"$-d\mathcal{L}/d\theta$, finite differences")
    for (label, update), style in zip(
        updates.items(), ({"marker": "_", "markersize": 12}, {"marker": "o", "markersize": 4}), strict=False
    ):
        values = np.concatenate([update[name].ravel() for name in names])
        ax.plot(places, values, linestyle="", color=COLOURS["ep"], label=label, **style)
    ticks = [f"{name}[{','.join(map(str, i))}]" for name in names for i in np.ndindex(exact[name].shape)]
    ax.set_xticks(places, ticks, rotation=60, ha="right", fontsize=8)
    ax.axhline(0, color="0.5", linewidth=0.8)
    ax.set_ylabel("update")
    ax.legend()
    return figure


PLACES = (((0, 0.5), (0, -0.5)), ((1, 1), (1, 0), (1, -1)), ((2, 0.5), (2, -0.5)))


def draw_networks(
    panels: Sequence[tuple[str, Sequence[Any]]], weights: Sequence[Any], diverging: Any
) -> Figure:
    """Draw a network of 2, 3 and 2 neurons several times, with a number in each neuron.

    Parameters
    ----------
    panels : sequence of (title, numbers)
        The numbers in the neurons of each of the three layers.
    weights : two matrices
        Drawn as lines: red for positive, blue for negative, thick for large.
    diverging : sequence of bool
        For each panel, whether its colours diverge from 0.
    """
    figure = Figure(figsize=(3 * len(panels), 2.8))
    for ax, (title, layers), signed in zip(figure.subplots(1, len(panels)), panels, diverging, strict=True):
        for n, w in enumerate(weights):
            for (i, j), value in np.ndenumerate(w):
                colour = "#b2182b" if value > 0 else "#2166ac"
                ends = zip(PLACES[n][i], PLACES[n + 1][j], strict=True)
                ax.plot(*ends, color=colour, linewidth=4 * abs(value), alpha=0.6)
        values = np.concatenate([np.ravel(layer) for layer in layers])
        high = np.abs(values).max() if signed else 1.0
        for place, value in zip((p for layer in PLACES for p in layer), values, strict=True):
            shade = (value / high + 1) / 2 if signed else 0.7 * np.clip(value, 0, 1)
            face = plt.get_cmap("RdBu_r" if signed else "YlOrBr")(
                0.5 + 0.6 * (shade - 0.5) if signed else shade
            )
            text = "0" if value == 0 else f"{value:+.2f}" if signed else f"{value:.2f}"
            ax.plot(*place, "o", color=face, markeredgecolor="0.3", markersize=27, zorder=3)
            ax.text(*place, text, ha="center", va="center", fontsize=8, zorder=4)
        ax.set(xlim=(-0.35, 2.35), ylim=(-1.45, 1.4), title=title)
        ax.axis("off")
    return figure


def draw_training(losses: Any) -> Figure:
    """Draw the median loss of several seeds over the updates, and the range between the seeds.

    Parameters
    ----------
    losses : dict
        For each label an array (seeds, updates).
    """
    figure = Figure(figsize=(6, 2.7))
    ax = figure.subplots()
    for (label, values), colour in zip(losses.items(), (COLOURS["free"], COLOURS["second"]), strict=False):
        ax.semilogy(np.median(values, axis=0), color=colour, label=f"{label}, median of {len(values)} seeds")
        ax.fill_between(
            np.arange(values.shape[1]), values.min(axis=0), values.max(axis=0), color=colour, alpha=0.2, lw=0
        )
    ax.set(xlabel="update", ylabel=r"loss $\mathcal{L}$")
    ax.legend()
    return figure


# ---- the estimates of notebook 3

ESTIMATES = {
    "one-sided": (COLOURS["nudged"], "o"),
    "random sign": (COLOURS["second"], "^"),
    "centred": (COLOURS["ep"], "s"),
}
"""The colour and the marker of each estimate."""


def draw_secants(beta: float, w: float = 1.0, x: float = 0.3, target: float = 0.0) -> Figure:
    """Draw E + βℓ of two neurons with its minimum, and the secants of two estimates over β.

    The curve is ρ₁ρ₂ at the minimum. The one-sided secant ends at 0 and β, the centred one at −β and β.
    """
    betas = np.linspace(-0.9, 0.9, 73)
    curve = nudged_minimum(betas, w, x, target)
    minimum = nudged_minimum(np.array([-beta, 0, beta, -1e-3, 1e-3]), w, x, target)
    below, free, above, *near = np.prod(np.tanh(minimum), axis=0)
    tangent = (near[1] - near[0]) / 2e-3
    figure = Figure(figsize=(9, 3.4))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.35])

    draw_landscape(left, lambda a, b: pair_energy(a, b, w, x) + beta * (b - target) ** 2 / 2, -0.5, 1.7)
    left.axhline(target, color="black", linestyle=":", linewidth=1)
    left.text(1.55, target + 0.05, "target", fontsize=8, ha="right")
    left.plot(*curve, color="black", linewidth=1)
    left.plot(*minimum[:, 1], "o", color=COLOURS["free"], markersize=7, label="free, $s_*$")
    left.plot(*minimum[:, 2], "o", color=COLOURS["nudged"], markersize=7, label=r"nudged, $s_*^\beta$")
    left.legend(loc="lower right")
    left.set_title(rf"$E + \beta\ell$ with $\beta = {beta:.1f}$")

    right.plot(betas, np.prod(np.tanh(curve), axis=0), color="black", linewidth=2.2, label=r"$g(\beta)$")
    ends = np.array([-0.9, 0.9])
    label = f"tangent at 0, slope {tangent:.3f}"
    right.plot(ends, free + tangent * ends, "--", color=COLOURS["bptt"], linewidth=1, label=label)
    if beta:
        secants = {
            "one-sided": ([0, beta], [free, above]),
            "centred": ([-beta, beta], [below, above]),
        }
        for name, (places, heights) in secants.items():
            colour, marker = ESTIMATES[name]
            slope_of = (heights[1] - heights[0]) / (places[1] - places[0])
            label = f"{name}, slope {slope_of:.3f}"
            right.plot(places, heights, marker, linestyle="-", color=colour, markersize=5, label=label)
    right.set(xlabel=r"nudge $\beta$", ylabel=r"$\rho(s_1)\,\rho(s_2)$", title="What the weight reads")
    right.legend(loc="upper right")
    return figure


def draw_errors(betas: Any, errors: Any, titles: Sequence[str], floors: Sequence[float]) -> Figure:
    """Draw the error of each estimate over β, one panel for each precision.

    Parameters
    ----------
    betas : sequence of ndarray
        For each panel.
    errors : sequence of dict
        For each panel, from the name of an estimate to its errors.
    titles : sequence of str
    floors : sequence of float
        The rounding error u of each panel's precision. The line u/β is drawn.
    """
    figure = Figure(figsize=(9, 3.6))
    panels = figure.subplots(1, len(titles), sharey=True)
    for ax, grid, curves, title, floor in zip(panels, betas, errors, titles, floors, strict=True):
        for name, values in curves.items():
            colour, marker = ESTIMATES[name]
            ax.loglog(grid, values, color=colour, marker=marker, markersize=4, label=name)
        ax.loglog(grid, floor / grid, ":", color="black", linewidth=1, label="rounding, $u/\\beta$")
        ax.set(xlabel=r"$\beta$", title=title, ylim=(3e-13, 3))
    panels[0].set_ylabel("relative error of the gradient")
    panels[0].text(1e-6, 2e-6, "slope 1", color=COLOURS["nudged"], ha="right")
    panels[0].text(2e-4, 3e-9, "slope 2", color=COLOURS["ep"], ha="left")
    panels[0].legend(loc="lower left", fontsize=8)
    return figure


def draw_disturbed(betas: Any, errors: dict[str, dict[str, Any]]) -> Figure:
    """Draw the error of the estimates over β for each disturbance, with a dot at the best β."""
    figure = Figure(figsize=(9, 3.2))
    panels = figure.subplots(1, len(errors), sharey=True)
    for ax, (title, curves) in zip(panels, errors.items(), strict=True):
        for name, values in curves.items():
            colour, _ = ESTIMATES[name]
            best = int(np.argmin(values))
            ax.loglog(betas, values, color=colour, label=name)
            ax.loglog(betas[best], values[best], "o", color=colour)
        ax.set(xlabel=r"$\beta$", title=title, ylim=(1e-4, 30))
    panels[0].set_ylabel("relative error of the gradient")
    panels[0].legend(loc="lower left")
    return figure


def draw_parts(parts: dict[str, dict[str, Any]]) -> Figure:
    """Draw how far each part of an update points along its weight: mean and range over seeds, as bars.

    Parameters
    ----------
    parts : dict
        From the name of a part to a dict from the name of a weight to one number for each seed.
    """
    colours = (COLOURS["bptt"], COLOURS["fourth"], COLOURS["third"], COLOURS["muted"])
    weights = list(next(iter(parts.values())))
    figure = Figure(figsize=(9, 3))
    for ax, weight in zip(figure.subplots(1, len(weights)), weights, strict=True):
        for k, (name, values) in enumerate(parts.items()):
            mean, low, high = (f(values[weight]) for f in (np.mean, np.min, np.max))
            ax.bar(k, mean, 0.8, color=colours[k], label=name)
            ax.errorbar(k, mean, [[mean - low], [high - mean]], color="0.4", capsize=3, linewidth=1)
        ax.axhline(0, color="black", linewidth=0.8)
        ax.set(xticks=[], title=weight)
        ax.spines["bottom"].set_visible(False)
    figure.axes[0].set_ylabel("push along the weight")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=4)
    return figure


def draw_trainings(runs: dict[str, Any], titles: Sequence[str], bins: int = 6) -> Figure:
    """Draw what several trainings with each estimate did: means over bins of batches, with error bars.

    Parameters
    ----------
    runs : dict
        From the name of an estimate to an array of shape (seeds, batches, quantities).
    titles : sequence of str
        One for each quantity, with its unit.
    bins : int
        The number of points of a curve.

    An error bar is the standard deviation over the seeds. The curves are shifted a little sideways, so that
    none hides another.
    """
    figure = Figure(figsize=(9, 3.3))
    panels = figure.subplots(1, len(titles))
    for k, (name, run) in enumerate(runs.items()):
        colour, marker = ESTIMATES[name]
        seeds, batches, quantities = run.shape
        width = batches // bins
        means = run[:, : bins * width].reshape(seeds, bins, width, quantities).mean(axis=2)
        middle = width * (np.arange(bins) + 0.5) + 0.25 * width * (k - 1)
        for ax, title, values in zip(panels, titles, np.moveaxis(means, 2, 0), strict=True):
            mean, spread = values.mean(axis=0), values.std(axis=0)
            ax.errorbar(
                middle, mean, spread, color=colour, marker=marker, markersize=4, linewidth=1, label=name
            )
            ax.set(xlabel="batch", title=title, xlim=(0, batches), ylim=(0, None))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


# ---- matrices and feature maps of notebook 4


def show_numbers(
    ax: Axes,
    a: Any,
    title: str = "",
    cmap: str = "Blues",
    limits: tuple[float, float] | None = None,
    size: float = 9,
) -> None:
    """Draw a matrix as coloured squares with its numbers."""
    low, high = limits or (min(np.min(a), 0), max(np.max(a), 1) * 1.6)
    ax.imshow(a, cmap=cmap, vmin=low, vmax=high)
    for (i, j), value in np.ndenumerate(a):
        ax.text(j, i, f"{value:g}".replace("-", "−"), ha="center", va="center", fontsize=size)
    ax.set(xticks=[], yticks=[])
    ax.set_title(title, loc="center")


def frame(ax: Axes, row: float, column: float, height: int = 1, width: int = 1, colour: str = "0.3") -> None:
    """Draw a box around some entries of a matrix that `show_numbers` drew."""
    corner = (column - 0.5, row - 0.5)
    ax.add_patch(
        plt.Rectangle(corner, width, height, fill=False, ec=colour, linewidth=2.2, clip_on=False, zorder=3)
    )


SIGNED = {"cmap": "RdBu_r", "limits": (-6, 6)}
"""Options of `show_numbers` for numbers of both signs."""


def draw_lowering(image: Any, patches: Any, kernel: Any, product: Any, row: int = 6) -> Figure:
    """Draw a convolution as a matrix product, with one patch framed in each picture.

    Parameters
    ----------
    image : ndarray, shape (H, W)
    patches : ndarray, shape (H'W', k²)
    kernel : ndarray, shape (k, k)
    product : ndarray, shape (H'W',)
    row : int
        The patch to frame.
    """
    k, width = len(kernel), image.shape[1] - len(kernel) + 1
    i, j = divmod(row, width)
    figure = Figure(figsize=(9, 4.2))
    axes = figure.subplots(1, 5, width_ratios=[5, 3.6, 1.2, 1.2, 4])
    show_numbers(axes[0], image, "image $s$")
    show_numbers(axes[1], patches, f"patches,\n{len(patches)} × {k * k}", size=7)
    show_numbers(axes[2], kernel.reshape(-1, 1), "kernel", **SIGNED)
    show_numbers(axes[3], product.reshape(-1, 1), "product", size=7, **SIGNED)
    show_numbers(axes[4], product.reshape(-1, width), r"$w \star s$", **SIGNED)
    blue = COLOURS["free"]
    boxes = ((i, j, k, k), (row, 0, 1, k * k), (0, 0, k * k, 1), (row, 0, 1, 1), (i, j, 1, 1))
    for ax, box in zip(axes, boxes, strict=True):
        frame(ax, *box, colour=blue)
    return figure


def draw_kernel(image: Any, kernel: Any, convolved: Any, pooled: Any) -> Figure:
    """Draw an image, a kernel, the convolution and the pooled convolution, each of shape (H, W)."""
    figure = Figure(figsize=(9, 2.7))
    axes = figure.subplots(1, 4)
    limit = 0.8 * max(np.abs(convolved).max(), 1e-9)
    show_numbers(axes[1], kernel.round(1), "kernel $w$", "RdBu_r", (-3, 3), size=7)
    axes[0].imshow(image, vmin=0, vmax=1)
    for ax, a in ((axes[2], convolved), (axes[3], pooled)):
        ax.imshow(a, cmap="RdBu_r", vmin=-limit, vmax=limit)
    titles = ("image $x$", None, r"$w \star x$", r"$\mathcal{P}(w \star x)$")
    for ax, a, title in zip(axes, (image, None, convolved, pooled), titles, strict=True):
        if title:
            ax.set_title(f"{title}, {a.shape[0]}×{a.shape[1]}", loc="center")
            ax.set(xticks=[], yticks=[])
    return figure


def draw_convolution_matrices(
    matrices: dict[str, tuple[Any, str, str]], cmap: str = "RdBu_r", width: float = 9
) -> Figure:
    """Draw matrices side by side as coloured squares.

    Parameters
    ----------
    matrices : dict
        From a title to (matrix, what it maps to, what it maps from).
    cmap : str
    width : float
        Of the figure, in inches.
    """
    shapes = [matrix.shape for matrix, *_ in matrices.values()]
    figure = Figure(figsize=(width, 3.1))
    axes = figure.subplots(1, len(matrices), width_ratios=[columns for _, columns in shapes])
    for ax, (title, (matrix, rows, columns)) in zip(axes, matrices.items(), strict=True):
        limit = 1.6 * np.abs(matrix).max()
        ax.imshow(matrix, cmap=cmap, vmin=-limit, vmax=limit)
        ax.set(xticks=np.arange(-0.5, matrix.shape[1]), yticks=np.arange(-0.5, matrix.shape[0]))
        ax.grid(color="0.85", linewidth=0.5)
        ax.tick_params(length=0, labelbottom=False, labelleft=False)
        ax.set_title(title, loc="center")
        ax.set(xlabel=f"from {columns}", ylabel=f"to {rows}")
    return figure


def draw_pooling(a: Any, switches: Any, pooled: Any, post: Any, unpooled: Any) -> Figure:
    """Draw max-pooling by 2 with its switches, and unpooling, with the windows framed."""
    figure = Figure(figsize=(9, 2.4))
    axes = figure.subplots(1, 5, width_ratios=[4, 4, 2.6, 2.6, 4])
    show_numbers(axes[0], a, r"$a = w \star s^{\mathrm{pre}}$", **SIGNED)
    show_numbers(axes[1], switches.astype(int), "switches $m$", limits=(0, 2.5))
    show_numbers(axes[2], pooled, r"$\mathcal{P}(a)$", **SIGNED)
    show_numbers(axes[3], post, r"$s^{\mathrm{post}}$", "Oranges", (0, 1.6))
    show_numbers(axes[4], unpooled, r"$\mathcal{P}^{-1}(s^{\mathrm{post}})$", "Oranges", (0, 1.6))
    for ax in axes[[0, 1, 4]]:
        for i, j in np.ndindex(*np.shape(pooled)):
            frame(ax, 2 * i, 2 * j, 2, 2)
    return figure


def draw_patches(image: Any, unpooled: Any, k: int = 2) -> Figure:
    """Draw ∂φ/∂w as the sum of the patches at the switches, each times its value of post."""
    places = np.argwhere(unpooled)
    figure = Figure(figsize=(9, 2.3))
    axes = figure.subplots(1, len(places) + 2, width_ratios=[5, *[2.4] * len(places), 2.8])
    show_numbers(axes[0], image, r"$s^{\mathrm{pre}}$")
    total = np.zeros((k, k))
    for n, (i, j) in enumerate(places):
        patch, value = image[i : i + k, j : j + k], unpooled[i, j]
        total += value * patch
        show_numbers(axes[n + 1], patch, f"{'+ ' if n else ''}{value:g} ×", limits=(0, 5))
        for ax, corner in ((axes[0], (i, j)), (axes[n + 1], (0, 0))):
            frame(ax, *corner, k, k, LAYERS[n])
    show_numbers(axes[-1], total, r"= $\partial\phi/\partial w$", "Oranges", (0, 12))
    return figure


def draw_phi_along_a_line(
    r: Any, values: Any, kinks: Any, tangents: dict[float, tuple[float, float]]
) -> Figure:
    """Draw φ along a line in the space of s^pre, the places where a switch changes, and tangents.

    Parameters
    ----------
    r, values : ndarray
        The place on the line, and φ there.
    kinks : sequence of float
    tangents : dict
        From a place r to (φ, slope with the switches of this place held).
    """
    figure = Figure(figsize=(9, 3.2))
    ax = figure.subplots()
    for k, place in enumerate(kinks):
        label = "a switch changes" if k == 0 else None
        ax.axvline(place, color=COLOURS["muted"], linestyle=":", linewidth=0.9, label=label)
    ax.plot(r, values, color=COLOURS["free"], label=r"$\phi$, maxima found anew")
    for k, (place, (value, slope_of)) in enumerate(tangents.items()):
        ends = place + np.array([-0.3, 0.3])
        label = "slope with the switches of the dot held" if k == 0 else None
        ax.plot(ends, value + slope_of * (ends - place), color=COLOURS["nudged"], label=label)
        ax.plot(place, value, "o", color=COLOURS["nudged"])
    ax.set(xlabel="$r$", ylabel=r"$\phi$", title=r"$\phi$ on the line $s^{\mathrm{pre}} + r\,v$")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def draw_maps(
    image: Any, state: Sequence[Any], cmap: str = "gray", limits: Sequence[float] | None = None
) -> Figure:
    """Draw one sample of a CNN with two convolutional layers: every feature map, and the output as bars.

    Parameters
    ----------
    image : ndarray, shape (H, W)
    state : (s¹, s², s³), of shapes (H, W, C), (H, W, C) and (n,)
    cmap : str
        Of the feature maps.
    limits : sequence of float, optional
        If given, the colours of the layers range from −limit to limit; otherwise from 0 to the maximum.
    """
    first, second, output = state
    figure = Figure(figsize=(9, 5))
    top, bottom = figure.subfigures(2, 1, height_ratios=[1.35, 1])
    left, middle = top.subfigures(1, 2, width_ratios=[1, 2.9])
    right = bottom.subfigures(1, 2, width_ratios=[2.9, 1])
    ax = left.subplots()
    ax.imshow(image, vmin=0, vmax=1)
    ax.set(xticks=[], yticks=[])
    ax.set_title("input $x$", loc="center")
    for part, maps, rows, n in ((middle, first, 1, 0), (right[0], second, 2, 1)):
        low, high = (0, maps.max()) if limits is None else (-limits[n], limits[n])
        axes = part.subplots(rows, maps.shape[2] // rows)
        for ax, k in zip(axes.flat, range(maps.shape[2]), strict=True):
            shown = ax.imshow(maps[..., k], cmap=cmap, vmin=low, vmax=high)
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(True)
        part.suptitle(f"layer {n + 1}: {maps.shape[2]} maps of {maps.shape[0]}×{maps.shape[1]}")
        part.colorbar(shown, ax=axes, aspect=18, shrink=0.8, pad=0.02)
    ax = right[1].subplots()
    ax.barh(range(len(output)), output, color=COLOURS["free"] if limits is None else COLOURS["nudged"])
    ax.axvline(0, color="black", linewidth=0.8)
    ax.set(yticks=range(len(output)), title="output")
    ax.invert_yaxis()
    return figure


def draw_cosines(cosines: dict[str, Sequence[float]]) -> Figure:
    """Draw the cosine between an update and the gradient for several networks, by the kind of connection."""
    figure = Figure(figsize=(9, 3))
    ax = figure.subplots()
    colours = (COLOURS["ep"], COLOURS["nudged"], COLOURS["second"], COLOURS["third"])
    for n, (values, colour) in enumerate(zip(cosines.values(), colours, strict=False)):
        places = np.linspace(n - 0.2, n + 0.2, len(values))
        ax.plot(places, values, "o", color=colour, markersize=6)
    for value, style in ((1, "--"), (0, ":")):
        ax.axhline(value, color=COLOURS["bptt"], linewidth=0.8, linestyle=style, zorder=0)
    ax.set(xticks=range(len(cosines)), xticklabels=list(cosines), ylim=(-0.7, 1.1))
    ax.set(ylabel="cosine to the gradient", title="EP's update of the first kernel")
    return figure


def draw_ties(
    energy: Callable[..., Any], path: Callable[..., Any], starts: Sequence[tuple[float, float]]
) -> Figure:
    """Draw the energy of two neurons in one pooling window, with paths, for a positive and a negative post.

    Parameters
    ----------
    energy : callable
        Maps (s₁, s₂, v) to the energy, where v is the value of post.
    path : callable
        Maps a start and v to states, shape (steps + 1, 2).
    starts : sequence of (s₁, s₂)
    """
    figure = Figure(figsize=(9, 3.8))
    colours = (COLOURS["free"], COLOURS["second"], COLOURS["third"])
    titles = ("post = +1: a ridge at the tie", "post = −1: a minimum at the tie")
    for ax, v, title in zip(figure.subplots(1, 2), (1.0, -1.0), titles, strict=True):
        draw_landscape(ax, lambda a, b, v=v: energy(a, b, v), -1.2, 1.6)
        ax.plot([-1.2, 1.6], [-1.2, 1.6], ":", color="black", linewidth=1)
        for start, colour in zip(starts, colours, strict=True):
            ax.plot(*path(start, v).T, ".-", color=colour, linewidth=1, markersize=4)
        ax.set_title(title)
    return figure


# ---- notebooks 5 and 6


def jacobian(dynamics: Any, theta: Any, x: Any, s: Any) -> Any:
    """Return J = ∂F/∂s of the free step at a state of one sample, with all layers in one vector.

    Row i is the vector-Jacobian product of unit vector i, so one call with a batch of unit vectors is enough.
    """
    sizes = [layer.shape[1] for layer in s]
    copies = tuple(np.repeat(layer, sum(sizes), axis=0) for layer in s)
    units = tuple(np.split(np.eye(sum(sizes)), np.cumsum(sizes)[:-1], axis=1))
    step = eq.linearize(dynamics, theta, np.repeat(x, sum(sizes), axis=0), copies)
    return np.concatenate(step.vjp(units), axis=1)


def draw_unrolled() -> Figure:
    """Draw the last steps of the first phase with a copy of θ for each, and the gradients of Eq. (6)."""
    figure = Figure(figsize=(7, 2.8))
    ax = figure.subplots()
    forward, back = COLOURS["free"], COLOURS["bptt"]

    def arrow(start: Any, end: Any, colour: str, shrink: float = 18, line: str = "-") -> None:
        style = {"arrowstyle": "-|>", "color": colour, "lw": 1.5, "ls": line}
        ax.annotate("", end, start, arrowprops=style | {"shrinkA": shrink, "shrinkB": shrink})

    for column, name in enumerate(("T-3", "T-2", "T-1", "T")):
        t = 3 - column
        ax.plot(column, 0, "o", ms=35, mfc="white", mec=forward, mew=1.5)
        ax.text(column, 0, f"$s_{{{name}}}$", ha="center", va="center", fontsize=11)
        ax.plot(column, 1, "s", ms=32, mfc="white", mec="0.5", mew=1.5)
        ax.text(column, 1, rf"$\theta_{{{name}}}$", ha="center", va="center", fontsize=11)
        arrow((column, 1), (column, 0), forward)
        arrow((column - 1 + 0.3 * (not column), 0), (column, 0), forward)
        arrow((column + 0.74, -0.5), (column + 0.26, -0.5), back, 0, "--")
        ax.text(column, -0.5, rf"$\nabla_s({t})$", color=back, ha="center", va="center", fontsize=11)
        arrow((column + 0.2, 0.33), (column + 0.2, 0.68), back, 0, "--")
        ax.text(column + 0.24, 0.53, rf"$\nabla_\theta({t})$", color=back, va="center", fontsize=11)
    arrow((3, 0), (4, 0), forward)
    ax.text(4.3, 0, r"$\mathcal{L} = \ell(s_T, y)$", ha="center", va="center", fontsize=12)
    ax.text(-0.9, 0, "…", ha="center", va="center", fontsize=14)
    ax.set(xlim=(-1, 4.75), ylim=(-0.7, 1.25))
    ax.axis("off")
    return figure


def draw_copies(moments: Sequence[Any]) -> Figure:
    """Draw ∇_θ(t), a row for each copy. Exact zeros are grey, and hatched if a zero state is the cause."""
    names = list(moments[0].theta)
    rows = np.array([np.concatenate([m.theta[n].ravel() for n in names]) for m in moments])
    edges = np.cumsum([0] + [moments[0].theta[name].size for name in names])
    figure = Figure(figsize=(7, 2.7))
    ax = figure.subplots()
    limit = 0.15 * np.abs(rows).max()
    shown = np.where(rows == 0, np.nan, rows)
    image = ax.imshow(shown, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
    for t, moment in enumerate(moments):
        for name, left, right in zip(names, edges[:-1], edges[1:], strict=True):
            ends = [int(n) for n in name[1:].split("-") if n != "0"]
            reached = any(moment.state[n - 1].any() for n in ends)
            if reached and not moment.theta[name].any():
                box = Rectangle(
                    (left - 0.5, t - 0.5), right - left, 1, fc="none", ec="0.35", lw=0, hatch="///"
                )
                ax.add_patch(box)
    for edge in edges[1:-1]:
        ax.axvline(edge - 0.5, color="0.3", lw=0.8)
    for t in range(1, len(rows)):
        ax.axhline(t - 0.5, color="white", lw=1)
    ax.set(ylabel="$t$", yticks=range(len(rows)), facecolor="0.8")
    ax.set_xticks((edges[1:] + edges[:-1] - 1) / 2, names)
    ax.tick_params(length=0)
    figure.colorbar(image, ax=ax, label=r"$\nabla_\theta(t)$, clipped", extend="both")
    return figure


def draw_matrices(matrices: Mapping[str, Any], sizes: Sequence[int]) -> Figure:
    """Draw square matrices over layers of these sizes, with ‖J − Jᵀ‖/‖J‖ in the titles."""
    figure = Figure(figsize=(7.4, 2.3))
    edges = np.cumsum([0, *sizes])
    ticks = (edges[1:] + edges[:-1] - 1) / 2
    names = [f"$s^{n}$" for n in range(1, len(sizes) + 1)]
    for ax, (title, matrix) in zip(figure.subplots(1, len(matrices)), matrices.items(), strict=True):
        ax.imshow(matrix, cmap="RdBu_r", vmin=-1.2, vmax=1.2)
        for edge in edges[1:-1]:
            ax.axhline(edge - 0.5, color="0.3", lw=0.6)
            ax.axvline(edge - 0.5, color="0.3", lw=0.6)
        ax.set_xticks(ticks, names)
        ax.set_yticks(ticks, names)
        ax.tick_params(length=0)
        asymmetry = np.linalg.norm(matrix - matrix.T) / np.linalg.norm(matrix)
        ax.set_title(f"{title}\nasymmetry {asymmetry:.2f}", loc="center", fontsize=9)
    return figure


def draw_fading(processes: Mapping[str, Sequence[Any]]) -> Figure:
    """Draw the size of ∇_s(t) in each layer, a panel for each process. White is an exact zero."""
    figure = Figure(figsize=(7.2, 2.5))
    axes = figure.subplots(1, len(processes), sharey=True)
    for ax, (title, moments) in zip(axes, processes.items(), strict=True):
        sizes = np.array([[np.linalg.norm(value) for value in m.state] for m in moments]).T
        shown = np.log10(np.where(sizes > 0, sizes, np.nan))
        image = ax.imshow(shown, cmap="viridis", vmin=-4, vmax=0, aspect="auto", origin="lower")
        ax.set(xlabel="$t$, steps back from the end", title=title)
    depth = len(sizes)
    axes[0].set_yticks(range(depth), [f"layer {n}" for n in range(1, depth)] + [f"output, {depth}"])
    figure.colorbar(image, ax=axes, label=r"$\log_{10} \|\nabla_s(t)\|$", extend="min")
    return figure


def draw_truncation(processes: Mapping[str, Sequence[Any]], K: int) -> Figure:
    """Draw the part of dL/dw that the last K copies leave out, for each weight, and in all against K."""
    figure = Figure(figsize=(7.2, 2.9))
    left, right = figure.subplots(1, 2, width_ratios=[1.2, 1])
    colours = (COLOURS["free"], COLOURS["third"])
    for k, (colour, (title, moments)) in enumerate(zip(colours, processes.items(), strict=True)):
        weights = [name for name in moments[0].theta if name[0] == "w"]
        missing = {}
        for name in weights:
            sums = np.cumsum([m.theta[name].ravel() for m in moments], axis=0)
            missing[name] = np.linalg.norm(sums - sums[-1], axis=1) / np.linalg.norm(sums[-1])
        place = np.arange(len(weights)) + 0.4 * k - 0.2
        left.bar(place, [100 * missing[name][K - 1] for name in weights], 0.38, color=colour, label=title)
        total = np.cumsum([np.concatenate([v.ravel() for v in m.theta.values()]) for m in moments], axis=0)
        curve = np.linalg.norm(total - total[-1], axis=1) / np.linalg.norm(total[-1])
        right.semilogy(np.arange(1, 41), 100 * curve[:40], color=colour)
        right.semilogy(K, 100 * curve[K - 1], "o", color=colour)
    left.set(ylim=(0, 132), yticks=range(0, 101, 25), ylabel="missing (%)", title=f"each weight, K = {K}")
    left.set_xticks(range(len(weights)), weights)
    left.legend(loc="upper right", fontsize=8)
    right.set(xlabel="K, copies in the sum", ylabel="missing (%)", title="all parameters together")
    return figure


def draw_memory(factors: Any, radii: Any, curves: Mapping[float, tuple[float, Any]]) -> Figure:
    """Draw the spectral radius against the scale of the weights, and the missing part against K."""
    figure = Figure(figsize=(7.2, 2.8))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.5])
    left.plot(factors, radii, color="0.5")
    for colour, (factor, (radius, missing)) in zip(LAYERS, curves.items(), strict=False):
        left.plot(factor, radius, "o", color=colour)
        right.semilogy(np.arange(1, 61), missing[:60], ".", color=colour, ms=4, label=f"$r$ = {radius:.2f}")
        count = np.arange(12, 61)
        right.semilogy(count, missing[11] * radius ** (count - 12.0), "--", color=colour, lw=1)
    left.set(xlabel="factor of the weights", ylabel="spectral radius $r$ of $J$", ylim=(0, 1))
    right.set(xlabel="$K$, copies in the sum", ylabel="missing part, relative", ylim=(1e-8, 2))
    right.legend(loc="upper right")
    return figure


def draw_process_maps(rows: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Draw Δ(t), −∇(t) and their difference as maps, a row of panels for each pair of arrays (units, t).

    The units are sorted by their total. The colours end at half of the largest value.
    """
    figure = Figure(figsize=(7.4, 4.9))
    axes = figure.subplots(len(rows), 4, sharex=True, sharey="row")
    for panels, (label, (delta, minus_nabla)) in zip(axes, rows.items(), strict=True):
        order = minus_nabla.sum(axis=1).argsort()
        difference = delta - minus_nabla
        limit = 0.5 * np.abs(minus_nabla).max()
        for ax, values in zip(panels, (delta, minus_nabla, difference, 100 * difference), strict=True):
            image = ax.imshow(values[order], cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto")
            ax.set(yticks=[])
        panels[0].set_ylabel(label)
        figure.colorbar(image, ax=panels[-1], format="%.2g")
    for ax, title in zip(axes[0], ("EP: Δ(t)", "BPTT: −∇(t)", "difference", "difference × 100"), strict=True):
        ax.set_title(title)
    for ax in axes[-1]:
        ax.set_xlabel("t")
    return figure


def draw_nudge_strength(
    beta: float,
    delta: Any,
    minus_nabla: Any,
    betas: Any,
    curves: Mapping[str, Any],
) -> Figure:
    """Draw Δ(t) over −∇(t) for some synapses at one β, and the distance of all of them against β."""
    figure = Figure(figsize=(7.2, 3.1))
    left, right = figure.subplots(1, 2, width_ratios=[1.15, 1])
    for k, (plain, dashed) in enumerate(zip(delta, minus_nabla, strict=True)):
        left.plot(plain, color=COLOURS["ep"], lw=3, alpha=0.5, label="EP: Δ(t)" if not k else None)
        left.plot(dashed, "--", color=COLOURS["bptt"], lw=1, label="BPTT: −∇(t)" if not k else None)
    left.set(xlabel="t", title=f"some synapses, β = {beta:.3g}")
    left.legend(loc="lower right")
    for (name, distances), marker in zip(curves.items(), "os^D", strict=False):
        colour = COLOURS["ep"] if name.startswith("one") else COLOURS["second"]
        style = {"mfc": "none"} if name.endswith("s") else {}
        right.loglog(betas, distances, marker, ls="-", color=colour, ms=4, lw=1, label=name, **style)
    right.axvline(beta, color=COLOURS["nudged"], lw=1)
    right.set(xlabel="nudge β", ylabel="distance of Δ from −∇", ylim=(1e-11, 1e4))
    right.legend(loc="upper left", fontsize=8)
    return figure


def draw_drift(cuts: Sequence[int], residuals: Any, betas: Sequence[float], distances: Any) -> Figure:
    """Draw the distance in θ against the length of the first phase, and against drift / β.

    ``distances`` has a row for each length and a column for each β.
    """
    figure = Figure(figsize=(7.2, 3))
    left, right = figure.subplots(1, 2, sharey=True)
    for beta, curve, colour in zip(betas, np.transpose(distances), LAYERS, strict=False):
        left.semilogy(cuts, curve, "o-", ms=3.5, lw=1.2, color=colour, label=f"β = {beta:g}")
        right.loglog(np.divide(residuals, beta), curve, "o", ms=4, color=colour, label=f"β = {beta:g}")
    left.set(xlabel="T, steps of the first phase", ylabel="distance in θ")
    right.set(xlabel="last free step of any neuron / β")
    left.legend()
    return figure


def draw_rates(betas: Any, at_fixed_eta: Mapping[float, Any], ratios: Any, by_ratio: Any) -> Figure:
    """Draw C-EP's distance from −∇ against β at fixed η, and its distance from EP against η/β."""
    figure = Figure(figsize=(7.2, 3))
    left, right = figure.subplots(1, 2)
    colours = (COLOURS["ep"], *LAYERS[1:])
    for (eta, curve), colour in zip(at_fixed_eta.items(), colours, strict=True):
        left.loglog(betas, curve, color=colour, label=f"η = {eta:g}")
    left.set(xlabel="nudge β", ylabel="distance of C-EP from −∇, in θ", ylim=(1e-5, 10))
    left.legend(loc="lower right", fontsize=8)
    for (beta, curve), marker, colour in zip(by_ratio.items(), "os^", LAYERS, strict=False):
        right.loglog(ratios, curve, marker, ms=6, mfc="none", color=colour, label=f"β = {beta:g}")
    right.set(xlabel="η / β", ylabel="distance of C-EP from EP, in θ")
    right.legend()
    return figure


def draw_gap(betas: Any, to_bptt: Any, to_drives: Any, slopes: Any) -> Figure:
    """Draw EP's distance from two gradients in discrete time, and the σ′ of the output neurons."""
    figure = Figure(figsize=(7.2, 2.9))
    left, right = figure.subplots(1, 2, width_ratios=[1.25, 1])
    left.loglog(betas, to_bptt, "s--", ms=4, color=COLOURS["bptt"], label="to BPTT")
    left.loglog(betas, to_drives, "o-", ms=4, color=COLOURS["ep"], label="to drive_gradients")
    left.set(xlabel="nudge β", ylabel="distance in θ")
    left.legend()
    right.hist(np.ravel(slopes), bins=np.linspace(0, 1, 26), color=COLOURS["muted"])
    right.set(xlabel="σ′ of the output neurons", ylabel="neurons, of all samples")
    return figure


def draw_kinks(betas: Any, curves: Mapping[str, tuple[Any, Any]]) -> Figure:
    """Draw EP's distance from BPTT and the largest displacement of layer 1 against β, a curve per network."""
    figure = Figure(figsize=(7.2, 3.5))
    left, right = figure.subplots(1, 2)
    colours = (COLOURS["ep"], COLOURS["fourth"], COLOURS["nudged"], COLOURS["muted"])
    for (name, (distances, moves)), colour, marker in zip(curves.items(), colours, "o^sD", strict=True):
        style = {"marker": marker, "ms": 4, "lw": 1.2, "color": colour, "label": name}
        left.loglog(betas, distances, **style)
        right.loglog(betas, moves, **style)
    left.set(xlabel="nudge β", ylabel="distance in θ")
    right.set(xlabel="nudge β", ylabel="largest displacement in layer 1")
    figure.legend(*right.get_legend_handles_labels(), loc="outside lower center", ncols=2, fontsize=8)
    return figure


# ---- notebook 7: the weight of the two neurons moves while their state slides

Paths = tuple[Any, Any]
"""The states, shape (steps + 1, 2), and the weight, shape (steps + 1,), of a second phase."""


def pair_phase(eta: float, beta: float = 0.5, steps: int = 60, x: float = 0.3, target: float = 1.0) -> Paths:
    """Return the states and the weight of two neurons in a second phase of C-EP, Eq. (5).

    With ``eta`` = 0 this is the second phase of EP. The first phase has converged with the weight 1.
    """
    s, w = nudged_minimum(0.0, 1.0, x, target), 1.0
    states, weights = [s], [w]
    for _ in range(steps):

        def height(s1: Any, s2: Any, w: float = w) -> Any:
            return pair_energy(s1, s2, w, x) + beta * (s2 - target) ** 2 / 2

        moved = s - 0.2 * slope(height, *s)
        w += eta / beta * (np.prod(np.tanh(moved)) - np.prod(np.tanh(s)))
        s = moved
        states.append(s)
        weights.append(w)
    return np.array(states), np.array(weights)


def draw_moving_weight(eta: float, beta: float = 0.5, steps: int = 60) -> Figure:
    """Draw the second phases of EP and of C-EP on the landscape E + βℓ of two neurons, and the weight.

    Left: the landscape with the weight of the first phase. Middle: with the weight in which C-EP ends.
    """
    still, _ = pair_phase(0.0, beta, steps)
    moving, weights = pair_phase(eta, beta, steps)
    jump = eta / beta * (np.prod(np.tanh(still[-1])) - np.prod(np.tanh(still[0])))
    figure = Figure(figsize=(9.6, 3.2))
    left, middle, right = figure.subplots(1, 3, width_ratios=[1, 1, 1.2])
    for ax, w, path, name in (
        (left, 1.0, still, "ep"),
        (middle, weights[-1], moving, "second"),
    ):

        def height(s1: Any, s2: Any, w: float = w) -> Any:
            return pair_energy(s1, s2, w) + beta * (s2 - 1) ** 2 / 2

        draw_landscape(ax, height, 0.1, 0.9)
        ax.axhline(still[-1, 1], color="0.35", linestyle=":", linewidth=1)
        ax.axvline(still[-1, 0], color="0.35", linestyle=":", linewidth=1)
        ax.plot(*path.T, color=COLOURS[name], linewidth=2.5)
        ax.plot(*path[0], "o", color=COLOURS["free"], markersize=7)
        ax.plot(*path[-1], "o", color=COLOURS["nudged"], markersize=7)
    left.set_title("EP: $w = 1$ all the time")
    middle.set_title(f"C-EP: at the end $w = {weights[-1]:.2f}$")
    t = np.arange(steps + 1)
    right.plot([0, steps, steps, steps + 6], [1, 1, 1 + jump, 1 + jump], color=COLOURS["ep"], label="EP")
    right.plot(
        [*t, steps + 6], [*weights, weights[-1]], color=COLOURS["second"], label=f"C-EP, η = {eta:.2f}"
    )
    right.set(xlabel="step $t$ of the second phase", title="The weight $w$", ylim=(0.98, 1.37))
    right.legend(loc="upper left")
    return figure


def draw_continual_bias(etas: Any, distances: Any) -> Figure:
    """Draw the distance of C-EP's update from EP's over η, one line for each network (row)."""
    figure = Figure(figsize=(5.6, 2.9))
    ax = figure.subplots()
    for k, row in enumerate(distances):
        label = f"C-EP, {len(distances)} networks" if k == 0 else None
        ax.loglog(etas, row, ".-", color=COLOURS["second"], linewidth=1, alpha=0.8, label=label)
    middle = np.median(distances[:, 0])
    ax.loglog(etas, middle * etas / etas[0], ":", color="black", label="slope 1")
    ax.set(xlabel="learning rate η", ylabel="relative distance to EP's update")
    ax.legend()
    return figure


def draw_continual_processes(
    eta: float, nablas: Sequence[Any], ep: Sequence[Any], cep: Sequence[Any], titles: Sequence[str]
) -> Figure:
    """Draw Δ_θ(t) of EP and of C-EP for six synapses, with −∇_θ(t) dashed.

    Parameters
    ----------
    eta : float
        η of C-EP, for the title.
    nablas, ep, cep : sequence of Moment
        The gradients of BPTT and the two processes of updates.
    titles : two of str
        What the titles of the two panels say after the names.
    """
    weights = [name for name in nablas[0].theta if name.startswith("w")]
    totals = {name: sum(m.theta[name] for m in nablas) for name in weights}
    places = [(name, k) for name, total in totals.items() for k in (total.argmin(), total.argmax())]
    colours = [COLOURS[name] for name in ("free", "nudged", "ep", "second", "third", "fourth")]
    figure = Figure(figsize=(8.6, 3))
    panels = figure.subplots(1, 2, sharey=True)
    names = ("EP", f"C-EP, η = {eta:.0e}")
    for ax, process, name, title in zip(panels, (ep, cep), names, titles, strict=True):
        for (weight, place), colour in zip(places, colours, strict=False):
            ax.plot([m.theta[weight].flat[place] for m in process], color=colour, linewidth=3, alpha=0.45)
            ax.plot([-m.theta[weight].flat[place] for m in nablas], "--", color=COLOURS["bptt"], linewidth=1)
        ax.set(xlabel="step $t$", title=f"{name}: {title}")
    panels[0].plot([], [], color="0.5", linewidth=3, alpha=0.6, label=r"$\Delta_\theta(t)$")
    panels[0].plot([], [], "--", color=COLOURS["bptt"], linewidth=1, label=r"$-\nabla_\theta(t)$ of BPTT")
    low = min(-m.theta[name].flat[k] for m in nablas for name, k in places)
    high = max(-m.theta[name].flat[k] for m in nablas for name, k in places)
    panels[0].set_ylim(low - 0.5 * (high - low), high + 0.5 * (high - low))
    panels[0].legend(loc="upper right")
    return figure


def draw_eta_beta_map(betas: Any, etas: Any, errors: Any, best: Any, limit: Any) -> Figure:
    """Draw a map of the error over β and η.

    Parameters
    ----------
    betas, etas : ndarray
        The grid.
    errors : ndarray, shape (len(etas), len(betas))
    best, limit : ndarray
        For each β, the η where the two errors cancel, and the η where γ = 1.
    """
    figure = Figure(figsize=(6.6, 3.9))
    ax = figure.subplots()
    image = ax.pcolormesh(betas, etas, errors, norm=LogNorm(1e-3, 10), cmap="viridis", shading="nearest")
    ax.plot(betas, best, "--", color="white", linewidth=1.5)
    ax.plot(betas, limit, color="black", linewidth=1.5)
    step = np.sqrt(etas[1] / etas[0])
    ax.set(xscale="log", yscale="log", xlabel="nudge β", ylabel="learning rate η")
    ax.set_ylim(etas[0] / step, etas[-1] * step)
    figure.colorbar(image, label="relative distance to BPTT", extend="both")
    return figure


def draw_hill(gammas: Any, by_sign: Mapping[str, Any], eta: float = 0.6, beta: float = 0.5) -> Figure:
    """Draw what moving weights add to the energy of two neurons, and the error of C-EP for both signs of β.

    Parameters
    ----------
    gammas : ndarray
        The feedback γ of the moving weights.
    by_sign : dict
        For each of "β > 0", "β < 0" and "mean of both" the errors at these γ.
    eta, beta : float
        η and \\|β\\| of the left panel.
    """
    figure = Figure(figsize=(8.8, 3))
    left, right = figure.subplots(1, 2)
    free, nudged = nudged_minimum(np.array([0.0, beta])).T
    along = np.linspace(-1.2, 2.6, 121)
    s1, s2 = free[:, None] + (nudged - free)[:, None] * along
    way = along * np.linalg.norm(nudged - free)
    energy = pair_energy(s1, s2) - pair_energy(*free)
    added = eta / (2 * beta) * (np.tanh(s1) * np.tanh(s2) - np.prod(np.tanh(free))) ** 2
    colours = {"β > 0": "second", "β < 0": "fourth", "mean of both": "ep"}
    left.plot(way, energy, color="black", label="$E$, weights fixed")
    left.plot(way, energy - added, color=COLOURS["second"], label="with the hill of β > 0")
    left.plot(way, energy + added, color=COLOURS["fourth"], label="with the bowl of β < 0")
    left.plot(0, 0, "o", color=COLOURS["free"], markersize=7)
    left.set(xlabel="distance from $s_\\ast$ towards the target", title="The energy with moving weights")
    left.legend()
    for (name, values), style in zip(by_sign.items(), ("o-", "x-", "s-"), strict=True):
        right.loglog(gammas, values, style, color=COLOURS[colours[name]], markersize=4, label=name)
    right.axvline(1, color="0.6", linestyle="--", linewidth=1)
    right.set(
        xlabel="feedback γ of the output layer", title="Relative distance of Δ(t) to BPTT", ylim=(2e-5, 1e2)
    )
    right.legend()
    return figure


def draw_rates_of_training(rates: Sequence[float], errors: Mapping[str, Any]) -> Figure:
    """Draw the test error over the learning rate: the mean of several seeds, with each seed as a dot.

    Parameters
    ----------
    rates : sequence of float
    errors : dict
        For each rule an array (rates, seeds).
    """
    figure = Figure(figsize=(5.8, 3))
    ax = figure.subplots()
    colours = (COLOURS["ep"], COLOURS["second"], COLOURS["fourth"])
    for k, ((name, values), colour) in enumerate(zip(errors.items(), colours, strict=False)):
        shifted = np.array(rates) * 1.03 ** (k - 1)  # so that the dots do not hide each other
        ax.semilogx(shifted, values.mean(axis=1), "-", color=colour, label=name)
        ax.semilogx(shifted, values, "o", color=colour, markersize=4, alpha=0.6)
    ax.set_xticks(rates, [f"{rate:g}" for rate in rates])
    ax.set_xticks([], minor=True)
    ax.set(xlabel="learning rate of the first layer", ylabel="test error (%)", ylim=(0, 100))
    ax.legend()
    return figure


# ---- notebook 8: asymmetric connections


def draw_flows(velocity: Callable[..., Any], w_b: float, w_f: float = 2.0) -> Figure:
    """Draw the flow of two neurons for w_b = w_f, for w_b = ½ w_f and for a given w_b.

    Parameters
    ----------
    velocity : callable
        Maps (s1, s2, w_f, w_b) to the two components of ds/dt.
    w_b, w_f : float
        The backward weight of the right panel, and the forward weight.
    """
    axis = np.linspace(-1.8, 1.8, 73)
    s1, s2 = np.meshgrid(axis, axis)
    figure = Figure(figsize=(9.8, 3.4))
    panels = figure.subplots(1, 3, sharey=True)
    for ax, back in zip(panels, (w_f, w_f / 2, w_b), strict=True):
        v1, v2 = velocity(s1, s2, w_f, back)
        curl = np.gradient(v2, axis, axis=1) - np.gradient(v1, axis, axis=0)
        image = ax.pcolormesh(s1, s2, curl, cmap="RdBu_r", vmin=-6, vmax=6, shading="nearest")
        ax.streamplot(axis, axis, v1, v2, color="0.45", linewidth=0.7, density=0.7, arrowsize=0.8)
        if back > 0:
            falling = (w_f * s1**2 + back * s2**2) / 2 - w_f * back * np.tanh(s1) * np.tanh(s2)
            ax.contour(s1, s2, falling, levels=12, colors=[COLOURS["ep"]], linewidths=0.9)
        path = [np.array([[-1.6, 1.6], [1.0, -0.7]])]
        for _ in range(400):
            path.append(path[-1] + 0.03 * np.array(velocity(*path[-1], w_f, back)))
        ax.plot(*np.array(path).transpose(1, 0, 2), color="black", linewidth=2)
        ax.plot(*path[0], "o", color="black", markersize=5)
        ax.set(xlabel="hidden neuron $s_1$", aspect="equal", title=f"$w_f = {w_f:g}$, $w_b = {back:g}$")
    panels[0].set_ylabel("output $s_2$")
    figure.colorbar(image, ax=list(panels), label="curl of the velocity", shrink=0.85, extend="both")
    return figure


def draw_turned_updates(
    psis: Sequence[float], angles: Mapping[str, Any], psi: float, wanted: Sequence[Any], found: Sequence[Any]
) -> Figure:
    """Draw the angle between update and gradient over ψ, and the displacement of neurons at one ψ.

    Parameters
    ----------
    psis : sequence of float
    angles : dict
        For each parameter an array (psis, networks); "all" for all parameters as one vector.
    psi : float
        ψ of the right panel.
    wanted, found : (hidden, output)
        For each neuron and sample, minus backpropagation's δ, and the displacement per unit of nudge.
    """
    labels = {
        "w0-1": ("o-", "third", "input to hidden"),
        "w2-1": ("x--", "nudged", "output to hidden, $w_b$"),
        "w1-2": ("s-", "free", "hidden to output, $w_f$"),
        "all": ("D-", "bptt", "all parameters"),
    }
    figure = Figure(figsize=(9.2, 3.5))
    left, right = figure.subplots(1, 2, width_ratios=[1.3, 1])
    left.plot([0, 180], [0, 180], color="0.8", linewidth=1)
    left.axvline(psi, color=COLOURS["second"], linewidth=1)
    for name, (style, colour, label) in labels.items():
        mean, spread = angles[name].mean(axis=1), angles[name].std(axis=1, ddof=1)
        left.errorbar(
            psis, mean, spread, fmt=style, color=COLOURS[colour], markersize=5, linewidth=1.2, label=label
        )
    left.set(xlabel="angle ψ between $w_f$ and $w_b$ (°)", ylabel="angle update to gradient (°)")
    left.set(xticks=range(0, 181, 30), yticks=range(0, 181, 30))
    left.legend(fontsize=8)
    for k, (name, label) in enumerate((("third", "hidden neurons"), ("free", "outputs"))):
        scale = np.abs(wanted[k]).max()
        right.plot(
            (wanted[k] / scale).ravel(),
            (found[k] / scale).ravel(),
            ".",
            color=COLOURS[name],
            markersize=4,
            alpha=0.5,
            label=label,
        )
    right.plot([-1, 1], [-1, 1], color="0.8", linewidth=1, zorder=0)
    right.set(xlim=(-1.1, 1.1), ylim=(-1.5, 1.5), xticks=(-1, 0, 1), yticks=(-1, 0, 1), title=f"ψ = {psi:g}°")
    right.set(xlabel="wanted: −δ of backpropagation", ylabel="displacement per nudge")
    right.legend(loc="upper left")
    return figure


def draw_courses(runs: Mapping[str, Any]) -> Figure:
    """Draw ψ, the angle to BPTT and the test error over the epochs, mean and range of several seeds.

    Parameters
    ----------
    runs : dict
        For each label an array (seeds, epochs + 1, 3).
    """
    figure = Figure(figsize=(9.6, 3.2))
    panels = figure.subplots(1, 3)
    titles = ("angle $w_f$ to $w_b$ (°)", "angle update to gradient (°)", "test error (%)")
    colours = [COLOURS[name] for name in ("free", "third", "ep", "second", "nudged", "fourth")]
    for (label, rows), colour in zip(runs.items(), colours, strict=False):
        style = "--" if label.startswith("C-VF") else "-"
        for ax, values in zip(panels, np.moveaxis(rows, 2, 0), strict=True):
            epochs = np.arange(values.shape[1])
            ax.plot(epochs, values.mean(axis=0), style, color=colour, label=label)
            ax.fill_between(epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0)
    for ax, title in zip(panels, titles, strict=True):
        ax.set(xlabel="epoch", title=title, ylim=(0, None))
    panels[0].set_yticks(range(0, 181, 45))
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(runs))
    return figure


def draw_fig1c_beside_published(points: Sequence[Mapping[str, Any]], courses: Sequence[Any]) -> Figure:
    """Draw the published Fig. 1(c) for one hidden layer, the recorded one, and ψ in the recorded runs.

    Parameters
    ----------
    points : sequence of dict
        The points of a sweep, with their angles. Points of the same ψ are one marker at their mean. Bars are
        one standard deviation: of the error over the seeds, and of the angle over batches.
    courses : sequence of array
        For each run of C-VF, ψ after each epoch.
    """
    figure = Figure(figsize=(9.8, 3.2))
    published, recorded, course = figure.subplots(1, 3)
    rules = {"p-1h": ("EP-1h", "ep"), "cep-1h": ("C-EP-1h", "second"), "cvf-1h": ("C-VF-1h", "nudged")}
    for preset, (name, colour) in rules.items():
        style = {"fmt": "o:", "color": COLOURS[colour], "linewidth": 1, "markersize": 5, "label": name}
        old = [p for p in figures.published_points() if p["preset"] == preset]
        x, y, dy = np.transpose([(p["angle"], p["test_error"], p.get("spread", 0)) for p in old])
        published.errorbar(x, y, dy, **style)
        family = [p for p in points if p["preset"] == preset]
        groups = [[p for p in family if p["psi"] == psi] for psi in sorted({p["psi"] for p in family})]
        angles = [group[0]["angles"]["published"] for group in groups]
        errors = [[p["test_error"] for p in group] for group in groups]
        recorded.errorbar(
            [angle["mean"] for angle in angles],
            [np.mean(error) for error in errors],
            [np.std(error, ddof=1) if len(error) > 1 else 0 for error in errors],
            [angle["std"] for angle in angles],
            **style,
        )
    for ax, title in ((published, "Published"), (recorded, "Recorded here")):
        ax.set(xlabel="angle to BPTT before training (°)", title=title, yscale="log", xlim=(0, 125))
        ax.set_ylim(1.5, 120)
        ax.set_yticks([2, 5, 10, 20, 50, 100], ["2", "5", "10", "20", "50", "100"])
        ax.set_yticks([], minor=True)
    published.set_ylabel("test error (%)")
    published.legend(loc="upper left")
    for values in courses:
        course.plot(values, color=plt.get_cmap("viridis")(values[0] / 200), linewidth=1.2)
    course.set(xlabel="epoch", yticks=range(0, 181, 45), title="Recorded here: ψ of C-VF-1h (°)")
    return figure


def draw_error_over_angle(runs: Mapping[str, Any], epochs: Sequence[int]) -> Figure:
    """Draw the test error after some epochs over the angle to BPTT before training.

    Parameters
    ----------
    runs : dict
        For each label an array (seeds, epochs + 1, 3), as in `draw_courses`. Markers are means, bars one
        standard deviation.
    epochs : sequence of int
    """
    figure = Figure(figsize=(6, 3))
    ax = figure.subplots()
    for epoch, name in zip(epochs, ("nudged", "third", "free", "ep"), strict=False):
        rows = [(run[:, 0, 1], run[:, epoch, 2]) for run in runs.values()]
        (x, dx), (y, dy) = (
            np.transpose([(values[k].mean(), values[k].std(ddof=1)) for values in rows]) for k in (0, 1)
        )
        label = f"after epoch {epoch}"
        ax.errorbar(x, y, dy, dx, fmt="o:", color=COLOURS[name], linewidth=1, markersize=4, label=label)
    ax.set(xlabel="angle to BPTT before training (°)", ylabel="test error (%)", ylim=(0, None))
    ax.legend()
    return figure


# ---- notebook 9


def draw_digits(images: Any, labels: Sequence[Any]) -> Figure:
    """Draw images side by side, each with its label above it."""
    figure = Figure(figsize=(7.2, 0.95))
    for ax, image, label in zip(figure.subplots(1, len(images)), images, labels, strict=True):
        ax.imshow(image, cmap="gray", vmin=0)
        ax.set_title(str(label), loc="center")
        ax.axis("off")
    return figure


def draw_epochs(runs: Mapping[str, Any]) -> Figure:
    """Draw the error per epoch of several runs, shape (seeds, epochs): each seed, and the median."""
    figure = Figure(figsize=(7.2, 2.8))
    top = 1.05 * max(np.max(errors) for errors in runs.values())
    for ax, (name, errors), colour in zip(
        figure.subplots(1, len(runs), sharey=True),
        runs.items(),
        (COLOURS["bptt"], COLOURS["ep"]),
        strict=True,
    ):
        errors = np.array(errors)
        epochs = np.arange(1, errors.shape[1] + 1)
        ax.plot(epochs, errors.T, color=colour, lw=0.7, alpha=0.5)
        ax.plot(epochs, np.median(errors, axis=0), "o-", ms=4, color=colour)
        ax.set(xlabel="epoch", ylim=(0, top), title=name)
    figure.axes[0].set_ylabel("test error (%)")
    return figure


def draw_chessboard(differences: Any, output: Any = None, alternating: Any = None) -> Figure:
    """Draw where a disturbance spreads and, if given, the two sequences of a synchronous iteration.

    Parameters
    ----------
    differences : ndarray, shape (T + 1, N)
        The largest difference in each layer from the undisturbed run; exact zeros are left white.
    output : ndarray, shape (T + 1,), optional
        An output neuron, synchronous.
    alternating : ndarray, optional
        The same neuron after each alternating step, drawn at t = 0, 2, 4, …
    """
    count = 1 if output is None else 2
    figure = Figure(figsize=(3.6 * count, 2.9))
    left, *others = figure.subplots(1, count, squeeze=False)[0]
    shown = np.log10(np.where(differences > 0, differences, np.nan)).T
    image = left.imshow(shown, cmap="viridis", vmin=-6, vmax=-1, origin="lower", aspect="auto")
    left.set(xlabel="$t$", ylabel="layer", title="layer 3 differs at $t = 0$")
    left.set_xticks(range(0, shown.shape[1], 2))
    left.set_yticks(range(len(shown)), range(1, len(shown) + 1))
    figure.colorbar(image, ax=left, label=r"$\log_{10}$ of the difference", extend="both")
    for right in others:
        t, place = np.arange(len(output)), 2 * np.arange(len(alternating))
        right.plot(t, output, color="0.8", lw=1, zorder=0)
        right.plot(t[::2], output[::2], "o", ms=5, color=COLOURS["free"], label="synchronous, even $t$")
        right.plot(t[1::2], output[1::2], "s", ms=4, color=COLOURS["second"], label="synchronous, odd $t$")
        right.plot(place, alternating, "k+", ms=10, label="alternating, step $t/2$")
        right.set(xlabel="$t$", ylabel="an output neuron", xticks=t[::2])
        right.legend()
    return figure


def draw_over_relaxation(
    omega: float, omegas: Any, counts: Mapping[str, Any], courses: Mapping[str, tuple[Any, Any]]
) -> Figure:
    """Draw the residual over the steps of a first phase at an ω, and the number of steps over ω.

    Parameters
    ----------
    omega : float
        The ω of the left panel.
    omegas, counts : ndarray, dict
        For each network, the steps of the first phase at each of the ``omegas``.
    courses : dict
        For each network, the residuals after each step with ω = 1 and with ``omega``.
    """
    figure = Figure(figsize=(8.4, 3))
    left, right = figure.subplots(1, 2)
    for name, colour, marker in zip(counts, LAYERS, "os^D", strict=False):
        plain, relaxed = courses[name]
        left.semilogy(range(1, len(plain) + 1), plain, ":", color=colour, label=f"{name}, ω = 1")
        left.semilogy(range(1, len(relaxed) + 1), relaxed, color=colour, label=f"{name}, ω = {omega:g}")
        right.plot(omegas, counts[name], marker, ls="-", ms=4, color=colour, label=name)
    left.set(xlabel="alternating step", ylabel="residual", xlim=(0, 60), ylim=(1e-7, 3))
    left.legend(fontsize=8)
    right.axvline(omega, color=COLOURS["muted"], linewidth=1)
    right.set(xlabel="ω", ylabel="steps of the first phase", ylim=(0, None))
    right.legend()
    return figure


def draw_records(histories: Mapping[str, Any]) -> Figure:
    """Draw the test error per epoch of recorded runs, on a logarithmic axis."""
    figure = Figure(figsize=(7.2, 2.9))
    ax = figure.subplots()
    for (name, errors), colour in zip(histories.items(), LAYERS, strict=False):
        ax.semilogy(range(1, len(errors) + 1), errors, color=colour, lw=1.3, label=name)
    ax.set(xlabel="epoch", ylabel="test error (%)", ylim=(0.4, 12))
    ax.set_yticks([0.5, 1, 2, 5, 10], ["0.5", "1", "2", "5", "10"])
    ax.minorticks_off()
    ax.legend()
    return figure


def mosaic(maps: Any, columns: int) -> Any:
    """Return the maps (H, W, C) as one image with so many columns, with NaN between the maps."""
    height, width, count = maps.shape
    tiles = np.pad(maps, ((0, 1), (0, 1), (0, 0)), constant_values=np.nan).transpose(2, 0, 1)
    rows = tiles.reshape(count // columns, columns, height + 1, width + 1)
    return rows.swapaxes(1, 2).reshape(-1, columns * (width + 1))[:-1, :-1]


def draw_digit_maps(images: Any, state: Sequence[Any], labels: Sequence[int]) -> Figure:
    """Draw x, all maps of s¹ and s², and the output of a CNN, a row for each of some images.

    Parameters
    ----------
    images : ndarray, shape (B, H, W)
    state : (s¹, s², ŷ)
        Of shapes (B, H, W, C), (B, H, W, C) and (B, classes). C must be divisible by 8.
    labels : sequence of int
    """
    figure = Figure(figsize=(10, 2.75 * len(images) + 0.3))
    grid = figure.subplots(len(images), 4, width_ratios=[1, 3.7, 2, 0.9], squeeze=False)
    colours = plt.get_cmap("viridis").copy()
    colours.set_bad("white")
    for row, image, label, first, second, output in zip(grid, images, labels, *state, strict=True):
        row[0].imshow(image, cmap="gray")
        for ax, maps in zip(row[1:3], (first, second), strict=True):
            shown = ax.imshow(mosaic(maps, 8), cmap=colours, vmin=0, vmax=1)
        for ax in row[:3]:
            ax.axis("off")
        bars = [COLOURS["muted"]] * len(output)
        bars[label] = COLOURS["third"]
        row[3].barh(range(len(output)), output, color=bars)
        row[3].set(yticks=range(len(output)), xlim=(0, 1.02), xticks=(0, 1))
        row[3].invert_yaxis()
    names = (f"$s^{n + 1}$: {s.shape[3]} maps of {s.shape[1]}×{s.shape[2]}" for n, s in enumerate(state[:2]))
    for ax, title in zip(grid[0], ("$x$", *names, r"$\hat y$"), strict=True):
        ax.set_title(title, loc="center")
    figure.colorbar(shown, ax=grid, aspect=40, pad=0.01)
    return figure


# ---- notebook 10


def draw_circle(
    plane: Any,
    values: Any,
    circle: Any,
    curves: Mapping[str, tuple[Any, Any]],
    here: tuple[float, float],
    radius: float,
) -> Figure:
    """Draw what a weight reads over the plane of complex β with a circle of nudges, and errors over r.

    Parameters
    ----------
    plane, values : ndarray
        Complex β on a grid, and what the weight reads there; the modulus is drawn.
    circle : ndarray
        The nudges β_k.
    curves : dict
        For each label, the radii and the relative errors.
    here : (r, error)
        The radius and the error of the circle.
    radius : float
        The radius of convergence.
    """
    figure = Figure(figsize=(9.4, 3.6))
    left, right = figure.subplots(1, 2, width_ratios=[1, 1.25])
    image = left.pcolormesh(plane.real, plane.imag, np.abs(values), cmap="viridis", shading="nearest")
    figure.colorbar(image, ax=left, label=r"$|g(\beta)|$")
    turn = np.exp(1j * np.linspace(0, 2 * np.pi, 200))
    left.plot((radius * turn).real, (radius * turn).imag, ":", color="white")
    left.plot((here[0] * turn).real, (here[0] * turn).imag, color=COLOURS["nudged"], linewidth=1)
    left.plot(circle.real, circle.imag, "o", color=COLOURS["nudged"], markersize=5)
    left.plot(0, 0, "o", color=COLOURS["fourth"], markersize=4)
    left.set(xlabel=r"real part of $\beta$", ylabel="imaginary part", aspect="equal")
    left.set_title(f"N = {len(circle)}, r = {here[0]:.2f}")
    _draw_orders(right, curves)
    right.axvline(radius, color="0.6", linestyle=":", linewidth=1.2)
    right.plot(here[0], max(here[1], 1e-13), "o", color="none", markeredgecolor="black", markersize=9)
    right.set(xlabel="r", ylabel="error, relative", ylim=(1e-13, 10))
    _tick_radii(right)
    right.legend(loc="lower right")
    return figure


def _draw_orders(ax: Axes, curves: Mapping[str, tuple[Any, Any]]) -> None:
    """Draw curves on logarithmic axes, each in a colour of its own."""
    colours = [COLOURS[name] for name in ("nudged", "ep", "free", "second", "third")]
    for (label, (x, y)), colour, marker in zip(curves.items(), colours, "os^Dv", strict=False):
        ax.loglog(x, y, marker + "-", color=colour, markersize=3.5, linewidth=1.2, label=label)


def _tick_radii(ax: Axes) -> None:
    ax.set_xticks([0.02, 0.05, 0.1, 0.2, 0.5], ["0.02", "0.05", "0.1", "0.2", "0.5"])
    ax.set_xticks([], minor=True)


def draw_noise(curves: Mapping[str, tuple[Any, Any]], radius: float) -> Figure:
    """Draw errors over r on logarithmic axes, with a dot at the smallest of each curve.

    The parameters are those of `draw_circle`.
    """
    figure = Figure(figsize=(6.6, 3))
    ax = figure.subplots()
    _draw_orders(ax, curves)
    for x, y in curves.values():
        ax.plot(x[np.argmin(y)], np.min(y), "o", color="none", markeredgecolor="black", markersize=9)
    ax.axvline(radius, color="0.6", linestyle=":", linewidth=1.2)
    ax.set(xlabel="r", ylabel="error, relative")
    _tick_radii(ax)
    ax.legend()
    return figure


def draw_corrections(psis: Sequence[float], angles: Mapping[str, Any], betas: Any, errors: Any) -> Figure:
    """Draw the angle of estimates to the gradient over ψ, and the error of estimates over β.

    Parameters
    ----------
    psis : sequence of float
    angles : dict
        For each label, the angles.
    betas : ndarray
    errors : dict
        For each label, the relative errors.
    """
    figure = Figure(figsize=(9.4, 3.4))
    left, right = figure.subplots(1, 2)
    for (label, values), colour, style in zip(
        angles.items(), ("nudged", "third", "ep", "free"), ("o-", "s-", "^-", "v:"), strict=False
    ):
        left.plot(psis, values, style, color=COLOURS[colour], markersize=4, label=label)
    left.set(xlabel="ψ (°)", ylabel="angle to the gradient (°)", xticks=range(0, 181, 45))
    left.legend()
    _draw_orders(right, {label: (betas, values) for label, values in errors.items()})
    right.set(xlabel=r"$\beta$", ylabel="error, relative")
    right.legend(loc="upper left", bbox_to_anchor=(0, 0.93))
    return figure
