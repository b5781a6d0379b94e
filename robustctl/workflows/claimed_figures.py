"""The claims about a model, one line per claim, with the newest verdict of this machine. No torch here."""

from robustctl.errors import RequestError
from robustctl.models.find import FoundModel
from robustctl.reading import is_file
from robustctl.results import verification
from robustctl.results.union import UnionResult
from robustctl.results.verification import Verification, claim_sha256, record_path
from robustctl.spec import ModelSpec, model_sha256
from robustctl.threats import NORMS
from robustctl.workflows.claims import published_claims


def claim_lines(found_model: FoundModel) -> list[str]:
    """The claims that a pushed model publishes; empty if it publishes none."""
    try:
        claims = published_claims(found_model).claims
    except RequestError:
        return []
    return [
        f"claimed ({claim.name}): {claim.fault}"
        if claim.result is None
        else f"claimed ({claim.name}): {figures_text(claim.result)}; {state_text(claim.result, found_model.spec)}"
        for claim in claims
    ]


def figures_text(result: UnionResult) -> str:
    """Clean accuracy and what robust accuracies are at most, in percent, with points and protocol."""
    norms = [(norm, result.norms[norm]) for norm in NORMS if norm in result.norms]
    robust = [f"{norm}:{one.eps_text} at most {100 * one.acc:.1f} %" for norm, one in norms]
    figures = [f"clean {100 * result.clean.acc:.1f} %", *robust, f"union at most {100 * result.union.acc:.1f} %"]
    return f"{', '.join(figures)} ({result.data.n} points of {result.data.text}, {result.attack.name})"


def state_text(result: UnionResult, spec: ModelSpec) -> str:
    """Whether the claim was verified on this machine, how it ended, and when."""
    found = newest_verdict(result, spec)
    return f"{found.verdict} here on {found.date[:10]}" if found else "not verified here"


def newest_verdict(result: UnionResult, spec: ModelSpec) -> Verification | None:
    """The newest verdict of this machine on a claim about just this model; None if there is none."""
    path = record_path(claim_sha256(result), model_sha256(spec))
    return verification.read(path) if is_file(path) else None
