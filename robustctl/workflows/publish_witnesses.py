"""Makes the files of witnesses that go with a pushed run."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustctl.errors import RequestError
from robustctl.progress import say
from robustctl.results.union import UnionResult
from robustctl.runs import RunRecord
from robustctl.spec import ModelSpec
from robustctl.threats import Norm

MOST_BYTES = 200_000_000
"""Size of all witnesses up to which they are published unasked."""


@dataclass(frozen=True)
class Evaluated:
    """An evaluation on this machine: the file of its result, what it holds, and the name that it is published under."""

    path: Path
    result: UnionResult
    name: str


def make_witnesses(
    evaluated: Sequence[Evaluated],
    spec: ModelSpec,
    record: RunRecord | None,
    folder: Path,
    *,
    wanted: bool | None,
    fetch: bool = True,
) -> dict[str, Path]:
    """Write the witnesses of evaluations into ``folder``, and say on stderr what they hold and what they take.

    Args:
        wanted: True refuses what cannot be made, and any size is taken; None leaves it out and says why; False makes
            none.
        fetch: ask the hub for images that are not here.

    Returns:
        The files by their path in a repo.

    Raises:
        RequestError: they are wanted, and the verdicts or the images of an evaluation are not here any more.
    """
    files: dict[str, Path] = {}
    if wanted is False:
        return files
    for one in evaluated:
        path = folder / f"{one.name}.safetensors"
        try:
            counts = _write(one, spec, record, path, fetch)
        except RequestError as error:
            if wanted:
                raise RequestError(f"--witnesses: {error}") from None
            say(f"{one.name} is published without witnesses, so that nobody can verify it: {error}")
            continue
        listed = ", ".join(f"{norm} {count}" for norm, count in counts.items())
        say(f"witnesses of {one.name}: {listed} points, {path.stat().st_size / 1e6:.2f} MB")
        files[f"witnesses/{path.name}"] = path
    total = sum(path.stat().st_size for path in files.values())
    if total > MOST_BYTES and not wanted:
        say(f"the witnesses take {total / 1e6:.0f} MB and are left out; --witnesses publishes them all the same")
        return {}
    return files


def _write(one: Evaluated, spec: ModelSpec, record: RunRecord | None, path: Path, fetch: bool) -> dict[Norm, int]:
    """Write the witnesses of one evaluation; returns how many there are by norm."""
    store = one.path.with_suffix(".sqlite")
    if not store.is_file():
        raise RequestError(f"{store.name}, which has the adversarial images, is not beside {one.path.name}")
    from robustctl.evaluation import witnesses  # torch, which a push without witnesses does not need
    from robustctl.workflows.claimed_images import claimed_images

    images = claimed_images(one.result, spec, record=record, fetch=fetch)
    known = one.result.data.content_sha256
    if known is not None and not images.has_content(known):
        raise RequestError(f"the images of {one.result.data.text} have changed since the evaluation")
    found = witnesses.StoredWitnesses(store, one.result)
    counts = witnesses.write(path, found, witnesses.origin_of(one.result, spec, images), images)
    for norm, robust in one.result.points.robust.items():
        broken = sum(right and not left for right, left in zip(one.result.points.clean, robust, strict=True))
        if counts[norm] < broken:
            raise RequestError(f"{store.name} has {counts[norm]} of {broken} adversarial images of {norm}")
    return counts
