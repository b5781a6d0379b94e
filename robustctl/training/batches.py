"""Training batches: which images, in which order, changed how. Every random choice is a function of the seed, the pass
over the data and the batch's number in it, so a position in the training is two numbers."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl.data import ImageData
from robustctl.data.augment import random_crop, random_flip
from robustctl.data.image_data import to_float
from robustctl.errors import RequestError
from robustctl.geometry import image_generator
from robustctl.training.settings import Augment

SELECTION_SEED = 0
"""The images held out are the same for every seed, so that runs can be compared by their selection accuracy."""
AHEAD = 3
"""Batches that are kept ready where workers prepare them, the present one included."""


def hold_out(data: ImageData, n: int) -> tuple[ImageData, ImageData]:
    """Split training data into what is trained on and ``n`` images for selection.

    Raises:
        RequestError: fewer than ``n`` images would be left for training.
    """
    if n >= len(data) / 2:
        raise RequestError(
            f"selection.images is {n}, but there are {len(data)} training images; hold out less than half of them"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(SELECTION_SEED))
    return data.select(order[n:].sort().values), data.select(order[:n].sort().values)


@dataclass(frozen=True)
class Images:
    """Images of one source on the training's device: x uint8 or float32 (n, c, h, w), y (n,)."""

    x: Tensor
    y: Tensor

    def floats(self, positions: Tensor) -> Tensor:
        """Images at these positions, float32 in [0,1]."""
        return to_float(self.x[positions])

    def order(self, seed: int, epoch: int, length: int) -> Tensor:
        """Positions of ``length`` images for one pass: permutations one after another, each image once in each."""
        rounds = -(-length // len(self.y))
        parts = [
            torch.randperm(len(self.y), generator=image_generator(seed, epoch, "order", turn)) for turn in range(rounds)
        ]
        return torch.cat(parts)[:length]


class Batches:
    """Batches of one training.

    Args:
        data: the training images.
        extra: pseudo-labelled images that fill ``share`` of each batch, or None; a pass ends with ``data``.
        device: where batches go. Images that are there already are picked and changed there; others are prepared by
            two workers, ahead of time, and sent.
    """

    def __init__(
        self,
        data: Images,
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
        self.device = device or data.x.device
        self.workers = ThreadPoolExecutor(workers) if workers else None
        self._ahead: dict[tuple[int, int, int, int | None], Future[tuple[Tensor, Tensor]]] = {}
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

    def get(self, epoch: int, number: int, batch_size: int, size: int | None = None) -> tuple[Tensor, Tensor]:
        """Images (batch_size, c, h, w) float32 in [0,1], and labels (batch_size,) or, under mixup, (batch_size, k).

        Args:
            epoch: number of this pass over the data.
            number: the batch's number in it.
            size: height and width to resize to, or None.
        """
        if self.workers is None:
            return self._make(epoch, number, batch_size, size)
        wanted = [(epoch, i, batch_size, size) for i in range(number, min(number + AHEAD, self.count(batch_size)))]
        self._order(epoch, batch_size)  # here, not in two workers at once
        self._ahead = {key: self._ahead.get(key) or self.workers.submit(self._make, *key) for key in wanted}
        x, y = self._ahead[wanted[0]].result()
        return x.to(self.device, non_blocking=True), y.to(self.device, non_blocking=True)

    def _make(self, epoch: int, number: int, batch_size: int, size: int | None) -> tuple[Tensor, Tensor]:
        x, y = self._pick(epoch, number, batch_size)
        generator = image_generator(self.seed, epoch, "augment", number)
        if self.augment.crop:
            x = random_crop(x, self.augment.crop, generator)
        if self.augment.flip:
            x = random_flip(x, generator)
        x = to_float(x)
        if size is not None and size != x.shape[-1]:
            x = F.interpolate(x, (size, size), mode="bilinear", antialias=True).clamp(0, 1)
        if self.augment.cutout:
            x = cutout(x, self.augment.cutout, generator)
        if self.augment.mixup:
            x, y = mixup(x, y, self.n_classes, self.augment.mixup, generator)
        if self.workers is not None and self.device.type == "cuda":
            x, y = x.pin_memory(), y.pin_memory()
        return x, y

    def _own(self, batch_size: int) -> int:
        return batch_size - round(self.share * batch_size) if self.extra else batch_size

    def _pick(self, epoch: int, number: int, batch_size: int) -> tuple[Tensor, Tensor]:
        own = self._own(batch_size)
        positions, extra_positions = self._order(epoch, batch_size)
        chosen = positions[number * own : (number + 1) * own].to(self.data.x.device)
        x, y = self.data.x[chosen], self.data.y[chosen]
        if self.extra is None or extra_positions is None:
            return x, y
        rest = batch_size - own
        also = extra_positions[number * rest : (number + 1) * rest].to(x.device)
        return torch.cat([x, self.extra.x[also]]), torch.cat([y, self.extra.y[also]])

    def _order(self, epoch: int, batch_size: int) -> tuple[Tensor, Tensor | None]:
        key = (epoch, batch_size)
        if key not in self._orders:
            length = self.count(batch_size) * (batch_size - self._own(batch_size))
            extra = self.extra.order(self.seed, -1 - epoch, length) if self.extra else None
            self._orders = {key: (self.data.order(self.seed, epoch, len(self.data.y)), extra)}
        return self._orders[key]


def cutout(x: Tensor, side: int, generator: torch.Generator) -> Tensor:
    """Blank a square of ``side`` pixels around a random place of each image, cut at the border (arXiv:1708.04552)."""
    n, _, height, width = x.shape
    rows = torch.arange(height, device=x.device) - torch.randint(height, (n, 1), generator=generator).to(x.device)
    columns = torch.arange(width, device=x.device) - torch.randint(width, (n, 1), generator=generator).to(x.device)
    low, high = -(side // 2), side - side // 2
    inside_rows, inside_columns = (rows >= low) & (rows < high), (columns >= low) & (columns < high)
    return x.masked_fill((inside_rows[:, :, None] & inside_columns[:, None, :])[:, None], 0.0)


def mixup(x: Tensor, y: Tensor, n_classes: int, alpha: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix each image and its label with another of the batch, by one weight ~ Beta(alpha, alpha) (arXiv:1710.09412)."""
    # A quotient of two gamma variables; torch's Beta takes no generator.
    first, second = (_gamma(alpha, generator) for _ in range(2))
    weight = first / (first + second)
    partner = torch.randperm(len(y), generator=generator).to(x.device)
    soft = F.one_hot(y, n_classes).to(x.dtype)
    return torch.lerp(x[partner], x, weight), torch.lerp(soft[partner], soft, weight)


def _gamma(alpha: float, generator: torch.Generator) -> float:
    """One Gamma(alpha, 1) variable (Marsaglia and Tsang 2000), from a generator."""
    boost = 1.0
    if alpha < 1:
        boost = float(torch.rand((), generator=generator, dtype=torch.float64)) ** (1 / alpha)
        alpha += 1
    d = alpha - 1 / 3
    while True:
        z = float(torch.randn((), generator=generator, dtype=torch.float64))
        u = float(torch.rand((), generator=generator, dtype=torch.float64))
        v = (1 + z / (9 * d) ** 0.5) ** 3
        if v > 0 and u < 1 - 0.0331 * z**4:
            return float(boost * d * v)
