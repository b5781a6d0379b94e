"""The readers of texts that others may have written, sound texts for each, and pieces that have broken readers."""

from collections.abc import Callable
from pathlib import Path

import yaml

from robustctl import checkpoint, runs, terminal
from robustctl.errors import RobustctlError
from robustctl.models import entry
from robustctl.publish import figures
from robustctl.recipe import read as recipe
from robustctl.results import curve, suite, union, verification
from robustctl.spec import read_spec
from robustctl.suites import load
from robustctl.threats import Threat
from robustctl.workflows.study import read_study

ROOT = Path(__file__).parents[2]
INDEX = '{"metadata": {"total_size": 8}, "weight_map": {"a.weight": "model-00001-of-00001.safetensors"}}'
STUDY = """\
models: [digits-linf]
recipes: [digits/e-at, {name: digits/msd}]
seeds: [0, 1]
data: {source: digits, n: 8, split: test, classes: map.yaml}
threats: [{linf: 8/255, l1: 12}]
protocols: [fast]
precision: float32
set: {train.batch_size: 8, optim.lr: 1.0e-2}
"""
CARD = """\
---
license: mit
model-index:
- name: m
  results:
  - task: {type: image-classification}
    dataset: {type: d, name: d}
    metrics: [{type: accuracy, value: 41.5, name: union}]
---
text
"""
PIECES = [
    "\x1b[2J", "\u202e", "\ud800", "\0", "\ufeff", "null", "NaN", "1e999", "-1", "9" * 500, "1:30:30", "!!int x",
    "!!bool foo", "!!timestamp x", "!!python/object:os.system {}", "&a [*a]", "*b", "<<: *b", "[" * 200, "{" * 200,
    "a: " * 80, "- " * 200, "\t", "\r", "'", '"', ": ", "|\n", "../../etc/passwd", "/dev/zero", "x" * 300, "@" * 300,
    "true", "[]", "{}", '""',
    "&x [1,1,1,1,1,1,1,1,1]\nb: &y [*x,*x,*x,*x,*x,*x,*x]\nc: &z [*y,*y,*y,*y,*y,*y]\nd: [*z,*z,*z,*z,*z,*z,*z]",
]  # fmt: skip


def _spec(path: Path) -> object:
    return read_spec(path.parent)


def _index(path: Path) -> object:
    return checkpoint.read_tensors(path.parent / "model.safetensors")


def _threat(path: Path) -> object:
    return Threat.of("linf", path.read_bytes().decode("utf-8", "replace"))


def _suite(path: Path) -> object:
    return load(str(path))[1].members("cifar10")


def _card(path: Path) -> object:
    return figures.figures_in(path.read_bytes().decode("utf-8", "replace"))


READERS: dict[str, tuple[str, Callable[[Path], object]]] = {
    "recipe": ("r.yaml", lambda path: recipe.load(str(path)).resolved()),
    "entry": ("e.yaml", entry.read),
    "spec": ("config.json", _spec),
    "index": ("model.safetensors.index.json", _index),
    "result": ("result.json", union.read),
    "curve": ("curve.json", curve.read),
    "suite-result": ("suite.json", suite.read),
    "verification": ("verification.json", verification.read),
    "run": ("run.json", lambda path: runs.Run(path.parent).read()),
    "threat": ("t.txt", _threat),
    "study": ("study.yaml", read_study),
    "suite": ("suite.yaml", _suite),
    "card": ("README.md", _card),
    "classes": ("map.yaml", entry.read_mapping),
}


def sound_texts(shared: Path | None) -> dict[str, list[str]]:
    """Sound texts for each reader, to begin with; a few more where the reference data are."""
    cases = shared / "cases" if shared else ROOT / "nowhere"
    stored = ROOT / "tests" / "fixtures" / "stored-run"
    files = {
        "recipe": sorted((ROOT / "recipes").glob("*/*.yaml")),
        "entry": sorted((ROOT / "robustctl" / "models" / "entries").glob("*.yaml")),
        "spec": [stored / "config.json"],
        "result": [*(cases / "results").glob("good.json"), *sorted((stored / "eval").glob("*.json"))],
        "run": [*sorted((cases / "runs").glob("*/run.json")), stored / "run.json"],
        **{name: [ROOT / "tests" / "fixtures" / "results" / f"{name}.json"] for name in ("curve", "verification")},
        "suite-result": [ROOT / "tests" / "fixtures" / "results" / "suite.json"],
        "suite": sorted((ROOT / "robustctl" / "suites").glob("*.yaml")),
    }
    read = {name: [one.read_text(encoding="utf-8") for one in found] for name, found in files.items()}
    classes = yaml.safe_dump({"kitty": "cat", "7": 3, "\u00e9l\u00e9phant": 2}, allow_unicode=True)
    return read | {
        "index": [INDEX],
        "threat": ["8/255", "0.5", "12"],
        "study": [STUDY],
        "card": [CARD],
        "classes": [classes],
    }


def finding(name: str, path: Path) -> str:
    """Read a file; returns what is wrong with the way in which it is refused, or nothing."""
    try:
        READERS[name][1](path)
    except RobustctlError as error:
        if terminal.UNSAFE.search(terminal.plain(str(error))):
            return f"raw control characters in {error!r}"
    except Exception as error:
        return f"{error!r:.300}"
    return ""
