"""Overlay `contours`: where the model is unsure, as contour lines over the live picture."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.layout import content_of, title_baseline
from svg_runtime.live.overlay.scene import mark_seen, put_scene
from svg_runtime.live.overlay.theme import LEVELS, MUTED, PANEL, SEMIBOLD, Canvas, Rect, Scale, fill, text, text_width
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View
from svg_runtime.live.overlay.waiting import explain_missing

SPREADS = (0.05, 0.1, 0.2)  # standard deviations of brightness in [0, 1]: fixed, so that pictures can be compared
_THICKNESS = (2.0, 2.7, 3.4)  # pixels: levels are told apart by width as well as by color
_SMOOTH = 1.0  # pixels of the model: samples differ by single pixels, which would be drawn as so many rings
_FINER = 4  # the spread is interpolated so much before lines are drawn around its pixels
_SUBPIXEL_BITS = 4


class ContourPanel:
    """The spread of the samples at one forecast step, over the live picture."""

    def __init__(self, tile: Rect, scale: Scale, caption: Caption) -> None:
        self._box = content_of(tile, scale)
        self._scale = scale
        self._caption = caption
        self._title = f"Uncertainty {caption.lead_label(caption.lead)}"

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, legend and an empty picture."""
        draw_title(canvas, self._box, self._scale, self._title)
        fill(canvas, self._box, PANEL)
        if self._caption.samples > 1:
            self._draw_legend(canvas)
        else:
            note, size = "std needs 2 samples", self._scale.small
            text(canvas, note, self._box.right, title_baseline(self._box, self._scale), size=size, color=MUTED, align="right")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the newest picture and the lines."""
        scene = put_scene(
            canvas=canvas, box=self._box, picture=view.picture, frame_hw=self._caption.frame_hw, region=view.region
        )
        futures = view.futures_at(self._caption.lead)
        if futures is None:
            explain_missing(canvas, self._box, self._scale, view)
            return
        if len(futures) > 1:
            self._draw_lines(canvas, scene.seen, futures.std(0).mean(-1))
        mark_seen(canvas, scene, self._scale)

    def _draw_lines(self, canvas: Canvas, seen: Rect, spread: NDArray[np.float32]) -> None:
        size = spread.shape[1] * _FINER, spread.shape[0] * _FINER
        fine = cv2.resize(cv2.GaussianBlur(spread, (0, 0), _SMOOTH), size, interpolation=cv2.INTER_CUBIC)
        to_canvas = np.array([seen.width / size[0], seen.height / size[1]]) * 2**_SUBPIXEL_BITS
        region = np.ascontiguousarray(seen.of(canvas))
        lines = []
        for level in SPREADS:
            found, _ = cv2.findContours((fine >= level).astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
            lines.append([((line + 0.5) * to_canvas).round().astype(np.int32) for line in found])
        rim = 2 * self._scale.px(0.6)  # dark, so that the lines are seen on any picture
        for line, width in zip(lines, _THICKNESS, strict=True):
            cv2.polylines(region, line, True, (0, 0, 0), self._scale.near(width) + rim, cv2.LINE_AA, _SUBPIXEL_BITS)
        for line, width, color in zip(lines, _THICKNESS, LEVELS, strict=True):
            cv2.polylines(region, line, True, color, self._scale.near(width), cv2.LINE_AA, _SUBPIXEL_BITS)
        seen.of(canvas)[:] = region

    def _draw_legend(self, canvas: Canvas) -> None:
        """From right to left: the largest level first, then the unit."""
        scale, right, baseline = self._scale, self._box.right, title_baseline(self._box, self._scale)
        for level, width, color in reversed(list(zip(SPREADS, _THICKNESS, LEVELS, strict=True))):
            string = f"{level:g}"
            text(canvas, string, right, baseline, size=scale.small, color=MUTED, align="right")
            right -= text_width(string, scale.small) + scale.near(5)
            thick, long = scale.near(width), scale.near(16)
            fill(canvas, Rect(right - long, baseline - scale.near(4) - thick // 2, long, thick), color)
            right -= long + scale.near(12)
        free = right - self._box.x - text_width(self._title, scale.title, SEMIBOLD)
        if free > text_width("std", scale.small) + scale.near(8):
            text(canvas, "std", right, baseline, size=scale.small, color=MUTED, align="right")
