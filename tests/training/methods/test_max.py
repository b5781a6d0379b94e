import json
from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl.training.methods.max import worst


def test_worst_is_each_images_highest_value_and_the_first_of_a_tie() -> None:
    values = [torch.tensor([1.0, 5.0, 2.0]), torch.tensor([3.0, 5.0, 1.0]), torch.tensor([2.0, 5.0, 4.0])]
    assert worst(values).tolist() == [1, 0, 2]


@pytest.mark.parametrize("method", ["max", "msd", "ramp"])
def test_metrics_have_each_norms_error_and_its_share_of_the_images(
    method: str, settings_for: Any, make_loop: Any, tmp_path: Path
) -> None:
    block = {"name": method, **({"pair": ["linf", "l1"], "weight": 0.5} if method == "ramp" else {})}
    settings = settings_for(block)
    make_loop(settings, tmp_path / "run").run()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["kind"] == "steps"]
    norms = list(settings.train.threats)
    for line in steps:
        shares = [value for name, value in line.items() if name.startswith("share/")]
        assert len(shares) == len(norms) and sum(shares) == pytest.approx(1)
        assert all(0 <= line[f"robust_error/{norm}"] <= 1 for norm in norms)
    assert any(0 < line[f"share/{norm}"] < 1 for line in steps for norm in norms)
