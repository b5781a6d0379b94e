"""Evaluates accuracy against radius for a model that a user names, one curve a norm."""

import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import get_args

from robustctl.architectures import device_of
from robustctl.checkpoint import weights_sha256
from robustctl.devices import device_name
from robustctl.discovery import unknown
from robustctl.errors import RequestError
from robustctl.evaluation import checks, curve, decision
from robustctl.evaluation.families import seconds_per_batch
from robustctl.evaluation.kind_threat import Setup
from robustctl.evaluation.store_key import digest, place
from robustctl.files import make_folder
from robustctl.perturbations.base import Limit
from robustctl.processes import World, join
from robustctl.progress import duration, progress, say
from robustctl.results.curve import CurveResult, NormCurve, area_of, median_of
from robustctl.spec import ModelSpec
from robustctl.threats import CurveNorm, Reach, Threat, require_plausible
from robustctl.version import versions
from robustctl.workflows.evaluate import CURVES, THREATS
from robustctl.workflows.images import NamedImages
from robustctl.workflows.prepared import Prepared, prepare
from robustctl.workflows.subject import Subject, threats_of


def reaches_of(usual: Sequence[Threat], dataset: str, norms: str | None, eps: str | None) -> tuple[Reach, ...]:
    """Norms and radii of ``--norms`` and ``--eps`` as ``threats_of`` has them, and l0 if one of them names it.

    Raises:
        RequestError: as ``threats_of``; l0 twice, or not with a whole number of pixels.
    """
    asked = [part.strip() for part in norms.split(",")] if norms else []
    if wrong := next((part for part in asked if part and part not in get_args(CurveNorm)), None):
        raise unknown("norm", wrong, get_args(CurveNorm))
    written = [part.strip() for part in eps.split(",")] if eps else []
    sparse = [part for part in written if part.replace("=", ":").partition(":")[0].strip() == "l0"]
    if sparse and norms and "l0" not in asked:
        raise RequestError(f"--eps names l0, which --norms {norms} leaves out")
    if asked.count("l0") > 1 or len(sparse) > 1:
        raise RequestError("l0 is named twice")
    others = ",".join(part for part in asked if part != "l0")
    found: list[Reach] = []
    rest = ",".join(part for part in written if part not in sparse)
    if others or rest or not (asked or (sparse and not usual)):
        threats = threats_of(usual, dataset, others or None, rest or None)
        found = [Reach(one.norm, one.eps, one.eps_text) for one in threats]
    if sparse or "l0" in asked:
        text = sparse[0].replace("=", ":").partition(":")[2].strip() if sparse else ""
        limit = Limit.parse(f"l0:{text}" if text else "l0", dataset)
        if not limit.budget:
            raise RequestError("--eps l0: give at least one pixel")
        found.append(Reach("l0", limit.budget, limit.text))
    return tuple(found)


def evaluate_curve(
    subject: Subject,
    reaches: Sequence[Reach],
    up_to: float,
    images: NamedImages,
    *,
    by_decision: bool,
    seed: int,
    batch_size: int,
    device: str,
) -> tuple[CurveResult | None, Path]:
    """Find the distance of every image in every norm; stores and result go into ``curves`` below the ``eval_dir``.

    Args:
        reaches: one per norm; their radii are 1 on the common scale. up_to: the bound, in these radii, >= 1.
        by_decision: attacks that see predicted classes alone look too, and their distances are told apart.

    Returns:
        The result (None in all but the first of torchrun's processes) and its file.

    Raises:
        RequestError: a bound below 1, implausible radii, no foolbox where it is needed, and as ``evaluate``.
        RunError: as ``evaluate``; the same command goes on.
    """
    require_reaches(reaches, up_to, by_decision, subject.found_model.spec)
    about = prepare(subject, images, device)
    return curve_of(about, reaches, up_to, by_decision, seed, batch_size, join())


def require_reaches(reaches: Sequence[Reach], up_to: float, by_decision: bool, spec: ModelSpec) -> None:
    """Raise RequestError for what no images of this shape can have."""
    if not 1 <= up_to <= 1000:
        raise RequestError(f"--up-to {up_to:g}: the curve ends at so many times the radii, at least 1 and at most 1000")
    require_plausible([one.threat for one in reaches if one.norm != "l0"], spec.input_shape, way_on="")
    for one in reaches:
        if one.norm == "l0" and one.eps >= spec.input_shape[1] * spec.input_shape[2]:
            raise RequestError(f"{one} is every pixel of the image, so that its curve says nothing")
    if by_decision:
        decision.require()


