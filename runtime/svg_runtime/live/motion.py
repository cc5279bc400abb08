"""How fast things move in the picture, against how fast they usually do at their place."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.optical_flow import optical_flow
from svg_runtime.live.place_ratio import PlaceRatio
from svg_runtime.live.small_gray import LEAST_SIDE, small_gray

_Floats = NDArray[np.float32]

_SLOW = 1 / 256  # of the shorter side: a quarter of a pixel of 64, about what the flow of a still scene is off by


class Motion:
    """Measures frame by frame, by the dense optical flow since the last one; it takes about a millisecond.

    Somebody who walks where nobody ever does is unusual, and so is who runs where others walk; cars on their road are not.
    Which way things move does not count.

    Args:
        interval_s: seconds per model step.
    """

    def __init__(self, interval_s: float) -> None:
        self._ratio = PlaceRatio(interval_s, 0.0)
        self.reset()

    def reset(self) -> None:
        """Forget the last frame, and what places are like."""
        self._ratio.reset()
        self.skip()

    def skip(self) -> None:
        """Forget the last frame: the next one does not follow it."""
        self._last: _Floats | None = None

    def of(self, frame: _Floats, steps: int = 1, usual_steps: float = 1.0) -> float | None:
        """1 + squared speed over the usual one since the last frame (H, W, C), where that is largest.

        None for the first frame, one of another size than the last, and one below 16 pixels. `steps`: model steps since then,
        in which things move as many times as far; the flow of a still scene is off by the same, so it is less per step where
        frames are usually `usual_steps` apart.
        """
        last = self._last
        gray = small_gray(frame)[..., None]
        self._last = gray
        if last is None or last.shape != gray.shape or min(gray.shape[:2]) < LEAST_SIDE:
            return None
        speed = optical_flow(last, gray) / np.float32(steps * min(gray.shape[:2]))
        noise = np.full(speed.shape[:2], (_SLOW / usual_steps) ** 2, np.float32)
        return 1 + self._ratio.of((speed**2).sum(axis=2), noise, steps)
