"""Every attack's file declares it, documents list what there is, and nothing unknown ever runs."""

import inspect
import re
from pathlib import Path

import pytest
import torch
from torch import nn

from robustctl import attacks
from robustctl.attacks import Attack
from robustctl.cli import eval as eval_command
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.evaluation import protocols, reference
from robustctl.evaluation.families import run_family
from robustctl.evaluation.protocols import PROTOCOLS, Family
from robustctl.evaluation.row_scheduler import FamilyRun
from robustctl.evaluation.union import require_protocol
from robustctl.oracle import Oracle
from robustctl.threats import NORMS, Threat

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "attacks.md").read_text(encoding="utf-8")


def points(model: nn.Module, n: int = 6) -> ImageData:
    x = torch.rand(n, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return ImageData(x, model(x).argmax(1), 10, "made", "test", torch.arange(n))


def search_also(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the package of attacks have files in a second folder too."""
    places = [*attacks.__path__, str(folder)]
    monkeypatch.setattr(attacks, "__path__", places)
    monkeypatch.setattr(attacks.__spec__, "submodule_search_locations", places)


@pytest.mark.parametrize("name", attacks.names())
def test_every_file_declares_its_attack_in_a_function_of_its_own_name(name: str) -> None:
    attack = attacks.declared(name)
    module = __import__(f"robustctl.attacks.{name}", fromlist=[name])
    assert list(inspect.signature(getattr(module, name)).parameters)[:3] == ["oracle", "x", "y"]
    assert list(inspect.signature(getattr(module, name)).parameters)[3] in ("threat", "threats")
    if attack.run is not None:
        assert list(inspect.signature(attack.run).parameters) == ["oracle", "x", "y", "threat", "settings"]


def test_the_documents_table_is_what_the_files_declare() -> None:
    rows = [
        [cell.strip(" `") for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")
    ]
    assert [row[0] for row in rows] == attacks.names()
    for name, norms, cost, runs_on, purpose, _ in rows:
        attack = attacks.declared(name)
        assert norms == ", ".join(attack.norms)
        assert float(cost) == attack.cost
        assert runs_on == ("the model in float32" if attack.exact else "the fast copy")
        assert purpose == ("training only" if attack.run is None else "evaluation and training")


def test_the_help_of_eval_names_every_protocol() -> None:
    annotation = inspect.signature(eval_command.command).parameters["attack"].annotation
    help_text = str(annotation.__metadata__[0].help)
    assert set(re.findall(r"[a-z+]+", help_text)) >= {*PROTOCOLS, reference.NAME}


@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_family_of_every_protocol_can_be_run(protocol: str, norm: str) -> None:
    for family in protocols.families(protocol, norm):  # type: ignore[arg-type]
        assert attacks.for_evaluation(family.attack, norm) is not None  # type: ignore[arg-type]
        assert family.cost(10) > 0


@pytest.mark.parametrize(
    ("attack", "message"),
    [("sqare", "Did you mean 'square'"), ("pgd", "for training only"), ("", "unknown attack"), ("oracle", "unknown")],
)
def test_an_attack_that_cannot_be_run_is_refused_and_nothing_runs_in_its_place(
    attack: str, message: str, linear_model: nn.Module
) -> None:
    family = Family("x", "ce", 1, 0, 3, False, attack)
    with Oracle(linear_model) as oracle:
        run = FamilyRun(oracle, points(linear_model), Threat("linf", 0.1, "0.1"), family, seed=0, batch_size=3)
        proposals = run_family(run, range(3))
        with pytest.raises(RequestError, match=message):
            list(proposals)
        assert (oracle.forwards, oracle.gradients) == (0, 0)


def test_a_protocol_that_lacks_a_norm_or_names_an_unknown_attack_is_one_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(PROTOCOLS, "half", {"linf": PROTOCOLS["fast"]["linf"]})
    require_protocol("half", ["linf"])
    with pytest.raises(RequestError, match="--attack half has no attacks for l2; it has some for linf"):
        require_protocol("half", ["linf", "l2"])
    monkeypatch.setitem(PROTOCOLS, "odd", {"linf": (Family("a", "ce", 1, 0, 3, False, "nothing"),)})
    with pytest.raises(RequestError, match="unknown attack 'nothing'"):
        require_protocol("odd", ["linf"])


def test_a_file_without_a_declaration_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "undeclared.py").write_text("def undeclared(): ...\n", encoding="utf-8")
    search_also(tmp_path, monkeypatch)
    with pytest.raises(RequestError, match="declares no ATTACK"):
        attacks.declared("undeclared")


def test_an_attack_s_declaration_makes_sense() -> None:
    with pytest.raises(ValueError, match="costs something"):
        Attack(None, cost=0)
    with pytest.raises(ValueError, match="has a norm"):
        Attack(None, cost=1, norms=())


def test_one_file_adds_an_attack_as_the_documents_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, linear_model: nn.Module
) -> None:
    (tmp_path / "corners.py").write_text(re.findall(r"```python\n(.*?)```", PAGE, re.S)[0], encoding="utf-8")
    search_also(tmp_path, monkeypatch)
    assert "corners" in attacks.names()
    family = eval(re.search(r"`(Family\(\"corners.*?\))`", PAGE).group(1))  # type: ignore[union-attr]
    monkeypatch.setitem(PROTOCOLS, "corners", {"linf": (family,)})
    require_protocol("corners", ["linf"])
    data = points(linear_model)
    with Oracle(linear_model) as oracle:
        proposals = list(run_family(FamilyRun(oracle, data, Threat("linf", 0.5, "0.5"), family, 0, 4), range(6)))
    assert sorted(position for one in proposals for position in one.positions) == list(range(6))
    x_adv = torch.cat([one.x_adv for one in proposals])
    assert (linear_model(x_adv).argmax(1) != data.y).any()
    with pytest.raises(RequestError, match="cannot do l2"):
        attacks.for_evaluation("corners", "l2")
