"""Every random stream of the package: a generator that is a function of the seed, a purpose and two numbers alone.

Two draws share a stream only if seed, purpose and both numbers agree. A purpose is one of ``Purpose``, or an attack
family in a norm as ``attack`` names it; their names never meet, since only the latter hold a slash.
"""

import hashlib
from collections.abc import Iterable
from enum import StrEnum

import torch


class Purpose(StrEnum):
    """The purpose of a stream, with the meaning of its two numbers."""

    ORDER = "order"  # epoch, turn: the order of the training images
    AUGMENT = "augment"  # epoch, batch
    TRAIN_NORM = "train norm"  # step, 0: what a method draws once per step, such as the norm
    TRAIN_START = "train"  # place in the batch, step: an image's own random start
    CHECK = "check"  # 0, 0: the start of the attack that checks a training
    RANDOM = "random"  # image, 0: random perturbations of an intermediate-q evaluation
    PATH = "path"  # image, run: its chains; a run that was too short is followed by another
    IMPORTANCE = "importance"  # image, run: its chains of annealed importance sampling
    PGD = "pgd"  # image, 0: its attack
    APGD = "apgd"  # image, 0: its second attack
    GENERATOR = "noise generator"  # 0, 0: the weights that a method's generator of noise starts from
    BENCH = "bench"  # image, 0


HELD_OUT = 0
"""The images held out are the same for every seed, so that runs can be compared by their selection accuracy; and
the same in every version, so that a run that goes on does not train on them."""


def attack(norm: str, family: str) -> str:
    """The purpose of the random starts of an attack family; its numbers are the image's index and the start's."""
    return f"{norm}/{family}"


def generator(seed: int, purpose: str, first: int, second: int = 0) -> torch.Generator:
    """A CPU generator of its own for each (seed, purpose, first, second)."""
    digest = hashlib.blake2b(f"{seed}/{first}/{purpose}/{second}".encode(), digest_size=8).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest) >> 1)


def held_out() -> torch.Generator:
    """The one stream that depends on nothing: which training images are kept for selection."""
    return torch.Generator().manual_seed(HELD_OUT)


def generators(seed: int, purpose: str, firsts: Iterable[int], second: int = 0) -> list[torch.Generator]:
    """One generator for each number of ``firsts``, such as the images of a batch."""
    return [generator(seed, purpose, first, second) for first in firsts]
