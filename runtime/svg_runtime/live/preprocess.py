"""Converts a picture of any size to the model's frame: its region, scaled, cropped, in its colours, float32 in [0, 1]."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_common.frames import fit_frame
from svg_runtime.live.roi import Region, Roi
from svg_runtime.live.sources.base import Picture


class Preprocessor:
    """Fits pictures to the model.

    Args:
        height: of the model's frame in pixels.
        width: of the model's frame in pixels.
        channels: of the model's frame, 1 or 3.
        roi: the part of every picture that the model looks at; None: all of it.
    """

    def __init__(self, height: int, width: int, channels: int, roi: Roi | None = None) -> None:
        self._shape = height, width, channels
        self._roi = roi
        self.picture_hw: tuple[int, int] | None = None

    def size_changed(self, picture: Picture) -> bool:
        """Whether `picture` has another size than the previous one, which then shows another view."""
        before = self.picture_hw
        self.picture_hw = (picture.shape[0], picture.shape[1])
        return before is not None and before != self.picture_hw

    def look_at(self, roi: Roi | None) -> None:
        """Look at another part of the next pictures; None: all of them."""
        self._roi = roi

    def region(self, picture: Picture) -> Region | None:
        """The region of `picture` that the model looks at; None for all of it.

        Raises:
            RegionOutsideError: it does not lie within this picture, or is too small in it.
        """
        return None if self._roi is None else self._roi.in_picture(picture.shape[0], picture.shape[1])

    def fit(self, part: Picture) -> NDArray[np.float32]:
        """Return the part of a picture that `crop` gave, as (height, width, channels) float32 in [0, 1]."""
        frame: NDArray[np.float32] = fit_frame(part, *self._shape).astype(np.float32) / np.float32(255)
        return frame


def crop(picture: Picture, region: Region | None) -> Picture:
    """Return the region of a picture, (H, W, 3) RGB or (H, W) gray uint8, without a copy."""
    if region is None:
        return picture
    return picture[region.y : region.y + region.height, region.x : region.x + region.width]
