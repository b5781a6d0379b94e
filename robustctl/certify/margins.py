"""The margins of many points, one after the other, kept in a file from which the same command goes on."""

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import nn

from robustctl.certify.bounds import margin_bound
from robustctl.data import ImageData
from robustctl.files import writing
from robustctl.threats import Norm, Threat

Advance = Callable[[int], None]
PROBES = 4
"""Images at which the structure of the network is checked, and as many of their negatives."""


def margins(
    network: nn.Module,
    data: ImageData,
    threats: Sequence[Threat],
    rows: int,
    seconds: float,
    kept: Path,
    advance: Advance,
) -> tuple[dict[Norm, list[float]], dict[Norm, set[int]]]:
    """By norm, at most the least margin of each image in the ball, and the positions of images that were broken.

    Args:
        network: frozen and in float64. rows: passes at a time. seconds: as ``margin_bound`` takes it.
        kept: file of finished margins; those in it are taken.

    Raises:
        RequestError: the network is not made of affine layers and ReLUs alone.
        RunError: the file cannot be written.
    """
    done = _read(kept)
    device = next(network.parameters()).device
    some = data.images(range(min(PROBES, len(data)))).double().to(device)
    probes = torch.cat([some, 1 - some])
    with writing(kept), kept.open("a", encoding="utf-8") as file:
        for position in range(len(data)):
            x = data.images([position]).double().to(device)
            for threat in threats:
                if (threat.norm, position) not in done:
                    bound, image = margin_bound(network, x, int(data.y[position]), threat, rows, probes, seconds)
                    done[threat.norm, position] = bound, image is not None
                    file.write(_line(threat.norm, position, bound, image is not None))
                    file.flush()
                advance(1)
    found = {threat.norm: [done[threat.norm, position][0] for position in range(len(data))] for threat in threats}
    broken = {norm: {position for position in range(len(data)) if done[norm, position][1]} for norm in found}
    return found, broken


def _line(norm: Norm, position: int, bound: float, is_broken: bool) -> str:
    text = json.dumps([norm, position, bound, is_broken])
    return f"\n{text} {zlib.crc32(text.encode()):08x}"  # the line break first: a torn line before it is closed


def _read(kept: Path) -> dict[tuple[Norm, int], tuple[float, bool]]:
    """The margins in a file whose lines are whole; the others are computed again."""
    done: dict[tuple[Norm, int], tuple[float, bool]] = {}
    text = kept.read_bytes().decode("utf-8", "replace") if kept.exists() else ""
    for line in text.splitlines():
        written, _, checksum = line.rpartition(" ")
        if f"{zlib.crc32(written.encode()):08x}" == checksum:
            norm, position, bound, is_broken = json.loads(written)
            done[norm, position] = bound, is_broken
    return done
