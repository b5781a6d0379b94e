import shutil
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from robustctl.architectures import Classifier, build
from robustctl.errors import RequestError
from robustctl.spec import ModelSpec
from robustctl.training.distributed import World
from robustctl.training.start import learning_rate, new_head, require_space


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_disk_without_room_for_the_checkpoints_is_a_request_error(
    conv_model: Classifier, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    require_space(conv_model, tmp_path / "not" / "there" / "yet")
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(10, 9, 1))
    with pytest.raises(RequestError, match="checkpoints of this run need"):
        require_space(conv_model, tmp_path)


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
