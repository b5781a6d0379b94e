"""Evaluates a model that a user names: accuracy in each norm and in their union."""

from collections.abc import Sequence
from pathlib import Path

from robustctl import checkpoint
from robustctl.conventions import CONVENTIONS
from robustctl.devices import pick_device
from robustctl.evaluation import by_processes, union
from robustctl.evaluation.checks import KnownAccuracy
from robustctl.evaluation.external import External, Others
from robustctl.evaluation.identity import evaluation_key
from robustctl.evaluation.store_key import Key, differing, place, plain, read_key
from robustctl.evaluation.union_request import UnionRequest
from robustctl.files import make_folder
from robustctl.processes import join, local_device
from robustctl.progress import say
from robustctl.results.union import UnionResult
from robustctl.threats import require_plausible
from robustctl.workflows.images import NamedImages
from robustctl.workflows.subject import Subject

CURVES = "curves"
"""Below ``eval_dir``: stores and results of accuracy against radius."""
THREATS = "threats"
"""Likewise, of suites."""


def evaluate(
    subject: Subject,
    request: UnionRequest,
    named: NamedImages,
    *,
    device: str,
    attacks: Sequence[External] = (),
) -> tuple[UnionResult | None, Path]:
    """Evaluate a subject on the images that the user names; verdicts and result go into its ``eval_dir``.

    Args:
        attacks: attacks from outside. The points that earlier evaluations in ``eval_dir`` broke stay broken.

    Returns:
        The result (None in all but the first of torchrun's processes) and its file.

    Raises:
        RequestError, RunError: as ``evaluation.union.evaluate_union``, and if model or images cannot be loaded.
    """
    union.require_protocol(request.protocol, [threat.norm for threat in request.threats])
    chosen_device = local_device(pick_device(device))
    spec = subject.found_model.spec
    if not request.force:  # before a download
        require_plausible(request.threats, spec.input_shape)
    images = named.load(spec)
    model = checkpoint.load_from(spec, subject.found_model.weights).to(chosen_device)
    make_folder(subject.eval_dir)

    def begun(request: UnionRequest) -> bool:
        key = evaluation_key(model, spec, images, request)
        return place(subject.eval_dir, f"{request.protocol}-{len(images)}", key).exists()

    request, trusted = union.confirmed(model.eval(), images, request, begun, join())
    key = evaluation_key(model, spec, images, request)
    path = place(subject.eval_dir, f"{request.protocol}-{len(images)}", key).with_suffix(".json")
    _say_if_afresh(path.with_suffix(".sqlite"), key)
    result = union.evaluate_union(
        model,
        spec,
        images,
        request,
        name=subject.found_model.name,
        device=chosen_device,
        store_path=path.with_suffix(".sqlite"),
        recorded=recorded_accuracy(subject),
        others=Others(attacks, _earlier(path.with_suffix(".sqlite"))),
        trusted=trusted,
    )
    if result is not None:
        result.write(path)
    return result, path


def _earlier(store_path: Path) -> list[Path]:
    """The verdict stores of other evaluations beside this one."""
    found = sorted([*store_path.parent.glob("*.sqlite"), *(store_path.parent / CURVES).glob("*.sqlite")])
    return [path for path in found if path != store_path and not by_processes.is_part(path)]


def _say_if_afresh(store_path: Path, key: Key) -> None:
    """Say on stderr why verdicts that lie here already do not belong to this evaluation."""
    others = sorted(store_path.parent.glob("*.sqlite"), key=lambda path: path.stat().st_mtime)
    if others and not store_path.exists():
        fields = differing(read_key(others[-1]), plain(key))
        say(f"new evaluation; it differs from the last one here in: {', '.join(fields)}")


def recorded_accuracy(subject: Subject) -> KnownAccuracy | None:
    """The clean accuracy that the entry records, the most exact one if there are several."""
    entry = subject.found_model.entry
    clean = [one for one in entry.accuracies if one.norm is None] if entry else []
    if entry is None or not clean:
        return None
    best = max(clean, key=lambda one: one.n or 0)
    source = CONVENTIONS[entry.dataset].source if entry.dataset in CONVENTIONS else entry.dataset
    return KnownAccuracy(best.value, best.n, source, best.split)
