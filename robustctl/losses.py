"""Per-example losses of logits (n, k) and labels (n,), shape (n,), no reduction. Attacks maximise them."""

import torch
from torch import Tensor
from torch.nn import functional as F

DLR_CLASSES = 4
"""The targeted DLR loss needs the fourth largest logit; with fewer classes the margin replaces both DLR losses."""
TINY = 1e-12


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, >= 0."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """The largest wrong logit minus the right one; it is > 0 exactly if the prediction is wrong."""
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return wrong - right


def probability_margin(logits: Tensor, y: Tensor) -> Tensor:
    """Log odds of the probability margin m = p_wrong - p_right (PMA, arXiv:2411.15210): log((1 + m) / (1 - m)).

    It rises with m and its gradient has m's direction, so that an attack with normalised steps takes the same steps.
    Unlike m it does not round to -1 if the model is sure: with logits z, it is log(sum of e^z over the wrong classes,
    the likeliest one twice) - log(the same for the other classes, the right one twice), in which the softmax's
    denominator cancels.
    """
    right = logits.gather(1, y[:, None])
    wrong = logits.scatter(1, y[:, None], -torch.inf)
    likeliest, index = wrong.max(dim=1, keepdim=True)
    others = logits.scatter(1, index, -torch.inf)
    return torch.cat([wrong, likeliest], 1).logsumexp(1) - torch.cat([others, right], 1).logsumexp(1)


def margin_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Logit of ``target`` (n,) minus the right one."""
    return (logits.gather(1, target[:, None]) - logits.gather(1, y[:, None])).squeeze(1)


def dlr(logits: Tensor, y: Tensor) -> Tensor:
    """Difference of logits ratio (arXiv:2003.01690, Eq. 6); the margin below four classes."""
    if logits.shape[1] < DLR_CLASSES:
        return margin(logits, y)
    top = logits.topk(3, dim=1).values
    return margin(logits, y) / (top[:, 0] - top[:, 2] + TINY)


def dlr_targeted(logits: Tensor, y: Tensor, target: Tensor) -> Tensor:
    """Targeted DLR (arXiv:2003.01690, Eq. 7); the targeted margin below four classes."""
    if logits.shape[1] < DLR_CLASSES:
        return margin_targeted(logits, y, target)
    top = logits.topk(4, dim=1).values
    return margin_targeted(logits, y, target) / (top[:, 0] - (top[:, 2] + top[:, 3]) / 2 + TINY)
