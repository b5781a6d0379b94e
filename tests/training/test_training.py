"""Every recipe on disk is run for two steps, on random images of the right shape and a small network."""

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from robustctl import checkpoint, recipe
from robustctl.architectures import build
from robustctl.data import ImageData
from robustctl.spec import Architecture, ModelSpec
from robustctl.training.settings import Phase, Settings
from robustctl.training.start import build_loop

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


@pytest.mark.parametrize("name", recipe.names())
def test_recipe_runs_for_two_steps(name: str, tmp_path: Path) -> None:
    settings = small(recipe.load(name).settings, tmp_path)
    shape = SHAPES[settings.dataset]
    spec = ModelSpec(
        architecture=Architecture(name="kw-small", args={"width": 2, "hidden": 8}),
        input_shape=shape,
        n_classes=10,
        dataset=settings.dataset,
    )
    if settings.resize:  # kw-small takes one size only
        spec = spec.model_copy(
            update={"architecture": Architecture(name="wide-resnet", args={"depth": 10, "width": 1})}
        )
    torch.manual_seed(0)
    model = build(spec)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    loop = build_loop(model, spec, random_data(shape), settings, tmp_path, seed=0, device=torch.device("cpu"))
    # Natural passes come first where the recipe has them; what they did is rewound before gradient projection.
    before_method = sum(one.steps for one in loop.passes[: [one.kind for one in loop.passes].index("method")])
    outcome = loop.run(max_steps=before_method + 2)
    assert outcome.step == before_method + 2
    assert any(not torch.equal(value, before[key]) for key, value in model.state_dict().items())
    checkpoint.load_model(tmp_path)
