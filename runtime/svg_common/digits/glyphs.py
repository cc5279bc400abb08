"""Handwriting-like digits drawn from jittered strokes, each in a shape of its own."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

# Skeletons in a unit box, x to the right and y down: per digit a list of strokes, per stroke its control points.
# A stroke is smoothed through its points (Catmull-Rom); a point given twice makes a corner.
STROKES: dict[int, tuple[tuple[tuple[float, float], ...], ...]] = {
    0: (((0.5, 0.0), (0.2, 0.15), (0.1, 0.5), (0.2, 0.85), (0.5, 1.0), (0.8, 0.85), (0.9, 0.5), (0.8, 0.15), (0.5, 0.0)),),
    1: (((0.3, 0.22), (0.55, 0.0), (0.55, 0.0), (0.55, 0.5), (0.55, 1.0)),),
    2: (((0.15, 0.25), (0.3, 0.03), (0.65, 0.02), (0.82, 0.28), (0.55, 0.6), (0.12, 1.0), (0.12, 1.0), (0.9, 1.0)),),
    3: (
        ((0.15, 0.12), (0.5, 0.0), (0.8, 0.2), (0.65, 0.43), (0.38, 0.48)),
        ((0.38, 0.48), (0.72, 0.54), (0.85, 0.77), (0.55, 1.0), (0.12, 0.88)),
    ),
    4: (((0.62, 0.0), (0.35, 0.35), (0.08, 0.66), (0.08, 0.66), (0.95, 0.66)), ((0.66, 0.35), (0.66, 0.7), (0.66, 1.0))),
    5: (
        (
            (0.85, 0.0), (0.25, 0.0), (0.25, 0.0), (0.2, 0.45), (0.2, 0.45),
            (0.55, 0.38), (0.85, 0.65), (0.6, 0.98), (0.12, 0.92),
        ),
    ),
    6: (((0.7, 0.0), (0.35, 0.25), (0.15, 0.65), (0.3, 0.97), (0.65, 0.98), (0.82, 0.72), (0.55, 0.5), (0.2, 0.68)),),
    7: (((0.1, 0.02), (0.88, 0.02), (0.88, 0.02), (0.6, 0.5), (0.38, 1.0)),),
    8: (
        (
            (0.5, 0.47), (0.22, 0.28), (0.35, 0.02), (0.68, 0.03), (0.78, 0.27), (0.5, 0.47),
            (0.2, 0.7), (0.3, 0.98), (0.7, 0.98), (0.82, 0.72), (0.5, 0.47),
        ),
    ),
    9: (((0.82, 0.3), (0.55, 0.5), (0.2, 0.35), (0.32, 0.03), (0.7, 0.02), (0.84, 0.25), (0.78, 0.65), (0.6, 1.0)),),
}  # fmt: skip

JITTER = 0.035  # standard deviation of a control point, as a share of the digit's height
POINTS_PER_SEGMENT = 4
EDGE_PX = 1.5  # soft edges, like those of scanned digits enlarged to 32 pixels


def draw_digit(rng: np.random.Generator, digit: int, size: int = 32, edge_px: float = EDGE_PX) -> FloatArray:
    """Draw one digit in a random hand: jittered strokes, slant, rotation, proportions, thickness.

    Args:
        rng: source of the shape. The same generator state gives the same image on every machine.
        digit: 0 to 9.
        size: side of the square image in pixels.
        edge_px: width of the soft edge of a stroke in pixels.

    Returns:
        (size, size) float32 in [0, 1], white on black.
    """
    height = size * rng.uniform(0.66, 0.80)
    width = height * rng.uniform(0.55, 0.80)
    thickness = size * rng.uniform(0.085, 0.140)
    transform = _random_transform(rng, width, height)
    y, x = (axis.ravel() for axis in np.mgrid[:size, :size].astype(np.float32) + np.float32(0.5))
    distance = np.full(size * size, np.inf, np.float32)
    for stroke in STROKES[digit]:
        points = np.asarray(stroke) + rng.normal(0.0, JITTER, (len(stroke), 2))
        line = (_smooth(points) - 0.5) @ transform.T + size / 2
        distance = np.minimum(distance, _distance_to_polyline(x, y, line))
    ink = np.clip((thickness / 2 - distance) / edge_px + 0.5, 0.0, 1.0)
    image: FloatArray = ink.reshape(size, size).astype(np.float32)
    return image


def _random_transform(rng: np.random.Generator, width: float, height: float) -> FloatArray:
    """2x2 map from the unit box to pixels: scale, then slant, then rotate."""
    slant, angle = rng.normal(0.12, 0.18), rng.normal(0.0, 0.10)
    shear = np.array([[1.0, -slant], [0.0, 1.0]])
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    transform: FloatArray = (rotation @ shear @ np.diag([width, height])).astype(np.float32)
    return transform


def _smooth(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Catmull-Rom curve through `points` (n, 2), ends included."""
    padded = np.concatenate([points[:1], points, points[-1:]])
    before, start, end, after = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0.0, 1.0, POINTS_PER_SEGMENT, endpoint=False)[:, None, None]
    curve = 0.5 * (
        2 * start
        + (end - before) * t
        + (2 * before - 5 * start + 4 * end - after) * t**2
        + (3 * start - before - 3 * end + after) * t**3
    )
    return np.concatenate([curve.transpose(1, 0, 2).reshape(-1, 2), points[-1:]])


def _distance_to_polyline(x: FloatArray, y: FloatArray, line: NDArray[np.float64]) -> FloatArray:
    """Distance in pixels from each pixel centre (`x`, `y`: (p,)) to the nearest segment of `line` (n, 2)."""
    start = line[:-1].astype(np.float32)[:, :, None]
    along = np.diff(line, axis=0).astype(np.float32)[:, :, None]
    dx, dy = x - start[:, 0], y - start[:, 1]
    length2 = np.maximum(along[:, 0] ** 2 + along[:, 1] ** 2, np.float32(1e-6))
    position = np.clip((dx * along[:, 0] + dy * along[:, 1]) / length2, 0, 1)
    dx -= position * along[:, 0]
    dy -= position * along[:, 1]
    distance: FloatArray = np.sqrt((dx * dx + dy * dy).min(0))
    return distance
