"""Every recipe on disk is run for two steps, and every method resumed, on random images and a small network."""

import pickle
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch

from robustctl import checkpoint
from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.models import find
from robustctl.recipe import read as recipe
from robustctl.recipe.outer import Hat
from robustctl.recipe.schema import Phase, Settings
from robustctl.spec import Architecture, ModelSpec
from robustctl.training.build import build_parts, learning_rate
from robustctl.training.loop import Loop

SHAPES = {"digits": (1, 8, 8), "mnist": (1, 28, 28), "cifar10": (3, 32, 32), "imagenet": (3, 32, 32)}
"""ImageNet's recipes meet small images: what is tested is the recipe, not the network's size."""


def random_data(shape: tuple[int, int, int], n: int = 24) -> ImageData:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(256, (n, *shape), generator=generator, dtype=torch.uint8)
    y = torch.arange(n) % 10
    return ImageData(x, y, 10, "random", "train", torch.arange(n))


def small(settings: Settings, folder: Path) -> Settings:
    """The same recipe with batches of 8 and short attacks; what it combines stays."""
    changes = {
        "train": settings.train.model_copy(update={"batch_size": 8, "epochs": max(2, min(settings.train.epochs, 2))}),
        "selection": settings.selection.model_copy(update={"images": 4, "steps": 1}),
    }
    if settings.attack:
        changes["attack"] = settings.attack.model_copy(update={"steps": dict.fromkeys(settings.attack.steps, 2)})
    if settings.pretrain:
        changes["pretrain"] = settings.pretrain.model_copy(update={"epochs": 1})
    if settings.resize:
        changes["resize"] = (Phase(at=0, size=16, batch_size=8), Phase(at=1, size=32, batch_size=4))
    if settings.extra:
        images = {"data": np.zeros((9, 32, 32, 3), np.uint8), "extrapolated_targets": np.arange(9)}
        (folder / "extra.pickle").write_bytes(pickle.dumps(images))
        changes["extra"] = settings.extra.model_copy(update={"path": str(folder / "extra.pickle")})
    return settings.model_copy(update=changes)


def loop_of(name: str, folder: Path, *, resuming: bool = False) -> Loop:
    folder.mkdir(exist_ok=True)
    settings = small(recipe.load(name).settings, folder)
    spec = ModelSpec(
        architecture=Architecture(name="kw-small", args={"width": 2, "hidden": 8}),
        input_shape=SHAPES[settings.dataset],
        n_classes=10,
        dataset=settings.dataset,
    )
    if settings.resize:  # kw-small takes one size only
        wide = Architecture(name="wide-resnet", args={"depth": 10, "width": 1})
        spec = spec.model_copy(update={"architecture": wide})
    if settings.train.freeze:  # recipes for CLIPs
        tiny = {"image_size": 16, "patch_size": 8, "width": 16, "layers": 1, "heads": 2, "projection": 8}
        spec = spec.model_copy(update={"architecture": Architecture(name="clip", args=tiny)})
    torch.manual_seed(0)
    data, cpu = random_data(spec.input_shape), torch.device("cpu")
    model = build(spec)
    helper = build(spec) if isinstance(settings.outer, Hat) else None
    loop = Loop(build_parts(model, spec, data, settings, seed=0, device=cpu, helper=helper), folder)
    if resuming:
        loop.resume()
    return loop


@cache
def architectures_of_entries() -> set[str]:
    return {find.read_entry(entry).architecture.name for entry in find.entry_files()}


@pytest.mark.parametrize("name", recipe.names())
def test_architectures_that_a_recipe_names_are_there(name: str) -> None:
    settings = recipe.load(name).settings
    assert set(settings.optim.lr) <= architectures_of_entries() | set(settings.architecture) | {"default"}
    shape = (3, 224, 224) if settings.dataset == "imagenet" else SHAPES[settings.dataset]
    for architecture, args in settings.architecture.items():
        spec = ModelSpec(
            architecture=Architecture(name=architecture, args=args),
            input_shape=shape,
            n_classes=10,
            dataset=settings.dataset,
        )
        with torch.device("meta"):
            model = build(spec)
        assert model(torch.empty(1, *shape, device="meta")).shape == (1, 10)
        assert settings.optim.lr_for(architecture) is not None


@pytest.mark.parametrize(
    ("recipe_name", "entry", "lr"),
    [
        ("imagenet/ramp", "xcit-s12", 1e-4),  # RAMP, section 5
        ("imagenet/ramp", "engstrom-rn50-imagenet", 5e-3),
        ("cifar10/ramp", "croce-rn18-linf", 0.05),  # B.7
        ("cifar10/e-at", "rebuffi-rn18", 0.05),
        ("cifar10/e-at-extra", "gowal-2021-rn18", 0.05),
        ("cifar10/e-at", "gowal-wrn70", 0.01),
    ],
)
def test_model_is_fine_tuned_at_the_published_rate(recipe_name: str, entry: str, lr: float) -> None:
    assert learning_rate(recipe.load(recipe_name).settings, find.read_entry(entry)) == lr


@pytest.mark.parametrize("name", recipe.names())
def test_recipe_runs_for_two_steps(name: str, tmp_path: Path) -> None:
    loop = loop_of(name, tmp_path)
    before = {key: value.clone() for key, value in loop.model.state_dict().items()}
    # Natural passes come first where the recipe has them; what they did is rewound before gradient projection.
    before_method = sum(
        one.steps for one in loop.position.passes[: [one.kind for one in loop.position.passes].index("method")]
    )
    outcome = loop.run(max_steps=before_method + 2)
    assert outcome.step == before_method + 2
    assert any(not torch.equal(value, before[key]) for key, value in loop.model.state_dict().items())
    checkpoint.load_model(tmp_path)


@pytest.mark.parametrize("name", [name for name in recipe.names() if name.startswith("digits/")])
def test_every_method_resumes_bit_for_bit_after_a_stop_in_the_middle_of_an_epoch(name: str, tmp_path: Path) -> None:
    whole = loop_of(name, tmp_path / "whole")
    whole.run()
    loop_of(name, tmp_path / "parts").run(max_steps=whole.position.steps // 2 - 1)
    loop_of(name, tmp_path / "parts", resuming=True).run()
    a, b = (checkpoint.read_tensors(tmp_path / part / "model.safetensors") for part in ("whole", "parts"))
    assert all(torch.equal(a[key], b[key]) for key in a)
