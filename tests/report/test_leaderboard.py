"""Boards hold what compares, rank what was verified, and are pages without any outside link."""

import json
import re
from html.parser import HTMLParser

import pytest
from samples import result

from robustctl.report.leaderboard import CONFIRMED, Board, Entrant, Published, boards, pages
from robustctl.results.union import UnionResult


def other_images(one: UnionResult, content: str) -> UnionResult:
    return one.model_copy(update={"data": one.data.model_copy(update={"content_sha256": content})})


def entrant(name: str, weights: str, robust: int, state: str = CONFIRMED, **more: object) -> Entrant:
    made = other_images(result(name, weights, robust), "1")
    return Entrant(name, made, "kw-small", 1000, "spec", state, "2026-11-26", **more)  # type: ignore[arg-type]


def test_only_verified_claims_have_a_rank_and_equal_ones_share_it() -> None:
    made = [entrant("a", "1", 5), entrant("b", "2", 7), entrant("c", "3", 7), entrant("d", "4", 9, "not verified")]
    made += [entrant("e", "5", 8, "not reproduced")]
    (board,) = boards(made)
    assert [(row.model, row.rank) for row in board.ranked] == [("b", 1), ("c", 1), ("a", 3)]
    assert [(row.model, row.rank) for row in board.claimed] == [("d", None), ("e", None)]


def test_other_images_points_or_radii_form_their_own_board_and_other_names_do_not() -> None:
    one = entrant("a", "1", 5)
    renamed = one.result.model_copy(update={"data": one.result.data.model_copy(update={"source": "elsewhere"})})
    assert len(boards([one, Entrant("b", renamed.model_copy(update={"weights_sha256": "2"}))])) == 1
    assert len(boards([one, Entrant("b", other_images(result("b", "2", 5), "2"))])) == 2
    content = one.result.model_dump(by_alias=True)
    norms = {**content["norms"], "linf": {**content["norms"]["linf"], "eps": 0.1, "eps_text": "0.1"}}
    assert len(boards([one, Entrant("b", UnionResult.model_validate({**content, "norms": norms}))])) == 2


def test_the_lowest_union_stands_for_a_model() -> None:
    (board,) = boards([entrant("a", "1", 6), entrant("a", "1", 4), entrant("a", "1", 2, "not verified")])
    (row,) = board.ranked
    assert row.union == 0.4 and len(row.more) == 2 and "union 20.0 % (not verified" in row.more[1]


class Checker(HTMLParser):
    """Collects addresses and whether tags are closed in order."""

    def __init__(self) -> None:
        super().__init__()
        self.links: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in ("href", "src", "action")]
        if tag not in ("meta", "input", "link", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


PUBLISHED = Published(
    model="gowal", architecture="wrn", parameters=7, dataset="cifar10", threat="linf:8/255", acc=0.5, n=None,
    protocol="AutoAttack", source="a paper",
)  # fmt: skip


@pytest.fixture
def site() -> tuple[Board, dict[str, str]]:
    evil = '<script>alert(1)</script>"'
    (board,) = boards([entrant(evil, "1", 5, more=[evil]), entrant("plain", "2", 4, "not verified")])
    return board, pages([board], [PUBLISHED])


def test_pages_are_whole_escaped_and_link_to_nothing_outside(site: tuple[Board, dict[str, str]]) -> None:
    _, files = site
    for name, text in files.items():
        if name.endswith(".html"):
            checker = Checker()
            checker.feed(text)
            assert not checker.open
            assert all(link in files for link in checker.links), checker.links
            assert "<script>alert" not in text
            assert not re.search(r"https?://|url\(|@import", text)


def test_the_same_lies_beside_each_board_as_json(site: tuple[Board, dict[str, str]]) -> None:
    board, files = site
    content = json.loads(files[f"board-{board.key}.json"])
    assert content["schema"] == "robustctl.leaderboard/1"
    assert Board.model_validate(content) == board


def test_published_figures_stand_on_a_page_of_their_own(site: tuple[Board, dict[str, str]]) -> None:
    board, files = site
    assert "gowal" in files["entries.html"] and "a paper" in files["entries.html"]
    assert "gowal" not in files["index.html"] + files[f"board-{board.key}.html"]
