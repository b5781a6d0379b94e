"""Images and labels: one source a file. Everything here is local; the hub is the registry's matter."""

from pathlib import Path

import torch

from robustctl.data import digits, folder, npz, parquet
from robustctl.data.image_data import ImageData
from robustctl.errors import RequestError

__all__ = ["ImageData", "load"]


def load(source: str, split: str, n: int | None = None) -> ImageData:
    """Read the first ``n`` images (all of them where None) of a split.

    Args:
        source: ``digits``, a folder in the hub's parquet layout (the dataset's top folder or the configuration inside
            it), a folder of ``split/class/image`` files, or an ``.npz`` file, for which the split is always ``all``.

    Raises:
        RequestError: no such source or split, damaged data, or more images than there are.
    """
    path = Path(source).expanduser()
    if source == "digits":
        x, y, n_classes = digits.read(split, n)
    elif path.is_dir():
        read = parquet.read if parquet.is_parquet(path) else folder.read
        x, y, n_classes = read(path, split, n)
    elif path.is_file():
        split = "all"
        x, y, n_classes = npz.read(path, n)
    else:
        raise RequestError(f"no data at {source!r}; give digits, a folder, an .npz file, or a hub data set USER/NAME")
    return ImageData(x, y, n_classes, source, split, torch.arange(len(y)))
