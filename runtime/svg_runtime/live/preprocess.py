"""Converts a picture of any size to the model's frame: scaled, cropped, in its colours, float32 in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_common.frames import fit_frame
from svg_runtime.live.sources.base import Picture


class Preprocessor:
    """Fits pictures to the model.

    Args:
        height: of the model's frame in pixels.
        width: of the model's frame in pixels.
        channels: of the model's frame, 1 or 3.
    """

    def __init__(self, height: int, width: int, channels: int) -> None:
        self._shape = height, width, channels
        self.picture_hw: tuple[int, int] | None = None

    def size_changed(self, picture: Picture) -> bool:
        """Whether `picture` has another size than the previous one, which then shows another view."""
        before = self.picture_hw
        self.picture_hw = (picture.shape[0], picture.shape[1])
        return before is not None and before != self.picture_hw

    def fit(self, picture: Picture) -> NDArray[np.float32]:
        """Return `picture`, (H, W, 3) RGB or (H, W) gray uint8, as (height, width, channels) float32 in [0, 1]."""
        frame: NDArray[np.float32] = fit_frame(picture, *self._shape).astype(np.float32) / np.float32(255)
        return frame
