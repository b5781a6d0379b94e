"""The 15 common corruptions of ImageNet-C and CIFAR-10-C (Hendrycks and Dietterich, arXiv:1903.12261).

They are made from clean images with the constants of CIFAR-10-C, or read from the published files. Lengths in pixels
hold for images of 32x32 pixels, and grow with the image.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from robustctl.corruptions import blur, digital, noise, weather
from robustctl.discovery import unknown

SEVERITIES = 5
Image = np.ndarray
"""(h, w, c), float64 in [0,1]."""
Make = Callable[[Image, int, np.random.Generator], Image]
"""From an image, a severity 0..4 and random numbers to pixels, which may leave [0,1] before they are cut."""

MAKERS: dict[str, Make] = {
    "gaussian-noise": noise.gaussian,
    "shot-noise": noise.shot,
    "impulse-noise": noise.impulse,
    "defocus-blur": blur.defocus,
    "glass-blur": blur.glass,
    "motion-blur": blur.motion,
    "zoom-blur": blur.zoom,
    "snow": weather.snow,
    "frost": weather.frost,
    "fog": weather.fog,
    "brightness": weather.brightness,
    "contrast": digital.contrast,
    "elastic-transform": digital.elastic,
    "pixelate": digital.pixelate,
    "jpeg-compression": digital.jpeg,
}
NAMES = tuple(MAKERS)


def require(name: str) -> None:
    """Raise RequestError unless ``name`` is one of ``NAMES``."""
    if name not in MAKERS:
        raise unknown("corruption", name, NAMES)


def files() -> list[Path]:
    """The source files that make the images."""
    return sorted(Path(__file__).parent.glob("*.py"))


def corrupt(image: Image, name: str, severity: int, seed: int, index: int) -> np.ndarray:
    """One corrupted image as uint8 (h, w, c), the same whenever it is made again.

    Args:
        image: (h, w, c) in [0,1]. severity: 1 to 5. index: of the image in its split; it and the seed fix the noise.
    """
    digest = hashlib.blake2b(f"{seed}/{index}/corruption {name}/{severity}".encode(), digest_size=8).digest()
    rng = np.random.default_rng(int.from_bytes(digest))
    made = MAKERS[name](image.astype(np.float64), severity - 1, rng)
    # The published files cut the fraction off. A rounding error below a whole step must not cost that step.
    return (np.clip(made, 0, 1) * 255 + 1e-6).astype(np.uint8)
