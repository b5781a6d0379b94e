"""Hostile files of every kind that a command reads: a sound one, damaged at random, and the command that reads it.

A file is changed as text (pieces that have broken readers, lines that are repeated, shuffled and cut) or as bytes.
"""

import io
import random
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from readers import PIECES, STUDY, sound_texts
from scenes import Stage

from robustctl import terminal

FAST = ["-n", "4", "--attack", "fast", "--precision", "float32", "--norms", "linf", "--eps", "linf=0.1"]
RECIPE = "base: digits/to-linf\ntrain: {threats: {linf: 0.1}, epochs: 1}\noptim: {lr: 0.01}\n"
SUITE = "description: two\nthreats: [linf:0.1, 'l2:0.5']\ncorruptions: [fog]\ngroups: {both: [linf:0.1, fog]}\n"
CLASSES = "".join(f'"{digit}": {digit}\n' for digit in range(10))
CODE = (
    "import torch\n\ndef build(width=8):\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))\n"
)
SECONDS = 5.0


@dataclass(frozen=True)
class Kind:
    """A file of the stage, made by ``make`` if it is not there, and a command that reads it."""

    file: str
    words: list[str]
    make: Callable[[Path], None] | None = None
    is_text: bool = True


def _text(content: str) -> Callable[[Path], None]:
    return lambda path: path.write_text(content, encoding="utf-8") and None  # type: ignore[func-returns-value]


def _images(path: Path) -> None:
    from PIL import Image

    picture = io.BytesIO()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(picture, "PNG")
    with zipfile.ZipFile(path, "w") as archive:
        for label in range(10):
            archive.writestr(f"test/{label}/0.png", picture.getvalue())


def _one_image(path: Path) -> None:
    from PIL import Image

    path.parent.mkdir(parents=True)
    for label in range(10):
        (folder := path.parents[1] / str(label)).mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), label, np.uint8)).save(folder / "0.png")


def _parquet(path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"image": [bytes(64)] * 12, "label": [*range(10), 0, 1]}
    path.parent.mkdir(parents=True)
    pq.write_table(pa.table(rows), path)


def _npz(path: Path) -> None:
    np.savez(path, x=np.zeros((12, 1, 8, 8), np.float32), y=np.arange(12) % 10)


def _pickle(path: Path) -> None:
    import torch

    torch.save({"state_dict": {"0.weight": torch.zeros(4, 4)}}, path)


def _copied(pattern: str) -> Callable[[Path], None]:
    def copy(path: Path) -> None:
        (found, *_) = sorted(path.parent.glob(pattern))
        path.write_bytes(found.read_bytes())

    return copy


