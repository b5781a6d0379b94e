"""The ``outer`` block of a recipe: the loss at the points that the attack found. No torch here."""

from typing import Annotated, Literal

from pydantic import Field

from robustctl.recipe.fields import Block, PositiveFinite, Share


class CrossEntropy(Block):
    """Cross-entropy on the adversarial points; ``label_smoothing`` is the share of a label that all classes get."""

    name: Literal["cross-entropy"]
    label_smoothing: Share = 0.0


class Trades(Block):
    """TRADES (Zhang et al. 2019): clean cross-entropy + ``beta`` KL(clean || adversarial).

    The attack maximises the KL. ``label_smoothing`` is the share of a label that all classes get, for the first term.
    """

    name: Literal["trades"]
    beta: PositiveFinite = 6.0
    label_smoothing: Share = 0.0


class TradesXent(Block):
    """TRADES's loss at points that maximise the cross-entropy (E-AT, section A: WRN-28-10)."""

    name: Literal["trades-xent"]
    beta: PositiveFinite = 6.0
    label_smoothing: Share = 0.0


class Mart(Block):
    """MART (Wang et al. 2020): boosted cross-entropy + ``beta`` KL, weighted by how unsure the clean prediction is.

    The attack maximises the cross-entropy.
    """

    name: Literal["mart"]
    beta: PositiveFinite = 6.0


class Score(Block):
    """SCORE (Pang et al. 2022): TRADES with squared distances between probabilities.

    The attack maximises the cross-entropy, where the authors' code climbs the squared distance.
    """

    name: Literal["score"]
    beta: PositiveFinite = 4.0
    label_smoothing: Share = 0.1


class Hat(Block):
    """HAT (Rade and Moosavi-Dezfooli, ICLR 2022): TRADES, and ``gamma`` times a helper's label farther out.

    At ``reach`` times the perturbation the network learns the label that ``helper`` gives to the adversarial point. The
    helper is a naturally trained network: an entry, a repo, a directory or a run, of the same images and classes. The
    attack maximises the KL of TRADES.
    """

    name: Literal["hat"]
    helper: Annotated[str, Field(min_length=1)]
    beta: PositiveFinite = 2.5
    gamma: PositiveFinite = 0.5
    reach: PositiveFinite = 2.0
    label_smoothing: Share = 0.0


Outer = Annotated[CrossEntropy | Trades | TradesXent | Mart | Score | Hat, Field(discriminator="name")]
