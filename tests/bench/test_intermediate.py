import math
from typing import cast

import pytest
import torch

from robustctl.bench.intermediate import compare, transcription
from robustctl.data import ImageData
from robustctl.sampling.perturbation import Perturbation


def test_transcription_estimates_the_mean_loss_at_q_1(linear_model) -> None:
    x = torch.full((400, 1, 4, 4), 0.5)
    y = torch.zeros(400, dtype=torch.int64)
    torch.manual_seed(0)
    estimate = transcription(linear_model, x, y, 0.3, 1.0, samples=20, leapfrog=3).mean()
    with torch.no_grad():
        noise = 0.3 * (2 * torch.rand(20_000, 1, 4, 4) - 1)
        losses = torch.nn.functional.cross_entropy(
            linear_model(0.5 + noise), torch.zeros(20_000).long(), reduction="none"
        )
    assert estimate.item() == pytest.approx(losses.mean().log().item(), abs=0.02)


def test_comparison_counts_the_work_of_both(linear_model) -> None:
    data = ImageData(torch.rand(4, 1, 4, 4), torch.zeros(4).long(), 10, "made", "test", torch.arange(4))
    lines: list[str] = []
    result = compare(
        linear_model,
        data,
        Perturbation.parse("linf:0.1"),
        qs=(1.0, 10.0),
        samples=40,
        leapfrog=3,
        rounds=1,
        report=lines.append,
    )
    single = cast(dict[str, float], result["single"])
    assert single["ours_evaluations"] == 40 * 3 + 1
    assert single["peer_evaluations"] == 40 * (2 * 3 + 2)
    assert single["ratio"] == result["ratio"]
    assert math.isfinite(single["ratio"])
    assert len(lines) == 2
