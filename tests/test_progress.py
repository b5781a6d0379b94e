import io
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
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


class Terminal(io.StringIO):
    """What a terminal was sent."""

    def isatty(self) -> bool:
        return True


def wait_for(text: str, terminal: Terminal) -> None:
    """Return once the terminal was sent ``text``."""
    end = time.monotonic() + 30
    while text not in terminal.getvalue():
        assert time.monotonic() < end, f"{text!r} never came: {terminal.getvalue()!r}"
        time.sleep(0.01)


@contextmanager
def sign_on(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> Iterator[progress._SignOfLife]:
    """A sign of life of the test's own."""
    monkeypatch.setattr(progress, "SECONDS_OF_SILENCE", 0.05)
    monkeypatch.setattr(sys, "stderr", terminal)
    made = progress._SignOfLife()
    made.start()
    yield made
    made.over.set()
    made.join()


def test_silence_on_a_terminal_gets_a_sign_that_is_gone_before_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Terminal()
    with sign_on(sent, monkeypatch) as sign:
        wait_for(" working, 0 s", sent)
        sign.clear()
        assert "\r\x1b[K" in sent.getvalue()


def test_a_bar_takes_the_place_of_the_sign(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = Terminal()
    with sign_on(sent, monkeypatch) as sign:
        with sign.replaced():
            before = sent.getvalue()
            time.sleep(0.3)
            assert sent.getvalue() == before
        wait_for(" working", sent)


def test_a_log_file_gets_no_sign(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_OF_SILENCE", 0.0)
    monkeypatch.setattr(progress, "_SIGN", progress._SignOfLife())
    with progress.sign_of_life():
        time.sleep(0.25)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("width", [60, 80, 200])
def test_the_count_and_the_time_left_are_whole_in_every_width(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    sent = Terminal()
    monkeypatch.setattr(sys, "stderr", sent)
    with progress.progress("training", 12345) as advance:
        advance(678, "epoch 4, loss 0.476, linf 80 %, l1 79 %, 680 images/s, best union 67.0 %")
    last = [line for line in sent.getvalue().splitlines() if "678" in line][-1]
    assert "training" in last and "678/12345" in last and "epoch" in last
