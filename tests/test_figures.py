"""Tests of the figures: they show the computed values, and a file is written completely or not at all."""

import json
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
from examples import write_bands
from matplotlib.collections import LineCollection
from matplotlib.colors import same_color, to_hex
from matplotlib.figure import Figure
from matplotlib.text import Annotation

from eqprop_np import figures, mnist
from eqprop_np.costs import Readout
from eqprop_np.dynamics import DiscreteTime
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.datasets import load
from eqprop_np.experiments.systems import SYSTEMS
from eqprop_np.figures import PAPER, Panel, draw_fig1a, draw_fig1b, draw_fig1c, main, read_sweep, save
from eqprop_np.network import Theta, convolutional
from eqprop_np.plots import COLOURS
from eqprop_np.rules.phases import Phases, free_phase
from eqprop_np.samples import Samples
from eqprop_np.theorem import first_phase, gradients, updates

SIGNATURES = {"png": b"\x89PNG", "pdf": b"%PDF", "svg": b"<?xml"}


def test_fig1a_gives_each_gradient_the_colour_of_its_update() -> None:
    left, right = draw_fig1a().axes
    colours = [{text.get_text(): text.get_color() for text in axes.texts} for axes in (left, right)]
    pairs = [
        (rf"$\nabla_{{\!{kind}}}({t})$", rf"$\Delta_{name}({t})$")
        for kind, name in (("s", "s"), (r"\theta", r"\theta"))
        for t in range(3)
    ]
    for gradient, update in pairs:
        assert colours[0][gradient] == colours[1][update]
    assert len({colours[0][gradient] for gradient, _ in pairs}) == 3


def test_fig1a_puts_each_symbol_at_its_time() -> None:
    """BPTT goes back from s_T, and EP goes forward from s_0 = s_*."""
    left, right = draw_fig1a().axes
    before, after = ({text.get_text(): text.get_position() for text in axes.texts} for axes in (left, right))
    for t in range(3):
        assert before[rf"$\nabla_{{\!s}}({t})$"] == (3 - t, -0.52)
        assert before[rf"$\nabla_{{\!\theta}}({t})$"] == (3 - t, 1.5)
        assert after[rf"$\Delta_s({t})$"] == (t + 0.5, -0.52)
        assert after[rf"$\Delta_\theta({t})$"] == (t + 0.5, 1.5)
    names = ("T", *(rf"T\!-\!{t}" for t in range(1, 4)))
    for t, name in enumerate(names):
        assert before[f"$s_{{{name}}}$"] == (3 - t, 0)
    for t, name in enumerate(names[:3]):
        assert before[rf"$\theta_{{{name}}}$"] == (3 - t, 1)
    for t in range(4):
        assert after[f"$s_{t}$"] == (t, 0)
        assert after[rf"$\theta_{t}$"] == (t, 1)
    assert left.get_title() == "first phase, and BPTT"
    assert right.get_title() == "second phase, and EP"


def test_fig1a_has_arrows_in_the_direction_of_each_computation() -> None:
    left, right = draw_fig1a().axes
    drawn = [
        {
            (*text.xyann, *text.xy): text.arrow_patch.get_edgecolor()
            for text in axes.texts
            if isinstance(text, Annotation)
        }
        for axes in (left, right)
    ]
    back = {(3 - t - 0.33, -0.52, 3 - t - 0.67, -0.52): COLOURS[t] for t in range(3)}
    forward = {(t, n, t + 1, n): COLOURS[t] for t in range(3) for n in (0, 1)}
    for arrows, coloured in zip(drawn, (back, forward), strict=True):
        found = {place: colour for place, colour in arrows.items() if to_hex(colour).upper() in COLOURS}
        assert found.keys() == coloured.keys()
        assert all(same_color(found[place], colour) for place, colour in coloured.items())
    grey = {place for place, colour in drawn[0].items() if same_color(colour, figures.GREY)}
    assert grey == {(x, 0, x + 1, 0) for x in range(4)} | {(x, 1, x, 0) for x in range(1, 4)}
    grey = {place for place, colour in drawn[1].items() if same_color(colour, figures.GREY)}
    assert grey == {(x, -1.2, x, 0) for x in range(1, 4)} | {(x, 1, x + 1, 0) for x in range(3)}
    nodes = {tuple(line.get_xydata()[0]): line.get_markeredgecolor() for line in left.get_lines()}
    for t in range(3):
        assert nodes[3 - t, 0] == nodes[3 - t, 1] == COLOURS[t]


