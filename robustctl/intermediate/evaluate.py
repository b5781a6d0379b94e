"""Intermediate-q evaluation: per image Z_q, random and adversarial ends; stored image by image, then averaged."""

import dataclasses
import math
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from robustctl import losses, seeds
from robustctl.allocator import kept_memory
from robustctl.architectures import Classifier
from robustctl.attacks.apgd import apgd
from robustctl.attacks.pgd import pgd
from robustctl.checkpoint import weights_sha256
from robustctl.data import ImageData
from robustctl.devices import device_name
from robustctl.evaluation import checks
from robustctl.evaluation.store import Store
from robustctl.evaluation.store_key import Key
from robustctl.geometry import random_start
from robustctl.intermediate.chains import numbers, run_chains
from robustctl.intermediate.measure import Measure
from robustctl.intermediate.request import IntermediateRequest
from robustctl.intermediate.results import IntermediateResult
from robustctl.intermediate.summary import summarize
from robustctl.oracle import Oracle
from robustctl.progress import progress, say
from robustctl.sampling.build import draw
from robustctl.sampling.estimators import monte_carlo
from robustctl.sampling.log_loss import log_ce
from robustctl.sampling.noise import Noise
from robustctl.seeds import Purpose
from robustctl.spec import ModelSpec
from robustctl.trusted_copy import PROBE, Trusted, trusted_copy
from robustctl.version import __version__

DRAWS = 8  # random perturbations of an image in one forward pass, whatever the batch size: seeds stay per image
PGD_STEPS, PGD_STRIDE = 50, 2.5  # step = PGD_STRIDE * eps / steps (thesis section 3.1.6)
APGD_STEPS = 100


def evaluation_key(model: Classifier, spec: ModelSpec, data: ImageData, request: IntermediateRequest) -> Key:
    """Everything that the measures depend on, by the names that messages use. The batch size is no part of it."""
    asked = dataclasses.asdict(dataclasses.replace(request, batch_size=0))
    return {
        "robustctl": __version__,
        "evaluation": "intermediate-q",
        "weights": weights_sha256(model),
        "architecture": spec.architecture.model_dump(),
        "normalization": spec.normalization.model_dump() if spec.normalization else None,
        "images": data.content_sha256,
        **asked,
    }


def evaluate_intermediate(
    model: Classifier,
    spec: ModelSpec,
    data: ImageData,
    request: IntermediateRequest,
    *,
    name: str,
    device: torch.device,
    store_path: Path,
) -> IntermediateResult:
    """Measure every image that the store lacks, then average.

    Args:
        model: on the CPU, in eval mode; moved to ``device``.
        name: what the result calls it.
        store_path: the SQLite file to continue or create.

    Raises:
        RequestError: a value out of range, or a distribution that these images cannot have.
        RunError: the store is another evaluation's, damaged or cannot be written; what it held stays.
    """
    request.require()
    request.perturbation.require(spec.input_shape)
    data.require(spec.input_shape, spec.n_classes)
    checks.require_pixels(data)
    started = time.monotonic()
    with Store(store_path, evaluation_key(model, spec, data, request)) as store:
        model = model.to(device)
        fast = trusted_copy(model, "float32", data.images(range(min(PROBE, len(data)))).to(device))
        if fast.reason:
            say(f"the samplers run on {fast}")
        try:
            _fill(model, fast, data, request, store)
        finally:
            store.add_seconds(time.monotonic() - started)
        measures = {position: Measure.from_json(text) for position, text in store.measures().items()}
        seconds = store.seconds()
    return summarize(
        [measures[position] for position in range(len(data))],
        request,
        data,
        name=name,
        weights=weights_sha256(model),
        seconds=round(seconds, 3),
        device=device_name(device),
        flags=[
            *checks.pixel_flags(data, spec.dataset, None, False),
            *([f"fast-copy: the samplers ran on {fast}"] if fast.reason else []),
        ],
    )


