"""Panel: the newest picture of the source, cropped as the model sees it, or all of it with the region that the model sees."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_picture, put_whole_picture
from svg_runtime.live.overlay.layout import title_baseline
from svg_runtime.live.overlay.theme import MUTED, SEMIBOLD, Canvas, Rect, Scale, shorten, text, text_width
from svg_runtime.live.overlay.view import Caption, View


class LivePanel:
    """The live picture, large."""

    def __init__(self, rect: Rect, scale: Scale, caption: Caption) -> None:
        self._rect = rect
        self._scale = scale
        self._source = caption.source

    def draw_static(self, canvas: Canvas) -> None:
        """Draw the title and the name of the source."""
        rect, scale, baseline = self._rect, self._scale, title_baseline(self._rect, self._scale)
        text(canvas, "Live", rect.x, baseline, size=scale.title, weight=SEMIBOLD)
        room = rect.width - text_width("Live", scale.title, SEMIBOLD) - scale.near(16)
        text(
            canvas, shorten(self._source, room, scale.small), rect.right, baseline, size=scale.small, color=MUTED, align="right"
        )

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the newest picture."""
        if view.region is None:
            put_picture(canvas, self._rect, view.picture)
        else:
            put_whole_picture(canvas, self._rect, view.picture, view.region)
