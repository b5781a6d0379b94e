"""Whatever a file holds, its reader gives the content or one message, at once, with nothing that a terminal obeys."""

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from readers import INDEX, PIECES, READERS, finding, sound_texts

SEED = int(os.environ.get("FAULTS_SEED", "0"))
LIMIT_SECONDS = 5.0


def _mutated(text: str, rng: random.Random) -> bytes:
    """The text with one to four changes."""
    for _ in range(rng.choice([1, 1, 2, 4])):
        at, length = rng.randrange(len(text) + 1), rng.choice([0, 1, 8, 60])
        lines = text.splitlines(keepends=True) or [""]
        kind = rng.randrange(6)
        if kind < 2:
            text = text[:at] + rng.choice(PIECES) + text[at + length :]
        elif kind == 2:
            text = text[:at] + text[at + length :]
        elif kind == 3:
            text = "".join(rng.sample(lines, len(lines)))
        elif kind == 4:
            text = text.replace(rng.choice(lines), rng.choice(lines) * rng.choice([1, 2, 40]))
        else:
            key, colon, _ = (line := rng.choice(lines)).partition(":")
            text = text.replace(line, f"{key}{colon} {rng.choice(PIECES)}\n")
    content = bytearray(text.encode("utf-8", "surrogatepass"))
    if content and rng.random() < 0.2:
        content[rng.randrange(len(content))] = rng.randrange(256)
    return bytes(content)


@pytest.fixture
def texts(shared: Path) -> dict[str, list[str]]:
    """Sound texts for each reader, to begin with."""
    return sound_texts(shared)


def _findings(name: str, texts: list[str], n: int, folder: Path) -> Iterator[str]:
    path, rng = folder / READERS[name][0], random.Random(f"{SEED} {name}")
    for number in range(n):
        content = _mutated(rng.choice(texts), rng)
        path.write_bytes(content)
        begin = time.monotonic()
        if found := finding(name, path):
            yield f"{name} {number}: {found} from {content[:200]!r}"
        if (taken := time.monotonic() - begin) > LIMIT_SECONDS:
            yield f"{name} {number}: {taken:.1f} s"


@pytest.mark.parametrize("name", READERS)
def test_hostile_texts_give_one_message(name: str, texts: dict[str, list[str]], tmp_path: Path) -> None:
    assert list(_findings(name, texts[name], 8, tmp_path)) == []


@pytest.mark.faults
@pytest.mark.parametrize("name", READERS)
def test_500_hostile_texts_of_each_kind_give_one_message_each(
    name: str, texts: dict[str, list[str]], tmp_path: Path
) -> None:
    assert list(_findings(name, texts[name], 500, tmp_path)) == []


def test_the_mutations_really_reach_both_sides(texts: dict[str, list[str]], tmp_path: Path) -> None:
    """Some mutants are still accepted, and most are refused: else the fuzz would try nothing."""
    path, rng, accepted = tmp_path / "r.json", random.Random(1), 0
    for _ in range(60):
        path.write_bytes(_mutated(INDEX, rng))
        try:
            accepted += isinstance(json.loads(path.read_bytes()), dict)
        except ValueError:
            continue
    assert 0 < accepted < 60
