"""Which results the card of a published directory shows, and in what order."""

import json
from pathlib import Path

import pytest

from robustctl.hub.download import git_sha1
from robustctl.publish.card import RESULTS
from robustctl.workflows.claims import CLAIM, RECORDS, shown_results

STORED = Path(__file__).parents[1] / "fixtures" / "stored-run" / "eval" / "fast-30-0b2089b7c852.json"


@pytest.fixture
def published(tmp_path: Path) -> list[str]:
    """Two results in a published directory, by their names; the second one's attack had seed 1."""
    folder = tmp_path / RECORDS
    folder.mkdir()
    names = []
    for seed in (0, 1):
        content = json.loads(STORED.read_text())
        content["attack"]["seed"] = seed
        text = json.dumps(content).encode()
        names.append(f"{CLAIM}fast-30-{seed}-{git_sha1(text)[:8]}")
        (folder / f"{names[-1]}.json").write_bytes(text)
    return names


def seeds(directory: Path) -> list[list[int]]:
    return [[one.attack.seed for one in order] for order in shown_results(directory)[1]]


def test_the_record_of_the_push_has_the_order_of_the_columns(published: list[str], tmp_path: Path) -> None:
    (tmp_path / RECORDS / "run.json").write_text(json.dumps({RESULTS: published[::-1]}))
    assert seeds(tmp_path) == [[1, 0]]


def test_every_order_may_be_meant_if_the_record_is_of_an_earlier_version(published: list[str], tmp_path: Path) -> None:
    assert seeds(tmp_path) == [[0, 1], [1, 0]]


def test_a_record_that_names_none_of_the_results_hides_none(published: list[str], tmp_path: Path) -> None:
    (tmp_path / RECORDS / "run.json").write_text(json.dumps({RESULTS: []}))
    assert seeds(tmp_path) == [[0, 1], [1, 0]]


def test_a_directory_without_results_has_one_order_of_none(tmp_path: Path) -> None:
    assert seeds(tmp_path) == [[]]
