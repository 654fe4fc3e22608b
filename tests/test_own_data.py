"""The README's section on data of one's own: its output is true, and each line for a look inside runs."""

import re

import numpy as np
import readme
from matplotlib import pyplot


def test_the_readme_trains_on_arrays_as_it_says() -> None:
    printed, wanted, variables = readme.run("Train on your own data")
    assert readme.words(printed) == readme.words(wanted)
    # Another machine rounds differently, which changes some of the 1000 predictions.
    np.testing.assert_allclose(readme.numbers(printed)[0], readme.numbers(wanted)[0], atol=1.5)
    np.testing.assert_allclose(readme.numbers(printed)[1:], readme.numbers(wanted)[1:], atol=8)
    labels, predictions = variables["data"].test_labels, variables["predictions"]
    matrix = np.array(readme.numbers(printed)[1:]).reshape(10, 10)
    np.testing.assert_array_equal(matrix.sum(axis=1), np.bincount(labels))
    assert np.trace(matrix) == np.count_nonzero(labels == predictions)
    pyplot.switch_backend("agg")
    pyplot.close("all")
    lines = re.findall(r"^- `((?:eq\.plot_|print).*?)`", readme.text("Train on your own data"), re.MULTILINE)
    assert len(lines) == 5
    for line in lines:
        eval(line, variables)
    assert len(pyplot.get_fignums()) == 4
    pyplot.close("all")
