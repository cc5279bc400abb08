"""Overlay `ghost`: what will have changed, as a ghost over the live picture."""

from __future__ import annotations

import cv2
import numpy as np

from svg_runtime.live.overlay.images import Frame, to_uint8
from svg_runtime.live.overlay.layout import content_of
from svg_runtime.live.overlay.scene import mark_seen, put_scene
from svg_runtime.live.overlay.theme import GHOST, PANEL, Canvas, Rect, Scale, fill
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View
from svg_runtime.live.overlay.waiting import explain_missing

_INVISIBLE, _OPAQUE = 0.04, 0.16  # change of brightness at which the ghost begins, and at which it is strongest
_STRONGEST = 0.85
_TINT = 0.45  # so that it is not taken for something that is there already


class GhostPanel:
    """The mean of all sampled futures, tinted, where it differs from the live picture; its title can be left out."""

    def __init__(self, tile: Rect, scale: Scale, caption: Caption, titled: bool = True) -> None:
        self._box = content_of(tile, scale)
        self._scale = scale
        self._caption = caption
        self._titled = titled

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title and an empty picture."""
        fill(canvas, self._box, PANEL)
        if not self._titled:
            return
        label = self._caption.lead_label(self._caption.lead)
        note = f"mean forecast {label} over {self._caption.source}"
        draw_title(canvas, self._box, self._scale, title="Expected change", note=note)

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the newest picture and the ghost."""
        frame_hw = self._caption.frame_hw
        scene = put_scene(canvas=canvas, box=self._box, picture=view.picture, frame_hw=frame_hw, region=view.region)
        futures = view.futures_at(self._caption.lead)
        if futures is None or view.frame is None:
            explain_missing(canvas, self._box, self._scale, view)
            return
        draw_ghost(scene.seen.of(canvas), view.frame, futures.mean(0))
        mark_seen(canvas, scene, self._scale)


def draw_ghost(image: Canvas, now: Frame, future: Frame) -> None:
    """Blend a model frame, (H, W, C) in [0, 1], over an image of any size of the same scene, where it differs from `now`.

    Args:
        image: (H', W', 3) uint8, changed in place.
        now: the model's frame of the image, as `future`.
        future: the mean forecast.
    """
    change = np.abs(future - now).max(2)
    opacity = np.clip((change - _INVISIBLE) / (_OPAQUE - _INVISIBLE), 0, 1)[:, :, None] * np.float32(_STRONGEST)
    tinted = future * np.float32(1 - _TINT) + np.array(GHOST, np.float32) * np.float32(_TINT / 255)
    size = image.shape[1], image.shape[0]
    small = to_uint8(np.dstack([tinted * opacity, 1 - opacity]))  # premultiplied: colors of what is invisible do not bleed in
    large = cv2.resize(small, size, interpolation=cv2.INTER_LINEAR)
    ghost, rest = np.ascontiguousarray(large[:, :, :3]), cv2.cvtColor(large[:, :, 3], cv2.COLOR_GRAY2RGB)
    image[:] = cv2.add(cv2.multiply(image, rest, scale=1 / 255), ghost)
