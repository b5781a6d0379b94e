"""robustctl: adversarial robustness against several threat models at once.

The commands as functions (docs/python.md). They import what they need when they are called.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robustctl.evaluate_functions import evaluate as evaluate
from robustctl.evaluate_functions import evaluate_curve as evaluate_curve
from robustctl.evaluate_functions import evaluate_intermediate as evaluate_intermediate
from robustctl.evaluate_functions import evaluate_suite as evaluate_suite
from robustctl.version import __version__ as __version__

if TYPE_CHECKING:
    from torch.utils.data import Dataset

    from robustctl.architectures import Classifier
    from robustctl.data import ImageData
    from robustctl.results.verification import Verification
    from robustctl.runs import Run
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
