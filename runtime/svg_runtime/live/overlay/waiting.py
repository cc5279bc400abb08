"""What is shown in place of a forecast that there is not."""

from __future__ import annotations

from svg_runtime.live.overlay.theme import BACKGROUND, Canvas, Rect, Scale, fill, shorten, text, text_width
from svg_runtime.live.overlay.view import View


def explain_missing(canvas: Canvas, area: Rect, scale: Scale, view: View) -> None:
    """Say in the middle of `area` why there is no forecast: frames are missing until the first, or it failed, or is shorter."""
    if view.futures is not None:
        explain(canvas, area, scale, "no forecast so far ahead now")
        return
    frames = f"{view.waiting} more frame{'s' if view.waiting > 1 else ''}"
    message = f"observing: {frames} until the first forecast" if view.waiting else "no forecast for this frame"
    explain(canvas, area, scale, message)


def explain(canvas: Canvas, area: Rect, scale: Scale, message: str) -> None:
    """Write `message` in the middle of `area`, on a dark ground."""
    message = shorten(message, area.width - scale.near(24), scale.label)
    x, y = area.x + area.width // 2, area.y + area.height // 2
    half, height = text_width(message, scale.label) // 2 + scale.near(12), scale.near(40)
    fill(canvas, Rect(x - half, y - height // 2, 2 * half, height), BACKGROUND)
    text(canvas, message, x, y + scale.near(5), size=scale.label, align="center")
