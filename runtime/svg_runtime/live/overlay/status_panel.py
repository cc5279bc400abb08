"""Panel: speed of the run and quality of the forecasts, in numbers."""

from __future__ import annotations

from svg_runtime.live.overlay.layout import title_baseline
from svg_runtime.live.overlay.theme import LINE, MUTED, SEMIBOLD, TEXT, WARNING, Canvas, Color, Rect, Scale, fill, text
from svg_runtime.live.overlay.view import Caption, View

_ROWS = 6


class StatusPanel:
    """A table with names on the left and values on the right."""

    def __init__(self, rect: Rect, scale: Scale, caption: Caption) -> None:
        self._rect = rect
        self._scale = scale
        self._caption = caption

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, names and rules."""
        text(canvas, "Run", self._rect.x, title_baseline(self._rect, self._scale), size=self._scale.title, weight=SEMIBOLD)
        label = self._caption.lead_label(self._caption.score_lead or self._caption.lead)
        names = ("observe + forecast", "rate", "frames", "dropped", f"PSNR {label}, best", f"PSNR {label}, repeat")
        for row, name in enumerate(names):
            fill(canvas, Rect(self._rect.x, self._line(row), self._rect.width, self._scale.px(1)), LINE)
            text(canvas, name, self._rect.x, self._baseline(row), size=self._scale.label, color=MUTED)

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the values."""
        values: tuple[tuple[str, Color], ...] = (
            (f"{view.latency_ms:.1f} ms", TEXT),
            (f"{view.fps:.1f} fps", TEXT),
            (str(view.seen), TEXT),
            (str(view.dropped), WARNING if view.dropped else TEXT),
            (_decibel(view.best_psnr), TEXT),
            (_decibel(view.repeat_psnr), TEXT),
        )
        for row, (value, color) in enumerate(values):
            text(canvas, value, self._rect.right, self._baseline(row), size=self._scale.label, color=color, align="right")

    def _line(self, row: int) -> int:
        return self._rect.y + row * self._rect.height // _ROWS

    def _baseline(self, row: int) -> int:
        return self._line(row) + self._scale.label + min(self._scale.px(4), self._scale.near(4))


def _decibel(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} dB"
