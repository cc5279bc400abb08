"""Panel: the newest picture of the source, cropped as the model sees it, or all of it with the region that the model sees."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_picture, put_whole_picture
from svg_runtime.live.overlay.theme import Canvas, Rect, Scale
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View


class LivePanel:
    """The live picture, large."""

    def __init__(self, rect: Rect, scale: Scale, caption: Caption) -> None:
        self._rect = rect
        self._scale = scale
        self._source = caption.source

    def draw_static(self, canvas: Canvas) -> None:
        """Draw the title and the name of the source."""
        draw_title(canvas, self._rect, self._scale, title="Live", note=self._source)

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the newest picture."""
        if view.region is None:
            put_picture(canvas, self._rect, view.picture)
        else:
            put_whole_picture(canvas, self._rect, view.picture, view.region)
