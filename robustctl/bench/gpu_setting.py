"""The networks, images and sizes of ``robustctl bench gpu``, and its clock."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustctl.architectures import Classifier, build
from robustctl.devices import is_host, kept_random, wait_for
from robustctl.spec import ModelSpec

THREATS = ("linf:8/255", "l2:0.5", "l1:12")
ARGUMENTS: dict[str, dict[str, int]] = {
    "wide-resnet": {"depth": 28, "width": 10},
    "wide-resnet-70-16": {"depth": 70, "width": 16},
}


@dataclass(frozen=True)
class Size:
    """How much work a part does.

    Attributes:
        networks: architectures whose results are compared with the CPU's.
        fast: architectures whose speed is measured, in the order of their worth.
        large: a network that takes the memory of a large card; its step comes last.
        points: images whose verdicts are compared. attacked: images of an evaluation. batch: images of a training step.
        steps: of an attack.
    """

    networks: tuple[str, ...] = ("preact-resnet18", "kw-small", "wide-resnet")
    fast: tuple[str, ...] = ("preact-resnet18", "wide-resnet")
    large: tuple[str, ...] = ("wide-resnet-70-16",)
    points: int = 200
    attacked: int = 1000
    batch: int = 128
    steps: int = 10


TINY = Size(networks=("kw-small",), fast=("kw-small",), large=(), points=8, attacked=2, batch=8, steps=2)
"""For a machine that is no accelerator, and for tests."""


PLANNED = {
    "logits": 2,
    "verdicts": 10,
    "projections": 2,
    "training": 5,
    "resume": 5,
    "peak": 2,
    "epoch": 8,
    "evaluation": 90,
    "attack": 5,
    "step": 15,
}
"""Seconds of a part by its first word, as planned for an H100 whose host has 16 cores. They are calculated from the
operations, at 300 TFLOP/s there and 1 TFLOP/s on the host, plus some seconds to start; no part has run on a card."""
TARGETS = {
    "epoch e-at preact-resnet18": "epoch_seconds at most 8, share_of_peak at least 0.3",
    "epoch e-at wide-resnet": "epoch_seconds at most 45, share_of_peak at least 0.3",
    "evaluation preact-resnet18 beside pyautoattack": "adaptive_times at least 15",
    "evaluation wide-resnet beside pyautoattack": "adaptive_times at least 15",
}
"""Aims of the project on one H100 or H200. For an epoch the papers have 160 s (V100) and 78 s (A100) with
PreAct ResNet-18, and 334 s (A100) with WRN-28-10."""


def planned(part: str) -> int:
    """Seconds of a part, as planned."""
    return PLANNED[part.split()[0]]


def usual(device: torch.device) -> Size:
    """The size for a device: tiny on a CPU."""
    return TINY if is_host(device) else Size()


def network(name: str) -> tuple[Classifier, ModelSpec]:
    """A network for CIFAR-10 with weights from seed 0, in eval mode on the host."""
    architecture = {"name": name.removesuffix("-70-16"), "args": ARGUMENTS.get(name, {})}
    values = {"architecture": architecture, "input_shape": (3, 32, 32), "n_classes": 10, "dataset": "cifar10"}
    spec = ModelSpec.model_validate(values)
    with kept_random():
        torch.manual_seed(0)
        return build(spec).eval(), spec


def images(model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """Random images, and what the model says about them."""
    x = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model(x).argmax(1)


def seconds(work: Callable[[], object], device: torch.device) -> float:
    """The second of two runs: the first one prepares what later ones find."""
    work()
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start
