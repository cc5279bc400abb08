"""Panel: sampled futures, a row per sample and a column per forecast step."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_frame
from svg_runtime.live.overlay.layout import shown_steps, title_baseline
from svg_runtime.live.overlay.theme import (
    BACKGROUND,
    LABEL,
    MUTED,
    PANEL,
    SEMIBOLD,
    SMALL,
    TITLE,
    Canvas,
    Rect,
    fill,
    text,
    text_width,
)
from svg_runtime.live.overlay.view import Caption, View


class StripPanel:
    """The strip of sampled futures. Samples are independent draws: their differences show the model's uncertainty."""

    def __init__(self, cells: tuple[tuple[Rect, ...], ...], caption: Caption) -> None:
        self._cells = cells
        self._caption = caption
        self._steps = shown_steps(caption.horizon)

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, sample numbers, lead times, and empty cells."""
        first, last = self._cells[0][0], self._cells[-1][-1]
        rows, samples = len(self._cells), self._caption.samples
        baseline = title_baseline(first)
        text(canvas, "Sampled futures", first.x, baseline, size=TITLE, weight=SEMIBOLD)
        shown = f"{rows} of {samples} samples" if rows < samples else f"{samples} sample{'s' if samples > 1 else ''}"
        text(canvas, shown, max(last.right, first.x + 300), baseline, size=SMALL, color=MUTED, align="right")
        for number, row in enumerate(self._cells, 1):
            text(canvas, str(number), row[0].x - 12, row[0].y + row[0].height // 2 + 5, size=LABEL, color=MUTED, align="right")
            for cell in row:
                fill(canvas, cell, PANEL)
        for step, cell in zip(self._steps, self._cells[-1], strict=True):
            middle = cell.x + cell.width // 2
            text(canvas, self._caption.lead_label(step), middle, cell.bottom + 18, size=SMALL, color=MUTED, align="center")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the futures, or how many frames are missing until the first forecast."""
        if view.futures is None:
            self._explain(canvas, view.waiting)
            return
        for row, sample in zip(self._cells, view.futures, strict=False):
            for cell, step in zip(row, self._steps, strict=True):
                if step <= len(sample):
                    put_frame(canvas, cell, sample[step - 1])

    def _explain(self, canvas: Canvas, waiting: int) -> None:
        first, last = self._cells[0][0], self._cells[-1][-1]
        frames = f"{waiting} more frame{'s' if waiting > 1 else ''}"
        message = f"observing: {frames} until the first forecast" if waiting else "no forecast for this frame"
        x, y = (first.x + last.right) // 2, (first.y + last.bottom) // 2
        half = text_width(message) // 2 + 24
        fill(canvas, Rect(x - half, y - 20, 2 * half, 40), BACKGROUND)
        text(canvas, message, x, y + 5, align="center")
