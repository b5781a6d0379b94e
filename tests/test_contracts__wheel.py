"""What an installed robustctl brings along."""

from importlib.metadata import distribution
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """The files of the installed package; there are none where it is installed as a link to this checkout."""
    files = {str(path) for path in distribution("robustctl").files or []}
    if "robustctl/__init__.py" not in files:
        pytest.skip("robustctl is installed in editable mode, not from a wheel")
    return files


def test_every_recipe_ships_in_the_wheel(installed: set[str]) -> None:
    recipes = {f"robustctl/{path.relative_to(ROOT)}" for path in (ROOT / "recipes").rglob("*.yaml")}
    assert recipes
    assert recipes <= installed


def test_bundled_entries_and_weights_ship_in_the_wheel(installed: set[str]) -> None:
    bundled = {str(path.relative_to(ROOT)) for path in (ROOT / "robustctl").rglob("*") if path.suffix != ".py"}
    wanted = {path for path in bundled if path.endswith((".yaml", ".safetensors", "py.typed", ".html", ".css"))}
    assert "robustctl/models/weights/digits-linf.safetensors" in wanted
    assert wanted <= installed


def test_the_wheel_brings_its_licence_and_its_command(installed: set[str]) -> None:
    package = distribution("robustctl")
    assert [entry.value for entry in package.entry_points if entry.name == "robustctl"] == ["robustctl.cli:main"]
    assert package.metadata["License-Expression"] == "Apache-2.0"
    assert any(path.endswith("licenses/LICENSE") for path in installed)
