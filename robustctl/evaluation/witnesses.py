"""Witnesses: the adversarial images that prove which points are broken, in a file that anybody can judge again.

The file is safetensors. By norm it holds ``NORM.index`` (m,) int64, the points' indices in their split, and
``NORM.delta.K`` uint8, the K-th chunk of images as ``witness_code`` packs them. The metadata say what they are of.
"""

import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from robustctl import checkpoint
from robustctl.data import ImageData
from robustctl.errors import RequestError
from robustctl.evaluation.audit import BATCH, chunks
from robustctl.evaluation.earlier import broken_in
from robustctl.evaluation.store import decode
from robustctl.evaluation.witness_code import PLANES, images_per_chunk, pack, unpack, unpack_earlier
from robustctl.results.union import UnionResult
from robustctl.spec import ModelSpec, model_sha256
from robustctl.threats import Norm, Threat

SCHEMA, EARLIER = "robustctl.witnesses/2", "robustctl.witnesses/1"
"""The schema that is written, and the one of earlier versions, which is read too."""
SPARE_BYTES = 4096
"""A packed chunk may be so much larger than what it holds."""

Batch = tuple[list[int], Tensor]
"""Positions in the data, and the adversarial images (n, c, h, w) of these points."""


class Witnesses(Protocol):
    """Adversarial images of one evaluation, at most one per point and norm."""

    @property
    def origin(self) -> "Origin | None":
        """The subject that they name themselves; None if they lie beside their evaluation."""
        ...

    def indices(self, norm: Norm) -> list[int]:
        """The points, by their index in the split, in the order of ``batches``."""
        ...

    def batches(self, threat: Threat, data: ImageData) -> Iterator[Batch]:
        """The images, a batch at a time; RequestError if they do not belong to these data."""
        ...


class Origin(BaseModel):
    """The subject of witnesses: hashes of weights, of what stands around them, and of the images; radii as written."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    weights_sha256: str
    model_sha256: str
    content_sha256: str
    threats: dict[Norm, str]

    def same_as(self, other: "Origin") -> bool:
        """Whether both are of one model on the same images, so that what breaks a point of one breaks it for both."""
        return self.model_copy(update={"threats": other.threats}) == other


def origin_of(result: UnionResult, spec: ModelSpec, data: ImageData) -> Origin:
    """The origin of the witnesses of one evaluation."""
    return Origin(
        weights_sha256=result.weights_sha256,
        model_sha256=model_sha256(spec),
        content_sha256=data.content_sha256,
        threats={norm: one.eps_text for norm, one in result.norms.items()},
    )


class StoredWitnesses:
    """The adversarial images in the verdict store of an evaluation on this machine."""

    def __init__(self, path: Path, result: UnionResult) -> None:
        self.path = path
        self.result = result
        self.origin: Origin | None = None

    def _broken(self, norm: Norm) -> list[tuple[int, bytes]]:
        claimed = self.result.points.robust[norm]
        wanted = {position for position, robust in enumerate(claimed) if not robust}
        return sorted(broken_in(self.path, norm, wanted))

    def indices(self, norm: Norm) -> list[int]:
        """The points that the store has an image of."""
        return [self.result.points.index[position] for position, _ in self._broken(norm)]

    def batches(self, threat: Threat, data: ImageData) -> Iterator[Batch]:
        """The images as the store has them; the data must be the evaluation's."""
        for batch in chunks(self._broken(threat.norm), BATCH):
            positions = [position for position, _ in batch]
            x = data.images(positions)
            yield positions, torch.stack([decode(packed, image) for (_, packed), image in zip(batch, x, strict=True)])


@dataclass(frozen=True)
class PublishedWitnesses:
    """The adversarial images of a file. Only one chunk of them is in memory at a time, however large the file is.

    Attributes:
        index: by norm, the points by their index in the split.
        earlier: they are packed as earlier versions did it.
    """

    path: Path
    origin: Origin
    index: Mapping[Norm, list[int]]
    earlier: bool = False

    def indices(self, norm: Norm) -> list[int]:
        """The points that the file has an image of."""
        return self.index.get(norm, [])

    def batches(self, threat: Threat, data: ImageData) -> Iterator[Batch]:
        """Unpack the images; RequestError for a point that the data lack, or a damaged file."""
        place = {index: position for position, index in enumerate(data.indices.tolist())}
        indices = self.indices(threat.norm)
        if strangers := [index for index in indices if index not in place]:
            raise RequestError(f"{self.path} has a witness of point {strangers[0]}, which is none of the claim's")
        undo = unpack_earlier if self.earlier else unpack
        for number, chunk in enumerate(chunks(indices, images_per_chunk(data.shape))):
            positions = [place[index] for index in chunk]
            name = f"{threat.norm}.delta.{number}"
            most = PLANES * len(chunk) * int(np.prod(data.shape)) + SPARE_BYTES
            packed = checkpoint.read_tensor(self.path, name, torch.uint8, most)
            try:
                yield positions, undo(packed.numpy().tobytes(), data.images(positions), threat)
            except (lzma.LZMAError, ValueError) as error:
                raise RequestError(f"{self.path}: {name} is damaged: {error}") from None