def test_the_panels_of_fig1b_are_those_of_the_paper() -> None:
    assert [(panel.system, panel.continual) for panel in PAPER] == [
        ("toy", False),
        ("toy", True),
        ("conv", False),
    ]
    assert [panel.title for panel in PAPER] == ["standard EP", "continual EP", "discrete-time CNN"]


@pytest.mark.parametrize("continual", [False, True])
def test_fig1b_draws_the_processes_of_its_system(continual: bool) -> None:
    """Each connection has the synapses of the largest and of the smallest Σ_t −∇_θ(t)."""
    seed, system = 3, SYSTEMS["toy"]
    (axes,) = draw_fig1b([Panel("a title", "toy", continual)], seed).axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    theta, x, y = system.draw(seed)
    rest = first_phase(system.dynamics, theta, x, system.steps)
    eta = system.eta if continual else 0.0
    nablas = list(gradients(system.dynamics, theta, x, y, rest))
    deltas = list(updates(system.dynamics, theta, x, y, rest, system.beta, eta=eta))
    largest = {
        layer: max(np.abs(moment.theta[name]).max() for moment in nablas for name in names)
        for layer, names in (("1", ["w0-1"]), ("2", ["w0-2", "w1-2"]))
    }
    expected = []
    for name in ("w0-1", "w0-2", "w1-2"):
        total = -sum(moment.theta[name] for moment in nablas)
        for place in (np.unravel_index(f(total), total.shape) for f in (np.argmax, np.argmin)):
            for sign, process in ((1, deltas), (-1, nablas)):
                values = [sign * moment.theta[name][place] for moment in process]
                expected.append(np.array(values) / largest[name[-1]])
    for line, values in zip(lines, expected, strict=True):
        np.testing.assert_allclose(line.get_ydata(), values)
        np.testing.assert_array_equal(line.get_xdata(), range(system.steps))


def test_fig1b_says_which_lines_are_which() -> None:
    figure = draw_fig1b([Panel("a title", "toy", False)])
    (axes,), (legend,) = figure.axes, figure.legends
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("$t$", "update, relative")
    styles = dict(
        zip(
            [text.get_text() for text in legend.get_texts()],
            [(line.get_linestyle(), line.get_linewidth()) for line in legend.get_lines()],
            strict=True,
        )
    )
    assert styles == {r"$\Delta_\theta(t)$, EP": ("-", 3), r"$-\nabla_{\!\theta}(t)$, BPTT": ("--", 1.3)}
    plain, dashed = [line for line in axes.get_lines() if len(line.get_xdata()) > 2][:2]
    assert (plain.get_linestyle(), plain.get_linewidth()) == ("-", 3)
    assert (dashed.get_linestyle(), dashed.get_linewidth()) == ("--", 1.3)


