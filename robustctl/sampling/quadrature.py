"""Grids in the annealing variable t and the weights that integrate over it.

Path sampling rests on log Z_q = (1/q) integral from 0 to q of E_t[log loss] dt. E_t is the mean under the density
proportional to loss^t (Rice, thesis 2023, equation 3.15). A ``Grid`` says at which t to measure E_t and how to weigh
it.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

NODES_PER_DECADE = 5
FEWEST_NODES = 2  # a panel


@dataclass(frozen=True)
class Grid:
    """Attributes:
    t: increasing annealing points (k,), >= 0.
    weights: (k,) for each q; the estimate of log Z_q is the sum over k of weights[q][k] * E_t[k][log loss]. In
        importance sampling a chain's log weight over q is the sum of weights[q][k] * its own log loss at t[k].
    """

    t: tuple[float, ...]
    weights: dict[float, tuple[float, ...]]


def graded(qs: Sequence[float], nodes_per_decade: int = NODES_PER_DECADE) -> Grid:
    """Gauss-Legendre panels between 0, 1, the powers of ten and the values of q, shared by all of them.

    The integrand climbs on the scale 1 / (spread of log loss) near t = 0 and on the scale t itself above, so the first
    panel is graded as t = x^3 and the others are uniform in log t. Each q integrates over the panels below it: exact
    sharing, because a panel never straddles a q.

    Args:
        qs: values >= 1.
        nodes_per_decade: points in the first panel and in each factor of ten above it.
    """
    edges = _edges(qs)
    points: list[float] = []
    lengths: list[float] = []  # weight of each point in the plain integral over t
    last: dict[float, int] = {}
    for low, high in zip([0.0, *edges[:-1]], edges, strict=True):
        t, dt = _first_panel(high, nodes_per_decade) if low == 0 else _panel(low, high, nodes_per_decade)
        points += t
        lengths += dt
        last[high] = len(points)
    weights = {q: tuple(dt / q if k < last[q] else 0.0 for k, dt in enumerate(lengths)) for q in qs}
    return Grid(tuple(points), weights)


def uniform(q: float, m: int) -> Grid:
    """The thesis's grid: m >= 2 points evenly from 0 to q, equal weights (Algorithm 5).

    At finite m its estimate is biased: it is the trapezoidal rule with both end points counted in full.
    """
    return Grid(tuple(q * i / (m - 1) for i in range(m)), {q: (1 / m,) * m})


def climbing(qs: Sequence[float], steps: int) -> Grid:
    """The points at which annealed importance sampling looks at the loss, from t = 0 to just below the largest q.

    A weight is the product of loss^(distance to the next point): here its log, over q. Distances grow as 1 + t, because
    the losses under loss^t settle on the scale of t. Each q is a point, and its weight ends there.

    Args:
        qs: values >= 1.
        steps: points up to the largest q, about: every stretch between two q has at least one.
    """
    stops = sorted({float(q) for q in qs})
    share = steps / math.log1p(stops[-1])
    ends: list[float] = []
    for low, high in itertools.pairwise([0.0, *stops]):
        from_log, length = math.log1p(low), math.log1p(high) - math.log1p(low)
        parts = max(1, round(share * length))
        ends += [*(math.expm1(from_log + length * (i + 1) / parts) for i in range(parts - 1)), high]
    points = [0.0, *ends[:-1]]
    weights = {
        q: tuple((end - t) / q if end <= q else 0.0 for t, end in zip(points, ends, strict=True))
        for q in map(float, qs)
    }
    return Grid(tuple(points), weights)


def _edges(qs: Sequence[float]) -> list[float]:
    decades = [10.0**power for power in range(math.ceil(math.log10(max(qs))) + 1)]
    return sorted({float(q) for q in qs} | {edge for edge in decades if edge < max(qs)})


def _first_panel(high: float, nodes: int) -> tuple[list[float], list[float]]:
    x, w = _legendre(nodes)
    return list(high * x**3), list(high * 3 * x**2 * w)


def _panel(low: float, high: float, nodes_per_decade: int) -> tuple[list[float], list[float]]:
    span = math.log(high / low)
    x, w = _legendre(max(FEWEST_NODES, round(nodes_per_decade * span / math.log(10))))
    t = low * np.exp(span * x)
    return list(t), list(span * t * w)


def _legendre(nodes: int) -> tuple[np.ndarray, np.ndarray]:
    x, w = np.polynomial.legendre.leggauss(nodes)
    return (x + 1) / 2, w / 2
