from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import robustctl
from robustctl import data, runs
from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.threats import Threat
from robustctl.workflows.evaluate_given import Threats, parse_threats


@pytest.fixture
def few() -> ImageData:
    return data.load("digits", "test", 12)


@pytest.fixture
def bundled() -> Classifier:
    return robustctl.load_model("digits-linf")


def test_a_module_gets_the_verdicts_of_the_same_model_by_name(few: ImageData, bundled: Classifier) -> None:
    by_name = robustctl.evaluate("digits-linf", n=12, protocol="fast")
    given = robustctl.evaluate(
        bundled.train(), few.images(range(12)), few.y, threats="linf:0.15,l2:0.45,l1:1.4", protocol="fast"
    )
    assert given.points == by_name.points
    assert bundled.training
    assert robustctl.evaluate("digits-linf", few.x, few.y, protocol="fast").points == by_name.points


def test_only_what_is_named_leaves_files(few: ImageData, bundled: Classifier, tmp_path: Path) -> None:
    robustctl.evaluate(bundled, few.x, few.y, threats="linf:0.1", protocol="fast")
    assert not runs.root().exists()
    store = tmp_path / "new" / "verdicts.sqlite"
    first = robustctl.evaluate(bundled, few.x, few.y, threats="linf:0.1", protocol="fast", store=store)
    assert store.is_file()
    again = robustctl.evaluate(bundled, few.x, few.y, threats="linf:0.1", protocol="fast", store=str(store))
    assert again.points == first.points and again.seconds >= first.seconds
    robustctl.evaluate("digits-linf", n=12, threats="linf:0.1", protocol="fast")
    assert len(list((runs.root() / "eval" / "digits-linf").glob("*.json"))) == 1


def test_other_processes_of_torchrun_have_no_part_in_it(
    few: ImageData, bundled: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    assert robustctl.evaluate(bundled, few.x, few.y, threats="linf:0.1", protocol="fast").data.n == 12


class Slice(nn.Module):
    """Has no parameters and no buffers."""

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1)[:, :10]


def test_a_module_without_parameters_is_evaluated(few: ImageData) -> None:
    y = Slice()(few.images(range(12))).argmax(dim=1)
    result = robustctl.evaluate(Slice(), few.x, y, threats="linf:0.5", protocol="fast")
    assert result.clean.acc == 1 and result.union.acc < 1
    assert result.model == "Slice"


def test_intermediate_q_of_a_module(few: ImageData, bundled: Classifier) -> None:
    asked = {"distribution": "linf:0.1", "qs": [1, 10], "samples": 40, "n": 2}
    given = robustctl.evaluate_intermediate(bundled, few.x, few.y, **asked)
    assert given.estimates == robustctl.evaluate_intermediate("digits-linf", **asked).estimates


@pytest.mark.parametrize(
    "threats", ["l2:0.5,linf:8/255", ["l2:0.5", Threat.parse("linf:8/255")], {"l2": 0.5, "linf": "8/255"}], ids=str
)
def test_threats_are_written_in_several_ways(threats: Threats) -> None:
    assert parse_threats(threats) == (Threat.of("linf", "8/255"), Threat.of("l2", "0.5"))


@pytest.mark.parametrize("threats", ["linf:0.1,linf:0.2", [], "l3:1", {"linf": "x"}], ids=str)
def test_wrong_threats_are_refused(threats: Threats) -> None:
    with pytest.raises(RequestError):
        parse_threats(threats)


def test_a_call_that_lacks_something_says_what(few: ImageData, bundled: Classifier) -> None:
    with pytest.raises(RequestError, match="usual radii"):
        robustctl.evaluate(bundled, few.x, few.y)
    with pytest.raises(RequestError, match="what to evaluate on"):
        robustctl.evaluate(bundled, threats="linf:0.1")
    with pytest.raises(RequestError, match="go together"):
        robustctl.evaluate(bundled, few.x, threats="linf:0.1")
    with pytest.raises(RequestError, match="not both"):
        robustctl.evaluate(bundled, few.x, few.y, data="digits")
    with pytest.raises(RequestError, match=r"not in \[0, 1\]"):
        robustctl.evaluate(bundled, few.x.float() * 2 + 3, few.y, threats="linf:0.1")
    with pytest.raises(RequestError, match="outside the model's classes"):
        robustctl.evaluate(bundled, few.x, torch.full((12,), 10), threats="linf:0.1")


class Named(torch.utils.data.Dataset[tuple[Tensor, int]]):
    """The digits 3, 5 and 8 alone, numbered from 0 as torchvision numbers class folders."""

    classes = ("3", "5", "8")

    def __init__(self, images: ImageData) -> None:
        self.chosen = [i for i in range(len(images)) if str(int(images.y[i])) in self.classes]
        self.images = images

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, position: int) -> tuple[Tensor, int]:
        i = self.chosen[position]
        return self.images.images([i])[0], self.classes.index(str(int(self.images.y[i])))


def test_labels_of_a_data_set_with_names_become_the_models_own(bundled: Classifier) -> None:
    some = Named(data.load("digits", "test", 60))
    result = robustctl.evaluate("digits-linf", data=some, threats="linf:0.01", protocol="fast")
    assert set(result.points.label) == {3, 5, 8} and result.clean.acc > 0.8
    with pytest.raises(RequestError, match="has 3 classes .3, 5, 8., the model 10"):
        robustctl.evaluate(bundled, data=some, threats="linf:0.01", protocol="fast")
