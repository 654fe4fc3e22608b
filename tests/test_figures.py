"""The figures: what they show is what was computed, and a file is written whole or not at all."""

from pathlib import Path

import numpy as np
import pytest

from eqprop_np import figures
from eqprop_np.figures import PAPER, Panel, draw_fig1a, draw_fig1b, main, save

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
        assert np.abs(deltas).max() < axes.get_ylim()[1]  # nothing leaves the frame
        distances.append(np.abs(deltas - nablas).max())
    standard, continual, cnn = distances
    assert standard < 0.02
    assert 0.1 < continual < 0.3  # they split, and can be seen to
    assert cnn < 0.05


def test_plain_and_dashed_lines_of_a_synapse_share_a_colour() -> None:
    (axes,) = draw_fig1b([Panel("toy", "toy", False)]).axes
    lines = [line for line in axes.get_lines() if len(line.get_xdata()) > 2]
    for plain, dashed in zip(lines[::2], lines[1::2], strict=True):
        assert plain.get_color() == dashed.get_color()
        assert (plain.get_linestyle(), dashed.get_linestyle()) == ("-", "--")


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
