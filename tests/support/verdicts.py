"""The verdict of the command line on one claim, and results written anew."""

import json
from pathlib import Path
from typing import Any

from claimed import adopt, claim_of
from command import robust

from robustctl.results import union as results
from robustctl.results.result_file import index_sha256
from robustctl.results.union import Points, UnionResult, summarize
from robustctl.threats import Threat

SEED = ("--seed", "1", "--sample", "6")


def verdict(what: object, tmp_path: Path, *options: object) -> dict[str, Any]:
    """The one claim's verdict; the exit code must fit it."""
    path = tmp_path / "verdict.json"
    code = robust("-q", "verify", what, *(options or SEED), "--json", path)
    content = json.loads(path.read_text())
    assert code == (0 if content["verdict"] == "confirmed" else 1)
    (claim,) = content["claims"]
    return dict(claim)


def texts(claim: dict[str, Any]) -> str:
    return "\n".join(f"{one['verdict']}: {one['text']}" for one in claim["findings"])


def rewritten(folder: Path, robust_points: dict[str, list[int]] | None = None, **points: list[int]) -> None:
    """Write the one result there with other points, figures that follow from them, and names that fit."""
    path = claim_of(folder)
    result = results.read(path)
    content = result.points.model_dump() | points
    content["robust"] = robust_points or content["robust"]
    changed = Points.model_validate(content)
    threats = [Threat.of(norm, one.eps_text) for norm, one in result.norms.items()]
    forged = {**result.model_dump(by_alias=True), **summarize(changed, threats, {}, False), "points": changed}
    positions = index_sha256(result.data.split, changed.index)
    forged |= {"second_opinion": None, "data": result.data.model_copy(update={"index_sha256": positions})}
    UnionResult.model_validate(forged).write(path)
    adopt(folder)
