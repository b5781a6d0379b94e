"""Images named by the user: local ones, or a hub data set that is fetched first."""

import re
from dataclasses import replace
from pathlib import Path

from robustctl import data
from robustctl.data import EncodedData, ImageData
from robustctl.progress import say
from robustctl.spec import ModelSpec

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load_images(source: str, split: str, n: int | None = None, spec: ModelSpec | None = None) -> ImageData:
    """Read the first ``n`` images of a split, as ``robustctl.data.load`` does, from a hub data set too.

    Args:
        source: what ``robustctl.data.load`` takes, or a hub id USER/NAME. A local path wins over the hub.
        spec: the model that will be asked about them; what is done to images of other sizes is said on stderr.

    Raises:
        RequestError: as ``robustctl.data.load``, or the hub has no such data set in parquet files.
        RunError: the hub could not be reached.
    """
    images = replace(data.load(_local(source, split), split, n, spec), source=source)
    if images.preprocessing:
        say(f"images of {source}: {images.preprocessing}")
    return images


def load_training_images(
    source: str, split: str, *, any_size: bool, side: int | None = None
) -> ImageData | EncodedData:
    """Read a whole split as ``robustctl.data.load_to_train`` does, from a hub data set too; errors as ``load``."""
    images = replace(data.load_to_train(_local(source, split), split, any_size=any_size, side=side), source=source)
    if isinstance(images, EncodedData):
        say(f"images of {source} stay on the disk and are decoded as the training needs them")
    return images


def _local(source: str, split: str) -> str:
    """The source itself where it is here, else the folder that the hub's data set was fetched into."""
    if Path(source).expanduser().exists() or not HUB_ID.fullmatch(source):
        return source
    from robustctl.models.pull import fetch_dataset

    return str(fetch_dataset(source, split))
