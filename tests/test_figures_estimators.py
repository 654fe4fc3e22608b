"""Tests of the figure of estimators: it shows the computed values."""

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.text import Annotation, Text

from eqprop_np import figures
from eqprop_np.dynamics import RealTime
from eqprop_np.experiments.estimators import Measurement, Record
from eqprop_np.figures import ESTIMATOR_PANELS, MARKS, SMALLEST, draw_estimators, estimator_points, main


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


def test_the_legend_has_the_looks_of_the_marks() -> None:
    (legend,) = draw_estimators({"tied": TIED, "untied": UNTIED}).legends
    for text, handle in zip(legend.get_texts(), legend.legend_handles, strict=True):
        assert (handle.get_marker(), handle.get_color()) == MARKS[text.get_text()]


def test_the_axes_are_labelled_where_they_are_shared() -> None:
    figure = draw_estimators({"a": TIED, "b": UNTIED, "c": TIED})
    names = {axes.get_title(): (axes.get_xlabel(), axes.get_ylabel()) for axes in figure.axes}
    cost, error = "cost: drives after the first phase", "error, relative to the exact gradient"
    assert names == {"a": ("", error), "b": ("", ""), "c": (cost, error), "": (cost, "")}
    for axes in figure.axes[:3]:
        notes = [text.get_text() for text in axes.texts if not isinstance(text, Annotation)]
        assert notes == ["on the axis: below 1e-9"]
        assert axes.get_ylim()[0] == SMALLEST == 1e-9


def test_each_label_has_the_colour_and_the_place_of_its_mark() -> None:
    (axes, _) = draw_estimators({"untied": UNTIED}).axes
    labels = [text for text in axes.texts if isinstance(text, Annotation)]
    points = [point for point in estimator_points(UNTIED) if point.label]
    for text, point in zip(labels, points, strict=True):
        assert text.xy == (point.drives, max(point.error, SMALLEST))
        assert text.get_color() == MARKS[point.estimator][1]


def test_the_titles_tell_the_systems() -> None:
    for name, title in ESTIMATOR_PANELS.items():
        dynamics = figures.SYSTEMS[name].dynamics
        weights = "tied weights" if dynamics.network.tied else "untied weights"
        time = "real time" if isinstance(dynamics, RealTime) else "discrete time"
        assert title == f"{weights}, {time}"


def test_bptt_and_the_exact_gradient_are_those_of_the_middle_angle() -> None:
    points = {p.estimator: p for p in estimator_points(UNTIED) if p.estimator in ("BPTT", "implicit")}
    assert (points["BPTT"].error, points["implicit"].drives) == (90.1, 290)


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

    drawn = []
    monkeypatch.setattr(figures, "estimators_of", measured)
    monkeypatch.setattr(
        figures, "draw_estimators", lambda panels: drawn.append((panels,)) or draw_estimators({"a": TIED})
    )
    out = tmp_path / "e.png"
    assert main(["estimators", "--seed", "3", "--out", str(out)]) == 0
    assert asked == [(name, 3) for name in ("chain", "chain-real", "chain-untied", "chain-real-untied")]
    ((panels,),) = drawn
    assert list(panels) == list(ESTIMATOR_PANELS.values())
    for title, measured_panel in panels.items():
        assert measured_panel is (UNTIED if "untied" in title else TIED)
    assert out.read_bytes().startswith(b"\x89PNG")
