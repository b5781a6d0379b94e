"""One run that tells whether an accelerator computes what the CPU does, and how fast, in the time that it is given.

The parts stand in the order of their worth, each leaves its numbers when it ends, and none begins after the time is
over; so the run may be cut at any moment.
"""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from robustctl import geometry, losses, seeds
from robustctl.architectures import build
from robustctl.attacks.apgd import apgd
from robustctl.bench.train import compare
from robustctl.devices import (
    HOST,
    forget_peak,
    hardware,
    has_bf16,
    is_host,
    kept_random,
    memory_peak,
    true_float32,
    wait_for,
)
from robustctl.evaluation import referee
from robustctl.oracle import Oracle
from robustctl.seeds import Purpose
from robustctl.spec import ModelSpec
from robustctl.threats import Threat

THREATS = ("linf:8/255", "l2:0.5", "l1:12")
TRAIN_IMAGES = 50_000
SAME = 1e-4
"""Logits and weights agree if they differ by at most this share of their largest size."""
PRODUCT = 4096
"""Side of the square matrices whose product tells the device's peak."""


@dataclass(frozen=True)
class Size:
    """How much work a part does.

    Attributes:
        networks: architectures for correctness, then for speed, in the order of their worth.
        points: images whose verdicts are compared. batch: images of a training step. steps: of an attack.
    """

    networks: tuple[str, ...] = ("preact-resnet18", "kw-small", "wide-resnet")
    points: int = 200
    batch: int = 128
    steps: int = 10


TINY = Size(networks=("kw-small",), points=8, batch=8, steps=2)
"""For a machine that is no accelerator, and for tests."""


@dataclass(frozen=True)
class Found:
    """A part's outcome. ``ok`` says whether the device computes what the CPU does; None if the part measures speed."""

    part: str
    ok: bool | None
    numbers: dict[str, Any]
    seconds: float


def run(device: torch.device, budget: float, size: Size | None = None) -> Iterator[Found]:
    """Do the parts until the time is over.

    Args:
        budget: seconds; a part that has begun is finished.
        size: None takes the usual one on an accelerator, and a tiny one on a CPU.

    Yields:
        Each part's outcome as soon as it is there. A part that fails reports the error and does not stop the others.
    """
    end = time.monotonic() + budget
    for name, work in _parts(device, size or (TINY if is_host(device) else Size())):
        if time.monotonic() >= end:
            return
        start = time.monotonic()
        try:
            ok, numbers = work()
        except (RuntimeError, ValueError) as error:
            ok, numbers = False, {"error": str(error).splitlines()[0]}
        yield Found(name, ok, numbers, round(time.monotonic() - start, 2))


def summary(device: torch.device, found: list[Found]) -> dict[str, Any]:
    """The JSON of ``robustctl bench gpu``."""
    return {
        "schema": "robustctl.bench-gpu/1",
        "hardware": hardware(device),
        "torch": torch.__version__,
        "same": all(one.ok is not False for one in found),
        "parts": [one.__dict__ for one in found],
    }


def lines(one: Found) -> list[str]:
    """A part's outcome for people: its name and verdict, then its numbers."""
    verdict = {True: "same", False: "DIFFERENT", None: "measured"}[one.ok]
    numbers = ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in one.numbers.items()
    )
    return [f"{one.part}: {verdict} ({one.seconds:.1f} s)", f"  {numbers}"]


Work = Callable[[], tuple[bool | None, dict[str, Any]]]


def _parts(device: torch.device, size: Size) -> Iterator[tuple[str, Work]]:
    for name in size.networks:
        yield f"logits {name}", partial(_logits, name, device, size)
    for name in size.networks:
        for text in THREATS:
            yield f"verdicts {name} {text}", partial(_verdicts, name, text, device, size)
    yield "projections", partial(_projections, device, size)
    yield f"training steps {size.networks[0]}", partial(_training, size.networks[0], device, size)
    yield "peak", partial(_peak, device, size)
    for name in size.networks:
        for text in (THREATS[0], THREATS[-1]):
            yield f"step {name} {text}", partial(_step, name, text, device, size)
    for name in size.networks:
        yield f"attack {name}", partial(_attack, name, device, size)


def _network(name: str) -> tuple[nn.Module, ModelSpec]:
    """A network for CIFAR-10 with weights from seed 0, in eval mode on the host."""
    architecture = {"name": name, "args": {"depth": 28, "width": 10} if name == "wide-resnet" else {}}
    values = {"architecture": architecture, "input_shape": (3, 32, 32), "n_classes": 10, "dataset": "cifar10"}
    spec = ModelSpec.model_validate(values)
    with kept_random():
        torch.manual_seed(0)
        return build(spec).eval(), spec


