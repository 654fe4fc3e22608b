"""Tests of the figures: they show the computed values, and a file is written completely or not at all."""

import json
from pathlib import Path

import numpy as np
import pytest
from examples import write_bands

from eqprop_np import figures, mnist
from eqprop_np.experiments import checkpoint
from eqprop_np.experiments.datasets import load
from eqprop_np.figures import PAPER, Panel, draw_fig1a, draw_fig1b, draw_fig1c, main, read_sweep, save
from eqprop_np.rules.phases import free_phase
from eqprop_np.samples import Samples

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
        "update_angle": angle,
        "test_error": error,
    }


POINTS = [
    point("p-1h", 0.0, 0, 2.0, 1.8),
    *(
        point("cvf-1h", psi, seed, 20 + psi / 4 + seed, 3 + psi / 90 + seed)
        for psi in (90, 0)
        for seed in (0, 2)
    ),
]


def test_fig1c_has_a_point_for_each_preset_and_angle_and_bars_over_seeds() -> None:
    (axes,) = draw_fig1c(POINTS).axes
    ep, vf = axes.containers
    np.testing.assert_allclose(ep.lines[0].get_xydata(), [[2.0, 1.8]])
    np.testing.assert_allclose(vf.lines[0].get_xydata(), [[21.0, 4.0], [43.5, 5.0]])  # ψ = 0, then 90
    assert not ep.has_yerr
    heights = [np.ptp(segment[:, 1]) for segment in vf.lines[2][1].get_segments()]
    np.testing.assert_allclose(heights, 2)  # ± one standard deviation of 1, for example of 3 and 5
    assert [text.get_text() for text in axes.get_legend().get_texts()] == [
        "EP-1h, 30 epochs",
        "C-VF-1h, 30 epochs",
    ]
    assert [text.get_text() for text in axes.texts] == [r"$\psi$ = 0°", r"$\psi$ = 90°"]


def test_the_command_draws_fig1c_from_a_sweep(tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps({"points": POINTS}))
    assert read_sweep(tmp_path) == POINTS
    assert main(["fig1c", "--runs", str(tmp_path), "--out", str(tmp_path / "c.png")]) == 0
    assert (tmp_path / "c.png").read_bytes().startswith(SIGNATURES["png"])


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
    ],
)
def test_what_is_no_sweep_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content is not None:
        (tmp_path / "summary.json").write_text(content)
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
def cnn(tmp_path: Path) -> tuple[Path, Path]:
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


def test_the_command_draws_filters_of_a_cnn_alone(
    cnn: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights, data = map(str, cnn)
    out = str(tmp_path / "filters.png")
    assert main(["filters", "--weights", weights, "--data", data, "--out", out]) == 0
    dense = tmp_path / "dense"
    assert mnist.main(["--epochs", "1", "--hidden", "4", "--quiet", "--data", data, "--out", str(dense)]) == 0
    other = str(write_bands(tmp_path / "other", side=6))
    capsys.readouterr()
    for arguments, words in (
        (["--weights", str(dense / "checkpoint.npz"), "--data", data], "w0-1 is not a convolution"),
        (
            ["--weights", weights, "--data", other],
            "needs images of (16, 16) pixels, but the data have (6, 6)",
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
    with pytest.raises(SystemExit):
        main(["fig1b", "--system", "none"])
    assert set(figures.SYSTEMS) >= {"toy", "eb-1h", "eb-2h", "p-1h", "p-2h", "p-3h", "conv"}
