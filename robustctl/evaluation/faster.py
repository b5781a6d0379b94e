"""Measures which precision attacks a model faster here."""

from robustctl.architectures import Classifier
from robustctl.data import ImageData
from robustctl.evaluation.families import seconds_per_batch
from robustctl.oracle import Oracle
from robustctl.trusted_copy import Trusted

FEW = 8
"""Images of the first batches, which tell how many images later ones may have."""
SECONDS = 0.1
"""The time that one timed batch should take about; each network is timed four times."""


def seconds_per_image(model: Classifier, data: ImageData, networks: list[Trusted], batch_size: int) -> dict[str, float]:
    """Seconds of a gradient evaluation of one image in each network, by its precision; the least of two in turns."""
    few = min(FEW, len(data))
    first = max(_timed(model, data, network, few) for network in networks)
    size = max(min(batch_size, len(data), int(SECONDS / first)), few)
    rounds: list[dict[str, float]] = [
        {network.precision: _timed(model, data, network, size) for network in networks} for _ in range(2)
    ]
    return {network.precision: min(one[network.precision] for one in rounds) for network in networks}


def _timed(model: Classifier, data: ImageData, network: Trusted, size: int) -> float:
    with Oracle(model, network) as oracle:
        return seconds_per_batch(oracle, data, size) / size
