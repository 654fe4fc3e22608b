"""Tests of what shows a network, a phase, a run and its errors: tables, reprs, plots and the command."""

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from examples import write_bands
from matplotlib import pyplot
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import eqprop_np as eq
from eqprop_np import figures, mnist
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.datasets import load
from eqprop_np.plots import (
    plot_confusion_matrix,
    plot_learning_curves,
    plot_relaxation,
    plot_worst_errors,
)
from eqprop_np.training import confusion_matrix


@pytest.fixture(autouse=True)
def no_open_figures() -> Iterator[None]:
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


# ---- tables and reprs


def test_a_network_prints_as_a_table() -> None:
    assert str(eq.toy(10, 50, 5)).splitlines() == [
        "layer  shape  from  term   parameter  shape  number",
        "0      10",
        "1      50           bias   b1         50         50",
        "              0     Dense  w0-1       10×50     500",
        "2      5            bias   b2         5           5",
        "              0     Dense  w0-2       10×5       50",
        "              1     Dense  w1-2       50×5      250",
        "total                                           855",
    ]


def test_the_table_of_a_cnn_has_its_settings() -> None:
    network = eq.convolutional((9, 7, 2), [3], [4], kernel=2, padding=1)
    rows = [line.split() for line in str(network).splitlines()]
    assert rows[1] == ["0", "9×7×2"]
    settings = ["features=3", "kernel=2", "pool=2", "stride=1", "padding=1"]
    assert rows[2] == ["1", "5×4×3", "bias", "b1", "3", "3"]
    assert rows[3] == ["0", "ConvPool", *settings, "w0-1", "2×2×2×3", "24"]
    assert rows[4] == ["2", "4", "bias", "b2", "4", "4"]


def test_the_table_of_an_untied_network_has_the_backward_weights() -> None:
    network = eq.untied(eq.chain([4, 5, 3]))
    assert str(network).splitlines() == [
        "layer  shape  from  term             parameter  shape  number",
        "0      4",
        "1      5            bias             b1         5           5",
        "              0     Dense            w0-1       4×5        20",
        "              2     Dense, backward  w2-1       5×3        15",
        "2      3            bias             b2         3           3",
        "              1     Dense            w1-2       5×3        15",
        "total                                                      58",
    ]
    assert repr(network) == "<Network: layers 4, 5, 3; 58 parameters; untied weights>"


@pytest.mark.parametrize("network", [eq.chain([1200, 900, 10]), eq.untied(eq.toy(4, 6, 3))])
def test_the_table_counts_every_parameter(network: eq.Network) -> None:
    theta = network.init(np.random.default_rng(0))
    rows = [line.split() for line in str(network).splitlines()[1:]]
    counts = {row[-3]: int(row[-1].replace(",", "")) for row in rows if len(row) > 2}
    assert counts == {name: value.size for name, value in theta.items()}
    assert rows[-1] == ["total", f"{sum(value.size for value in theta.values()):,}"]


def test_the_table_takes_a_connection_of_your_own() -> None:
    class Plain:
        """A connection that is not a dataclass."""

        def __init__(self, dense: eq.Dense) -> None:
            for name in (*vars(dense), "shape", "fan_in", "multiplications", "has_switches"):
                setattr(self, name, getattr(dense, name))
            for name in ("phi", "to_post", "to_pre", "gradient"):
                setattr(self, name, getattr(dense, name))

    plain = Plain(eq.Dense(0, 1, (3,), (2,)))
    row = str(eq.Network(((3,), (2,)), (plain,))).splitlines()[3]
    assert row.split() == ["0", "Plain", "w0-1", "3×2", "6"]


def test_reprs_have_one_line() -> None:
    dynamics = eq.DiscreteTime(eq.chain([4, 8, 3]))
    theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    x, y = np.ones((2, 4)), np.eye(3)[[0, 1]]
    update = eq.ep(dynamics, theta, x, y, eq.Phases(30, 10, 0.1))
    assert repr(dynamics) == (
        "DiscreteTime(network=<Network: layers 4, 8, 3; 67 parameters>, sigma=Activation(name='sigmoid'), "
        "cost=Cost(name='squared error'))"
    )
    relaxation = repr(update.free)
    assert relaxation.startswith(f"<Relaxation: converged after {update.free.steps} steps, last residual ")
    assert relaxation.endswith("; state (2, 8), (2, 3)>")
    norm = np.linalg.norm(update.gradient["b2"])
    assert f"b2 {norm:.2e}" in repr(update)
    for value in (dynamics, update, update.free, dynamics.network):
        assert "\n" not in repr(value)


