"""Measures in which way a model is attacked fastest here: precision, order in memory, images a pass."""

import dataclasses
from collections.abc import Callable, Mapping

from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.evaluation.families import seconds_per_batch
from robustctl.evaluation.union_request import UnionRequest
from robustctl.oracle import Oracle
from robustctl.precision import Precision
from robustctl.trusted_copy import Trusted

MEASURED = 128
"""Fewer images are attacked in float32 without measuring. The measurement takes up to a second, which is a good part of
the time that their attacks take, and so few rows do not tell how fast a full batch is."""
PAYS = 0.8
"""Another way than the usual one is taken if it needs at most this share of its time: a smaller gain is within the
noise of a short measurement. Precision: float32 is the usual one. Then channels-last memory, then the default size."""
FEW = 8
"""Images of the first batches, which tell how many images later ones may have."""
SECONDS = 0.04
"""The time that one timed batch should take about. Precisions and orders are timed four times each, sizes twice: in all
less than a second. If a batch takes longer, it fills the device whatever its size, and no size is timed."""

Copies = Callable[[Precision, bool], Trusted]
"""Makes the trusted copy in a precision, channels-last or not."""


def ways(request: UnionRequest, trusted: Trusted) -> list[UnionRequest]:
    """The requests among which the measurement may choose but for the batch size, float32's last of each order."""
    precisions: list[Precision] = list(dict.fromkeys([trusted.precision, "float32"]))
    orders = [True, False] if trusted.channels_last else [True]
    return [
        dataclasses.replace(request, precision=precision, channels_last=order)
        for order in orders
        for precision in precisions
    ]


def fastest(
    model: Classifier, data: ImageData, request: UnionRequest, trusted: Trusted, copies: Copies
) -> UnionRequest:
    """The request in the precision, order and batch size that are fastest, with what was measured.

    Args:
        trusted: of the request, which is in its usual order.
    """
    size = request.batch_size
    seconds: dict[str, float] = {}
    chosen = trusted
    if trusted.precision != "float32":
        plain = copies("float32", True)
        seconds |= _in_turns(model, data, {trusted.precision: trusted, "float32": plain}, size)
        chosen = trusted if seconds[trusted.precision] <= PAYS * seconds["float32"] else plain
    if chosen.channels_last:
        usual, other = chosen.precision, f"{chosen.precision}, channels first"
        networks = {usual: chosen, other: copies(chosen.precision, False)}
        found = _in_turns(model, data, networks, size)
        seconds = found | seconds
        if found[other] <= PAYS * found[usual] and not networks[other].channels_last and networks[other].copied:
            chosen = networks[other]
    sizes = _by_size(model, data, chosen, request)
    best = min(sizes, key=lambda one: sizes[one], default=size)
    if sizes and sizes[best] > PAYS * sizes[size]:
        best = size
    seconds |= {f"{chosen.precision}, {number} a batch": one for number, one in sizes.items()}
    return dataclasses.replace(
        request,
        precision=chosen.precision,
        channels_last=chosen.channels_last or not trusted.channels_last,
        batch_size=best,
        seconds_per_image=seconds or None,
    )


def told(seconds: Mapping[str, float]) -> str:
    """The measurements, in a line."""
    return ", ".join(f"{name} takes {1000 * one:.3g} ms" for name, one in seconds.items()) + " per gradient"


def _in_turns(model: Classifier, data: ImageData, networks: Mapping[str, Trusted], batch_size: int) -> dict[str, float]:
    """Seconds of a gradient evaluation of one image in each network; the least of two in turns."""
    few = min(FEW, len(data))
    first = max(_timed(model, data, network, few) for network in networks.values())
    size = max(min(batch_size, len(data), int(SECONDS / first)), few)
    rounds = [{name: _timed(model, data, network, size) for name, network in networks.items()} for _ in range(2)]
    return {name: min(one[name] for one in rounds) for name in networks}


def _by_size(model: Classifier, data: ImageData, network: Trusted, request: UnionRequest) -> dict[int, float]:
    """Seconds of a gradient evaluation of one image by batch size; empty if there is nothing to choose."""
    others = [size for size in request.other_sizes if size <= len(data)]
    usual = request.batch_size
    few = min(FEW, len(data))
    if not others or usual > len(data) or usual * _timed(model, data, network, few) > SECONDS:
        return {}
    return {size: _timed(model, data, network, size) for size in (usual, *others)}


def _timed(model: Classifier, data: ImageData, network: Trusted, size: int) -> float:
    with Oracle(model, network) as oracle:
        return seconds_per_batch(oracle, data, size) / size
