"""The pages of a leaderboard in a real browser: sort, filter, open a row, keyboard, phone, dark mode, print.

``python -m pytest -m browser tests/report`` with playwright and a Chromium (``apt install chromium``); with
``ROBUSTCTL_SCREENSHOTS=FOLDER`` the pictures are kept.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from samples import result

from robustctl.report.leaderboard import CONFIRMED, Entrant, Published, boards, pages

pytestmark = pytest.mark.browser
TABLE = "table >> nth=0"


def entrant(name: str, robust: int, architecture: str, parameters: int, state: str = CONFIRMED) -> Entrant:
    flags = ("estimate: the fast protocol is weak",) if name == "delta" else ()
    made = result(name, name, robust, flags)
    made = made.model_copy(update={"data": made.data.model_copy(update={"content_sha256": "1" * 64})})
    date = "2026-11-26" if state != "not verified" else None
    more = ["suite unseen, all: worst fog 31.0 %, mean 44.0 %, all at once 20.0 % (100 points)"]
    return Entrant(name, made, architecture, parameters, "spec", state, date, more)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    entrants = [
        entrant("alpha", 5, "kw-small", 1_200_000),
        entrant("beta", 7, "wide-resnet", 36_500_000),
        entrant("gamma", 6, "kw-small", 900_000),
        entrant("delta", 9, "preact-resnet18", 11_200_000, "not verified"),
    ]
    entry = Published(
        model="gowal", architecture="wrn", parameters=7, dataset="cifar10", threat="linf:8/255", acc=0.5, n=None,
        protocol="AutoAttack", source="a paper",
    )  # fmt: skip
    for name, text in pages(boards(entrants), [entry]).items():
        (folder / name).write_text(text)
    return folder


@pytest.fixture
def page(browser: Any, site: Path, request: pytest.FixtureRequest) -> Iterator[Any]:
    """The board, in a window of the size and the colours that the test asks for; no error may be logged."""
    options = getattr(request, "param", {"viewport": {"width": 1200, "height": 800}})
    made = browser.new_page(**options)
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.on("request", lambda one: errors.append(one.url) if not one.url.startswith("file:") else None)
    made.goto((site / "index.html").as_uri())
    made.click("td a")
    yield made
    if folder := os.environ.get("ROBUSTCTL_SCREENSHOTS"):
        made.screenshot(path=f"{folder}/{request.node.name.split('[')[0]}.png", full_page=True)
    assert not errors
    made.close()


def names(page: Any, table: str = TABLE) -> list[str]:
    """The models that are shown, from top to bottom."""
    shown = page.locator(table).locator("tbody.entry:visible > tr:first-child td button")
    return [text.strip() for text in shown.all_inner_texts()]


def test_verified_models_are_ranked_and_claims_stand_below(page: Any) -> None:
    assert names(page) == ["beta", "gamma", "alpha"]
    assert names(page, "table >> nth=1") == ["delta"]


def test_a_click_on_a_head_sorts_and_a_second_one_turns_the_order(page: Any) -> None:
    page.locator(TABLE).get_by_role("button", name="parameters in M").click()
    assert names(page) == ["gamma", "alpha", "beta"]
    page.locator(TABLE).get_by_role("button", name="parameters in M").click()
    assert names(page) == ["beta", "alpha", "gamma"]
    assert page.locator(f"{TABLE} >> th[aria-sort=descending]").count() == 1


def test_filters_hide_rows_and_say_how_many_are_left(page: Any) -> None:
    page.select_option("select[name=architecture]", "kw-small")
    assert names(page) == ["gamma", "alpha"] and page.inner_text("output") == "2 of 4 shown"
    page.fill("input[name=millions]", "1")
    assert names(page) == ["gamma"]
    page.fill("input[name=model]", "ALPH")
    assert page.inner_text("output") == "0 of 4 shown"


def test_a_row_opens_by_the_keyboard_alone(page: Any) -> None:
    button = page.get_by_role("button", name="delta")
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    details = page.locator("tr.details:visible")
    assert details.count() == 1
    for text in ("union 90.0 %", "the fast protocol is weak", "suite unseen", "not verified"):
        assert text in details.inner_text()
    page.keyboard.press("Enter")
    assert page.locator("tr.details:visible").count() == 0


@pytest.mark.parametrize("page", [{"viewport": {"width": 375, "height": 700}}], indirect=True)
def test_a_phone_shows_the_figures_without_scrolling_the_page(page: Any) -> None:
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.locator(TABLE).get_by_role("button", name="union").is_visible()
    page.get_by_role("button", name="beta").click()
    assert "linf 70.0 %" in page.locator("tr.details:visible").inner_text()
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")


@pytest.mark.parametrize("page", [{"color_scheme": "dark"}], indirect=True)
def test_dark_mode_is_dark(page: Any) -> None:
    page.get_by_role("button", name="delta").click()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 24, 28)"


def test_print_leaves_out_the_controls(page: Any) -> None:
    page.emulate_media(media="print")
    assert not page.locator("form").is_visible()
    assert page.locator(TABLE).is_visible()


def test_published_figures_are_filtered_on_a_page_of_their_own(page: Any) -> None:
    page.click("nav a >> text=published figures")
    assert page.locator("tbody.entry:visible").count() == 1
    page.select_option("select[name=threat]", "linf:8/255")
    assert page.inner_text("output") == "1 of 1 shown"
