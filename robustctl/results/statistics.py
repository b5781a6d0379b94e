"""Intervals and paired tests of counts. No torch here."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

Z95 = 1.959963984540054  # two-sided 95 % quantile of the standard normal


def wilson(n_correct: float, n: float, z: float = Z95) -> tuple[float, float]:
    """Wilson's score interval of a proportion (Wilson 1927), sampling error only.

    Libraries take whole counts alone; a mean over norms has an effective number of trials that is none.

    Args:
        n_correct: right answers, in [0, n]. n: trials > 0. z: normal quantile; the default gives 95 %.
    """
    p = n_correct / n
    shrink = 1 + z * z / n
    centre = (p + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(max(0.0, p * (1 - p) / n + z * z / (4 * n * n)))
    return max(0.0, min(p, centre - half)), min(1.0, max(p, centre + half))


def wilson_mean(values: Sequence[float]) -> tuple[float, float]:
    """95 % interval of the mean of per-point values in [0,1] that are not only 0 and 1, such as a point's share of
    norms in which it is robust.

    Wilson's interval at the effective sample size p (1 - p) / var(mean) (Korn and Graubard 1998), so that verdicts of
    one point in several norms are not counted as independent.
    """
    n, mean = len(values), math.fsum(values) / len(values)
    variance = math.fsum((value - mean) ** 2 for value in values) / n
    effective = n * mean * (1 - mean) / variance if variance > 0 else float(n)
    return wilson(mean * effective, effective)


@dataclass(frozen=True)
class Paired:
    """Two models on the same points: how often only one is right, and the exact two-sided p-value."""

    only_first: int
    only_second: int
    p_value: float


def mcnemar(first: Sequence[int], second: Sequence[int]) -> Paired:
    """McNemar's exact paired test: of the points on which the two differ, each model should win half.

    Args:
        first, second: zeros and ones of equal length, the same points in the same order.
    """
    pairs = list(zip(first, second, strict=True))
    only_first, only_second = pairs.count((1, 0)), pairs.count((0, 1))
    differing = only_first + only_second
    from scipy.special import bdtr  # not scipy.stats: it takes a second to import

    return Paired(only_first, only_second, min(1.0, 2 * float(bdtr(min(only_first, only_second), differing, 0.5))))


def student95(degrees: int) -> float:
    """Two-sided 95 % quantile of Student's t with so many degrees of freedom (>= 1)."""
    from scipy.special import stdtrit

    return float(stdtrit(degrees, 0.975))


def paired_means(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of a paired t-test: whether the mean difference of two values per point is 0.

    Args:
        first, second: of equal length n, the same points in the same order. One point, or none that differs, gives 1.
    """
    from scipy.special import stdtr

    differences = [b - a for a, b in zip(first, second, strict=True)]
    n, mean = len(differences), math.fsum(differences) / len(differences)
    if n < 2 or not any(differences):
        return 1.0
    variance = math.fsum((one - mean) ** 2 for one in differences) / (n - 1)
    return 2 * float(stdtr(n - 1, -abs(mean) / math.sqrt(variance / n))) if variance > 0 else 0.0


def welch(first: Sequence[float], second: Sequence[float]) -> float:
    """Two-sided p-value of Welch's t-test: whether two samples of at least two values have one mean."""
    from scipy.special import stdtr

    means = [math.fsum(one) / len(one) for one in (first, second)]
    parts = [
        math.fsum((value - mean) ** 2 for value in one) / (len(one) - 1) / len(one)
        for one, mean in zip((first, second), means, strict=True)
    ]
    total = sum(parts)
    if total == 0:
        return 1.0 if means[0] == means[1] else 0.0
    degrees = total**2 / sum(part**2 / (len(one) - 1) for part, one in zip(parts, (first, second), strict=True))
    return 2 * float(stdtr(degrees, -abs(means[1] - means[0]) / math.sqrt(total)))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values for their number (Holm 1979), in the order given."""
    order = sorted(range(len(p_values)), key=p_values.__getitem__)
    corrected, largest = [0.0] * len(p_values), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[i]))
        corrected[i] = largest
    return corrected


def most_missed(survivors: int, drawn: int, fell: int, error: float) -> int:
    """How many of the survivors that were not drawn would fall, at most, with a confidence of ``1 - error``.

    It is the largest number with which so few falls in the sample have a probability above ``error``.
    """
    low, high = 0, survivors - drawn
    while low < high:
        middle = (low + high + 1) // 2
        if _few_falls(survivors, drawn, fell, fell + middle) > error:
            low = middle
        else:
            high = middle - 1
    return low


def _few_falls(survivors: int, drawn: int, fell: int, breakable: int) -> float:
    """Probability that at most ``fell`` of the drawn are among the ``breakable`` of the survivors."""
    # The hypergeometric distribution of scipy.stats would do; it takes a second to import.
    whole = _log_choices(survivors, drawn)
    least = max(0, drawn - (survivors - breakable))
    return math.fsum(
        math.exp(_log_choices(breakable, one) + _log_choices(survivors - breakable, drawn - one) - whole)
        for one in range(least, min(fell, breakable, drawn) + 1)
    )


def _log_choices(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
