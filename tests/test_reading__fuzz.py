"""Whatever a file holds, its reader gives the content or one message, at once, with nothing that a terminal obeys."""

import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hostile import mutated_text
from readers import INDEX, READERS, finding, sound_texts

SEED = int(os.environ.get("FAULTS_SEED", "0"))
LIMIT_SECONDS = 5.0


@pytest.fixture
def texts(shared: Path) -> dict[str, list[str]]:
    """Sound texts for each reader, to begin with."""
    return sound_texts(shared)


def _findings(name: str, texts: list[str], n: int, folder: Path) -> Iterator[str]:
    path, rng = folder / READERS[name][0], random.Random(f"{SEED} {name}")
    for number in range(n):
        content = mutated_text(rng.choice(texts), rng)
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
        path.write_bytes(mutated_text(INDEX, rng))
        try:
            accepted += isinstance(json.loads(path.read_bytes()), dict)
        except ValueError:
            continue
    assert 0 < accepted < 60
