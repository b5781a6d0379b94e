"""Text of others is shown, never obeyed."""

import subprocess
import sys
from pathlib import Path

import pytest

from robustctl import terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mRED", "\\x1b[31mRED"),
        ("\x1b]0;title\x07", "\\x1b]0;title\\x07"),
        ("right\rwrong", "right\\rwrong"),
        ("\u202egpj", "\\u202egpj"),
        ("\x9b2J", "\\x9b2J"),
        ("\ud800", "\\ud800"),
        ("a\u2028b", "a\\u2028b"),
        ("tab\tand\nline, é, 漢", "tab\tand\nline, é, 漢"),
    ],
)
def test_what_a_terminal_would_obey_is_written_as_its_escape(
    text: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    terminal.show(text)
    terminal.tell(text)
    assert capsys.readouterr() == (shown + "\n", shown + "\n")


def test_the_token_is_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret123")
    assert terminal.plain("the proxy says: Bearer hf_secret123") == "the proxy says: Bearer <token>"


def test_a_place_for_messages_that_is_full_or_gone_stops_nothing() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("this system has no /dev/full")
    code = (
        "import sys; from robustctl import terminal as t; t.tell('a'); t.Told().write('b'); t.tell('c'); t.show('done')"
    )
    with Path("/dev/full").open("w") as full:
        done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=full, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n")
