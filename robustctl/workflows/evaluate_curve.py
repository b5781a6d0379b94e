"""Evaluates accuracy against radius for a model that a user names, one curve a norm."""

import platform
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from robustctl import checkpoint
from robustctl.allocator import kept_memory
from robustctl.checkpoint import weights_sha256
from robustctl.devices import device_name, pick_device
from robustctl.errors import RequestError
from robustctl.evaluation import checks, curve, referee
from robustctl.evaluation.families import seconds_per_batch
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.store_key import digest, place
from robustctl.files import make_folder
from robustctl.oracle import DRAWS, Oracle
from robustctl.processes import require_one
from robustctl.progress import progress, say
from robustctl.results.curve import CurveResult, NormCurve, area_of, median_of
from robustctl.threats import Norm, Threat, require_plausible
from robustctl.trusted_copy import PROBE, trusted_copy
from robustctl.version import __version__
from robustctl.workflows.evaluate import CURVES, recorded_accuracy
from robustctl.workflows.images import NamedImages
from robustctl.workflows.subject import Subject


def evaluate_curve(
    subject: Subject,
    threats: Sequence[Threat],
    up_to: float,
    named: NamedImages,
    *,
    seed: int,
    batch_size: int,
    device: str,
) -> tuple[CurveResult, Path]:
    """Find the distance of every image in every norm; stores and result go into ``curves`` below the ``eval_dir``.

    Args:
        threats: one a norm; their radii are 1 on the common scale. up_to: the bound, in these radii, >= 1.

    Returns:
        The result and its file.

    Raises:
        RequestError: a bound below 1, implausible radii, a model without gradient, and as ``evaluate``.
        RunError: as ``evaluate``; the same command goes on.
    """
    if not 1 <= up_to <= 1000:
        raise RequestError(f"--up-to {up_to:g}: the curve ends at so many times the radii, at least 1 and at most 1000")
    require_one("--curve")
    started = time.monotonic()
    spec = subject.found_model.spec
    require_plausible(threats, spec.input_shape, way_on="")
    data = named.load(spec)
    checks.require_pixels(data)
    where = pick_device(device)
    model = checkpoint.load_from(spec, subject.found_model.weights).to(where).eval()
    flags = checks.pixel_flags(data, spec.dataset, recorded_accuracy(subject), False)
    flags += checks.model_flags(model, data, spec.n_classes)
    folder = subject.eval_dir / CURVES
    make_folder(folder)
    random = checks.is_random(model, data)
    if random:
        torch.manual_seed(seed)
    trusted = trusted_copy(model, "float32", data.images(range(min(PROBE, len(data)))).to(where))
    curves: dict[Norm, NormCurve] = {}
    with kept_memory(), Oracle(model, trusted, DRAWS if random else 1) as oracle:
        if not checks.has_gradient(oracle, data):
            raise RequestError("the model gives no gradient, which every attack of a curve follows; see --attack full")
        passes = referee.PASSES if random else 1
        setup = Setup(model, spec, data, oracle, "standard", seed, batch_size, passes, True)
        _say_time(setup, threats)
        with progress(f"distances of {len(data)} points", None) as advance:
            for threat in threats:
                bound = Threat(threat.norm, threat.eps * up_to, f"{up_to:g} x {threat.eps_text}")
                path = place(folder, f"{threat.norm}-{len(data)}", curve.key(setup, bound))
                others = sorted([*subject.eval_dir.glob("*.sqlite"), *folder.glob("*.sqlite")])
                found = curve.evaluate(setup, bound, path, others, advance)
                flags += found.flags
                curves[threat.norm] = _figures(threat, bound.eps, found, len(data))
        right = [i for i, one in enumerate(curves[threats[0].norm].distance) if one != 0]
        flags += checks.gradient_flags(model, data, right)
    result = CurveResult(
        model=subject.found_model.name,
        weights_sha256=weights_sha256(model),
        data=data.info,
        seed=seed,
        index=data.indices.tolist(),
        norms=curves,
        flags=flags,
        seconds=round(time.monotonic() - started, 3),
        device=device_name(where),
        versions={"robustctl": __version__, "torch": torch.__version__, "python": platform.python_version()},
    )
    asked = {"threats": [str(one) for one in threats], "up to": up_to, "seed": seed, "images": data.content_sha256}
    path = folder / f"curve-{len(data)}-{digest({**asked, 'weights': result.weights_sha256})[:12]}.json"
    result.write(path)
    return result, path


def _say_time(setup: Setup, threats: Sequence[Threat]) -> None:
    size = min(setup.batch_size, len(setup.data))
    one = seconds_per_batch(setup.oracle, setup.data, size) / size
    evaluations = sum(curve.cost(threat.norm) for threat in threats)
    seconds = one * evaluations * len(setup.data)
    about = f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"
    say(f"at most about {about}: {evaluations:.0f} gradient evaluations an image")


def _figures(threat: Threat, bound: float, found: curve.Nearest, n: int) -> NormCurve:
    distance = [found.distance.get(position) for position in range(n)]
    return NormCurve(
        eps=threat.eps,
        eps_text=threat.eps_text,
        bound=bound,
        distance=distance,
        median=median_of(distance),
        area=area_of(distance, bound),
        by=found.by,
        evaluations=found.evaluations,
    )