def _fill(model: Classifier, fast: Trusted, data: ImageData, request: IntermediateRequest, store: Store) -> None:
    done = store.measures()
    todo = [position for position in range(len(data)) if position not in done]
    size = max(1, request.batch_size // max(DRAWS, request.chains))
    bar = progress("intermediate-q", len(data), len(done))
    with kept_memory(), bar as advance, Oracle(model, fast) as oracle:
        for first in range(0, len(todo), size):
            positions = todo[first : first + size]
            measured = _measure(oracle, data, positions, request)
            store.add_measures(zip(positions, (one.to_json() for one in measured), strict=True))
            advance(len(positions))


def _measure(oracle: Oracle, data: ImageData, positions: Sequence[int], request: IntermediateRequest) -> list[Measure]:
    x, y = data.images(positions).to(oracle.device), data.y[torch.as_tensor(positions)].to(oracle.device)
    indices = data.indices[torch.as_tensor(positions)].tolist()
    forwards = oracle.forwards
    logits = oracle.logits(x)
    values, right = _random(oracle, x, y, indices, request)
    mc = [monte_carlo(values.double(), q) for q in request.qs] if "mc" in request.kinds else []
    gradients = oracle.gradients
    attacked, summit = _attack(oracle, x, y, indices, request)
    attacks = (oracle.gradients - gradients) // len(positions)
    images = x, y, indices
    path = run_chains(oracle, images, request, "path", summit) if "path" in request.kinds else [None] * len(indices)
    ais = run_chains(oracle, images, request, "ais", None) if "ais" in request.kinds else [None] * len(indices)
    return [
        Measure(
            clean_loss=float(log_ce(logits, y)[row].exp()),
            clean_right=bool(logits[row].argmax() == y[row]),
            right=int(right[row].sum()),
            draws=right.shape[1],
            mc=[numbers(one, row) for one in mc],
            path=path[row],
            ais=ais[row],
            largest=math.exp(max([float(values[row].max()), *(one.largest for one in (path[row], ais[row]) if one)])),
            attack_losses=[float(loss[row]) for loss, _ in attacked],
            attack_right=all(bool(still[row]) for _, still in attacked) if attacked else bool(right[row].all()),
            attacks=attacks,
            forwards=(oracle.forwards - forwards) // len(positions),
        )
        for row in range(len(positions))
    ]


def _random(
    oracle: Oracle, x: Tensor, y: Tensor, indices: list[int], request: IntermediateRequest
) -> tuple[Tensor, Tensor]:
    """Log losses (n, m) and right answers (n, m) of m = ``samples`` random perturbations."""
    generators = seeds.generators(request.seed, Purpose.RANDOM, indices)
    values, right = [], []
    for first in range(0, request.samples, DRAWS):
        many = min(DRAWS, request.samples - first)
        noise = Noise(generators, many, x)
        rows = y.repeat_interleave(many)
        logits = oracle.logits(draw(request.perturbation, x.repeat_interleave(many, 0), noise))
        values.append(log_ce(logits, rows).reshape(-1, many))
        right.append((logits.argmax(1) == rows).reshape(-1, many))
    return torch.cat(values, 1), torch.cat(right, 1)


def _attack(
    oracle: Oracle, x: Tensor, y: Tensor, indices: list[int], request: IntermediateRequest
) -> tuple[list[tuple[Tensor, Tensor]], Tensor | None]:
    """Loss (n,) and whether still right (n,) after PGD and after APGD; and the stronger point of each image, if the
    ball is the support of the distribution. Empty and None without a ball.

    Both climb the log of the cross-entropy: it has the same maximum, and a gradient even if the model is sure.
    """
    ball = request.ball
    if ball is None:
        return [], None
    starts = random_start(x, ball.norm, ball.eps, seeds.generators(request.seed, Purpose.PGD, indices))
    stride = PGD_STRIDE * ball.eps / PGD_STEPS
    generators = seeds.generators(request.seed, Purpose.APGD, indices)
    by_pgd = pgd(oracle, x, y, ball, steps=PGD_STEPS, step_size=stride, loss=log_ce, start=starts)
    by_apgd = apgd(oracle, x, y, ball, steps=APGD_STEPS, loss=log_ce, generator=generators)
    scores = [_score(oracle, x_adv, y) for x_adv in (by_pgd, by_apgd)]
    higher = (scores[0][0] > scores[1][0])[:, None, None, None]
    return scores, torch.where(higher, by_pgd, by_apgd) if request.perturbation.threat is not None else None


def _score(oracle: Oracle, x_adv: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    logits = oracle.logits(x_adv)
    return losses.ce(logits, y), logits.argmax(1) == y
