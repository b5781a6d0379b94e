"""Accuracy on corrupted images: no attack, one verdict for each image, corruption and severity, kept in a store."""

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustctl import corruptions
from robustctl.corruptions import SEVERITIES, corrupt
from robustctl.corruptions.published import Published
from robustctl.evaluation import by_processes, referee
from robustctl.evaluation.audit import chunks
from robustctl.evaluation.identity import model_and_images
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.store import Row, Store
from robustctl.evaluation.store_key import Key, sha256_of_code
from robustctl.processes import ALONE, World
from robustctl.progress import Advance, silent

TIMED = 4
"""Images of each corruption that are timed."""


def key(setup: Setup, sha256: dict[str, str]) -> Key:
    """Everything that the verdicts depend on. Published images do not depend on the seed."""
    return {
        "evaluation": "corruptions",
        **model_and_images(setup.model, setup.spec, setup.data),
        "list of images": setup.data.index_sha256,
        "corrupted images": sha256 or f"made with seed {setup.seed} by {sha256_of_code(corruptions.files())}",
        "passes": setup.passes,
    }


def evaluate(
    setup: Setup,
    names: Sequence[str],
    published: Published | None,
    path: Path,
    sha256: dict[str, str],
    advance: Advance,
    world: World = ALONE,
) -> dict[str, list[list[int]]]:
    """Verdicts by corruption and severity: 1 if an image is classified rightly.

    Args:
        published: the folder of the images; without, they are made from the clean ones.
        path: of the store to go on with. sha256: of the published files.
        world: torchrun's processes, which share the images; all but the first return nothing.
    """
    severities, everything = range(1, SEVERITIES + 1), list(range(len(setup.data)))

    def work(store: Store, positions: list[int], advance: Advance) -> None:
        for name in names:
            for severity in severities:
                _judge(setup, name, severity, published, store, positions, advance)

    mine = world.share(everything)
    if not by_processes.fill(world, path, key(setup, sha256), lambda store: work(store, mine, advance)):
        return {}
    with Store(path, key(setup, sha256)) as store:
        work(store, everything, advance if world.size == 1 else silent)
        return {
            name: [
                [int(position not in wrong) for position in everything]
                for wrong in (store.broken(name, f"severity {severity}") for severity in severities)
            ]
            for name in names
        }


def seconds(setup: Setup, names: Sequence[str], published: Published | None) -> float:
    """How long all images of these corruptions take, from a few of each."""
    few, started = list(range(min(TIMED, len(setup.data)))), time.perf_counter()
    for name in names:
        referee.vote(setup.model, corrupted(setup, name, 3, published, few), setup.data.y[few], setup.passes)
    return (time.perf_counter() - started) * SEVERITIES * len(setup.data) / len(few)


def _judge(
    setup: Setup,
    name: str,
    severity: int,
    published: Published | None,
    store: Store,
    positions: list[int],
    advance: Advance,
) -> None:
    family = f"severity {severity}"
    done = store.judged(name, family)
    left = [position for position in positions if position not in done]
    advance(len(positions) - len(left), f"{name} {severity}")
    for chunk in chunks(left, setup.batch_size):
        x = corrupted(setup, name, severity, published, chunk)
        votes = referee.vote(setup.model, x, setup.data.y[chunk], setup.passes, "meets an image on which")
        columns = zip(chunk, votes.wrong.tolist(), votes.margin.tolist(), strict=True)
        store.add(name, family, [Row(position, wrong, True, margin, None) for position, wrong, margin in columns])
        advance(len(chunk))


def corrupted(setup: Setup, name: str, severity: int, published: Published | None, positions: Sequence[int]) -> Tensor:
    """Corrupted images (n, c, h, w), float32 in [0,1]; published ones in the positions of the clean ones."""
    indices = setup.data.indices[list(positions)].tolist()
    if published is not None:
        levels = published.images(name, severity, indices)
    else:
        clean = setup.data.images(positions).permute(0, 2, 3, 1).numpy()
        made = [corrupt(image, name, severity, setup.seed, i) for image, i in zip(clean, indices, strict=True)]
        levels = np.stack(made)
    return torch.from_numpy(levels).permute(0, 3, 1, 2).float().div(255).contiguous()
