"""Strength at equal budget: our protocols against the reference on real models; minutes each, hence slow."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from robustctl import data
from robustctl.architectures import Classifier, build
from robustctl.bench.attack import compare
from robustctl.precision import pick_precision
from robustctl.spec import ModelSpec
from robustctl.threats import Threat

POINTS_WEAKER = 0.5
MEAN_DIFFERENCE = 0.2
N = 200


def read_model(shared: Path, name: str) -> tuple[Classifier, str, list[Threat]]:
    """A model of the reference folder, its images' folder and the threats to evaluate."""
    weights: Any
    if name == "wrn10":
        weights = load_file(shared / "models/cifar10-wrn10-1-linf.safetensors")
        parts = {"architecture": {"name": "wide-resnet", "args": {"depth": 10, "width": 1}}}
    elif name == "mnist":
        weights = torch.load(shared / "models/fast_mnist_pgd.pth", weights_only=True, map_location="cpu")
        parts = {"architecture": {"name": "kw-small"}}
    else:
        weights = torch.load(shared / "models/cifar_wide_kw.pth", weights_only=True, map_location="cpu")["state_dict"][
            0
        ]
        normalization = {"mean": [0.485, 0.456, 0.406], "std": [0.225, 0.225, 0.225]}
        parts = {"architecture": {"name": "kw-small"}, "normalization": normalization}
    mnist = name == "mnist"
    shape = (1, 28, 28) if mnist else (3, 32, 32)
    spec = ModelSpec.model_validate(parts | {"input_shape": shape, "n_classes": 10, "dataset": "any"})
    model = build(spec).eval()
    model.net.load_state_dict(weights)
    radii = ("linf:0.3", "l2:2", "l1:10") if mnist else ("linf:8/255", "l2:0.5", "l1:12")
    if name == "wide-kw":
        radii = ("linf:2/255", "l2:0.25", "l1:4")
    folder = "mnist-part" if mnist else "cifar10-jpeg"
    return model, str(shared / "data" / folder), [Threat.parse(radius) for radius in radii]


@pytest.mark.slow
@pytest.mark.parametrize("protocol", ["standard", "full"])
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_we_are_as_strong_as_the_reference_on_three_models_and_norms(
    shared: Path, protocol: str, precision: str
) -> None:
    differences = {}
    for name in ("mnist", "wrn10", "wide-kw"):
        model, folder, threats = read_model(shared, name)
        images = data.load(folder, "test", N)
        result: Any = compare(
            model, images, threats, protocol=protocol, precision=pick_precision(precision, torch.device("cpu")),
            seed=0, batch_size=100, peer_batch_size=250, rounds=1, peer=True, report=print,
        )  # fmt: skip
        print(name, result["points_broken_by_one_only"])
        for norm, accuracy in result["ours"]["accuracy"].items():
            differences[name, norm] = 100 * (accuracy - result["peer"]["accuracy"][norm])
    print(differences)
    assert max(differences.values()) <= POINTS_WEAKER + 1e-9, "the addend is float rounding of the percentages"
    assert sum(differences.values()) / len(differences) <= MEAN_DIFFERENCE
