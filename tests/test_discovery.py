import sys
from pathlib import Path

import pytest

from robustctl import discovery
from robustctl.errors import RequestError


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    folder = tmp_path / "zoo_under_test"
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "red_panda.py").write_text("LEGS = 4\n")
    (folder / "zebra.py").write_text("raise RuntimeError('imported')\n")
    (folder / "_hidden.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    yield folder.name
    for name in [name for name in sys.modules if name.startswith(folder.name)]:
        del sys.modules[name]


def test_names_lists_public_modules_without_importing_them(package: str) -> None:
    assert discovery.names(package) == ["red-panda", "zebra"]
    assert f"{package}.zebra" not in sys.modules


def test_load_imports_the_module_behind_a_name(package: str) -> None:
    assert discovery.load(package, "red-panda", "animal").LEGS == 4


def test_an_unknown_name_is_answered_with_the_nearest_and_the_list(package: str) -> None:
    with pytest.raises(RequestError) as caught:
        discovery.load(package, "zebrra", "animal")
    assert str(caught.value) == "unknown animal 'zebrra'. Did you mean 'zebra'? Available: red-panda, zebra."


def test_a_far_name_gets_no_suggestion() -> None:
    assert discovery.did_you_mean("qqq", ["linf", "l2"]) == ""


def test_an_empty_list_is_said_to_be_empty() -> None:
    assert str(discovery.unknown("run", "x", [])) == "unknown run 'x'. Available: none."
