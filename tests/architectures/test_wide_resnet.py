import subprocess
import sys

import pytest
import torch

from robustctl.architectures.wide_resnet import build
from robustctl.errors import RequestError


@pytest.mark.parametrize(
    ("depth", "width", "parameters"),
    [(10, 1, 77_850), (28, 10, 36_479_194), (34, 10, 46_160_474), (70, 16, 266_796_506)],
)
def test_number_of_parameters_is_the_published_one(depth: int, width: int, parameters: int) -> None:
    with torch.device("meta"):
        net = build(10, (3, 32, 32), depth, width)
    assert sum(parameter.numel() for parameter in net.parameters()) == parameters


def test_it_takes_any_size_that_survives_two_halvings() -> None:
    net = build(7, (1, 28, 28), depth=10, width=1).eval()
    assert net(torch.rand(2, 1, 28, 28)).shape == (2, 7)


def test_names_are_those_of_robustbench() -> None:
    names = set(build(10, (3, 32, 32), depth=10, width=1).state_dict())
    expected = {
        "conv1.weight",
        "block1.layer.0.bn1.running_mean",
        "block1.layer.0.conv2.weight",
        "block2.layer.0.convShortcut.weight",
        "bn1.weight",
        "fc.bias",
    }
    assert expected <= names
    assert "block1.layer.0.convShortcut.weight" not in names


def test_the_unused_copy_of_the_first_stage_adds_tensors_but_no_computation() -> None:
    plain, with_copy = (build(10, (3, 32, 32), depth=10, width=1, sub_block1=flag).eval() for flag in (False, True))
    extra = {name for name in with_copy.state_dict() if name.startswith("sub_block1.")}
    assert set(with_copy.state_dict()) - extra == set(plain.state_dict())
    with_copy.load_state_dict(plain.state_dict(), strict=False)
    x = torch.rand(2, 3, 32, 32)
    assert torch.equal(with_copy(x), plain(x))


@pytest.mark.parametrize("depth", [4, 9, 11, 29])
def test_a_depth_that_does_not_divide_is_refused(depth: int) -> None:
    with pytest.raises(RequestError, match=f"depth {depth}"):
        build(10, (3, 32, 32), depth=depth, width=1)


def test_block_agrees_with_the_formula_of_the_paper() -> None:
    net = build(10, (3, 32, 32), depth=10, width=1).eval()
    block = net.block2.layer[0]
    x = torch.randn(2, 16, 8, 8)
    activated = torch.relu(block.bn1(x))
    expected = block.convShortcut(activated) + block.conv2(torch.relu(block.bn2(block.conv1(activated))))
    torch.testing.assert_close(block(x), expected)


def test_an_empty_copy_needs_no_compiler() -> None:
    """It is made before any weights are loaded; torch's compiler takes longer to import than all else."""
    code = (
        "import sys, torch; from robustctl.architectures.wide_resnet import build\n"
        "with torch.device('meta'): build(10, (3, 32, 32), 10, 1)\n"
        "assert 'torch._dynamo' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
