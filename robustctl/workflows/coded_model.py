"""A model that the user's own code builds (``--model-code``), with the weights of a file or as the code returns it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from robustctl import checkpoint, user_code
from robustctl.architectures import Classifier, OwnClassifier, build_own, opens_logits
from robustctl.conventions import CONVENTIONS
from robustctl.errors import RequestError
from robustctl.files import scratch
from robustctl.models.convert import convert
from robustctl.models.entry import KeyRules
from robustctl.models.find import FoundModel
from robustctl.progress import say
from robustctl.spec import WEIGHTS, ModelSpec
from robustctl.user_code import UserCode


def build_coded(
    code: UserCode, input_shape: tuple[int, int, int], n_classes: int, dataset: str
) -> tuple[Classifier, ModelSpec]:
    """Build a model by the user's code; its spec has the number of logits that it really gives.

    Args:
        input_shape: (channels, height, width) of the images that it will get.
        n_classes: classes of the data, which the code is told if it asks.

    Raises:
        RequestError: the code fails, or does not return a network from such images to logits.
    """
    net, architecture = build_own(code, n_classes, input_shape)
    image = torch.zeros(1, *input_shape)
    model = OwnClassifier(net, opens_logits(net, image)).eval()
    with torch.no_grad():
        logits = model(image)
    spec = ModelSpec(
        schema="robustctl.model/1",
        architecture=architecture,
        input_shape=input_shape,
        n_classes=logits.shape[1],
        dataset=dataset,
    )
    return model, spec


@contextmanager
def coded_model(
    code: UserCode, weights: Path | None, input_shape: tuple[int, int, int], n_classes: int, dataset: str
) -> Iterator[FoundModel]:
    """A model built by the user's code as one that is here: a directory that is gone when the block ends.

    Args:
        weights: a file as ``models import`` takes it; None if the code loads the weights itself.

    Raises:
        RequestError: as ``build_coded``, or the file does not fit.
    """
    model, spec = build_coded(code, input_shape, n_classes, dataset)
    with scratch() as folder:
        place = folder / WEIGHTS
        if weights is not None:
            with user_code.granted(code):
                convert(weights, place, spec, KeyRules(), detect=True)
        else:
            say(f"{code.text}: with the weights that it returns (--weights FILE loads others)")
            checkpoint.save_tensors(model.net.state_dict(), place)
        yield FoundModel(code.short_name, place, spec)


def dataset_of(source: str) -> str:
    """The known data set whose usual source this is, else the source itself."""
    return next((name for name, one in CONVENTIONS.items() if source in (name, one.source)), Path(source).name)


def require_alone(code: UserCode | None, weights: Path | None, model: str | None) -> None:
    """Refuse ``--weights`` that nothing would load."""
    if weights is not None and (code is None or model is not None):
        raise RequestError("--weights goes with --model-code and without MODEL, which has weights of its own")