# ---- plots


@pytest.fixture
def free() -> eq.Relaxation:
    """Return a phase of two layers whose means differ."""
    dynamics = eq.DiscreteTime(eq.chain([4, 5, 3]))
    theta = dynamics.network.init(np.random.default_rng(0), np.float64)
    theta["b1"] += 0.3
    x = np.random.default_rng(1).random((6, 4))
    return eq.relax(dynamics, theta, x, schedule=eq.Alternating(tol=1e-6), trajectory=True)


def test_the_plot_of_a_relaxation_shows_residuals_and_means(free: eq.Relaxation) -> None:
    figure = plot_relaxation(free)
    residuals, means = figure.axes
    assert residuals.get_yscale() == "log"
    assert residuals.get_title() == f"converged after {free.steps} steps"
    assert (residuals.get_xlabel(), residuals.get_ylabel()) == ("step", "residual")
    (line,) = residuals.get_lines()
    np.testing.assert_array_equal(line.get_xdata(), range(1, free.steps + 1))
    np.testing.assert_array_equal(line.get_ydata(), free.residuals)
    assert (means.get_xlabel(), means.get_ylabel()) == ("step", "mean state")
    assert [text.get_text() for text in means.get_legend().get_texts()] == ["layer 1", "layer 2"]
    assert len({line.get_color() for line in means.get_lines()}) == 2
    for n, line in enumerate(means.get_lines()):
        np.testing.assert_array_equal(line.get_xdata(), range(free.steps + 1))
        np.testing.assert_allclose(line.get_ydata(), [state[n].mean() for state in free.trajectory])
    assert abs(free.state[0].mean() - free.state[1].mean()) > 0.1  # the two could be told apart


def test_without_a_trajectory_the_residuals_are_plotted_into_the_given_figure(free: eq.Relaxation) -> None:
    given = Figure()
    part = given.subfigures(1, 2)[1]
    short = replace(free, trajectory=(), converged=False, residuals=(0.5, 0.0))
    assert plot_relaxation(short, part) is part
    (axes,) = given.axes
    assert axes.get_title() == "not converged after 2 steps"
    given.canvas.draw()  # the residual of 0 has no place on the axis
    assert plot_relaxation(replace(short, residuals=(0.5,))).axes[0].get_title().endswith("after 1 step")
    with pytest.raises(ValueError, match="at least one step"):
        plot_relaxation(replace(free, residuals=()))


def progress(**history: list[float]) -> eq.Progress:
    return eq.Progress({}, np.random.default_rng(0), epoch=3, history=history)


def test_learning_curves_show_the_errors_of_each_epoch() -> None:
    axes = plot_learning_curves(progress(train_error=[9.0, 5.0, 2.0], validation_error=[8.0, 6.5, 6.0]))
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("epoch", "error (%)")
    assert axes.get_ylim()[0] == 0
    training, validation = axes.get_lines()
    np.testing.assert_array_equal(training.get_xydata(), [(1, 9), (2, 5), (3, 2)])
    np.testing.assert_array_equal(validation.get_xydata(), [(1, 8), (2, 6.5), (3, 6)])
    assert [text.get_text() for text in axes.get_legend().get_texts()] == ["training", "validation"]
    assert (training.get_linestyle(), validation.get_linestyle()) == ("--", "-")


def test_learning_curves_without_some_validation_data() -> None:
    (axes,) = Figure().subplots(1, 1, squeeze=False)[0]
    assert plot_learning_curves(progress(train_error=[9.0, 5.0, 2.0]), axes) is axes
    assert len(axes.get_lines()) == 1
    later = plot_learning_curves(progress(train_error=[9.0, 5.0, 2.0], validation_error=[6.5, 6.0]))
    np.testing.assert_array_equal(later.get_lines()[1].get_xydata(), [(2, 6.5), (3, 6)])
    errors = {name: [6.5, 6.0] for name in ("validation_error", "average_validation_error")}
    both = plot_learning_curves(progress(train_error=[9.0, 5.0, 2.0], **errors))
    assert both.get_lines()[2].get_label() == "validation, averaged weights"
    with pytest.raises(ValueError, match="at least one complete epoch"):
        plot_learning_curves(eq.Progress({}, np.random.default_rng(0)))


LABELS = ["cat", "cat", "cat", "dog", "owl", "owl"]
PREDICTIONS = ["cat", "owl", "owl", "dog", "owl", "cat"]


