"""The identity of an evaluation: the key of its verdicts, and its protocol in a line."""

from collections.abc import Iterator

from robustctl.architectures import Classifier
from robustctl.checkpoint import weights_sha256
from robustctl.data import ImageData
from robustctl.evaluation import missed, reference
from robustctl.evaluation.protocols import ROUNDS, families
from robustctl.evaluation.store_key import Key
from robustctl.evaluation.union_request import UnionRequest
from robustctl.spec import ModelSpec
from robustctl.threats import Norm
from robustctl.version import __version__

ORDER = "order in memory"
"""The field of a key whose copies were not channels-last, as they usually are."""


def evaluation_key(model: Classifier, spec: ModelSpec, data: ImageData, request: UnionRequest) -> Key:
    """Everything that the verdicts of a confirmed request depend on, by the names that messages use."""
    return {
        **model_and_images(model, spec, data),
        "threats": {threat.norm: threat.eps for threat in request.threats},
        "protocol": request.protocol,
        "attack parameters": _parameters(request),
        "precision": request.precision,
        # Only what is unusual is in the key, so that earlier verdicts of trusted copies still count.
        **({} if request.fast_copy or request.protocol == reference.NAME else {"attacked": "the model itself"}),
        **({"passes and draws": [request.passes, request.draws]} if request.random else {}),
        **({} if request.channels_last else {ORDER: "channels first"}),
        "union only": request.union_only,
        **({"audit": _budget(request)} if request.until is not None else {}),
        "seed": request.seed,
    }


def model_and_images(model: Classifier, spec: ModelSpec, data: ImageData) -> dict[str, object]:
    """The fields that the keys of all kinds of verdicts have."""
    return {
        "robustctl": __version__,
        "weights": weights_sha256(model),
        "architecture": spec.architecture.model_dump(),
        "normalisation": spec.normalization.model_dump() if spec.normalization else None,
        "images": data.content_sha256,
        "n": len(data),
    }


def describe(request: UnionRequest) -> str:
    """The protocol in a line: every family with its restarts, targets and steps."""
    audit = []
    if request.until is not None:
        audit = [f"audit of random survivors by {missed.BUDGET} until under {request.until:g} points are missed"]
    return "; ".join([*(f"{norm}: {', '.join(families)}" for norm, families in _described(request)), *audit])


def _described(request: UnionRequest) -> Iterator[tuple[Norm, list[str]]]:
    for norm in [threat.norm for threat in request.threats]:
        if request.protocol == reference.NAME:
            yield norm, [reference.describe()]
        elif request.protocol in ROUNDS:
            yield norm, [str(one) for one in ROUNDS[request.protocol][norm]]
        else:
            yield norm, [str(one) for one in families(request.protocol, norm)]


def _budget(request: UnionRequest) -> object:
    return {
        threat.norm: [family.parameters() for family in families(missed.BUDGET, threat.norm)]
        for threat in request.threats
    }


def _parameters(request: UnionRequest) -> object:
    if request.protocol == reference.NAME:
        return {"package": reference.describe(), "batch size": request.batch_size}
    norms = [threat.norm for threat in request.threats]
    if request.protocol in ROUNDS:
        return {norm: [one.parameters() for one in ROUNDS[request.protocol][norm]] for norm in norms}
    return {norm: [family.parameters() for family in families(request.protocol, norm)] for norm in norms}
