"""The verdict of a stored verification follows from its findings, an interval from its counts."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from robustctl.errors import RequestError
from robustctl.results import verification

STORED = Path(__file__).parents[1] / "fixtures" / "results" / "verification.json"


@pytest.fixture
def content() -> Any:
    """One verification that ended with a doubt, with a sample of survivors."""
    (one,) = json.loads(STORED.read_text("utf-8"))["claims"]
    one["findings"] = [{"verdict": "cannot be checked", "text": "made", "points": []}]
    one["verdict"] = "cannot be checked"
    one["survivors"] = {
        "linf": {"survivors": 9, "sample": 4, "fell": [2], "ci95": [0.0456, 0.6994], "attacks": [], "evaluations": 1}
    }
    low, high = verification.wilson(1, 4)
    one["survivors"]["linf"]["ci95"] = [low, high]
    return one


def test_what_was_written_is_read(content: Any, tmp_path: Path) -> None:
    (tmp_path / "v.json").write_text(json.dumps(content), "utf-8")
    assert verification.read(tmp_path / "v.json").verdict == "cannot be checked"


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lambda one: one.update(verdict="confirmed"), "it is 'confirmed', and 'cannot be checked' follows"),
        (lambda one: one["findings"].clear(), "it is 'cannot be checked', and 'confirmed' follows"),
        (lambda one: one["survivors"]["linf"].update(fell=[]), "ci95 does not follow"),
        (lambda one: one["survivors"]["linf"].update(fell=[2, 2]), "fell, sample and survivors do not fit"),
        (lambda one: one["survivors"]["linf"].update(sample=10), "fell, sample and survivors do not fit"),
        (lambda one: one["survivors"]["linf"].update(ci95=[0.0, 0.7]), "ci95 does not follow"),
    ],
)
def test_an_edited_verification_is_refused(
    edit: Callable[[Any], None], words: str, content: Any, tmp_path: Path
) -> None:
    edit(content)
    (tmp_path / "v.json").write_text(json.dumps(content), "utf-8")
    with pytest.raises(RequestError, match=words):
        verification.read(tmp_path / "v.json")
