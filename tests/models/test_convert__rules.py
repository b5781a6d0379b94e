"""The key rules of every bundled entry, on a file as its authors wrote it, without its values."""

from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl.architectures import build
from robustctl.models import convert
from robustctl.models import entry as entries
from robustctl.models.convert import Conversion
from robustctl.models.find import BUNDLED
from robustctl.spec import ModelSpec

SEEN: dict[str, dict[str, torch.Tensor]] = {}
FILES = sorted((BUNDLED / "entries").glob("*.yaml"))


def own_names(path: Path) -> dict[str, torch.Tensor] | None:
    """The network's tensors on the meta device; None if their names are another library's or need a package."""
    entry = entries.read(path)
    if not entry.sources or entry.keys.layout or entry.architecture.name.partition("/")[0] in ("timm", "torchvision"):
        return None
    if entry.architecture.name == "clip":
        pytest.importorskip("transformers", reason="CLIP is an extra")
    return built(entry.spec.model_dump_json(include={"architecture", "input_shape", "n_classes"}), entry.spec)


def built(key: str, spec: ModelSpec) -> dict[str, torch.Tensor]:
    """Most entries share their network with others."""
    if key not in SEEN:
        with torch.device("meta"):
            SEEN[key] = build(spec).net.state_dict()
    return SEEN[key]


def published(path: Path, wanted: dict[str, torch.Tensor]) -> Any:
    """What the file of an entry holds: prefixed tensors, those to drop beside them, at the place where they stand."""
    keys = entries.read(path).keys
    content: Any = {keys.strip + name: tensor for name, tensor in wanted.items()}
    content |= {prefix + "left_over": torch.empty(3, device="meta") for prefix in keys.drop}
    for step in reversed(keys.at):
        content = {step: content, "epoch": 7} if isinstance(step, str) else [content]
    return content


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_rules_of_an_entry_leave_the_network_s_own_tensors_and_nothing_else(path: Path, tmp_path: Path) -> None:
    wanted = own_names(path)
    if wanted is None:
        return
    entry = entries.read(path)
    asked = Conversion(source=Path(f"{path.stem}.pt"), folder=tmp_path, spec=entry.spec, keys=entry.keys, detect=False)
    _, tensors = convert._state_dict(published(path, wanted), asked)
    kept = convert._apply(tensors, entry.keys, asked.source)
    assert {name: tensor.shape for name, tensor in kept.items()} == {n: tensor.shape for n, tensor in wanted.items()}


def test_most_entries_have_rules_that_are_tried_here() -> None:
    assert sum(own_names(path) is not None for path in FILES) > len(FILES) / 2
