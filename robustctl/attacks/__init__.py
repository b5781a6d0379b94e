"""Attacks. They propose images and judge nothing: no files, no printing, no verdicts.

One attack a file, called like the file. A file's ``ATTACK`` declares what the attack costs, which norms it can do and
how an evaluation runs it; that is all that makes it reachable, by its name in a protocol.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from robustctl import discovery
from robustctl.errors import RequestError
from robustctl.threats import NORMS, Norm, Threat

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from robustctl.oracle import Loss, Oracle


@dataclass(frozen=True)
class Settings:
    """A protocol's settings for one start of an attack; an attack ignores the settings that it has no use for.

    Attributes:
        steps: gradient steps, or queries of an attack without gradients, >= 1.
        loss: what to maximise.
        targets: how many of the most likely wrong classes to aim at; 0 is untargeted.
        generators: one per image, so that its random numbers do not depend on the batch.
    """

    steps: int
    loss: "Loss"
    targets: int
    generators: "list[torch.Generator]"


Run = Callable[["Oracle", "Tensor", "Tensor", Threat, Settings], "Tensor"]
"""From images x (n, c, h, w) in [0,1] and labels y (n,) to x_adv (n, c, h, w) inside ball and box in float64."""


@dataclass(frozen=True)
class Attack:
    """An attack's declaration in its own file, under the name ``ATTACK``.

    Attributes:
        run: how an evaluation runs it; None if it is for training only.
        cost: gradient evaluations per step; a forward pass counts as half of one.
        norms: the balls that it can stay in.
        exact: it runs in float32, whatever the precision of the evaluation.
    """

    run: Run | None
    cost: float
    norms: tuple[Norm, ...] = NORMS
    exact: bool = False

    def __post_init__(self) -> None:
        if self.cost <= 0 or not self.norms:
            raise ValueError("an attack costs something and has a norm")


def names() -> list[str]:
    """Every attack that has a file, sorted."""
    return discovery.names(__name__)


def declared(name: str) -> Attack:
    """The declaration of the attack called ``name``.

    Raises:
        RequestError: no such file, or one that declares nothing.
    """
    found = getattr(discovery.load(__name__, name, "attack"), "ATTACK", None)
    if not isinstance(found, Attack):
        raise RequestError(f"attack {name!r}: its file declares no ATTACK, so that nothing can run it")
    return found


def for_evaluation(name: str, norm: Norm) -> Run:
    """How an evaluation runs the attack called ``name`` in balls of ``norm``.

    Raises:
        RequestError: no such attack, one for training only, or one that cannot do this norm.
    """
    attack = declared(name)
    if attack.run is None:
        raise RequestError(f"attack {name!r} is for training only; an evaluation cannot run it")
    if norm not in attack.norms:
        raise RequestError(f"attack {name!r} cannot do {norm}; its norms are {', '.join(attack.norms)}")
    return attack.run
