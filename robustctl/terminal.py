"""The one door through which text reaches the terminal: what others wrote is shown, never obeyed. No torch here.

Names of tensors, files and columns, keys of recipes, contents of results and the hub's own words may hold escape
sequences that move the cursor, change colours, set the title or turn the reading direction. Every text that is
printed goes through ``plain``.
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # controls, apart from tab and line feed
    "\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069"  # marks that turn the reading direction
    "\u2028\u2029\ufeff\ufff9-\ufffb\ud800-\udfff]"  # other line ends, marks without width, halves of characters
)

SHORTEST_TOKEN = 8  # a shorter text would be found in ordinary words


def plain(text: str) -> str:
    """The text without the hub's token, and with an escape (``\\x1b``) for each character that a terminal obeys."""
    for token in _tokens():
        text = text.replace(token, "<token>")
    return UNSAFE.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def _tokens() -> list[str]:
    """The hub's tokens: of the environment, and of the hub's client if this process has used it (imports nothing).

    A server or a proxy may have sent them back in its answer.
    """
    found = [os.environ.get(name, "").strip() for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")]
    if client := sys.modules.get("huggingface_hub"):
        found.append(getattr(client, "get_token", lambda: None)() or "")
    return [token for token in found if len(token) >= SHORTEST_TOKEN]


_BEFORE_A_LINE: list[Callable[[], None]] = []


def before_a_line(clear: Callable[[], None]) -> None:
    """Let ``clear`` remove whatever it has drawn on the terminal before each line that is printed."""
    _BEFORE_A_LINE.append(clear)


def _make_room() -> None:
    for clear in _BEFORE_A_LINE:
        clear()


def show(result: object) -> None:
    """Print a result on stdout."""
    _make_room()
    print(plain(str(result)))


def tell(text: str) -> None:
    """Print a message or progress on stderr, at once. No work is lost because nobody can be told of it."""
    _make_room()
    try:
        print(plain(text), file=sys.stderr, flush=True)
    except OSError:
        drop_stderr()


def drop_stderr() -> None:
    """Let whatever is told from now on go nowhere: its place is full, or the terminal was closed."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


class Told:
    """The stream stderr for a library that draws on it: what cannot be written is dropped."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> int:
        """Write to stderr, or to nowhere."""
        try:
            return sys.stderr.write(text)
        except OSError:
            drop_stderr()
            return len(text)

    def flush(self) -> None:
        """Flush stderr, or drop it."""
        try:
            sys.stderr.flush()
        except OSError:
            drop_stderr()


def accept_any_text() -> None:
    """Let stdout and stderr write what their encoding lacks as escapes, instead of failing on it."""
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
