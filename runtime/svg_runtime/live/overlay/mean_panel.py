"""Panel: mean of all sampled futures at one forecast step."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_frame
from svg_runtime.live.overlay.theme import PANEL, Canvas, Rect, Scale, fill
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View


class MeanPanel:
    """The mean forecast: blurred where the samples disagree."""

    def __init__(self, rect: Rect, scale: Scale, caption: Caption) -> None:
        self._rect = rect
        self._scale = scale
        self._caption = caption

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, forecast step, and an empty picture."""
        draw_title(canvas, self._rect, self._scale, title="Mean", note=self._caption.lead_label(self._caption.lead))
        fill(canvas, self._rect, PANEL)

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the mean over samples."""
        futures = view.futures_at(self._caption.lead)
        if futures is not None:
            put_frame(canvas, self._rect, futures.mean(0))
