"""Tests of the animation of both phases: each frame shows the values of its step, and the file is written."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.colors import same_color, to_rgba
from PIL import Image, ImageSequence

from eqprop_np import figures
from eqprop_np.animation import (
    FRAMES_PER_SECOND,
    Settling,
    draw_settling,
    save_animation,
    settling,
    small_network,
)
from eqprop_np.dynamics import DiscreteTime
from eqprop_np.figures import main
from eqprop_np.network import chain
from eqprop_np.plots import COLOURS
from eqprop_np.relaxation import Synchronous
from eqprop_np.rules.ep import ep
from eqprop_np.rules.implicit import implicit_gradient
from eqprop_np.rules.phases import Phases

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def short() -> Settling:
    return small_network(steps=60)


def test_the_contrast_at_the_end_is_the_update_of_ep() -> None:
    dynamics = DiscreteTime(chain([3, 5, 2]))
    theta = dynamics.init(np.random.default_rng(0), np.float64)
    x, y = np.array([[0.5, 0.1, 0.9]]), np.array([[0.0, 1.0]])
    phases = Phases(80, 40, beta=0.2, schedule=Synchronous())
    result = settling(dynamics, theta, x, y, phases)
    update = ep(dynamics, theta, x, y, phases)
    np.testing.assert_allclose(result.contrast[-1], -update.gradient["w1-2"], atol=1e-13)
    assert not result.contrast[:81].any()  # none before the nudge
    assert result.steps == 120 == len(result.contrast) - 1
    assert [len(a) for a in result.activities] == [1, 121, 121]
    np.testing.assert_array_equal(result.activities[2][80], update.free.state[-1][0])
    np.testing.assert_array_equal(result.activities[1][80], update.free.state[0][0])
    np.testing.assert_array_equal(result.activities[0], x)
    for w, name in zip(result.weights, ("w0-1", "w1-2"), strict=True):
        np.testing.assert_array_equal(w, theta[name])
    np.testing.assert_array_equal(result.target, y[0])
    assert result.free_steps == 80
    changes = np.maximum(*(np.abs(np.diff(a, axis=0)).max(axis=1) for a in result.activities[1:]))
    np.testing.assert_allclose(result.residuals, changes, atol=1e-15)  # in discrete time s is ρ(s)
    exact = implicit_gradient(dynamics, theta, x, y, Phases(5000, 1, 1.0, schedule=Synchronous(1e-13)))
    np.testing.assert_allclose(result.gradient, exact.gradient["w1-2"], atol=1e-10)


def test_the_animated_contrast_ends_near_minus_the_gradient() -> None:
    record = small_network()
    error = np.linalg.norm(record.contrast[-1] + record.gradient) / np.linalg.norm(record.gradient)
    assert error < 0.1  # of order β
    assert record.residuals[record.free_steps - 1] < 1e-4
    assert record.residuals[-1] < 1e-4
    free, nudged = (record.activities[-1][t] for t in (record.free_steps, record.steps))
    assert (np.abs(nudged - record.target) < np.abs(free - record.target)).all()


# ---- a frame, of a record in which every number differs


HIDDEN, OUTPUTS, FREE, NUDGED = 3, 2, 2, 3
OUTPUT_COLOURS = COLOURS[2:4]


@pytest.fixture(scope="module")
def record() -> Settling:
    rng, steps = np.random.default_rng(0), FREE + NUDGED
    contrast = rng.normal(size=(steps + 1, HIDDEN, OUTPUTS))
    contrast[: FREE + 1] = 0
    return Settling(
        activities=(rng.random((1, 4)), rng.random((steps + 1, HIDDEN)), rng.random((steps + 1, OUTPUTS))),
        residuals=np.array([0.5, 0.04, 0.3, 0.002, 0.01]),
        contrast=contrast,
        gradient=rng.normal(size=(HIDDEN, OUTPUTS)),
        target=np.array([0.9, 0.2]),
        weights=(rng.normal(size=(4, HIDDEN)), rng.normal(size=(HIDDEN, OUTPUTS))),
        free_steps=FREE,
    )


class Frames:
    """The animation of a record, and its three parts."""

    def __init__(self, record: Settling, steps_per_frame: int = 1) -> None:
        self.animation = draw_settling(record, steps_per_frame)
        self.animation._init_draw()
        self.figure = self.animation._fig
        self.network, self.curves, self.bars = self.figure.axes

    def show(self, t: int) -> None:
        self.animation._draw_frame(t)


@pytest.fixture(scope="module")
def frames(record: Settling) -> Frames:
    return Frames(record)


every_step = pytest.mark.parametrize("t", range(FREE + NUDGED + 1))


def test_there_is_a_frame_for_each_so_many_steps(record: Settling) -> None:
    animation = Frames(record, steps_per_frame=2).animation
    assert list(animation.new_frame_seq()) == [0, 2, 4]
    assert animation._interval == 1000 / FRAMES_PER_SECOND


@every_step
def test_the_head_names_the_phase_the_time_and_the_residual(frames: Frames, record: Settling, t: int) -> None:
    frames.show(t)
    title, clock = frames.figure.texts
    nudged = t > FREE
    assert title.get_text() == ("nudged phase" if nudged else "free phase")
    assert title.get_color() == (COLOURS[1] if nudged else COLOURS[0])
    residual = f"{record.residuals[t - 1]:.0e}" if t else "–"
    assert clock.get_text().split() == ["time", str(t), "residual", residual]


@every_step
def test_the_bars_are_the_contrast_beside_its_limit(frames: Frames, record: Settling, t: int) -> None:
    frames.show(t)
    marks = [
        line for line in frames.bars.get_lines() if line.get_color() == "black" and len(line.get_xdata())
    ]
    assert len(marks) == HIDDEN * OUTPUTS
    for k, group in enumerate(frames.bars.containers):
        for i, bar in enumerate(group):
            assert bar.get_height() == record.contrast[t, i, k]
            assert same_color(bar.get_facecolor(), OUTPUT_COLOURS[k])
            assert abs(bar.get_x() + bar.get_width() / 2 - i) < 0.5  # at the tick of its hidden neuron
            (limit,) = (
                line.get_ydata()
                for line in marks
                if abs(np.mean(line.get_xdata()) - bar.get_x() - bar.get_width() / 2) < 1e-9
            )
            np.testing.assert_array_equal(limit, -record.gradient[i, k])


def test_the_bars_have_their_labels(frames: Frames) -> None:
    axes = frames.bars
    assert axes.get_title() == "contrast: (nudged − free) / β"
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("hidden neuron", "pre · post")
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3"]
    np.testing.assert_array_equal(axes.get_xticks(), range(HIDDEN))
    legend = axes.get_legend()
    looks = dict(zip([text.get_text() for text in legend.get_texts()], legend.legend_handles, strict=True))
    assert looks.keys() == {"to output 1", "to output 2", r"$-\partial L/\partial w$"}
    for k, colour in enumerate(OUTPUT_COLOURS):
        assert same_color(looks[f"to output {k + 1}"].get_facecolor(), colour)
    assert looks[r"$-\partial L/\partial w$"].get_color() == "black"


def test_the_frame_of_the_bars_holds_every_limit(frames: Frames, record: Settling) -> None:
    low, high = frames.bars.get_ylim()
    assert low < min(0, -record.gradient.max())
    assert high > max(0, -record.gradient.min())


@every_step
def test_the_neurons_show_their_activities(frames: Frames, record: Settling, t: int) -> None:
    frames.show(t)
    neurons = frames.network.collections  # the three layers, and the target
    values = (record.activities[0][0], record.activities[1][t], record.activities[2][t], record.target)
    for drawn, value, x in zip(neurons, values, (0, 1.5, 3, 3.9), strict=True):
        np.testing.assert_array_equal(drawn.get_array(), value)
        np.testing.assert_array_equal(drawn.get_offsets()[:, 0], x)
        assert (np.diff(drawn.get_offsets()[:, 1]) == -1).all()  # the first neuron is on top
        assert (drawn.norm.vmin, drawn.norm.vmax, drawn.cmap.name) == (0, 1, "viridis")
    np.testing.assert_array_equal(neurons[3].get_offsets()[:, 1], neurons[2].get_offsets()[:, 1])
    for drawn in neurons[2:]:
        np.testing.assert_allclose(drawn.get_edgecolor(), [to_rgba(colour) for colour in OUTPUT_COLOURS])


@every_step
def test_the_target_is_visible_in_the_nudged_phase(frames: Frames, t: int) -> None:
    frames.show(t)
    label = next(text for text in frames.network.texts if text.get_text() == "target")
    arrows = [text for text in frames.network.texts if hasattr(text, "arrow_patch")]
    assert len(arrows) == OUTPUTS
    for artist in (frames.network.collections[3], label, *arrows):
        assert artist.get_visible() == (t > FREE)
    assert label.get_color() == COLOURS[1]


@every_step
def test_the_neurons_are_numbered_in_a_readable_colour(frames: Frames, record: Settling, t: int) -> None:
    frames.show(t)
    places = [tuple(at) for layer in frames.network.collections[1:3] for at in layer.get_offsets()]
    numbers = {
        (x, round(y + 0.03, 9)): text
        for text in frames.network.texts
        for x, y in [text.get_position()]
        if text.get_text().isdigit()
    }
    assert list(numbers) == places
    assert [text.get_text() for text in numbers.values()] == ["1", "2", "3", "1", "2"]
    values = [*record.activities[1][t], *record.activities[2][t]]
    for text, value in zip(numbers.values(), values, strict=True):
        assert text.get_color() == ("white" if value < 0.6 else "black")  # viridis is light near 1


def test_the_layers_are_named_and_joined_by_their_weights(frames: Frames, record: Settling) -> None:
    names = {text.get_text(): text.get_position()[0] for text in frames.network.texts}
    assert [names[name] for name in ("input", "hidden", "output", "target")] == [0, 1.5, 3, 3.9]
    places = [layer.get_offsets()[:, 1] for layer in frames.network.collections[:3]]
    widths = {
        (*line.get_xdata(), *line.get_ydata()): line.get_linewidth() for line in frames.network.get_lines()
    }
    assert len(widths) == sum(w.size for w in record.weights)
    for n, w in enumerate(record.weights):
        drawn = [[widths[1.5 * n, 1.5 * n + 1.5, start, end] for end in places[n + 1]] for start in places[n]]
        np.testing.assert_allclose(drawn, 0.4 + 1.2 * np.abs(w))


@every_step
def test_the_curves_end_at_the_present(frames: Frames, record: Settling, t: int) -> None:
    frames.show(t)
    lines = frames.curves.get_lines()
    values = np.hstack(record.activities[1:]).T
    for line, value in zip(lines, values, strict=True):
        np.testing.assert_array_equal(line.get_xdata(), np.arange(t + 1))
        np.testing.assert_array_equal(line.get_ydata(), value[: t + 1])
    assert [line.get_color() for line in lines] == ["0.7"] * HIDDEN + list(OUTPUT_COLOURS)


def test_the_curves_have_the_colours_of_the_phases(frames: Frames) -> None:
    axes = frames.curves
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("time (steps)", "activity")
    np.testing.assert_array_equal(axes.get_xticks(), [0, FREE, FREE + NUDGED])
    assert (axes.get_xlim(), axes.get_ylim()) == ((0, FREE + NUDGED), (0, 1))
    spans = [(patch.get_extents().transformed(axes.transData.inverted()), patch) for patch in axes.patches]
    expected = ((0, FREE, COLOURS[0]), (FREE, FREE + NUDGED, COLOURS[1]))
    for (extent, patch), (start, end, colour) in zip(spans, expected, strict=True):
        np.testing.assert_allclose((extent.x0, extent.x1), (start, end), atol=1e-9)
        assert same_color(patch.get_facecolor()[:3], colour)


# ---- the file


def test_the_gif_has_its_frames_and_they_differ(short: Settling, tmp_path: Path) -> None:
    out = tmp_path / "new" / "settle.gif"
    save_animation(draw_settling(short, steps_per_frame=20), out)
    with Image.open(out) as image:
        assert image.format == "GIF"
        assert image.info["duration"] == 1000 / FRAMES_PER_SECOND
        frames = [np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)]
    assert len(frames) == 7
    assert all((a != b).any() for a, b in combinations(frames, 2))
    assert [path.name for path in out.parent.iterdir()] == [out.name]


def test_the_committed_gif_is_the_animation() -> None:
    path = ROOT / "data" / "figures" / "settle.gif"
    assert path.stat().st_size < 1_000_000
    with Image.open(path) as image:
        assert image.n_frames == small_network().steps // 3 + 1
        assert image.width == 700
        assert image.info["duration"] == 1000 / FRAMES_PER_SECOND
        assert 7 < image.n_frames / FRAMES_PER_SECOND < 9  # seconds


def test_the_command_writes_a_gif(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], short: Settling
) -> None:
    monkeypatch.setattr(figures, "small_network", lambda: short)
    monkeypatch.setattr(figures, "draw_settling", lambda record: draw_settling(record, steps_per_frame=60))
    assert main(["settle"]) == 0
    assert capsys.readouterr().out == "runs/settle.gif\n"
    assert Path("runs/settle.gif").read_bytes().startswith(b"GIF89a")
    assert main(["settle", "--out", "settle.png"]) == 2
    assert "an animation is a GIF: use .gif" in capsys.readouterr().err
    assert not Path("settle.png").exists()


def test_an_animation_that_fails_leaves_the_old_file(tmp_path: Path, short: Settling) -> None:
    out = tmp_path / "settle.gif"
    out.write_bytes(b"old")
    animation = draw_settling(short, steps_per_frame=60)
    animation._func = lambda t: 1 / (60 - t)  # in the second frame
    with pytest.raises(ZeroDivisionError):
        save_animation(animation, out)
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
