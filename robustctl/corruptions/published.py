"""Corrupted images as they were published: a folder of ``NAME.npy``, five severities of 10,000 test images each."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from robustctl.corruptions import SEVERITIES
from robustctl.errors import RequestError
from robustctl.reading import is_file, read_text

AT_ONCE = 1 << 24
MAX_BYTES = 1 << 20
"""A list of hashes is never longer than this."""


class Published:
    """Reads the files of CIFAR-10-C (zenodo.org/records/2535967) or CIFAR-100-C, one at a time and mapped into memory.

    Args:
        folder: of the files. Raises RequestError if there is none, or no ``labels.npy`` in it.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise RequestError(f"--data: there is no folder {folder} with corrupted images")
        self.folder = folder
        self.labels = _array(folder / "labels.npy")
        if self.labels.ndim != 1 or len(self.labels) % SEVERITIES:
            raise RequestError(f"{folder / 'labels.npy'}: expected one label an image, {SEVERITIES} times over")
        self.each = len(self.labels) // SEVERITIES

    def require(self, name: str, indices: Sequence[int], labels: Sequence[int], shape: tuple[int, int, int]) -> None:
        """Raise RequestError unless the file is there, has the model's images, and agrees on every label."""
        path = self._path(name)
        found = _array(path)
        channels, height, width = shape
        if found.shape != (len(self.labels), height, width, channels) or found.dtype != np.uint8:
            raise RequestError(
                f"{path}: it holds {found.dtype} {list(found.shape)}, expected uint8 "
                f"{[len(self.labels), height, width, channels]}"
            )
        for index, label in zip(indices, labels, strict=True):
            if index >= self.each or self.labels[index] != label:
                there = self.labels[index] if index < self.each else "none"
                raise RequestError(
                    f"{self.folder}: image {index} has label {there} there and {label} in the clean images; they are "
                    "not the same images in the same order"
                )

    def images(self, name: str, severity: int, indices: Sequence[int]) -> np.ndarray:
        """Images (n, h, w, c), uint8, of a severity from 1 to 5."""
        rows = [(severity - 1) * self.each + index for index in indices]
        return np.stack([_array(self._path(name))[row] for row in rows])

    def sha256(self, name: str) -> str:
        """Hash of the file."""
        digest = hashlib.sha256()
        with self._path(name).open("rb") as file:
            while part := file.read(AT_ONCE):
                digest.update(part)
        return digest.hexdigest()

    def require_hash(self, name: str, sha256: str) -> None:
        """Raise RequestError if the folder has a ``SHA256SUMS`` (as ``sha256sum`` writes it) that says otherwise."""
        sums, file = self.folder / "SHA256SUMS", self._path(name).name
        if not is_file(sums):
            return
        lines = [line.split(maxsplit=1) for line in read_text(sums, MAX_BYTES).splitlines() if line.strip()]
        said = {parts[1].strip().lstrip("*"): parts[0].lower() for parts in lines if len(parts) == 2}
        if file not in said:
            raise RequestError(f"{sums} does not name {file}")
        if said[file] != sha256:
            raise RequestError(f"{self.folder / file}: its SHA-256 is {sha256}, and {sums.name} says {said[file]}")

    def _path(self, name: str) -> Path:
        return self.folder / f"{name.replace('-', '_')}.npy"


def _array(path: Path) -> np.ndarray:
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except FileNotFoundError:
        raise RequestError(f"there is no file {path}") from None
    except (OSError, ValueError) as error:
        raise RequestError(f"{path} is no array of NumPy: {error}") from None
    return found
