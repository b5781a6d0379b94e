"""Attacks from outside: what is counted, what is caught, and that a broken point stays broken."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import robustctl
from robustctl import data, runs
from robustctl.architectures import Classifier, OwnClassifier
from robustctl.data import ImageData
from robustctl.errors import RequestError, RunError
from robustctl.evaluation.protocols import DEFAULT
from robustctl.results.union import UnionResult
from robustctl.workflows.outside_attacks import attack_of, parse_attacks, read_images

EPS = 0.15


@pytest.fixture(scope="module")
def model() -> Classifier:
    return robustctl.load_model("digits-linf")


@pytest.fixture(scope="module")
def images() -> ImageData:
    return data.load("digits", "test", 30)


Evaluate = Callable[..., UnionResult]


@pytest.fixture
def evaluate(model: Classifier, images: ImageData, tmp_path: Path) -> Evaluate:
    """A fast evaluation in l_inf with these attacks beside it."""

    def evaluate(*attacks: Any, **more: Any) -> UnionResult:
        asked: dict[str, Any] = {"threats": f"linf:{EPS}", "protocol": "fast", "store": tmp_path / "store.sqlite"}
        return robustctl.evaluate(model, images.x, images.y, attacks=attacks, **(asked | more))

    return evaluate


def fgsm(model: torch.nn.Module, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    x = x.requires_grad_(True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(model(x), y), x)
    return (x + eps * gradient.sign()).clamp(0, 1)


def ours(oracle: Any, x: Tensor, y: Tensor, threat: Any, *, steps: int = 3, generator: Any = None) -> Tensor:
    from robustctl.attacks.pgd import pgd

    assert len(generator) == len(x)
    return pgd(oracle, x, y, threat, steps=steps, step_size=threat.eps / 2)


def test_a_function_of_either_shape_is_judged_and_told_apart(evaluate: Evaluate) -> None:
    result = evaluate(fgsm, ours)
    found = {one.name: one.norms["linf"] for one in result.external or []}
    assert set(found) == {"fgsm", "ours"}
    for one in found.values():
        assert one.met == result.clean.n_correct
        assert 0 < one.broken <= one.met - one.own_robust + one.beyond
        assert result.norms["linf"].n_correct <= one.own_robust - one.beyond
    assert "external fgsm" in result.attack.protocol and "fgsm, linf: broke" in " ".join(result.origins())


def test_what_only_an_attack_from_outside_breaks_lowers_the_figure_and_stays(
    evaluate: Evaluate, images: ImageData, tmp_path: Path
) -> None:
    own = evaluate()
    left = [i for i, robust in enumerate(own.points.robust["linf"]) if robust]
    strong = evaluate(protocol="standard", threats="linf:0.4", store=tmp_path / "other.sqlite")
    assert strong.norms["linf"].n_correct < len(left)

    def oracle_of_wider_balls(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        return fgsm(model, x, y, eps * 8 / 3, norm)

    wide = evaluate(oracle_of_wider_balls)
    (one,) = wide.external or []
    assert one.norms["linf"].broken == 0, "every proposal that leaves the ball is caught"
    assert wide.points == own.points
    assert [flag for flag in wide.flags if flag.startswith("outside: ")]


def weights(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    with torch.no_grad():
        next(model.parameters()).zero_()
    return x


def computation(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
    type(model).forward = lambda self, x: 0 * x.flatten(1)[:, :10]
    return x


@pytest.mark.parametrize("cheat", [weights, computation], ids=lambda cheat: cheat.__name__)
def test_an_attack_that_changes_the_model_is_caught(
    evaluate: Evaluate, model: Classifier, monkeypatch: pytest.MonkeyPatch, cheat: Any
) -> None:
    monkeypatch.setattr(OwnClassifier, "forward", OwnClassifier.forward)  # to be put back
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(RunError, match=f"attack {cheat.__name__} changes the model"):
        evaluate(cheat)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    monkeypatch.undo()
    assert evaluate().external is None, "nothing of it is counted"


def test_an_attack_cannot_change_images_or_labels_for_the_referee(evaluate: Evaluate) -> None:
    def forger(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        y += 1
        x.mul_(0).add_(0.5)
        return x

    result = evaluate(forger)
    assert (result.external or [])[0].norms["linf"].broken == 0
    assert result.points == evaluate().points


def test_proposals_that_are_not_finite_are_not_counted(evaluate: Evaluate) -> None:
    result = evaluate(lambda model, x, y, eps, norm: x * float("nan"))
    assert (result.external or [])[0].norms["linf"].broken == 0


def test_rounding_alone_does_not_lose_a_proposal(evaluate: Evaluate) -> None:
    def rounded(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        return x + (fgsm(model, x, y, eps, norm) - x) * (1 + 5e-5)

    exact, near = evaluate(fgsm, rounded).external or []
    assert near.norms["linf"].broken == exact.norms["linf"].broken > 0


@pytest.mark.parametrize(
    ("attack", "message"),
    [
        (lambda model, x, y, eps, norm: x[:1], "expected images"),
        (lambda model, x, y, eps, norm: None, "returns NoneType"),
        (lambda model, x, y, eps, norm: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_an_attack_that_fails_costs_nothing_of_the_others(evaluate: Evaluate, attack: Any, message: str) -> None:
    before = evaluate()
    with pytest.raises(RunError, match=message):
        evaluate(attack)
    assert evaluate().points == before.points


def test_a_norm_that_an_attack_does_not_know_is_left_out(
    evaluate: Evaluate, capsys: pytest.CaptureFixture[str]
) -> None:
    def linf_only(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        if norm != "linf":
            raise NotImplementedError
        return fgsm(model, x, y, eps, norm)

    result = evaluate(linf_only, threats=f"linf:{EPS},l2:0.45")
    assert list((result.external or [])[0].norms) == ["linf"]
    assert "linf_only does not attack in l2" in capsys.readouterr().err


def test_random_attacks_repeat_and_leave_the_generators_alone(evaluate: Evaluate, tmp_path: Path) -> None:
    def noise(model: Any, x: Tensor, y: Tensor, eps: float, norm: str) -> Tensor:
        noisy.append(torch.rand_like(x))
        return (x + eps * (2 * noisy[-1] - 1)).clamp(0, 1)

    noisy: list[Tensor] = []
    state = torch.get_rng_state()
    evaluate(noise)
    torch.rand(5)
    evaluate(noise, store=tmp_path / "again.sqlite")
    assert torch.equal(*noisy)
    assert not torch.equal(torch.get_rng_state(), state), "only by the draws in between"


def test_images_made_anywhere_are_judged(
    evaluate: Evaluate, model: Classifier, images: ImageData, tmp_path: Path
) -> None:
    x = images.images(range(30))
    x_adv = fgsm(model, x.clone(), images.y, EPS, "linf").detach()
    proposed = torch.stack([x_adv[3], x[4], x_adv[4], x_adv[29] * 0])
    np.savez(tmp_path / "a.npz", index=np.array([3, 4, 4, 29]), x_adv=proposed, norm="linf")
    by_function = evaluate(fgsm).external or []
    from_file = evaluate(x_adv=tmp_path / "a.npz").external or []
    wrong = model(x_adv).argmax(1) != images.y
    right = model(x).argmax(1) == images.y
    (one,) = [info for info in from_file if info.name == "a.npz"]
    assert one.norms["linf"].met == int(right[[3, 4, 29]].sum())
    assert one.norms["linf"].broken == int((wrong & right)[[3, 4]].sum())
    assert by_function[0].norms["linf"].broken == int((wrong & right).sum())


def test_unfit_files_of_images_are_refused(evaluate: Evaluate, images: ImageData, tmp_path: Path) -> None:
    x = np.zeros((1, 1, 8, 8), np.float32)

    def saved(**arrays: Any) -> Path:
        np.savez(tmp_path / "bad.npz", **arrays)
        return tmp_path / "bad.npz"

    for arrays, message in (
        ({"index": [0], "x_adv": x}, "no array 'norm'"),
        ({"index": [0, 1], "x_adv": x, "norm": "linf"}, "give 1 whole numbers"),
        ({"index": [0], "x_adv": x[0], "norm": "linf"}, "give floats or uint8"),
        ({"index": [0], "x_adv": x, "norm": "l3"}, "unknown norm"),
        ({"index": [0], "x_adv": x, "norm": ["linf", "l2"]}, "norm has shape"),
    ):
        with pytest.raises(RequestError, match=message):
            read_images(saved(**arrays))
    with pytest.raises(RequestError, match="no such .npz file"):
        read_images(tmp_path / "none.npz")
    with pytest.raises(RequestError, match="index 30, which is not among the 30 points"):
        evaluate(x_adv=saved(index=[30], x_adv=x, norm="linf"))
    with pytest.raises(RequestError, match=r"the image of index 0 is \[1, 4, 4\]"):
        evaluate(x_adv=saved(index=[0], x_adv=x[:, :, :4, :4], norm="linf"))


def test_attacks_are_named_by_protocol_file_or_own_name(tmp_path: Path, private_home: Path) -> None:
    folder = private_home / "models" / "attacks"
    folder.mkdir(parents=True)
    (folder / "mine.py").write_text("def mine(model, x, y, eps, norm, scale=1.0):\n    return x\n")
    protocol, attacks = parse_attacks(f"fast,{folder / 'mine.py'}:mine(scale=2.0),mine")
    assert protocol == "fast" and [one.name for one in attacks] == ["mine.py:mine(scale=2.0)", "mine.py:mine"]
    assert parse_attacks("mine")[0] == DEFAULT
    with pytest.raises(RequestError, match="one protocol at a time"):
        parse_attacks("fast,full")
    for wrong in (lambda x, y: x, 3):
        with pytest.raises(RequestError):
            attack_of(wrong)  # type: ignore[arg-type]


def test_a_file_of_the_contract_for_attacks_runs_from_outside(private_home: Path, evaluate: Evaluate) -> None:
    page = (Path(__file__).parents[2] / "docs" / "attacks.md").read_text()
    folder = private_home / "models" / "attacks"
    folder.mkdir(parents=True)
    (folder / "corners.py").write_text(page.split("```python\n")[1].split("```")[0])
    _, (named,) = parse_attacks("corners")
    assert named.name == "corners.py:ATTACK"
    with_steps = f"{folder / 'corners.py'}:ATTACK(steps=5)"
    result = evaluate(with_steps, threats=f"linf:{EPS},l2:0.45")
    (one,) = result.external or []
    assert one.name == "corners.py:ATTACK(steps=5)" and list(one.norms) == ["linf"]


def test_more_images_go_on_from_the_points_that_fewer_broke(images: ImageData) -> None:
    threats = f"linf:{EPS}"
    few = robustctl.evaluate("digits-linf", protocol="fast", n=20, threats=threats, precision="float32")
    more = robustctl.evaluate("digits-linf", protocol="fast", n=26, threats=threats, precision="float32")
    assert more.earlier == {"fast": {"linf": few.clean.n_correct - few.norms["linf"].n_correct}}
    assert more.points.robust["linf"][:20] == few.points.robust["linf"]
    assert any("broken by earlier evaluations (fast)" in line for line in more.origins())


def test_runs_of_several_protocols_add_up(images: ImageData) -> None:
    asked: dict[str, Any] = {"n": 30, "threats": f"linf:{EPS},l1:1.4"}
    weak = robustctl.evaluate("digits-linf", protocol="fast", **asked)
    strong = robustctl.evaluate("digits-linf", protocol="standard", **asked)
    assert strong.earlier == {
        "fast": {"linf": 30 - weak.norms["linf"].n_correct, "l1": 30 - weak.norms["l1"].n_correct}
    }
    assert all(map(int.__ge__, weak.points.union(), strong.points.union()))
    again = robustctl.evaluate("digits-linf", protocol="fast", **asked)
    assert again.points == strong.points, "what the stronger protocol broke stays broken"
    wider = robustctl.evaluate("digits-linf", protocol="fast", n=30, threats="linf:0.05,l1:1.4")
    assert {norm for norms in (wider.earlier or {}).values() for norm in norms} == {"l1"}, "another radius is another"
    other = robustctl.evaluate("digits-linf", protocol="fast", n=29, threats=f"linf:{EPS}")
    assert other.earlier is None
    assert len(list((runs.root() / "eval" / "digits-linf").glob("*.json"))) == 4