class Joined:
    """The witnesses of a claim, and those that others published of the same model, images and radii.

    An image that breaks a point breaks it whoever found it.
    """

    def __init__(self, own: PublishedWitnesses, others: Sequence[PublishedWitnesses]) -> None:
        self.own = own
        self.others = others

    @property
    def origin(self) -> Origin:
        """The subject of the claim's own witnesses."""
        return self.own.origin

    def indices(self, norm: Norm) -> list[int]:
        """The points that any of them has an image of."""
        return sorted({index for one in (self.own, *self.others) for index in one.indices(norm)})

    def batches(self, threat: Threat, data: ImageData) -> Iterator[Batch]:
        """All of the images; a point may come again."""
        yield from self.own.batches(threat, data)
        for one in self.others:
            if one.origin.threats.get(threat.norm) == threat.eps_text:
                yield from one.batches(threat, data)


def write(path: Path, witnesses: Witnesses, origin: Origin, data: ImageData) -> dict[Norm, int]:
    """Write witnesses to a file; returns how many there are by norm.

    Raises:
        RequestError: the data are not the evaluation's.
        RunError: the disk.
    """
    tensors: dict[str, Tensor] = {}
    counts: dict[Norm, int] = {}
    for norm, eps_text in origin.threats.items():
        threat = Threat.of(norm, eps_text)
        found: list[int] = []
        for number, (positions, x_adv) in enumerate(
            _regrouped(witnesses.batches(threat, data), images_per_chunk(data.shape))
        ):
            packed = np.frombuffer(pack(x_adv, data.images(positions), threat), np.uint8)
            tensors[f"{norm}.delta.{number}"] = torch.from_numpy(packed.copy())
            found += positions
        tensors[f"{norm}.index"] = data.indices[torch.tensor(found, dtype=torch.int64)]
        counts[norm] = len(found)
    checkpoint.save_tensors(tensors, path, {"schema": SCHEMA, "origin": origin.model_dump_json()})
    return counts


def _regrouped(batches: Iterable[Batch], size: int) -> Iterator[Batch]:
    """The same images in batches of ``size``, the last one of the rest."""
    positions: list[int] = []
    images: list[Tensor] = []
    for more, x_adv in batches:
        positions, images = [*positions, *more], [torch.cat([*images, x_adv])]
        while len(positions) >= size:
            yield positions[:size], images[0][:size]
            positions, images = positions[size:], [images[0][size:]]
    if positions:
        yield positions, images[0]


def read(path: Path, n: int) -> PublishedWitnesses:
    """Read what a file of witnesses is of; the images are read when they are asked for.

    Args:
        n: points of the claim; no norm can have more witnesses.

    Raises:
        RequestError: missing, damaged, or not a file of witnesses.
    """
    metadata = checkpoint.read_metadata(path)
    schema = metadata.get("schema")
    if schema not in (SCHEMA, EARLIER):
        raise RequestError(f"{path} holds no witnesses: its schema is {schema!r}, not {SCHEMA!r}")
    try:
        origin = Origin.model_validate_json(metadata.get("origin", ""))
    except ValidationError as error:
        raise RequestError(f"{path} does not say what its witnesses are of: {error.errors()[0]['msg']}") from None
    index = {}
    for norm in origin.threats:
        found = checkpoint.read_tensor(path, f"{norm}.index", torch.int64, n)
        index[norm] = found.tolist()
        if found.dim() != 1 or len(set(index[norm])) != len(index[norm]):
            raise RequestError(f"{path}: {norm}.index is no list of different points")
    return PublishedWitnesses(path, origin, index, earlier=schema == EARLIER)
