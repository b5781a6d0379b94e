"""SIGKILL at a random place of every method's training; run as a script, this file trains and kills itself."""

import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from robustctl import checkpoint, data, discovery
from robustctl.architectures import build
from robustctl.recipe import read as recipe
from robustctl.recipe.outer import Hat
from robustctl.spec import Architecture, ModelSpec
from robustctl.training import state_file
from robustctl.training.build import build_parts
from robustctl.training.loop import Loop

RECIPES = [name for name in recipe.names() if name.startswith("digits/")]
SPEC = ModelSpec(
    architecture=Architecture(name="kw-small", args={"width": 2, "hidden": 8}),
    input_shape=(1, 8, 8),
    n_classes=10,
    dataset="digits",
)


def make_loop(name: str, directory: Path, resuming: bool = False) -> Loop:
    """A recipe's training on 40 images, eight steps of the method; the state is saved after each."""
    content = recipe.load(name).resolved()
    content["train"].update(epochs=2, batch_size=8)
    content["selection"], content["overfitting_check"] = {"images": 8, "steps": 1}, None
    content["method"] |= {key: 2 for key in ("samples", "auto_steps", "replays") if key in content["method"]}
    if content["attack"]:
        content["attack"]["steps"] = 2
    directory.mkdir(exist_ok=True)
    torch.manual_seed(0)
    settings = recipe.from_resolved(content)
    model = build(SPEC)
    torch.manual_seed(5)  # the helper of a run that goes on must have the weights that it had
    helper = build(SPEC) if isinstance(settings.outer, Hat) else None
    parts = build_parts(model, SPEC, images(), settings, seed=0, device=torch.device("cpu"), helper=helper)
    loop = Loop(parts, directory, save_seconds=0.0)
    if resuming:
        loop.resume()
    return loop


@cache
def images() -> data.ImageData:
    return data.load("digits", "train", 40)


def die(*arguments: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def train_and_die(name: str, loop: Loop) -> None:
    """Train until a step that the recipe's name decides, and die before it, within it, or while its state is saved."""
    chance = random.Random(name)
    fatal, place = chance.randrange(1, loop.position.steps), chance.choice(["before", "within", "saving"])
    one_step, save = loop._one_step, torch.save

    def step(this: Any) -> None:
        if loop.position.step == fatal and place == "before":
            die()
        if loop.position.step == fatal and place == "within":
            for optimizer in loop.optimizers.values():
                optimizer.step = die  # type: ignore[method-assign]
        one_step(this)

    def save_half(state: Any, path: Path) -> None:
        save(state, path)
        if loop.position.step > fatal:
            os.truncate(path, path.stat().st_size // 2)
            die()

    loop._one_step = step  # type: ignore[method-assign]
    if place == "saving":
        torch.save = save_half
    loop.run()


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with one killed run a recipe."""
    folder = tmp_path_factory.mktemp("killed")
    command = [sys.executable, __file__, str(folder)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=dict(os.environ, ROBUSTCTL_QUIET="1")
    )
    assert done.returncode == 0, done.stderr
    yield folder


def test_every_method_is_killed() -> None:
    methods = {recipe.load(name).settings.method.name for name in RECIPES}
    # FARE needs a CLIP; its own test resumes it.
    assert methods | {"fare"} == set(discovery.names("robustctl.training.methods"))


@pytest.mark.parametrize("name", RECIPES)
def test_killed_run_resumes_to_the_bits_of_an_uninterrupted_one(name: str, killed: Path, tmp_path: Path) -> None:
    directory = killed / name.replace("/", "-")
    state = state_file.load(directory)
    whole = make_loop(name, tmp_path / "whole")
    assert state is not None and 0 <= state["at"][2] < whole.position.steps
    whole.run()
    resumed = make_loop(name, directory, resuming=True)
    resumed.run()
    for file in ("model.safetensors", "best.safetensors"):
        one, other = checkpoint.read_tensors(tmp_path / "whole" / file), checkpoint.read_tensors(directory / file)
        assert all(torch.equal(tensor, other[key]) for key, tensor in one.items()), file
    assert resumed.best == whole.best


if __name__ == "__main__":
    torch.set_num_threads(1)
    for name in RECIPES:
        loop = make_loop(name, Path(sys.argv[1]) / name.replace("/", "-"))
        child = os.fork()  # nothing has been trained in this process, so that its copies may
        if child == 0:
            train_and_die(name, loop)
            os._exit(1)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            sys.exit(f"{name} was not killed: {status}")
