"""Every entry takes part in dry runs without its weights: all that its spec decides is checked (``pytest -m zoo``)."""

import pytest
from command import robust

from robustctl.models import entry as entries
from robustctl.models.find import BUNDLED

pytestmark = pytest.mark.zoo
ENTRIES = sorted(path.stem for path in (BUNDLED / "entries").glob("*.yaml") if path.stem != "digits-linf")
RADII = "linf:8/255,l2:0.5,l1:12"
RECIPES = {"cifar10": "e-at", "imagenet": "e-at", "mnist": "e-at"}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.parametrize("name", ENTRIES)
def test_an_evaluation_is_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = "uoft-cs/cifar10"  # of the hub, which is not asked; the images of some data sets have no usual place
    assert robust("eval", name, "--eps", RADII, "--data", source, "--dry-run") == 1
    said = capsys.readouterr().err
    parameters = entries.read(BUNDLED / "entries" / f"{name}.yaml").parameters
    assert f"robustctl pull {name}" in said and "nothing was started" in said
    assert parameters is None or f"{parameters:,} parameters" in said


@pytest.mark.parametrize("name", ENTRIES)
def test_a_fine_tuning_is_planned(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    dataset = entries.read(BUNDLED / "entries" / f"{name}.yaml").spec.dataset
    if dataset not in RECIPES:
        pytest.skip(f"no recipe is shipped for {dataset}")
    assert robust("finetune", name, "--recipe", f"{dataset}/{RECIPES[dataset]}", "--data", "a/b", "--dry-run") == 1
    said = capsys.readouterr().err
    assert f"finetune {name} with recipe" in said and f"robustctl pull {name}" in said
