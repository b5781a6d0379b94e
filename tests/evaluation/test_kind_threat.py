"""Threats that are no balls: parameters are judged once more in other batches, and never if they are not finite."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from robustctl.errors import RunError
from robustctl.evaluation import kind_threat
from robustctl.evaluation.kind_threat import encode


def test_parameters_that_are_not_finite_are_never_judged(linear_model: torch.nn.Module) -> None:
    everything: Any = SimpleNamespace(
        inside=lambda x, z, budget, model: torch.ones(len(x)).bool(), render=lambda x, z: x
    )
    x = torch.full((2, 1, 4, 4), 0.5)
    z, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64)
    kind_threat.judge(linear_model, everything, x, y, z, 1.0)
    for value in (torch.nan, torch.inf):
        z[1, 2] = value
        with pytest.raises(RunError, match="parameters"):
            kind_threat.judge(linear_model, everything, x, y, z, 1.0)


def test_every_witness_is_judged_once_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def judged(model: Any, kind: Any, x: Any, y: Any, z: torch.Tensor, *_: Any) -> Any:
        asked.extend(z[:, 0].int().tolist())
        return SimpleNamespace(broken=z[:, 0] > 1, margin=torch.tensor([-1.0 if one else 1e-6 for one in z[:, 0]]))

    monkeypatch.setattr(kind_threat, "judge", judged)
    rows = [(i, encode(torch.full((2 + i % 2,), float(i)))) for i in range(4)]
    store: Any = SimpleNamespace(adversarial=lambda name: iter(rows))
    data = SimpleNamespace(images=lambda positions: torch.zeros(len(positions), 1, 2, 2), y=torch.zeros(4))
    setup: Any = SimpleNamespace(model=None, data=data, passes=1)
    limit: Any = SimpleNamespace(name="kind", kind=None, budget=1.0)
    assert kind_threat._rescore(setup, limit, store) == 1, "point 0 is a tie, point 1 no longer holds"
    assert sorted(asked) == [0, 1, 2, 3]
