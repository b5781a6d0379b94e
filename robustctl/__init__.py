"""robustctl: adversarial robustness against several threat models at once.

The commands as functions (docs/python.md). They import what they need when they are called.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustctl.beyond import evaluate_curve as evaluate_curve
from robustctl.beyond import evaluate_suite as evaluate_suite
from robustctl.version import __version__ as __version__

if TYPE_CHECKING:
    from torch import Tensor
    from torch.utils.data import Dataset

    from robustctl.architectures import Classifier
    from robustctl.data import ImageData
    from robustctl.intermediate.results import IntermediateResult
    from robustctl.results.union import UnionResult
    from robustctl.results.verification import Verification
    from robustctl.runs import Run
    from robustctl.workflows.evaluate_given import Model, Threats
    from robustctl.workflows.publish_run import Published


def load_model(name: str | Path, *, model_code: str | None = None) -> "Classifier":
    """Load a model: images (n, c, h, w) in [0,1] to logits (n, n_classes), in eval mode on the CPU.

    Args:
        name: an entry of the registry, a hub repo ``user/name`` or ``user/name@revision`` (pulled if it is not here
            yet), a run, or a directory with ``config.json`` and ``model.safetensors``.
        model_code: code that builds the model, ``FILE.py:NAME`` or ``package.module:NAME``, if it was made with code of
            its own. Without, no such code is run.

    Raises:
        RequestError: no such model, or it is damaged.
        RunError: it could not be fetched.
    """
    from robustctl import checkpoint, runs, user_code
    from robustctl.workflows.obtain import obtain

    run = runs.find(str(name))
    found_model = obtain(str(run.path if run else name), pull=True)
    with user_code.granted(user_code.parse("model_code", model_code) if model_code else None):
        return checkpoint.load_from(found_model.spec, found_model.weights)


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
        precision: of the attacks: ``float32``, ``bf16`` or ``auto``; verdicts are always taken in float32.
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


def finetune(
    model: str | Path | None = None,
    recipe: str | Path | None = None,
    *,
    model_code: str | None = None,
    weights: str | Path | None = None,
    data: "str | Path | ImageData | Dataset[Any] | None" = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    max_steps: int | None = None,
    new_head: bool = False,
    resume: bool = False,
    force: bool = False,
) -> "Run":
    """Fine-tune a model by a recipe, as ``robustctl finetune`` does.

    Args:
        model: an entry, a pulled repo, a run or a model directory; None: what ``model_code`` builds.
        recipe: name (``e-at``, ``cifar10/e-at``) or YAML file; None: the recipe of the run that is resumed.
        model_code: code of your own, ``FILE.py:NAME`` or ``package.module:NAME``, that builds the model.
        weights: file to load into what ``model_code`` builds.
        data: what ``--data`` takes, an ``ImageData``, or a map-style ``torch.utils.data.Dataset`` of (image, label),
            which a resumption needs again; without, the usual images of the model's data set.
        overrides: ``key=value`` each, as ``--set`` has them: ``["optim.lr=0.01"]``.
        seed: of every random choice; 0 without.
        out: the run directory; without, a new one under the runs' root.
        max_steps: stop after so many optimiser steps of the whole run.
        new_head: draw a new last layer for the data's number of classes.
        resume: go on with ``out``, which a kill, an interruption or ``max_steps`` has stopped.
        force: go on although a radius of the recipe makes no sense.

    Returns:
        The run: ``evaluate(run.path)`` evaluates it, ``push(run.path, ...)`` publishes it, ``run.read()`` records it.

    Raises:
        RequestError: something is wrong; nothing was written.
        RunError: the training failed; the run directory has the last good weights.
        InterruptedRun: a signal stopped it; ``resume=True`` goes on.
    """
    return _trained(
        "finetune",
        model=str(model) if model is not None else None,
        model_code=model_code,
        weights=Path(weights) if weights is not None else None,
        recipe=str(recipe) if recipe is not None else None,
        data=data,
        overrides=tuple(overrides),
        seed=seed,
        device=device,
        out=Path(out) if out is not None else None,
        max_steps=max_steps,
        new_head=new_head,
        resume=resume,
        force=force,
    )


def train(
    architecture: str | None = None,
    recipe: str | Path | None = None,
    *,
    model_code: str | None = None,
    data: "str | Path | ImageData | Dataset[Any] | None" = None,
    overrides: Sequence[str] = (),
    seed: int | None = None,
    device: str = "auto",
    out: str | Path | None = None,
    max_steps: int | None = None,
    resume: bool = False,
) -> "Run":
    """Train an architecture from random weights, as ``robustctl train`` does; arguments and errors as ``finetune``."""
    return _trained(
        "train",
        model=architecture,
        model_code=model_code,
        recipe=str(recipe) if recipe is not None else None,
        data=data,
        overrides=tuple(overrides),
        seed=seed,
        device=device,
        out=Path(out) if out is not None else None,
        max_steps=max_steps,
        resume=resume,
    )


def pull(name: str) -> Path:
    """Bring a model here: pinned to a commit, every file checked; its weights (an entry) or its directory (a repo).

    Args:
        name: an entry, ``user/name``, ``user/name@revision`` or ``file:///path``.

    Raises:
        RequestError: no such model.
        RunError: the network, the disk, or bytes that do not match their hashes; the same call continues.
    """
    from robustctl.workflows.obtain import bring

    return bring(name)


def push(
    run: str | Path,
    repo: str,
    *,
    private: bool = False,
    revision: str = "main",
    create_pr: bool = False,
    licence: str | None = None,
    allow_flags: bool = False,
    with_code: bool = False,
    witnesses: bool | None = None,
    weights: str = "last",
    dry_run: bool = False,
) -> "Published":
    """Publish a run: weights, config, model card with results, recipe, evaluations. Twice is the same as once.

    Args:
        run: name or directory.
        repo: ``user/name``, or ``file:///path`` for a plain directory.
        licence: hub identifier, if it cannot be inherited.
        allow_flags: push although the evaluation raised flags; the card names them.
        with_code: also publish the source of code of your own that builds the model.
        witnesses: publish the adversarial images too; None: up to 200 MB of them, if they are still here.
        weights: ``last``, or ``best`` by the selection split.
        dry_run: only say what would be pushed; no network.

    Raises:
        RequestError: no such run, it must not be published, or the token may not write there.
        RunError: the network or the disk; the run is unchanged.
    """
    from robustctl.publish.push import Target
    from robustctl.workflows.publish_run import publish_run

    target = Target(repo, private, revision, create_pr)
    return publish_run(
        str(run),
        target,
        licence=licence,
        allow_flags=allow_flags,
        dry_run=dry_run,
        with_code=with_code,
        witnesses=witnesses,
        weights=weights,
    )


def verify(
    what: str | Path,
    *,
    data: str | Path | None = None,
    sample: int = 20,
    seed: int | None = None,
    device: str = "auto",
) -> "list[Verification]":
    """Recompute what is claimed for a model from its adversarial images, and attack a sample of the survivors.

    Args:
        what: ``user/name`` or ``user/name@revision``, a directory, a run, or the JSON file of a result.
        data: where the images are, if not where the claim says.
        sample: claimed survivors that are attacked in each norm.
        seed: of that attack; None draws one that nobody could know.

    Returns:
        The verdict on each claim; ``verdict`` of each is ``confirmed`` or says what is wrong.

    Raises:
        RequestError: there is nothing to verify, or ``data`` cannot be read.
        RunError: the network, the disk, or logits that are not finite.
    """
    from robustctl.workflows.verify import verify as judge

    return judge(str(what), data=str(data) if data else None, sample=sample, seed=seed, device=device)


def _trained(command: Any, data: Any, **request: Any) -> "Run":
    from robustctl import runs
    from robustctl.workflows.evaluate_given import Images
    from robustctl.workflows.train import train as carry_out
    from robustctl.workflows.training_request import TrainingRequest

    given = Images(data=data)
    images = given.load(None) if given.in_memory else None
    run = carry_out(TrainingRequest(command, data=given.source, images=images, **request))
    return run if run is not None else runs.newest()