def test_the_command_passes_its_options_to_fig1b(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(figures, "draw_fig1b", lambda panels=PAPER, seed=0: asked.append((panels, seed)))
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    assert main(["fig1b", "--seed", "7"]) == 0
    assert main(["fig1b", "--system", "eb-1h", "--seed", "2"]) == 0
    panels = [Panel("eb-1h: EP", "eb-1h", False), Panel("eb-1h: C-EP", "eb-1h", True)]
    assert asked == [(PAPER, 7), (panels, 2)]


def test_fig1b_has_a_panel_for_each_of_the_papers() -> None:
    figure = draw_fig1b()
    assert [axes.get_title() for axes in figure.axes] == [panel.title for panel in PAPER]
    distances = []
    for axes in figure.axes:
        lines = [line.get_ydata() for line in axes.get_lines() if len(line.get_xdata()) > 2]
        deltas, nablas = np.array(lines[::2]), np.array(lines[1::2])
        assert len(deltas) == len(nablas) == 6
        assert nablas.max() == pytest.approx(1)
        assert np.abs(deltas).max() < axes.get_ylim()[1]  # no curve leaves the frame
        distances.append(np.abs(deltas - nablas).max())
    standard, continual, cnn = distances
    assert standard < 0.02
    assert 0.1 < continual < 0.3  # the two curves differ visibly
    assert cnn < 0.05


def test_plain_and_dashed_lines_of_a_synapse_share_a_colour() -> None:
    (axes,) = draw_fig1b([Panel("toy", "toy", False)]).axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    for plain, dashed in zip(lines[::2], lines[1::2], strict=True):
        assert plain.get_color() == dashed.get_color()
        assert (plain.get_linestyle(), dashed.get_linestyle()) == ("-", "--")


def point(preset: str, psi: float, seed: int, angle: float, error: float) -> dict:
    return {
        "preset": preset,
        "psi": psi,
        "seed": seed,
        "epochs": 30,
        "angles": {"published": {"mean": angle, "std": 3.0}},
        "test_error": error,
    }


POINTS = [
    point("p-1h", 0.0, 0, 2.0, 1.8),
    *(point("cvf-1h", psi, seed, 20 + psi / 4, 3 + psi / 90 + seed) for psi in (90, 0) for seed in (0, 2)),
]


def heights(bars: LineCollection) -> list[float]:
    return [np.ptp(segment[:, 1]) for segment in bars.get_segments()]


def test_fig1c_has_a_point_for_each_preset_and_angle_and_bars_over_seeds() -> None:
    left, right = draw_fig1c(POINTS).axes
    _, ep, _, vf = left.containers
    np.testing.assert_allclose(ep.lines[0].get_xydata(), [[2.0, 1.8]])
    np.testing.assert_allclose(vf.lines[0].get_xydata(), [[20.0, 4.0], [42.5, 5.0]])  # ψ = 0, then 90
    across, along = vf.lines[2]
    np.testing.assert_allclose([np.ptp(segment[:, 0]) for segment in across.get_segments()], 6)
    np.testing.assert_allclose(heights(along), 2 * np.sqrt(2))  # ± the deviation of, for example, 3 and 5
    np.testing.assert_allclose(heights(ep.lines[2][1]), 0)
    assert [text.get_text() for text in left.get_legend().get_texts()] == [
        "EP-1h, 30 epochs",
        "C-VF-1h, 30 epochs",
        "published",
    ]
    _, over_psi = right.containers
    np.testing.assert_allclose(over_psi.lines[0].get_xydata(), [[0, 4.0], [90, 5.0]])
    np.testing.assert_allclose(heights(over_psi.lines[2][0]), 2 * np.sqrt(2))


def test_fig1c_has_the_published_points_of_the_same_presets_in_grey() -> None:
    left, right = draw_fig1c(POINTS).axes
    grey_ep, ep, grey_vf, vf = left.containers
    np.testing.assert_allclose(grey_ep.lines[0].get_xydata(), [[16.8, 2.0]])
    assert grey_vf.lines[0].get_xydata()[4].tolist() == [91.8, 2.47]
    np.testing.assert_allclose(heights(grey_vf.lines[2][0])[5], 7.6)  # 4.6 ± 3.8
    assert right.containers[0].lines[0].get_xydata()[4].tolist() == [90, 2.47]
    colours = [container.lines[0].get_color() for container in (grey_ep, grey_vf, ep, vf)]
    assert colours[0] == colours[1] == "0.7"
    assert len(set(colours)) == 3
    assert grey_vf.lines[0].get_marker() == vf.lines[0].get_marker()


def test_the_recorded_points_are_drawn() -> None:
    points = read_sweep(figures.RECORDED)
    left, right = draw_fig1c(points).axes
    ours = [drawn.lines[0] for drawn in left.containers if drawn.lines[0].get_color() != "0.7"]
    drawn = np.concatenate([line.get_xydata() for line in ours])
    seeds: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for point in points:
        seeds.setdefault((point["preset"], point["psi"]), []).append(point)
    expected = [
        (group[0]["angles"]["published"]["mean"], np.mean([point["test_error"] for point in group]))
        for group in seeds.values()
    ]
    np.testing.assert_allclose(sorted(map(tuple, drawn)), sorted(expected), rtol=1e-12)
    low, high = left.get_ylim()
    assert low < min(drawn[:, 1]) and high > 93
    assert len(right.containers[1].lines[0].get_xydata()) == 9


def test_the_command_draws_fig1c_from_a_sweep(tmp_path: Path) -> None:
    other = point("conv", 0.0, 0, 2.0, 0.8) | {"angles": {}}  # a preset that the figure does not have
    (tmp_path / "summary.json").write_text(json.dumps({"points": [other, *POINTS]}), "utf-8")
    assert read_sweep(tmp_path) == POINTS
    assert main(["fig1c", "--runs", str(tmp_path), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").read_bytes().startswith(SIGNATURES["png"])


LOOKS = {  # the name, the marker and the colour of each preset
    "p-1h": ("EP-1h", "s", 0),
    "p-2h": ("EP-2h", "D", 0),
    "cep-1h": ("C-EP-1h", "s", 1),
    "cep-2h": ("C-EP-2h", "D", 1),
    "cvf-1h": ("C-VF-1h", "o", 2),
    "cvf-2h": ("C-VF-2h", "^", 3),
}


def test_fig1c_gives_each_preset_its_look_and_its_place() -> None:
    """The points come in another order than the presets, and each has numbers of its own."""
    points = [
        point(preset, 45.0 * n, 0, 10.0 * n, n + 0.5) | {"epochs": 20 + n} for n, preset in enumerate(LOOKS)
    ]
    axes, over_psi = draw_fig1c(points[::-1]).axes
    assert over_psi.get_xlabel() == r"initial angle $\psi$ of the weights (°)"
    assert axes.get_xlabel() == "angle to BPTT's gradients before training (°)"
    assert axes.get_ylabel() == "test error (%)"
    legend = axes.get_legend()
    for n, (drawn, (label, marker, colour)) in enumerate(
        zip(axes.containers[1::2], LOOKS.values(), strict=True)
    ):
        line = drawn.lines[0]
        np.testing.assert_allclose(line.get_xydata(), [[10 * n, n + 0.5]])
        assert (line.get_marker(), line.get_color()) == (marker, COLOURS[colour])
        assert drawn.get_label() == legend.get_texts()[n].get_text() == f"{label}, {20 + n} epochs"
    for drawn, n in zip(over_psi.containers[1::2], (4, 5), strict=True):  # the presets that have a ψ
        np.testing.assert_allclose(drawn.lines[0].get_xydata(), [[45 * n, n + 0.5]])


def test_fig1c_draws_points_with_fewer_epochs_by_themselves() -> None:
    longer, shorter = (
        [point("cvf-2h", psi, 0, 60 + psi / 9, error + psi / 90) | {"epochs": epochs} for psi in angles]
        for epochs, angles, error in ((150, (0, 135), 2.5), (40, (180, 45), 3.5))
    )
    axes, over_psi = draw_fig1c([*shorter, *longer]).axes
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "C-VF-2h, 150 epochs", "C-VF-2h, 40 epochs", "published"]  # fmt: skip
    for panel, start, factor in ((axes, 60, 1 / 9), (over_psi, 0, 1)):
        _, full, hollow = (drawn.lines[0] for drawn in panel.containers)
        np.testing.assert_allclose(full.get_xydata(), [[start, 2.5], [start + 135 * factor, 4.0]])
        np.testing.assert_allclose(
            hollow.get_xydata(), [[start + 45 * factor, 4.0], [start + 180 * factor, 5.5]]
        )
        assert (full.get_markerfacecolor(), hollow.get_markerfacecolor()) == (COLOURS[3], "white")


def test_without_a_directory_fig1c_is_that_of_the_recorded_sweep(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(figures, "draw_fig1c", asked.append)
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    assert main(["fig1c"]) == 0
    recorded = Path(figures.__file__).parent / "data" / "fig1c" / "summary.json"
    points = json.loads(recorded.read_text("utf-8"))["points"]
    assert asked == [[point for point in points if point["preset"] in figures.FAMILIES]]


@pytest.mark.parametrize(
    "content",
    [
        None,
        "{",
        "[]",
        '{"points": []}',
        '{"points": [1]}',
        '{"points": [{"preset": "p-1h"}]}',
        json.dumps({"points": [point("conv", 0.0, 0, 2.0, 1.8)]}),
        json.dumps({"points": [point("p-1h", 0.0, 0, 2.0, 1.8) | {"angles": {}}]}),
    ],
)
def test_what_is_no_sweep_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content, "utf-8")
    assert main(["fig1c", "--runs", str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "is not the summary of a sweep" in line
    assert "run python -m eqprop_np.sweep first" in line


def test_a_mosaic_holds_each_tile_once() -> None:
    tiles = np.arange(6 * 2 * 3).reshape(6, 2, 3)
    picture = figures._mosaic(tiles)
    assert picture.shape == (2 * 3 - 1, 3 * 4 - 1)
    np.testing.assert_array_equal(picture[3:5, 4:7], tiles[4])
    assert sorted(picture[~np.isnan(picture)]) == list(range(36))


@pytest.fixture
def cnn(tmp_path: Path, no_curves: None) -> tuple[Path, Path]:
    """Return the checkpoint of a small CNN and its data directory."""
    data, out = write_bands(tmp_path / "bands", side=16), tmp_path / "run"
    arguments = ["--preset", "conv", "--channels", "2", "3", "--epochs", "1", "--workers", "1", "--quiet"]
    assert mnist.main([*arguments, "--data", str(data), "--out", str(out)]) == 0
    return out / "checkpoint.npz", data


def test_the_filters_and_the_steady_state_are_those_of_the_checkpoint(cnn: tuple[Path, Path]) -> None:
    weights, data = cnn
    configuration, progress = checkpoint.load(weights)
    dynamics = configuration.experiment.build(configuration.image, configuration.classes)
    images = load(str(data))
    samples = Samples(images.test_images, images.test_labels)[:2]
    phases = configuration.experiment.phases
    figure = figures.draw_filters(dynamics, progress.theta, samples, phases)
    filters, *grid = figure.axes
    drawn = np.asarray(filters.images[0].get_array())[:, :5]
    np.testing.assert_array_equal(drawn, progress.theta["w0-1"][:, :, 0, 0])
    assert len(grid) == 2 * 4  # x, s¹, s² and ŷ of each sample
    _, free = free_phase(dynamics, progress.theta, samples.inputs(dynamics.network, np.float32), phases)
    np.testing.assert_array_equal(grid[4].images[0].get_array(), samples.x[1])
    np.testing.assert_allclose(np.asarray(grid[5].images[0].get_array())[:, :6], free.state[0][1, :, :, 0])
    np.testing.assert_allclose([bar.get_height() for bar in grid[7].patches], free.state[-1][1])


def test_the_filters_of_a_network_with_a_readout_have_its_scores(cnn: tuple[Path, Path]) -> None:
    _, data = cnn
    dynamics = DiscreteTime(convolutional((16, 16, 1), [2], [], kernel=3), cost=Readout(3))
    theta = dynamics.init(np.random.default_rng(1))
    images = load(str(data))
    samples, phases = Samples(images.test_images, images.test_labels)[:2], Phases(40, 1, 1.0)
    figure = figures.draw_filters(dynamics, theta, samples, phases)
    _, free = free_phase(dynamics, theta, samples.inputs(dynamics.network, np.float32), phases)
    heights = [bar.get_height() for bar in figure.axes[-1].patches]
    np.testing.assert_allclose(heights, dynamics.scores(theta, free.state)[1], rtol=1e-6)


@pytest.fixture
def drawn_filters() -> tuple[Figure, Any, Theta, Samples, Phases]:
    """Draw a CNN of images that are not square and whose layers differ in all numbers."""
    dynamics = DiscreteTime(convolutional((14, 10, 1), [4, 6], [5, 3], kernel=3, pool=(2, 1)))
    rng = np.random.default_rng(1)
    theta = {name: 3 * value for name, value in dynamics.init(rng).items()}
    images = rng.integers(0, 256, (3, 14, 10)).astype(np.uint8)
    samples, phases = Samples(images, np.array([2, 0, 1])), Phases(40, 1, 1.0)
    return figures.draw_filters(dynamics, theta, samples, phases), dynamics, theta, samples, phases


def test_each_row_of_the_filters_is_a_sample(drawn_filters: Any) -> None:
    figure, dynamics, theta, samples, phases = drawn_filters
    _, *grid = figure.axes
    rows = np.reshape(np.array(grid, dtype=object), (3, 4))
    x = samples.inputs(dynamics.network, np.float32)
    _, free = free_phase(dynamics, theta, x, phases)
    assert [axes.get_title() for axes in rows[0]] == ["$x$", "$s^1$", "$s^2$", r"$\hat{y}$"]
    assert not any(axes.get_title() for axes in rows[1:].ravel())
    for i, row in enumerate(rows):
        np.testing.assert_array_equal(row[0].images[0].get_array(), samples.x[i])
        for n, axes in enumerate(row[1:3]):
            maps = free.state[n][i]
            picture = np.asarray(axes.images[0].get_array())
            height, width, channels = maps.shape
            columns = (picture.shape[1] + 1) // (width + 1)
            for k in range(channels):
                top, left = k // columns * (height + 1), k % columns * (width + 1)
                np.testing.assert_array_equal(picture[top : top + height, left : left + width], maps[..., k])
        bars = row[-1].patches
        np.testing.assert_allclose([bar.get_height() for bar in bars], free.state[-1][i])
        for k, bar in enumerate(bars):
            assert same_color(bar.get_facecolor(), COLOURS[1] if k == samples.y[i] else COLOURS[0])
            assert bar.get_x() + bar.get_width() / 2 == pytest.approx(k)
    assert (free.state[-1].argmax(axis=1) != samples.y).any()  # the label's bar is not always the highest


def test_a_legend_says_what_orange_marks(drawn_filters: Any) -> None:
    figure = drawn_filters[0]
    (legend,) = figure.subfigs[1].legends
    colours = {
        t.get_text(): p.get_facecolor() for t, p in zip(legend.texts, legend.get_patches(), strict=True)
    }
    assert same_color(colours["output of the label"], COLOURS[1])
    assert same_color(colours["others"], COLOURS[0])


def test_a_directory_s_name_is_no_formula_and_latex_is_not_needed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = str(write_bands(tmp_path / "$^$"))
    run = str(tmp_path / "run")
    assert mnist.main(["--epochs", "1", "--hidden", "4", "--quiet", "--data", data, "--out", run]) == 0
    with matplotlib.rc_context({"text.usetex": True}):
        assert main(["errors", "--weights", run, "--out", str(tmp_path / "errors.png")]) == 0


def test_the_filters_have_a_scale_symmetric_about_0(drawn_filters: Any) -> None:
    figure, _, theta, _, _ = drawn_filters
    axes = figure.axes[0]
    (image,) = axes.images
    limit = np.abs(theta["w0-1"]).max()
    assert image.get_clim() == (-limit, limit)
    assert image.get_cmap().name == "RdBu_r"
    assert axes.get_title() == "the 4 filters of layer 1"
    picture = np.asarray(image.get_array())
    for k in range(4):
        top, left = k // 2 * 4, k % 2 * 4
        np.testing.assert_array_equal(picture[top : top + 3, left : left + 3], theta["w0-1"][:, :, 0, k])


def test_the_command_takes_the_first_three_test_images(
    cnn: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    weights, data = cnn
    asked = []
    monkeypatch.setattr(figures, "draw_filters", lambda *arguments: asked.append(arguments))
    monkeypatch.setattr(figures, "save", lambda figure, path: None)
    assert main(["filters", "--weights", str(weights), "--data", str(data)]) == 0
    ((dynamics, theta, samples, phases),) = asked
    configuration, progress = checkpoint.load(weights)
    images = load(str(data))
    assert phases == configuration.experiment.phases
    assert dynamics == configuration.experiment.build((16, 16), 3)
    np.testing.assert_array_equal(samples.x, images.test_images[:3])
    np.testing.assert_array_equal(samples.y, images.test_labels[:3])
    for name, value in progress.theta.items():
        np.testing.assert_array_equal(theta[name], value)


def test_the_command_draws_filters_of_a_cnn_alone(
    cnn: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, data = map(str, cnn)
    out = str(tmp_path / "filters.png")
    assert main(["filters", "--weights", weights, "--data", data, "--out", out]) == 0
    dense = tmp_path / "dense"
    assert mnist.main(["--epochs", "1", "--hidden", "4", "--quiet", "--data", data, "--out", str(dense)]) == 0
    other = str(write_bands(tmp_path / "other", side=6))
    more = str(write_bands(tmp_path / "more", side=16, classes=4))
    capsys.readouterr()
    for arguments, words in (
        (["--weights", str(dense / "checkpoint.npz"), "--data", data], "w0-1 is not a convolution"),
        (
            ["--weights", weights, "--data", other],
            "needs images of (16, 16) pixels and 3 classes, but the data have images of (6, 6) pixels",
        ),
        (
            ["--weights", weights, "--data", more],
            "and 3 classes, but the data have images of (16, 16) pixels and 4 classes",
        ),
        (["--weights", str(tmp_path / "none.npz"), "--data", data], "the checkpoint does not exist"),
        (["--weights", weights, "--data", str(tmp_path / "none")], "none"),
    ):
        assert main(["filters", *arguments, "--out", out]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert words in line


@pytest.mark.parametrize("suffix", SIGNATURES)
def test_the_command_writes_the_format_of_the_suffix(
    suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / f"figure.{suffix}"
    assert main(["fig1a", "--out", str(out)]) == 0
    assert out.read_bytes().startswith(SIGNATURES[suffix])
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    assert capsys.readouterr().out == f"{out}\n"


def test_the_command_draws_another_system() -> None:
    assert main(["fig1b", "--system", "toy"]) == 0
    assert Path("runs/fig1b.png").stat().st_size > 1000


@pytest.mark.parametrize("out", ["figure.xyz", "figure"])
def test_an_unknown_format_is_refused(out: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fig1a", "--out", out]) == 2
    assert "use .png" in capsys.readouterr().err
    assert not Path(out).exists()


def test_a_figure_that_fails_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "figure.png"
    out.write_bytes(b"old")
    figure = draw_fig1a()
    monkeypatch.setattr(figure, "savefig", lambda file, **kwargs: file.write(b"half") / 0)
    with pytest.raises(ZeroDivisionError):
        save(figure, out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]


def test_the_systems_are_the_choices() -> None:
    assert main(["fig1b", "--system", "none"]) == 2
    assert set(figures.SYSTEMS) >= {"toy", "eb-1h", "eb-2h", "p-1h", "p-2h", "p-3h", "conv"}
