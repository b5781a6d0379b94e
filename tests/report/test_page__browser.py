"""The report page in a real browser: wide and narrow, light and dark, with one, three and fourteen results.

``python -m pytest -m browser tests/report`` with playwright and a Chromium (``apt install chromium``); with
``ROBUSTCTL_SCREENSHOTS=FOLDER`` the pictures are kept. Pictures differ by the fonts of a machine, so that the tests
read the laid-out page instead of comparing them: a figure that is cut off, text that is too small or too pale, two
colours that are alike.
"""

import os
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from robustctl.intermediate.results import IntermediateResult
from robustctl.report import page as pages
from robustctl.results.result_file import index_sha256
from robustctl.results.rounds import SecondOpinion, opinion_flags, sample_size
from robustctl.results.union import AttackInfo, DataInfo, Points, UnionResult, summarize
from robustctl.threats import Threat

pytestmark = pytest.mark.browser
N = 200
PROTOCOL = "linf: apgd-ce 100 steps, apgd-t 9 targets; l2: apgd-ce 100 steps; l1: apgd-ce 100 steps"
SMALLEST_TEXT = 10.0  # px, of a letter's height with its space
LEAST_CONTRAST = 4.5  # of text, WCAG 2.1, 1.4.3
LEAST_CONTRAST_OF_MARKS = 2.0

READ = """() => {
  const visible = e => e.getClientRects().length > 0;
  const box = e => { const b = e.getBoundingClientRect(); return [b.left, b.top, b.right, b.bottom]; };
  const parts = text => text.match(/[\\d.]+/g).map(Number);
  const ground = e => {
    for (; e; e = e.parentElement) {
      const c = parts(getComputedStyle(e).backgroundColor);
      if (c[3] !== 0) return c;
    }
    return [255, 255, 255];
  };
  const words = e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim());
  const texts = [...document.querySelectorAll('body *')].filter(e => visible(e) && words(e) && e.tagName !== 'TITLE'
    && e.tagName !== 'STYLE');
  return {
    page: [document.documentElement.scrollWidth, window.innerWidth],
    cells: [...document.querySelectorAll('td, th')].filter(visible).map(e => [e.innerText, box(e),
      box(e.closest('.scroll')), e.scrollWidth - e.clientWidth]),
    texts: texts.map(e => { const style = getComputedStyle(e), svg = e.closest('svg');
      const scale = svg ? svg.getBoundingClientRect().width / svg.viewBox.baseVal.width : 1;
      const ink = parts(svg ? style.fill : style.color);
      return [e.textContent.trim(), parseFloat(style.fontSize) * scale, ink, ground(e)]; }),
    drawn: [...document.querySelectorAll('svg text')].map(e => [e.textContent, box(e), box(e.closest('svg'))]),
    points: [...document.querySelectorAll('svg circle')].map(e => parts(getComputedStyle(e).stroke === 'none'
      ? getComputedStyle(e).fill : getComputedStyle(e).stroke)),
    ground: ground(document.body),
  };
}"""


def evaluation(seed: int, robust: float, union_only: bool = False, flagged: bool = False) -> UnionResult:
    """A result on ``N`` points whose verdicts are drawn."""
    draw = random.Random(seed)
    clean = [int(draw.random() < 0.97) for _ in range(N)]
    robust_in = {norm: [int(draw.random() < robust) * one for one in clean] for norm in ("linf", "l2", "l1")}
    points = Points(index=list(range(N)), label=[0] * N, clean=clean, robust=robust_in)
    threats = [Threat.parse("linf:8/255"), Threat.parse("l2:0.5"), Threat.parse("l1:12")]
    sample = sample_size(sum(robust_in["l1"]))
    opinion = {"l1": SecondOpinion(sample=sample, fell=1, by={"fab-t": 1}, evaluations=100)} if flagged else None
    return UnionResult(
        model="m",
        weights_sha256="a" * 64,
        data=DataInfo(source="cifar10", split="test", n=N, index_sha256=index_sha256("test", range(N))),
        attack=AttackInfo(name="standard", protocol=PROTOCOL, seed=0, union_only=union_only),
        flags=[*opinion_flags(opinion or {}, threats), *["union-only: the norms are bounds"] * union_only],
        seconds=120,
        device="cpu",
        versions={"torch": "2"},
        points=points,
        second_opinion=opinion,
        **summarize(points, threats, {}, union_only),
    )


def runs(count: int) -> list[tuple[str, UnionResult]]:
    """Results under names as runs have them, the middle one with bounds alone, the last one with a flag."""
    return [
        (
            f"20261126-140702-cifar10-wrn28-10-linf-{recipe}-seed{seed}-0badc0de",
            evaluation(10 * i + seed, 0.4 + 0.05 * i, recipe == "max", i == count - 1),
        )
        for i, (recipe, seed) in enumerate([(r, s) for r in ("e-at", "max", "sat", "avg", "ramp") for s in (0, 1, 2)])
    ][:count]


