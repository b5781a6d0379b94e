"""Accuracy on corrupted images: no attack, one verdict for each image, corruption and severity, kept in a store."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robustctl import corruptions
from robustctl.checkpoint import weights_sha256
from robustctl.corruptions import SEVERITIES, corrupt
from robustctl.corruptions.published import Published
from robustctl.evaluation import referee
from robustctl.evaluation.audit import chunks
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.store import Row, Store
from robustctl.evaluation.store_key import Key, sha256_of_code
from robustctl.progress import Advance
from robustctl.version import __version__


def key(setup: Setup, sha256: dict[str, str]) -> Key:
    """Everything that the verdicts depend on. Published images do not depend on the seed."""
    return {
        "robustctl": __version__,
        "evaluation": "corruptions",
        "weights": weights_sha256(setup.model),
        "architecture": setup.spec.architecture.model_dump(),
        "normalisation": setup.spec.normalization.model_dump() if setup.spec.normalization else None,
        "images": setup.data.content_sha256,
        "list of images": setup.data.index_sha256,
        "n": len(setup.data),
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
) -> dict[str, list[list[int]]]:
    """Verdicts by corruption and severity: 1 if an image is classified rightly.

    Args:
        published: the folder of the images; without, they are made from the clean ones.
        path: of the store to go on with. sha256: of the published files.
    """
    found = {}
    with Store(path, key(setup, sha256)) as store:
        for name in names:
            found[name] = [_one(setup, name, k, published, store, advance) for k in range(1, SEVERITIES + 1)]
    return found


def _one(
    setup: Setup, name: str, severity: int, published: Published | None, store: Store, advance: Advance
) -> list[int]:
    family, everything = f"severity {severity}", range(len(setup.data))
    done = store.judged(name, family)
    advance(len(done), f"{name} {severity}")
    for chunk in chunks([position for position in everything if position not in done], setup.batch_size):
        x = corrupted(setup, name, severity, published, chunk)
        votes = referee.vote(setup.model, x, setup.data.y[chunk], setup.passes, "meets an image on which")
        columns = zip(chunk, votes.wrong.tolist(), votes.margin.tolist(), strict=True)
        store.add(name, family, [Row(position, wrong, True, margin, None) for position, wrong, margin in columns])
        advance(len(chunk))
    wrong = store.broken(name, family)
    return [int(position not in wrong) for position in everything]


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
