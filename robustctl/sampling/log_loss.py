"""The log of a per-example loss, which the samplers climb; it is stable even if the loss is tiny."""

import torch
from torch import Tensor
from torch.nn import functional as F

from robustctl.errors import RequestError
from robustctl.oracle import Loss, Oracle
from robustctl.sampling.hmc import LogLossAndGrad

FLAT = -15.0  # below this, softplus(s) = e^s to float32's precision


def log_ce(logits: Tensor, y: Tensor) -> Tensor:
    """log of the cross-entropy of logits (n, k) and labels (n,), finite for every finite logit.

    The cross-entropy is softplus(s), s the log-sum-exp of the wrong logits minus the right one. Where it underflows,
    its log is s itself.
    """
    right = logits.gather(1, y[:, None]).squeeze(1)
    wrong = logits.scatter(1, y[:, None], -torch.inf).logsumexp(dim=1)
    s = wrong - right
    # Not clamp: at the bound itself its gradient is 1 or 0, depending on the version of torch.
    return torch.where(s < FLAT, s, F.softplus(torch.where(s < FLAT, FLAT, s)).log())


def log_of(loss: Loss) -> Loss:
    """The log of any loss that is never negative; a loss of 0 counts as the smallest normal number.

    Raises:
        RequestError: when called, if a value is negative: Z_q is a norm of the loss and has no meaning then.
    """

    def log_loss(logits: Tensor, y: Tensor) -> Tensor:
        values = loss(logits, y)
        if (values < 0).any():
            raise RequestError(
                f"the loss is negative ({values.min().item():.3g} on an image); intermediate-q needs a loss >= 0, "
                "such as the cross-entropy"
            )
        tiny = torch.finfo(values.dtype).tiny
        # No clamp here, see log_ce: so the gradient at the bound is the loss's own in every version of torch.
        return torch.where(values < tiny, tiny, values).log()

    return log_loss


def climb(oracle: Oracle, y: Tensor, log_loss: Loss = log_ce) -> LogLossAndGrad:
    """The log loss of the oracle's model and its gradient, for rows with labels ``y`` (r,)."""

    def log_loss_and_grad(z: Tensor) -> tuple[Tensor, Tensor]:
        _, value, grad = oracle.loss_and_grad(z, y, log_loss)
        return value, grad

    return log_loss_and_grad
