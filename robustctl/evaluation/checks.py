"""Guards before any attack: the mistakes that give wrong robust accuracies without an error, and signs of masking."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from robustctl import losses
from robustctl.architectures import device_of
from robustctl.data import ImageData
from robustctl.data.image_data import extremes
from robustctl.data.suspicion import suspicions
from robustctl.errors import RequestError
from robustctl.evaluation.memory import fitting
from robustctl.evaluation.referee import PASSES, logits
from robustctl.oracle import Oracle
from robustctl.pieces import Pieces
from robustctl.results.statistics import wilson

PROBE = 64  # images that the guards look at; the clean accuracy takes all
BATCH_TOLERANCE = 1e-3  # relative difference of logits between an image alone and in a batch
CERTAIN = 3.2905  # normal quantile of a two-sided 99.9 % interval: a guard must not cry wolf
OTHER_DATA = 0.15  # clean accuracy may move so far between the recorded data and other images of the same task
ZERO_GRADIENT_SHARE = 0.01
FLAT_SHARE = 0.01  # of the margin; ordinary networks have more than 10


@dataclass(frozen=True)
class KnownAccuracy:
    """A clean accuracy that is known: its value in [0,1], from n images (None: unknown), of a source and split."""

    value: float
    n: int | None
    source: str
    split: str


def require_pixels(data: ImageData) -> None:
    """Raise RequestError unless every pixel is finite and in [0,1]."""
    if data.x.dtype == torch.uint8:
        return
    low, high = extremes(data.x)
    if not (low >= 0 and high <= 1):
        raise RequestError(
            f"pixels of {data.source} are in [{low:g}, {high:g}], not in [0, 1]. Normalisation belongs into the model "
            "(its entry's mean and std), not into the data"
        )


def pixel_flags(data: ImageData, dataset: str, recorded: KnownAccuracy | None, force: bool) -> list[str]:
    """Flags ``pixels`` for images whose values are not as images are, with the likely cause.

    Args:
        dataset: the data set of the model.
        force: flag instead of refusing.

    Raises:
        RequestError: no images look so, and the model's clean accuracy is known, so that the model is not the cause.
    """
    found = suspicions(data, dataset)
    for suspicion in found:
        if suspicion.certain and recorded is not None and not force:
            raise RequestError(f"{data.where}: {suspicion.text}. --force evaluates nevertheless")
    return [f"pixels: {suspicion.text}" for suspicion in found]


def model_flags(model: nn.Module, data: ImageData, n_classes: int) -> list[str]:
    """Check what the model returns on the first images.

    Returns:
        Flags: ``random-forward`` when the same batch gives other logits the second time.

    Raises:
        RequestError: not (n, n_classes) finite logits, probabilities, logits that depend on the rest of the batch, or
            a model that writes into the images that it is given.
    """
    require_untouched(model, data.images([0]))
    x = data.images(range(min(PROBE, len(data))))
    scores = logits(model, x)
    _require_logits(scores, len(x), n_classes)
    if is_random(model, data):
        return [
            f"random-forward: the same images give other logits each time (dropout, noise?); each point is judged by "
            f"most of {PASSES} fresh passes, and verdicts are not reproducible to the point"
        ]
    _require_independence(model, x, scores)
    return []


@torch.no_grad()
def require_untouched(model: nn.Module, x: Tensor) -> None:
    """Raise RequestError if the model changes its images in place: they would be changed again by every pass."""
    given = x.to(device_of(model)).clone()
    kept = given.clone()
    model(given)
    if not torch.equal(given, kept):
        raise RequestError(
            "the model writes into the images that it is given (in place, such as x.clamp_ or x -= mean), so that "
            "every further pass would see others. Let it copy them first: x = x.clone()"
        )


def is_random(model: nn.Module, data: ImageData) -> bool:
    """Whether the model gives the same images other logits from pass to pass."""
    x = data.images(range(min(PROBE, len(data))))
    scores = logits(model, x)
    return not all(torch.equal(scores, logits(model, x)) for _ in range(3))


def clean_flags(correct: Sequence[bool], data: ImageData, recorded: KnownAccuracy | None, force: bool) -> list[str]:
    """Compare the clean accuracy with the recorded one.

    Args:
        force: flag instead of refusing.

    Returns:
        Flags: ``clean-accuracy`` when it is off on data other than the recorded ones, by less than a fault explains.

    Raises:
        RequestError: it is outside the interval of the recorded one; normalisation is the likely cause.
    """
    if recorded is None:
        return []
    n, n_correct = len(correct), sum(correct)
    low, high = wilson(n_correct, n, CERTAIN)
    known_low, known_high = wilson(recorded.value * (recorded.n or n), recorded.n or n, CERTAIN)
    if low <= known_high and known_low <= high:
        return []
    text = (
        f"clean accuracy is {100 * n_correct / n:.1f} % on the {n} images of {data.source} ({data.split}), "
        f"recorded are {100 * recorded.value:.1f} % on {recorded.source} ({recorded.split})"
    )
    same = (data.source, data.split) == (recorded.source, recorded.split)
    near = not same and low <= known_high + OTHER_DATA and known_low - OTHER_DATA <= high
    if near or force:
        return [f"clean-accuracy: {text}"]
    raise RequestError(
        f"{text}. Likely causes: the normalisation is missing or applied twice (compare the entry's mean and std with "
        "the model's source), another order of classes, or other weights. --force evaluates nevertheless"
    )


def gradient_flags(model: nn.Module, data: ImageData, correct: Sequence[int]) -> list[str]:
    """Flag ``zero-gradient`` when the loss has none at many of the rightly classified points (gradient masking)."""
    positions = list(correct)[:PROBE]
    if not positions:
        return []
    with Oracle(model) as oracle:
        if not has_gradient(oracle, data):
            return ["zero-gradient: the model gives no gradient at all; Square alone, which needs none, attacked it"]
        x, y = data.images(positions).to(oracle.device), data.y[positions].to(oracle.device)

        def work(piece: slice) -> Tensor:
            grad = oracle.loss_and_grad(x[piece], y[piece], losses.ce)[2]
            return grad.flatten(1).abs().amax(dim=1)

        largest = torch.cat(Pieces(fitting(model, x[:1])).run(work, len(x)))
    share = float((largest == 0).float().mean())
    if share <= ZERO_GRADIENT_SHARE:
        return []
    return [
        f"zero-gradient: {100 * share:.0f} % of {len(positions)} points have none (masking, or a saturated loss); "
        "adaptive and full attack them by Square too, standard and fast do not"
    ]


def has_gradient(oracle: Oracle, data: ImageData) -> bool:
    """Whether the model's logits can be differentiated in the image at all, be it to zero."""
    with torch.enable_grad():
        out: Tensor = oracle.model(data.images([0]).to(oracle.device).requires_grad_(True))
    return out.requires_grad


