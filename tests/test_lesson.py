"""The module beside the notebooks: sliders, checks of exercises, and the pictures of two neurons."""

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.figure import Figure

import eqprop_np as eq

TUTORIALS = Path(__file__).resolve().parents[1] / "tutorials"


@pytest.fixture(scope="module")
def lesson() -> Iterator[ModuleType]:
    """The module, which the notebooks import from their own directory."""
    before = plt.get_backend()
    sys.path.insert(0, str(TUTORIALS))
    try:
        plt.switch_backend("agg")
        import lesson

        yield lesson
    finally:
        sys.path.remove(str(TUTORIALS))
        plt.switch_backend(before)


# ---- sliders


@pytest.fixture
def shown(lesson: ModuleType, monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """What is displayed."""
    figures: list[Figure] = []
    monkeypatch.setattr(lesson, "display", figures.append)
    return figures


def draw_into(calls: list[dict[str, float]]) -> Callable[..., Figure]:
    def draw(**values: float) -> Figure:
        calls.append(values)
        figure = plt.figure()
        figure.suptitle(str(values))
        return figure

    return draw


def test_a_static_slider_draws_three_values_and_shows_the_default(
    lesson: ModuleType, shown: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EQPROP_NP_STATIC", "1")
    calls: list[dict[str, float]] = []
    lesson.play(draw_into(calls), beta=(-1.0, 2.0, 0.1, 0.5), w=(0.0, 3.0, 1.0, 1.0))
    assert calls == [{"beta": -1.0, "w": 0.0}, {"beta": 2.0, "w": 3.0}, {"beta": 0.5, "w": 1.0}]
    assert [figure.get_suptitle() for figure in shown] == [str(calls[-1])]
    assert plt.get_fignums() == []


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_an_error_at_any_of_the_three_values_is_raised(
    lesson: ModuleType, shown: list[Figure], monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    monkeypatch.setenv("EQPROP_NP_STATIC", "1")

    def draw(beta: float) -> Figure:
        if beta == (0.0, 2.0, 1.0)[failing]:
            raise ZeroDivisionError
        return plt.figure()

    with pytest.raises(ZeroDivisionError):
        lesson.play(draw, beta=(0.0, 2.0, 0.1, 1.0))


def test_a_live_slider_has_its_range_and_draws_what_it_is_set_to(
    lesson: ModuleType, shown: list[Figure], monkeypatch: pytest.MonkeyPatch
) -> None:
    widgets = pytest.importorskip("ipywidgets")
    monkeypatch.delenv("EQPROP_NP_STATIC", raising=False)
    given: dict[str, Any] = {}

    def interact(function: Callable[..., None], **sliders: Any) -> None:
        given.update(sliders)
        function(**{name: slider.value for name, slider in sliders.items()})
        function(**{name: slider.max for name, slider in sliders.items()})

    monkeypatch.setattr(widgets, "interact", interact)
    calls: list[dict[str, float]] = []
    lesson.play(draw_into(calls), beta=(-1.0, 2.0, 0.1, 0.5))
    slider = given["beta"]
    assert (slider.min, slider.max, slider.step, slider.value) == (-1.0, 2.0, 0.1, 0.5)
    assert calls == [{"beta": 0.5}, {"beta": 2.0}]
    assert len(shown) == 2
    assert plt.get_fignums() == []


# ---- checks


@pytest.mark.parametrize(
    ("error", "printed"),
    [
        (None, "right\n"),
        (AssertionError("the sign is wrong"), "not yet: the sign is wrong\n"),
        (NameError("name 'phase' is not defined"), "not yet, NameError: name 'phase' is not defined\n"),
    ],
)
def test_check(
    lesson: ModuleType, capsys: pytest.CaptureFixture[str], error: Exception | None, printed: str
) -> None:
    @lesson.check
    def right() -> None:
        if error is not None:
            raise error

    assert capsys.readouterr().out == printed


# ---- two neurons


def test_the_energy_of_two_neurons_is_that_of_the_package(lesson: ModuleType) -> None:
    s1, s2, w, x = 0.7, -0.4, 1.3, 0.3
    network = eq.chain([1, 1, 1])
    theta = {"w0-1": np.ones((1, 1)), "w1-2": np.full((1, 1), w), "b1": np.zeros(1), "b2": np.zeros(1)}
    activities = (np.tanh([[s1]]), np.tanh([[s2]]))
    phi = network.phi(theta, np.array([[x]]), activities)[0]
    np.testing.assert_allclose(lesson.pair_energy(s1, s2, w, x), (s1**2 + s2**2) / 2 - phi)

    dynamics = eq.RealTime(network, eq.tanh, epsilon=0.2, clamp=False)
    state = (np.array([[s1]]), np.array([[s2]]))
    by_package = np.ravel(eq.step(dynamics, theta, np.array([[x]]), state))
    path = lesson.descend(lambda a, b: lesson.pair_energy(a, b, w, x), (s1, s2), 0.2, steps=1)
    np.testing.assert_allclose(path, [(s1, s2), by_package], atol=1e-8)


def test_descend_takes_several_starts(lesson: ModuleType) -> None:
    starts = np.array([[1.0, -1.0], [0.5, -0.5]])
    path = lesson.descend(lesson.pair_energy, starts, steps=3)
    assert path.shape == (4, 2, 2)
    np.testing.assert_array_equal(path[0], starts)
    for k in (0, 1):
        np.testing.assert_allclose(path[..., k], lesson.descend(lesson.pair_energy, starts[:, k], steps=3))


@pytest.mark.parametrize("beta", [-0.2, 0.0, 0.5, 2.0])
def test_the_nudged_minimum_has_no_slope(lesson: ModuleType, beta: float) -> None:
    s1, s2 = lesson.nudged_minimum(beta, w=0.8, x=0.2, target=0.9)

    def height(a: Any, b: Any) -> Any:
        return lesson.pair_energy(a, b, 0.8, 0.2) + beta * (b - 0.9) ** 2 / 2

    np.testing.assert_allclose(lesson.slope(height, s1, s2), 0, atol=1e-6)


def test_the_minimum_slides_without_a_jump(lesson: ModuleType) -> None:
    """Over the range of the slider the curve of minima is one branch, which moves towards the target."""
    curve = lesson.nudged_minimum(np.linspace(-0.2, 2, 67))
    steps = np.diff(curve[1])
    assert 0 < steps.min() < steps.max() < 0.05


@pytest.mark.parametrize("beta", [-0.2, 0.0, 0.5, 2.0])
def test_the_picture_of_the_sliding_minimum_has_the_slopes_that_it_says(
    lesson: ModuleType, beta: float
) -> None:
    left, right = lesson.draw_sliding_minimum(beta).axes
    labels = " ".join(text.get_text() for text in right.get_legend().get_texts())

    h = 1e-3
    outputs = lesson.nudged_minimum(np.zeros(2), w=np.array([1 + h, 1 - h]))[1]
    losses = (outputs - 1) ** 2 / 2
    assert f"tangent at 0, slope {-(losses[0] - losses[1]) / (2 * h):.3f}" in labels

    free, nudged = (np.prod(np.tanh(lesson.nudged_minimum(b))) for b in (0.0, beta))
    assert (f"contrast, slope {(nudged - free) / beta:.3f}" in labels) if beta else "contrast" not in labels
    points = [line.get_xydata()[0] for line in left.lines if line.get_marker() == "o"]
    np.testing.assert_allclose(points, [lesson.nudged_minimum(b) for b in (0.0, beta)], atol=1e-6)


def test_the_landscape_is_lowest_where_the_dark_is(lesson: ModuleType) -> None:
    figure = Figure()
    ax = figure.subplots()
    lesson.draw_landscape(ax, lesson.pair_energy, -1.0, 1.5)
    assert (ax.get_xlim(), ax.get_ylim()) == ((-1.0, 1.5), (-1.0, 1.5))
    filled = ax.collections[0]
    shades = filled.get_cmap()(filled.norm(filled.get_array()))[:, 0]
    assert np.all(np.diff(filled.get_array()) > 0) and np.all(np.diff(shades) > 0)


def test_every_other_picture_is_drawn(lesson: ModuleType) -> None:
    two = (np.ones((2, 3)), np.ones((3, 2)))
    numbers = [np.zeros((1, 2)), np.full((1, 3), 0.25), np.full((1, 2), -0.5)]
    gradient = {"b1": np.ones(2), "w0-1": np.ones((2, 2))}
    state = (np.zeros((1, 9)), np.ones((1, 4)))
    for figure, axes in (
        (lesson.draw_descent(lesson.pair_energy), 2),
        (lesson.draw_two_floors(), 2),
        (lesson.draw_splits(np.array([-2.0, 0.5, 2.0])), 2),
        (lesson.draw_euler(lesson.pair_energy, 0.9), 2),
        (lesson.draw_settling([state, state], [0.1], times=(0, 1)), 6),
        (lesson.draw_updates(gradient, {"β": gradient}, ["b1", "w0-1"]), 1),
        (lesson.draw_networks([("a", numbers), ("b", numbers)], two, (False, True)), 2),
        (lesson.draw_training({"real time": np.ones((3, 5))}), 1),
    ):
        figure.canvas.draw()
        assert len(figure.axes) == axes
    assert plt.get_fignums() == []


def test_the_numbers_in_the_neurons(lesson: ModuleType) -> None:
    two = (np.ones((2, 3)), np.ones((3, 2)))
    numbers = [np.zeros((1, 2)), np.full((1, 3), 0.25), np.full((1, 2), -0.5)]
    plain, signed = lesson.draw_networks([("a", numbers), ("b", numbers)], two, (False, True)).axes
    assert [t.get_text() for t in plain.texts] == ["0"] * 2 + ["0.25"] * 3 + ["-0.50"] * 2
    assert [t.get_text() for t in signed.texts] == ["0"] * 2 + ["+0.25"] * 3 + ["-0.50"] * 2


def test_the_splits_are_those_of_the_text(lesson: ModuleType) -> None:
    """With x = 0 a second minimum appears at w = ±1, with x = 0.3 at about ±1.632."""
    for x, at in ((0.0, 1.0), (0.3, 1.632)):
        weights = at * np.array([-1.03, -0.97, 0.97, 1.03])
        axes = lesson.draw_splits(weights, inputs=(x, x)).axes
        up, down = (line.get_ydata() for line in axes[0].lines)
        apart = np.abs(up - down)
        assert apart[[0, 3]].min() > 0.2 > 0.05 > apart[[1, 2]].max(), (x, apart)


# ---- notebooks 5 and 6


@pytest.mark.parametrize("clock", ["discrete", "real"])
def test_jacobian_is_that_of_a_step(lesson: ModuleType, clock: str) -> None:
    network, rng = eq.chain([3, 4, 2]), np.random.default_rng(0)
    dynamics = (
        eq.DiscreteTime(network, eq.tanh)
        if clock == "discrete"
        else eq.RealTime(network, eq.tanh, epsilon=0.3, clamp=False)
    )
    theta, x = network.init(rng, np.float64), rng.random((1, 3))
    s = rng.normal(size=6)

    def step(value: Any) -> Any:
        state = (value[None, :4], value[None, 4:])
        return np.concatenate(eq.step(dynamics, theta, x, state), axis=1)[0]

    columns = [(step(s + shift) - step(s - shift)) / 2e-5 for shift in 1e-5 * np.eye(6)]
    found = lesson.jacobian(dynamics, theta, x, (s[None, :4], s[None, 4:]))
    np.testing.assert_allclose(found, np.transpose(columns), atol=1e-9)


def test_copies_are_hatched_only_where_a_zero_state_is_the_cause(lesson: ModuleType) -> None:
    network, rng = eq.chain([3, 4, 3, 2]), np.random.default_rng(0)
    dynamics, theta = eq.DiscreteTime(network, eq.tanh), network.init(rng, np.float64)
    x, y = rng.random((1, 3)), np.array([[1.0, 0.0]])
    free = eq.relax(dynamics, theta, x, None, 6, schedule=eq.Synchronous(), trajectory=True)
    figure = lesson.draw_copies(list(eq.gradients(dynamics, theta, x, y, free)))
    boxes = [patch for patch in figure.axes[0].patches if patch.get_hatch()]
    sizes = sorted(box.get_width() for box in boxes)
    assert sizes == [6, 12]  # w2-3 and w1-2
    assert {box.get_y() for box in boxes} == {4.5}  # of the first step, t = 5


# ---- notebook 9


def test_a_mosaic_shows_the_maps_row_by_row(lesson: ModuleType) -> None:
    maps = np.arange(4 * 2 * 3, dtype=float).reshape(2, 3, 4)  # four maps of 2 × 3 pixels
    image = lesson.mosaic(maps, columns=2)
    assert image.shape == (2 * 2 + 1, 2 * 3 + 1)
    for k, (row, column) in enumerate(((0, 0), (0, 4), (3, 0), (3, 4))):
        assert np.array_equal(image[row : row + 2, column : column + 3], maps[..., k])
    assert np.isnan(image[2]).all()
    assert np.isnan(image[:, 3]).all()


def test_the_chessboard_leaves_exact_zeros_white(lesson: ModuleType) -> None:
    differences = np.array([[0.0, 1e-3], [1e-2, 0.0]])
    shown = lesson.draw_chessboard(differences).axes[0].images[0].get_array()
    assert np.array_equal(
        np.ma.getmaskarray(shown) | np.isnan(np.ma.getdata(shown)), [[True, False], [False, True]]
    )


# ---- notebook 10


def test_the_ring_marks_the_circle_that_is_drawn(lesson: ModuleType) -> None:
    plane = np.linspace(-1, 1, 3) + 1j * np.linspace(-1, 1, 3)[:, None]
    circle, radii = 0.3 * np.exp(2j * np.pi * np.arange(4) / 4), np.array([0.1, 0.5])
    curves = {"N = 4": (radii, radii**4)}
    figure = lesson.draw_circle(plane, plane, circle, curves, here=(0.3, 1e-2), radius=0.4)
    left, right = figure.axes[:2]
    (image,) = (c for c in left.collections if c.get_array() is not None)
    np.testing.assert_allclose(np.ravel(image.get_array()), np.abs(plane).ravel())
    around, chosen, points, _ = (line.get_xydata() @ (1, 1j) for line in left.lines)
    np.testing.assert_allclose(np.abs(around), 0.4)
    np.testing.assert_allclose(np.abs(chosen), 0.3)
    np.testing.assert_allclose(points, circle)
    assert left.get_title(loc="left") + left.get_title() == "N = 4, r = 0.30"
    curve, limit, ring = (line.get_xydata() for line in right.lines)
    np.testing.assert_allclose(curve, np.transpose(curves["N = 4"]))
    assert limit[0, 0] == 0.4
    np.testing.assert_allclose(ring, [(0.3, 1e-2)])


def test_the_rings_mark_the_best_radius_of_each_curve(lesson: ModuleType) -> None:
    radii = np.array([0.1, 0.2, 0.3])
    curves = {"a": (radii, [3, 1, 2]), "b": (radii, [3, 2, 1])}
    (ax,) = lesson.draw_noise(curves, radius=0.25).axes
    rings = [line.get_xydata().tolist() for line in ax.lines if line.get_color() == "none"]
    assert rings == [[[0.2, 1]], [[0.3, 1]]]
    assert [text.get_text() for text in ax.get_legend().get_texts()] == ["a", "b"]


def test_the_corrections_are_drawn_over_psi_and_over_beta(lesson: ModuleType) -> None:
    betas = np.array([1e-2, 1e-1])
    figure = lesson.draw_corrections([0, 90], {"VF": [0, 40]}, betas, {"EP": [1, 1], "AsymEP": betas**2})
    left, right = figure.axes
    assert left.lines[0].get_xydata().tolist() == [[0, 0], [90, 40]]
    np.testing.assert_allclose(right.lines[1].get_ydata(), betas**2)
    assert (right.get_xscale(), right.get_yscale()) == ("log", "log")


def test_over_relaxation_shows_the_course_of_the_chosen_omega(lesson: ModuleType) -> None:
    omegas, counts = np.array([1.0, 1.4]), {"small": [5, 3], "deep": [9, 4]}
    courses = {name: ([1.0, 0.1, 0.01], [1.0, 0.02]) for name in counts}
    left, right = lesson.draw_over_relaxation(1.4, omegas, counts, courses).axes
    labels = [text.get_text() for text in left.get_legend().get_texts()]
    assert labels == ["small, ω = 1", "small, ω = 1.4", "deep, ω = 1", "deep, ω = 1.4"]
    assert [len(line.get_xdata()) for line in left.lines] == [3, 2, 3, 2]
    assert [list(line.get_ydata()) for line in right.lines[:2]] == list(counts.values())


# ---- Fig. 1(c) in notebook 8


def test_recorded_points_of_one_psi_are_one_marker_with_bars(lesson: ModuleType) -> None:
    angles = {"published": {"mean": 80.0, "std": 5.0}}
    points = [
        {"preset": preset, "psi": 0.0, "angles": angles, "test_error": error}
        for preset, errors in (("p-1h", [2.0]), ("cep-1h", [2.0]), ("cvf-1h", [4.0, 6.0]))
        for error in errors
    ]
    published, recorded, course = lesson.draw_fig1c_beside_published(points, [[0.0, 40.0, 45.0]]).axes
    (ep, *_), (c_vf, _, bars) = recorded.containers[0], recorded.containers[2]
    assert list(ep.get_xydata()[0]) == [80, 2] and list(c_vf.get_xydata()[0]) == [80, 5]
    ends = [bar.get_segments()[0] for bar in bars]
    np.testing.assert_allclose(ends, [[[75, 5], [85, 5]], [[80, 5 - 2**0.5], [80, 5 + 2**0.5]]])
    assert [len(c.lines[0].get_xdata()) for c in published.containers] == [1, 1, 9]
    assert list(course.lines[0].get_ydata()) == [0, 40, 45]
