"""Per-example losses of logits (n, k) and labels (n,), shape (n,), no reduction. Attacks maximise them."""

import torch
from torch import Tensor
from torch.nn import functional as F


def ce(logits: Tensor, y: Tensor) -> Tensor:
    """Cross-entropy, >= 0."""
    return F.cross_entropy(logits, y, reduction="none")


def margin(logits: Tensor, y: Tensor) -> Tensor:
    """Largest wrong logit minus the right one; > 0 exactly where the prediction is wrong."""
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).amax(dim=1)
    return wrong - right
