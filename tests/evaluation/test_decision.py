"""Attacks that see predicted classes alone."""

from typing import Any

import pytest

from robustctl.errors import RequestError
from robustctl.evaluation import decision


def test_without_their_library_there_is_one_message_before_any_attack(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decision, "is_installed", lambda: False)
    nothing: Any = None
    with pytest.raises(RequestError, match="robustctl\\[decision\\]"):
        decision.rounds("l2", nothing, nothing, 0)