def curve_of(
    about: Prepared,
    reaches: Sequence[Reach],
    up_to: float,
    by_decision: bool,
    seed: int,
    batch_size: int,
    world: World,
) -> tuple[CurveResult | None, Path]:
    """Find the distances for a model that is loaded; the rest is as ``evaluate_curve``."""
    started, data = time.monotonic(), about.data
    flags = about.flags()
    folder = about.eval_dir / CURVES
    make_folder(folder)
    masked = checks.gradient_flags(about.model, data, range(len(data)))
    curves: dict[CurveNorm, NormCurve] = {}
    with about.setting("standard", seed, batch_size) as setup:
        if not setup.gradient:
            decision.require()
            say("the model gives no gradient: attacks that see predicted classes alone look for the distances")
        elif masked and not by_decision and decision.is_installed():
            by_decision = True
            say("most points have no gradient: attacks that see predicted classes alone look too")
        if world.leads:
            say_time(setup, reaches, by_decision, world)
        with progress(f"distances of {len(data)} points", None) as advance:
            for reach in reaches:
                bound = reach.times(up_to)
                path = place(folder, f"{reach.norm}-{len(data)}", curve.key(setup, bound))
                others = sorted(
                    [*about.eval_dir.glob("*.sqlite"), *folder.glob("*.sqlite"), *_of_pixels(about.eval_dir, reach)]
                )
                found = curve.evaluate(setup, bound, path, others, advance, by_decision=by_decision, world=world)
                if found is not None:
                    flags += found.flags
                    curves[reach.norm] = _figures(reach, bound.eps, found, len(data))
    weights = weights_sha256(about.model)
    asked = {"threats": [str(one) for one in reaches], "up to": up_to, "seed": seed, "images": data.content_sha256}
    asked |= {"decision": True} if by_decision else {}
    path = folder / f"curve-{len(data)}-{digest({**asked, 'weights': weights})[:12]}.json"
    if not world.leads:
        return None, path
    flags += masked if setup.gradient else []
    result = CurveResult(
        model=about.name,
        weights_sha256=weights,
        data=data.info,
        seed=seed,
        index=data.indices.tolist(),
        norms=curves,
        flags=flags,
        seconds=round(time.monotonic() - started, 3),
        device=device_name(device_of(about.model)),
        versions=versions(),
    )
    result.write(path)
    return result, path


def _of_pixels(eval_dir: Path, reach: Reach) -> list[Path]:
    """The stores of the threat of few pixels, whose witnesses count in l0."""
    return sorted((eval_dir / THREATS).glob("l0-*.sqlite")) if reach.norm == "l0" else []


def say_time(setup: Setup, reaches: Sequence[Reach], by_decision: bool, world: World) -> None:
    """Time a batch of gradients, and single images for attacks without any, and say the whole time."""
    n, size, seconds, evaluations = len(setup.data), min(setup.batch_size, len(setup.data)), 0.0, 0.0
    if setup.gradient:
        evaluations = sum(curve.cost(reach.norm) for reach in reaches)
        seconds += seconds_per_batch(setup.oracle, setup.data, size) / size * evaluations * n
    told = f"{evaluations:.0f} gradient evaluations per image"
    if by_decision or not setup.gradient:
        queries = sum(decision.queries(reach.norm, math.prod(setup.data.shape)) for reach in reaches)
        seconds += decision.seconds_per_query(setup.oracle, setup.data) * queries * n
        told += f", {queries:.0f} passes of single images"
    seconds /= world.size
    say(f"at most about {duration(seconds)}: {told}")


def _figures(reach: Reach, bound: float, found: curve.Nearest, n: int) -> NormCurve:
    distance = [found.distance.get(position) for position in range(n)]
    alone = found.decision
    return NormCurve(
        eps=reach.eps,
        eps_text=reach.eps_text,
        bound=bound,
        distance=distance,
        median=median_of(distance),
        area=area_of(distance, bound),
        by=found.by,
        evaluations=found.evaluations,
        decision=None if alone is None else [alone.get(position) for position in range(n)],
    )
