"""Panel: the newest picture of the source, cropped as the model sees it, or all of it with the region that the model sees."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_picture, put_whole_picture
from svg_runtime.live.overlay.layout import title_baseline
from svg_runtime.live.overlay.theme import MUTED, SEMIBOLD, SMALL, TITLE, Canvas, Rect, shorten, text, text_width
from svg_runtime.live.overlay.view import Caption, View


class LivePanel:
    """The live picture, large."""

    def __init__(self, rect: Rect, caption: Caption) -> None:
        self._rect = rect
        self._source = caption.source

    def draw_static(self, canvas: Canvas) -> None:
        """Draw the title and the name of the source."""
        baseline = title_baseline(self._rect)
        text(canvas, "Live", self._rect.x, baseline, size=TITLE, weight=SEMIBOLD)
        room = self._rect.width - text_width("Live", TITLE, SEMIBOLD) - 16
        text(canvas, shorten(self._source, room, SMALL), self._rect.right, baseline, size=SMALL, color=MUTED, align="right")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the newest picture."""
        if view.region is None:
            put_picture(canvas, self._rect, view.picture)
        else:
            put_whole_picture(canvas, self._rect, view.picture, view.region)
