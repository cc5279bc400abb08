"""What the page's pictures show: the live picture with one overlay, and the grid of sampled futures."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from svg_runtime.live.overlay import Caption, ForecastPicture, View, least_display
from svg_runtime.live.overlay.contour_panel import ContourPanel
from svg_runtime.live.overlay.ghost_panel import GhostPanel
from svg_runtime.live.overlay.images import put_frame
from svg_runtime.live.overlay.layout import content_of, shown_steps, strip_cells
from svg_runtime.live.overlay.names import DEFAULT_WH
from svg_runtime.live.overlay.scene import mark_seen, put_scene
from svg_runtime.live.overlay.theme import PANEL, Canvas, Rect, Scale
from svg_runtime.live.page.names import OVERLAYS, WHOLE_PICTURE

_SHORT, _LONG = 480, 800  # pixels: bounds of the longer side of the live picture
_SMALL_WH = (400, 400)  # pixels: the least display of a phone, on which smaller type than that of DEFAULT_WH cannot be read
_QUALITY = 80  # of JPEG
_GRID_WIDTH, _GRID_HEIGHT = 960, 2400  # pixels: bounds of the grid of futures
GRID_COLUMNS = 6
_SCALE = Scale(1.3)  # of lines: the picture is shown smaller than it is, on a phone


@dataclass(frozen=True)
class Look:
    """What a picture depends on besides the view."""

    overlay: str
    caption: Caption  # of the forecasts as they are now


class LivePainter:
    """Composes the live picture with an overlay; what never changes is drawn once for a look and a size of the picture.

    Args:
        small: overlays that are a display of their own are composed as small as they can be read.
    """

    def __init__(self, small: bool = False) -> None:
        self._small = small
        self._key: tuple[Look, tuple[int, ...]] | None = None
        self._panel: GhostPanel | ContourPanel | None = None
        self._whole: ForecastPicture | None = None

    def compose(self, view: View, look: Look) -> Canvas:
        """Return a new picture, (height, width, 3) uint8 RGB."""
        height, width = view.picture.shape[:2]
        key = (look, (height, width))
        factor = min(max(_SHORT, max(height, width)), _LONG) / max(height, width)
        size_hw = max(1, round(height * factor)), max(1, round(width * factor))
        if key != self._key:
            self._prepare(look, size_hw)
            self._key = key
        if self._whole is not None:
            return self._whole.annotate(view)
        canvas: Canvas = np.full((*size_hw, 3), PANEL, np.uint8)
        if self._panel is not None:
            self._panel.annotate(canvas, view)
            return canvas
        box = Rect(0, 0, size_hw[1], size_hw[0])
        scene = put_scene(canvas=canvas, box=box, picture=view.picture, frame_hw=look.caption.frame_hw, region=view.region)
        mark_seen(canvas, scene, _SCALE)
        return canvas

    def _prepare(self, look: Look, size_hw: tuple[int, int]) -> None:
        self._panel = self._whole = None
        if look.overlay not in WHOLE_PICTURE:
            overlays = (look.overlay,)
            display_wh = least_display(overlays, _SMALL_WH) if self._small else DEFAULT_WH
            self._whole = ForecastPicture(look.caption, display_wh, overlays)
        elif look.overlay != "live":
            panel = GhostPanel if look.overlay == "ghost" else ContourPanel
            self._panel = panel(_tile_around(size_hw), _SCALE, look.caption)


def compose_grid(view: View) -> Canvas:
    """All samples, a row each, at some forecast steps, see `grid_steps`; one empty cell without a forecast."""
    futures = view.futures
    if futures is None:
        return np.full((64, _GRID_WIDTH, 3), PANEL, np.uint8)
    samples, horizon, height, width = futures.shape[:4]
    steps = grid_steps(horizon)
    area = Rect(0, 0, _GRID_WIDTH, _GRID_HEIGHT)
    cells = strip_cells(area=area, frame_hw=(height, width), rows=samples, columns=len(steps), scale=Scale())
    last = cells[-1][-1]
    canvas: Canvas = np.full((last.bottom, last.right, 3), PANEL, np.uint8)
    for row, sample in zip(cells, futures, strict=True):
        for cell, step in zip(row, steps, strict=True):
            put_frame(canvas, cell, sample[step - 1])
    return canvas


def grid_steps(horizon: int) -> list[int]:
    """The forecast steps, from 1, that the columns of the grid show."""
    return shown_steps(horizon, GRID_COLUMNS)


def encode_jpeg(canvas: Canvas) -> bytes:
    """Encode (H, W, 3) RGB."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, _QUALITY))
    return data.tobytes()


def encode_png(canvas: Canvas) -> bytes:
    """Encode (H, W, 3) RGB."""
    _, data = cv2.imencode(".png", cv2.cvtColor(canvas, cv2.COLOR_RGB2BGR))
    return data.tobytes()


def start_overlay(overlays: tuple[str, ...]) -> str:
    """The overlay that the page begins with: of --overlay, the first."""
    return "ghost" if overlays == ("panels",) else next(name for name in overlays if name in OVERLAYS)


def _tile_around(size_hw: tuple[int, int]) -> Rect:
    """A tile whose content is a canvas of this size; its title, which the page has, would be above the canvas."""
    height, width = size_hw
    content = content_of(Rect(0, 0, width, height), _SCALE)
    return Rect(0, -content.y, width, height + content.y + height - content.bottom)
