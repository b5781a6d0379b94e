"""Evaluations beyond fixed radii of three norms, as functions: suites of threats, and accuracy at every radius.

They import what they need when they are called, so that ``import robustctl`` stays quick.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from robustctl.data import ImageData
    from robustctl.results.curve import CurveResult
    from robustctl.results.suite import SuiteResult
    from robustctl.workflows.evaluate_given import Model


def evaluate_suite(
    model: "Model",
    images: Any = None,
    labels: Any = None,
    *,
    suite: str | Path | None = None,
    threats: Sequence[str] = (),
    data: "str | Path | ImageData | Dataset[Any] | None" = None,
    corrupted: str | Path | None = None,
    split: str = "test",
    n: int | None = None,
    protocol: str | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    store: str | Path | None = None,
    name: str | None = None,
) -> "SuiteResult":
    """Evaluate a model under many threats and common corruptions (docs/unseen.md).

    Args:
        model, images, labels, data, split, n, seed, batch_size, device, name: as ``evaluate`` takes them.
        suite: ``union``, ``unseen``, ``corruptions``, ``universal``, or a YAML file.
        threats: instead of a suite, single ones such as ``"elastic:0.5"``, ``"l0:9"`` or ``"fog"``.
        corrupted: folder of the published corrupted images (CIFAR-10-C); without, they are made from the clean ones.
        protocol: as ``evaluate`` takes it, for the norms; ``fast`` makes all other threats quick too.
        store: folder of the verdicts; the same call goes on from them. Without, a named model on named data has its
            usual place, and everything else a temporary folder.

    Returns:
        The result, as ``robustctl eval --suite --json`` writes it.

    Raises:
        RequestError, RunError: as ``evaluate``; neither or both of suite and threats are given.
    """
    from robustctl import suites
    from robustctl.devices import pick_device
    from robustctl.errors import RequestError
    from robustctl.evaluation.families import default_batch_size
    from robustctl.evaluation.protocols import DEFAULT
    from robustctl.workflows.evaluate_given import Images, evaluate_suite_given
    from robustctl.workflows.evaluate_suite import SuiteOptions

    if (suite is None) == (not threats):
        raise RequestError("give a suite or threats, one of them")
    named, content = suites.load(str(suite)) if suite is not None else ("threats", suites.of_threats(list(threats)))
    size = batch_size or default_batch_size(pick_device(device or "auto"))
    folder = Path(corrupted).expanduser() if corrupted is not None else None
    return evaluate_suite_given(
        model,
        Images(images, labels, data, split, n),
        named,
        content,
        SuiteOptions(protocol or DEFAULT, seed, size, folder),
        device=device,
        store=Path(store) if store is not None else None,
        called=name,
    )


def evaluate_curve(
    model: "Model",
    images: Any = None,
    labels: Any = None,
    *,
    norms: str | None = None,
    eps: str | None = None,
    up_to: float = 3.0,
    decision: bool = False,
    data: "str | Path | ImageData | Dataset[Any] | None" = None,
    split: str = "test",
    n: int | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    store: str | Path | None = None,
    name: str | None = None,
) -> "CurveResult":
    """Evaluate a model's accuracy at every radius (docs/unseen.md).

    Args:
        model, images, labels, data, split, n, seed, batch_size, device, name: as ``evaluate`` takes them.
        norms: such as ``"linf,l0"``; without, the usual ones and what ``eps`` names.
        eps: radii that count as 1, such as ``"linf:8/255,l0:9"``; without, the usual ones.
        up_to: where the curves end, in multiples of the radii, >= 1.
        decision: attacks that see predicted classes alone look too (foolbox).
        store: folder of the verdicts, as for ``evaluate_suite``.

    Returns:
        The result, as ``robustctl eval --curve --json`` writes it.

    Raises:
        RequestError, RunError: as ``evaluate``.
    """
    from robustctl.workflows.evaluate_given import Images, evaluate_curve_given

    return evaluate_curve_given(
        model,
        Images(images, labels, data, split, n),
        norms=norms,
        eps=eps,
        up_to=up_to,
        by_decision=decision,
        seed=seed,
        batch_size=batch_size,
        device=device,
        store=Path(store) if store is not None else None,
        called=name,
    )
