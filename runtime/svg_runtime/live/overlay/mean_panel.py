"""Panel: mean of all sampled futures at one forecast step."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_frame
from svg_runtime.live.overlay.layout import title_baseline
from svg_runtime.live.overlay.theme import MUTED, PANEL, SEMIBOLD, SMALL, TITLE, Canvas, Rect, fill, text
from svg_runtime.live.overlay.view import Caption, View


class MeanPanel:
    """The mean forecast: blurred where the samples disagree."""

    def __init__(self, rect: Rect, caption: Caption) -> None:
        self._rect = rect
        self._caption = caption

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, forecast step, and an empty picture."""
        baseline = title_baseline(self._rect)
        text(canvas, "Mean", self._rect.x, baseline, size=TITLE, weight=SEMIBOLD)
        label = self._caption.lead_label(self._caption.lead)
        text(canvas, label, self._rect.right, baseline, size=SMALL, color=MUTED, align="right")
        fill(canvas, self._rect, PANEL)

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the mean over samples."""
        futures = view.futures_at(self._caption.lead)
        if futures is not None:
            put_frame(canvas, self._rect, futures.mean(0))
