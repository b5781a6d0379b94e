"""docs/code.md against the package: its tree, the functions of its journeys, and its examples, which run."""

import importlib
import re
import sys
from pathlib import Path

import code_map
import pytest
import torch
import yaml

from robustctl import attacks, checkpoint, geometry, losses, runs
from robustctl.models import find
from robustctl.oracle import Oracle
from robustctl.threats import Threat
from robustctl.training import methods

TEXT = code_map.PAGE.read_text()
RECIPE = code_map.ROOT / "recipes" / "digits" / "linf-at.yaml"


def _example(place: str) -> str:
    """The block of the page that is written to ``place``."""
    (block,) = re.findall(rf"^```\w+ {re.escape(place)}\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
    return block


def test_the_tree_names_every_module_and_nothing_else() -> None:
    found = code_map.BLOCK.search(TEXT)
    assert found is not None
    assert found.group() == code_map.drawn(), "run: python tests/support/code_map.py"


def test_a_phrase_is_the_beginning_of_its_docstring(tmp_path: Path) -> None:
    path = tmp_path / "file.py"
    path.write_text('"""Reads what He et al. have written. And more."""\n')
    assert code_map.phrase(path) == "Reads what He et al. have written"
    path.write_text(f'"""Reads files of all kinds (and {"more " * 20}). And more."""\n')
    assert code_map.phrase(path) == "Reads files of all kinds"


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(robustctl[\w.]*:[\w.]+)`", TEXT))))
def test_the_stops_of_the_journeys_exist(name: str) -> None:
    module, _, inside = name.partition(":")
    found = importlib.import_module(module)
    for part in inside.split("."):
        found = getattr(found, part)
    assert callable(found)


def test_there_are_four_journeys() -> None:
    journeys = TEXT.split("## Four journeys")[1].split("\n## ")[0].split("\n### ")[1:]
    assert len(journeys) == 4
    assert all(len(re.findall(r"`robustctl[\w.]*:", journey)) >= 5 for journey in journeys)


def test_the_attack_is_found_by_its_file_and_raises_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear_model: torch.nn.Module
) -> None:
    (tmp_path / "sign_steps.py").write_text(_example("robustctl/attacks/sign_steps.py"))
    monkeypatch.setattr(attacks.__spec__, "submodule_search_locations", [*attacks.__path__, str(tmp_path)])
    monkeypatch.setattr(attacks, "__path__", [*attacks.__path__, str(tmp_path)])
    assert "sign-steps" in attacks.names()
    run = attacks.for_evaluation("sign-steps", "linf")
    threat = Threat.of("linf", "0.1")
    x = torch.rand(5, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    with Oracle(linear_model) as oracle:
        y = oracle.logits(x).argmax(1)
        x_adv = run(oracle, x, y, threat, attacks.Settings(5, losses.ce, 0, []))
        assert (losses.ce(oracle.logits(x_adv), y) > losses.ce(oracle.logits(x), y)).all()
    assert (geometry.norm(x_adv.double() - x.double(), "linf") <= threat.eps).all()
    assert x_adv.min() >= 0 and x_adv.max() <= 1


def test_the_method_trains_by_a_recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from command import robust

    (tmp_path / "half_at.py").write_text(_example("robustctl/training/methods/half_at.py"))
    places = [*methods.__path__, str(tmp_path)]
    monkeypatch.setattr(methods.__spec__, "submodule_search_locations", places)
    monkeypatch.setattr(methods, "__path__", places)
    recipe = yaml.safe_load(RECIPE.read_text())
    recipe["method"] = {"name": "half-at", "clean": 0.3}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert robust("train", "kw-small", "--recipe", tmp_path / "recipe.yaml", "--max-steps", 2) == 0
    run = runs.newest()
    assert run is not None and run.read().recipe["method"] == recipe["method"]
    checkpoint.load_model(run.path)


def test_the_entry_is_found_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "entries").mkdir()
    (tmp_path / "entries" / "example-small.yaml").write_text(_example("robustctl/models/entries/example-small.yaml"))
    monkeypatch.setattr(find, "BUNDLED", tmp_path)
    found_model = find.find_model("example-small")
    assert found_model.entry is not None and not found_model.weights.exists()
    assert (found_model.spec.dataset, found_model.spec.norm, found_model.licence) == ("digits", "linf", "mit")


def teardown_module() -> None:
    """Forget the modules of the examples."""
    for name in ("robustctl.attacks.sign_steps", "robustctl.training.methods.half_at"):
        sys.modules.pop(name, None)
