"""One run that tells whether an accelerator computes what the CPU does, and how fast, in the time that it is given.

The parts stand in the order of their worth, each leaves its numbers when it ends, and none begins after the time is
over; so the run may be cut at any moment.
"""

import copy
import tempfile
import time
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robustctl import geometry, losses, seeds
from robustctl.attacks.apgd import apgd
from robustctl.bench.gpu_setting import TARGETS, THREATS, Size, images, network, seconds, usual
from robustctl.bench.gpu_speed import METHODS, attack, epoch, evaluation, parts_of, peak, step
from robustctl.devices import (
    HOST,
    hardware,
    true_float32,
)
from robustctl.errors import RequestError, RobustctlError
from robustctl.evaluation import referee
from robustctl.oracle import Oracle
from robustctl.seeds import Purpose
from robustctl.threats import Threat
from robustctl.training.loop import Loop

SAME = 1e-4
"""Logits and weights agree if they differ by at most this share of their largest size."""
PATIENCE = 20.0
"""Seconds that the CPU may take to attack a network's images."""
SPEED = ("peak", "step", "epoch", "attack", "evaluation")
"""The parts that measure speed; the others compare the device with the CPU."""


@dataclass(frozen=True)
class Found:
    """A part's outcome. ``ok`` says whether the device computes what the CPU does; None if the part measures speed."""

    part: str
    ok: bool | None
    numbers: dict[str, Any]
    seconds: float


def part_names(device: torch.device, size: Size | None = None) -> list[str]:
    """The parts in their order."""
    return [name for name, _ in _parts(device, size or usual(device))]


def run(device: torch.device, budget: float, size: Size | None = None, done: Collection[str] = ()) -> Iterator[Found]:
    """Do the parts until the time is over.

    Args:
        budget: seconds; a part that has begun is finished.
        size: None takes the usual one on an accelerator, and a tiny one on a CPU.
        done: names of parts that are left out, because an earlier run has done them.

    Yields:
        Each part's outcome as soon as it is there. A part that fails reports the error and does not stop the others.
    """
    end = time.monotonic() + budget
    for name, work in _parts(device, size or usual(device)):
        if name in done:
            continue
        if time.monotonic() >= end:
            return
        start = time.monotonic()
        try:
            ok, numbers = work()
        except (RuntimeError, ValueError, RobustctlError) as error:
            ok, numbers = None if name.startswith(SPEED) else False, {"error": str(error).splitlines()[0]}
        yield Found(name, ok, numbers, round(time.monotonic() - start, 2))


def earlier(written: dict[str, Any], device: torch.device) -> list[Found]:
    """The parts that a file of an earlier run holds.

    Raises:
        RequestError: the file is another command's, or its run had another device or another torch.
    """
    now = summary(device, [])
    for name in ("schema", "hardware", "torch"):
        if written.get(name) != now[name]:
            raise RequestError(
                f"the file's {name} is {written.get(name)}, here it is {now[name]}: it cannot go on here"
            )
    return [Found(**one) for one in written["parts"]]


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
    target = [f"  target on an H100: {TARGETS[one.part]}"] if one.part in TARGETS else []
    return [f"{one.part}: {verdict} ({one.seconds:.1f} s)", f"  {numbers}", *target]


Work = Callable[[], tuple[bool | None, dict[str, Any]]]


def _parts(device: torch.device, size: Size) -> Iterator[tuple[str, Work]]:
    for name in size.networks:
        yield f"logits {name}", partial(_logits, name, device, size)
    for name in size.networks:
        for text in THREATS:
            yield f"verdicts {name} {text}", partial(_verdicts, name, text, device, size)
    yield "projections", partial(_projections, device, size)
    yield f"training steps {size.networks[0]}", partial(_training, size.networks[0], device, size)
    yield f"resume {size.networks[0]}", partial(_resume, size.networks[0], device, size)
    yield "peak", partial(peak, device, size)
    for method in METHODS:
        for name in size.fast:
            yield f"epoch {method} {name}", partial(epoch, method, name, device, size)
    for name in size.fast:
        yield f"evaluation {name} beside pyautoattack", partial(evaluation, name, device, size)
    for name in size.large:
        yield f"epoch ramp {name}", partial(epoch, "ramp", name, device, size)
    for name in size.fast:
        yield f"attack {name}", partial(attack, name, device, size)
    for name in size.fast:
        for text in (THREATS[0], THREATS[-1]):
            yield f"step {name} {text}", partial(step, name, text, device, size)


def _logits(name: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    model, _ = network(name)
    x, _ = images(model, size.points)
    with torch.no_grad(), true_float32(device):
        there = copy.deepcopy(model).to(device)(x.to(device)).cpu()
        here = model(x)
    off = float((there - here).abs().max() / here.abs().max())
    return off <= SAME, {"largest_difference": off}


def _verdicts(name: str, text: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    """Attack on both; each side's points are judged on the CPU. Then the same points are judged on both.

    A network whose attack would take the CPU too long is attacked on the device alone.
    """
    model, _ = network(name)
    x, y = images(model, size.points)
    threat = Threat.parse(text)
    there = copy.deepcopy(model).to(device)

    def attack(network: nn.Module, where: torch.device) -> Tensor:
        generators = seeds.generators(0, Purpose.BENCH, range(len(x)))
        with Oracle(network) as oracle:
            points = apgd(oracle, x.to(where), y.to(where), threat, steps=size.steps, generator=generators)
        return points.cpu()

    on_device = attack(there, device)
    start = time.monotonic()
    of_device = referee.judge(model, x, y, on_device, threat)
    passes = 3 * (size.steps + 1)  # forward, and backward at about twice the time
    by_host = None
    if passes * (time.monotonic() - start) < PATIENCE:
        by_host = int(referee.judge(model, x, y, attack(model, HOST), threat).broken.sum())
    by_device = referee.judge(there, x, y, on_device, threat)
    unlike = int((by_device.broken != of_device.broken).sum())
    return unlike == 0, {
        "broken_by_cpu": by_host,
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
        numbers[f"{threat.norm}_seconds"] = seconds(again, device)
    return all(numbers[f"{threat.norm}_difference"] <= SAME for threat in map(Threat.parse, THREATS)), numbers


def _training(name: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    """Three steps of adversarial training in float32 on both, from the same start."""
    model, _ = network(name)
    x, y = images(model, min(size.batch, 32))
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


def _resume(name: str, device: torch.device, size: Size) -> tuple[bool, dict[str, Any]]:
    """Four steps of E-AT in float32 on the device, in one go and with a stop after two."""

    def run(directory: Path, *stops: int) -> Tensor:
        for stop in stops:
            parts = parts_of("e-at", name, device, min(size.batch, 32), batches=5, precision="float32")
            loop = Loop(parts, directory)
            loop.resume()
            loop.run(stop)
        return torch.cat([parameter.detach().flatten().cpu() for parameter in loop.model.parameters()])

    with tempfile.TemporaryDirectory() as here, tempfile.TemporaryDirectory() as there, true_float32(device):
        whole, resumed = run(Path(here), 4), run(Path(there), 2, 4)
    start = torch.cat([parameter.detach().flatten() for parameter in network(name)[0].parameters()])
    off = float((resumed - whole).norm() / (whole - start).norm())
    return off <= 0.01, {"difference_by_movement": off}
