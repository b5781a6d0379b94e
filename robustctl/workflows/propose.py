"""Proposes a result with its witnesses to somebody's repo, as a pull request."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from robustctl import checkpoint
from robustctl.devices import pick_device
from robustctl.errors import RequestError
from robustctl.evaluation import verification, witnesses
from robustctl.files import scratch
from robustctl.hub.names import FILE, REPO_ID
from robustctl.hub.plain_directory import sha256
from robustctl.models import pull as pulling
from robustctl.models.find import FoundModel, find_model
from robustctl.publish import push, redact
from robustctl.results.union import UnionResult
from robustctl.threats import NORMS
from robustctl.workflows.claimed_images import claimed_images
from robustctl.workflows.claims import PROPOSAL, Claim, published_claims, read_claim


@dataclass(frozen=True)
class Proposal:
    """A proposal: its address (None after a dry run), files with their sizes, and its text."""

    address: str | None
    sizes: dict[str, int]
    lines: list[str]


def propose(
    repo: str,
    result: Path,
    *,
    data: str | None = None,
    breaks: bool = False,
    device: str = "auto",
    dry_run: bool = False,
) -> Proposal:
    """Open a pull request with a result and its witnesses, after they were judged here.

    Args:
        repo: ``user/name``, whose weights the result is of.
        result: its JSON file, in a run or a pulled repo, beside its verdicts or witnesses.
        data: the place of the images, if it is not the one that the result names.
        breaks: it must break points that the repo claims to be robust.
        dry_run: do all but open the pull request.

    Raises:
        RequestError: no such repo or result, other weights, witnesses that prove less than the result says, or nothing
            that lowers a claim.
        RunError: the network.
    """
    if repo.startswith(FILE) or not REPO_ID.fullmatch(repo):
        raise RequestError(f"{repo} is no repo of the hub; pull requests are made to USER/NAME")
    claim = read_claim(result)
    if claim.result is None:
        raise RequestError(f"{result}: {claim.fault}")
    target = push.Target(repo, create_pr=True)
    if not dry_run:
        push.preflight(repo, create_pr=True)
    pulling.pull(repo)
    model = find_model(repo)
    lines = lowered(claim.result, _claims(model)) if breaks else []
    if breaks and not lines:
        raise RequestError(f"{result} breaks no point that {repo} claims to be robust on the same images and radii")
    with scratch() as folder:
        files = _files(model, claim, claim.result, data, device, folder)
        sizes = {name: one.stat().st_size if isinstance(one, Path) else len(one) for name, one in files.items()}
        address = None if dry_run else _open(target, files, claim.result, breaks)
    return Proposal(address, sizes, lines)


def lowered(result: UnionResult, claims: Sequence[Claim]) -> list[str]:
    """By claim and norm, how many points a result breaks that are claimed to be robust, and what that makes of it."""
    lines = []
    for claim in claims:
        there = claim.result
        if there is None or result.data.content_sha256 in (None, "") or not _same_images(result, there):
            continue
        for norm in [norm for norm in NORMS if norm in result.norms and norm in there.norms]:
            if result.norms[norm].eps != there.norms[norm].eps:
                continue
            pairs = list(zip(result.points.robust[norm], there.points.robust[norm], strict=True))
            if broken := sum(claimed and not mine for mine, claimed in pairs):
                left = sum(claimed and mine for mine, claimed in pairs) / len(pairs)
                which = f"{broken} points that are" if broken > 1 else "1 point that is"
                lines.append(
                    f"{claim.name}, {norm}:{there.norms[norm].eps_text}: {which} claimed to be robust "
                    f"{'are' if broken > 1 else 'is'} broken: at most {100 * left:.1f} % instead of "
                    f"{100 * there.norms[norm].acc:.1f} %"
                )
    return lines


def _same_images(first: UnionResult, second: UnionResult) -> bool:
    return first.data.content_sha256 == second.data.content_sha256


def _claims(model: FoundModel) -> list[Claim]:
    try:
        return published_claims(model).claims
    except RequestError:
        return []


def _files(
    model: FoundModel, claim: Claim, result: UnionResult, data: str | None, device: str, folder: Path
) -> dict[str, bytes | Path]:
    """The files of a proposal, after its witnesses were found to prove its figures."""
    classifier = checkpoint.load_from(model.spec, model.weights).to(pick_device(device))
    if checkpoint.weights_sha256(classifier) != result.weights_sha256:
        raise RequestError(f"{claim.path} is not of the weights of {model.name}")
    images = claimed_images(result, model.spec, source=data)
    found = claim.witnesses()
    checked = verification.verify(
        classifier, model.spec, images, result, found, name=model.name, claim=claim.name, sample=0
    )
    if found is None or any(one.proven > one.claimed + 1e-9 for one in checked.figures.values()):
        raise RequestError(f"{claim.path}: its witnesses, which prove its figures, are not all beside it")
    if wrong := [one for one in checked.findings if one.verdict == "not reproduced"]:
        raise RequestError(f"{claim.path} does not hold here: {wrong[0]}")
    shown = redact.published(result, redact.data_names([result.data.source]))
    name = push.result_name(shown).replace("eval-", PROPOSAL, 1)
    path = folder / f"{name}.safetensors"
    witnesses.write(path, found, witnesses.origin_of(result, model.spec, images), images)
    content = push.result_bytes(shown)
    if secret := redact.secret_in(content.decode()):
        raise RequestError(f"{claim.path} would publish {secret}")
    return {f"robustctl/{name}.json": content, f"witnesses/{name}.safetensors": path}


def _open(target: push.Target, files: dict[str, bytes | Path], result: UnionResult, breaks: bool) -> str:
    """Open the pull request; returns its address."""
    from robustctl.hub import client

    hashes = {one: sha256(one) for one in files.values() if isinstance(one, Path)}
    what = "Witnesses that lower a claim" if breaks else "A result with witnesses"
    message = f"{what}: {result.attack.name}, union at most {100 * result.union.acc:.1f} % (robustctl propose)"
    return client.commit_files(target.repo, files, hashes, [], message, target.branch, create_pr=True)
