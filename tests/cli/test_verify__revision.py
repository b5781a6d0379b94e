"""A result on a hub data set names its commit; it is checked and made again on the images of that commit."""

import io
import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from claimed import adopt, change_json, claim_of
from command import robust
from hub_server import Server
from PIL import Image
from verdicts import texts, verdict

from robustctl import data, runs
from robustctl.results import union as results
from robustctl.runs import Run

NAME = "bob/digits"


def encoded(first: int) -> bytes:
    """Twelve digits in 8 bits as a parquet file, from the ``first`` of the built-in test split."""
    images = data.load("digits", "test", first + 12)
    rows = []
    for image in images.x[first:, 0]:
        buffer = io.BytesIO()
        Image.fromarray((image.numpy() * 255).round().astype(np.uint8)).save(buffer, "PNG")
        rows.append({"bytes": buffer.getvalue(), "path": None})
    table = pa.table({"image": rows, "label": images.y[first:].numpy()})
    features = {"label": {"names": [str(i) for i in range(10)], "_type": "ClassLabel"}}
    table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    buffer = io.BytesIO()
    pq.write_table(table, buffer)
    return buffer.getvalue()


@pytest.fixture
def commit(hub: Server, claimed_run: Run, tmp_path: Path) -> str:
    """The commit of a data set that a model was evaluated on and pushed; another one has become the newest since."""
    first = hub.add(NAME, {"data/test-00000-of-00001.parquet": encoded(0)})
    mine = Path(shutil.copytree(claimed_run.path, tmp_path / "mine"))
    shutil.rmtree(mine / "eval")
    asked = ("--data", NAME, "--n", 12, "--attack", "fast", "--norms", "linf", "--eps", "linf=0.2")
    assert robust("-q", "eval", mine, *asked, "--precision", "float32") == 0
    hub.add(NAME, {"data/test-00000-of-00001.parquet": encoded(12)})
    for place in ("alice/m", f"file://{tmp_path}/shelf"):
        assert robust("-q", "push", mine, "--repo", place, "--allow-flags") == 0
    return first


@pytest.fixture
def empty_home(commit: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The same, for somebody who has nothing of it."""
    monkeypatch.setenv("ROBUSTCTL_HOME", str(tmp_path / "empty"))
    return commit


def test_result_and_card_name_the_commit(commit: str, tmp_path: Path) -> None:
    published = results.read(claim_of(tmp_path / "shelf")).data
    assert (published.source, published.revision, published.pinned) == (NAME, commit, f"{NAME}@{commit}")
    card = (tmp_path / "shelf" / "README.md").read_text()
    assert f"revision: {commit}" in card and f"at revision `{commit}`" in card


def test_images_of_that_commit_are_fetched_to_check_it_and_to_make_it_again(
    empty_home: str, hub: Server, tmp_path: Path
) -> None:
    assert verdict("alice/m", tmp_path)["verdict"] == "confirmed"
    asked = len(hub.log)
    assert robust("-q", "eval", "alice/m", "--like", "published") == 0
    assert not [line for line in hub.log[asked:] if NAME in line], "the commit is here already"
    (mine,) = (runs.root() / "eval" / "alice--m").glob("*.json")
    again, published = results.read(mine), results.read(claim_of(tmp_path / "shelf"))
    assert (again.points, again.data) == (published.points, published.data)


def test_another_commit_is_found(empty_home: str, hub: Server, tmp_path: Path) -> None:
    newest = hub.repos[NAME].branches["main"]
    cases = ((newest, "labels of the claim"), ("0" * 40, "images are not here"), ("../../x", "should match"))
    for revision, wanted in cases:
        shelf = Path(shutil.copytree(tmp_path / "shelf", tmp_path / f"{wanted[:3]}"))
        change_json(claim_of(shelf), lambda content, to=revision: content["data"].update(revision=to))  # type: ignore[misc]
        adopt(shelf)
        claim = verdict(shelf, tmp_path)
        assert claim["verdict"] != "confirmed" and wanted in texts(claim)
