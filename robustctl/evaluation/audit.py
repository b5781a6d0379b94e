"""The clean images, and the stored adversarial ones, which are scored once more when all attacks are done."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.evaluation import referee
from robustctl.evaluation.store import Store, decode
from robustctl.results.result_file import Mean
from robustctl.results.statistics import wilson_mean
from robustctl.threats import Norm, Threat

Item = TypeVar("Item")

TIE = 1e-5  # a margin this small may change sign with the order of float32 sums
BATCH = 97  # on purpose a size that no attack uses


def audit(
    model: Classifier,
    data: ImageData,
    store: Store,
    threats: Sequence[Threat],
    correct: Sequence[bool],
    passes: int = 1,
) -> tuple[list[str], dict[Norm, list[int]]]:
    """Score the stored x_adv in other batches, and rounded to 8-bit pixels; only a batch of them is in memory.

    Args:
        correct: whether each image is right without an attack.
        passes: that judge an image, see ``referee.vote``.

    Returns:
        Flags, and by norm 1 for each image that is right if its x_adv must be an 8-bit image too.
    """
    flags, rounded = [], {}
    for threat in threats:
        changed = 0
        broken = store.broken(threat.norm)
        right = [int(one and position not in broken) for position, one in enumerate(correct)]
        for chunk in chunks(store.adversarial(threat.norm), BATCH):
            positions = [position for position, _ in chunk]
            x, y = data.images(positions), data.y[positions]
            x_adv = torch.stack([decode(packed, image) for (_, packed), image in zip(chunk, x, strict=True)])
            verdicts = referee.judge(model, x, y, x_adv, threat, passes)
            changed += int((~verdicts.broken & ~(verdicts.margin.abs() <= TIE)).sum())
            fallen = referee.judge_8bit(model, x, y, x_adv, threat, passes).broken
            for position, fell in zip(positions, fallen, strict=True):
                right[position] = int(not fell)
        if changed:
            flags.append(f"rescoring: {changed} verdicts of {threat.norm} did not hold in another batch")
        rounded[threat.norm] = right
    return flags, rounded


def mean_accuracies(
    model: Classifier, data: ImageData, store: Store, threats: Sequence[Threat], passes: int
) -> dict[str, Mean]:
    """How often a single pass of a random model is right: on clean images, and by norm on what the attacks found.

    A point that no attack has broken counts as always right if it is right without an attack, since no image of it is
    stored. Intervals are over images.
    """
    everything = chunks(range(len(data)), BATCH)
    shares = {"clean": torch.cat([_right_shares(model, data, chunk, passes) for chunk in everything])}
    for threat in threats:
        shares[threat.norm] = torch.tensor([float(right) for _, right in sorted(store.clean().items())])
        for chunk in chunks(store.adversarial(threat.norm), BATCH):
            positions = [position for position, _ in chunk]
            x = data.images(positions)
            x_adv = torch.stack([decode(packed, image) for (_, packed), image in zip(chunk, x, strict=True)])
            shares[threat.norm][positions] = referee.vote(model, x_adv, data.y[positions], passes).right
    return {name: Mean(mean=float(share.mean()), ci95=wilson_mean(share.tolist())) for name, share in shares.items()}


def _right_shares(model: Classifier, data: ImageData, positions: list[int], passes: int) -> torch.Tensor:
    return referee.vote(model, data.images(positions), data.y[positions], passes).right


def clean_verdicts(model: Classifier, data: ImageData, store: Store, batch_size: int, passes: int) -> list[bool]:
    """Whether each image is classified rightly; what the store lacks is added to it."""
    done = store.clean()
    left = [position for position in range(len(data)) if position not in done]
    for chunk in chunks(left, batch_size):
        votes = referee.vote(model, data.images(chunk), data.y[chunk], passes, "meets a clean image on which")
        store.add_clean(chunk, (~votes.wrong).tolist(), votes.margin.tolist())
    return [right for _, right in sorted(store.clean().items())]


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of ``size`` items, the last one of the rest; no item is taken before its list is asked for."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk
