"""The synthetic camera: bouncing digits, to try everything without a camera or data."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from svg_common.digits import DIGIT_SIZE, digit_stream
from svg_runtime.live.sources.base import SourceFrame
from svg_runtime.live.sources.pacing import Ticker

SYNTHETIC_URL = "synthetic://digits"


class SyntheticSource:
    """Endless video of one procedurally drawn digit that takes a new random direction at each wall.

    Args:
        seed: of the digit's shape and its bounces; the same seed gives the same video.
        image_size: side of the square picture in pixels.
        ticker: real-time schedule, or None for as fast as the pictures are read.
    """

    def __init__(self, seed: int, image_size: int, ticker: Ticker | None = None) -> None:
        self.name = self.description = f"{SYNTHETIC_URL} (seed {seed})"
        self.captured = 0
        self.dropped = 0
        self._draw = digit_stream(seed, num_digits=1, image_size=max(image_size, 2 * DIGIT_SIZE))
        self._ticker = ticker

    def frames(self) -> Iterator[SourceFrame]:
        """Yield gray pictures without end."""
        while True:
            if self._ticker is not None:
                self._ticker.wait_for(self.captured)
            picture = (self._draw() * 255 + 0.5).astype(np.uint8)
            self.captured += 1
            yield SourceFrame(picture, tick=self.captured - 1)

    def close(self) -> None:
        """Do nothing: there is nothing to release."""