def test_the_confusion_matrix_has_labels_as_rows() -> None:
    np.testing.assert_array_equal(confusion_matrix(LABELS, PREDICTIONS), [[1, 0, 2], [0, 1, 0], [1, 0, 1]])
    np.testing.assert_array_equal(confusion_matrix([3, 7], [7, 9]), [[0, 1, 0], [0, 0, 1], [0, 0, 0]])
    for labels, predictions in (([0, 1], [0]), ([], []), ([[0]], [[0]]), (0, 0)):
        with pytest.raises(ValueError, match="must have the same shape"):
            confusion_matrix(labels, predictions)


def test_the_plot_of_a_confusion_matrix_shows_shares_and_counts() -> None:
    axes = plot_confusion_matrix(LABELS, PREDICTIONS)
    np.testing.assert_allclose(
        axes.images[0].get_array(), [[100 / 3, 0, 200 / 3], [0, 100, 0], [50, 0, 50]], atol=1e-12
    )
    assert axes.images[0].get_clim() == (0, 100)
    texts = {text.get_position(): text.get_text() for text in axes.texts}  # (column, row)
    assert texts == {(0, 0): "1", (2, 0): "2", (1, 1): "1", (0, 2): "1", (2, 2): "1"}
    for ticks in (axes.get_xticklabels(), axes.get_yticklabels()):
        assert [tick.get_text() for tick in ticks] == ["cat", "dog", "owl"]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("prediction", "label")
    assert axes.get_title() == "error 50.00 %"  # 3 of 6
    assert axes.figure.axes[1].get_ylabel() == "share of the label (%)"
    colours = {text.get_position(): text.get_color() for text in axes.texts}
    assert (colours[0, 0], colours[2, 0]) == ("black", "white")


def test_the_name_of_a_class_is_no_formula() -> None:
    axes = plot_confusion_matrix(["$^$", "b"], ["b", "$^$"])
    axes.figure.draw_without_rendering()
    assert [label.get_text() for label in axes.get_xticklabels()] == ["$^$", "b"]


def test_a_confusion_matrix_of_many_classes_has_no_numbers() -> None:
    given = Figure().subplots()
    axes = plot_confusion_matrix(np.arange(21), np.arange(21), given)
    assert axes is given
    assert not axes.texts
    assert axes.get_title() == "error 0.00 %"


def test_the_worst_errors_come_first() -> None:
    images = np.arange(5 * 6.0).reshape(5, 2, 3)
    labels = np.array([0, 1, 2, 0, 1])
    outputs = np.array([[0.5, 0.6, 0.0], [0.1, 0.9, 0], [0.8, 0.1, 0.1], [0.9, 0, 0], [0.0, 0.2, 0.7]])
    figure = plot_worst_errors(images, labels, outputs)  # samples 0, 2 and 4 are wrong, by 0.1, 0.7 and 0.5
    assert [axes.get_title() for axes in figure.axes] == ["2 as 0", "1 as 2", "0 as 1"]
    for axes, k in zip(figure.axes, (2, 4, 0), strict=True):
        np.testing.assert_array_equal(axes.images[0].get_array(), images[k])
    assert figure.get_suptitle() == "3 worst of 3 errors (label as prediction)"
    given = Figure()
    assert plot_worst_errors(images, labels, outputs, given, count=2) is given
    assert [axes.get_title() for axes in given.axes] == ["2 as 0", "1 as 2"]
    assert given.get_suptitle() == "2 worst of 3 errors (label as prediction)"


@pytest.mark.parametrize("shape", [(2, 3, 3, 1), (2, 9), (2, 3, 3), (2, 3, 3, 3)])
def test_worst_errors_take_images_of_each_shape(shape: tuple[int, ...]) -> None:
    images = np.random.default_rng(0).random(shape)
    (axes,) = plot_worst_errors(images, np.array([0, 1]), np.array([[0.2, 0.4], [0.1, 0.5]])).axes
    wanted = (3, 3, 3) if shape == (2, 3, 3, 3) else (3, 3)
    np.testing.assert_array_equal(axes.images[0].get_array(), images[0].reshape(wanted))


def test_without_an_error_the_figure_says_so() -> None:
    figure = plot_worst_errors(np.zeros((2, 3, 3)), np.array([0, 1]), np.eye(2))
    assert figure.get_suptitle() == "no errors"
    assert not figure.axes


