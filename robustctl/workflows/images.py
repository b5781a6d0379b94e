"""Images named by the user: local ones, or a hub data set that is fetched first."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from robustctl import data
from robustctl.data import Columns, EncodedData, ImageData, Reading
from robustctl.errors import RequestError
from robustctl.progress import say
from robustctl.spec import ModelSpec

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class NamedImages:
    """The images of an evaluation as a user names them.

    Attributes:
        source: what ``load_images`` takes.
        n: the first so many images of the split; all of them without.
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
        source: what ``robustctl.data.load`` takes, or a hub id USER/NAME. A local path wins over the hub.
        spec: the model that will be asked about them.
        reading: columns and classes that the source does not tell by itself.

    Raises:
        RequestError: as ``robustctl.data.load``, or the hub has no such data set in parquet files.
        RunError: the hub could not be reached.
    """
    images = replace(data.load(_local(source, split), split, n, spec, reading), source=source)
    if images.preprocessing:
        say(f"images of {source}: {images.preprocessing}")
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
    found = data.load_to_train(_local(source, split), split, any_size=any_size, side=side, spec=spec, reading=reading)
    images = replace(found, source=source)
    if isinstance(images, EncodedData):
        say(f"images of {source} stay on the disk and are decoded as the training needs them")
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


def is_of_hub(source: str) -> bool:
    """Whether a source is a data set of the hub; a local path wins over it."""
    return not Path(source).expanduser().exists() and HUB_ID.fullmatch(source) is not None


def _local(source: str, split: str) -> str:
    """The source itself if it is here, else the folder that the hub's data set was fetched into."""
    if not is_of_hub(source):
        return source
    from robustctl.models.pull import fetch_dataset

    return str(fetch_dataset(source, split))
