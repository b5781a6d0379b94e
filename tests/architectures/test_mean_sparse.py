"""The step of MeanSparse, and where it stands in a Swin."""

import copy

import pytest
import torch
from torch import Tensor

from robustctl.architectures import mean_sparse
from robustctl.architectures.mean_sparse import MeanSparse, build
from robustctl.errors import RequestError


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (2, 4, 5, 3), (2, 7, 3)])
def test_features_within_the_threshold_of_their_channels_mean_become_the_mean(shape: tuple[int, ...]) -> None:
    step, x = MeanSparse(3).double(), torch.randn(shape, dtype=torch.float64)
    step.running_mean += torch.tensor([-0.5, 0.0, 0.5])
    step.running_var += torch.tensor([1.0, 4.0, 0.25])
    step.threshold.fill_(0.5)
    rows = x if shape[1] != 3 else x.permute(0, 2, 3, 1)
    mean, width = torch.tensor([-0.5, 0.0, 0.5]).double(), torch.tensor([0.5, 1.0, 0.25]).double()
    expected = torch.where((rows - mean).abs() < width, mean.expand_as(rows), rows)
    found = step(x) if shape[1] != 3 else step(x).permute(0, 2, 3, 1)
    assert torch.equal(found, expected) and not torch.equal(found, rows)


def test_a_threshold_of_zero_leaves_a_swin_as_it_was_and_another_changes_it() -> None:
    timm = pytest.importorskip("timm", reason="the package timm is not installed")
    torch.manual_seed(0)
    net = timm.create_model("swin_tiny_patch4_window7_224", img_size=56, embed_dim=12, depths=(1, 1), num_heads=(2, 2))
    x = torch.rand(2, 3, 56, 56)
    with torch.no_grad():
        plain: Tensor = net.eval()(x)
        sparse = copy.deepcopy(mean_sparse._swin(net))
        torch.testing.assert_close(sparse(x), plain)
        steps = [part for part in sparse.modules() if isinstance(part, MeanSparse)]
        assert len(steps) == 4 * 2, "four a block"
        for step in steps:
            step.running_var += 1
            step.threshold.fill_(0.2)
            assert not torch.allclose(sparse(x), plain), "each of them is met"
            step.threshold.fill_(0.0)


def test_other_networks_are_refused() -> None:
    with pytest.raises(RequestError, match="none of convnext_large"):
        build(10, (3, 224, 224), model="resnet50")
