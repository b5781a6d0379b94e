"""Curves from the command line: exact on a linear model, not contradicted by fixed radii, resumed after a kill."""

import importlib.util
import json
import os
from operator import ge, le
from pathlib import Path

import numpy as np
import pytest
import torch
from command import robust

from robustctl.errors import RequestError
from robustctl.evaluation.curve import cost
from robustctl.evaluation.store import Store
from robustctl.results import curve as curves
from robustctl.results import suite as suites
from robustctl.results import union

ON = ("digits-linf", "--data", "digits", "-n", 5)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch) -> Path:
    """Every evaluation writes into a folder of its own."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def curve(*more: object, on: tuple[object, ...] = ON) -> curves.CurveResult:
    assert robust("eval", *on, "--curve", "--json", "curve.json", *more) == 0
    return curves.read(Path("curve.json"))


def fixed(eps: str) -> union.UnionResult:
    arguments = ("--attack", "fast", "--precision", "float32", "--norms", "linf", "--eps", f"linf={eps}")
    assert robust("eval", *ON, *arguments, "--json", "fixed.json") == 0
    return union.read(Path("fixed.json"))


def test_distances_of_a_linear_model_are_exact(tmp_path) -> None:
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "def build():\n"
        "    with torch.random.fork_rng():\n"
        "        torch.manual_seed(0)\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(64, 4))\n"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(64, 4)
    x = 0.4 + 0.2 * torch.rand(12, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        scores = layer(x.flatten(1))
    y = scores.argmax(1)
    np.savez("images.npz", x=x.numpy(), y=y.numpy())
    on = ("--model-code", "net.py:build", "--data", "images.npz", "--split", "all")
    result = curve("--eps", "linf=0.02,l2=0.15,l1=0.6", on=on)
    for norm, dual in (("linf", 1), ("l2", 2), ("l1", torch.inf)):
        slopes = torch.linalg.vector_norm(layer.weight[None] - layer.weight[y][:, None], dual, dim=2)
        gaps = (scores.gather(1, y[:, None]) - scores) / slopes.detach()
        exact = torch.where(torch.arange(4) == y[:, None], torch.inf, gaps).amin(1).tolist()
        found = result.norms[norm].distance  # type: ignore[index]
        reach = 0.35 if norm == "l1" else torch.inf  # from there on the box cuts l_1's single pixel
        compared = 0
        for one, size in zip(found, exact, strict=True):
            if size < min(result.norms[norm].bound, reach):  # type: ignore[index]
                assert one is not None and size * (1 - 1e-4) <= one <= size * 1.03, norm
                compared += 1
        assert compared >= 3, norm


def test_a_curve_and_fixed_radii_never_contradict_each_other() -> None:
    before = fixed("0.14")
    result = curve("--norms", "linf", "--eps", "linf=0.15", "--up-to", 2)
    assert all(map(le, result.norms["linf"].robust(0.14), before.points.robust["linf"]))
    for eps in ("0.2",):
        after = fixed(eps)
        assert all(map(ge, result.norms["linf"].robust(float(eps)), after.points.robust["linf"]))
        merged = result.with_verdicts(after)
        assert merged.norms["linf"].robust(float(eps)) == after.points.robust["linf"]
        assert not merged.below(after)
    smaller, larger = fixed("0.16").points.robust["linf"], fixed("0.17").points.robust["linf"]
    assert all(map(ge, smaller, larger))


def test_a_curve_falls_from_the_clean_accuracy_and_the_union_is_below_each_norm() -> None:
    result = curve("--norms", "linf,l2", "-n", 5)
    assert result.norms["linf"].at(0).n_correct == 5
    for scales in ((0, 0.5), (0.5, 1), (1, 2), (2, 3)):
        for one in result.norms.values():
            low, high = (one.robust(scale * one.eps) for scale in scales)
            assert all(map(ge, low, high))
        assert result.union(scales[1]).n_correct <= min(
            one.at(scales[1] * one.eps).n_correct for one in result.norms.values()
        )
    assert curve("--norms", "linf,l2", "-n", 5).norms == result.norms


def test_a_killed_curve_goes_on_and_ends_the_same(monkeypatch, tmp_path) -> None:
    whole = curve("--norms", "l1")
    monkeypatch.setenv("ROBUSTCTL_RUNS", str(tmp_path / "other"))
    add, calls = Store.add, []

    def stop(self: Store, *arguments: object) -> None:
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        add(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Store, "add", stop)
    for _ in range(2):  # among the descents, then in the bisection
        calls.clear()
        assert robust("eval", *ON, "--curve", "--norms", "l1") == 130
    monkeypatch.setattr(Store, "add", add)
    assert curve("--norms", "l1").norms["l1"].distance == whole.norms["l1"].distance


def test_several_curves_and_a_fixed_result_are_drawn_and_compared(capsys) -> None:
    fixed("0.15")
    curve("--norms", "linf", "-n", 5)
    content = json.loads(Path("curve.json").read_text())
    one = content["norms"]["linf"]
    one["distance"] = [size and size / 2 for size in one["distance"]]
    one["median"], one["area"] = curves.median_of(one["distance"]), curves.area_of(one["distance"], one["bound"])
    content["weights_sha256"] = "0" * 64
    Path("weaker.json").write_text(json.dumps(content))
    capsys.readouterr()
    arguments = ("curve.json", "weaker.json", "fixed.json", "--label", "strong", "--label", "weak")
    assert robust("plot", "curve", *arguments, "-o", "picture.png") == 0
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    ratios = next(line for line in shown.splitlines() if line.startswith("linf CR-avg")).split()
    assert ratios[2] == "100.0" and float(ratios[3]) < 100


def test_competitiveness_is_the_ratio_to_the_best() -> None:
    assert curves.competitiveness([0.5, 0.2, 0.0], [0.5, 0.4, 0.0]) == pytest.approx((75.0, 50.0))
    assert curves.median_of([0.1, None, None]) is None and curves.median_of([0.1, 0.2, None]) == 0.2
    assert curves.area_of([0.0, 0.5, None], 1.0) == pytest.approx(0.5)


def test_a_curve_that_was_edited_is_refused() -> None:
    curve("--norms", "linf", "-n", 4)
    content = json.loads(Path("curve.json").read_text())
    for change in (
        lambda one: one.update(median=0.01),
        lambda one: one["distance"].pop(),
        lambda one: one["distance"].__setitem__(0, 99.0),
    ):
        edited = json.loads(json.dumps(content))
        change(edited["norms"]["linf"])
        Path("edited.json").write_text(json.dumps(edited))
        with pytest.raises(RequestError, match="distance"):
            curves.read(Path("edited.json"))


@pytest.mark.parametrize("norm", ["linf", "l1"])
def test_an_image_costs_no_more_gradients_than_was_said(norm) -> None:
    n = 20
    found = curve("--norms", norm, on=("digits-linf", "--data", "digits", "-n", n))
    assert 0 < found.norms[norm].evaluations <= n * cost(norm)


def linear_data(tmp_path: Path, body: str = "nn.Linear(64, 4)") -> tuple[tuple[object, ...], torch.nn.Linear]:
    """Arguments of an evaluation of a random linear model on images that it gets right, and its layer."""
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Steps(nn.Module):\n"
        "    def forward(self, x):\n"
        "        return torch.round(1000 * x)\n"
        "def build():\n"
        "    with torch.random.fork_rng():\n"
        "        torch.manual_seed(0)\n"
        f"        return nn.Sequential(nn.Flatten(), {body})\n"
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = torch.nn.Linear(64, 4)
    x = torch.rand(8, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        y = layer(x.flatten(1)).argmax(1)
    np.savez("images.npz", x=x.numpy(), y=y.numpy())
    return ("--model-code", "net.py:build", "--data", "images.npz", "--split", "all"), layer


def fewest(layer: torch.nn.Linear) -> list[int]:
    """How many pixels of the box change a linear model's answer, by image: the best pixels go to their best ends."""
    with np.load("images.npz") as file:
        x, y = torch.from_numpy(file["x"]).flatten(1), torch.from_numpy(file["y"])
    least = []
    with torch.no_grad():
        for image, label in zip(x, y, strict=True):
            counts = []
            for other in range(4):
                slope = layer.weight[other] - layer.weight[label]
                gap = layer(image)[label] - layer(image)[other]
                gains = torch.maximum(slope * (1 - image), -slope * image).sort(descending=True).values.cumsum(0)
                if other != label:
                    counts.append(int((gains <= gap).sum()) + 1)
            least.append(min(counts))
    return least


