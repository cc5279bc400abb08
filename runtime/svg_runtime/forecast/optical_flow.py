"""The last frame carried on along its optical flow.

Backward warping: dense flow from the last frame to the one before (DIS, Kroeger et al. 2016, in OpenCV) says where each pixel
came from. What enters the picture repeats its border.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.noise import FloatArray

_LEAST_SIDE = 16  # pixels: with less in either direction, OpenCV's DIS refuses, gives no numbers, or crashes


class CarriedOn:
    """A frame carried on, ever more slowly: what moves may turn or stop, and a flow is wrong here and there.

    Args:
        last: (H, W, C) in [0, 1].
        before: the frame before it.
        kept: share of the speed that is left after each step.
    """

    def __init__(self, last: FloatArray, before: FloatArray, kept: float) -> None:
        self._last = last
        self._kept = kept
        self._flow = optical_flow(last, before)
        self._pixels = _pixels(*last.shape[:2])

    @property
    def nbytes(self) -> int:
        """Memory beside that of `last`."""
        return self._flow.nbytes  # `_pixels` is one array for all

    def at(self, lead: int) -> FloatArray:
        """(H, W, C) `lead` steps ahead, from 1 on."""
        import cv2  # not at the top: programs that do not post-process need no OpenCV

        sources = self._flow * np.float32(sum(self._kept**step for step in range(lead)))
        sources += self._pixels
        moved = cv2.remap(  # type: ignore[call-overload]  # its stubs want a second map, beside one of x and y
            self._last, sources, None, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        return np.asarray(moved, np.float32).reshape(self._last.shape)  # OpenCV drops the axis of a single channel


@lru_cache(maxsize=4)
def _pixels(height: int, width: int) -> FloatArray:
    """(H, W, 2) x and y of each pixel."""
    grid = np.stack(np.meshgrid(np.arange(width), np.arange(height)), -1).astype(np.float32)
    grid.flags.writeable = False
    return grid


def optical_flow(source: FloatArray, target: FloatArray) -> FloatArray:
    """(H, W, 2) displacement in pixels of each pixel of `source` on its way to `target`, (H, W, C) each, in [0, 1].

    Small frames are enlarged by their borders for it.
    """
    import cv2

    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]  # not in its stubs
    height, width = source.shape[:2]
    more = [(0, max(_LEAST_SIDE - side, 0)) for side in (height, width)]
    flow: FloatArray = method.calc(*(np.pad(_gray(frame), more, mode="edge") for frame in (source, target)), None)
    return flow[:height, :width]


def _gray(frame: FloatArray) -> NDArray[np.uint8]:
    from svg_common.frames import fit_frame

    height, width, _ = frame.shape
    return fit_frame((frame * 255 + 0.5).astype(np.uint8), height, width, channels=1)[..., 0]
