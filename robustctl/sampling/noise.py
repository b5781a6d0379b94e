"""Random numbers for a batch of images, each drawn from its image's own generator.

Rows are image-major: with ``per_image`` chains, row ``r`` belongs to image ``r // per_image``. The draws of an image
depend on its seed alone, not on the batch that it shares.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from robustctl.devices import upload


class Noise:
    """Draws for ``len(generators) * per_image`` rows.

    Args:
        generators: one CPU generator an image.
        per_image: rows per image.
        like: a tensor of the type and on the device that the draws should have.
    """

    def __init__(self, generators: Sequence[torch.Generator], per_image: int, like: Tensor) -> None:
        self.generators = generators
        self.per_image = per_image
        self.like = like

    def normal(self, *shape: int) -> Tensor:
        """Standard normal numbers (rows, *shape)."""
        return self._gather(
            [torch.randn(self.per_image, *shape, generator=g, dtype=self.like.dtype) for g in self.generators]
        )

    def uniform(self, *shape: int) -> Tensor:
        """Uniform numbers (rows, *shape) in [0, 1)."""
        return self._gather(
            [torch.rand(self.per_image, *shape, generator=g, dtype=self.like.dtype) for g in self.generators]
        )

    def fork(self) -> "Noise":
        """Noise of new generators, each seeded by one draw of its image's."""
        seeds = [int(torch.randint(2**62, (), generator=g)) for g in self.generators]
        return Noise([torch.Generator().manual_seed(seed) for seed in seeds], self.per_image, self.like)

    def _gather(self, parts: list[Tensor]) -> Tensor:
        return upload(torch.cat(parts), self.like.device)
