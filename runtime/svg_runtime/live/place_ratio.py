"""How large something is for its place: the signals of forecast errors and of motion are such ratios."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]

_BLOCKS = 4  # blocks along the shorter side of the frame: an anomaly is smaller than the picture
_MEMORY_S = 60.0  # how long a place remembers
_CLIP = 4.0  # times what was expected: larger values count as this, and do not become usual at once


class PlaceRatio:
    """A squared value of each pixel over what was to be expected there, in the block where this ratio is largest.

    Expected is what is usual at this place, and what the caller adds. All are averaged over overlapping blocks.

    Args:
        interval_s: seconds per model step.
        least: what is expected everywhere, at least.
    """

    def __init__(self, interval_s: float, least: float) -> None:
        self._rate = interval_s / _MEMORY_S
        self._least = np.float32(least)
        self.reset()

    def reset(self) -> None:
        """Forget what places are like."""
        self._usual: _Floats | None = None
        self._count = 0

    def of(self, squared: _Floats, predicted: _Floats | None = None, steps: int = 1) -> float:
        """The ratio for the squared values (H, W) of one frame, which are then a part of what is usual.

        Args:
            squared: at least 0.
            predicted: (H, W), what else is to be expected there this time.
            steps: model steps since the frame before it.
        """
        side = max(1, min(squared.shape) // _BLOCKS)
        value = np.asarray(cv2.blur(squared, (side, side)), np.float32)
        if self._usual is None or self._usual.shape != value.shape:
            self._usual = np.zeros_like(value)
            self._count = 0
        expected = self._usual + self._least
        if predicted is not None:
            expected += cv2.blur(predicted, (side, side))
        ratio = float((value / expected).max())
        self._count += 1
        rate = min(1.0, max(steps * self._rate, 1 / self._count))  # 1: the last frame alone counts
        limit = expected * _CLIP if self._count > 1 else value
        self._usual += np.float32(rate) * (np.minimum(value, limit) - self._usual)
        return ratio
