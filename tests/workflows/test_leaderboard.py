"""A leaderboard of directories: runs, what was pushed, and what the registry's entries record."""

import json
import shutil
from pathlib import Path

import pytest
from claimed import change_json, claim_of
from command import robust

from robustctl.errors import RequestError
from robustctl.results import union as results
from robustctl.results.curve import CurveResult, NormCurve, area_of, median_of
from robustctl.runs import Run
from robustctl.workflows.leaderboard import make_site


def board_of(site: Path) -> dict[str, list[dict[str, object]]]:
    (path,) = site.glob("board-*.json")
    content: dict[str, list[dict[str, object]]] = json.loads(path.read_text())
    return content


def test_a_claim_moves_up_when_it_is_verified_and_down_when_its_model_changes(shelf: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    make_site([str(shelf)], site)
    board = board_of(site)
    assert [row["state"] for row in board["claimed"]] == ["not verified"] and not board["ranked"]
    assert robust("-q", "verify", shelf, "--sample", 4, "--seed", 1) == 0
    make_site([str(shelf)], site)
    (row,) = board_of(site)["ranked"]
    assert (row["rank"], row["state"], row["architecture"]) == (1, "confirmed", "kw-small")
    assert row["parameters"] and str(row["date"]).startswith("20")
    change_json(shelf / "config.json", lambda content: content.update(normalization={"mean": [0.1], "std": [1.2]}))
    make_site([str(shelf)], site)
    assert not board_of(site)["ranked"]


def test_a_run_and_what_was_pushed_of_it_are_one_row_without_local_paths(
    claimed_run: Run, shelf: Path, tmp_path: Path
) -> None:
    shutil.copytree(claimed_run.path, tmp_path / "both" / "mine")
    shutil.copytree(shelf, tmp_path / "both" / "shelf")
    (page,) = make_site([str(tmp_path / "both")], tmp_path / "site")
    board = board_of(tmp_path / "site")
    (row,) = board["ranked"] + board["claimed"]
    assert not any("evaluated too" in line for line in row["more"])  # type: ignore[attr-defined]
    texts = page.read_text() + page.with_suffix(".json").read_text()
    assert str(tmp_path) not in texts and str(Path.home()) + "/" not in texts


def test_forged_files_are_left_out_and_said(shelf: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change_json(claim_of(shelf), lambda content: content["union"].update(acc=0.9))
    with pytest.raises(RequestError, match="no result to rank"):
        make_site([str(shelf)], tmp_path / "site")
    assert "is left out" in capsys.readouterr().err


def test_pages_of_boards_that_are_gone_are_removed_and_other_files_stay(shelf: Path, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    (site / "board-0000000000.html").touch()
    (site / "mine.txt").touch()
    make_site([str(shelf)], site, entries=True)
    names = {path.name for path in site.iterdir()}
    assert "board-0000000000.html" not in names and {"mine.txt", "index.html", "entries.html"} <= names


def test_what_cannot_be_ranked_is_a_wrong_request(tmp_path: Path) -> None:
    assert robust("leaderboard") == 2
    assert robust("leaderboard", tmp_path, "-o", tmp_path / "site") == 2
    (tmp_path / "file").touch()
    assert robust("leaderboard", "--entries", "-o", tmp_path / "file") == 2


def test_other_measurements_of_the_same_weights_are_shown_from_wherever_an_evaluation_keeps_them(
    claimed_run: Run, shelf: Path, tmp_path: Path
) -> None:
    """A run keeps curves and suites in folders of their own; what was pushed of it has none, and both are one row."""
    mine = Path(shutil.copytree(claimed_run.path, tmp_path / "both" / "mine"))
    shutil.copytree(shelf, tmp_path / "both" / "shelf")
    (path,) = (mine / "eval").glob("*.json")
    result = results.read(path)
    distance = [0.1 if one else 0.0 for one in result.points.clean]
    eps = {"eps": 0.2, "eps_text": "0.2", "bound": 0.4}
    curve = NormCurve(
        distance=distance, median=median_of(distance), area=area_of(distance, 0.4), by={}, evaluations=1, **eps
    )
    shared = {
        name: getattr(result, name) for name in ("model", "weights_sha256", "data", "flags", "device", "versions")
    }
    made = CurveResult(seed=0, index=result.points.index, norms={"linf": curve}, seconds=1, **shared)
    (mine / "eval" / "curves").mkdir()
    made.write(mine / "eval" / "curves" / "curve-40.json")
    make_site([str(tmp_path / "both")], tmp_path / "site")
    board = board_of(tmp_path / "site")
    (row,) = board["ranked"] + board["claimed"]
    (shown,) = row["curves"]  # type: ignore[misc]
    assert (shown["norm"], shown["eps"], shown["accs"][0], shown["accs"][-1]) == ("linf", 0.2, 1.0, 0.0)
