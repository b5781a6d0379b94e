"""Images that a Python caller gives: tensors, arrays, or a ``torch.utils.data.Dataset``."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from robustctl.data import ImageData
from robustctl.data.image_data import count
from robustctl.errors import RequestError
from robustctl.progress import progress


def from_tensors(images: Any, labels: Any, n: int | None = None) -> ImageData:
    """Take the first ``n`` images and labels from memory.

    Args:
        images: tensor or array (n, c, h, w), uint8 or floats in [0,1], on any device.
        labels: (n,) whole numbers, one per image.

    Raises:
        RequestError: another shape, type or range, or fewer than ``n``.
    """
    x, y = _tensor("images", images), _tensor("labels", labels)
    if x.ndim != 4:
        raise RequestError(f"images have shape {list(x.shape)}; give (n, channels, height, width)")
    if y.shape != x.shape[:1] or y.is_floating_point() or y.dtype == torch.bool:
        raise RequestError(f"labels are {y.dtype} of shape {list(y.shape)}; give {len(x)} whole numbers")
    taken = count(n, len(x), "the tensor of images")
    return _image_data(x[:taken], y[:taken], "tensors")


def from_dataset(dataset: "Dataset[Any]", n: int | None = None) -> ImageData:
    """Read the first ``n`` items of a map-style data set into memory, in its order.

    Args:
        dataset: its items are (image, label); an image is a tensor (c, h, w), uint8 or floats in [0,1], or a PIL image.
            If it has ``classes``, as torchvision's data sets have, these are the names of the labels.

    Raises:
        RequestError: it has no length, or an item is of another form, type, range or size.
    """
    size = getattr(dataset, "__len__", None)
    if size is None:
        raise RequestError(f"a {type(dataset).__name__} has no length; give a data set with __len__ and __getitem__")
    taken = count(n, int(size()), f"the {type(dataset).__name__}")
    images: list[Tensor] = []
    labels: list[int] = []
    with progress("reading images", taken) as advance:
        for position in range(taken):
            image, label = _item(dataset[position], position)
            if images and (image.shape != images[0].shape or image.dtype != images[0].dtype):
                raise RequestError(
                    f"item {position} is {image.dtype} {list(image.shape)}, item 0 is {images[0].dtype} "
                    f"{list(images[0].shape)}; resize all to the model's size in the data set's transform"
                )
            images.append(image)
            labels.append(label)
            advance(1)
    read = _image_data(torch.stack(images), torch.tensor(labels), type(dataset).__name__)
    names = getattr(dataset, "classes", None)
    if not isinstance(names, list | tuple) or len(names) < read.n_classes:
        return read
    return replace(read, class_names=tuple(map(str, names)), n_classes=len(names))


def _item(item: Any, position: int) -> tuple[Tensor, int]:
    if not isinstance(item, Sequence) or len(item) != 2:
        raise RequestError(f"item {position} is a {type(item).__name__}; an item must be the pair (image, label)")
    image, label = item
    if isinstance(image, Image.Image):
        pixels = np.array(image if image.mode in ("L", "RGB") else image.convert("RGB"))
        image = torch.from_numpy(pixels if pixels.ndim == 3 else pixels[:, :, None]).permute(2, 0, 1)
    if not isinstance(image, Tensor) or image.ndim != 3:
        raise RequestError(f"the image of item {position} is no tensor (channels, height, width) and no PIL image")
    try:
        return image, int(label)
    except (TypeError, ValueError):
        raise RequestError(f"the label of item {position} is {label!r}, no whole number") from None


def _tensor(what: str, values: Any) -> Tensor:
    try:
        return values.detach().cpu() if isinstance(values, Tensor) else torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError) as error:
        raise RequestError(f"{what} are no tensor and no array: {error}") from None


def _image_data(x: Tensor, y: Tensor, source: str) -> ImageData:
    if x.dtype != torch.uint8 and not x.is_floating_point():
        raise RequestError(f"images are {x.dtype}; give uint8, or floats in [0,1]")
    x = x if x.dtype == torch.uint8 else x.to(torch.float32)
    y = y.to(torch.int64)
    if (y < 0).any():
        raise RequestError(f"label {int(y.min())} is negative; classes are numbered from 0")
    return ImageData(x.contiguous(), y, int(y.max()) + 1, source, "all", torch.arange(len(y)))
