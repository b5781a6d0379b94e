from pathlib import Path

import pytest

from robustctl.errors import RequestError
from robustctl.report.q_curve import plot_curves

pytest.importorskip("matplotlib", reason="plots are an extra")


def test_png_is_large_enough_for_a_slide(intermediate_result, tmp_path: Path) -> None:
    from PIL import Image

    plot_curves([("one", intermediate_result), ("two", intermediate_result)], tmp_path / "curve.png")
    with Image.open(tmp_path / "curve.png") as image:
        assert image.width >= 1200
        assert len(image.convert("RGB").getcolors(2**20)) > 50, "something is drawn"


def test_svg_draws_a_curve_for_each_model_and_repeats_bit_for_bit(intermediate_result, tmp_path: Path) -> None:
    curves = [("one", intermediate_result), ("two", intermediate_result)]
    for name in ("a.svg", "b.svg"):
        plot_curves(curves, tmp_path / name)
    text = (tmp_path / "a.svg").read_text()
    assert "#0072b2" in text.lower()
    assert "#d55e00" in text.lower()
    strip = [line for line in text.splitlines() if "<dc:date>" not in line]
    assert strip == [line for line in (tmp_path / "b.svg").read_text().splitlines() if "<dc:date>" not in line]


def test_other_endings_are_refused(intermediate_result, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=r"must end in .png or .svg"):
        plot_curves([("one", intermediate_result)], tmp_path / "curve.pdf")


def test_different_distributions_share_no_axis(intermediate_result, tmp_path: Path) -> None:
    distribution = intermediate_result.distribution.model_copy(update={"text": "l2:0.5"})
    other = intermediate_result.model_copy(update={"distribution": distribution})
    with pytest.raises(RequestError, match="share no axis: l2:0.5, linf:0.1"):
        plot_curves([("one", intermediate_result), ("two", other)], tmp_path / "curve.png")
