"""The parts of ``robustctl bench gpu`` that measure speed: products, steps, epochs, attacks and evaluations."""

from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from robustctl.attacks.apgd import apgd
from robustctl.bench.attack import compare as contest
from robustctl.bench.gpu_setting import THREATS, TINY, Size, images, network, seconds
from robustctl.bench.train import compare
from robustctl.data import ImageData
from robustctl.devices import forget_peak, has_bf16, is_host, memory_peak
from robustctl.evaluation.families import default_batch_size
from robustctl.oracle import Oracle
from robustctl.precision import pick_precision
from robustctl.recipe import read as recipe
from robustctl.threats import Threat
from robustctl.training import optim
from robustctl.training.build import build_parts
from robustctl.training.footprint import fit, footprint
from robustctl.training.meter import Meter
from robustctl.training.parts import Parts
from robustctl.training.step import Step
from robustctl.training.step_context import StepContext

TRAIN_IMAGES = 50_000
METHODS = ("e-at", "ramp", "max")
"""Recipes of CIFAR-10 whose steps are timed."""
PRODUCT = 4096
"""Side of the square matrices whose product tells the device's peak."""


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the operations of products and convolutions inside, by torch's formulas.

    ``FlopCounterMode`` counts the same, but it follows modules, and fails at the gradients of an attack.
    """

    total = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.overloadpacket in flop_registry:
            self.total += flop_registry[func.overloadpacket](*args, **(kwargs or {}), out_val=out)
        return out


def peak(device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """Trillions of operations a second of a product of large matrices, in bfloat16 if the device has it."""
    side = PRODUCT if size.batch > TINY.batch else 256
    matrix = torch.rand(side, side, device=device, dtype=torch.bfloat16 if has_bf16(device) else torch.float32)
    return None, {"tflops": 2 * side**3 / seconds(lambda: matrix @ matrix, device) / 1e12}


def step(name: str, text: str, device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """A training step, ours and the authors', and the epoch of CIFAR-10 that follows from it; memory at its peak."""
    model, spec = network(name)
    model = model.to(device).train()
    forget_peak(device)
    with torch.autocast(device.type, torch.bfloat16, enabled=not is_host(device) and has_bf16(device)):
        found = compare(
            model,
            Threat.parse(text),
            input_shape=spec.input_shape,
            batch_size=size.batch,
            steps=size.steps,
            rounds=1 if is_host(device) else 3,
        )
    ours = sum(float(str(found[f"{part}_seconds"])) for part in ("attack", "training"))
    return None, {
        "step_seconds": ours,
        "epoch_seconds": ours * TRAIN_IMAGES / size.batch,
        "step_ratio": found["step_ratio"],
        "memory_peak": None if is_host(device) else memory_peak(device),
        "batch": size.batch,
        "steps": size.steps,
    }


def parts_of(
    method: str, name: str, device: torch.device, batch: int, *, batches: int = 1, precision: str | None = None
) -> Parts:
    """The parts of a training by a recipe of CIFAR-10 on random images, a few batches of them."""
    model, spec = network(name)
    settings = recipe.load(f"cifar10/{method}").settings
    asked = settings.train.model_copy(update={"batch_size": batch, "micro_batch": "auto"})
    selection = settings.selection.model_copy(update={"images": 1})
    changes = {"train": asked, "selection": selection, "extra": None, "precision": precision or settings.precision}
    x, _ = images(nn.Flatten(), batches * batch + 1)
    labels = torch.arange(len(x)) % spec.n_classes
    data = ImageData(x, labels, spec.n_classes, "random", "train", torch.arange(len(x)))
    return build_parts(model, spec, data, settings.model_copy(update=changes), seed=0, device=device)


def epoch(method: str, name: str, device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """A step of a recipe as training does it, and the epoch of CIFAR-10 that follows; the memory at its peak beside the
    one that a dry run foretells, and the share of the peak of large products, by a count of the operations."""
    parts = parts_of(method, name, device, size.batch)
    context = StepContext.of(parts.model, parts.settings, Meter(), parts.world, 0, device)
    parts.method.prepare(lambda _threat, _steps: 0.0, None)
    fit(parts, context)
    foretold = footprint(parts, context).total(size.batch, context.room.rows, recompute=context.room.recompute)
    forget_peak(device)
    optimizer = optim.optimizer(parts.model, parts.settings.optim, parts.lr, device)
    parts.method.start_epoch()
    parts.model.train()
    batch, y = parts.batches.get(0, 0, *parts.passes[-1].size, parts.world.part(size.batch))

    def train() -> None:
        optimizer.zero_grad(set_to_none=True)
        parts.method.loss(Step(context, batch, y, 0)).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    taken = seconds(train, device)
    memory = None if is_host(device) else memory_peak(device)
    with Operations() as counted:  # type: ignore[no-untyped-call]
        train()
    tflops = counted.total / taken / 1e12
    most = peak(device, size)[1]
    return None, {
        "step_seconds": taken,
        "epoch_seconds": taken * TRAIN_IMAGES / size.batch,
        "tflops": tflops,
        "share_of_peak": tflops / most["tflops"],
        "memory_peak": memory,
        "memory_foretold": foretold,
        "batch": size.batch,
        "at_once": min(context.room.rows, size.batch),
    }


def evaluation(name: str, device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """Our protocols and pyautoattack on the same images, and how many times as fast each of ours is.

    The model itself labels them: its weights know nothing, so that nearly every point breaks soon.
    """
    model, spec = network(name)
    x, y = images(model, size.attacked)
    data = ImageData(x, y, spec.n_classes, "random", "test", torch.arange(len(x)))
    numbers: dict[str, Any] = {}
    for protocol in ("adaptive", "standard"):
        found = contest(
            model.to(device),
            data,
            [Threat.parse(text) for text in THREATS],
            protocol=protocol,
            precision=pick_precision("auto", device),
            seed=0,
            batch_size=default_batch_size(device),
            peer_batch_size=250,
            rounds=1,
            peer=protocol == "standard",
            report=lambda line: None,
        )
        ours: Any = found["ours"]
        numbers[f"{protocol}_seconds"] = ours["median_seconds"]
        if protocol == "standard":
            theirs: Any = found["peer"]
            numbers["pyautoattack_seconds"] = theirs["median_seconds"]
    for protocol in ("adaptive", "standard"):
        numbers[f"{protocol}_times"] = numbers["pyautoattack_seconds"] / numbers[f"{protocol}_seconds"]
    return None, numbers


def attack(name: str, device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """Images per second and attack step, of APGD in each norm."""
    model, _ = network(name)
    x, y = images(model, size.points)
    numbers = {}
    there, x_there, y_there = model.to(device), x.to(device), y.to(device)
    for threat in map(Threat.parse, THREATS):
        with Oracle(there) as oracle:
            again = partial(apgd, oracle, x_there, y_there, threat, steps=size.steps)
            taken = seconds(again, device)
        numbers[f"{threat.norm}_images_per_second_and_step"] = len(x) * size.steps / taken
    return None, numbers