def test_the_fewest_pixels_of_a_linear_model_are_exact(tmp_path) -> None:
    on, layer = linear_data(tmp_path)
    result = curve("--eps", "l0=4", "--up-to", 5, on=on)
    assert result.norms["l0"].distance == fewest(layer)
    assert len(set(fewest(layer))) > 2


def test_few_pixels_on_a_curve_and_at_a_fixed_number_never_contradict_each_other() -> None:
    assert robust("eval", *ON, "--threat", "l0:2", "--attack", "fast", "--json", "few.json") == 0
    few = suites.read(Path("few.json")).points.robust["l0:2"]
    distance = curve("--norms", "l0", "--up-to", 4).norms["l0"].distance
    assert all(map(le, [int(one is None or one > 2) for one in distance], few))
    store = next(Path(os.environ["ROBUSTCTL_RUNS"]).glob("eval/digits-linf/threats/l0-*.sqlite"))
    store.unlink()
    for pixels in (1, 2, 3):
        assert robust("eval", *ON, "--threat", f"l0:{pixels}", "--attack", "fast", "--json", "few.json") == 0
        after = suites.read(Path("few.json")).points.robust[f"l0:{pixels}"]
        assert all(map(ge, [int(one is None or one > pixels) for one in distance], after))


@pytest.mark.skipif(importlib.util.find_spec("foolbox") is None, reason="foolbox is an extra")
def test_attacks_that_see_classes_alone_check_the_others_and_stand_in_for_them(tmp_path, capsys) -> None:
    on, _ = linear_data(tmp_path)
    arguments = ("--eps", "linf=0.05,l1=1,l0=2", "--up-to", 20)
    both = curve(*arguments, "--decision", "-n", 2, on=on)
    capped = capsys.readouterr().out
    for one in both.norms.values():
        assert one.decision is not None
        for near, alone in zip(one.distance, one.decision, strict=True):
            assert near is not None and alone is not None and near <= alone <= 4 * near
    assert "predicted classes alone: median" in capped
    without, _ = linear_data(tmp_path, "Steps(), nn.Linear(64, 4)")
    found = curve("--eps", "l2=0.3,l0=2", "--up-to", 20, "-n", 1, on=without)
    assert any(flag.startswith("zero-gradient") for flag in found.flags)
    assert all(one is not None for curve in found.norms.values() for one in curve.distance)
    assert set(found.norms["l2"].by) <= {"hop-skip-jump", "boundary"}


