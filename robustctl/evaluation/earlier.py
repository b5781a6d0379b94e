"""Verdicts of earlier evaluations of the same model on the same images: a point that was broken once stays broken."""

import itertools
import json
import math
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from robustctl.data import ImageData
from robustctl.evaluation import referee
from robustctl.evaluation.audit import chunks
from robustctl.evaluation.store import COUNTED, EARLIER, Row, Store, decode, encode
from robustctl.evaluation.store_key import read_key
from robustctl.evaluation.store_tables import CHECKED, is_sound
from robustctl.threats import CurveNorm, Norm, Threat

SAME = ("weights", "architecture", "normalisation")
"""The common part that two evaluations need beside images, so that an image that breaks a point in one breaks it in the
other."""

CURVE = "any, see the distances"
"""Stands in the key of a curve's store in the place of radii."""
POSITION, X_ADV = 2, 6
"""Columns of the table of verdicts."""

Broken = tuple[int, bytes]
"""The position of a broken point, and its packed adversarial image."""


def take_over(
    model: nn.Module,
    data: ImageData,
    store: Store,
    threats: Sequence[Threat],
    positions: Sequence[int],
    stores: Sequence[Path],
    batch_size: int,
    passes: int = 1,
) -> None:
    """Judge again what earlier evaluations broke, and commit what still is; the attacks then leave these points out.

    Args:
        positions: points that may be taken over; those that this evaluation has broken already are left alone.
        stores: files of other evaluations, with a smaller or the same radius, and of curves. Stores of other models or
            images, and stores in use, are passed over; images may be the first of these.
        passes: that judge a point, see ``referee.vote``.
    """
    for path in stores:
        if path == store.path or not is_alike(path, store, data):
            continue
        there = read_key(path)
        try:
            family, radii = f"{EARLIER}{json.loads(there['protocol'])}", json.loads(there["threats"])
        except (KeyError, TypeError, ValueError):  # a damaged key
            continue
        if radii != CURVE and not isinstance(radii, dict):
            continue
        for threat in threats:
            wanted = set(positions) - store.broken(threat.norm)
            if radii == CURVE:
                found = nearest_in(path, threat.norm, wanted, data)
            elif radii.get(threat.norm, math.inf) <= threat.eps:
                found = broken_in(path, threat.norm, wanted)
            else:
                continue
            for chunk in chunks(found, batch_size):
                done = store.judged(threat.norm, family)
                store.add(threat.norm, family, _judged(model, data, threat, chunk, done, passes))


def is_alike(path: Path, store: Store, data: ImageData) -> bool:
    """Whether another store is of the same model on these images or the first of them; its witnesses count then."""
    there = read_key(path)
    if not all(field in there and there[field] == store.key[field] for field in SAME):
        return False
    try:
        n, images = int(there["n"]), json.loads(there["images"])
    except (KeyError, ValueError):  # a damaged key
        return False
    if not 0 < n <= len(data):
        return False
    first = data if n == len(data) else replace(data, x=data.x[:n], y=data.y[:n], indices=data.indices[:n])
    return bool(first.content_sha256 == images)


def counts(store: Store, threats: Sequence[Threat]) -> dict[str, dict[Norm, int]] | None:
    """How many points were taken over, by protocol and norm; None if there were none."""
    found = {
        family.removeprefix(EARLIER): {
            threat.norm: n for threat in threats if (n := len(store.broken(threat.norm, family)))
        }
        for family in store.families()
        if family.startswith(EARLIER)
    }
    return {protocol: norms for protocol, norms in found.items() if norms} or None


def broken_in(path: Path, norm: str, wanted: set[int]) -> Iterator[Broken]:
    """One adversarial image per point; none if the file is in use."""
    found: dict[int, bytes] = {}
    for position, packed in _rows(path, norm, wanted, COUNTED):
        found[position] = min(packed, found.get(position, packed))
    yield from found.items()


def nearest_in(path: Path, norm: CurveNorm, wanted: set[int], data: ImageData) -> Iterator[Broken]:
    """The adversarial image nearest to each point; there are none if the file is in use."""
    rows = sorted(_rows(path, norm, wanted, "1"), key=lambda row: row[0])
    for position, group in itertools.groupby(rows, key=lambda row: row[0]):
        image, best, least = data.images([position]), b"", math.inf
        for _, packed in group:
            size = float(referee.distance(decode(packed, image[0])[None], image, norm))
            best, least = (packed, size) if size < least else (best, least)
        yield position, best


def _rows(path: Path, norm: str, wanted: set[int], which: str) -> list[Broken]:
    """Position and image of the sound rows alone; of a damaged file as far as it can be read."""
    columns, found = CHECKED["verdicts"], []
    query = f"SELECT * FROM verdicts WHERE norm = ? AND broken = 1 AND {which}"
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True, timeout=0)) as connection:
            for line in connection.execute(query, (norm,)):
                row, checksum = line[:columns], (*line, None)[columns]  # an older store has no checksums
                if is_sound("verdicts", row, checksum) and row[POSITION] in wanted:
                    found.append((row[POSITION], row[X_ADV]))
    except (sqlite3.Error, UnicodeDecodeError):
        pass
    return found


def _judged(
    model: nn.Module, data: ImageData, threat: Threat, found: Sequence[Broken], done: set[int], passes: int
) -> list[Row]:
    left = [(position, packed) for position, packed in found if position not in done]
    if not left:
        return []
    positions = [position for position, _ in left]
    x, y = data.images(positions), data.y[positions]
    x_adv = torch.stack([decode(packed, image) for (_, packed), image in zip(left, x, strict=True)])
    verdicts = referee.judge(model, x, y, x_adv, threat, passes)
    return [
        Row(position, True, True, float(verdicts.margin[i]), encode(x_adv[i], x[i]))
        for i, position in enumerate(positions)
        if verdicts.broken[i]
    ]
