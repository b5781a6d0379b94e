"""Whatever a file holds, its reader gives the content or one message, at once, with nothing that a terminal obeys."""

import json
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from robustctl import checkpoint, runs, terminal
from robustctl.errors import RobustctlError
from robustctl.models import entry
from robustctl.recipe import read as recipe
from robustctl.results import union
from robustctl.spec import read_spec
from robustctl.threats import Threat

ROOT = Path(__file__).parents[1]
SEED = int(os.environ.get("FAULTS_SEED", "0"))
LIMIT_SECONDS = 5.0
INDEX = '{"metadata": {"total_size": 8}, "weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}'
PIECES = [
    "\x1b[2J", "\u202e", "\ud800", "\0", "\ufeff", "null", "NaN", "1e999", "-1", "9" * 500, "1:30:30", "!!int x",
    "!!bool foo", "!!timestamp x", "!!python/object:os.system {}", "&a [*a]", "*b", "<<: *b", "[" * 200, "{" * 200,
    "a: " * 80, "- " * 200, "\t", "\r", "'", '"', ": ", "|\n", "../../etc/passwd", "/dev/zero", "x" * 300, "@" * 300,
    "true", "[]", "{}", '""',
    "&x [1,1,1,1,1,1,1,1,1]\nb: &y [*x,*x,*x,*x,*x,*x,*x]\nc: &z [*y,*y,*y,*y,*y,*y]\nd: [*z,*z,*z,*z,*z,*z,*z]",
]  # fmt: skip


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


def _spec(path: Path) -> object:
    return read_spec(path.parent)


def _index(path: Path) -> object:
    return checkpoint.read_tensors(path.parent / "model.safetensors")


def _threat(path: Path) -> object:
    return Threat.of("linf", path.read_bytes().decode("utf-8", "replace"))


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "recipe": ("r.yaml", lambda path: recipe.load(str(path)).resolved()),
    "entry": ("e.yaml", entry.read),
    "spec": ("config.json", _spec),
    "index": ("model.safetensors.index.json", _index),
    "result": ("result.json", union.read),
    "run": ("run.json", lambda path: runs.Run(path.parent).read()),
    "threat": ("t.txt", _threat),
}


@pytest.fixture
def texts(shared: Path) -> dict[str, list[str]]:
    """Sound texts for each reader, to begin with."""
    runs_there = [*sorted((shared / "cases" / "runs").glob("*/run.json")), ROOT / "tests/fixtures/stored-run/run.json"]
    files = {
        "recipe": sorted((ROOT / "recipes").glob("*/*.yaml")),
        "entry": sorted((ROOT / "robustctl" / "models" / "entries").glob("*.yaml")),
        "spec": [ROOT / "tests" / "fixtures" / "stored-run" / "config.json"],
        "result": [shared / "cases" / "results" / "good.json"],
        "run": runs_there,
    }
    read = {name: [one.read_text(encoding="utf-8") for one in found] for name, found in files.items()}
    return read | {"index": [INDEX], "threat": ["8/255", "0.5", "12"]}


def _findings(name: str, texts: list[str], n: int, folder: Path) -> Iterator[str]:
    file, read = READERS[name]
    path, rng = folder / file, random.Random(f"{SEED} {name}")
    for number in range(n):
        content = _mutated(rng.choice(texts), rng)
        path.write_bytes(content)
        begin = time.monotonic()
        try:
            read(path)
        except RobustctlError as error:
            if terminal.UNSAFE.search(terminal.plain(str(error))):
                yield f"{name} {number}: raw control characters in {error!r}"
        except Exception as error:
            yield f"{name} {number}: {error!r:.300} from {content[:200]!r}"
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
