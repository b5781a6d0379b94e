"""On an accelerator the engine finds what it finds on the CPU, and the host does not wait for its steps."""

import copy
from dataclasses import replace

import pytest
import standin
import torch
from torch import nn

from robustctl import geometry
from robustctl.data import ImageData
from robustctl.evaluation.protocols import PROTOCOLS
from robustctl.evaluation.row_scheduler import FamilyRun, Finished, FullBatch
from robustctl.oracle import Oracle
from robustctl.threats import Threat

N = 24


@pytest.mark.parametrize(("text", "batch_size"), [("linf:0.05", 200), ("l2:0.3", 10), ("l1:1", 200)])
def test_verdicts_are_those_of_the_cpu_and_the_host_reads_at_most_once_in_ten_steps(
    text: str, batch_size: int, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(geometry, "is_host", lambda _: False)  # the CPU takes the projections of accelerators
    x = torch.rand(N, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(0)
    on_cpu = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10)).eval()
    data = ImageData(x, on_cpu(x).argmax(1), 10, "random", "test", torch.arange(N))
    threat = Threat.parse(text)
    families = [one for one in PROTOCOLS["standard"][threat.norm] if one.attack == "apgd"]
    steps: list[int] = []
    step = FullBatch.step
    monkeypatch.setattr(FullBatch, "step", lambda batch: (steps.append(1), step(batch)))

    def attacked(model: nn.Module) -> list[list[Finished]]:
        """What each family hands out, with fewer steps and targets than usual."""
        with Oracle(model) as oracle:
            short = [replace(one, steps=20, targets=min(one.targets, 2)) for one in families]
            return [
                list(FullBatch(FamilyRun(oracle, data, threat, one, 0, batch_size), range(N)).run()) for one in short
            ]

    def broken(handed: list[Finished]) -> list[int]:
        pairs = [pair for one in handed for pair in zip(one.positions, one.x_adv, strict=True)]
        assert sorted(position for position, _ in pairs) == list(range(N)), "each point once"
        with torch.no_grad():
            return sorted(at for at, image in pairs if on_cpu(image[None]).argmax(1) != data.y[at])

    expected = [broken(handed) for handed in attacked(on_cpu)]
    steps.clear()
    with standin.traffic() as traffic:
        there = attacked(copy.deepcopy(on_cpu).to(device))
    assert len(steps) > 40
    assert 10 * traffic.reads <= len(steps), (len(steps), traffic)
    assert [broken(handed) for handed in there] == expected
    assert 0 < len(expected[0]) < N, expected
