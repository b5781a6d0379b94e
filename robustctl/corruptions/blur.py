"""Blur: out of focus, frosted glass, motion, zoom."""

import numpy as np

from robustctl.corruptions.shapes import along_line, scaled, zoomed


def defocus(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """The mean over a disk whose edge is softened."""
    from scipy.ndimage import convolve, gaussian_filter

    radius, soft = ((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1))[severity]
    radius = scaled(radius, image)
    reach = max(int(np.ceil(radius)), 1) + 1
    places = np.arange(-reach, reach + 1)
    disk = (places[:, None] ** 2 + places**2 <= radius**2).astype(float)
    disk = gaussian_filter(disk / disk.sum(), sigma=soft)
    return np.asarray(convolve(image, disk[:, :, None], mode="mirror"))


def glass(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Pixels take the value of a near one, between two slight blurs.

    The published code means to swap pixels, but copies: so do we, since its images are what results are compared on.
    """
    from scipy.ndimage import gaussian_filter

    sigma, reach, rounds = ((0.05, 1, 1), (0.25, 1, 1), (0.4, 1, 1), (0.25, 1, 2), (0.4, 1, 2))[severity]
    sigma, reach = scaled(sigma, image), max(round(scaled(reach, image)), 1)
    blurred = np.floor(gaussian_filter(image, (sigma, sigma, 0)) * 255) / 255
    height, width = image.shape[:2]
    for _ in range(rounds):
        moves = rng.integers(-reach, reach, size=(height, width, 2))
        for row in range(height - reach, reach, -1):
            for column in range(width - reach, reach, -1):
                right, down = moves[row - 1, column - 1]
                blurred[row % height, column % width] = blurred[(row + down) % height, (column + right) % width]
    return np.asarray(gaussian_filter(blurred, (sigma, sigma, 0)))


def motion(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """The camera moves along a line, up to 45 degrees from the horizontal."""
    radius, sigma = ((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5))[severity]
    return along_line(image, scaled(radius, image), scaled(sigma, image), rng.uniform(-45, 45))


def zoom(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """The mean of the image and ever larger ones."""
    last = (1.06, 1.11, 1.16, 1.21, 1.26)[severity]
    factors = np.arange(1, last, 0.01)
    total = image + sum((zoomed(image, factor) for factor in factors), np.zeros_like(image))
    return np.asarray(total / (len(factors) + 1))