def test_without_foolbox_what_needs_it_is_refused(monkeypatch, capsys) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert robust("eval", *ON, "--curve", "--decision") == 2
    assert "pip install" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["eval", *ON, "--curve", "--norms", "linf", "--eps", "l0=3"], "leaves out"),
        (["eval", *ON, "--curve", "--norms", "linf,l3"], "Available: l0, l1, l2, linf"),
        (["eval", *ON, "--curve", "--eps", "l0=3,l0=4"], "twice"),
        (["eval", *ON, "--curve", "--eps", "l0=1.5"], "whole"),
        (["eval", *ON, "--curve", "--eps", "l0=64"], "every pixel"),
        (["eval", *ON, "--decision"], "--decision is read with --curve"),
        (["eval", *ON, "--curve", "--suite", "unseen"], "give one"),
        (["eval", *ON, "--curve", "--attack", "fast"], "--attack is not read with --curve"),
        (["eval", *ON, "--up-to", "2"], "--up-to is read with --curve"),
        (["eval", *ON, "--curve", "--up-to", "0.5"], "at least 1"),
        (["plot", "curve", "nothing.json", "-o", "p.png"], "no result file"),
        (["plot", "curve", "nothing.json", "-o", "there/p.png"], "no directory"),
    ],
)
def test_wrong_requests_are_refused(arguments, message, capsys) -> None:
    assert robust(*arguments) == 2
    assert message in capsys.readouterr().err
