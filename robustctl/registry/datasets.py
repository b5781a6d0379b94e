"""Images named by the user: local ones, or a hub data set that is fetched first."""

import re
from dataclasses import replace
from pathlib import Path

from robustctl import data
from robustctl.data import ImageData

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def load(source: str, split: str, n: int | None = None) -> ImageData:
    """Read the first ``n`` images of a split, as ``robustctl.data.load`` does, from a hub data set too.

    Args:
        source: what ``robustctl.data.load`` takes, or a hub id USER/NAME. A local path wins over the hub.

    Raises:
        RequestError: as ``robustctl.data.load``, or the hub has no such data set in parquet files.
        RunError: the hub could not be reached.
    """
    if Path(source).expanduser().exists() or not HUB_ID.fullmatch(source):
        return data.load(source, split, n)
    from robustctl.registry import hub

    return replace(data.load(str(hub.download_dataset(source, split)), split, n), source=source)
