"""The common part of the HTML page's sections: the filling of templates, the colours of results, the size of charts."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment
    from markupsafe import Markup

COLOURS = (  # by result, readable on light and dark
    *("#3b6fb6", "#c8553d", "#3a8f6b", "#8a5fb0", "#b08a2e", "#4aa3b8"),
    *("#b0457f", "#74862a", "#8a6450", "#d07fc0", "#6e7b8a", "#5a64d8"),
)
GOLDEN_ANGLE = 137.508
"""Degrees of hue between two colours beyond those: no two come close for dozens of results."""

LONGEST = 24
"""Characters of a name in the tables; the whole one is shown when the pointer rests on it."""

LEFT, WIDTH = 112, 828  # of a chart, in its own units


def colour(i: int) -> str:
    """The colour of the i-th result; all are different."""
    if i < len(COLOURS):
        return COLOURS[i]
    turn = i - len(COLOURS)
    return f"hsl({GOLDEN_ANGLE * turn % 360:.1f} {60 - 15 * (turn % 2)}% {46 + 8 * (turn % 3)}%)"


def short_names(labels: Sequence[str]) -> list[str]:
    """The labels without what all of them begin with, cut in the middle where they are still long; no two are equal."""
    alike = 0
    if len(labels) > 1:
        alike = next((i for i, signs in enumerate(zip(*labels, strict=False)) if len(set(signs)) > 1), 0)
    shared = labels[0][: max(labels[0].rfind(sign, 0, alike) for sign in "-/ ") + 1]
    cut = [label.removeprefix(shared) or label for label in labels]
    short = [one if len(one) <= LONGEST else f"{one[:14]}…{one[-9:]}" for one in cut]
    return [one if short.count(one) == 1 else whole for one, whole in zip(short, cut, strict=True)]


def fill(template: str, **values: object) -> "Markup":
    """The text of a template in ``templates/`` with these values, every one escaped."""
    from markupsafe import Markup

    return Markup(_environment().get_template(template).render(values))


@cache
def _environment() -> "Environment":
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.globals.update(LEFT=LEFT, WIDTH=WIDTH, colour=colour)
    environment.filters["px"] = lambda position: f"{position:.1f}"
    return environment
