"""Composes the picture: static parts are drawn once, and the panels annotate a copy of them per frame."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

import numpy as np

from svg_runtime.live.overlay.banner import Banner
from svg_runtime.live.overlay.before_panel import BeforePanel
from svg_runtime.live.overlay.contour_panel import ContourPanel
from svg_runtime.live.overlay.ghost_panel import GhostPanel
from svg_runtime.live.overlay.layout import DEFAULT_SIZE_WH, Frame, make_frame, make_layout, make_tiles
from svg_runtime.live.overlay.likely_panel import LikelyPanel
from svg_runtime.live.overlay.live_panel import LivePanel
from svg_runtime.live.overlay.mean_panel import MeanPanel
from svg_runtime.live.overlay.names import DEFAULT, Tiles, refuse_small, smallest_display
from svg_runtime.live.overlay.spread_panel import SpreadPanel
from svg_runtime.live.overlay.status_line import StatusLine
from svg_runtime.live.overlay.status_panel import StatusPanel
from svg_runtime.live.overlay.strip_panel import StripPanel
from svg_runtime.live.overlay.theme import (
    BACKGROUND,
    LINE,
    MUTED,
    SEMIBOLD,
    Canvas,
    Rect,
    Scale,
    fill,
    shorten,
    text,
    text_width,
)
from svg_runtime.live.overlay.trace_panel import TracePanel
from svg_runtime.live.overlay.view import Caption, View

_NAME = "Stochastic video forecast"


class Panel(Protocol):
    """A part of the picture."""

    def draw_static(self, canvas: Canvas) -> None:
        """Draw what never changes."""
        ...

    def annotate(self, canvas: Canvas, view: View) -> None:
        """Draw the contents of `view` on a canvas with only the static parts."""
        ...


class ForecastPicture:
    """The whole picture. Where a forecast has other counts or steps than the one before it, labels and layout follow.

    Args:
        caption: of the forecasts as the run starts.
        size_wh: of the picture in pixels.
        overlays: names of what is shown, each in a tile of its own; `check_display` tells whether they can be read.
    """

    def __init__(self, caption: Caption, size_wh: tuple[int, int] = DEFAULT_SIZE_WH, overlays: Sequence[str] = DEFAULT) -> None:
        self._at_start = caption
        self._size_wh = size_wh
        self._overlays = overlays
        self._prepare(caption)

    def annotate(self, view: View) -> Canvas:
        """Draw `view` and return the picture, a new (height, width, 3) uint8 RGB array."""
        samples, horizon = (self._caption.samples, self._caption.horizon) if view.futures is None else view.futures.shape[:2]
        caption = self._at_start.with_counts(samples, horizon).with_step(view.step_s)
        if caption != self._caption:
            self._prepare(caption)
        canvas: Canvas = self._static.copy()
        for panel in self._panels:
            panel.annotate(canvas, view)
        return canvas

    def _prepare(self, caption: Caption) -> None:
        frame, (width, height) = make_frame(self._size_wh), self._size_wh
        panels: list[Panel] = [] if "panels" in self._overlays else [StatusLine(frame.foot, frame.scale)]
        panels += overlay_panels(self._overlays, frame.body, frame.scale, caption)
        self._caption = caption
        self._panels = [*panels, Banner(frame.foot, frame.scale)]
        self._static: Canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
        draw_header(self._static, frame, caption)
        for panel in self._panels:
            panel.draw_static(self._static)


def check_display(size_wh: tuple[int, int], overlays: Sequence[str]) -> None:
    """Refuse overlays that cannot be read in a picture of this size.

    Raises:
        UsageError: with the size that would do.
    """
    refuse_small(partial(_tiles_in, overlays), size_wh)


def least_display(overlays: Sequence[str], size_wh: tuple[int, int]) -> tuple[int, int]:
    """Return the smallest size, of sides not shorter than in `size_wh`, in which the overlays can be read."""
    return smallest_display(partial(_tiles_in, overlays), size_wh) or DEFAULT_SIZE_WH


def _tiles_in(overlays: Sequence[str], size_wh: tuple[int, int]) -> Tiles:
    frame = make_frame(size_wh)
    tiles = make_tiles(frame.body, len(overlays), frame.scale)
    return [(name, (tile.width, tile.height)) for name, tile in zip(overlays, tiles, strict=True)]


def overlay_panels(overlays: Sequence[str], body: Rect, scale: Scale, caption: Caption) -> list[Panel]:
    """The panels of overlays by their names, each in a tile of `body`."""
    panels: list[Panel] = []
    for name, tile in zip(overlays, make_tiles(body, len(overlays), scale), strict=True):
        panels += _OVERLAYS[name](tile, scale, caption)
    return panels


def _dashboard(tile: Rect, scale: Scale, caption: Caption) -> list[Panel]:
    """Overlay `panels`: live picture, samples, mean, spread, surprise and numbers."""
    whole = make_frame(DEFAULT_SIZE_WH).body
    scale = Scale(min(tile.width / whole.width, tile.height / whole.height, scale.factor))
    layout = make_layout(tile=tile, scale=scale, frame_hw=caption.frame_hw, samples=caption.samples, horizon=caption.horizon)
    return [
        LivePanel(layout.live, scale, caption),
        StripPanel(layout.cells, scale, caption),
        MeanPanel(layout.mean, scale, caption),
        SpreadPanel(layout.spread, layout.bar, scale, caption),
        TracePanel(layout.trace, scale, caption),
        StatusPanel(layout.status, scale, caption),
    ]


_OVERLAYS: dict[str, Callable[[Rect, Scale, Caption], list[Panel]]] = {
    "panels": _dashboard,
    "ghost": lambda tile, scale, caption: [GhostPanel(tile, scale, caption)],
    "contours": lambda tile, scale, caption: [ContourPanel(tile, scale, caption)],
    "before": lambda tile, scale, caption: [BeforePanel(tile, scale, caption)],
    "likely": lambda tile, scale, caption: [LikelyPanel(tile, scale, caption)],
}


def draw_header(canvas: Canvas, frame: Frame, caption: Caption) -> None:
    """Draw what the picture is, and of which model."""
    scale, rule = frame.scale, frame.rule
    text(canvas, _NAME, rule.x, frame.heading, size=scale.heading, weight=SEMIBOLD)
    samples = f"{caption.samples} sample{'s' if caption.samples > 1 else ''}"
    room = rule.width - text_width(_NAME, scale.heading, SEMIBOLD) - scale.near(32)
    subtitle = (" " * (6 if scale.factor >= 1 else 3)).join((caption.model, caption.backend, samples))
    size = scale.label if text_width(subtitle, scale.label) <= room else scale.small
    text(canvas, shorten(subtitle, room, size), rule.right, frame.heading, size=size, color=MUTED, align="right")
    fill(canvas, rule, LINE)
