"""Images, and images such as attacks make of them, with every kind of float in it."""

import torch
from torch import Tensor

from robustctl.threats import Norm, Threat

EPS: dict[Norm, str] = {"linf": "8/255", "l2": "0.5", "l1": "12"}


def moved(norm: Norm, seed: int) -> tuple[Tensor, Tensor]:
    """Images and what an attack of the norm may make of them."""
    made = torch.Generator().manual_seed(seed)
    x = torch.randint(0, 256, (5, 3, 4, 4), generator=made).float() / 255
    eps = Threat.of(norm, EPS[norm]).eps
    noise = torch.randn(x.shape, generator=made)
    step = {"linf": noise.sign() * eps, "l2": noise * eps / 7, "l1": torch.where(noise > 1, noise, 0.0)}[norm]
    x_adv = (x + step).clamp(0, 1)
    x_adv[0] = x[0]
    x_adv[1, 0, 0, :2] = torch.tensor([-0.0, 1e-42])  # the other zero, and a number below the normal ones
    return x, x_adv
