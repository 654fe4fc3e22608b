"""What the notebooks share: colours, sliders and checks of exercises.

The plots of a single notebook are functions here too, if their code is long and not part of the lesson.
"""

import os
from collections.abc import Callable
from typing import Any

import matplotlib.pyplot as plt
from IPython.display import display
from matplotlib.figure import Figure

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
