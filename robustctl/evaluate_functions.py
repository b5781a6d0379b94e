"""The evaluations as functions: fixed radii and their union, intermediate-q, suites of threats, every radius.

They import what they need when they are called, so that ``import robustctl`` stays quick.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from robustctl.data import ImageData
    from robustctl.intermediate.results import IntermediateResult
    from robustctl.results.curve import CurveResult
    from robustctl.results.suite import SuiteResult
    from robustctl.results.union import UnionResult
    from robustctl.workflows.evaluate_given import Model, Threats


def evaluate(
    model: "Model",
    images: Any = None,
    labels: Any = None,
    *,
    data: "str | Path | ImageData | Dataset[Any] | None" = None,
    split: str = "test",
    n: int | None = None,
    threats: "Threats | None" = None,
    protocol: str | None = None,
    attacks: "Sequence[str | Callable[..., Tensor]]" = (),
    x_adv: str | Path | None = None,
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    precision: str = "auto",
    union_only: bool = False,
    until: float | None = None,
    force: bool = False,
    store: str | Path | None = None,
    name: str | None = None,
) -> "UnionResult":
    """Evaluate a model: clean accuracy, robust accuracy in each norm, in their union and on average.

    Args:
        model: any ``nn.Module`` from [0,1] pixels to logits, which is as before afterwards (modes, parameters, buffers,
            gradients) as is the random state; or the name of an entry, a pulled repo, a run, or a model directory.
        images: tensor or array (n, c, h, w), uint8 or floats in [0,1].
        labels: (n,) whole numbers.
        data: instead of both: what ``--data`` takes, an ``ImageData``, or a map-style ``torch.utils.data.Dataset`` of
            (image, label). A named model without any takes its usual data.
        split: of a named data set.
        n: take only the first n images.
        threats: ``"linf:8/255,l2:0.5"``, a list of such texts or of ``Threat``, or ``{"linf": "8/255"}``; without, the
            usual ones of the model or the data set.
        protocol: ``adaptive`` (the default), ``adaptive+``, ``standard``, ``fast``, ``full`` or ``autoattack``.
        attacks: attacks of your own beside the protocol (docs/own.md): functions ``(model, x, y, eps, norm) -> x_adv``
            or ``(oracle, x, y, threat) -> x_adv``, or ``"FILE.py:NAME"``.
        x_adv: ``.npz`` file of adversarial images made anywhere: ``index``, ``x_adv``, ``norm``.
        seed: of the attacks, >= 0.
        batch_size: images per forward pass; without, what suits the device.
        device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``; without, a module is evaluated on its own device (on another
            device a copy is), and a named model on the GPU if there is one.
        precision: of the attacks: ``float32``, ``bf16`` or ``auto``, which measures them, and the order in memory and
            the batch size with them; verdicts are always taken in float32.
        union_only: attack for the union alone, which is faster; the norms' own accuracies are then upper bounds.
        until: with an adaptive protocol, go on with random survivors under the full budget until at most so many
            percentage points of breaks are missed, at 95 % confidence; the result's ``missed`` has the bounds.
        force: go on although the clean accuracy is not the recorded one.
        store: SQLite file of the verdicts; the same call goes on from them. Without, a named model on named data has
            its usual place, and everything else a temporary file.
        name: what the result calls the model.

    Returns:
        The result, as ``robustctl eval --json`` writes it (its ``write`` does that).

    Raises:
        RequestError: model, images or options are wrong; nothing was attacked.
        RunError: an attack failed, or the store is another evaluation's.
    """
    from robustctl.evaluation.protocols import DEFAULT
    from robustctl.workflows.evaluate_given import Images, evaluate_given
    from robustctl.workflows.outside_attacks import given_attacks

    return evaluate_given(
        model,
        Images(images, labels, data, split, n),
        threats=threats,
        protocol=protocol or DEFAULT,
        attacks=given_attacks(attacks, x_adv),
        seed=seed,
        batch_size=batch_size,
        device=device,
        precision=precision,
        union_only=union_only,
        until=until,
        force=force,
        store=Path(store) if store is not None else None,
        name=name,
    )


def evaluate_intermediate(
    model: "Model",
    images: Any = None,
    labels: Any = None,
    *,
    data: "str | Path | ImageData | Dataset[Any] | None" = None,
    split: str = "test",
    n: int | None = None,
    qs: Sequence[float] = (1, 10, 100, 1000),
    distribution: str | None = None,
    estimator: str = "both",
    samples: int = 320,
    most_samples: int | None = None,
    leapfrog: int = 10,
    chains: int = 4,
    rhos: Sequence[float] = (0.1, 0.05, 0.01),
    seed: int = 0,
    batch_size: int | None = None,
    device: str | None = None,
    store: str | Path | None = None,
    name: str | None = None,
) -> "IntermediateResult":
    """Evaluate intermediate-q robustness, between random (q = 1) and adversarial perturbations (docs/intermediate.md).

    Args:
        model, images, labels, data, split, n, seed, batch_size, device, store, name: as for ``evaluate``.
        qs: orders, each >= 1.
        distribution: ``linf:8/255``, ``l2:0.5``, ``gaussian:0.1`` or ``spatial``; without, the usual l_inf ball.
        estimator: ``path`` (sampling), ``mc`` (Monte Carlo), ``both``, ``ais`` (annealed importance
            sampling) or ``all``.
        samples: recorded samples per image and estimator.
        most_samples: samples up to which chains run longer if few effective ones carry an image's value; without, five
            times ``samples``.
        leapfrog: gradients per sample of the chains.
        chains: independent chains per image.
        rhos: tolerances of ProbAcc, in (0,1).

    Raises:
        RequestError, RunError: as ``evaluate``.
    """
    from robustctl.workflows.evaluate_given import Images, evaluate_intermediate_given
    from robustctl.workflows.evaluate_intermediate import IntermediateOptions

    options = IntermediateOptions(
        qs=",".join(map(str, qs)),
        distribution=distribution,
        estimator=estimator,
        samples=samples,
        most_samples=most_samples,
        leapfrog=leapfrog,
        chains=chains,
        probacc=",".join(map(str, rhos)),
        seed=seed,
    )
    given = Images(images, labels, data, split, n)
    place = Path(store) if store is not None else None
    return evaluate_intermediate_given(
        model, given, options, batch_size=batch_size, device=device, store=place, name=name
    )


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
