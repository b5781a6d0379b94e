"""RAMP (Jiang and Singh, arXiv:2402.06827): the worse of two norms, with logit pairing between them (equations 1 to 3).

q is the norm whose robustness is to be kept, r the other norm of the key tradeoff pair. Gradient projection with
natural training, RAMP's other half, is the recipe's ``projection`` block and composes with any method.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveInt

from robustctl.recipe.fields import NonNegativeFinite
from robustctl.recipe.method import MethodConfig
from robustctl.threats import Norm, Threat
from robustctl.training.methods import Probe, TrainingMethod

if TYPE_CHECKING:
    from torch import Tensor

    from robustctl.processes import World
    from robustctl.training.step import Step


class Config(MethodConfig):
    """The ``method`` block.

    Attributes:
        pair: ``[q, r]``; or ``start``, the two norms of ``train.threats``; or ``auto``: each of three norms of
            ``train.threats`` is trained on alone for ``auto_steps`` steps from the same start, and the two whose own
            robust accuracy on the selection split is lowest are the pair (section 4). With ``start`` and ``auto``, q
            is the norm that the start was trained for, if it is one of them, else l_inf, else l_2 (Table 5).
        weight: lambda of equation 3; 0.5 in the paper's fine-tuning, 2 or 5 from scratch.
        pairing: ``kl`` (equation 1), ``mse`` (17) or ``cosine`` (18), all on probabilities.
    """

    name: Literal["ramp"]
    pair: tuple[Norm, Norm] | Literal["start", "auto"]
    weight: NonNegativeFinite
    pairing: Literal["kl", "mse", "cosine"] = "kl"
    auto_steps: PositiveInt = 100

    def faults(self, norms: frozenset[Norm]) -> list[str]:
        if self.pair == "auto":
            few = len(norms) < 3
            return ["train.threats: method ramp with pair auto needs linf, l2 and l1 to choose from"] if few else []
        if self.pair == "start":
            two = len(norms) == 2
            return [] if two else ["train.threats: method ramp with pair start needs two norms"]
        if self.pair[0] == self.pair[1]:
            return ["method.pair: give two different norms"]
        if norms != frozenset(self.pair):
            return [f"train.threats: must be the two norms of method.pair, {', '.join(self.pair)}"]
        return []


class Method(TrainingMethod):
    def __init__(self, config: Config, threats: tuple[Threat, ...]) -> None:
        self.config = config
        self.threats = {threat.norm: threat for threat in threats}
        self.pair: tuple[Norm, Norm] | None = None if isinstance(config.pair, str) else config.pair

    def prepare(self, probe: Probe, start_norm: Norm | None) -> dict[str, Any]:
        """Find the pair if the recipe leaves it open."""
        if self.pair is not None:
            return {}
        if self.config.pair == "start":
            self.pair = ordered(list(self.threats), start_norm)
            return {"pair": list(self.pair)}
        own = {norm: probe(threat, self.config.auto_steps) for norm, threat in self.threats.items()}
        self.pair = key_pair(own, start_norm)
        return {"own_robust_accuracy": own, "pair": list(self.pair)}

    def loss(self, step: Step) -> Tensor:
        assert self.pair is not None, "the loop prepares a method before its first step"
        q, r = (self.threats[norm] for norm in self.pair)
        x_q, logits_q = self._points(step, q)
        x_r, logits_r = self._points(step, r)
        loss_q, loss_r = step.outer(logits_q, x_q), step.outer(logits_r, x_r)
        step.record_share(q.norm, loss_q >= loss_r)
        step.record_share(r.norm, loss_q < loss_r)
        kept = logits_q.detach().argmax(1) == step.labels
        pairing = step.mean(pair_losses(self.config.pairing, logits_q, logits_r), kept)
        step.record("pairing", pairing)
        return step.mean(loss_q.maximum(loss_r)) + self.config.weight * pairing

    def _points(self, step: Step, threat: Threat) -> tuple[Tensor, Tensor]:
        """Adversarial points in a norm and their logits."""
        x_adv = step.attack(threat)
        logits = step.logits(x_adv)
        step.record_error(threat.norm, logits)
        return x_adv, logits

    def state(self) -> dict[str, Any]:
        return {"pair": list(self.pair) if self.pair else None}

    def load_state(self, state: dict[str, Any], world: World) -> None:
        self.pair = tuple(state["pair"]) if state["pair"] else None


def key_pair(own: dict[Norm, float], start_norm: Norm | None) -> tuple[Norm, Norm]:
    """(q, r) from each norm's own robust accuracy and the norm that the start was trained for."""
    return ordered(sorted(own, key=lambda norm: own[norm])[:2], start_norm)


def ordered(norms: Sequence[Norm], start_norm: Norm | None) -> tuple[Norm, Norm]:
    """(q, r) of two norms: q is the norm that the start was trained for, else l_inf, else l_2."""
    preferred: tuple[Norm | None, ...] = (start_norm, "linf", "l2")
    q = next(norm for norm in preferred if norm in norms)
    assert q is not None
    return q, next(norm for norm in norms if norm != q)


def pair_losses(pairing: str, logits_q: Tensor, logits_r: Tensor) -> Tensor:
    """How far the prediction at r is from that at q, (n,)."""
    from robustctl.training.step import kl

    if pairing == "kl":
        return kl(logits_q, logits_r)
    p_q, p_r = logits_q.softmax(1), logits_r.softmax(1)
    if pairing == "mse":
        return (p_q - p_r).square().sum(1) / 2
    cosine: Tensor = (p_q * p_r).sum(1) / (p_q.square().sum(1) * p_r.square().sum(1)).sqrt()
    return 1 - cosine
