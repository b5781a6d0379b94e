"""Noise: of the sensor, of few photons, of defect pixels."""

import numpy as np


def gaussian(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian noise."""
    return image + rng.normal(0, (0.04, 0.06, 0.08, 0.09, 0.10)[severity], image.shape)


def shot(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Poisson noise, as of few photons."""
    photons = (500, 250, 100, 75, 50)[severity]
    return rng.poisson(image * photons) / photons


def impulse(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Values that become 0 or 1, each of the colours by itself."""
    amount = (0.01, 0.02, 0.03, 0.05, 0.07)[severity]
    hit, white = rng.random(image.shape) < amount, rng.random(image.shape) < 0.5
    return np.where(hit, white.astype(float), image)
