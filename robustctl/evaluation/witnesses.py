"""Witnesses: the adversarial images that prove which points are broken, in a file that anybody can judge again.

The file is safetensors. By norm it holds ``NORM.index`` (m,) int64, the points' indices in their split, and
``NORM.delta.K`` uint8, the K-th chunk of packed differences. The metadata say what they are of. A difference is not
x_adv - x, which float32 rounds: it is the distance, in float32 bit patterns, from the nearest of three images that
follow from x alone (x, and x with all pixels moved up or down by eps and cut to the box). So x_adv comes back bit by
bit, and pixels at the edge of a ball take next to nothing.
"""

import lzma
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

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
from robustctl.results.union import UnionResult
from robustctl.spec import ModelSpec, model_sha256
from robustctl.threats import Norm, Threat

SCHEMA = "robustctl.witnesses/1"
CHUNK_BYTES = 16 << 20
"""Unpacked size of a chunk, which is all that is in memory at once."""
MEMORY_BYTES = 256 << 20
"""The memory that unpacking a chunk may take, so that a small file cannot fill it."""
PLANES = 5
"""Bytes of a pixel before they are packed: which of the three images, and the four of the difference."""

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
    """The adversarial images of a file."""

    path: Path
    origin: Origin
    tensors: Mapping[str, Tensor]

    def indices(self, norm: Norm) -> list[int]:
        """The points that the file has an image of."""
        found = self.tensors.get(f"{norm}.index")
        return [] if found is None else [int(index) for index in found.tolist()]

    def batches(self, threat: Threat, data: ImageData) -> Iterator[Batch]:
        """Unpack the images; RequestError for a point that the data lack, or a damaged file."""
        place = {index: position for position, index in enumerate(data.indices.tolist())}
        indices = self.indices(threat.norm)
        if strangers := [index for index in indices if index not in place]:
            raise RequestError(f"{self.path} has a witness of point {strangers[0]}, which is none of the claim's")
        for number, chunk in enumerate(chunks(indices, _chunk(data.shape))):
            positions = [place[index] for index in chunk]
            packed = self.tensors.get(f"{threat.norm}.delta.{number}")
            if packed is None or packed.dtype != torch.uint8:
                raise RequestError(f"{self.path} lacks {threat.norm}.delta.{number}; fetch it again")
            try:
                yield positions, unpack(packed.numpy().tobytes(), data.images(positions), threat)
            except (lzma.LZMAError, ValueError) as error:
                raise RequestError(f"{self.path}: {threat.norm}.delta.{number} is damaged: {error}") from None


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
        for number, (positions, x_adv) in enumerate(_regrouped(witnesses.batches(threat, data), _chunk(data.shape))):
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


def read(path: Path) -> PublishedWitnesses:
    """Read a file of witnesses.

    Raises:
        RequestError: missing, damaged, or not a file of witnesses.
    """
    tensors = checkpoint.read_tensors(path)
    metadata = checkpoint.read_metadata(path)
    if metadata.get("schema") != SCHEMA:
        raise RequestError(f"{path} holds no witnesses: its schema is {metadata.get('schema')!r}, not {SCHEMA!r}")
    try:
        origin = Origin.model_validate_json(metadata.get("origin", ""))
    except ValidationError as error:
        raise RequestError(f"{path} does not say what its witnesses are of: {error.errors()[0]['msg']}") from None
    found = PublishedWitnesses(path, origin, tensors)
    for norm in origin.threats:
        index = tensors.get(f"{norm}.index")
        if index is None or index.dtype != torch.int64 or index.dim() != 1 or len(set(index.tolist())) != len(index):
            raise RequestError(f"{path}: {norm}.index is no list of different points")
    return found


def pack(x_adv: Tensor, x: Tensor, threat: Threat) -> bytes:
    """Pack float32 images losslessly beside the images x of the same shape (n, c, h, w) that they were made from."""
    wanted = _bits(x_adv)
    near = [_bits(image) for image in _nearby(x, threat)]
    differences = np.stack([(wanted - one).view(np.int32) for one in near])
    chosen = np.abs(differences.astype(np.int64)).argmin(axis=0)
    left = np.take_along_axis(differences, chosen[None], axis=0)[0]
    folded = ((left << 1) ^ (left >> 31)).view(np.uint8).reshape(-1, 4)  # small numbers of both signs
    return lzma.compress(np.concatenate([chosen.astype(np.uint8)[None], folded.T]).tobytes(), preset=6)


def unpack(packed: bytes, x: Tensor, threat: Threat) -> Tensor:
    """The images that ``pack`` packed beside the same x, bit for bit.

    Raises:
        ValueError, LZMAError: these bytes are not of so many images.
    """
    size = PLANES * x.numel()
    reader = lzma.LZMADecompressor(memlimit=MEMORY_BYTES)
    content = reader.decompress(packed, max_length=size + 1)
    if len(content) != size:
        raise ValueError(f"it holds {len(content)} bytes instead of {size}")
    planes = np.frombuffer(content, np.uint8).reshape(PLANES, -1)
    if planes[0].max(initial=0) > 2:
        raise ValueError("it names an image that there is not")
    near = np.stack([_bits(image) for image in _nearby(x, threat)])
    folded = np.ascontiguousarray(planes[1:].T).view(np.uint32).reshape(-1)
    left = (folded >> 1) ^ (-(folded & 1).astype(np.int64)).astype(np.uint32)
    bits = np.take_along_axis(near, planes[0][None].astype(np.int64), axis=0)[0] + left
    return torch.from_numpy(bits.view(np.float32).reshape(tuple(x.shape)))


def _nearby(x: Tensor, threat: Threat) -> list[np.ndarray[Any, Any]]:
    """x, and x moved up and down by eps within the box: single float32 operations, which are the same everywhere."""
    pixels, eps = x.contiguous().numpy(), np.float32(threat.eps)
    return [pixels, np.minimum(pixels + eps, np.float32(1)), np.maximum(pixels - eps, np.float32(0))]


def _bits(image: Tensor | np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    values = image.contiguous().numpy() if isinstance(image, Tensor) else np.ascontiguousarray(image)
    return values.reshape(-1).view(np.uint32)


def _chunk(shape: Sequence[int]) -> int:
    """Images in a chunk."""
    return max(CHUNK_BYTES // (PLANES * int(np.prod(shape))), 1)
