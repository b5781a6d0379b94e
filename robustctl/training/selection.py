"""Measures of a model during training: the union on the held-out selection split, and PGD on a training batch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustctl import geometry, seeds
from robustctl.attacks.apgd import apgd
from robustctl.attacks.pgd import pgd
from robustctl.errors import RunError
from robustctl.oracle import Oracle
from robustctl.pieces import Pieces
from robustctl.processes import World
from robustctl.recipe.schema import OverfittingCheck
from robustctl.seeds import Purpose
from robustctl.threats import Threat
from robustctl.training.batches import Images
from robustctl.trusted_copy import PROBE, trusted_copy

BATCH = 256


@dataclass(frozen=True)
class Selector:
    """Accuracies on the selection split by one short APGD on the cross-entropy for each threat: an estimate.

    It is used to compare epochs of one run; the reported numbers come from ``robustctl eval`` on the test split.
    """

    images: Images
    threats: tuple[Threat, ...]
    steps: int
    world: World

    def measure(self, model: nn.Module) -> dict[str, float]:
        """Accuracies in [0,1]: ``clean``, one for each norm, and ``union``."""
        names = ["clean", *(threat.norm for threat in self.threats), "union"]
        right = torch.zeros(len(names), dtype=torch.float64)
        own = torch.arange(len(self.images.y))[self.world.rank :: self.world.size]
        with _oracle(model, self.images.floats(torch.arange(min(PROBE, len(self.images.y))))) as oracle:
            for positions in torch.split(own, BATCH):
                right += self._right(oracle, positions.to(self.images.y.device)).double().sum(1).cpu()
        total = self.world.sum(right.to(self.images.y.device, torch.float32)).tolist()
        return {name: value / len(self.images.y) for name, value in zip(names, total, strict=True)}

    def _right(self, oracle: Oracle, positions: Tensor) -> Tensor:
        """The images that are still right, (names, n): clean, each norm, union."""
        x, y = self.images.floats(positions), self.images.y[positions]
        rows = [oracle.logits(x).argmax(1) == y]
        for threat in self.threats:
            x_adv = apgd(oracle, x, y, threat, steps=self.steps)
            rows.append((oracle.logits(x_adv).argmax(1) == y) & rows[0])
        return torch.stack([*rows, torch.stack(rows).all(0)])


def _oracle(model: nn.Module, images: Tensor) -> Oracle:
    """Attacks run on a fast copy of the present weights if that is equal to the model on these images, as everywhere.

    It is made and compared anew each time: the model measured may be the average of the trained one's weights.
    """
    with torch.autocast(images.device.type, enabled=False):
        fast = trusted_copy(model, "float32", images)
    return Oracle(model, fast, pieces=Pieces(BATCH))


class OverfittingGuard:
    """Stops a training whose PGD accuracy on training images falls: catastrophic overfitting to a one-step attack.

    Attributes:
        best: the highest accuracy in [0,1] up to now.
    """

    def __init__(self, settings: OverfittingCheck, threats: tuple[Threat, ...], seed: int) -> None:
        self.settings, self.threats, self.seed = settings, threats, seed
        self.best = 0.0

    def measure(self, model: nn.Module, x: Tensor, y: Tensor) -> float:
        """The lowest accuracy over the threats on a batch of images x with labels (n,) or, under mixup, (n, k)."""
        labels, steps = y.argmax(1) if y.dim() == 2 else y, self.settings.steps
        return min(pgd_accuracy(model, x, labels, threat, steps, self.seed) for threat in self.threats)

    def judge(self, accuracy: float, epoch: int) -> None:
        """Raise RunError if ``accuracy``, measured after ``epoch`` (from 1), is lower than the recipe allows."""
        if accuracy < self.best - self.settings.drop:
            raise RunError(
                f"catastrophic overfitting in epoch {epoch}: PGD accuracy on a training batch fell from "
                f"{self.best:.3f} to {accuracy:.3f}; the weights of epoch {epoch - 1} are kept"
            )
        self.best = max(self.best, accuracy)


def pgd_accuracy(model: nn.Module, x: Tensor, y: Tensor, threat: Threat, steps: int, seed: int) -> float:
    """Accuracy on a batch under PGD from a random start, with steps of 2.5 radii over their number."""
    with _oracle(model, x[:PROBE]) as oracle:
        start = geometry.random_start(x, threat.norm, threat.eps, seeds.generator(seed, Purpose.CHECK, 0))
        x_adv = pgd(oracle, x, y, threat, steps=steps, step_size=2.5 * threat.eps / steps, start=start)
        return float((oracle.logits(x_adv).argmax(1) == y).float().mean())