def flat_points(oracle: Oracle, data: ImageData, positions: Sequence[int]) -> set[int]:
    """The positions at which an attack finds no gradient of the margin to follow, or almost none.

    The first ``PROBE`` positions speak for the others if none of them is flat.
    """
    some = list(positions)[:PROBE]
    found = _flat(oracle, data, some)
    return found | _flat(oracle, data, list(positions)[PROBE:]) if found else found


def _flat(oracle: Oracle, data: ImageData, positions: Sequence[int]) -> set[int]:
    """Where the gradient, followed from 0 to 1 in every value, would change the margin by less than a hundredth."""
    found = set[int]()
    for start in range(0, len(positions), PROBE):
        few = positions[start : start + PROBE]
        x, y = data.images(few).to(oracle.device), data.y[few].to(oracle.device)
        _, margin, grad = oracle.loss_and_grad(x, y, losses.margin)
        flat = grad.flatten(1).abs().sum(1) <= FLAT_SHARE * margin.abs()
        found |= {position for position, one in zip(few, flat.tolist(), strict=True) if one}
    return found


def _require_logits(scores: Tensor, n: int, n_classes: int) -> None:
    if scores.shape != (n, n_classes):
        raise RequestError(
            f"the model returns {list(scores.shape)} for {n} images; expected logits {[n, n_classes]}, one per class"
        )
    if not scores.isfinite().all():
        raise RequestError("the model's logits are NaN or infinite on clean images; its weights are damaged")
    sums = scores.sum(dim=1)
    if (scores >= 0).all() and (scores <= 1).all() and (sums - 1).abs().max() < 1e-4:
        raise RequestError(
            "the model returns probabilities; the attacks need logits. Remove the softmax at its end (a softmax hides "
            "the gradient of confident predictions)"
        )


def _require_independence(model: nn.Module, x: Tensor, scores: Tensor) -> None:
    alone = torch.cat([logits(model, x[i : i + 1]) for i in range(min(4, len(x)))])
    difference = float((alone - scores[: len(alone)]).abs().max())
    if difference > BATCH_TOLERANCE * float(scores.abs().max().clamp(min=1)):
        raise RequestError(
            f"an image alone gets other logits than in a batch (difference {difference:.2g}); the model uses "
            "statistics of its batch (batch normalisation in training mode?); robustness would not be a point's own"
        )
