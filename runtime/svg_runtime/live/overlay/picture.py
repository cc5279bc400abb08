"""Composes the picture: static parts are drawn once, and the panels annotate a copy of them per frame."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from svg_runtime.live.overlay.banner import Banner
from svg_runtime.live.overlay.layout import HEIGHT, MARGIN, WIDTH, make_layout
from svg_runtime.live.overlay.live_panel import LivePanel
from svg_runtime.live.overlay.mean_panel import MeanPanel
from svg_runtime.live.overlay.spread_panel import SpreadPanel
from svg_runtime.live.overlay.status_panel import StatusPanel
from svg_runtime.live.overlay.strip_panel import StripPanel
from svg_runtime.live.overlay.theme import BACKGROUND, LABEL, LINE, MUTED, SEMIBOLD, Canvas, Rect, fill, shorten, text
from svg_runtime.live.overlay.trace_panel import TracePanel
from svg_runtime.live.overlay.view import Caption, View

_HEADER_BASELINE, _HEADER_SIZE, _RULE = 44, 22, 62


class Panel(Protocol):
    """A part of the picture."""

    def draw_static(self, canvas: Canvas) -> None:
        """Draw what never changes."""
        ...

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the contents of `view` on a canvas with only the static parts."""
        ...


class ForecastPicture:
    """The whole picture, 1280 x 720."""

    size_wh = (WIDTH, HEIGHT)

    def __init__(self, caption: Caption) -> None:
        layout = make_layout(caption.frame_hw, caption.samples, caption.horizon)
        self._panels: tuple[Panel, ...] = (
            LivePanel(layout.live, caption),
            StripPanel(layout.cells, caption),
            MeanPanel(layout.mean, caption),
            SpreadPanel(layout.spread, layout.scale, caption),
            TracePanel(layout.trace, caption),
            StatusPanel(layout.status, caption),
            Banner(layout.banner),
        )
        self._static: Canvas = np.full((HEIGHT, WIDTH, 3), BACKGROUND, np.uint8)
        _draw_header(self._static, caption)
        for panel in self._panels:
            panel.draw_static(self._static)

    def annotate(self, view: View) -> Canvas:
        """Draw `view` and return the picture, a new (720, 1280, 3) uint8 RGB array."""
        canvas: Canvas = self._static.copy()
        for panel in self._panels:
            panel.annotate(canvas, view)
        return canvas


def _draw_header(canvas: Canvas, caption: Caption) -> None:
    text(canvas, "Stochastic video forecast", MARGIN, _HEADER_BASELINE, size=_HEADER_SIZE, weight=SEMIBOLD)
    samples = f"{caption.samples} sample{'s' if caption.samples > 1 else ''}"
    subtitle = shorten((" " * 6).join((caption.model, caption.backend, samples)), 760, LABEL)
    text(canvas, subtitle, WIDTH - MARGIN, _HEADER_BASELINE, color=MUTED, align="right")
    fill(canvas, Rect(MARGIN, _RULE, WIDTH - 2 * MARGIN, 1), LINE)
