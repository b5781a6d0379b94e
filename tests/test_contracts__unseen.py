"""docs/unseen.md against the package: its table of kinds, its suite, and the kind that it adds."""

import re
import sys
from pathlib import Path

import pytest
import torch
from command import robust

from robustctl import suites
from robustctl.perturbations import base, kinds
from robustctl.perturbations.base import find, names

TEXT = (Path(__file__).parents[1] / "docs" / "unseen.md").read_text()


def test_the_table_has_every_kind_as_it_declares_itself() -> None:
    rows = [row.split(" | ") for row in re.findall(r"^\| `([\w-]+` \| .*) \|$", TEXT, re.MULTILINE)]
    found = {row[0].strip("`"): row[1:] for row in rows if len(row) == 5}
    expected = {}
    for name in names():
        kind = find(name)
        usual = ", ".join(filter(None, [kind.usual, kind.usual_digits]))
        expected[name] = [kind.unit, usual, ", ".join(kind.families()), kind.source]
    assert found == expected


def test_the_table_of_suites_is_whole() -> None:
    assert set(re.findall(r"^\| `(\w+)` \| [^|]* \|$", TEXT, re.MULTILINE)) == set(suites.names())


@pytest.mark.parametrize(("name", "dataset", "members"), [("mine", "digits", 4), ("table4", "cifar10", 6)])
def test_its_suites_can_be_read(tmp_path: Path, name: str, dataset: str, members: int) -> None:
    (block,) = re.findall(rf"```yaml\n(# {name}\.yaml.*?)```", TEXT, re.DOTALL)
    (tmp_path / f"{name}.yaml").write_text(block)
    assert len(suites.load(str(tmp_path / f"{name}.yaml"))[1].members(dataset)) == members


@pytest.mark.slow
def test_its_study_has_no_faults_beside_the_model_and_data_of_the_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```yaml\n(# six\.yaml.*?)```", TEXT, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    here = block.replace("cifar10-wrn10-1-linf", "digits-linf").replace("data: quarter\n", "")
    Path("six.yaml").write_text(here.replace("optim.lr.wide-resnet: 0.05, ", ""))
    assert robust("study", "six.yaml", "--dry-run") == 0
    assert capsys.readouterr().out.count("finetune digits-linf") == 6


def test_its_kind_is_found_by_its_file_and_breaks_points(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
    (tmp_path / "exposure.py").write_text(block)
    places = [*kinds.__path__, str(tmp_path)]
    monkeypatch.setattr(kinds.__spec__, "submodule_search_locations", places)
    monkeypatch.setattr(kinds, "__path__", places)
    try:
        kind = base.find("exposure")
        x, z = torch.full((1, 1, 8, 8), 0.5), torch.tensor([[0.25]])
        assert torch.equal(kind.render(x, z), torch.full((1, 1, 8, 8), 0.75))
        assert robust("eval", "digits-linf", "--threat", "exposure:0.6", "-n", 20, "--attack", "fast") == 0
        assert "exposure:0.6 (change of every pixel in [0,1]): broken by" in capsys.readouterr().out
    finally:
        sys.modules.pop("robustctl.perturbations.kinds.exposure", None)
