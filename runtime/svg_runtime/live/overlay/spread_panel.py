"""Panel: per-pixel spread of the sampled futures at one forecast step, as a heat map with its scale."""

from __future__ import annotations

import cv2
import numpy as np

from svg_runtime.live.overlay.images import heat_map
from svg_runtime.live.overlay.theme import MUTED, PANEL, Canvas, Rect, Scale, fill, text
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View

_SCALES = (0.05, 0.1, 0.2, 0.3, 0.5)  # 0.5 is the largest standard deviation that values in [0, 1] can have
_DECAY = 0.99  # per frame: the scale adapts to a calmer scene within seconds and does not flicker


class SpreadPanel:
    """Standard deviation over samples: bright where the model is unsure."""

    def __init__(self, rect: Rect, bar: Rect, scale: Scale, caption: Caption) -> None:
        self._rect = rect
        self._bar = bar  # color scale
        self._scale = scale
        self._caption = caption
        self._recent = 0.0

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, forecast step, an empty picture and the color scale."""
        draw_title(canvas, self._rect, self._scale, title="Spread", note=self._caption.lead_label(self._caption.lead))
        fill(canvas, self._rect, PANEL)
        ramp = np.linspace(0.0, 1.0, self._bar.width, dtype=np.float32)[None].repeat(self._bar.height, 0)
        self._bar.of(canvas)[:] = heat_map(ramp, 1.0)
        string = "std" if self._caption.samples > 1 else "std needs 2 samples"
        text(
            canvas,
            string,
            self._bar.x + self._bar.width // 2,
            self._bar.bottom + self._scale.near(16),
            size=self._scale.small,
            color=MUTED,
            align="center",
        )

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the heat map, scaled to the next round value above the recent maximum."""
        futures = view.futures_at(self._caption.lead)
        if futures is None or len(futures) < 2:
            return
        spread = futures.std(0).mean(-1)
        self._recent = max(self._recent * _DECAY, float(spread.max()))
        largest = next((scale for scale in _SCALES if scale >= self._recent), _SCALES[-1])
        size = self._rect.width, self._rect.height
        self._rect.of(canvas)[:] = heat_map(np.asarray(cv2.resize(spread, size, interpolation=cv2.INTER_LINEAR)), largest)
        below, small = self._bar.bottom + self._scale.near(16), self._scale.small
        text(canvas, "0", self._bar.x, below, size=small, color=MUTED)
        text(canvas, f"{largest:g}", self._bar.right, below, size=small, color=MUTED, align="right")
