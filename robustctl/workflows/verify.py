"""Verifies what is claimed for a model: finds the claims, brings the images, judges, and keeps the verdicts."""

import json
import secrets
from collections.abc import Sequence
from pathlib import Path

from robustctl import checkpoint
from robustctl.architectures import Classifier
from robustctl.checkpoint import weights_sha256
from robustctl.data import ImageData, Reading
from robustctl.devices import HOST, device_name, pick_device
from robustctl.errors import RequestError
from robustctl.evaluation import consistency, verification
from robustctl.evaluation.challenge import SAMPLE
from robustctl.files import make_folder, write_text
from robustctl.hub.names import EVAL_RESULTS
from robustctl.publish import eval_results
from robustctl.publish.card import CARD_SHA256, section_sha256_in, strange_lines
from robustctl.publish.figures import contradictions, figures_in
from robustctl.reading import is_file
from robustctl.results.verification import SHOWN, VERDICTS, Finding, Verification, record_path
from robustctl.spec import ModelSpec, model_sha256
from robustctl.version import versions
from robustctl.workflows.claimed_images import claimed_images
from robustctl.workflows.claims import Claim, Claims, find_claims, joined, published_text, shown_results


def verify(
    what: str,
    *,
    model: str | None = None,
    data: str | None = None,
    reading: Reading | None = None,
    sample: int = SAMPLE,
    seed: int | None = None,
    device: str = "auto",
) -> list[Verification]:
    """Judge every claim of a repo, a run or a file anew; the verdicts are kept for leaderboards too.

    Args:
        what, model: as ``claims.find_claims`` takes them.
        data: the place of the images, if it is not the one that the claim names.
        reading: columns and classes that the data do not tell by themselves.
        sample: survivors of each norm that are attacked.
        seed: of that attack; None draws one that nobody could know.

    Raises:
        RequestError: nothing to verify, or the images that ``data`` names cannot be read.
        RunError: the network, the disk, or logits that are not finite.
    """
    if sample < 0:
        raise RequestError(f"--sample is {sample}; give the number of survivors to attack in each norm")
    claims = find_claims(what, model)
    chosen = secrets.randbelow(2**31) if seed is None else seed
    classifier = checkpoint.load_from(claims.found_model.spec, claims.found_model.weights).to(pick_device(device))
    found = []
    for claim in claims.claims:
        one = _verify(claims, claim, classifier, data, reading, sample, chosen)
        keep(one)
        found.append(one)
    return found


def _verify(
    claims: Claims,
    claim: Claim,
    model: Classifier,
    data: str | None,
    reading: Reading | None,
    sample: int,
    seed: int,
) -> Verification:
    spec, name, result = claims.found_model.spec, claims.found_model.name, claim.result
    if result is None:
        return _refused(model, spec, name, claim)
    findings = _card_findings(claims)
    findings += [Finding(verdict="not reproduced", text=one) for one in consistency.contradictions(result)]
    images: ImageData | None = None
    try:
        images = claimed_images(result, spec, source=data, reading=reading, record=claims.record)
    except RequestError as error:
        if data is not None:
            raise
        findings.append(Finding(verdict="cannot be checked", text=f"its images are not here: {error}"))
    try:
        witnesses = joined(claim, claims.claims)
        return verification.verify(
            model,
            spec,
            images,
            result,
            witnesses,
            name=name,
            claim=claim.name,
            found=findings,
            sample=sample,
            seed=seed,
        )
    except RequestError as error:  # of the file of witnesses
        findings.append(Finding(verdict="not reproduced", text=str(error)))
        return verification.verify(
            model, spec, None, result, None, name=name, claim=claim.name, found=findings, seed=seed
        )


def _refused(model: Classifier, spec: ModelSpec, name: str, claim: Claim) -> Verification:
    """The verdict on a file whose figures do not follow from its own points, or that is damaged."""
    return Verification(
        model=name,
        claim=claim.name,
        weights_sha256=weights_sha256(model),
        model_sha256=model_sha256(spec),
        findings=[Finding(verdict="not reproduced", text=claim.fault)],
        date=verification.today(),
        device=device_name(HOST),
        versions=versions(),
    )


def _card_findings(claims: Claims) -> list[Finding]:
    """The contradictions between the card and the results beside it, and whether its text was changed."""
    card = claims.directory / "README.md" if claims.directory else None
    if card is None or not card.is_file():
        return []
    text = card.read_text(encoding="utf-8", errors="surrogateescape")
    try:
        found = contradictions(figures_in(text), [one.result for one in claims.claims if one.result])
    except RequestError as error:
        found = [str(error)]
    pushed = published_text(card.parent, CARD_SHA256)
    if pushed is not None and section_sha256_in(text) != pushed:
        found.append("the card's section of robustctl is not the one that was pushed")
    before, orders = shown_results(card.parent)
    if orders[0]:
        likeliest: list[str] = min((strange_lines(text, before, own) for own in orders), key=len)
        found += likeliest
    if orders[0] and is_file(card.parent / EVAL_RESULTS):
        found += eval_results.contradictions(card.parent / EVAL_RESULTS, orders[0])
    return [Finding(verdict="not reproduced", text=one) for one in found[:SHOWN]]


def keep(one: Verification) -> None:
    """Keep a verdict for leaderboards."""
    if one.claim_sha256 is None:
        return
    path = record_path(one.claim_sha256, one.model_sha256)
    make_folder(path.parent)
    one.write(path)


def write_all(found: Sequence[Verification], path: Path) -> None:
    """Write the verdicts on all claims, and the worst of them, as one JSON; RunError when that is not possible."""
    verdict = max((one.verdict for one in found), key=VERDICTS.index)
    write_text(path, json.dumps({"verdict": verdict, "claims": [one.content() for one in found]}, indent=2) + "\n")
