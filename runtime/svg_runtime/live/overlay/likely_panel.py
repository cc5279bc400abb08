"""Overlay `likely`: the most and the least typical of the sampled futures."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.overlay.images import put_frame
from svg_runtime.live.overlay.layout import MAX_COLUMNS, content_of, shown_steps, strip_cells
from svg_runtime.live.overlay.theme import MUTED, PANEL, Canvas, Rect, Scale, fill, text
from svg_runtime.live.overlay.titles import draw_title
from svg_runtime.live.overlay.view import Caption, View
from svg_runtime.live.overlay.waiting import explain, explain_missing

_ROWS = (("Most likely", "nearest to the mean of samples"), ("Least likely", "farthest from it"))
_ENOUGH_SAMPLES = 3  # two are equally far from their mean


class LikelyPanel:
    """Two strips: the samples nearest to and farthest from the mean of all, over the whole horizon.

    By their latents no sample is likelier than another: all are drawn from the prior.
    """

    def __init__(self, tile: Rect, scale: Scale, caption: Caption) -> None:
        content = content_of(tile, scale)
        between = scale.near(24) + scale.title + scale.near(12)
        height = (content.height - between) // 2
        self._scale = scale
        self._caption = caption
        self._rows = [
            _strip(Rect(content.x, content.y + row * (height + between), content.width, height), scale, caption)
            for row in range(2)
        ]
        self._steps = shown_steps(caption.horizon, len(self._rows[0]))

    def draw_static(self, canvas: Canvas) -> None:
        """Draw titles, lead times and empty cells."""
        for cells, (title, meaning) in zip(self._rows, _ROWS, strict=True):
            draw_title(canvas, _hull(cells), self._scale, title=title, note=meaning)
            for step, cell in zip(self._steps, cells, strict=True):
                fill(canvas, cell, PANEL)
                label, below = self._caption.lead_label(step), cell.bottom + self._scale.near(18)
                text(canvas, label, cell.x + cell.width // 2, below, size=self._scale.small, color=MUTED, align="center")

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the two samples, or why there are none."""
        if view.futures is None:
            explain_missing(canvas, _hull(self._rows[0]), self._scale, view)
        elif len(view.futures) < _ENOUGH_SAMPLES:
            explain(canvas, _hull(self._rows[0]), self._scale, f"needs {_ENOUGH_SAMPLES} samples")
        else:
            distances = distances_from_mean(view.futures)
            for cells, sample in zip(self._rows, (distances.argmin(), distances.argmax()), strict=True):
                for step, cell in zip(self._steps, cells, strict=True):
                    if step <= view.futures.shape[1]:
                        put_frame(canvas, cell, view.futures[sample, step - 1])


def distances_from_mean(futures: NDArray[np.float32]) -> NDArray[np.float64]:
    """Root mean squared distance of each sample from the mean of samples, over horizon and pixels: (S, ...) -> (S,)."""
    flat = futures.reshape(len(futures), -1)
    mean = flat.mean(0)
    squares = np.array([np.dot(far, far) for far in (sample - mean for sample in flat)], np.float64)
    distances: NDArray[np.float64] = np.sqrt(squares / mean.size)
    return distances


def _strip(area: Rect, scale: Scale, caption: Caption) -> tuple[Rect, ...]:
    """One row of cells, of as many columns as make them cover most of `area`, in its middle."""
    rows = [
        strip_cells(area=area, frame_hw=caption.frame_hw, rows=1, columns=columns, scale=scale)[0]
        for columns in range(1, min(caption.horizon, MAX_COLUMNS) + 1)
    ]
    best = max(rows, key=lambda cells: (sum(cell.width * cell.height for cell in cells), len(cells)))
    shift = (area.width - _hull(best).width) // 2
    return tuple(Rect(cell.x + shift, cell.y, cell.width, cell.height) for cell in best)


def _hull(cells: tuple[Rect, ...]) -> Rect:
    first, last = cells[0], cells[-1]
    return Rect(first.x, first.y, last.right - first.x, last.bottom - first.y)
