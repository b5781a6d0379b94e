"""Runs in a process of its own, which tests/test_standin.py starts: the device must be known before any backward pass.

By hand: ``STANDIN=1 python -m pytest tests/standin``.
"""

import importlib.util
import os
import sys
from pathlib import Path

import pytest
import torch

_STATUS = pytest.StashKey[int]()

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
    sys.modules["training_fixtures"] = _training
    settings_for, make_loop = _training.settings_for, _training.make_loop

    def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
        session.config.stash[_STATUS] = int(exitstatus)

    def pytest_unconfigure(config: pytest.Config) -> None:
        """Leave without the end of torch's threads, which does not know of the device."""
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(config.stash.get(_STATUS, 1))


@pytest.fixture
def device() -> torch.device:
    """The stand-in's first card."""
    return torch.device("standin", 0)