@pytest.mark.parametrize(
    ("images", "labels", "outputs", "words"),
    [
        ((2, 8), (2,), (2, 3), r"got \(2, 8\): reshape them"),
        ((2, 3, 3, 2), (2,), (2, 3), "reshape them"),
        ((3, 3, 3), (2,), (2, 3), "one entry for each sample"),
        ((2, 3, 3), (2, 3), (2, 3), "one entry for each sample"),
        ((2, 3, 3), (2,), (2,), "one entry for each sample"),
    ],
)
def test_what_does_not_fit_is_refused(images: tuple, labels: tuple, outputs: tuple, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        plot_worst_errors(np.zeros(images), np.zeros(labels, int), np.zeros(outputs))
    with pytest.raises(ValueError, match="count must be a positive integer, got 0"):
        plot_worst_errors(np.zeros((1, 2, 2)), np.zeros(1, int), np.eye(1), count=0)


@pytest.mark.parametrize(
    "draw",
    [
        lambda: plot_learning_curves(progress(train_error=[9.0, 5.0, 2.0])).figure,
        lambda: plot_confusion_matrix(LABELS, PREDICTIONS).figure,
        lambda: plot_worst_errors(np.zeros((1, 2, 2)), np.zeros(1, int), np.array([[0.0, 1.0]])),
    ],
)
def test_a_new_figure_is_one_of_pyplot(draw) -> None:
    figure = draw()
    assert pyplot.fignum_exists(figure.number)  # pyplot.show() and notebooks show it


def test_importing_the_package_imports_no_plotting_and_no_scikit_learn() -> None:
    code = "import sys, eqprop_np; print(sorted({'matplotlib', 'sklearn'} & sys.modules.keys()))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", check=True)
    assert run.stdout == "[]\n"


# ---- the command


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Return the directory of a run that makes errors, and its data directory."""
    root = tmp_path_factory.mktemp("errors")
    data = write_bands(root / "bands", side=6, test=40)
    arguments = ["--hidden", "4", "--epochs", "1", "--quiet", "--seed", "3", "--data", str(data)]
    assert mnist.main([*arguments, "--out", str(root / "run")]) == 0
    return root / "run", data


def test_the_command_draws_the_errors_of_a_checkpoint(
    trained: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory, data = trained
    drawn: list[Figure] = []
    monkeypatch.setattr(figures, "save", lambda figure, path: drawn.append(figure))
    for weights in (directory, directory / "checkpoint.npz"):
        assert figures.main(["errors", "--weights", str(weights)]) == 0  # finds the data of the run
    configuration, state = checkpoint.load(directory / "checkpoint.npz")
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    test = load(str(data))
    found = eq.outputs(dynamics, state.theta, test.test_images, configuration.experiment.phases)
    predictions = found.argmax(axis=1)
    recorded = json.loads((directory / "summary.json").read_text("utf-8"))["test_error"]
    wrong = np.flatnonzero(predictions != test.test_labels)
    assert 0 < len(wrong) < 40
    for figure in drawn:
        matrix, _, *worst = figure.axes
        assert matrix.get_title() == f"error {recorded:.2f} %"
        counts = np.zeros((3, 3), int)
        for text in matrix.texts:
            column, row = map(int, text.get_position())
            counts[row, column] = int(text.get_text())
        np.testing.assert_array_equal(counts, confusion_matrix(test.test_labels, predictions))
        assert len(worst) == min(len(wrong), 25)
        excess = found.max(axis=1) - found[np.arange(40), test.test_labels]
        first = int(np.argmax(excess))
        np.testing.assert_array_equal(worst[0].images[0].get_array(), test.test_images[first])
        assert worst[0].get_title() == f"{test.test_labels[first]} as {predictions[first]}"
        assert figure.get_suptitle() == "p-1h on bands, test set"


def test_the_command_writes_a_file_and_refuses_other_data(
    trained: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory, data = trained
    out = tmp_path / "errors.png"
    assert figures.main(["errors", "--weights", str(directory), "--data", str(data), "--out", str(out)]) == 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert capsys.readouterr().out == f"{out}\n"
    other = str(write_bands(tmp_path / "other", side=6, test=41))
    for arguments, words in (
        (["--weights", str(directory), "--data", other], "give the data of the run with --data"),
        (["--weights", str(tmp_path / "none.npz")], "the checkpoint does not exist"),
    ):
        assert figures.main(["errors", *arguments]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and words in line


def test_axes_are_returned_of_the_given_figure() -> None:
    axes = Figure().subplots()
    assert isinstance(plot_confusion_matrix([0, 1], [0, 0], axes), Axes)
    assert axes.images
