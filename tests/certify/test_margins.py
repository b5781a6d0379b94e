"""Margins of many points: finished ones are kept, damaged ones are computed again."""

from pathlib import Path

import pytest
import torch
from torch import nn

from robustctl.architectures import build
from robustctl.certify import margins as room
from robustctl.certify.exact import Least
from robustctl.certify.margins import margins
from robustctl.data import ImageData
from robustctl.spec import ModelSpec
from robustctl.threats import Threat

THREATS = [Threat("linf", 0.02, "0.02"), Threat("l2", 0.1, "0.1")]


@pytest.fixture
def network(conv_spec: ModelSpec) -> nn.Module:
    torch.manual_seed(0)
    return build(conv_spec).eval().double().requires_grad_(False)


@pytest.fixture
def data() -> ImageData:
    x = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    return ImageData(x, torch.tensor([1, 2, 3]), 10, "here", "all", torch.arange(3))


def _margins(network: nn.Module, data: ImageData, kept: Path) -> dict[str, list[float]]:
    found, broken = margins(network, data, THREATS, 512, 0.0, kept, lambda _: None)
    assert broken == {"linf": set(), "l2": set()}
    return {**found}


def test_finished_margins_are_taken_and_damaged_lines_are_computed_again(
    network: nn.Module, data: ImageData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = tmp_path / "margins.txt"
    first = _margins(network, data, kept)
    computed: list[str] = []
    bound = room.margin_bound

    def counted(*arguments: object) -> Least:
        computed.append(str(arguments[3]))
        return bound(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(room, "margin_bound", counted)
    assert _margins(network, data, kept) == first
    assert computed == []
    lines = kept.read_bytes().split(b"\n")
    assert len(lines) == 1 + 6
    lines[2] = lines[2].replace(b"1", b"2").replace(b"3", b"4")  # another number, the old checksum
    lines[-1] = lines[-1][:-12]  # a kill within the last line
    kept.write_bytes(b"\n".join(lines))
    assert _margins(network, data, kept) == first
    assert sorted(computed) == ["l2:0.1", "l2:0.1"]
    assert _margins(network, data, kept) == first
    assert len(computed) == 2
