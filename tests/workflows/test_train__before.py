"""What is checked before weights are fetched and before training starts."""

from dataclasses import replace
from pathlib import Path

import pytest

from robustctl.errors import RequestError
from robustctl.models import fetch, find
from robustctl.models.entry import Entry, read, write
from robustctl.workflows.train import train
from robustctl.workflows.training_request import TrainingRequest

ASKED = TrainingRequest("finetune", "far-away", "digits/e-at", "digits", device="cpu", max_steps=1)


class Fetched(Exception):
    """The weights were asked for."""


@pytest.fixture(autouse=True)
def entry(private_home: Path, monkeypatch: pytest.MonkeyPatch) -> Entry:
    """An entry of the user whose weights are not here, and a fetch that only says that it was asked."""

    def fetched(name: str, entry: Entry) -> None:
        raise Fetched

    monkeypatch.setattr(fetch, "fetch_entry", fetched)
    made = read(find.entry_files()["digits-linf"]).model_copy(update={"licence": "mit"})
    (private_home / "models" / "entries").mkdir(parents=True)
    write(made, private_home / "models" / "entries" / "far-away.yaml")
    return made


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"recipe": "digits/e-att"}, "Did you mean"),
        ({"recipe": "cifar10/e-at"}, "is for dataset 'cifar10'"),
        ({"overrides": ("optim.lrr=1",)}, "Did you mean 'lr'"),
        ({"data": "nowhere"}, "nowhere"),
        ({"device": "cuda:77"}, "cuda:77"),
    ],
    ids=str,
)
def test_a_mistyped_request_is_refused_before_the_weights_are_fetched(changes: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        train(replace(ASKED, **changes))
    with pytest.raises(Fetched):
        train(ASKED)


@pytest.mark.parametrize(("licence", "said"), [(None, "is not known"), ("other", "is 'other', which is none of")])
def test_a_push_that_lacks_a_licence_is_refused_before_training(
    entry: Entry, private_home: Path, tmp_path: Path, licence: str | None, said: str
) -> None:
    asked = replace(ASKED, push=f"file://{tmp_path}/m")
    with pytest.raises(Fetched):
        train(asked)
    changed = entry.model_copy(update={"licence": licence})
    write(changed, private_home / "models" / "entries" / "far-away.yaml")
    with pytest.raises(RequestError, match=f"the licence of far-away {said}") as refused:
        train(asked)
    assert "--licence mit" in str(refused.value)
    with pytest.raises(Fetched):
        train(replace(asked, licence="mit"))


def test_a_directory_that_cannot_be_written_to_is_refused_before_training(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="cannot write to"):
        train(replace(ASKED, push=f"file://{tmp_path}/file/m"))


def test_a_dry_run_fetches_nothing_and_checks_the_rest(capsys: pytest.CaptureFixture[str]) -> None:
    train(replace(ASKED, dry_run=True))
    said = capsys.readouterr().err
    assert "the weights of far-away are not here yet; they would be fetched first" in said
    assert "with method e-at" in said
    train(replace(ASKED, dry_run=True, new_head=True))
