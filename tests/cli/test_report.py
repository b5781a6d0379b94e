import csv
import math
import os
import shutil
import time
from html.parser import HTMLParser
from pathlib import Path

import pytest
from typer.testing import CliRunner

from robustctl import runs
from robustctl.cli import app
from robustctl.errors import RequestError
from robustctl.intermediate.results import IntermediateResult
from robustctl.results import union as results
from robustctl.results.result_file import Accuracy, DataInfo, index_sha256
from robustctl.results.union import AttackInfo, Points, UnionResult
from robustctl.threats import Threat

NASTY = '<script>alert("x")</script>&'


@pytest.fixture
def result(tmp_path):
    points = Points(index=[3, 4, 5], label=[7, 8, 9], clean=[1, 1, 0], robust={"linf": [1, 0, 0], "l1": [1, 1, 0]})
    threats = [Threat.parse("linf:8/255"), Threat.parse("l1:12")]
    made = UnionResult(
        model=NASTY,
        weights_sha256="0" * 64,
        data=DataInfo(source=NASTY, split=NASTY, n=3, index_sha256=index_sha256(NASTY, [3, 4, 5])),
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
        if tag not in ("meta", "wbr"):  # they have no end
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
    run("report", result, "-o", str(tmp_path / "points.csv"))
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


@pytest.fixture
def curve(tmp_path):
    """A file of an intermediate-q result whose texts are nasty."""
    share = Accuracy.of([1, 0]).model_dump()
    estimate = {
        "q": 10,
        "estimator": "mc",
        "grid": None,
        "value": 0.5,
        "ci95": (0.4, 0.6),
        "ci95_sampling": (0.4, 0.6),
        "samples": 10,
        "leapfrog": 0,
        "chains": None,
        "acceptance": None,
        "ess": 9.0,
        "chain_gap": None,
        "lag": None,
        "log_z": [math.log(0.5)] * 2,
    }
    made = IntermediateResult.model_validate(
        {
            "model": NASTY,
            "weights_sha256": "0",
            "data": {"source": NASTY, "split": NASTY, "n": 2, "index_sha256": "0"},
            "distribution": {"kind": "linf", "eps": 0.1, "text": "linf:0.1"},
            "clean": share,
            "clean_loss": {"value": 0.1, "ci95": (0.0, 0.2)},
            "estimates": [estimate],
            "random": {"acc": 0.5, "ci95": (0.1, 0.9)},
            "probacc": [],
            "adversarial_loss": None,
            "seed": 0,
            "cost": {"recorded": 1, "burn_in": 1, "attacks": 1, "forwards": 1},
            "flags": [NASTY],
            "seconds": 1,
            "device": NASTY,
            "versions": {NASTY: NASTY},
        }
    )
    made.write(tmp_path / "q.json")
    return str(tmp_path / "q.json")


def test_curves_join_the_page_and_stand_alone_too(result, curve, tmp_path):
    for files, charts in (((result, curve), 2), ((curve,), 1), ((result,), 1)):
        run("report", *files, "-o", str(tmp_path / "page.html"))
        page = Page((tmp_path / "page.html").read_text())
        assert page.open == []
        assert page.tags.count("svg") == charts
        assert "script" not in page.tags and page.links == []
        assert ("q = 10" in page.text) == (curve in files)


def test_csv_of_curves_alone_is_refused(curve, tmp_path):
    with pytest.raises(RequestError, match=".csv needs verdicts"):
        run("report", curve, "-o", str(tmp_path / "points.csv"))


def test_curves_are_printed_as_a_table(result, curve):
    text = run("report", result, curve)
    assert "union" in text and "Z_MC, q=10" in text


def test_a_runs_newest_results_of_each_kind_are_shown(result, curve, tmp_path, private_home):
    folder = runs.create("m", "r").path
    (folder / runs.RECORD).write_text("{}")
    (folder / "eval").mkdir()
    for name, age in (("old", 20), ("new", 10)):
        for file in (result, curve):
            copy = folder / "eval" / f"{name}-{Path(file).name}"
            shutil.copy(file, copy)
            os.utime(copy, (time.time() - age,) * 2)
    output = str(tmp_path / "page.html")
    run("report", str(folder), "-o", output)
    text = Page(Path(output).read_text()).text
    assert "(new" not in text and "(old" not in text  # one of each kind needs no file's name
    run("report", "-o", output)
    text = Page(Path(output).read_text()).text
    assert all(f"({name}-{kind})" in text for name in ("old", "new") for kind in ("r", "q"))


def test_the_ending_of_the_file_says_what_is_written(result, tmp_path):
    begins = {"html": "<!doctype html>", "md": "| accuracy in %", "tex": "%", "csv": "result,index,label"}
    for ending, start in begins.items():
        run("report", result, "-o", str(tmp_path / f"r.{ending}"))
        assert (tmp_path / f"r.{ending}").read_text().startswith(start)


def test_other_endings_and_folders_that_are_not_there_are_refused_before_anything_is_read(tmp_path):
    with pytest.raises(RequestError, match=r"choose .html, .md, .tex, .csv"):
        run("report", "none.json", "-o", str(tmp_path / "r.pdf"))
    with pytest.raises(RequestError, match="there is no directory"):
        run("report", "none.json", "-o", str(tmp_path / "no" / "r.html"))
