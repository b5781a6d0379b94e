"""The 1,797 handwritten digits that scikit-learn ships: 8x8 pixels of 17 grey levels, 10 classes.

The order is scikit-learn's, which groups by writer; the last 500 images are the test split, so that most of its writers
are not those of the training split.
"""

import numpy as np
import torch
from sklearn.datasets import load_digits

from robustctl.data.image_data import count
from robustctl.data.split import Pixels
from robustctl.errors import RequestError

N_TRAIN = 1297


def read(split: str, n: int | None) -> Pixels:
    """Read the first ``n`` images: float32 (n, 1, 8, 8) in [0,1], 10 classes.

    Raises:
        RequestError: a split other than train and test, or more images than it has.
    """
    parts = {"train": slice(None, N_TRAIN), "test": slice(N_TRAIN, None)}
    if split not in parts:
        raise RequestError(f"digits has no split {split!r}; its splits: {', '.join(parts)}")
    flat, target = load_digits(return_X_y=True)
    x = flat[parts[split]].reshape(-1, 1, 8, 8).astype(np.float32) / np.float32(16)
    y = target[parts[split]].astype(np.int64)
    taken = count(n, len(y), f"digits ({split})")
    return Pixels(torch.from_numpy(x[:taken]), torch.from_numpy(y[:taken]), 10)
