import sys
from types import SimpleNamespace

import pytest

from robustctl import progress


def test_a_log_gets_plain_lines_with_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_PLAIN_LINES", 0.0)
    with progress.progress("attack", 10) as advance:
        advance(0)
        advance(4, "robust 41.2 %")
        advance(6)
    out, err = capsys.readouterr()
    lines = err.splitlines()
    assert out == ""
    assert len(lines) == 2
    assert lines[0].startswith("attack: 4/10, about 0 s left robust 41.2 %")
    assert lines[1].startswith("attack: 10/10, about 0 s left")


def test_what_was_done_before_does_not_shorten_the_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter([0.0, 100.0, 200.0])
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: next(clock)))
    with progress.progress("training", 1000, 900) as advance:
        advance(0)
        advance(50)
    assert capsys.readouterr().err == "training: 950/1000, about 200 s left\n"


def test_a_total_that_is_not_known_yet_is_not_invented(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_PLAIN_LINES", 0.0)
    with progress.progress("m (MB)", None) as advance:
        advance(4)
        advance(0, total=10)
        advance(4)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "m (MB): 4"
    assert lines[-1] == "m (MB): 8/10, about 0 s left"


def test_lines_are_rare(capsys: pytest.CaptureFixture[str]) -> None:
    with progress.progress("attack", 1000) as advance:
        for _ in range(1000):
            advance(1)
    assert capsys.readouterr().err == ""


def test_quiet_is_silent(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROBUSTCTL_QUIET", "1")
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_PLAIN_LINES", 0.0)
    with progress.progress("attack", 2) as advance:
        advance(2, "done")
    assert capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar_on_stderr(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    for total in (2, None):
        with progress.progress("attack", total) as advance:
            advance(2, "done")
            advance(0, total=2)
    assert capsys.readouterr().out == ""
