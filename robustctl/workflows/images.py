"""Images named by the user: local ones, or a hub data set that is fetched first."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from robustctl import data
from robustctl.data import Columns, EncodedData, ImageData, Reading
from robustctl.errors import RequestError
from robustctl.hub.names import REVISION
from robustctl.progress import say
from robustctl.spec import ModelSpec

DATASET = re.compile(rf"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>{REVISION.pattern}))?", re.ASCII)
"""A data set of the hub, at its newest commit or at one of its revisions."""


@dataclass(frozen=True)
class NamedImages:
    """The images of an evaluation as a user names them.

    Attributes:
        source: what ``load_images`` takes.
        n: how many images of the split, from its first on; None takes all.
        reading: columns and classes that the source does not tell by itself.
    """

    source: str
    split: str = "test"
    n: int | None = None
    reading: Reading | None = None

    def load(self, spec: ModelSpec) -> ImageData:
        """Read them for a model; errors as ``load_images``, and RequestError for images that it cannot take."""
        images = load_images(self.source, self.split, self.n, spec, self.reading)
        images.require(spec.input_shape, spec.n_classes)
        return images


def load_images(
    source: str, split: str, n: int | None = None, spec: ModelSpec | None = None, reading: Reading | None = None
) -> ImageData:
    """Read the first ``n`` images of a split, as ``robustctl.data.load`` does, from a hub data set too.

    Notes on the reading (files left out, images resized, classes by order) go to stderr.

    Args:
        source: what ``robustctl.data.load`` takes, or a hub id USER/NAME[@REVISION]. A local path wins over the hub.
        spec: the model that will be asked about them.
        reading: columns and classes that the source does not tell by itself.

    Raises:
        RequestError: as ``robustctl.data.load``, or the hub has no such data set in parquet files.
        RunError: the hub could not be reached.
    """
    place = _place(source, split)
    images = replace(data.load(place.path, split, n, spec, reading), source=place.source, revision=place.revision)
    if images.preprocessing:
        say(f"images of {images.source}: {images.preprocessing}")
    _say_notes(images)
    return images


def load_training_images(
    source: str,
    split: str,
    *,
    any_size: bool,
    side: int | None = None,
    spec: ModelSpec | None = None,
    reading: Reading | None = None,
) -> ImageData | EncodedData:
    """Read a whole split as ``robustctl.data.load_to_train`` does, from a hub data set too; errors as ``load``."""
    place = _place(source, split)
    found = data.load_to_train(place.path, split, any_size=any_size, side=side, spec=spec, reading=reading)
    images = replace(found, source=place.source, revision=place.revision)
    if isinstance(images, EncodedData):
        say(f"images of {images.source} stay on the disk and are decoded as the training needs them")
    _say_notes(images)
    return images


def reading_of(columns: str | None, classes: Path | None) -> Reading:
    """The reading that ``--columns`` and ``--classes`` ask for.

    Args:
        columns: ``image=img,label=fine_label``.
        classes: a YAML file that maps each class of the data to the model's.

    Raises:
        RequestError: another form, or a file that holds something else.
    """
    mapping = None
    if classes is not None:
        from robustctl.models.entry import read_mapping

        mapping = read_mapping(classes)
        if bad := [
            key for key, value in mapping.items() if isinstance(value, bool) or not isinstance(value, str | int)
        ]:
            raise RequestError(f"{classes}: {bad[0]!r} is given neither the name nor the number of a class")
    return Reading(Columns.parse(columns), mapping)


def _say_notes(images: ImageData | EncodedData) -> None:
    for note in images.notes:
        say(note)


@dataclass(frozen=True)
class _Place:
    """The path of images on this machine, what they are called, and their commit if they are from the hub."""

    path: str
    source: str
    revision: str | None = None


def hub_dataset(source: str) -> tuple[str, str | None] | None:
    """Repo and revision of a hub data set that is named so; None for what lies on this machine or is built in."""
    found = DATASET.fullmatch(source)
    if found is None or Path(source).expanduser().exists():
        return None
    return found["repo"], found["revision"]


def _place(source: str, split: str) -> _Place:
    """The source itself if it is here, else the folder that the hub's data set was fetched into."""
    named = hub_dataset(source)
    if named is None:
        return _Place(source, source)
    from robustctl.models.pull import commit_of, fetch_dataset

    folder = fetch_dataset(named[0], split, named[1])
    return _Place(str(folder), named[0], commit_of(folder))
