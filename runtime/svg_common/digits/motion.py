"""The motion of Stochastic Moving MNIST: straight flight, and a new random direction at each wall.

The rule is that of Denton and Fergus (ICML 2018) as their generator draws it: a digit that left the picture is put back at
the wall and takes a new integer velocity, away from the wall on that axis and uniform on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from svg_common.digits.glyphs import EDGE_PX, FloatArray, draw_digit

DIGIT_SIZE = 32  # pixels; the reference scales the 28-pixel MNIST digits to this
MAX_SPEED = 4  # pixels per frame and axis


class BouncingDigits:
    """Endless video of bouncing digits: `step()` draws the current frame and moves on.

    Args:
        rng: source of positions, velocities and bounces.
        digits: images (d, d) in [0, 1], one per digit in the scene.
        image_size: side of the square frame in pixels.
    """

    def __init__(self, rng: np.random.Generator, digits: Sequence[FloatArray], image_size: int = 64) -> None:
        self._rng = rng
        self._digits = digits
        self._image_size = image_size
        self._position = [rng.integers(0, image_size - digit.shape[0], 2) for digit in digits]
        self._velocity = [rng.integers(-MAX_SPEED, MAX_SPEED + 1, 2) for _ in digits]

    def step(self) -> FloatArray:
        """Return the next frame, (image_size, image_size) float32 in [0, 1]."""
        frame = np.zeros((self._image_size, self._image_size), np.float32)
        for digit, position, velocity in zip(self._digits, self._position, self._velocity, strict=True):
            self._bounce(position, velocity, self._image_size - digit.shape[0])
            y, x = position
            frame[y : y + digit.shape[0], x : x + digit.shape[1]] += digit
            position += velocity
        return np.minimum(frame, 1.0)

    def _bounce(self, position: NDArray[np.int64], velocity: NDArray[np.int64], limit: int) -> None:
        """Put a digit that left [0, limit) back at the wall with a new velocity. Axis 0 (y) first, as the reference does."""
        for axis in (0, 1):
            if 0 <= position[axis] < limit:
                continue
            towards = 1 if position[axis] < 0 else -1
            position[axis] = 0 if towards == 1 else limit - 1
            velocity[axis] = towards * self._rng.integers(1, MAX_SPEED + 1)
            velocity[1 - axis] = self._rng.integers(-MAX_SPEED, MAX_SPEED + 1)


def digit_stream(
    seed: Sequence[int] | int, num_digits: int = 1, image_size: int = 64, edge_px: float = EDGE_PX
) -> Callable[[], FloatArray]:
    """Return a function that draws the next frame of procedural bouncing digits, reproducible from `seed`."""
    rng = np.random.default_rng(seed)
    digits = [draw_digit(rng, int(rng.integers(10)), DIGIT_SIZE, edge_px) for _ in range(num_digits)]
    return BouncingDigits(rng, digits, image_size).step
