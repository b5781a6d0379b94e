"""Attacks that see nothing but the predicted class, from foolbox: a check, and all that helps without gradients.

HopSkipJump (Chen et al., arXiv:1904.02144), the boundary attack (Brendel et al., arXiv:1712.04248) and the pointwise
attack (Schott et al., arXiv:1805.09190). They move one image at a time, so that no image depends on its batch.
"""

import importlib
import importlib.util
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustctl import losses, seeds
from robustctl.data import ImageData
from robustctl.devices import kept_random
from robustctl.errors import RequestError
from robustctl.evaluation import referee
from robustctl.evaluation.nearest import LINE, Known, Round, line
from robustctl.oracle import Oracle
from robustctl.perturbations.sparse import fewer
from robustctl.threats import CurveNorm

HOP_STEPS, HOP_FIRST, HOP_MOST = 12, 50, 100
"""Steps of HopSkipJump, and its queries for a step's direction: at first, and at most."""
BOUNDARY_STEPS = 1000
STARTS = 40
"""Random images, and as many of the data set, among which an attack looks for a start."""
TRIES = 40
BY_NORM: dict[CurveNorm, tuple[str, ...]] = {
    "linf": ("hop-skip-jump",),
    "l2": ("hop-skip-jump", "boundary"),
    "l1": ("pointwise",),
    "l0": ("pointwise",),
}
NAMES = ("hop-skip-jump", "boundary", "pointwise")


def is_installed() -> bool:
    """Whether foolbox is there."""
    return importlib.util.find_spec("foolbox") is not None


def require() -> None:
    """Raise RequestError unless foolbox is installed."""
    if not is_installed():
        raise RequestError("attacks that see predicted classes alone need foolbox: pip install 'robustctl[decision]'")


def names(norm: CurveNorm) -> tuple[str, ...]:
    """The attacks on a norm."""
    return BY_NORM[norm]


def queries(norm: CurveNorm, pixels: int) -> float:
    """About how many forward passes of single images an image takes; ``pixels`` are all its numbers."""
    pointwise = 4.0 * pixels * (3 if norm == "l1" else 1)
    each = {"hop-skip-jump": HOP_STEPS * (HOP_MOST + LINE), "boundary": BOUNDARY_STEPS, "pointwise": pointwise}
    return sum(each[name] for name in names(norm))


def seconds_per_query(oracle: Oracle, data: ImageData) -> float:
    """How long a pass of a single image takes within these attacks, timed on a short attack."""
    attack, spent = ByDecision("hop-skip-jump", "l2", {}, data, 0, short=True), oracle.forwards
    x, y = data.images([0]).to(oracle.device), data.y[:1].to(oracle.device)
    started = time.perf_counter()
    attack.propose(oracle, x, y, [0])
    return (time.perf_counter() - started) / max(oracle.forwards - spent, 1)


def rounds(norm: CurveNorm, known: Known, data: ImageData, seed: int) -> list[Round]:
    """The rounds in their order."""
    require()
    return [ByDecision(name, norm, known, data, seed) for name in names(norm)]


class ByDecision(Round):
    """One of the attacks, from the nearest misclassified start; what others found is not used."""

    def __init__(
        self, name: str, norm: CurveNorm, known: Known, data: ImageData, seed: int, *, short: bool = False
    ) -> None:
        super().__init__(name, known)
        self.norm, self.data, self.seed, self.short = norm, data, seed, short

    def propose(self, oracle: Oracle, x: Tensor, y: Tensor, positions: Sequence[int]) -> Tensor:
        indices = self.data.indices[list(positions)].tolist()
        found = [self._one(oracle, x[i : i + 1], y[i : i + 1], index) for i, index in enumerate(indices)]
        x_adv = torch.cat(found)
        return fewer(oracle, x, y, x_adv, TRIES) if self.norm == "l0" else line(oracle, x, y, x_adv)

    def _one(self, oracle: Oracle, x: Tensor, y: Tensor, index: int) -> Tensor:
        foolbox: Any = importlib.import_module("foolbox")
        generator = seeds.generator(self.seed, seeds.attack(self.norm, self.name), index)
        start = self._start(oracle, x, y, generator)
        if start is None:
            return x
        number = int(torch.randint(2**31, (1,), generator=generator))
        state = np.random.get_state()
        with kept_random(x.device):
            torch.manual_seed(number)
            np.random.seed(number)
            try:
                model = foolbox.PyTorchModel(_Exact(oracle), bounds=(0, 1), device=x.device)
                found: Tensor = self._attack().run(model, x, foolbox.Misclassification(y), starting_points=start)
            finally:
                np.random.set_state(state)
        return found.detach().to(x).clamp(0, 1)

    def _attack(self) -> Any:
        attacks: Any = importlib.import_module("foolbox.attacks")
        if self.name == "hop-skip-jump":
            return attacks.HopSkipJumpAttack(
                steps=1 if self.short else HOP_STEPS,
                initial_gradient_eval_steps=HOP_FIRST,
                max_gradient_eval_steps=HOP_MOST,
                constraint=self.norm,
            )
        if self.name == "boundary":
            return attacks.BoundaryAttack(steps=BOUNDARY_STEPS)
        return attacks.PointwiseAttack(l2_binary_search=self.norm == "l1")

    def _start(self, oracle: Oracle, x: Tensor, y: Tensor, generator: torch.Generator) -> Tensor | None:
        """The nearest misclassified one of random images, of x with random corners at more and more pixels, and of
        the data set's first images."""
        noise = torch.rand(STARTS, *x.shape[1:], generator=generator)
        share = torch.linspace(0.02, 1, STARTS).view(-1, 1, 1, 1)
        where = torch.rand(STARTS, 1, *x.shape[2:], generator=generator) < share
        corners = torch.where(where, noise.round(), x.cpu())
        images = self.data.images(range(min(STARTS, len(self.data))))
        tried = torch.cat([noise, corners, images]).to(x)
        wrong = losses.margin(oracle.exact(tried), y.expand(len(tried))) > 0
        if not wrong.any():
            return None
        sizes = referee.distance(tried.cpu(), x.cpu().expand(len(tried), -1, -1, -1), self.norm)
        sizes[~wrong.cpu()] = torch.inf
        return tried[int(sizes.argmin())][None]


class _Exact(nn.Module):
    """The model itself, whose passes are counted."""

    def __init__(self, oracle: Oracle) -> None:
        super().__init__()
        self.oracle = oracle
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        """Logits (n, classes) of images (n, c, h, w)."""
        return self.oracle.exact(x)
