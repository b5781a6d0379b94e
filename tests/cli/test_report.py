import csv
from html.parser import HTMLParser

import pytest
from typer.testing import CliRunner

from robustctl import results
from robustctl.cli import app
from robustctl.errors import RequestError
from robustctl.results import AttackInfo, DataInfo, Points, UnionResult
from robustctl.threats import Threat

NASTY = '<script>alert("x")</script>&'


@pytest.fixture
def result(tmp_path):
    points = Points(index=[3, 4, 5], label=[7, 8, 9], clean=[1, 1, 0], robust={"linf": [1, 0, 0], "l1": [1, 1, 0]})
    threats = [Threat.parse("linf:8/255"), Threat.parse("l1:12")]
    made = UnionResult(
        model=NASTY,
        weights_sha256="0" * 64,
        data=DataInfo(source=NASTY, split=NASTY, n=3, index_sha256="1" * 64),
        attack=AttackInfo(name=NASTY, protocol=NASTY, seed=0),
        flags=[NASTY],
        seconds=1,
        device=NASTY,
        versions={NASTY: NASTY},
        points=points,
        **results.summarize(points, threats, {}, upper_bound=False),
    )
    made.write(tmp_path / "r.json")
    return str(tmp_path / "r.json")


class Page(HTMLParser):
    """Collects tags, attributes and text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.links, self.text, self.open = [], [], "", []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.links += [value for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def run(*arguments):
    outcome = CliRunner().invoke(app, list(arguments))
    if isinstance(outcome.exception, RequestError):
        raise outcome.exception
    assert outcome.exit_code == 0, outcome.output
    return outcome.stdout


def test_the_page_stands_alone_and_escapes_everything(result, tmp_path):
    run("report", result, result, "-o", str(tmp_path / "page.html"))
    page = Page((tmp_path / "page.html").read_text())
    assert page.open == []  # every tag is closed
    assert "script" not in page.tags
    assert page.links == []
    assert page.text.count(NASTY) >= 8
    assert "33.3 [6.1, 79.2]" in page.text


def test_csv_has_one_row_a_point(result, tmp_path):
    run("report", result, "--csv", str(tmp_path / "points.csv"))
    with (tmp_path / "points.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["index"] for row in rows] == ["3", "4", "5"]
    assert rows[1] == {
        "result": NASTY,
        "index": "4",
        "label": "8",
        "clean": "1",
        "linf": "0",
        "l2": "",
        "l1": "1",
        "union": "0",
    }


def test_without_a_page_the_table_is_printed(result):
    assert "union" in run("report", result)


def test_without_arguments_and_results_it_says_what_to_do():
    with pytest.raises(RequestError, match="robustctl eval"):
        run("report")
