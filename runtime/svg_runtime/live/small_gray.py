"""Frames as motion is measured on them: gray, and no larger than that needs."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

_Floats = NDArray[np.float32]

LEAST_SIDE = 16  # pixels: in a smaller picture no motion can be measured
_SIDE = 64  # pixels of the shorter side, at most


def small_gray(frame: _Floats) -> _Floats:
    """(H, W, C) -> (h, w); values stay as they are."""
    gray = frame[:, :, 0] if frame.shape[2] == 1 else np.asarray(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), np.float32)
    height, width = gray.shape
    scale = _SIDE / min(height, width)
    if scale >= 1:
        return np.ascontiguousarray(gray)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return np.asarray(cv2.resize(gray, size, interpolation=cv2.INTER_AREA), np.float32)
