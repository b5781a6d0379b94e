import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from robustctl.cli import app
from robustctl.errors import RequestError
from robustctl.recipe import read as recipe


def call(*arguments: object) -> Result:
    result = CliRunner().invoke(app, ["recipes", *map(str, arguments)])
    if isinstance(result.exception, RequestError):
        raise result.exception
    return result


def test_list_shows_every_recipe_with_method_paper_and_cost() -> None:
    lines = call("list").stdout.splitlines()[1:]
    assert [line.split()[0] for line in lines] == recipe.names()
    assert all(" | " in line for line in lines)
    assert {line.split("/")[0] for line in call("list", "--dataset", "mnist").stdout.splitlines()[1:]} == {"mnist"}
    assert {line.split()[1] for line in call("list", "--method", "ramp").stdout.splitlines()[1:]} == {"ramp"}


def test_copy_gives_a_recipe_that_validates_and_never_overwrites(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    call("copy", "cifar10/e-at", mine)
    assert mine.read_text() == call("show", "cifar10/e-at").stdout
    out = call("validate", mine, "--set", "optim.lr=0.3").stdout
    assert "is valid" in out and "assumption holds" in out and "0.6138" in out
    mine.write_text("changed")
    with pytest.raises(RequestError, match="is there already"):
        call("copy", "cifar10/e-at", mine)
    assert mine.read_text() == "changed"


def test_copy_to_a_place_that_is_not_writable_says_so(tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    tmp_path.chmod(0o500)
    assert "no permission" in str(call("copy", "cifar10/e-at", tmp_path / "mine.yaml").exception)


@pytest.mark.parametrize("command", ["show", "validate"])
def test_unknown_recipe_is_answered_with_the_nearest(command: str) -> None:
    with pytest.raises(RequestError, match="Did you mean 'cifar10/e-at'"):
        call(command, "cifar10/eat")


def test_validate_says_nothing_of_a_hull_where_the_image_size_is_unknown(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text((recipe.root() / "cifar10" / "e-at.yaml").read_text().replace("dataset: cifar10", "dataset: own"))
    assert "assumption" not in call("validate", mine).stdout
