"""The engine asks the device once a step, and once more when rows are looked at in full precision."""

import pytest
import standin
import torch
from torch import nn

from robustctl.data import ImageData
from robustctl.evaluation.protocols import PROTOCOLS
from robustctl.evaluation.row_scheduler import FamilyRun, FullBatch
from robustctl.oracle import Oracle
from robustctl.threats import Threat


@pytest.mark.parametrize("text", ["linf:0.02", "l1:0.5"])
def test_reads_of_a_step(
    text: str, conv_model: nn.Module, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    data = ImageData(x, conv_model(x).argmax(1), 10, "random", "test", torch.arange(40))
    threat = Threat.parse(text)
    family = next(one for one in PROTOCOLS["standard"][threat.norm] if one.attack == "apgd")
    steps, looks = [], []
    step, judge = FullBatch.step, FullBatch._judge

    def one_step(batch: FullBatch) -> None:
        steps.append(1)
        step(batch)

    def counted(batch: FullBatch, rows: torch.Tensor, points: torch.Tensor) -> None:
        looks.extend([1] * bool(len(rows)))
        judge(batch, rows, points)

    monkeypatch.setattr(FullBatch, "step", one_step)
    monkeypatch.setattr(FullBatch, "_judge", counted)
    with Oracle(conv_model.to(device)) as oracle, standin.traffic() as traffic:
        handed = list(FullBatch(FamilyRun(oracle, data, threat, family, 0, 200), range(40)).run())
    assert sum(len(one.positions) for one in handed) == 40
    assert len(steps) > 50
    assert traffic.reads <= len(steps) + len(looks) + len(handed) + 2, traffic
