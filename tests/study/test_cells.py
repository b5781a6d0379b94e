"""The name of a step follows from what it does, and from nothing else."""

from pathlib import Path

import pytest

from robustctl.study import cells
from robustctl.study.cells import Evaluation, StudyPlan
from robustctl.study.schema import Study
from robustctl.yaml_faults import Key


def plan(**keys: object) -> StudyPlan:
    faults: list[tuple[Key, str]] = []
    made = cells.plan(Study.model_validate(keys), lambda key, text: faults.append((key, str(text))))
    assert not faults
    return made


SMALL = {"models": ["digits-linf"], "recipes": ["e-at", "avg"], "seeds": [0, 1]}


def test_every_combination_is_trained_once_and_evaluated_once_per_protocol_and_union() -> None:
    unions = [{"linf": "0.1"}, {"linf": "0.15", "l1": "1.4"}]
    made = plan(**SMALL, threats=unions, protocols=["fast", "standard"])
    assert len(made.trainings) == 4 and len({one.name for one in made.trainings}) == 4
    assert len(made.evaluations) == 4 * 2 * 2 and len({one.name for one in made.evaluations}) == 16


def test_a_training_has_one_name_in_every_study() -> None:
    first = {one.name for one in plan(**SMALL).trainings}
    larger = {one.name for one in plan(**{**SMALL, "seeds": [1, 0, 2], "n": 10, "protocols": "fast"}).trainings}
    assert first < larger
    changed = {one.name for one in plan(**SMALL, set={"train.epochs": 3}).trainings}
    assert not first & changed


def test_one_recipe_under_two_names_is_trained_once() -> None:
    assert len(plan(models="digits-linf", recipes=["e-at", "digits/e-at"]).trainings) == 1


def test_the_model_as_it_is_is_evaluated_and_not_trained() -> None:
    made = plan(models="digits-linf", recipes=["start"], protocols="fast")
    assert not made.trainings and made.evaluations[0].method == "start"
    assert made.evaluations[0].arguments("cpu")[:4] == ["eval", "digits-linf", "--attack", "fast"]


def test_the_arguments_of_an_evaluation_say_the_radii_the_images_and_the_result() -> None:
    data = {"source": "digits", "split": "test", "n": 20}
    one: Evaluation = plan(**SMALL, data=data, threats={"l1": "1.4", "linf": "0.15"}).evaluations[0]
    said = " ".join(one.arguments("cuda:1"))
    assert "--norms linf,l1 --eps linf:0.15,l1:1.4 --data digits --split test --n 20" in said
    assert said.endswith(f"--device cuda:1 --json {one.result}")


def test_a_model_directory_with_other_weights_is_another_start(tmp_path: Path, conv_model, conv_spec) -> None:
    from robustctl import checkpoint

    checkpoint.save_model(conv_model, conv_spec, tmp_path)
    asked = {"models": str(tmp_path), "recipes": "e-at"}
    before = plan(**asked).trainings[0].name
    assert plan(**asked).trainings[0].name == before
    for parameter in conv_model.parameters():
        parameter.data += 1
    checkpoint.save_model(conv_model, conv_spec, tmp_path)
    assert plan(**asked).trainings[0].name != before


@pytest.mark.parametrize(
    ("keys", "key", "said"),
    [
        ({"models": ["digits-linf", "digits-l"]}, ("models", 1), "unknown model"),
        ({"models": "digits-linf", "recipes": ["e-at", "e"]}, ("recipes", 1), "unknown recipe"),
        ({"architectures": ["kw-smal"]}, ("architectures", 0), "kw-small"),
        ({"architectures": ["kw-small"], "recipes": ["start"]}, ("recipes", 0), "no weights"),
        ({"models": "digits-linf", "recipes": "e-at", "set": {"train.epoch": 1}}, ("set", "train.epoch"), "'epochs'"),
    ],
)
def test_what_is_wrong_is_told_at_its_key(keys: dict[str, object], key: Key, said: str) -> None:
    faults: dict[Key, str] = {}
    cells.plan(Study.model_validate(keys), lambda key, text: faults.update({key: str(text)}))
    assert said in faults[key]
