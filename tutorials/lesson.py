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

    Use it as a decorator of a function that asserts, with a message, what the answer must fulfil.
    """
    try:
        test()
    except Exception as error:  # an unfinished answer can raise any exception
        print(f"not yet: {error}" if str(error) else f"not yet: {type(error).__name__}")
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
        For each β, the η where the two errors cancel, and the η where κ = 1.
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


def draw_hill(kappas: Any, by_sign: Mapping[str, Any], eta: float = 0.6, beta: float = 0.5) -> Figure:
    """Draw what moving weights add to the energy of two neurons, and the error of C-EP for both signs of β.

    Parameters
    ----------
    kappas : ndarray
    by_sign : dict
        For each of "β > 0", "β < 0" and "mean of both" the errors at these κ.
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
    left.set(xlabel="distance from $s_\\ast$ towards the target", title="The energy that the neurons feel")
    left.legend()
    for (name, values), style in zip(by_sign.items(), ("o-", "x-", "s-"), strict=True):
        right.loglog(kappas, values, style, color=COLOURS[colours[name]], markersize=4, label=name)
    right.axvline(1, color="0.6", linestyle="--", linewidth=1)
    right.set(xlabel="κ of the output layer", title="Relative distance of Δ(t) to BPTT", ylim=(2e-5, 1e2))
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


PUBLISHED_1H = {  # (angle before training, test error in %), read off the published Fig. 1(c), ±0.5°
    "EP-1h": [(16.8, 2.00)],
    "C-EP-1h": [(50.0, 2.28)],
    "C-VF-1h": [
        (65.1, 2.36),
        (65.6, 2.41),
        (78.2, 2.39),
        (80.1, 2.50),
        (91.8, 2.47),
        (98.8, 4.6),
        (105.1, 88.0),
        (113.2, 91.0),
        (114.4, 93.0),
    ],
}
FAMILIES = {"p-1h": "EP-1h", "cep-1h": "C-EP-1h", "cvf-1h": "C-VF-1h"}


def draw_fig1c_beside_published(points: Sequence[Mapping[str, Any]], courses: Sequence[Any]) -> Figure:
    """Draw the published Fig. 1(c) for one hidden layer, the recorded one, and ψ in the recorded runs.

    Parameters
    ----------
    points : sequence of dict
        The points of a sweep. Points of the same ψ are one marker at their mean, with a bar of one standard
        deviation.
    courses : sequence of array
        For each run of C-VF, ψ after each epoch.
    """
    figure = Figure(figsize=(9.8, 3.2))
    published, recorded, course = figure.subplots(1, 3)
    colours = {"EP-1h": "ep", "C-EP-1h": "second", "C-VF-1h": "nudged"}
    for name, values in PUBLISHED_1H.items():
        published.plot(*np.transpose(values), "o:", color=COLOURS[colours[name]], linewidth=1, label=name)
    for preset, name in FAMILIES.items():
        family = [p for p in points if p["preset"] == preset]
        groups = [[p for p in family if p["psi"] == psi] for psi in sorted({p["psi"] for p in family})]
        angle, error = (
            [[p[key] for p in group] for group in groups] for key in ("update_angle", "test_error")
        )
        bars = {
            key: [np.std(v, ddof=1) for v in values] if max(map(len, values)) > 1 else None
            for key, values in (("xerr", angle), ("yerr", error))
        }
        recorded.errorbar(
            [np.mean(v) for v in angle],
            [np.mean(v) for v in error],
            **bars,
            fmt="o:",
            color=COLOURS[colours[name]],
            linewidth=1,
            label=name,
        )
    for ax, title in ((published, "Published"), (recorded, "Recorded here")):
        ax.set(xlabel="angle to BPTT before training (°)", title=title, yscale="log", xlim=(0, 120))
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
