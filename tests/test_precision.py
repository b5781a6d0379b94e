"""Names of precisions, and what they mean on a device."""

import pytest
import torch

from robustctl.errors import RequestError
from robustctl.precision import pick_precision


def test_precision_names() -> None:
    cpu = torch.device("cpu")
    assert pick_precision("float32", cpu) == "float32"
    assert pick_precision("bf16", cpu) == "bf16"
    assert pick_precision("auto", cpu) in ("float32", "bf16")
    with pytest.raises(RequestError, match="auto"):
        pick_precision("fp8", cpu)
