"""What a recipe reports as data is what its header says in words."""

import pytest

from robustctl.recipe import read as recipes

WITH_ROWS = [name for name in recipes.names() if recipes.load(name).settings.reported]


@pytest.mark.parametrize("name", WITH_ROWS)
def test_every_reported_row_stands_in_the_header(name: str) -> None:
    recipe = recipes.load(name)
    header = " ".join(recipe.path.read_text().replace("#", " ").split())
    for row in recipe.settings.reported:
        figures = [row.clean, row.linf, row.l2, row.l1, row.union]
        assert " / ".join(f"{value:.1f}" for value in figures if value is not None) in header


def test_a_recipe_that_stands_on_another_does_not_inherit_its_rows() -> None:
    assert len(WITH_ROWS) > 30
    own = {name: recipes.load(name).settings.reported for name in WITH_ROWS}
    assert own["cifar10/ramp"] and not recipes.load("digits/ramp").settings.reported
    assert own["cifar10/ramp-extra"] != own["cifar10/ramp"]


def test_rows_of_a_paper_do_not_make_another_training() -> None:
    old = recipes.load("cifar10/ramp").resolved()
    assert recipes.differences({**old, "reported": []}, old) == []
