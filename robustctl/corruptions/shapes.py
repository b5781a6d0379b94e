"""The common parts of several corruptions: scaling by the image's size, zooming, blurring along a line, fractal
clouds."""

import math

import numpy as np

SIDE = 32
"""The side of the images that the published constants are for."""


def scaled(pixels: float, image: np.ndarray) -> float:
    """A length for images of 32 pixels, in pixels of this one."""
    return pixels * float(min(image.shape[:2])) / SIDE


def zoomed(image: np.ndarray, factor: float) -> np.ndarray:
    """The middle of an image (h, w, c), magnified to its size, linear between pixels."""
    from scipy.ndimage import map_coordinates

    rows, columns = ((np.arange(size) - (size - 1) / 2) / factor + (size - 1) / 2 for size in image.shape[:2])
    places = np.meshgrid(rows, columns, indexing="ij")
    layers = [map_coordinates(image[:, :, c], places, order=1, mode="nearest") for c in range(image.shape[2])]
    return np.stack(layers, axis=2)


def along_line(image: np.ndarray, radius: float, sigma: float, degrees: float) -> np.ndarray:
    """Blur (h, w, c) along a line to one side, with the weights of half a Gaussian."""
    from scipy.ndimage import shift

    steps = max(int(2 * radius + 1), 1)
    weights = np.exp(-0.5 * (np.arange(steps) / max(sigma, 1e-6)) ** 2)
    weights /= weights.sum()
    angle = math.radians(degrees)
    total = np.zeros_like(image)
    for step, weight in enumerate(weights):
        if weight > 1e-4:
            moved = (step * math.sin(angle), step * math.cos(angle), 0)
            total += weight * shift(image, moved, order=1, mode="nearest")
    return total


def clouds(height: int, width: int, decay: float, rng: np.random.Generator) -> np.ndarray:
    """A plasma fractal (h, w) in [0,1]: diamond and square, rougher with a smaller ``decay``."""
    field, wibble = np.zeros((1, 1)), 1.0
    while field.shape[0] < max(height, width):
        side = field.shape[0]
        squares, across, down = (wibble * rng.uniform(-1, 1, (side, side)) for _ in range(3))
        right, below = np.roll(field, -1, 1), np.roll(field, -1, 0)
        squares += (field + right + below + np.roll(right, -1, 0)) / 4
        across += (field + right + squares + np.roll(squares, 1, 0)) / 4
        down += (field + below + squares + np.roll(squares, 1, 1)) / 4
        finer = np.empty((2 * side, 2 * side))
        finer[::2, ::2], finer[::2, 1::2], finer[1::2, ::2], finer[1::2, 1::2] = field, across, down, squares
        field, wibble = finer, wibble / decay
    field = field - field.min()
    return np.asarray((field / max(field.max(), 1e-12))[:height, :width])
