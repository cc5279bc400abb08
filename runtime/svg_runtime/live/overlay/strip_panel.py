"""Panel: sampled futures, a row per sample and a column per forecast step."""

from __future__ import annotations

from svg_runtime.live.overlay.images import put_frame
from svg_runtime.live.overlay.layout import shown_steps, title_baseline
from svg_runtime.live.overlay.theme import (
    MUTED,
    PANEL,
    SEMIBOLD,
    Canvas,
    Rect,
    Scale,
    fill,
    text,
)
from svg_runtime.live.overlay.view import Caption, View
from svg_runtime.live.overlay.waiting import explain_missing


class StripPanel:
    """The strip of sampled futures. Samples are independent draws: their differences show the model's uncertainty."""

    def __init__(self, cells: tuple[tuple[Rect, ...], ...], scale: Scale, caption: Caption) -> None:
        self._cells = cells
        self._scale = scale
        self._caption = caption
        self._steps = shown_steps(caption.horizon, len(cells[0]))

    def draw_static(self, canvas: Canvas) -> None:
        """Draw title, sample numbers, lead times, and empty cells."""
        scale, first, last = self._scale, self._cells[0][0], self._cells[-1][-1]
        rows, samples = len(self._cells), self._caption.samples
        baseline = title_baseline(first, scale)
        text(canvas, "Sampled futures", first.x, baseline, size=scale.title, weight=SEMIBOLD)
        shown = f"{rows} of {samples} samples" if rows < samples else f"{samples} sample{'s' if samples > 1 else ''}"
        text(canvas, shown, max(last.right, first.x + scale.near(300)), baseline, size=scale.small, color=MUTED, align="right")
        for number, row in enumerate(self._cells, 1):
            left, middle = row[0].x - scale.near(12), row[0].y + row[0].height // 2 + scale.near(5)
            text(canvas, str(number), left, middle, size=scale.label, color=MUTED, align="right")
            for cell in row:
                fill(canvas, cell, PANEL)
        for step, cell in zip(self._steps, self._cells[-1], strict=True):
            middle, label = cell.x + cell.width // 2, self._caption.lead_label(step)
            text(canvas, label, middle, cell.bottom + scale.near(18), size=scale.small, color=MUTED, align="center")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the futures, or how many frames are missing until the first forecast."""
        if view.futures is None:
            first, last = self._cells[0][0], self._cells[-1][-1]
            explain_missing(canvas, Rect(first.x, first.y, last.right - first.x, last.bottom - first.y), self._scale, view)
            return
        for row, sample in zip(self._cells, view.futures, strict=False):
            for cell, step in zip(row, self._steps, strict=True):
                if step <= len(sample):
                    put_frame(canvas, cell, sample[step - 1])
