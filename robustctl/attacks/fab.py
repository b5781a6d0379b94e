"""Targeted FAB (Croce and Hein, arXiv:1907.02044): the least perturbation to each target class, by ``pyautoattack``.

It runs on the float32 model: it steps onto linearised decision boundaries, which low precision would blur.
"""

import torch
from pyautoattack.fab_pt import FABAttack_PT
from torch import Tensor

from robustctl import geometry, losses
from robustctl.attacks import Attack, Settings
from robustctl.devices import kept_random
from robustctl.oracle import Oracle
from robustctl.threats import Threat

PEER_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


class _Fab(FABAttack_PT):  # type: ignore[misc]
    """The package's attack with every pass through the oracle, which counts, times and computes in true float32."""

    def __init__(self, oracle: Oracle, **settings: object) -> None:
        super().__init__(oracle.exact, **settings)
        self.oracle = oracle

    def get_diff_logits_grads_batch_targeted(
        self, imgs: Tensor, la: Tensor, la_target: Tensor
    ) -> tuple[Tensor, Tensor]:
        def margin(logits: Tensor, y: Tensor) -> Tensor:
            return losses.margin_targeted(logits, y, la_target)

        _, values, grad = self.oracle.loss_and_grad(imgs, la, margin, exact=True)
        return values[:, None], grad[:, None]


def fab(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, *, steps: int, targets: int) -> Tensor:
    """Run FAB towards the ``targets`` most likely wrong classes, from the images themselves (nothing is random).

    Args:
        x: images (n, c, h, w) in [0,1]. y: labels (n,).
        targets: at most n_classes - 1 are used.

    Returns:
        x_adv (n, c, h, w) inside ball and box in float64; the image itself if FAB found nothing within eps.
    """
    n_classes = oracle.exact(x[:1]).shape[1]
    peer = _Fab(oracle, n_restarts=1, n_iter=steps, eps=threat.eps, norm=PEER_NORM[threat.norm], device=x.device)
    peer.targeted, peer.n_target_classes = True, min(targets, n_classes - 1)
    with kept_random(x.device):  # the package seeds the global generators
        x_adv: Tensor = peer.perturb(x, y)
    found = geometry.norm(x_adv - x, threat.norm) <= threat.eps * (1 + 1e-4)
    x_adv = torch.where(found.view(-1, 1, 1, 1), x_adv.detach(), x)
    return geometry.shrink_inside(x_adv, x, threat.norm, threat.eps)


def _run(oracle: Oracle, x: Tensor, y: Tensor, threat: Threat, settings: Settings) -> Tensor:
    return fab(oracle, x, y, threat, steps=settings.steps, targets=settings.targets)


ATTACK = Attack(_run, cost=1.5, exact=True)  # a step takes a gradient and a forward pass
