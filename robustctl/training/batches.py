"""Training batches: which images, in which order, changed how. Every random choice is a function of the seed, the pass
over the data and the batch's number in it, so a position in the training is two numbers."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from robustctl import seeds
from robustctl.data import EncodedData, ImageData
from robustctl.data.augment import cutout, mixup, random_crop, random_flip
from robustctl.data.decode import gather, threads
from robustctl.data.image_data import to_float
from robustctl.data.resize import crop_draws, random_part, random_parts
from robustctl.devices import HOST, is_host, upload
from robustctl.errors import RequestError, RunError
from robustctl.recipe.schema import Augment
from robustctl.seeds import Purpose
from robustctl.spec import ModelSpec

Data = ImageData | EncodedData

AHEAD = 3
"""The number of batches that workers keep ready, the present one included."""

Key = tuple[int, int, int, int | None, tuple[int, int]]
"""Pass, batch, its size, the images' size, and the rows that are wanted."""


def hold_out(data: Data, n: int) -> tuple[Data, Data]:
    """Split training data into what is trained on and ``n`` images for selection.

    Raises:
        RequestError: fewer than ``n`` images would be left for training.
    """
    if n >= len(data) / 2:
        raise RequestError(
            f"selection.images is {n}, but there are {len(data)} training images; hold out less than half of them"
        )
    order = torch.randperm(len(data), generator=seeds.held_out())
    return data.select(order[n:].sort().values), data.select(order[:n].sort().values)


class TrainingImages(Protocol):
    """Where a batch's images come from. ``y`` (n,) are the labels of all images, on ``device``."""

    @property
    def y(self) -> Tensor: ...

    @property
    def device(self) -> torch.device: ...

    def take(self, positions: Tensor, crops: Tensor | None, least: float, side: int | None) -> Tensor:
        """Images at these positions, (m, c, h, w), uint8 or float32 in [0,1].

        Args:
            crops: what random crops are made of, as ``crop_draws`` makes it, or None for the whole images.
            least: smallest share of an image that a random crop takes.
            side: height and width of the crops, or None for the model's; whole images may come in another size.
        """

    def shuffled(self, generator: Generator) -> Tensor:
        """All positions in a random order."""


@dataclass(frozen=True)
class Images:
    """Images in memory, on the CPU or on the training's device: x uint8 or float32 (n, c, h, w), y (n,)."""

    x: Tensor
    y: Tensor

    @property
    def device(self) -> torch.device:
        """Where the images are."""
        return self.x.device

    def floats(self, positions: Tensor) -> Tensor:
        """Images at these positions, float32 in [0,1]."""
        return to_float(self.x[positions])

    def take(self, positions: Tensor, crops: Tensor | None, least: float, side: int | None) -> Tensor:
        """Images as ``TrainingImages.take`` says; whole ones in their own size."""
        x = self.x[upload(positions, self.device)]
        return x if crops is None else random_parts(x, crops, least, side or x.shape[-1])

    def shuffled(self, generator: Generator) -> Tensor:
        """All positions in a random order."""
        return torch.randperm(len(self.y), generator=generator)


class Streamed:
    """Images on the disk, decoded when they are taken.

    Args:
        spec: of the model that is trained.
    """

    device = HOST

    def __init__(self, data: EncodedData, spec: ModelSpec) -> None:
        self.data, self.y = data, data.y
        self.shape = spec.input_shape
        self.resize = spec.resizing if data.any_size else None
        self.pool = ThreadPoolExecutor(threads())

    def take(self, positions: Tensor, crops: Tensor | None, least: float, side: int | None) -> Tensor:
        """Images as ``TrainingImages.take`` says; whole ones of any size are resized and cut to ``side``.

        Raises:
            RunError: an image cannot be read or decoded any more.
        """
        chosen = positions.tolist()
        channels, _, width = self.shape
        side = side or width
        try:
            if crops is None:
                resize = self.resize and self.resize.of(width, side)
                shape = (channels, side, side) if resize else self.shape
                return self.data.fitted(chosen, shape, resize, self.pool)
            return gather(
                len(chosen),
                (channels, side, side),
                lambda i: random_part(self.data.image(chosen[i], channels), crops[i], least, side),
                self.pool,
            )
        except RequestError as error:
            raise RunError(f"{error}; put a sound file in its place and go on with --resume") from None

    def shuffled(self, generator: Generator) -> Tensor:
        """All positions in an order in which they can be read fast."""
        return self.data.encoded.shuffled(self.data.indices, generator)


