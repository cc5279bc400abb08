"""The picture of an alarm: what the model expected beside what came, and where they differ."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.images import heat_map, put_frame
from svg_runtime.live.overlay.theme import BACKGROUND, LABEL, MUTED, SEMIBOLD, TEXT, Canvas, Rect, fill, shorten, text

_Frame = NDArray[np.float32]
_SIDE = 360  # pixels of the shorter side of each frame
_GAP, _HEADER, _TITLE = 16, 40, 28
_LARGEST_ERROR = 0.5  # of [0, 1]: shown in the brightest colour


def compare_frames(expected: _Frame, real: _Frame, caption: str) -> Canvas:
    """Draw `expected` and `real`, both (H, W, C) in [0, 1], and their absolute difference, side by side; returns RGB."""
    scale = _SIDE / min(real.shape[:2])
    height, width = round(real.shape[0] * scale), round(real.shape[1] * scale)
    canvas = np.zeros((_HEADER + _TITLE + height + _GAP, 3 * width + 4 * _GAP, 3), np.uint8)
    fill(canvas, Rect(0, 0, canvas.shape[1], canvas.shape[0]), BACKGROUND)
    text(canvas, shorten(caption, canvas.shape[1] - 2 * _GAP), _GAP, 28, size=LABEL, color=TEXT, weight=SEMIBOLD)
    difference = heat_map(np.abs(real - expected).max(axis=2), _LARGEST_ERROR).astype(np.float32) / np.float32(255)
    for column, (title, frame) in enumerate({"expected": expected, "real": real, "difference": difference}.items()):
        left = _GAP + column * (width + _GAP)
        text(canvas, title, left, _HEADER + 18, size=LABEL, color=MUTED)
        put_frame(canvas, Rect(left, _HEADER + _TITLE, width, height), frame)
    return canvas
