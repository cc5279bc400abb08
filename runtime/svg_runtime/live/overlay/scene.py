"""The source's picture at its own aspect, and where in it the model looks: what ghost and contours are drawn over."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.images import draw_resized
from svg_runtime.live.overlay.layout import fit
from svg_runtime.live.overlay.theme import ACCENT, Canvas, Rect, Scale
from svg_runtime.live.roi import Region


@dataclass(frozen=True)
class Scene:
    """Where a picture was drawn: all of it, and the part that the model sees, both on the canvas."""

    whole: Rect
    seen: Rect


def put_scene(canvas: Canvas, box: Rect, picture: NDArray[np.uint8], frame_hw: tuple[int, int], region: Region | None) -> Scene:
    """Draw all of a picture, (H, W, 3) RGB or (H, W) gray, as large as it fits in the middle of `box`.

    The model sees `region` of it; None: the middle of the picture.
    """
    height, width = picture.shape[:2]
    place = fit(box, (height, width))
    whole = Rect(box.x + (box.width - place.width) // 2, box.y + (box.height - place.height) // 2, place.width, place.height)
    draw_resized(canvas, whole, picture)
    if region is not None:
        across, down = whole.width / width, whole.height / height
        left, top = whole.x + round(region.x * across), whole.y + round(region.y * down)
        return Scene(whole, Rect(left, top, max(1, round(region.width * across)), max(1, round(region.height * down))))
    seen = fit(whole, frame_hw)  # as svg_common.frames.fit_frame crops
    middle_x, middle_y = (whole.width - seen.width) // 2, (whole.height - seen.height) // 2
    return Scene(whole, Rect(whole.x + middle_x, whole.y + middle_y, seen.width, seen.height))


def mark_seen(canvas: Canvas, scene: Scene, scale: Scale) -> None:
    """Draw corners around the part that the model sees, if that is not all."""
    rect = scene.seen
    if (rect.width, rect.height) == (scene.whole.width, scene.whole.height):
        return
    length, thick = min(rect.width, rect.height) // 12, scale.near(2)
    for x, y, right, down in ((rect.x, rect.y, 1, 1), (rect.right - 1, rect.y, -1, 1),
                              (rect.x, rect.bottom - 1, 1, -1), (rect.right - 1, rect.bottom - 1, -1, -1)):  # fmt: skip
        corner = np.array([(x + right * length, y), (x, y), (x, y + down * length)], np.int32)
        cv2.polylines(canvas, [corner], False, (0, 0, 0), thick + 2 * scale.px(1))
        cv2.polylines(canvas, [corner], False, ACCENT, thick)
