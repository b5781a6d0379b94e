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


@pytest.fixture
def own(private_home: Path) -> Path:
    """The user's folder of architectures."""
    folder = private_home / "models" / "architectures"
    folder.mkdir(parents=True)
    return folder


def test_own_files_are_found_like_shipped_ones(own: Path) -> None:
    (own / "my_net.py").write_text("def build(n_classes, input_shape): ...\n")
    (own / "_helper.py").write_text("raise SystemExit\n")
    assert "my-net" in discovery.names("robustctl.architectures")
    assert "helper" not in " ".join(discovery.names("robustctl.architectures"))
    assert discovery.load("robustctl.architectures", "my-net", "architecture").__file__ == str(own / "my_net.py")
    assert "my-net" not in discovery.names("robustctl.attacks")


def test_an_own_file_cannot_take_a_shipped_name_and_its_faults_are_told(own: Path) -> None:
    (own / "resnet.py").write_text("")
    with pytest.raises(RequestError, match="rename the file"):
        discovery.load("robustctl.architectures", "resnet", "architecture")
    (own / "bad.py").write_text("import no_such_package\n")
    with pytest.raises(RequestError, match=r"bad\.py fails with ModuleNotFoundError"):
        discovery.load("robustctl.architectures", "bad", "architecture")
