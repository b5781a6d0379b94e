"""What a push publishes beside the weights: witnesses, the best weights, the hub's own format of results."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from claimed import claim_of
from command import robust

from robustctl.hub.plain_directory import sha256
from robustctl.publish.eval_results import contradictions
from robustctl.results import union as results
from robustctl.runs import Run
from robustctl.workflows.claims import shown_results


@pytest.fixture
def mine(claimed_run: Run, tmp_path: Path) -> Run:
    """A copy of the run, to be changed."""
    return Run(Path(shutil.copytree(claimed_run.path, tmp_path / "mine")))


def files_of(run: Run, folder: Path, *options: object) -> set[str]:
    """The files of a plain directory after a push."""
    assert robust("push", run.path, "--repo", f"file://{folder}", "--allow-flags", *options) == 0
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_witnesses_are_said_with_their_size_and_left_out_on_request(
    mine: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = files_of(mine, tmp_path / "shelf")
    (result,) = (Path(name).stem for name in names if name.startswith("robustctl/eval-"))
    assert f"witnesses/{result}.safetensors" in names
    assert f"witnesses of {result}: linf 21, l2 5, l1 1 points, 0.0" in capsys.readouterr().err
    assert not [name for name in files_of(mine, tmp_path / "shelf", "--no-witnesses") if "witnesses" in name]


def test_what_cannot_be_proven_is_said_and_refused_if_witnesses_are_asked_for(
    mine: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    next((mine.path / "eval").glob("*.sqlite")).unlink()
    assert not [name for name in files_of(mine, tmp_path / "shelf") if "witnesses" in name]
    assert "without witnesses, so that nobody can verify it" in capsys.readouterr().err
    assert robust("push", mine.path, "--repo", f"file://{tmp_path}/other", "--allow-flags", "--witnesses") == 2
    assert "which has the adversarial images" in capsys.readouterr().err


def test_witnesses_above_the_limit_are_left_out_until_they_are_asked_for(
    mine: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from robustctl.workflows import publish_witnesses

    monkeypatch.setattr(publish_witnesses, "MOST_BYTES", 10)
    assert not [name for name in files_of(mine, tmp_path / "shelf") if "witnesses" in name]
    assert "--witnesses publishes them all the same" in capsys.readouterr().err
    assert [name for name in files_of(mine, tmp_path / "shelf", "--witnesses") if "witnesses" in name]


def test_the_card_says_how_to_check_it(pushed: Path, claimed_run: Run) -> None:
    card = (pushed / "README.md").read_text()
    assert "    robustctl verify .\n    robustctl eval . --like published\n" in card
    assert "accuracies of at most these, against linf:0.2, l2:0.45, l1:0.5" in card
    assert "second opinion, linf: 0 of 8" in card
    assert str(results.read(claim_of(pushed)).data.content_sha256) in card


def test_the_best_weights_are_published_and_labelled(mine: Run, tmp_path: Path) -> None:
    best = mine.path / "best.safetensors"
    assert robust("push", mine.path, "--repo", f"file://{tmp_path}/shelf", "--weights", "best") == 2
    shutil.copyfile(mine.path / "model.safetensors", best)
    mine.update(best={"epoch": 3.0, "union": 0.5})
    names = files_of(mine, tmp_path / "shelf", "--weights", "best")
    assert sha256(tmp_path / "shelf" / "model.safetensors") == sha256(best)
    card = (tmp_path / "shelf" / "README.md").read_text()
    assert "weights: the best ones by the selection split" in card and "epoch 3" in card
    assert not [name for name in names if "eval-" in name], "the evaluations of the run are of its last weights"


def test_results_on_hub_data_sets_are_written_in_the_hub_s_own_format(
    mine: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert robust("push", mine.path, "--repo", f"file://{tmp_path}/x", "--allow-flags", "--eval-results") == 2
    assert "the hub knows results on its own data sets only" in capsys.readouterr().err
    (path,) = (mine.path / "eval").glob("*.json")
    content = json.loads(path.read_text())
    content["data"]["source"] = "uoft-cs/cifar10"
    path.write_text(json.dumps(content))
    assert ".eval_results/robustctl.yaml" in files_of(mine, tmp_path / "shelf", "--eval-results")
    from huggingface_hub import parse_eval_result_entries

    entries = parse_eval_result_entries(
        yaml.safe_load((tmp_path / "shelf" / ".eval_results" / "robustctl.yaml").read_text())
    )
    figures = {entry.task_id: (entry.dataset_id, entry.value) for entry in entries}
    assert figures["robust accuracy linf eps 0.2"] == ("uoft-cs/cifar10", 0.475)
    assert all("at most" in str(entry.notes) for entry in entries)

    shown = tmp_path / "shelf" / ".eval_results" / "robustctl.yaml"

    def told() -> str:
        return "\n".join(contradictions(shown, shown_results(tmp_path / "shelf")[1][0]))

    assert not told()
    shown.write_text(shown.read_text().replace("value: 0.475", "value: 0.99", 1))
    assert "'value': 0.99" in told() and "robustctl.yaml lacks {" in told()
