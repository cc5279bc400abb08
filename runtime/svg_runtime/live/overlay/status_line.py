"""Panel: the run in one line at the foot of the picture, for overlays without the table of it."""

from __future__ import annotations

from svg_runtime.live.overlay.theme import MUTED, Canvas, Rect, Scale, shorten, text
from svg_runtime.live.overlay.view import View

_BASELINE = 14


class StatusLine:
    """Latency, rate, frames, and surprise. The banner is drawn over it."""

    def __init__(self, rect: Rect, scale: Scale) -> None:
        self._rect = rect
        self._scale = scale

    def draw_static(self, canvas: Canvas) -> None:
        """Draw nothing."""

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the values."""
        parts = [f"{view.latency_ms:.1f} ms", f"{view.fps:.1f} fps", f"{view.seen} frames", f"{view.dropped} dropped"]
        if view.surprise and view.surprise[-1] is not None:
            parts.append(f"surprise {view.surprise[-1]:.2f}")
        line, size = (" " * 5).join(parts), self._scale.small
        baseline = self._rect.y + self._scale.near(_BASELINE)
        text(canvas, shorten(line, self._rect.width, size), self._rect.x, baseline, size=size, color=MUTED)