def order(data: TrainingImages, seed: int, epoch: int, length: int) -> Tensor:
    """Positions of ``length`` images for one pass: permutations one after another, each image once in each."""
    rounds = -(-length // len(data.y))
    return torch.cat([data.shuffled(seeds.generator(seed, Purpose.ORDER, epoch, turn)) for turn in range(rounds)])[
        :length
    ]


class Batches:
    """Batches of one training.

    Args:
        data: the training images.
        extra: pseudo-labelled images that fill ``share`` of each batch, or None; a pass ends with ``data``.
        device: the device that batches go to. Images that are there already are picked and changed there; others are
            prepared by ``workers`` threads, ahead of time, and sent.
    """

    def __init__(
        self,
        data: TrainingImages,
        augment: Augment,
        seed: int,
        n_classes: int,
        extra: Images | None = None,
        share: float = 0.0,
        *,
        device: torch.device | None = None,
        workers: int = 0,
    ) -> None:
        self.data = data
        self.augment = augment
        self.seed = seed
        self.n_classes = n_classes
        self.extra = extra
        self.share = share
        self.device = device or data.device
        self.workers = ThreadPoolExecutor(workers) if workers else None
        self._ahead: dict[Key, Future[tuple[Tensor, Tensor]]] = {}
        self._orders: dict[tuple[int, int], tuple[Tensor, Tensor | None]] = {}

    def count(self, batch_size: int) -> int:
        """Full batches in one pass; what is left over is dropped.

        Raises:
            RequestError: not even one batch.
        """
        own = self._own(batch_size)
        if own > len(self.data.y):
            raise RequestError(f"train.batch_size takes {own} images, but there are {len(self.data.y)} to train on")
        return len(self.data.y) // own

    def get(
        self, epoch: int, number: int, batch_size: int, size: int | None = None, part: slice | None = None
    ) -> tuple[Tensor, Tensor]:
        """Images (n, c, h, w) float32 in [0,1], and labels (n,) or, under mixup, (n, k).

        Args:
            epoch: number of this pass over the data.
            number: the batch's number in it.
            size: height and width to resize to, or None.
            part: the rows of the batch that are wanted, with both ends; None: all. They do not depend on the others.

        Raises:
            RunError: an image on the disk cannot be read or decoded any more.
        """
        rows = (part.start, part.stop) if part else (0, batch_size)
        if self.workers is None:
            return self._make(epoch, number, batch_size, size, rows)
        last = min(number + AHEAD, self.count(batch_size))
        wanted = [(epoch, i, batch_size, size, rows) for i in range(number, last)]
        self._order(epoch, batch_size)  # here, not in two workers at once
        # Batches that nobody will ask for any more fall out with their keys, so memory never holds more than ``AHEAD``.
        self._ahead = {key: self._ahead.get(key) or self.workers.submit(self._make, *key) for key in wanted}
        x, y = self._ahead[wanted[0]].result()
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def _make(
        self, epoch: int, number: int, batch_size: int, size: int | None, rows: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        generator = seeds.generator(self.seed, Purpose.AUGMENT, epoch, number)
        # Random numbers are drawn for the whole batch, whatever part of it is wanted: so they are the same for each.
        needed = (0, batch_size) if self.augment.mixup else rows
        x, y = self._pick(epoch, number, batch_size, size, needed, generator)
        # Crops and flips move pixels without changing them, so they come first, while a pixel may still be one byte.
        if self.augment.crop:
            x = random_crop(x, self.augment.crop, generator)
        if self.augment.flip:
            x = random_flip(x, generator)
        x = to_float(x)
        if size is not None and size != x.shape[-1]:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        # Cutout comes after the resizing: its side is in pixels that the network sees.
        if self.augment.cutout:
            x = cutout(x, self.augment.cutout, generator)
        if self.augment.mixup:
            x, y = mixup(x, y, self.n_classes, self.augment.mixup, generator)
        x, y = x[slice(*rows)], y[slice(*rows)]
        if self.workers is not None and not is_host(self.device):
            x, y = x.pin_memory(), y.pin_memory()  # only such memory is sent while the host goes on
        return x, y

    def _own(self, batch_size: int) -> int:
        return batch_size - round(self.share * batch_size) if self.extra else batch_size

    def _pick(
        self, epoch: int, number: int, batch_size: int, size: int | None, needed: tuple[int, int], generator: Generator
    ) -> tuple[Tensor, Tensor]:
        """A whole batch. Images on the disk that this process does not need stay black, which saves their decoding."""
        own = self._own(batch_size)
        least = self.augment.resized_crop
        crops = crop_draws(batch_size, generator) if least else None
        positions, extra_positions = self._order(epoch, batch_size)
        chosen = positions[number * own : (number + 1) * own]
        y = self.data.y[upload(chosen, self.data.y.device)]
        first, last = (min(end, own) for end in needed) if isinstance(self.data, Streamed) else (0, own)
        x = self.data.take(chosen[first:last], None if crops is None else crops[first:last], least, size)
        if last - first < own:
            x = F.pad(x, (0, 0, 0, 0, 0, 0, first, own - last))
        if self.extra is None or extra_positions is None:
            return x, y
        rest = batch_size - own
        also = extra_positions[number * rest : (number + 1) * rest]
        extra = self.extra.take(also, None if crops is None else crops[own:], least, size)
        return torch.cat([x, extra]), torch.cat([y, self.extra.y[upload(also, self.extra.y.device)]])

    def _order(self, epoch: int, batch_size: int) -> tuple[Tensor, Tensor | None]:
        key = (epoch, batch_size)
        if key not in self._orders:
            length = self.count(batch_size) * (batch_size - self._own(batch_size))
            # Epochs below 0 make another stream: the extra images must not be shuffled like the data.
            extra = order(self.extra, self.seed, -1 - epoch, length) if self.extra else None
            self._orders = {key: (order(self.data, self.seed, epoch, len(self.data.y)), extra)}
        return self._orders[key]
