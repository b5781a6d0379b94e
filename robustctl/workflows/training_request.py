"""A request to train or fine-tune. No torch here."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from robustctl.data import ImageData


@dataclass(frozen=True)
class TrainingRequest:
    """The user's wishes; None means that the user said nothing.

    Attributes:
        command: ``train`` starts from random weights, ``finetune`` from a model's.
        model: an architecture (``train``) or a model (``finetune``).
        recipe: name or YAML file.
        data: the place of the images.
        images: the images themselves, from a Python caller, in the place of ``data``.
        overrides: ``key=value`` each.
        out: the run directory.
        max_steps: stop after so many optimiser steps of the whole run.
        resume: go on with ``out``, or with the newest unfinished run.
        dry_run: check everything, train nothing.
        push: the repo that the run will be pushed to; it is checked before training.
        licence: the licence to push under.
        tensorboard: also write the metrics for TensorBoard.
        new_head: draw a new last layer for the data's classes.
        force: go on although a radius makes no sense.
        split: which split of them is trained on.
        columns: ``image=img,label=fine_label``, if the columns have no usual names.
        classes: a YAML file that maps the classes of the data to the model's.
        model_code: the user's code that builds the model, as ``user_code.parse`` takes it; instead of ``model``, or for
            a model that was made by it.
        weights: file to load into what ``model_code`` builds.
    """

    command: Literal["train", "finetune"]
    model: str | None = None
    recipe: str | None = None
    data: str | None = None
    overrides: tuple[str, ...] = ()
    seed: int | None = None
    device: str = "auto"
    out: Path | None = None
    max_steps: int | None = None
    resume: bool = False
    dry_run: bool = False
    push: str | None = None
    licence: str | None = None
    tensorboard: bool = False
    new_head: bool = False
    force: bool = False
    split: str | None = None
    columns: str | None = None
    classes: Path | None = None
    model_code: str | None = None
    weights: Path | None = None
    images: "ImageData | None" = None
