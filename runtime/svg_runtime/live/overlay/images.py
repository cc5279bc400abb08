"""Draws model frames and camera pictures on the canvas."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.theme import ACCENT, Canvas, Rect
from svg_runtime.live.roi import Region

Frame = NDArray[np.float32]


def to_uint8(frame: Frame) -> NDArray[np.uint8]:
    """Map (H, W, C) in [0, 1] to 0 ... 255, rounded and clipped."""
    scaled = cv2.convertScaleAbs(np.maximum(frame, 0.0), alpha=255)  # one pass; without a last axis of one channel
    return np.asarray(scaled, np.uint8).reshape(frame.shape)


def put_frame(canvas: Canvas, rect: Rect, frame: Frame) -> None:
    """Draw a model frame, (H, W, 1 or 3) float32 in [0, 1], over `rect`."""
    # Cubic keeps small frames crisp without blocks; area averaging avoids aliasing of large ones.
    grows = rect.width > frame.shape[1]
    image = cv2.resize(to_uint8(frame), (rect.width, rect.height), interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_AREA)
    rect.of(canvas)[:] = image if image.ndim == 3 else image[:, :, None]


def put_picture(canvas: Canvas, rect: Rect, picture: NDArray[np.uint8]) -> None:
    """Draw a camera picture, (H, W, 3) RGB or (H, W) gray uint8, over `rect`, cropped exactly as the model sees it."""
    height, width = picture.shape[:2]
    scale = max(rect.height / height, rect.width / width)
    seen_height = max(1, min(height, round(rect.height / scale)))
    seen_width = max(1, min(width, round(rect.width / scale)))
    top, left = (height - seen_height) // 2, (width - seen_width) // 2
    draw_resized(canvas, rect, picture[top : top + seen_height, left : left + seen_width])


def draw_resized(canvas: Canvas, rect: Rect, picture: NDArray[np.uint8]) -> None:
    """Draw all of a picture, (H, W, 3) RGB or (H, W) gray, over `rect`.

    Large pictures are averaged over whole blocks first: OpenCV's area filter takes six times as long for other factors.
    """
    height, width = picture.shape[:2]
    block = max(1, min(height // rect.height, width // rect.width))
    if block > 1:
        whole = picture[: height // block * block, : width // block * block]
        size = width // block, height // block
        picture = np.asarray(cv2.resize(whole, size, interpolation=cv2.INTER_AREA), np.uint8)
    grows = rect.width > width  # linearly, small synthetic pictures would be blurred
    image = cv2.resize(picture, (rect.width, rect.height), interpolation=cv2.INTER_CUBIC if grows else cv2.INTER_LINEAR)
    rect.of(canvas)[:] = image if image.ndim == 3 else image[:, :, None]


def put_whole_picture(canvas: Canvas, rect: Rect, picture: NDArray[np.uint8], region: Region) -> None:
    """Draw all of a picture as large as it fits into `rect`, with a frame around `region`, and darker outside of it."""
    height, width = picture.shape[:2]
    scale = min(rect.height / height, rect.width / width)
    shown_width, shown_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = rect.x + (rect.width - shown_width) // 2, rect.y + (rect.height - shown_height) // 2
    whole = Rect(left, top, shown_width, shown_height)
    draw_resized(canvas, whole, picture)
    shown = whole.of(canvas)
    left, right = (round(x * scale) for x in (region.x, region.x + region.width))
    top, bottom = (round(y * scale) for y in (region.y, region.y + region.height))
    dark = shown >> 1
    dark[top:bottom, left:right] = shown[top:bottom, left:right]
    cv2.rectangle(dark, (left, top), (right - 1, bottom - 1), ACCENT, 2)
    shown[:] = dark


def heat_map(values: NDArray[np.float32], largest: float) -> NDArray[np.uint8]:
    """Color (H, W) values from 0 to `largest` with inferno, a perceptually uniform scale. Returns (H, W, 3) RGB."""
    level = (np.clip(values / largest, 0.0, 1.0) * 255).astype(np.uint8)
    return np.asarray(cv2.cvtColor(cv2.applyColorMap(level, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB), np.uint8)
