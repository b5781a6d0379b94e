"""Certifies a model that a user names: accuracy that no attack within the threats can take away."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from robustctl import checkpoint
from robustctl.certify import bounds, margins
from robustctl.checkpoint import weights_sha256
from robustctl.devices import device_name, pick_device
from robustctl.errors import RequestError
from robustctl.evaluation import checks
from robustctl.evaluation.store_key import digest
from robustctl.files import make_folder
from robustctl.processes import require_one
from robustctl.progress import progress, say
from robustctl.results import certificate, union
from robustctl.results.certificate import Certificate
from robustctl.results.union import UnionResult
from robustctl.threats import Threat, require_plausible
from robustctl.version import __version__
from robustctl.workflows.evaluate import recorded_accuracy
from robustctl.workflows.images import NamedImages
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
        seconds: for exact verdicts in l_inf and l_1, for each class that CROWN does not certify; 0: CROWN alone.

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
    data = named.load(spec)
    checks.require_pixels(data)
    where = pick_device(device)
    model = checkpoint.load_from(spec, subject.found_model.weights).to(where).eval()
    flags = checks.pixel_flags(data, spec.dataset, recorded_accuracy(subject), False)
    flags += checks.model_flags(model, data, spec.n_classes)
    if checks.is_random(model, data):
        raise RequestError("this model is random: no bound on its margins is known")
    weights = weights_sha256(model)
    right = torch.cat([model(data.images([i]).to(where)).argmax(1).cpu() for i in range(len(data))]) == data.y
    network = model.double().requires_grad_(False)
    folder = subject.eval_dir / FOLDER
    make_folder(folder)
    eps = {threat.norm: threat.eps_text for threat in threats}
    asked = {"version": __version__, "weights": weights, "images": data.content_sha256, "spec": spec.model_dump_json()}
    asked |= {"radii": str([str(one) for one in threats]), "exact": f"{seconds:g} s"}
    kept = folder / f"margins-{len(data)}-{digest(asked)[:12]}.txt"
    cost = bounds.passes(network, data.images([0]).double().to(where), spec.n_classes)
    say(f"{cost:,} passes an image and norm")
    with progress(f"bounds of {len(data)} points", len(data) * len(threats)) as advance:
        margin, broken = margins.margins(network, data, threats, rows, seconds, kept, advance)
    points = certificate.verdicts(data.indices.tolist(), data.y.tolist(), right.int().tolist(), margin)
    figures = certificate.figures(points, eps)
    earlier = _results(subject.eval_dir)
    attacked = {
        one.norm: certificate.unbroken(earlier, points, weights, data.content_sha256, one, broken[one.norm])
        for one in threats
    }
    result = Certificate(
        model=subject.found_model.name,
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
        versions={"robustctl": __version__, "torch": torch.__version__, "python": platform.python_version()},
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
