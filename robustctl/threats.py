"""Threat models: a norm and a radius. No torch here.

A radius is kept as the user wrote it (``8/255``) beside its value, so that tables show what was asked.
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Literal, get_args

from robustctl.discovery import unknown
from robustctl.errors import RequestError

Norm = Literal["linf", "l2", "l1"]
NORMS: tuple[Norm, ...] = get_args(Norm)


@dataclass(frozen=True)
class Threat:
    """All perturbations within radius ``eps`` in one norm, cut with the pixel box [0,1].

    Attributes:
        norm: ``linf``, ``l2`` or ``l1``.
        eps: radius on the [0,1] pixel scale, finite and > 0.
        eps_text: the radius as written, e.g. ``"8/255"``.
    """

    norm: Norm
    eps: float
    eps_text: str

    @classmethod
    def parse(cls, text: str) -> "Threat":
        """Read ``"linf:8/255"``.

        Raises:
            RequestError: unknown norm, or a radius that is not a finite number above 0.
        """
        norm, colon, eps_text = text.partition(":")
        if not colon:
            raise RequestError(f"threat {text!r} is not of the form norm:eps, e.g. linf:8/255")
        return cls.of(norm.strip(), eps_text.strip())

    @classmethod
    def of(cls, norm: str, eps_text: str) -> "Threat":
        """Make a threat from its two written parts; raises as ``parse`` does."""
        return cls(parse_norm(norm), parse_eps(eps_text), eps_text)

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps_text}"


CurveNorm = Literal["linf", "l2", "l1", "l0"]
"""The norms in which curves measure distances; l0 counts pixels that differ in any channel."""


@dataclass(frozen=True)
class Reach:
    """A norm, l0 among them, and a radius on its scale: what accuracy against radius is measured in.

    Attributes:
        eps: as a threat's; for l0 a number of pixels. eps_text: the same as it was written.
    """

    norm: CurveNorm
    eps: float
    eps_text: str

    @property
    def threat(self) -> Threat:
        """The threat that it is in one of the three norms."""
        return Threat(parse_norm(self.norm), self.eps, self.eps_text)

    def times(self, scale: float) -> "Reach":
        """A multiple of it."""
        return Reach(self.norm, self.eps * scale, f"{scale:g} x {self.eps_text}")

    def __str__(self) -> str:
        return f"{self.norm}:{self.eps_text}"


def parse_norm(text: str) -> Norm:
    """Return the norm that ``text`` names, or raise RequestError with the list of norms."""
    for norm in NORMS:
        if text == norm:
            return norm
    raise unknown("norm", text, NORMS)


def parse_eps(text: str, *, zero: bool = False) -> float:
    """Value of a radius written as a decimal or a fraction (``0.5``, ``8/255``, ``7.65/255``).

    Raises:
        RequestError: not a number, a division by zero, or not finite and above 0; with ``zero``, 0 is a value too.
    """
    try:
        numerator, slash, denominator = text.partition("/")
        value = float(numerator) / float(denominator) if slash else float(numerator)
    except ZeroDivisionError:
        raise RequestError(f"eps {text!r} divides by zero; write it like 0.5 or 8/255") from None
    except ValueError:
        raise RequestError(f"eps {text!r} is not a number; write it like 0.5 or 8/255") from None
    if not (math.isfinite(value) and (value > 0 or (zero and value == 0))):
        raise RequestError(f"eps {text!r} must be finite and {'at least' if zero else 'above'} 0")
    return value


def hull_l2_radius(eps_linf: float, eps_l1: float, dimension: int) -> float:
    """Radius of the largest l_2 ball inside the convex hull of the l_1 and l_inf balls.

    An affine classifier that is robust in both balls is robust in this one, which is E-AT's reason to train on
    l_1 and l_inf alone (Croce and Hein 2022, Theorem 3.1 with p = 2).

    Args:
        eps_linf, eps_l1: radii > 0.
        dimension: number of pixels times channels, >= 1.

    Returns:
        The radius. Where one ball holds the other, the hull is the larger ball and the radius is its inner one.
    """
    ratio = eps_l1 / eps_linf
    if ratio <= 1:
        return eps_linf
    if ratio >= dimension:
        return eps_l1 / math.sqrt(dimension)
    whole = math.floor(ratio)
    return eps_l1 / math.sqrt(whole + (ratio - whole) ** 2)


def require_plausible(
    threats: Iterable[Threat], input_shape: tuple[int, int, int] | None, *, key: str = "eps", way_on: str = "--force"
) -> None:
    """Raise RequestError for a radius that no study has meant, with the likely intention.

    An l_inf ball of more than half of the box reaches mid-grey from every image. An l_2 or l_1 ball as large as the
    box's own diameter, sqrt(d) or d for d pixels, holds every image from anywhere.

    Args:
        input_shape: (channels, height, width) of the images; None if it is not known, then l_inf alone is judged.
        key: the option or key that the radius was written under.
        way_on: the option that goes on nevertheless; empty if there is none.
    """
    for threat in threats:
        limit, what = _limit(threat.norm, math.prod(input_shape) if input_shape else None)
        if threat.eps > limit or (threat.norm != "linf" and threat.eps == limit):
            nevertheless = f" {way_on} goes on nevertheless" if way_on else ""
            raise RequestError(
                f"{key}: {threat} is {what} on the scale [0,1] of pixels.{_meant(threat, limit)}{nevertheless}"
            )


def unusual(threats: Iterable[Threat], input_shape: tuple[int, int, int], *, key: str = "eps") -> list[str]:
    """A line for each radius that ``require_plausible`` lets pass and that is still likely to be a slip of units.

    These are hints, as small and large radii are of use too (the curves of a paper, transfer with l2:0.01). An l_2 or
    l_1 ball of a tenth or a quarter of one value's range hardly moves anything; one of an eighth of the box's diameter
    or a sixteenth moves all values by more than 16 of their 255 levels.

    Args:
        input_shape: (channels, height, width) of the images.
        key: the option or key that the radius was written under.
    """
    dimension = math.prod(input_shape)
    return [line for threat in threats for line in _slips(threat, dimension, key)]


LEAST = {"linf": 0.25 / 255, "l2": 0.1, "l1": 0.25}
"""Smaller radii are unusual, whatever the size of the images."""


def _slips(threat: Threat, dimension: int, key: str) -> Iterator[str]:
    each = threat.eps / {"linf": 1, "l2": math.sqrt(dimension), "l1": dimension}[threat.norm]
    if threat.eps < LEAST[threat.norm]:
        if threat.norm == "linf":
            yield f"{key}: {threat} is less than a quarter of one of a pixel's 255 levels. Is it divided by 255 twice?"
        else:
            yield (
                f"{key}: {threat} moves one value of one pixel by {255 * threat.eps:.2g} of 255 levels and the others "
                f"by nothing, which is little for {threat.norm}. Did you mean linf:{threat.eps_text}?"
            )
    elif each > {"linf": 1, "l2": 1 / 8, "l1": 1 / 16}[threat.norm]:
        yield (
            f"{key}: {threat} moves every value by {255 * each:.0f} of 255 levels, which is much for {threat.norm}."
            f"{_meant(threat, math.inf)}"
        )


def _limit(norm: Norm, dimension: int | None) -> tuple[float, str]:
    if norm == "linf":
        return 0.5, "more than half of the box"
    if dimension is None:
        return math.inf, ""
    diameter = math.sqrt(dimension) if norm == "l2" else float(dimension)
    return diameter, f"not below the diameter of the whole box ({diameter:g})"


def _meant(threat: Threat, limit: float) -> str:
    """The same number of 255ths, if that would be a radius."""
    fits = "/" not in threat.eps_text and threat.eps >= 1 and threat.eps / 255 < limit
    return f" Did you mean {threat.norm}:{threat.eps_text}/255?" if fits else ""
