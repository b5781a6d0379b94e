"""The small convolutional network of Wong and Kolter (arXiv:1711.00851), also used by "Fast is better than free"."""

from torch import nn


def build(n_classes: int, input_shape: tuple[int, int, int], width: int = 16, hidden: int = 100) -> nn.Module:
    """Two stride-2 convolutions and two linear layers; parameters are named ``0.weight`` ... ``7.bias``.

    Args:
        n_classes: number of logits.
        input_shape: (channels, height, width); height and width divisible by 4.
        width: filters of the first convolution (the second has twice as many).
        hidden: units of the hidden linear layer.
    """
    channels, height, image_width = input_shape
    flat = 2 * width * (height // 4) * (image_width // 4)
    return nn.Sequential(
        nn.Conv2d(channels, width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(width, 2 * width, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(flat, hidden),
        nn.ReLU(),
        nn.Linear(hidden, n_classes),
    )
