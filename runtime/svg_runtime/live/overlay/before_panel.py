"""Overlay `before`: what the model expected a while ago for this moment, beside what came."""

from __future__ import annotations

import math
from collections import deque

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.images import heat_map, put_frame, put_picture
from svg_runtime.live.overlay.layout import content_of, fit
from svg_runtime.live.overlay.theme import MUTED, PANEL, Canvas, Rect, Scale, fill, text
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View
from svg_runtime.live.preprocess import crop
from svg_runtime.live.step_clock import StepClock

_MEMORY_LIMIT = 64 << 20  # bytes of remembered forecasts
_COUNT = 3  # pictures: expected, came, difference
_LARGEST_ERROR = 0.5  # end of the color scale


class BeforePanel:
    """The mean forecast that was made for this frame, the frame, and their difference.

    It remembers the mean forecasts of the last steps, so that there is one where a frame was dropped `lead` steps ago: that of
    the nearest frame after it is then shown, and how old it is.
    """

    def __init__(self, tile: Rect, scale: Scale, caption: Caption) -> None:
        self._scale = scale
        self._caption = caption
        self._boxes = _boxes(content_of(tile, scale), scale, caption.frame_hw)
        self._means: deque[tuple[float, NDArray[np.float32]]] = deque(maxlen=caption.lead + 1)  # time_s, (T, H, W, C)
        self._clock = StepClock(caption.interval_s)
        self._resets = 0

    def draw_static(self, canvas: Canvas) -> None:
        """Draw the titles and empty pictures."""
        for box, title in zip(self._boxes, ("Expected", "Came", "Difference"), strict=True):
            draw_title(canvas, box, self._scale, title)
            fill(canvas, box, PANEL)
        last = self._boxes[-1]
        label = f"0 to {_LARGEST_ERROR:g}"
        below = last.bottom + self._scale.near(18)
        text(canvas, label, last.right, below, size=self._scale.small, color=MUTED, align="right")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw what came, what was expected, if a forecast is old enough, and remember the newest forecast."""
        if view.resets != self._resets:
            self._resets = view.resets
            self._means.clear()
        expected, came, difference = self._boxes
        put_picture(canvas, came, crop(view.picture, view.region))
        time_s = self._clock.add(view.position_s)
        found = self._expected(time_s)
        below = expected.bottom + self._scale.near(18)
        if found is None:
            note = "no forecast for now yet"
        else:
            steps, mean = found
            put_frame(canvas, expected, mean)
            if view.frame is not None:
                error = np.asarray(np.abs(mean - view.frame).mean(2), np.float32)
                put_frame(canvas, difference, heat_map(error, _LARGEST_ERROR) * np.float32(1 / 255))
            note = f"{self._caption.lead_label(steps)[1:]} ago"
        text(canvas, note, expected.x, below, size=self._scale.small, color=MUTED)
        if view.futures is not None:
            self._remember(time_s, view.futures[:, : self._caption.lead].mean(0))

    def _expected(self, time_s: float) -> tuple[int, NDArray[np.float32]] | None:
        """Steps ahead, at most `lead`, and the mean forecast (H, W, C) of this moment; the oldest that there is."""
        for made_s, means in self._means:
            steps = round((time_s - made_s) / self._caption.interval_s)
            if self._caption.lead // 2 < steps <= min(self._caption.lead, len(means)):
                return steps, means[steps - 1]
        return None

    def _remember(self, time_s: float, means: NDArray[np.float32]) -> None:
        self._means.append((time_s, means))
        while len(self._means) > 1 and len(self._means) * means.nbytes > _MEMORY_LIMIT:
            self._means.popleft()


def _boxes(content: Rect, scale: Scale, frame_hw: tuple[int, int]) -> list[Rect]:
    """Three equal boxes, beside each other or in two or three rows: as they are largest. In the middle of `content`."""
    grids = [_grid(content, scale, frame_hw, columns) for columns in (3, 2, 1)]
    return max(grids, key=lambda grid: grid[0].width)


def _grid(content: Rect, scale: Scale, frame_hw: tuple[int, int], columns: int) -> list[Rect]:
    rows, gap = math.ceil(_COUNT / columns), scale.px(24)
    between = scale.near(24) + scale.title + scale.near(12)  # labels of one row, title of the next
    width = (content.width + gap) // columns - gap
    one = fit(Rect(0, 0, width, max(1, (content.height + between) // rows - between)), frame_hw)
    left = content.x + (content.width - columns * (one.width + gap) + gap) // 2
    return [
        Rect(
            left + place % columns * (one.width + gap),
            content.y + place // columns * (one.height + between),
            one.width,
            one.height,
        )
        for place in range(_COUNT)
    ]
