"""Certifies a model that a user names: accuracy that no attack within the threats can take away."""

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from robustctl.architectures import device_of
from robustctl.certify import bounds, margins
from robustctl.checkpoint import weights_sha256
from robustctl.devices import device_name
from robustctl.errors import RequestError
from robustctl.evaluation import checks
from robustctl.evaluation.store_key import digest
from robustctl.files import make_folder
from robustctl.processes import require_one
from robustctl.progress import progress, say
from robustctl.results import certificate, union
from robustctl.results.certificate import Certificate
from robustctl.results.union import UnionResult
from robustctl.threats import Threat, require_plausible, unusual
from robustctl.version import __version__, versions
from robustctl.workflows.images import NamedImages
from robustctl.workflows.prepared import prepare
from robustctl.workflows.subject import Subject

FOLDER = "certificates"
"""Below ``eval_dir``: margins and certificates."""


def certify(
    subject: Subject,
    threats: Sequence[Threat],
    named: NamedImages,
    *,
    rows: int,
    device: str,
    seconds: float = 0.0,
) -> tuple[Certificate, Path]:
    """Bound the margins of images from below; the result goes below the ``eval_dir``.

    Args:
        rows: how many passes are made at a time.
        seconds: the time for an exact verdict (l_inf and l_1) on each class that CROWN does not certify; 0 leaves
            CROWN alone.

    Returns:
        The certificate and its file.

    Raises:
        RequestError: the network is not made of affine layers and ReLUs alone, implausible radii, and if model or
            images cannot be loaded.
        RunError: a file cannot be written; the same command goes on.
    """
    require_one("certify")
    started = time.monotonic()
    spec = subject.found_model.spec
    require_plausible(threats, spec.input_shape, way_on="")
    for line in unusual(threats, spec.input_shape):
        say(line)
    about = prepare(subject, named, device)
    model, data, where, flags = about.model, about.data, device_of(about.model), about.flags()
    if checks.is_random(model, data):
        raise RequestError("this model is random: no bound on its margins is known")
    weights = weights_sha256(model)
    right = torch.cat([model(data.images([i]).to(where)).argmax(1).cpu() for i in range(len(data))]) == data.y
    network = model.double().requires_grad_(False)
    folder = about.eval_dir / FOLDER
    make_folder(folder)
    eps = {threat.norm: threat.eps_text for threat in threats}
    asked = {"version": __version__, "weights": weights, "images": data.content_sha256, "spec": spec.model_dump_json()}
    asked |= {"radii": str([str(one) for one in threats]), "exact": f"{seconds:g} s"}
    kept = folder / f"margins-{len(data)}-{digest(asked)[:12]}.txt"
    cost = bounds.passes(network, data.images([0]).double().to(where), spec.n_classes)
    say(f"{cost:,} passes per image and norm")
    with progress(f"bounds of {len(data)} points", len(data) * len(threats)) as advance:
        margin, broken = margins.margins(network, data, threats, rows, seconds, kept, advance)
    points = certificate.verdicts(data.indices.tolist(), data.y.tolist(), right.int().tolist(), margin)
    figures = certificate.figures(points, eps)
    earlier = _results(about.eval_dir)
    attacked = {
        one.norm: certificate.unbroken(earlier, points, weights, data.content_sha256, one, broken[one.norm])
        for one in threats
    }
    result = Certificate(
        model=about.name,
        weights_sha256=weights,
        data=data.info,
        bound="CROWN and MILP" if seconds else "CROWN",
        eps=eps,
        index=points.index,
        label=points.label,
        clean=points.clean,
        margin=margin,
        attacked={norm: column for norm, column in attacked.items() if column is not None},
        certified={norm: certificate.shares(one) for norm, one in figures["norms"].items()},
        union=figures["union"],
        flags=flags,
        seconds=round(time.monotonic() - started, 3),
        device=device_name(where),
        versions=versions(),
    )
    path = kept.with_name(kept.name.replace("margins", "certificate")).with_suffix(".json")
    result.write(path)
    return result, path


def _results(folder: Path) -> list[UnionResult]:
    """The union results that lie beside the certificates; files that cannot be read say nothing here."""
    results = []
    for path in sorted(folder.glob("*.json")):
        try:
            results.append(union.read(path))
        except RequestError:
            continue
    return results
