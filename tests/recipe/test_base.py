"""Recipes with a ``base``: what is joined, what is replaced, and that the whole text means the same."""

from pathlib import Path

import pytest

from robustctl.errors import RequestError
from robustctl.recipe import base
from robustctl.recipe import read as recipe

OWN = "# my header\nbase: cifar10/avg\nmethod: {name: max}\ntrain: {epochs: 7, threats: {linf: 4/255, l1: 9}}\n"


def write(tmp_path: Path, text: str, name: str = "mine.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text)
    return path


def load(path: Path, *overrides: str) -> recipe.Recipe:
    return recipe.load(str(path), overrides)


def based() -> list[str]:
    return [name for name in recipe.names() if "\nbase: " in recipe.find(name).read_text()]


def test_own_keys_replace_those_of_the_base(tmp_path: Path) -> None:
    found, avg = load(write(tmp_path, OWN)).resolved(), recipe.load("cifar10/avg").resolved()
    assert recipe.differences(avg, found)
    assert found["method"]["name"] == "max" and found["train"]["epochs"] == 7
    assert set(found["train"]["threats"]) == {"linf", "l1"}, "a value is replaced whole"
    assert found["train"]["batch_size"] == avg["train"]["batch_size"], "a block is joined key by key"
    assert found["attack"] == avg["attack"]


def test_block_of_another_name_replaces_the_whole_block() -> None:
    joined = base.merged({"schedule": {"name": "piecewise", "at": [70]}}, {"schedule": {"name": "cosine"}})
    assert joined == {"schedule": {"name": "cosine"}}
    joined = base.merged({"schedule": {"name": "piecewise", "at": [70], "by": 0.1}}, {"schedule": {"at": [5]}})
    assert joined == {"schedule": {"name": "piecewise", "at": [5], "by": 0.1}}
    assert base.merged({"outer": {"name": "trades"}, "a": None}, {"outer": None}) == {"a": None}


def test_overrides_come_last(tmp_path: Path) -> None:
    assert load(write(tmp_path, OWN), "train.epochs=9", "optim.lr=0.5").settings.train.epochs == 9


def test_base_may_be_a_file_beside_the_recipe(tmp_path: Path) -> None:
    write(tmp_path, recipe.written(recipe.find("cifar10/avg")), "other.yaml")
    assert load(write(tmp_path, OWN.replace("cifar10/avg", "other.yaml"))).settings.train.epochs == 7


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("base: cifar10/max", "has a base itself"),
        ("base: cifar10/avgg", "Did you mean 'cifar10/avg'"),
        ("base: 3", "give the name of a recipe"),
        ("base: other.yaml", "no recipe file"),
        ("base: mine.yaml", "has a base itself|base"),
    ],
)
def test_base_that_is_none_is_one_message(tmp_path: Path, line: str, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        load(write(tmp_path, OWN.replace("base: cifar10/avg", line)))


def test_faults_are_told_by_the_line_of_the_file_that_has_them(tmp_path: Path) -> None:
    write(tmp_path, recipe.written(recipe.find("cifar10/avg")).replace("epochs: 3", "epochs: none"), "other.yaml")
    mine = write(tmp_path, "# h\nbase: other.yaml\ntrain: {batch_size: few}\n")
    with pytest.raises(RequestError) as caught:
        load(mine)
    assert "line 3: train.batch_size" in str(caught.value) and "other.yaml, line " in str(caught.value)


@pytest.mark.parametrize("name", based())
def test_whole_text_of_a_shipped_recipe_means_the_same(name: str, tmp_path: Path) -> None:
    text = recipe.written(recipe.find(name))
    assert "\nbase:" not in text and text.startswith(base.header(recipe.find(name).read_text()))
    assert load(write(tmp_path, text)).resolved() == recipe.load(name).resolved()


def test_recipes_of_a_data_set_without_a_base_differ_in_more_than_two_keys() -> None:
    resolved = {name: recipe.load(name).resolved() for name in recipe.names()}
    bases = {name: recipe.find(name).read_text().partition("\nbase: ")[2].partition("\n")[0] for name in resolved}
    written_again = [
        f"{name} and {sibling} differ in {', '.join(keys)}"
        for name, mine in resolved.items()
        for sibling, theirs in resolved.items()
        if name < sibling and mine["dataset"] == theirs["dataset"] and not bases[name] + bases[sibling]
        if len(keys := recipe.differences(mine, theirs)) <= 2
    ]
    assert not written_again


def test_some_recipes_stand_on_a_sibling() -> None:
    assert len(based()) > 30
    assert {recipe.load(name).settings.dataset for name in based()} == {"cifar10", "digits", "mnist", "imagenet"}
