"""The picture of several cameras: a tile each, with the camera's name, its state, and the same overlays as a picture of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svg_runtime.live.overlay.banner import problem_of
from svg_runtime.live.overlay.ghost_panel import GhostPanel
from svg_runtime.live.overlay.layout import Frame, make_frame, make_tiles
from svg_runtime.live.overlay.names import DEFAULT, Tiles, can_be_read, refuse_small
from svg_runtime.live.overlay.picture import Panel, draw_header, overlay_panels
from svg_runtime.live.overlay.theme import (
    BACKGROUND,
    MUTED,
    REGULAR,
    SEMIBOLD,
    TEXT,
    WARNING,
    Canvas,
    Rect,
    Scale,
    fill,
    shorten,
    text,
    text_width,
)
from svg_runtime.live.overlay.view import Caption, View

_DESIGN_WH = (1216, 600)  # of a tile that is drawn at full size
_GAP = 24
SMALL_OVERLAYS = ("ghost",)  # what can be read in a small tile, and shows most


@dataclass(frozen=True)
class TileView:
    """One camera.

    Attributes:
        view: its newest; None: it has given no picture yet.
        note: what is to be said of the camera, such as that it is lost.
        alarm: whether there is one.
        arrived_s: `time.monotonic()` of the view: a clock that is set back makes no old one the newest.
    """

    view: View | None = None
    note: str = ""
    alarm: bool = False
    arrived_s: float = 0.0


@dataclass
class WallView(View):
    """One moment of all cameras; `picture`, `tick` and `time` are those of the display."""

    tiles: tuple[TileView, ...] = ()


class WallPicture:
    """A grid of equal tiles, of which only those that have changed are drawn anew.

    Args:
        captions: of each camera as the run starts; `source` is its name.
        size_wh: of the picture in pixels.
        overlays: what each tile shows.

    Attributes:
        composed: how many views of each camera were drawn.
    """

    def __init__(self, captions: Sequence[Caption], size_wh: tuple[int, int], overlays: Sequence[str]) -> None:
        self._at_start = captions
        self._size_wh = size_wh
        self._overlays = overlays
        self._drawn: list[TileView | None] = [None for _ in captions]
        self.composed = [0 for _ in captions]
        self._prepare(captions)

    def annotate(self, view: View) -> Canvas:
        """Draw a `WallView` and return the picture, a new (height, width, 3) uint8 RGB array."""
        assert isinstance(view, WallView)
        captions = self._captions_of(view)
        changed = captions != self._captions
        if changed:
            self._prepare(captions)
        for number, (tile, content) in enumerate(zip(self._tiles, view.tiles, strict=True)):
            drawn = self._drawn[number]
            is_new = drawn is None or drawn.view is not content.view
            is_same = drawn is not None and not is_new and (drawn.note, drawn.alarm) == (content.note, content.alarm)
            if is_same and not changed:
                continue
            tile.rect.of(self._canvas)[:] = tile.rect.of(self._static)
            tile.annotate(self._canvas, content)
            self._drawn[number] = content
            self.composed[number] += is_new and content.view is not None
        canvas: Canvas = self._canvas.copy()
        return canvas

    def _captions_of(self, view: WallView) -> Sequence[Caption]:
        """With the counts of the newest forecast: all cameras have the same, and are forecast together. Steps are their own."""
        made = [
            (tile.arrived_s, tile.view.futures.shape)
            for tile in view.tiles
            if tile.view is not None and tile.view.futures is not None
        ]
        samples, horizon = max(made)[1][:2] if made else (self._captions[0].samples, self._captions[0].horizon)
        return [
            caption.with_counts(samples, horizon).with_step(None if tile.view is None else tile.view.step_s)
            for caption, tile in zip(self._at_start, view.tiles, strict=True)
        ]

    def _prepare(self, captions: Sequence[Caption]) -> None:
        frame, (width, height) = make_frame(self._size_wh), self._size_wh
        self._captions = list(captions)
        self._tiles = [
            _CameraTile(rect, _tile_scale(rect, frame.scale), caption, self._overlays)
            for rect, caption in zip(_grid(frame, self._size_wh, len(captions)), captions, strict=True)
        ]
        self._static: Canvas = np.full((height, width, 3), BACKGROUND, np.uint8)
        draw_header(self._static, frame, captions[0])
        for tile in self._tiles:
            tile.draw_static(self._static)
        self._canvas = self._static.copy()


class _CameraTile:
    """Name and state above, the overlays, and what is wrong below.

    Attributes:
        rect: all of it.
    """

    def __init__(self, rect: Rect, scale: Scale, caption: Caption, overlays: Sequence[str]) -> None:
        self.rect = rect
        self._scale = scale
        self._name = caption.source
        self._baseline = rect.y + scale.title + scale.near(4)
        self._foot = Rect(rect.x, rect.bottom - scale.near(20), rect.width, scale.near(20))
        self._panels: Sequence[Panel] = [GhostPanel(rect, scale, caption, titled=False)]
        if tuple(overlays) != SMALL_OVERLAYS:
            self._panels = overlay_panels(overlays, _body(rect, scale), scale, caption)

    def draw_static(self, canvas: Canvas) -> None:
        """Draw what never changes; the name may be in another colour."""
        for panel in self._panels:
            panel.draw_static(canvas)

    def annotate(self, canvas: Canvas, tile: TileView) -> None:
        """Draw one camera."""
        view = tile.view
        if view is not None:
            for panel in self._panels:
                panel.annotate(canvas, view)
        problem = None if view is None else problem_of(view)
        if tile.note:
            if view is not None:
                self._darken(canvas)
            self._draw_problem(canvas, tile.note)
        elif problem is not None:
            what, why, _ = problem
            self._draw_problem(canvas, f"{what}: {why}")
        self._draw_name(canvas, tile)

    def _draw_name(self, canvas: Canvas, tile: TileView) -> None:
        rect, scale, view = self.rect, self._scale, tile.view
        state = ""
        if tile.alarm:
            state = "ALARM"
        elif view is not None and not tile.note:
            state = f"{view.fps:.1f} fps   {view.latency_ms:.0f} ms"
        room = rect.width - text_width(state, scale.small, SEMIBOLD) - scale.near(12)
        name = shorten(self._name, room, scale.title, SEMIBOLD)
        color, weight = (WARNING, SEMIBOLD) if tile.alarm else (TEXT, REGULAR)
        text(canvas, name, rect.x, self._baseline, size=scale.title, color=color, weight=SEMIBOLD)
        color = WARNING if tile.alarm else MUTED
        text(canvas, state, rect.right, self._baseline, size=scale.small, color=color, weight=weight, align="right")

    def _draw_problem(self, canvas: Canvas, problem: str) -> None:
        size, padding = self._scale.small, self._scale.near(8)
        fill(canvas, self._foot, WARNING)
        line = shorten(problem, self._foot.width - 2 * padding, size, SEMIBOLD)
        baseline = self._foot.y + self._scale.near(14)
        text(canvas, line, self._foot.x + padding, baseline, size=size, color=BACKGROUND, weight=SEMIBOLD)

    def _darken(self, canvas: Canvas) -> None:
        """A picture that is old must not be taken for a live one."""
        area = self.rect.of(canvas)
        area[:] = (area // 2) + np.array(BACKGROUND, np.uint8) // 2


def default_overlays(size_wh: tuple[int, int], cameras: int) -> tuple[str, ...]:
    """What is shown of so many cameras where nothing was asked for: a smaller overlay where that of one cannot be read."""
    return DEFAULT if cameras == 1 or can_be_read(_tiles_in(size_wh, DEFAULT, cameras)) else SMALL_OVERLAYS


def check_wall(size_wh: tuple[int, int], overlays: tuple[str, ...], cameras: int) -> None:
    """Refuse overlays that cannot be read in the tiles of so many cameras.

    Raises:
        UsageError: with a size that would do.
    """
    refuse_small(lambda wh: _tiles_in(wh, overlays, cameras), size_wh)


def _tiles_in(size_wh: tuple[int, int], overlays: tuple[str, ...], cameras: int) -> Tiles:
    frame = make_frame(size_wh)
    rect = _grid(frame, size_wh, cameras)[0]
    scale = _tile_scale(rect, frame.scale)
    tiles = [rect] if overlays == SMALL_OVERLAYS else make_tiles(_body(rect, scale), len(overlays), scale)
    return [(name, (tile.width, tile.height)) for name, tile in zip(overlays, tiles, strict=True)]


def _grid(frame: Frame, size_wh: tuple[int, int], count: int) -> list[Rect]:
    """Equal tiles, as many columns as rows or one more; in a tall picture the other way round."""
    many = math.ceil(math.sqrt(count))
    few = math.ceil(count / many)
    columns, rows = (many, few) if size_wh[0] >= size_wh[1] else (few, many)
    gap = frame.scale.px(_GAP)
    top = frame.rule.bottom + frame.scale.near(10)
    area = Rect(frame.body.x, top, frame.body.width, size_wh[1] - frame.scale.near(8) - top)
    width, height = (area.width + gap) // columns - gap, (area.height + gap // 2) // rows - gap // 2
    return [
        Rect(area.x + number % columns * (width + gap), area.y + number // columns * (height + gap // 2), width, height)
        for number in range(count)
    ]


def _tile_scale(rect: Rect, scale: Scale) -> Scale:
    return Scale(min(rect.width / _DESIGN_WH[0], rect.height / _DESIGN_WH[1], scale.factor))


def _body(rect: Rect, scale: Scale) -> Rect:
    """Below the name, above what is wrong."""
    top = scale.title + scale.near(8)
    return Rect(rect.x, rect.y + top, rect.width, rect.height - top - scale.near(22))
