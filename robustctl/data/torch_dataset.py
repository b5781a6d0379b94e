"""A ``torch.utils.data.Dataset`` of image and label as images in memory."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from robustctl.data.image_data import ImageData, count, labels
from robustctl.errors import RequestError


def from_dataset(
    dataset: "Dataset[Any]", n: int | None = None, *, source: str = "a data set in Python", split: str = "all"
) -> ImageData:
    """Read the first ``n`` pairs of image and label (all of them for None), e.g. of ``torchvision.datasets.CIFAR10``.

    Args:
        dataset: its items are pairs. An image is a Pillow image of 8 bits, or a tensor or array (c, h, w), uint8 or
            float in [0,1] as ``torchvision.transforms.ToTensor`` makes it; normalisation belongs into the model. If it
            has ``classes``, these are the names of the labels.
        source, split: what results and messages call it.

    Raises:
        RequestError: items of another kind, of several sizes, or with pixels outside [0,1].
    """
    length: int = len(dataset)  # type: ignore[arg-type]  # Dataset does not promise __len__
    taken = count(n, length, source)
    images, targets = [], []
    for i in range(taken):
        item = dataset[i]
        if not isinstance(item, Sequence) or len(item) != 2:
            raise RequestError(f"item {i} of {source} is no pair of image and label")
        images.append(_pixels(item[0], i, source))
        targets.append(int(item[1]))
        if images[i].shape != images[0].shape or images[i].dtype != images[0].dtype:
            raise RequestError(
                f"item {i} of {source} is {images[i].dtype} {list(images[i].shape)}, item 0 is {images[0].dtype} "
                f"{list(images[0].shape)}; all must be of one kind"
            )
    names = getattr(dataset, "classes", None)
    known = tuple(map(str, names)) if isinstance(names, list | tuple) and names else None
    n_classes = len(known) if known else max(targets) + 1
    y = labels(np.array(targets, dtype=np.int64), n_classes, source)
    return ImageData(torch.stack(images), y, n_classes, source, split, torch.arange(taken), class_names=known)


def _pixels(image: Any, i: int, source: str) -> Tensor:
    """(c, h, w), uint8 or float32."""
    if isinstance(image, Image.Image):
        array = np.array(image)
        x = torch.from_numpy(array[None] if array.ndim == 2 else array.transpose(2, 0, 1))
    elif isinstance(image, Tensor | np.ndarray):
        x = torch.as_tensor(image)
    else:
        raise RequestError(f"the image of item {i} of {source} is a {type(image).__name__}, no tensor or Pillow image")
    x = x.float() if x.is_floating_point() else x
    if x.ndim != 3 or x.dtype not in (torch.uint8, torch.float32) or x.shape[0] not in (1, 3):
        raise RequestError(f"the image of item {i} of {source} is {x.dtype} {list(x.shape)}, not (c, h, w) in [0,1]")
    if x.is_floating_point() and not ((x >= 0) & (x <= 1)).all():
        raise RequestError(
            f"pixels of item {i} of {source} reach from {float(x.min()):g} to {float(x.max()):g}, not within [0,1]; "
            "leave normalisation to the model"
        )
    return x.contiguous()
