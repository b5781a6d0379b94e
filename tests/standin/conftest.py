"""Runs in a process of its own, which tests/test_standin.py starts: the device must be known before any backward pass.

By hand: ``STANDIN=1 python -m pytest tests/standin``.
"""

import importlib.util
import os
from pathlib import Path

import pytest
import torch

if "STANDIN" not in os.environ:
    collect_ignore_glob = ["*"]
else:
    import standin

    standin.register()
    _path = Path(__file__).parents[1] / "training/conftest.py"
    _spec = importlib.util.spec_from_file_location("training_fixtures", _path)
    assert _spec is not None and _spec.loader is not None
    _training = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_training)
    settings_for, make_loop = _training.settings_for, _training.make_loop


@pytest.fixture
def device() -> torch.device:
    """The stand-in's first card."""
    return torch.device("standin", 0)
