"""The title line of a tile or of a picture in it."""

from __future__ import annotations

from svg_runtime.live.overlay.layout import title_baseline
from svg_runtime.live.overlay.theme import MUTED, SEMIBOLD, Canvas, Rect, Scale, shorten, text, text_width


def draw_title(canvas: Canvas, rect: Rect, scale: Scale, title: str, note: str = "") -> None:
    """Draw `title` at the left above `rect`, and `note` at the right, as far as there is room for it."""
    baseline = title_baseline(rect, scale)
    title = shorten(title, rect.width, scale.title, SEMIBOLD)
    text(canvas, title, rect.x, baseline, size=scale.title, weight=SEMIBOLD)
    room = rect.width - text_width(title, scale.title, SEMIBOLD) - scale.near(16)
    if note and room >= min(text_width(note, scale.small), scale.near(40)):  # a longer one is cut, but not to nothing
        text(canvas, shorten(note, room, scale.small), rect.right, baseline, size=scale.small, color=MUTED, align="right")
