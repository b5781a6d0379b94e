"""Several recipes or seeds make a study."""

import pytest
from command import robust

from robustctl.cli.training import several_of
from robustctl.errors import RequestError


def request(**keys: object) -> dict[str, object]:
    return {"recipe": "e-at", "seed": None, **keys}


def test_one_recipe_and_one_seed_are_one_training() -> None:
    asked = request(seed="3")
    assert several_of(asked) is None and asked["seed"] == 3
    asked = request()
    assert several_of(asked) is None and asked["seed"] is None


def test_several_recipes_or_seeds_are_every_combination() -> None:
    assert several_of(request(recipe="e-at, ramp")) == (["e-at", "ramp"], [0])
    assert several_of(request(seed="0,1,2")) == (["e-at"], [0, 1, 2])


@pytest.mark.parametrize("seed", ["x", "-1", "1,,2", str(2**63), "1.5"])
def test_a_seed_that_is_none_is_refused(seed: str) -> None:
    with pytest.raises(RequestError, match="--seed"):
        several_of(request(seed=seed))


def test_what_is_about_one_training_is_refused_for_several(capsys: pytest.CaptureFixture[str]) -> None:
    assert robust("finetune", "digits-linf", "--recipe", "e-at,avg", "--out", "x") == 2
    assert "--out is for one training" in capsys.readouterr().err
    assert robust("finetune", "digits-linf", "--recipe", "e-at,e-at") == 2
    assert "stands there twice" in capsys.readouterr().err


def test_the_dry_run_of_several_says_what_each_takes(capsys: pytest.CaptureFixture[str]) -> None:
    quick = ["--set", "train.epochs=1", "--set", "attack.steps=1", "--set", "selection.images=50"]
    assert robust("finetune", "digits-linf", "--recipe", "e-at", "--seed", "0,1", *quick, "--dry-run") == 0
    said = capsys.readouterr().out
    assert "--recipe digits/e-at, seeds 0, 1: 2 of 2 left, 19 steps" in said
    assert "evaluations by adaptive: 2 of 2 left" in said and "left: 38 steps" in said
