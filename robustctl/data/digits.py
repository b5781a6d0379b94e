"""The 1,797 handwritten digits that scikit-learn ships: 8x8 pixels of 17 grey levels, 10 classes.

The order is scikit-learn's, which groups by writer; the last 500 images are the test split, so that most of its writers
are not in the training split.
"""

import gzip
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from robustctl.data.image_data import count
from robustctl.data.split import Pixels
from robustctl.errors import RequestError

N_TRAIN = 1297
TABLE = "datasets/data/digits.csv.gz"  # in scikit-learn's package: 64 pixels and the class, one image a line


def read(split: str, n: int | None) -> Pixels:
    """Read the first ``n`` images: float32 (n, 1, 8, 8) in [0,1], 10 classes.

    Raises:
        RequestError: a split other than train and test, or more images than it has.
    """
    parts = {"train": slice(None, N_TRAIN), "test": slice(N_TRAIN, None)}
    if split not in parts:
        raise RequestError(f"digits has no split {split!r}; its splits: {', '.join(parts)}")
    flat, target = _shipped()
    x = flat[parts[split]].reshape(-1, 1, 8, 8).astype(np.float32) / np.float32(16)
    y = target[parts[split]].astype(np.int64)
    taken = count(n, len(y), f"digits ({split})")
    return Pixels(torch.from_numpy(x[:taken]), torch.from_numpy(y[:taken]), 10)


def _shipped() -> tuple[np.ndarray, np.ndarray]:
    """Grey levels (1797, 64) and classes (1797,), as scikit-learn's ``load_digits`` returns them."""
    package = find_spec("sklearn")
    table = Path(package.origin).parent / TABLE if package and package.origin else Path(TABLE)
    if not table.is_file():  # another version of scikit-learn may keep it elsewhere
        from sklearn.datasets import load_digits

        flat, target = load_digits(return_X_y=True)
        return flat, target
    # The import of scikit-learn brings pandas and scipy.stats and takes longer than all else that precedes an attack.
    with gzip.open(table, "rt", encoding="ascii") as lines:
        values = np.loadtxt(lines, delimiter=",")
    return values[:, :-1], values[:, -1]
