"""The last frame carried on along its optical flow.

Backward warping: dense flow from the last frame to the one before (DIS, Kroeger et al. 2016, in OpenCV) says where each pixel
came from. What enters the picture repeats its border.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.noise import FloatArray

MIN_SIDE = 12  # pixels of the longer side, from which on OpenCV's DIS works


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
        self._flow = optical_flow(last, before) if max(last.shape[:2]) >= MIN_SIDE else None

    @property
    def nbytes(self) -> int:
        """Memory beside that of `last`."""
        return 0 if self._flow is None else self._flow.nbytes

    def at(self, lead: int) -> FloatArray:
        """(H, W, C) `lead` steps ahead, from 1 on. A frame too small for a flow stays as it is."""
        import cv2  # not at the top: programs that do not post-process need no OpenCV

        if self._flow is None:
            return self._last
        height, width = self._last.shape[:2]
        shift = self._flow * np.float32(sum(self._kept**step for step in range(lead)))
        x = np.arange(width, dtype=np.float32) + shift[..., 0]
        y = np.arange(height, dtype=np.float32)[:, None] + shift[..., 1]
        moved = cv2.remap(self._last, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(moved, np.float32).reshape(self._last.shape)  # OpenCV drops the axis of a single channel


def optical_flow(source: FloatArray, target: FloatArray) -> FloatArray:
    """(H, W, 2) displacement in pixels of each pixel of `source` on its way to `target`, (H, W, C) each, in [0, 1].

    Their longer side has at least MIN_SIDE pixels; OpenCV refuses smaller ones.
    """
    import cv2

    method = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]  # not in its stubs
    flow: FloatArray = method.calc(_gray(source), _gray(target), None)
    return flow


def _gray(frame: FloatArray) -> NDArray[np.uint8]:
    from svg_common.frames import fit_frame

    height, width, _ = frame.shape
    return fit_frame((frame * 255 + 0.5).astype(np.uint8), height, width, channels=1)[..., 0]
