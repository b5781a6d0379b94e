"""Digital: contrast, elastic deformation, large pixels, JPEG."""

import io

import numpy as np
from PIL import Image


def contrast(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Nearer to the mean of each colour."""
    mean = image.mean(axis=(0, 1), keepdims=True)
    return np.asarray((image - mean) * (0.75, 0.5, 0.4, 0.3, 0.15)[severity] + mean)


def elastic(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:
    """A random affine map, then a random smooth flow."""
    from scipy.ndimage import gaussian_filter, map_coordinates

    size, smooth, affine = (
        (0, 0, 0.08),
        (0.05, 0.2, 0.07),
        (0.08, 0.06, 0.06),
        (0.1, 0.04, 0.05),
        (0.1, 0.03, 0.03),
    )[severity]
    height, width = image.shape[:2]
    side = min(height, width)
    centre, third = np.array([width // 2, height // 2], float), side // 3
    corners = np.array([centre + third, centre + np.array([third, -third]), centre - third])
    moved = corners + rng.uniform(-affine * side, affine * side, (3, 2))
    # The map takes ``corners`` to ``moved``; resampling needs its inverse, from (x, y, 1) to (x, y).
    inverse = np.linalg.solve(np.column_stack([moved, np.ones(3)]), corners).T
    rows, columns = np.meshgrid(np.arange(height), np.arange(width), indexing="ij")
    flow = rng.uniform(-1, 1, (2, height, width))
    if size:
        flow = np.stack([gaussian_filter(one, smooth * side, mode="reflect", truncate=3) for one in flow])
    flow = flow * size * side
    at_columns, at_rows = columns + flow[0], rows + flow[1]
    places = inverse @ np.stack([at_columns.ravel(), at_rows.ravel(), np.ones(height * width)])
    layers = [
        map_coordinates(image[:, :, c], places[::-1], order=1, mode="mirror").reshape(height, width)
        for c in range(image.shape[2])
    ]
    return np.stack(layers, axis=2)


def pixelate(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Scaled down and up again by means over boxes."""
    share = (0.95, 0.9, 0.85, 0.75, 0.65)[severity]
    height, width = image.shape[:2]
    small = _picture(image).resize((max(int(width * share), 1), max(int(height * share), 1)), Image.Resampling.BOX)
    return _pixels(small.resize((width, height), Image.Resampling.BOX), image)


def jpeg(image: np.ndarray, severity: int, rng: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Stored as JPEG of low quality."""
    file = io.BytesIO()
    _picture(image).save(file, "JPEG", quality=(80, 65, 58, 50, 40)[severity])
    return _pixels(Image.open(file), image)


def _picture(image: np.ndarray) -> Image.Image:
    levels = np.rint(image * 255).astype(np.uint8)
    return Image.fromarray(levels[:, :, 0] if levels.shape[2] == 1 else levels)


def _pixels(picture: Image.Image, like: np.ndarray) -> np.ndarray:
    return np.asarray(picture, float).reshape(like.shape) / 255
