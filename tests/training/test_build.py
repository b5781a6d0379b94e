import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from robustctl.architectures import Classifier, build
from robustctl.data import ImageData
from robustctl.errors import RequestError, RunError
from robustctl.processes import World
from robustctl.spec import Architecture, ModelSpec
from robustctl.training import state_file
from robustctl.training.build import (
    build_parts,
    copies_on_disk,
    learning_rate,
    new_head,
    require_outputs,
    require_space,
)
from robustctl.training.loop import Loop


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_disk_without_room_for_the_checkpoints_is_a_request_error(
    conv_model: Classifier, settings_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for({"name": "at"})
    require_space(conv_model, settings, tmp_path / "not" / "there" / "yet")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, 1))
    with pytest.raises(RunError, match="checkpoints of this run need"):
        require_space(conv_model, settings, tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"average": {"decay": 0.9}},
        {"projection": {"beta": 0.5}},
        {"projection": {"beta": 0.5}, "optim": {"name": "adam", "lr": 0.001, "weight_decay": 0.0}},
        {"pretrain": {"epochs": 1, "lr": 0.05}},
    ],
    ids=str,
)
def test_room_that_is_asked_for_is_what_a_run_takes_at_most(
    changes: dict[str, Any], settings_for: Any, tmp_path: Path
) -> None:
    settings = settings_for({"name": "at"}, **changes)
    torch.manual_seed(0)
    spec = ModelSpec(
        architecture=Architecture(name="kw-small", args={"width": 16, "hidden": 512}),
        input_shape=(1, 8, 8),
        n_classes=10,
        dataset="digits",
    )
    model = build(spec)  # large enough for the tensors to outweigh their names
    data = ImageData(torch.rand(24, 1, 8, 8), torch.arange(24) % 10, 10, "random", "train", torch.arange(24))
    parts = build_parts(model, spec, data, settings, seed=0, device=torch.device("cpu"))
    loop = Loop(parts, tmp_path, save_seconds=0.0)
    sizes, one_step = [0], loop._one_step

    def measured(this: Any) -> None:
        sizes.append((tmp_path / state_file.STATE).stat().st_size)  # of the save after the step before
        one_step(this)

    loop._one_step = measured  # type: ignore[method-assign]
    loop.run()
    weights = sum((tmp_path / name).stat().st_size for name in ("model.safetensors", "best.safetensors"))
    size = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    assert copies_on_disk(settings) == pytest.approx((weights + 3 * max(sizes)) / size, rel=0.05)


def test_architecture_without_a_rate_is_a_request_error(settings_for: Any, conv_spec: ModelSpec) -> None:
    settings = settings_for({"name": "at"}, optim={"lr": {"wide-resnet": 0.1}, "weight_decay": 0.0})
    with pytest.raises(RequestError, match=r"--set optim\.lr\.kw-small=0\.01"):
        learning_rate(settings, conv_spec)


def test_new_head_keeps_every_other_weight(conv_model: Classifier, conv_spec: ModelSpec) -> None:
    fresh = build(conv_spec.model_copy(update={"n_classes": 4}))
    old = conv_model.net.state_dict()
    spec = new_head(fresh, conv_spec, 4, old)
    assert spec.n_classes == 4
    new = fresh.net.state_dict()
    assert [name for name in new if new[name].shape != old[name].shape] == ["7.weight", "7.bias"]
    assert all(torch.equal(new[name], old[name]) for name in new if not name.startswith("7."))


def test_uneven_phase_is_refused_before_training(settings_for: Any, make_loop: Any, tmp_path: Path) -> None:
    settings = settings_for({"name": "natural"}, resize=[{"at": 0, "size": 8, "batch_size": 7}])
    with pytest.raises(RequestError, match="batch_size 7"):
        make_loop(settings, tmp_path / "run", world=World(0, 2))


class _Answering(nn.Module):
    """Answers with logits, or in one mode with something else."""

    def __init__(self, training: bool, answer: Any) -> None:
        super().__init__()
        self.head, self.in_training, self.answer = nn.Linear(64, 10), training, answer
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: torch.Tensor) -> Any:
        self.seen += 1
        logits = self.head(x.flatten(1))
        return self.answer(logits) if self.training == self.in_training else logits


@pytest.mark.parametrize(("training", "mode"), [(True, "training mode"), (False, "eval mode")])
@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda logits: (logits, logits), "returns a tuple"),
        (lambda logits: {"logits": logits}, "returns a dict"),
        (lambda logits: logits[:, :7], r"returns \[2, 7\]"),
        (lambda logits: logits[:1], r"returns \[1, 10\]"),
        (lambda logits: logits @ logits, "fails"),
    ],
)
def test_a_model_that_answers_with_anything_but_logits_in_either_mode_is_refused_in_one_message(
    training: bool, mode: str, answer: Any, message: str, conv_spec: ModelSpec
) -> None:
    model = Classifier(_Answering(training, answer), None).train()
    with pytest.raises(RequestError, match=message) as refused:
        require_outputs(model, conv_spec)
    assert mode in str(refused.value)
    assert model.training
    assert model.get_buffer("net.seen") == 0, "a copy was tried, so that no statistics move"


def test_a_model_that_writes_into_its_images_is_not_trained(conv_spec: ModelSpec) -> None:
    class Clipped(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.clamp_(0.4, 0.6).flatten(1)[:, :10] if self.training else x.flatten(1)[:, :10]

    with pytest.raises(RequestError, match=r"writes into the images that it is given in training mode .* x\.clone"):
        require_outputs(Classifier(Clipped(), None), conv_spec)


def test_a_model_that_answers_with_logits_in_both_modes_is_taken(conv_model: Classifier, conv_spec: ModelSpec) -> None:
    before = torch.get_rng_state()
    require_outputs(conv_model, conv_spec)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.filterwarnings("ignore:The default weight initialization")
def test_auxiliary_heads_of_torchvision_stay_out_of_what_is_returned() -> None:
    pytest.importorskip("torchvision")
    spec = ModelSpec(
        architecture=Architecture(name="torchvision/googlenet"), input_shape=(3, 32, 32), n_classes=10, dataset="made"
    )
    model = build(spec)
    assert any(name.startswith("net.aux1.") for name in model.state_dict()), "published weights have them"
    require_outputs(model, spec)


def test_a_method_that_trains_alone_is_refused_in_several_processes(settings_for: Any) -> None:
    architecture = Architecture(name="kw-small", args={"width": 2, "hidden": 8})
    spec = ModelSpec(architecture=architecture, input_shape=(1, 8, 8), n_classes=10, dataset="digits")
    x, y = torch.rand(24, 1, 8, 8), torch.arange(24) % 10
    data = ImageData(x, y, 10, "random", "train", torch.arange(24))
    settings = settings_for({"name": "mng-ac", "rate": 0.01})
    with pytest.raises(RequestError, match="method mng-ac trains in one process"):
        build_parts(build(spec), spec, data, settings, seed=0, device=torch.device("cpu"), world=World(0, 2))
