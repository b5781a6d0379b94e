"""A run with a real evaluation, pushed with its witnesses, and ways to forge what was pushed."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from command import robust
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from robustctl.hub import plain_directory
from robustctl.hub.download import git_sha1
from robustctl.models.find import find_model
from robustctl.runs import Run, RunRecord

EVALUATION = ("--data", "digits", "--n", "40", "--attack", "fast", "--precision", "float32", "--eps", "linf=0.2,l1=0.5")


def make_run(folder: Path) -> Run:
    """A finished run whose weights are those of ``digits-linf``, evaluated on 40 digits in three norms."""
    folder.mkdir(parents=True)
    found_model = find_model("digits-linf")
    shutil.copyfile(found_model.weights, folder / "model.safetensors")
    (folder / "config.json").write_text(found_model.spec.model_dump_json(by_alias=True))
    (folder / "recipe.yaml").write_text("method: e-at\n")
    Run(folder).write(
        RunRecord(
            command="train",
            model="kw-small",
            licence="mit",
            recipe_name="digits/e-at",
            recipe={"evaluate": {"threats": {"linf": "0.15", "l2": "0.45", "l1": "1.4"}}},
            seed=0,
            data={"source": "digits", "split": "train", "n": 10},
            device="cpu",
            hardware="a machine",
            versions={"torch": "2"},
            started="2026-01-01T00:00:00",
            status="finished",
        )
    )
    assert robust("-q", "eval", folder, "--union", *EVALUATION) == 0
    return Run(folder)


@pytest.fixture(scope="session")
def claimed_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run, evaluated once for all tests; they only read it."""
    return make_run(tmp_path_factory.mktemp("claimed") / "mine")


@pytest.fixture(scope="session")
def pushed(claimed_run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The plain directory that it was pushed into; tests change copies."""
    folder = tmp_path_factory.mktemp("pushed") / "shelf"
    assert robust("-q", "push", claimed_run.path, "--repo", f"file://{folder}", "--allow-flags") == 0
    return folder


@pytest.fixture
def shelf(pushed: Path, tmp_path: Path) -> Path:
    """A copy of that directory, to be forged."""
    return Path(shutil.copytree(pushed, tmp_path / "shelf"))


def claim_of(folder: Path) -> Path:
    """The file of the one result there."""
    (found,) = (folder / "robustctl").glob("eval-*.json")
    return found


def seal(folder: Path) -> None:
    """Make the list of hashes fit what now lies there, as a forger would."""
    names = [path for kind in ("*", "robustctl/*", "witnesses/*") for path in folder.glob(kind) if path.is_file()]
    sums = {path.relative_to(folder).as_posix(): plain_directory.sha256(path) for path in names}
    plain_directory.write_sums(folder, {name: one for name, one in sums.items() if name not in ("SHA256SUMS", ".lock")})


def adopt(folder: Path) -> None:
    """Give the result and its witnesses the names that fit what was made of them, and take the card away: a forger who
    knows that names and card tell of a change."""
    result = claim_of(folder)
    name = f"{result.stem.rpartition('-')[0]}-{git_sha1(result.read_bytes())[:8]}"
    for path in (result, *(folder / "witnesses").glob(f"{result.stem}.safetensors")):
        path.rename(path.with_stem(name))
    (folder / "README.md").unlink(missing_ok=True)


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    """Change a JSON file in place."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def change_witnesses(folder: Path, change: Callable[[dict[str, Tensor], dict[str, str]], object]) -> None:
    """Change tensors and metadata of the one file of witnesses there."""
    (path,) = (folder / "witnesses").glob("*.safetensors")
    with safe_open(path, "pt") as file:
        metadata = dict(file.metadata())
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    change(tensors, metadata)
    save_file(tensors, path, metadata)
