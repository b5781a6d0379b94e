"""A dry run says what is decided and what it takes, and refuses what the run would refuse."""

from dataclasses import replace

import pytest

from robustctl.errors import RequestError, RunError
from robustctl.recipe import read as recipes
from robustctl.recipe.schema import About
from robustctl.spec import ModelSpec
from robustctl.workflows import rehearsal
from robustctl.workflows.rehearsal import from_header, published_row
from robustctl.workflows.train import train
from robustctl.workflows.training_request import TrainingRequest

QUICK = ("train.epochs=2", "train.shard=true", "attack.steps=1", "selection.images=50")
ASKED = TrainingRequest("finetune", "digits-linf", "ramp", "digits", QUICK, device="cpu", dry_run=True)


def test_a_dry_run_says_lambda_the_pair_schedule_projection_steps_time_memory_and_disk(capsys) -> None:
    train(ASKED)
    said = capsys.readouterr().err
    for words in (
        "lambda 0.5",
        "q is linf, r is l1",
        "schedule: cyclic",
        "gradient projection: none",
        "steps: 38",
        "of torchrun keep 1/N",
    ):
        assert words in said
    assert "measured on two batches" in said and "MB at the peak" in said and "disk: " in said


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("selection.images=1000", "selection.images is 1000"),
        ("extra={path: nowhere.pickle, share: 0.5}", "nowhere.pickle"),
        ("train.threats={linf: 8, l1: 12}", "8/255"),
    ],
)
def test_a_dry_run_refuses_what_the_run_would_refuse(override: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        train(replace(ASKED, overrides=(*QUICK, override)))


def test_a_push_without_a_token_is_refused_in_a_dry_run() -> None:
    with pytest.raises((RequestError, RunError), match="token"):
        train(replace(ASKED, push="somebody/model"))


def test_a_directory_that_is_taken_is_refused_in_a_dry_run(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RequestError, match="is there already"):
        train(replace(ASKED, out=tmp_path))


def test_offline_the_plan_is_still_printed_with_what_to_bring(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(
        rehearsal, "without_images", lambda settings, spec, world: ["a step on cards"]
    )  # it takes a while
    with pytest.raises(RunError, match="nothing was started"):
        train(TrainingRequest("finetune", "gowal-wrn70", "ramp", dry_run=True, device="cpu"))
    said = capsys.readouterr().err
    assert "a step on cards" in said
    assert "to bring: the images of uoft-cs/cifar10" in said and "robustctl pull gowal-wrn70" in said
    assert "hint: the published row of gowal-wrn70 comes from --recipe cifar10/ramp-extra" in said
    assert "extra.path" not in said
    with pytest.raises(RunError, match="nothing was started"):
        train(TrainingRequest("finetune", "gowal-wrn70", "ramp-extra", dry_run=True, device="cpu"))
    assert "to bring: the extra images of ti_500K_pseudo_labeled.pickle" in capsys.readouterr().err


def test_offline_with_images_but_without_weights_all_else_is_said(monkeypatch, capsys, tmp_path) -> None:
    import numpy as np

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    images = np.random.default_rng(0).integers(0, 256, (40, 3, 32, 32), dtype=np.uint8)
    np.savez(tmp_path / "all.npz", x=images, y=np.arange(40) % 10)
    small = ("selection.images=8", "train.batch_size=16")
    asked = TrainingRequest("finetune", "croce-rn18-linf", "e-at", str(tmp_path / "all.npz"), small, split="all")
    with pytest.raises(RunError, match="the weights of croce-rn18-linf are not here"):
        train(replace(asked, dry_run=True, device="cpu", force=True))
    said = capsys.readouterr().err
    assert "time: about 4 min, on one A100, by the recipe: 78 s an epoch" in said and "steps: 6" in said


def test_the_row_that_a_paper_has_for_a_model_is_found() -> None:
    ramp = recipes.load("cifar10/ramp")
    assert "cifar10/ramp-extra" in str(published_row(ramp, "gowal-wrn70"))
    assert published_row(ramp, "gowal-wrn34") is None, "ramp itself has its row"
    assert published_row(ramp, None) is None


def test_every_cost_per_epoch_of_the_recipes_is_read() -> None:
    read = 0
    for name in recipes.names():
        cost = recipes.load(name).settings.about.cost
        if " s an epoch on one" in cost:
            seconds, how = from_header(About(paper="", cost=cost), 2)
            assert seconds is not None and f"{seconds / 2:g} s an epoch" in cost and how
            read += 1
    assert read > 20
    assert from_header(About(paper="", cost="a minute"), 2) == (None, "")


def test_cards_are_spoken_of_without_images_and_weights_as_they_are_with_them() -> None:
    args = {"name": "preact-resnet18", "args": {}}
    values = {"architecture": args, "input_shape": (3, 32, 32), "n_classes": 10, "dataset": "cifar10", "norm": "linf"}
    spec = ModelSpec.model_validate({**values, "eps": "8/255"})
    memory, cards = rehearsal.without_images(recipes.load("cifar10/ramp").settings, spec)
    assert memory.startswith("memory on a card: 1.4 GB for batches of 128 in float32 (179 MB and 9.49 MB per image)")
    assert "12 GB: whole" in cards


@pytest.mark.slow
def test_the_largest_network_is_spoken_of_too(monkeypatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(RunError, match="nothing was started"):
        train(TrainingRequest("finetune", "gowal-wrn70", "ramp", dry_run=True, device="cpu"))
    said = capsys.readouterr().err
    assert "37.1 GB for batches of 128" in said and "24 GB: 127 at once, whole with train.checkpoint" in said


def test_a_first_pass_that_loads_much_does_not_make_the_steps_seem_long(monkeypatch, capsys) -> None:
    taken = iter([200.0, 0.001])
    monkeypatch.setattr(rehearsal, "_pass_seconds", lambda *_: next(taken))
    train(ASKED)
    assert "measured on two batches" in capsys.readouterr().err
