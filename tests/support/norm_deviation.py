"""Measures how far micro-batches move the gradient of a network with batch norms; prints the table of docs/scale.md."""

import statistics

import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl import data
from robustctl.architectures import build
from robustctl.spec import ModelSpec
from robustctl.training.micro_batches import MicroBatches
from robustctl.training.room import Room

BATCH, SEEDS = 64, 5
SPEC = {
    "architecture": {"name": "wide-resnet", "args": {"depth": 10, "width": 1}},
    "input_shape": (1, 8, 8),
    "n_classes": 10,
    "dataset": "digits",
}


def gradient(rows: int, seed: int) -> Tensor:
    """The gradient of the cross-entropy of 64 digits at a fresh network, in micro-batches of ``rows`` images."""
    torch.manual_seed(seed)
    model = build(ModelSpec.model_validate(SPEC)).double().train()
    images = data.load("digits", "train", BATCH * SEEDS)
    part = slice(seed * BATCH, (seed + 1) * BATCH)
    passes = MicroBatches(model, Room(model, rows))
    loss = F.cross_entropy(passes(images.x[part].double()), images.y[part])
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, list(model.parameters()))])


def main() -> None:
    """Print a line for each size."""
    whole = [gradient(BATCH, seed) for seed in range(SEEDS)]
    for rows in (32, 16, 8, 4):
        parts = [gradient(rows, seed) for seed in range(SEEDS)]
        off = [float((a - b).norm() / b.norm()) for a, b in zip(parts, whole, strict=True)]
        same = [float(F.cosine_similarity(a, b, dim=0)) for a, b in zip(parts, whole, strict=True)]
        print(
            f"| {rows} | {statistics.mean(off):.2f} ± {statistics.stdev(off):.2f} "
            f"| {statistics.mean(same):.3f} ± {statistics.stdev(same):.3f} |"
        )


if __name__ == "__main__":
    main()
