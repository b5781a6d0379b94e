"""The images that a result is about, in its order."""

from dataclasses import replace

from robustctl.data import Columns, ImageData, Reading
from robustctl.errors import RequestError
from robustctl.models.pull import fetched_dataset
from robustctl.publish.redact import LOCAL
from robustctl.results.union import UnionResult
from robustctl.runs import RunRecord
from robustctl.spec import ModelSpec
from robustctl.workflows.images import hub_dataset, load_images


def claimed_images(
    result: UnionResult,
    spec: ModelSpec,
    *,
    source: str | None = None,
    reading: Reading | None = None,
    record: RunRecord | None = None,
    fetch: bool = True,
) -> ImageData:
    """Read the points of a result; the caller compares whether they are still the same images.

    Args:
        source: their place, if it is not the one that the result names.
        reading: columns and classes that the source does not tell by itself; else the run's ``record`` names them.
        fetch: ask the hub for a data set that is not here.

    Raises:
        RequestError: nobody names the place of the images, they cannot be read, or some of the points are missing.
        RunError: the hub could not be reached.
    """
    place, split, index = source or result.data.pinned, result.data.split, result.points.index
    if place.startswith(LOCAL):
        raise RequestError("they were on the publisher's machine; say where yours are: --data FOLDER")
    if record is not None and source is None and reading is None and record.data.get("source") == result.data.source:
        reading = Reading(Columns.parse(record.data.get("columns")), record.data.get("classes"))
    images = load_images(_here(place, split, fetch), split, max(index) + 1, spec, reading)
    position = {one: number for number, one in enumerate(images.indices.tolist())}
    if missing := [one for one in index if one not in position]:
        raise RequestError(f"{images.where} has no image {missing[0]}")
    return replace(images.select([position[one] for one in index]), source=source or result.data.source, split=split)


def _here(source: str, split: str, fetch: bool) -> str:
    """A hub data set that was fetched before, as its folder; else the source itself.

    Raises:
        RequestError: it would have to be fetched.
    """
    named = hub_dataset(source)
    if named is None:
        return source
    if (folder := fetched_dataset(named[0], split, named[1])) is not None:
        return str(folder)
    if not fetch:
        raise RequestError(f"data set {source} is not here")
    return source
