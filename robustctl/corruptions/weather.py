"""Weather: snow, frost, fog, bright light."""

import numpy as np

from robustctl.corruptions.shapes import along_line, clouds, scaled, zoomed


def snow(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Flakes that are blurred by their fall, over a greyer and brighter image."""
    mean, spread, zoom, least, radius, sigma, kept = (
        (0.1, 0.2, 1, 0.6, 8, 3, 0.95),
        (0.1, 0.2, 1, 0.5, 10, 4, 0.9),
        (0.15, 0.3, 1.75, 0.55, 10, 4, 0.9),
        (0.25, 0.3, 2.25, 0.6, 12, 6, 0.85),
        (0.3, 0.3, 1.25, 0.65, 14, 12, 0.8),
    )[severity]
    flakes = zoomed(rng.normal(mean, spread, (*image.shape[:2], 1)), zoom)
    flakes = np.clip(np.where(flakes < least, 0, flakes), 0, 1)
    flakes = along_line(flakes, scaled(radius, image), scaled(sigma, image), rng.uniform(-135, -45))
    weights = np.array([0.299, 0.587, 0.114]) if image.shape[2] == 3 else np.ones(image.shape[2]) / image.shape[2]
    grey = (image * weights).sum(axis=2, keepdims=True)
    whitened = kept * image + (1 - kept) * np.maximum(image, grey * 1.5 + 0.5)
    return np.asarray(whitened + flakes + flakes[::-1, ::-1])


def frost(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """Ice over the image. The published images use photographs of ice; this is a fractal of their brightness."""
    kept, ice = ((1, 0.2), (1, 0.3), (0.9, 0.4), (0.85, 0.4), (0.75, 0.45))[severity]
    texture = clouds(image.shape[0], image.shape[1], 1.4, rng)
    tint = np.array([0.85, 0.95, 1.0]) if image.shape[2] == 3 else np.ones(image.shape[2])
    return np.asarray(kept * image + ice * np.abs(2 * texture - 1)[:, :, None] ** 0.5 * tint)


def fog(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A fractal cloud; the brightest pixel keeps its brightness."""
    density, decay = ((0.2, 3), (0.5, 3), (0.75, 2.5), (1, 2), (1.5, 1.75))[severity]
    brightest = image.max()
    cloud = clouds(image.shape[0], image.shape[1], decay, rng)[:, :, None]
    return np.asarray((image + density * cloud) * brightest / (brightest + density))


def brightness(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """A higher value of hue, saturation and value."""
    value = image.max(axis=2, keepdims=True)
    brighter = np.clip(value + (0.05, 0.1, 0.15, 0.2, 0.3)[severity], 0, 1)
    return np.asarray(np.where(value > 0, image * brighter / np.maximum(value, 1e-12), brighter))
