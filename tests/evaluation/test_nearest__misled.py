"""A network whose gradients at the image lead away from its nearest boundary; the distances are known."""

import pytest
import torch
from torch import Tensor, nn

import robustctl

HIDDEN, SHOWN, DEAD, SLOPE, DECOY = 8, 8, 0.01, 10.0, 0.4


class Misleading(nn.Module):
    """The margin rises steeply with the sum of the first pixels, but only beyond a dead zone around grey.

    Inside it the gradient is that of the other pixels, whose boundary is several times as far. Noise leaves it at 99 of
    100 images.
    """

    def __init__(self) -> None:
        super().__init__()
        self.slope = nn.Parameter(torch.tensor(SLOPE))

    def forward(self, x: Tensor) -> Tensor:
        grey = x.flatten(1) - 0.5
        hidden = (grey[:, :HIDDEN].sum(1).abs() - DEAD).relu()
        margin = self.slope * hidden + DECOY * grey[:, HIDDEN:].sum(1) - 1
        return torch.stack([torch.zeros_like(margin), margin], dim=1)


def nearest() -> dict[str, float]:
    """Distances from the grey image: along the first pixels, with what the others help.

    With the slopes a and b of both groups and what is wanted, 1 + a DEAD, the least norm is by duality what is wanted
    divided by the dual norm of the gradient.
    """
    wanted = 1 + SLOPE * DEAD
    return {
        "linf": wanted / (HIDDEN * SLOPE + SHOWN * DECOY),
        "l2": wanted / (HIDDEN * SLOPE**2 + SHOWN * DECOY**2) ** 0.5,
        "l1": wanted / SLOPE,
    }


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
def test_a_curve_finds_the_near_boundary_that_gradients_at_the_image_hide(norm: str) -> None:
    grey = torch.full((1, 4, 4), 0.5)
    found = robustctl.evaluate_curve(
        Misleading().eval(), data=[(grey, 0)] * 3, norms=norm, eps=f"{norm}:{nearest()[norm]}", up_to=20
    )
    for one in found.norms[norm].distance:  # type: ignore[index]
        assert one is not None and nearest()[norm] * (1 - 1e-4) <= one <= 1.03 * nearest()[norm]
