"""A site of digits models that were trained, evaluated, pushed and verified here, in a real browser.

``python -m pytest -m browser tests/report`` as ``test_leaderboard__browser.py``; the pictures are kept in the same way.
"""

import getpass
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from claimed import EVALUATION, change_witnesses
from command import robust
from hub_server import TOKEN

from robustctl.runs import Run

pytestmark = pytest.mark.browser
LOOKS: dict[str, dict[str, Any]] = {
    "wide": {"viewport": {"width": 1200, "height": 800}},
    "phone": {"viewport": {"width": 375, "height": 700}},
    "dark": {"color_scheme": "dark", "viewport": {"width": 1200, "height": 800}},
    "print": {"viewport": {"width": 1000, "height": 800}},
}


@pytest.fixture(scope="module")
def site(claimed_run: Run, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    """Four runs: two confirmed, one with spoilt witnesses, one that nobody verified; curves and a threat of one."""
    folder = tmp_path_factory.mktemp("digits")
    os.environ["ROBUSTCTL_HOME"] = str(folder / "home")  # for all tests of this file; each test has one of its own else
    request.addfinalizer(lambda: os.environ.pop("ROBUSTCTL_HOME", None))
    runs = [Path(shutil.copytree(claimed_run.path, folder / "runs" / "digits-linf"))]
    for recipe in ("e-at", "max", "sat"):
        run = folder / "runs" / recipe
        assert robust("-q", "finetune", "digits-linf", "--recipe", recipe, "--max-steps", 10, "--out", run) == 0
        assert robust("-q", "eval", run, "--union", *EVALUATION) == 0
        runs.append(run)
    assert robust("-q", "eval", runs[1], "--curve", "--data", "digits", "--n", 40, "--norms", "linf,l2") == 0
    assert robust("-q", "eval", runs[1], "--threat", "fog:64", "--data", "digits", "--n", 20) == 0
    for run in runs:
        assert robust("-q", "push", run, "--repo", f"file://{folder}/shelves/{run.name}", "--allow-flags") == 0
    change_witnesses(folder / "shelves" / "max", lambda tensors, _: tensors["linf.delta.0"].fill_(7))
    for name, code in (("digits-linf", 0), ("e-at", 0), ("max", 1)):
        assert robust("-q", "verify", folder / "shelves" / name, "--seed", 1, "--sample", 6) == code
    assert robust("leaderboard", folder / "runs", folder / "shelves", "-o", folder / "site", "--entries") == 0
    return folder / "site"


def test_the_board_has_what_was_measured_and_what_became_of_it(site: Path) -> None:
    (path,) = site.glob("board-*.json")
    board = json.loads(path.read_text())
    assert sorted(row["model"] for row in board["ranked"]) == ["digits-linf", "e-at"]
    assert {row["model"]: row["state"] for row in board["claimed"]} == {"max": "not reproduced", "sat": "not verified"}
    (mine,) = (row for row in board["ranked"] if row["model"] == "e-at")
    assert [one["norm"] for one in mine["curves"]] == ["linf", "l2"]
    assert any("fog" in line for line in mine["more"]), mine["more"]


def test_nothing_of_this_machine_is_on_the_site(site: Path) -> None:
    for path in site.iterdir():
        text = path.read_text()
        for secret in (TOKEN, f"{Path.home()}/", f"/{getpass.getuser()}/", str(site.parent), "/tmp/"):
            assert secret not in text, path.name


@pytest.mark.parametrize("look", LOOKS)
def test_a_reader_finds_the_board_opens_a_row_and_sees_its_curves(site: Path, browser: Any, look: str) -> None:
    page = browser.new_page(**LOOKS[look])
    page.goto((site / "index.html").as_uri())
    _keep(page, f"site-index-{look}")
    page.click("td a")
    if look == "print":
        page.emulate_media(media="print")
    _keep(page, f"site-board-{look}")
    if look != "print":
        page.get_by_role("button", name="e-at").click()
        details = page.locator("tr.details:visible")
        for text in ("linf", "l2", "l1", "average", "union", "fog", "estimate", "confirmed"):
            assert text in details.inner_text()
        assert details.locator("svg").count() == 2 and details.locator("svg").first.is_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        _keep(page, f"site-open-{look}")
        page.click("nav a >> text=published figures")
        _keep(page, f"site-entries-{look}")
    page.close()


def _keep(page: Any, name: str) -> None:
    if folder := os.environ.get("ROBUSTCTL_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)