RESULT = _copied("done/eval/*.json")
IMPORTED = ["--name", "mine", "--arch", "kw-small", "--set", "width=32", "--no-normalisation", "--dataset", "digits"]
KINDS = {
    "recipe": Kind("r.yaml", ["finetune", "digits-linf", "--recipe", "r.yaml", "--data", "few.npz", "--dry-run"],
                   _text(RECIPE)),
    "study": Kind("s.yaml", ["study", "s.yaml", "--dry-run"], _text(STUDY)),
    "suite": Kind("s.yaml", ["eval", "digits-linf", "--suite", "s.yaml", "-n", "1"], _text(SUITE)),
    "classes": Kind("c.yaml", ["eval", "digits-linf", "--data", "few.npz", "--classes", "c.yaml", *FAST],
                    _text(CLASSES)),
    "entry": Kind("home/entries/mine.yaml", ["models", "show", "mine"], lambda path: _entry(path)),
    "result in compare": Kind("r.json", ["compare", "r.json", "r.json"], RESULT),
    "result in report": Kind("r.json", ["report", "r.json"], RESULT),
    "result in leaderboard": Kind("r.json", ["leaderboard", "r.json", "-o", "site"], RESULT),
    "result in verify": Kind("r.json", ["verify", "r.json", "--model", "digits-linf"], RESULT),
    "result in plot": Kind("r.json", ["plot", "r.json"], RESULT),
    "like": Kind("r.json", ["eval", "digits-linf", "--like", "r.json"], RESULT),
    "published": Kind("registry/robustctl/run.json", ["pull", "file://{folder}/registry"]),
    "sums": Kind("registry/SHA256SUMS", ["pull", "file://{folder}/registry"]),
    "pulled card": Kind("done/README.md", ["verify", "done", "--sample", "0"], _text("---\nlicense: mit\n---\n")),
    "run": Kind("done/run.json", ["push", "done", "--repo", "file://{folder}/new", "--licence", "mit", "--dry-run"]),
    "run's config": Kind("done/config.json", ["eval", "done", *FAST]),
    "run's list": Kind("runs/a/run.json", ["runs"], lambda path: _run(path)),
    "run's recipe": Kind("done/recipe.yaml", ["finetune", "--resume", "--out", "done", "--max-steps", "5"]),
    "model-code": Kind("net.py", ["eval", "--model-code", "net.py:build", "--data", "few.npz", *FAST], _text(CODE)),
    "npz": Kind("x.npz", ["eval", "digits-linf", "--data", "x.npz", *FAST], _npz, is_text=False),
    "x-adv": Kind("x.npz", ["eval", "digits-linf", "--x-adv", "x.npz", *FAST], _npz, is_text=False),
    "parquet": Kind("p/test.parquet", ["eval", "digits-linf", "--data", "p", *FAST], _parquet, is_text=False),
    "zip": Kind("i.zip", ["eval", "digits-linf", "--data", "i.zip", *FAST], _images, is_text=False),
    "image": Kind("i/test/3/0.png", ["eval", "digits-linf", "--data", "i", *FAST], _one_image, is_text=False),
    "safetensors": Kind("done/model.safetensors", ["eval", "done", *FAST], is_text=False),
    "imported": Kind("m.safetensors", ["models", "import", "m.safetensors", *IMPORTED],
                     _copied("done/model.safetensors"), is_text=False),
    "pickle": Kind("m.pt", ["models", "import", "m.pt", *IMPORTED], _pickle, is_text=False),
    "store": Kind("runs/eval/digits-linf/*.sqlite", ["eval", "digits-linf", "-n", "12", *FAST[2:]], is_text=False),
    "state": Kind("done/state/last.pt", ["finetune", "--resume", "--out", "done"], is_text=False),
    "witnesses": Kind("registry/witnesses/*.safetensors", ["verify", "file://{folder}/registry", "--sample", "0"],
                      is_text=False),
}  # fmt: skip


def _entry(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text(random.Random(0).choice(sound_texts(None)["entry"]), encoding="utf-8")


def _run(path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes((path.parents[2] / "done" / "run.json").read_bytes())


def mutated_text(text: str, rng: random.Random) -> bytes:
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
    return mutated_bytes(text.encode("utf-8", "surrogatepass"), rng, changes=int(rng.random() < 0.2))


def mutated_bytes(content: bytes, rng: random.Random, changes: int | None = None) -> bytes:
    """The bytes with some of them changed; or cut off, doubled, or empty."""
    found = bytearray(content)
    for _ in range(rng.choice([1, 4, 64]) if changes is None else changes):
        if found:
            found[rng.randrange(len(found))] = rng.randrange(256)
    if changes is None and rng.random() < 0.3:
        cut = rng.randrange(len(found) + 1)
        found = rng.choice([found[:cut], found[cut:], found[:cut] + found, bytearray()])
    return bytes(found)


def attempt(stage: Stage, kind: Kind, rng: random.Random) -> str:
    """Damage one file and run the command that reads it; returns what is wrong, or nothing."""
    stage.begin()
    if kind.make is not None:
        kind.make(stage.folder / kind.file)
    (path,) = stage.folder.glob(kind.file)
    before = path.read_bytes()
    content = mutated_text(before.decode(), rng) if kind.is_text else mutated_bytes(before, rng)
    path.write_bytes(content)
    done = stage.run([word.replace("{folder}", str(stage.folder)) for word in kind.words], kill_after=SECONDS)
    if done.rc not in (0, 1, 2) or "internal error" in done.err or "Traceback" in done.err:
        return f"rc {done.rc}: {done.err[-600:]} from {content[:150]!r}"
    if terminal.UNSAFE.search(done.out + done.err):
        return f"raw control characters: {done.err[-300:]!r} {done.out[-300:]!r}"
    if done.rc and "robustctl: " not in done.err and "usage" not in done.err.lower() and not done.out:
        return f"rc {done.rc} without a message: {done.err[-300:]!r}"
    return ""
