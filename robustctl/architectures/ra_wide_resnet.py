"""The wide residual network of Robust Principles for small images (Peng et al., arXiv:2308.16258).

It is a ``dm-wide-resnet`` whose stages have depths and widths of their own, with squeeze-and-excitation and SiLU.
"""

from torch import nn

from robustctl.architectures.dm_wide_resnet import DMWideResNet, Layer
from robustctl.errors import RequestError

STAGES = 3


def build(
    n_classes: int,
    input_shape: tuple[int, int, int],
    stem: int = 96,
    depths: str = "30-31-10",
    widths: str = "216-432-864",
    squeeze: float = 0.25,
) -> nn.Module:
    """Build it with random weights, by default the published Ra-WRN-70-16.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); the published one is for 32x32.
        stem: channels of the stem. depths, widths: blocks and channels of the three stages.
        squeeze: share of its channels that a squeeze-and-excitation keeps.

    Raises:
        RequestError: depths or widths are not three whole numbers.
    """
    return checked(n_classes, input_shape, stem, depths, widths, squeeze, nn.Identity)


def checked(
    n_classes: int,
    input_shape: tuple[int, int, int],
    stem: int,
    depths: str,
    widths: str,
    squeeze: float,
    sparse: Layer,
) -> DMWideResNet:
    """Build as ``build`` does, with a layer before each activation; raises as ``build`` does."""
    name = "ra-wide-resnet"
    blocks, planes = numbers(name, "depths", depths, STAGES), numbers(name, "widths", widths, STAGES)
    return DMWideResNet(n_classes, input_shape[0], stem, blocks, planes, nn.SiLU, sparse, squeeze)


def numbers(architecture: str, key: str, text: str, n: int) -> list[int]:
    """The whole numbers of ``30-31-10``; RequestError unless there are ``n``, from 1 to 100,000 each."""
    parts = str(text).split("-")
    if len(parts) != n or not all(part.isascii() and part.isdecimal() and 0 < int(part) <= 100_000 for part in parts):
        raise RequestError(f"{architecture}: {key} {text!r} is not {n} whole numbers, written as in 30-31-10")
    return [int(part) for part in parts]
