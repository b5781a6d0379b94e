"""Images that stay encoded on the disk until they are wanted: data sets that are too large or of many sizes."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace

import torch
from PIL import Image
from torch import Tensor

from robustctl.data.decode import as_grey, gather, open_image, size_of
from robustctl.data.image_data import ImageData, Labelled
from robustctl.data.resize import centre
from robustctl.data.split import ImagesOnDisk
from robustctl.errors import RequestError
from robustctl.spec import Resize

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class EncodedData(Labelled):
    """Images on the disk, and their labels in memory.

    Attributes:
        encoded: all images of the split; this part's are at ``indices``.
        any_size: the images have sizes of their own, and are resized and cut to a model's.
        revision: the commit of the hub's data set that they are from; None for others.
    """

    encoded: ImagesOnDisk
    y: Tensor
    n_classes: int
    source: str
    split: str
    indices: Tensor
    any_size: bool = False
    class_names: tuple[str, ...] | None = None
    numbered: bool = True
    notes: tuple[str, ...] = ()
    revision: str | None = None

    def select(self, positions: Sequence[int] | Tensor) -> "EncodedData":
        """The images at these positions, which keep their indices in the split."""
        chosen = torch.as_tensor(positions)
        return replace(self, y=self.y[chosen], indices=self.indices[chosen])

    @property
    def content_sha256(self) -> str:
        """Hash of the images' names and labels, not of their pixels: a damaged file may be replaced."""
        digest = hashlib.sha256(b"encoded\n" + self.y.numpy().tobytes())
        for index in self.indices.tolist():
            digest.update(self.encoded.name(index).encode() + b"\n")
        return digest.hexdigest()

    @property
    def shape(self) -> Shape:
        """(channels, height, width) of the first image."""
        index = int(self.indices[0])
        return size_of(self.encoded[index], self.encoded.name(index))

    def require(self, input_shape: Shape, n_classes: int) -> None:
        """Check the labels and, if images may not be resized, the first image; the others are checked when decoded.

        Raises:
            RequestError: as ``ImageData.require``.
        """
        if not self.any_size:
            self.require_shape(input_shape)
        self.require_labels(n_classes)

    def name(self, position: int) -> str:
        """The name of an image in a message."""
        return self.encoded.name(int(self.indices[position]))

    def all_of(self, height: int, width: int) -> bool:
        """Whether every image has this size, by its first bytes; ends at the first that has not."""
        return all(
            size_of(self.encoded[index], self.encoded.name(index))[1:] == (height, width)
            for index in self.indices.tolist()
        )

    def image(self, position: int, channels: int) -> Image.Image:
        """One image of mode L or RGB (1 or 3 channels); raises RequestError if it has others."""
        name = self.name(position)
        image = open_image(self.encoded[int(self.indices[position])], name, colour=channels == 3)
        fitting = as_grey(image) if channels == 1 else image
        if fitting is None:
            raise RequestError(f"{name} has colours, the model takes {channels} channel")
        return fitting

    def fitted(self, positions: Sequence[int], shape: Shape, resize: Resize | None, pool: Executor | None) -> Tensor:
        """The images at these positions, uint8 (n, c, h, w) of ``shape``.

        Args:
            resize: what to do to every image; None refuses images of another size.

        Raises:
            RequestError: an image that cannot be read or decoded, or does not have the shape.
        """

        def one(i: int) -> Image.Image:
            image, name = self.image(positions[i], shape[0]), self.name(positions[i])
            if resize is None and (image.height, image.width) != shape[1:]:
                raise RequestError(f"{name} is {image.height}x{image.width}, the model takes {shape[1]}x{shape[2]}")
            try:
                return centre(image, resize, shape[2]) if resize else image
            except ValueError as error:
                raise RequestError(f"cannot resize {name}: {error}") from None

        return gather(len(positions), shape, one, pool)

    def decoded(self, shape: Shape, resize: Resize | None) -> ImageData:
        """All images in memory: as they are if all have the model's size, else resized as ``resize`` says.

        Raises:
            RequestError: an image that cannot be read or decoded, or is of another size and may not be resized.
        """
        fits = resize is None or self.all_of(shape[1], shape[2])
        x = self.fitted(range(len(self)), shape, None if fits else resize, None)
        done = None if fits or resize is None else resize.text(shape[2])
        return self.in_memory(x, done)

    def in_memory(self, x: Tensor, preprocessing: str | None = None) -> ImageData:
        """These images with their pixels."""
        return ImageData(
            x,
            self.y,
            self.n_classes,
            self.source,
            self.split,
            self.indices,
            preprocessing,
            self.class_names,
            self.numbered,
            self.notes,
        )