@pytest.fixture(scope="module")
def texts(intermediate_result: IntermediateResult) -> dict[str, str]:
    """The pages by name."""
    more = list(zip(("first-of-the-models-with-a-long-name", "second"), [intermediate_result] * 2, strict=True))
    suite = "threat   worst\nfog       31.0\n" + "x" * 250
    return {
        "one": pages.render(runs(1)),
        "three": pages.render(runs(3), more, [("suite unseen", suite)]),
        "many": pages.render(runs(14)),
        "curves": pages.render([], more),
    }


SHAPES = [(width, scheme) for width in (375, 520, 1200) for scheme in ("light", "dark")]


@pytest.fixture(
    params=[f"{name}-{width}-{scheme}" for name in ("one", "three", "many", "curves") for width, scheme in SHAPES]
)
def seen(
    browser: Any, texts: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[dict[str, Any]]:
    """What the browser made of a page; a page may load nothing and log no error."""
    name, width, scheme = request.param.split("-")
    file = tmp_path / "page.html"
    file.write_text(texts[name], encoding="utf-8")
    made = browser.new_page(viewport={"width": int(width), "height": 900}, color_scheme=scheme)
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("request", lambda one: errors.append(one.url) if not one.url.startswith("file:") else None)
    made.goto(file.as_uri())
    if folder := os.environ.get("ROBUSTCTL_SCREENSHOTS"):
        made.screenshot(path=f"{folder}/{request.param}.png", full_page=True)
    yield made.evaluate(READ)
    assert not errors
    made.close()


def test_the_page_is_whole_and_legible(seen: dict[str, Any]) -> None:
    needed, there = seen["page"]
    assert needed <= there, "the page scrolls sideways"
    for text, (left, _, right, _), (start, _, end, _), hidden in seen["cells"]:
        assert start - 1 <= left and right <= end + 1, f"{text!r} is cut off by its table"
        assert hidden <= 1, f"{text!r} does not fit its cell"
    for text, (left, top, right, bottom), (x0, y0, x1, y1) in seen["drawn"]:
        assert x0 - 1 <= left and right <= x1 + 1 and y0 - 1 <= top and bottom <= y1 + 1, f"{text!r} leaves the chart"
    for text, size, ink, ground in seen["texts"]:
        assert size >= SMALLEST_TEXT, f"{text!r} has letters of {size:.1f} px"
        if text != "●":  # its colour is its result's, as in the chart
            assert contrast(ink, ground) >= LEAST_CONTRAST, f"{text!r}: {ink} on {ground}"


def test_texts_of_the_charts_do_not_overlap(seen: dict[str, Any]) -> None:
    words = [(text, box) for text, box, _ in seen["drawn"] if text != "<="]
    for i, (text, a) in enumerate(words):
        for other, b in words[i + 1 :]:
            apart = a[2] <= b[0] or b[2] <= a[0] or a[3] <= b[1] + 1 or b[3] <= a[1] + 1
            assert apart, f"{text!r} and {other!r} lie on each other"


def test_marks_stand_out_and_results_have_colours_of_their_own(seen: dict[str, Any]) -> None:
    colours = {tuple(ink[:3]) for ink in seen["points"]}
    assert all(contrast(one, seen["ground"]) >= LEAST_CONTRAST_OF_MARKS for one in colours)
    listed = sorted(colours)
    for i, one in enumerate(listed):
        for other in listed[i + 1 :]:
            assert max(abs(a - b) for a, b in zip(one, other, strict=True)) >= 24, f"{one} and {other} are alike"


def test_the_p_column_and_the_union_are_shown_in_every_width(seen: dict[str, Any]) -> None:
    shown = [text for text, *_ in seen["cells"]]
    if "figure" in shown:
        assert any(text.startswith("p (") for text in shown)
    assert "union" in shown or "strongest attack" in shown


def test_facts_fold_away_among_many_results_and_flags_do_not(
    browser: Any, texts: dict[str, str], tmp_path: Path
) -> None:
    file = tmp_path / "page.html"
    file.write_text(texts["many"], encoding="utf-8")
    made = browser.new_page()
    made.goto(file.as_uri())
    assert made.locator("dl:visible").count() == 0
    assert made.locator(".flag:visible").count() == 4
    made.locator("summary").first.click()
    assert made.locator("dl:visible").count() == 1
    made.close()


def contrast(ink: list[float] | tuple[float, ...], ground: list[float]) -> float:
    """The contrast of two colours, from 1 to 21 (WCAG 2.1)."""

    def luminance(rgb: Any) -> float:
        parts = [c / 255 / 12.92 if c / 255 <= 0.04045 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in rgb[:3]]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    light, dark = sorted((luminance(ink), luminance(ground)), reverse=True)
    return (light + 0.05) / (dark + 0.05)
