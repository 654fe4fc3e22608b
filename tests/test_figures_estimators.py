"""Tests of the figure of estimators and of the animation: they show the computed values."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text
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
from eqprop_np.experiments.estimators import Measurement, Record
from eqprop_np.figures import ESTIMATOR_PANELS, MARKS, SMALLEST, draw_estimators, estimator_points, main
from eqprop_np.network import chain
from eqprop_np.relaxation import Synchronous
from eqprop_np.rules.ep import ep
from eqprop_np.rules.phases import Phases

ROOT = Path(__file__).resolve().parents[1]


def record(name: str, setting: str, error: float, drives: int) -> Record:
    return Record(name, setting, error, 1.0, None, None, None, drives // 4, drives)


TIED = {
    0.0: Measurement(
        (
            record("one-sided EP", "β = 0.1", 1.8, 20),
            record("random-sign EP", "β = ±0.1", 1.9, 20),
            record("centred EP", "β = 0.1", 1.8, 40),
            *(record(f"holomorphic EP, N = {N}", "r = 0.1", 1.8, 20 * N) for N in (2, 4, 8)),
            *(record("C-EP", f"η = {eta}, β = 1e-05", 1.8 + eta, 20) for eta in (3e-7, 3e-8, 3e-9)),
            record("AsymEP", "β = 0.1", 1e-2, 300),
            *(record("BPTT", f"K = {K}", 10.0 ** (-K / 5), 8 * K) for K in (5, 20, 100)),
            record("implicit", "", 0.0, 320),
        ),
        1.8,
        (),
    )
}
UNTIED = {
    psi: Measurement(
        (
            record("VF", "β = 0.1", 0.8 + psi / 1000, 20),
            record("C-VF", "η = 3e-08, β = 1e-05", 0.8 + psi / 1000, 20),
            record("AsymEP", "β = 0.1", 1e-2, 300 + int(psi)),
            record("BPTT", "K = 5", 0.1 + psi, 40),
            record("implicit", "", 0.0, 200 + int(psi)),
        ),
        0.8,
        (),
    )
    for psi in (0.0, 90.0, 180.0)
}


# ---- the estimators


def test_the_marks_are_the_records() -> None:
    figure = draw_estimators({"tied": TIED, "untied": UNTIED})
    assert [axes.get_title() for axes in figure.axes] == ["tied", "untied"]
    for axes, measurements in zip(figure.axes, (TIED, UNTIED), strict=True):
        records = [
            r
            for psi, measurement in measurements.items()
            for r in measurement.records
            if len(measurements) == 1 or psi == 90 or r.estimator not in ("BPTT", "implicit")
        ]
        lines = axes.get_lines()
        assert len(lines) == len(records)
        for line, r in zip(lines, records, strict=True):
            np.testing.assert_allclose(line.get_xydata(), [[r.drives, max(r.error, SMALLEST)]])
            marker, colour = MARKS[r.estimator.split(",")[0]]
            assert (line.get_marker(), line.get_color()) == (marker, colour)
        assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
        (low, high), (left, right) = axes.get_ylim(), axes.get_xlim()
        assert all(low <= max(r.error, SMALLEST) <= high or r.error > 90 for r in records)
        assert all(left < r.drives < right for r in records)


def test_each_estimator_has_a_look_of_its_own_and_a_line_in_the_legend() -> None:
    assert len(set(MARKS.values())) == len(MARKS)
    figure = draw_estimators({"tied": TIED, "untied": UNTIED})
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == list(MARKS)
    (legend,) = draw_estimators({"tied": TIED}).legends
    assert "VF" not in [text.get_text() for text in legend.get_texts()]


def test_labels_tell_the_settings_apart() -> None:
    labels = [(p.estimator, p.label) for p in estimator_points(TIED)]
    assert labels[:3] == [("one-sided EP", ""), ("random-sign EP", ""), ("centred EP", "")]
    assert labels[3:6] == [("holomorphic EP", f"N={N}") for N in (2, 4, 8)]
    assert labels[6:9] == [("C-EP", f"η=3e-{k}") for k in (7, 8, 9)]
    assert labels[9:] == [("AsymEP", ""), *(("BPTT", f"K={K}") for K in (5, 20, 100)), ("implicit", "")]
    untied = [(p.estimator, p.label) for p in estimator_points(UNTIED)]
    assert [label for name, label in untied if name == "VF"] == ["ψ=0°", "ψ=90°", "ψ=180°"]
    assert [name for name, _ in untied].count("BPTT") == 1  # of ψ = 90°


def test_labels_do_not_overlap() -> None:
    """Neither one another nor a mark, although many marks are at one place."""
    figure = draw_estimators({"tied": TIED, "untied": UNTIED})
    renderer = FigureCanvasAgg(figure).get_renderer()
    for axes, measurements in zip(figure.axes, (TIED, UNTIED), strict=True):
        labels = [text for text in axes.texts if isinstance(text, Annotation)]
        expected = [point.label for point in estimator_points(measurements) if point.label]
        assert [text.get_text() for text in labels] == expected
        for text in labels:
            text.update_positions(renderer)
        texts = [Text.get_window_extent(text, renderer) for text in labels]  # without the leader lines
        for a, b in combinations(texts, 2):
            assert not a.overlaps(b)
        for line in axes.get_lines():
            x, y = axes.transData.transform(line.get_xydata()[0])
            assert not any(box.contains(x, y) for box in texts)


def test_the_command_draws_the_four_systems(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = []
    systems = {id(figures.SYSTEMS[name]): name for name in ESTIMATOR_PANELS}

    def measured(system: object, seed: int) -> dict[float, Measurement]:
        asked.append((systems[id(system)], seed))
        return UNTIED if "untied" in asked[-1][0] else TIED

    monkeypatch.setattr(figures, "estimators_of", measured)
    out = tmp_path / "e.png"
    assert main(["estimators", "--seed", "3", "--out", str(out)]) == 0
    assert asked == [(name, 3) for name in ("chain", "chain-real", "chain-untied", "chain-real-untied")]
    assert out.read_bytes().startswith(b"\x89PNG")


# ---- the animation


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


def test_the_animated_contrast_ends_near_minus_the_gradient() -> None:
    record = small_network()
    error = np.linalg.norm(record.contrast[-1] + record.gradient) / np.linalg.norm(record.gradient)
    assert error < 0.1  # of order β
    assert record.residuals[record.free_steps - 1] < 1e-4
    assert record.residuals[-1] < 1e-4
    free, nudged = (record.activities[-1][t] for t in (record.free_steps, record.steps))
    assert (np.abs(nudged - record.target) < np.abs(free - record.target)).all()


def test_a_frame_shows_the_state_and_the_contrast(short: Settling) -> None:
    animation = draw_settling(short, steps_per_frame=20)
    animation._init_draw()
    figure = animation._fig
    network, curves, bars = figure.axes
    assert list(animation.new_frame_seq()) == [0, 20, 40, 60, 80, 100, 120]
    for t in (0, 60, 80, 120):
        animation._draw_frame(t)
        title, clock = (text.get_text() for text in figure.texts)
        assert title == ("nudged phase" if t > 60 else "free phase")
        residual = f"{short.residuals[t - 1]:.0e}" if t else "–"
        assert clock.split() == ["time", str(t), "residual", residual]
        heights = np.reshape([bar.get_height() for bar in bars.patches], (2, 5)).T
        np.testing.assert_array_equal(heights, short.contrast[t])
        _, hidden, output, _ = network.collections
        np.testing.assert_array_equal(hidden.get_array(), short.activities[1][t])
        np.testing.assert_array_equal(output.get_array(), short.activities[2][t])
        *_, last = curves.get_lines()
        np.testing.assert_array_equal(last.get_ydata(), short.activities[2][: t + 1, -1])
        visible = {text.get_text(): text.get_visible() for text in network.texts}
        assert visible["target"] == (t > 60)
    marks = [line.get_ydata()[0] for line in bars.get_lines() if len(line.get_ydata()) == 2]
    assert set(np.round(-short.gradient.ravel(), 12)) <= set(np.round(marks, 12))


def test_the_gif_has_its_frames_and_they_differ(short: Settling, tmp_path: Path) -> None:
    out = tmp_path / "new" / "settle.gif"
    save_animation(draw_settling(short, steps_per_frame=20), out)
    with Image.open(out) as image:
        assert image.format == "GIF"
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
