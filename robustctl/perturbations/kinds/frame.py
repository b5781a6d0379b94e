"""A frame of any content around the image (Zajac et al., arXiv:1812.02637)."""

import torch
from torch import Tensor, nn

from robustctl.errors import RequestError
from robustctl.perturbations.base import Task
from robustctl.perturbations.boxed import Boxed


class Frame(Boxed):
    """Parameters: the width in pixels, then an image whose frame alone is used."""

    unit = "pixels of width"
    highest = 4096.0
    whole = True
    usual = "1"
    source = "Zajac et al., arXiv:1812.02637; budget of E-AT (appendix D)"

    def require(self, shape: tuple[int, int, int], budget: float) -> None:
        """A frame leaves something of the image."""
        if 2 * budget >= min(shape[1:]):
            raise RequestError(
                f"threat frame:{budget:g}: nothing is left of images with {min(shape[1:])} pixels along a side"
            )

    def bounds(self, x: Tensor, budget: float) -> tuple[Tensor, Tensor]:
        """The width is the budget, the content in [0,1] in the frame, and 0 elsewhere."""
        high = torch.cat([x.new_tensor([budget]), _mask(x, x.new_tensor([budget]))[0].expand(x.shape[1:]).flatten()])
        low = torch.zeros_like(high)
        low[0] = budget
        return low, high

    def start(self, task: Task) -> Tensor:
        """Random content, half of the pixels black or white."""
        return self.project(2 * super().start(task) - 0.5, task.x, task.budget)

    def movable(self, z: Tensor) -> Tensor:
        """All but the width."""
        free = torch.ones_like(z)
        free[:, 0] = 0
        return free

    def inside(self, x: Tensor, z: Tensor, budget: float, model: nn.Module) -> Tensor:
        """The width is whole and within the budget, the content in [0,1]."""
        width, content = z[:, 0], z[:, 1:]
        whole = (width == width.round()) & (width >= 0) & (width <= budget)
        return whole & ((content >= 0) & (content <= 1)).all(dim=1)

    def render(self, x: Tensor, z: Tensor) -> Tensor:
        """Lay the frame over the image."""
        mask = _mask(x, z[:, 0].detach())
        return mask * z[:, 1:].view_as(x) + (1 - mask) * x


def _mask(x: Tensor, width: Tensor) -> Tensor:
    """1 in the frame, 0 inside it: (n, 1, h, w)."""
    height, breadth = x.shape[2:]
    rows, columns = (torch.arange(size, dtype=x.dtype, device=x.device) for size in (height, breadth))
    from_edge = torch.minimum(
        torch.minimum(rows, height - 1 - rows)[:, None], torch.minimum(columns, breadth - 1 - columns)[None]
    )
    return (from_edge < width.view(-1, 1, 1)).to(x)[:, None]


KIND = Frame()
