"""FARE in several norms: the embeddings of a tiny random CLIP stay where the start's were."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl import geometry
from robustctl.architectures import build
from robustctl.architectures.clip import Clip
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.recipe.read import from_resolved
from robustctl.spec import ModelSpec
from robustctl.threats import Threat
from robustctl.training.build import build_parts
from robustctl.training.loop import Loop
from robustctl.training.methods.fare import Config, Method
from robustctl.training.step import Step

pytest.importorskip("transformers", reason="CLIP is an extra")

TINY = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "projection": 8}
SPEC = ModelSpec.model_validate(
    {"architecture": {"name": "clip", "args": TINY}, "input_shape": (3, 8, 8), "n_classes": 5, "dataset": "cifar10"}
)
RADII = {"linf": "0.1", "l2": "0.5", "l1": "1.5"}
THREATS = tuple(Threat.of(norm, eps) for norm, eps in RADII.items())


def make_loop(directory: Path, *, epochs: int = 2) -> Loop:
    directory.mkdir(exist_ok=True)
    values = {
        "dataset": "cifar10",
        "about": {"paper": "none", "cost": "none"},
        "method": {"name": "fare"},
        "train": {"threats": RADII, "epochs": epochs, "batch_size": 4, "freeze": ["head"]},
        "evaluate": {"threats": RADII},
        "attack": {"name": "pgd", "steps": 2, "step": dict.fromkeys(RADII, 0.5), "start": "random"},
        "optim": {"lr": 0.005, "weight_decay": 0.01},
        "schedule": {"name": "constant"},
        "selection": {"images": 4, "steps": 1},
    }
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.rand((16, 3, 8, 8), generator=generator), torch.arange(16) % 5
    data = ImageData(x, y, 5, "random", "train", torch.arange(16))
    parts = build_parts(build(SPEC), SPEC, data, from_resolved(values), seed=0, device=torch.device("cpu"))
    return Loop(parts, directory)


def net_of(loop: Loop) -> Clip:
    assert isinstance(loop.model.net, Clip)
    return loop.model.net


def test_the_loss_is_the_squared_distance_to_the_embedding_of_the_clean_image(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    method = Method(Config(name="fare"), THREATS)
    net = net_of(loop)
    x = torch.rand(4, 3, 8, 8)
    step = Step(loop.context, x, torch.zeros(4, dtype=torch.long), 0)
    loss = method.loss(step)
    moved = net.embed(step.points[0]) - net.embed(x)
    torch.testing.assert_close(loss, moved.square().sum(1).mean(), rtol=1e-4, atol=1e-7)
    assert loss > 0


def test_points_stay_in_the_ball_of_the_norm_that_was_drawn_and_every_norm_is_drawn(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    method = Method(Config(name="fare"), THREATS)
    x = torch.rand(4, 3, 8, 8)
    drawn = set()
    for number in range(12):
        step = Step(loop.context, x, torch.zeros(4, dtype=torch.long), number)
        chosen = THREATS[step.choose([1 / 3] * 3)]
        again = Step(loop.context, x, torch.zeros(4, dtype=torch.long), number)
        method.loss(again)
        assert (geometry.norm(again.points[0] - x, chosen.norm) <= chosen.eps).all()
        drawn.add(chosen.norm)
    assert drawn == {"linf", "l2", "l1"}


def test_the_reference_is_the_start_and_the_head_stays(tmp_path: Path) -> None:
    loop = make_loop(tmp_path)
    before = {name: tensor.clone() for name, tensor in net_of(loop).state_dict().items()}
    loop.run()
    reference = loop.method.state()["start"]
    assert all(torch.equal(reference[name], tensor) for name, tensor in before.items())
    after = net_of(loop).state_dict()
    assert torch.equal(after["head.weight"], before["head.weight"])
    assert any(not torch.equal(after[name], before[name]) for name in before if name.startswith("vision."))


def test_a_resumed_training_ends_bit_for_bit_where_an_uninterrupted_one_does(tmp_path: Path) -> None:
    whole = make_loop(tmp_path / "whole")
    whole.run()
    make_loop(tmp_path / "parts").run(max_steps=4)
    resumed = make_loop(tmp_path / "parts")
    resumed.resume()
    resumed.run()
    for name, tensor in net_of(whole).state_dict().items():
        assert torch.equal(net_of(resumed).state_dict()[name], tensor)


def test_training_brings_perturbed_embeddings_closer(tmp_path: Path) -> None:
    loop = make_loop(tmp_path, epochs=12)
    method = Method(Config(name="fare"), THREATS)
    x = torch.rand((8, 3, 8, 8), generator=torch.Generator().manual_seed(1))
    steps = [Step(loop.context, x, torch.zeros(8, dtype=torch.long), number) for number in range(6)]
    before = sum(float(method.loss(step).detach()) for step in steps)
    loop.run()
    again = [Step(loop.context, x, torch.zeros(8, dtype=torch.long), number) for number in range(6)]
    assert sum(float(method.loss(step).detach()) for step in again) < 0.8 * before


def test_another_network_is_refused(example: Any) -> None:
    with pytest.raises(RequestError, match="image tower of a CLIP, not Sequential"):
        Method(Config(name="fare"), THREATS).loss(example.step())


def test_names_to_freeze_that_no_parameter_has_are_refused_with_the_parts_of_the_network(tmp_path: Path) -> None:
    from robustctl.training.build import freeze

    with pytest.raises(RequestError, match=r"no parameter begins with 'tail'; the network's parts are head, vision"):
        freeze(make_loop(tmp_path).model, ("tail",))