def _images(model: nn.Module, n: int) -> tuple[Tensor, Tensor]:
    """Random images, and what the model says about them."""
    x = torch.rand(n, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return x, model(x).argmax(1)


def _logits(name: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    model, _ = _network(name)
    x, _ = _images(model, size.points)
    with torch.no_grad(), true_float32(device):
        there = copy.deepcopy(model).to(device)(x.to(device)).cpu()
        here = model(x)
    off = float((there - here).abs().max() / here.abs().max())
    return off <= SAME, {"largest_difference": off}


def _verdicts(name: str, text: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    """Attack on both; each side's points are judged on the CPU. Then the same points are judged on both."""
    model, _ = _network(name)
    x, y = _images(model, size.points)
    threat = Threat.parse(text)
    there = copy.deepcopy(model).to(device)

    def attack(network: nn.Module, where: torch.device) -> Tensor:
        generators = seeds.generators(0, Purpose.BENCH, range(len(x)))
        with Oracle(network) as oracle:
            points = apgd(oracle, x.to(where), y.to(where), threat, steps=size.steps, generator=generators)
        return points.cpu()

    on_host, on_device = attack(model, HOST), attack(there, device)
    by_host = referee.judge(model, x, y, on_host, threat)
    of_device = referee.judge(model, x, y, on_device, threat)
    by_device = referee.judge(there, x, y, on_device, threat)
    unlike = int((by_device.broken != of_device.broken).sum())
    return unlike == 0, {
        "broken_by_cpu": int(by_host.broken.sum()),
        "broken_by_device": int(of_device.broken.sum()),
        "verdicts_that_differ_on_the_same_points": unlike,
        "points": len(x),
    }


def _projections(device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    """The largest difference from the CPU's projection in shares of the radius, and the time on a batch."""
    x = torch.rand(size.batch, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    outside = x + torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
    numbers: dict[str, Any] = {}
    for threat in map(Threat.parse, THREATS):
        here = geometry.project(outside, x, threat.norm, threat.eps)
        x_there, outside_there = x.to(device), outside.to(device)
        there = geometry.project(outside_there, x_there, threat.norm, threat.eps)
        numbers[f"{threat.norm}_difference"] = float((there.cpu() - here).abs().max() / threat.eps)
        again = partial(geometry.project, outside_there, x_there, threat.norm, threat.eps)
        numbers[f"{threat.norm}_seconds"] = _seconds(again, device)
    return all(numbers[f"{threat.norm}_difference"] <= SAME for threat in map(Threat.parse, THREATS)), numbers


def _training(name: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    """Three steps of adversarial training in float32 on both, from the same start."""
    model, _ = _network(name)
    x, y = _images(model, min(size.batch, 32))
    threat = Threat.parse(THREATS[0])

    def weights(where: torch.device) -> Tensor:
        network = copy.deepcopy(model).to(where).train()
        optimizer = torch.optim.SGD(network.parameters(), lr=0.01, momentum=0.9)
        for _ in range(3):
            with Oracle(network) as oracle:
                points = apgd(oracle, x.to(where), y.to(where), threat, steps=size.steps)
            optimizer.zero_grad()
            losses.ce(network(points), y.to(where)).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        return torch.cat([parameter.detach().flatten().cpu() for parameter in network.parameters()])

    with true_float32(device):
        there, here = weights(device), weights(HOST)
    start = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    off = float((there - here).norm() / (here - start).norm())
    return off <= 0.01, {"difference_by_movement": off}


def _peak(device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """Trillions of operations a second of a product of large matrices, in bfloat16 if the device has it."""
    side = PRODUCT if size.batch > TINY.batch else 256
    matrix = torch.rand(side, side, device=device, dtype=torch.bfloat16 if has_bf16(device) else torch.float32)
    return None, {"tflops": 2 * side**3 / _seconds(lambda: matrix @ matrix, device) / 1e12}


def _step(name: str, text: str, device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """A training step, ours and the authors', and the epoch of CIFAR-10 that follows from it; memory at its peak."""
    model, spec = _network(name)
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


def _attack(name: str, device: torch.device, size: Size) -> tuple[None, dict[str, Any]]:
    """Images per second and attack step, of APGD in each norm."""
    model, _ = _network(name)
    x, y = _images(model, size.points)
    numbers = {}
    there, x_there, y_there = model.to(device), x.to(device), y.to(device)
    for threat in map(Threat.parse, THREATS):
        with Oracle(there) as oracle:
            again = partial(apgd, oracle, x_there, y_there, threat, steps=size.steps)
            seconds = _seconds(again, device)
        numbers[f"{threat.norm}_images_per_second_and_step"] = len(x) * size.steps / seconds
    return None, numbers


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    """The second of two runs: the first one prepares what later ones find."""
    work()
    wait_for(device)
    start = time.perf_counter()
    work()
    wait_for(device)
    return time.perf_counter() - start
