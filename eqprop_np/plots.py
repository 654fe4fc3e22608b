"""Plots of one line each: a relaxation, learning curves, a confusion matrix, and the worst errors.

Each function draws into the Axes or the Figure that it is given, or into a new one of pyplot, and returns
it. matplotlib is imported when a function is called, and not with the package.
"""

from __future__ import annotations

from math import ceil, isqrt
from typing import TYPE_CHECKING, Any

import numpy as np

from eqprop_np.activations import Array
from eqprop_np.checks import check_integer, check_kind
from eqprop_np.relaxation import Relaxation
from eqprop_np.training import Progress, confusion_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure, SubFigure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""The colours of Okabe and Ito, which colour-blind readers can distinguish."""

MOST_CLASSES = 20
"""A confusion matrix of more classes has no numbers in its cells."""


def plot_relaxation(relaxation: Relaxation, figure: Figure | SubFigure | None = None) -> Figure | SubFigure:
    """Plot the residuals of a phase on a logarithmic axis, and the mean of each layer's state.

    Parameters
    ----------
    relaxation : Relaxation
        A result of `eqprop_np.relax`. The means are drawn only if it was called with ``trajectory=True``.
    figure : Figure or SubFigure, optional
        The figure to draw into; by default a new one.

    Returns
    -------
    Figure or SubFigure
        One or two Axes: the residual of each step, and the mean over the batch and over the neurons of
        each layer, from step 0.

    Raises
    ------
    ValueError
        If no step was taken.
    """
    if not relaxation.steps:
        raise ValueError("the relaxation must have at least one step to plot, got 0: use a larger steps")
    means = np.array([[value.mean() for value in state] for state in relaxation.trajectory])
    figure = _new_figure((8, 3) if len(means) else (4.5, 3)) if figure is None else figure
    panels = figure.subplots(1, 2 if len(means) else 1, squeeze=False)[0]
    panels[0].plot(range(1, relaxation.steps + 1), relaxation.residuals, ".-", color=COLOURS[0])
    panels[0].set_yscale("log", nonpositive="mask")  # a residual may be exactly 0
    panels[0].set(ylabel="residual", title=_outcome(relaxation))
    if len(means):
        for n, mean in enumerate(means.T, start=1):
            panels[1].plot(mean, color=COLOURS[(n - 1) % len(COLOURS)], label=f"layer {n}")
        panels[1].set(ylabel="mean state", title="layers")
        panels[1].legend(frameon=False)
    for axes in panels:
        axes.set_xlabel("step")
        _integers_only(axes)
    return figure


def _outcome(relaxation: Relaxation) -> str:
    steps = "1 step" if relaxation.steps == 1 else f"{relaxation.steps} steps"
    return f"{'converged' if relaxation.converged else 'not converged'} after {steps}"


def plot_learning_curves(progress: Progress, axes: Axes | None = None) -> Axes:
    """Plot the training error and, where there are any, the validation errors of each epoch.

    Parameters
    ----------
    progress : Progress
        A result of `eqprop_np.fit`.
    axes : Axes, optional
        The Axes to draw into; by default those of a new figure.

    Raises
    ------
    ValueError
        If no epoch is complete.
    """
    check_kind("progress", progress, Progress, "a Progress, such as fit returns")
    if not progress.epoch:
        raise ValueError("the progress must have at least one complete epoch to plot, got 0")
    axes = _new_axes((4.5, 3)) if axes is None else axes
    curves = (
        ("train_error", "training", "--"),
        ("validation_error", "validation", "-"),
        ("average_validation_error", "validation, averaged weights", "-"),
    )
    for colour, (name, label, line) in zip(COLOURS, curves, strict=False):
        values = [(record["epoch"], record[name]) for record in progress.records if name in record]
        if values:
            axes.plot(*zip(*values, strict=True), line, marker=".", color=colour, label=label)
    axes.set(xlabel="epoch", ylabel="error (%)")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    _integers_only(axes)
    return axes


def plot_confusion_matrix(labels: Any, predictions: Any, axes: Axes | None = None) -> Axes:
    """Plot how often each class was predicted for each label.

    The colour of a cell is its share of the samples with this label, in percent. The number in the cell is
    the number of samples; it is left out if there are more than 20 classes.

    Parameters
    ----------
    labels, predictions : array-like, shape (N,)
        Integers or other labels.
    axes : Axes, optional
        The Axes to draw into; by default those of a new figure.

    Raises
    ------
    ValueError
        If the two do not have one entry for each of at least one sample.
    """
    counts = confusion_matrix(labels, predictions)
    names = [str(name) for name in np.union1d(labels, predictions)]
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(1.8 + 0.42 * len(names), 9)
    axes = _new_axes((side + 0.7, side)) if axes is None else axes
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    axes.figure.colorbar(image, ax=axes, label="share of the label (%)", fraction=0.046, pad=0.03)
    axes.set(xlabel="prediction", ylabel="label", title=f"error {100 - _accuracy(counts):.2f} %")
    if len(names) <= MOST_CLASSES:
        plain = {"parse_math": False}  # a name may contain $
        axes.set_xticks(range(len(names)), names, rotation=90 if max(map(len, names)) > 2 else 0, **plain)
        axes.set_yticks(range(len(names)), names, **plain)
        for (i, j), count in np.ndenumerate(counts):
            if count:
                colour = "white" if shares[i, j] > 50 else "black"
                axes.text(j, i, str(count), ha="center", va="center", color=colour, fontsize=8)
    return axes


def _accuracy(counts: Array) -> float:
    return 100 * float(np.trace(counts)) / int(counts.sum())


def plot_worst_errors(
    images: Array, labels: Array, outputs: Array, figure: Figure | SubFigure | None = None, count: int = 25
) -> Figure | SubFigure:
    """Draw the images of the worst errors, the worst one first.

    An error is worse if the output of the predicted class exceeds that of the label's class by more.

    Parameters
    ----------
    images : ndarray, shape (N, H, W), (N, H, W, C) with C of 1 or 3, or (N, H²)
    labels : ndarray, shape (N,)
        Integers from 0.
    outputs : ndarray, shape (N, classes)
        As `eqprop_np.outputs` returns them.
    figure : Figure or SubFigure, optional
        The figure to draw into; by default a new one.
    count : int
        The largest number of images.

    Returns
    -------
    Figure or SubFigure
        One Axes for each error. Its title is the label and the prediction, for example "3 as 5".

    Raises
    ------
    ValueError
        If the shapes do not fit each other, if a label is not an index of an output, if rows are not the
        pixels of a square, or if ``count`` is not a positive integer.
    """
    check_integer("count", count, least=1)
    pictures, labels, outputs = _pictures(np.asarray(images)), np.asarray(labels), np.asarray(outputs)
    if outputs.ndim != 2 or labels.shape != (len(outputs),) or len(pictures) != len(outputs):
        raise ValueError(
            "images, labels (N,) and outputs (N, classes) must have one entry for each sample, got shapes "
            f"{np.shape(images)}, {labels.shape} and {outputs.shape}"
        )
    if not np.isin(labels, range(outputs.shape[1])).all():
        raise ValueError(
            f"labels must be integers from 0 to {outputs.shape[1] - 1}, got {labels.min()} to {labels.max()}"
        )
    labels = labels.astype(np.int64)
    predictions = outputs.argmax(axis=1)
    samples = np.arange(len(labels))
    excess = outputs[samples, predictions] - outputs[samples, labels]
    wrong = np.flatnonzero(predictions != labels)
    worst = wrong[np.argsort(-excess[wrong], kind="stable")][:count]
    columns = max(isqrt(max(len(worst) - 1, 0)) + 1, 1)  # a nearly square grid
    rows = max(ceil(len(worst) / columns), 1)
    figure = _new_figure((1.1 * columns + 1, 1.35 * rows + 0.5)) if figure is None else figure
    title = f"{len(worst)} worst of {len(wrong)} errors (label as prediction)"
    figure.suptitle(title if len(wrong) else "no errors")
    for axes in (panels := figure.subplots(rows, columns, squeeze=False).ravel())[len(worst) :]:
        axes.remove()
    for axes, k in zip(panels, worst, strict=False):
        axes.imshow(pictures[k], cmap="gray")
        axes.set_title(f"{labels[k]} as {predictions[k]}", fontsize=8, pad=2)
        axes.axis("off")
    return figure


def _pictures(images: Array) -> Array:
    """Return the images in a shape that matplotlib draws."""
    if images.ndim == 4 and images.shape[3] == 1:
        return images[..., 0]
    if images.ndim == 3 or (images.ndim == 4 and images.shape[3] == 3):
        return images
    if images.ndim == 2 and isqrt(images.shape[1]) ** 2 == images.shape[1]:
        return images.reshape(len(images), isqrt(images.shape[1]), -1)
    raise ValueError(
        "images must have shape (N, H, W), (N, H, W, 1), (N, H, W, 3), or (N, H²) for square images, got "
        f"{images.shape}: reshape them"
    )


# ---- figures and axes


def _new_figure(size: tuple[float, float]) -> Figure:
    from matplotlib import pyplot

    return pyplot.figure(figsize=size, layout="constrained")


def _new_axes(size: tuple[float, float]) -> Axes:
    return _new_figure(size).subplots()


def _integers_only(axes: Axes) -> None:
    """Put the ticks of the horizontal axis at integers."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
