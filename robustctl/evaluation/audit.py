"""The stored adversarial images, scored once more when all attacks are done."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.evaluation import referee
from robustctl.evaluation.store import Store, decode
from robustctl.threats import Norm, Threat

Item = TypeVar("Item")

TIE = 1e-5  # a margin this small may change sign with the order of float32 sums
BATCH = 97  # on purpose a size that no attack uses


def audit(
    model: Classifier, data: ImageData, store: Store, threats: Sequence[Threat], n_correct: int
) -> tuple[list[str], dict[Norm, float]]:
    """Score the stored x_adv in other batches, and rounded to 8-bit pixels; only a batch of them is in memory.

    Args:
        n_correct: points that are right without an attack.

    Returns:
        Flags, and by norm the accuracy that is left when x_adv must be an 8-bit image.
    """
    flags, rounded = [], {}
    for threat in threats:
        changed = survived = 0
        for chunk in chunks(store.adversarial(threat.norm), BATCH):
            positions = [position for position, _ in chunk]
            x, y = data.images(positions), data.y[positions]
            x_adv = torch.stack([decode(packed, image) for (_, packed), image in zip(chunk, x, strict=True)])
            verdicts = referee.judge(model, x, y, x_adv, threat)
            changed += int((~verdicts.broken & ~(verdicts.margin.abs() <= TIE)).sum())
            scores = referee.logits(model, x_adv.mul(255).round_().div_(255))
            survived += int((scores.argmax(dim=1) == y).sum())
        if changed:
            flags.append(f"rescoring: {changed} verdicts of {threat.norm} did not hold in another batch")
        rounded[threat.norm] = (n_correct - len(store.broken(threat.norm)) + survived) / len(data)
    return flags, rounded


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one of the rest; no item is taken before its list is asked for."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
