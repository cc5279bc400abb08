"""Where everything is: the frame of the picture, its tiles, and the grid of the panels. Sizes are those at 1280 x 720."""

from __future__ import annotations

import math
from dataclasses import dataclass

from svg_runtime.live.overlay.theme import Rect, Scale

DEFAULT_SIZE_WH = (1280, 720)
MAX_ROWS, MAX_COLUMNS = 4, 10

_MARGIN, _LEAST_MARGIN = 32, 12
_TITLE_GAP = 12  # between the baseline of a panel's title and the panel
_ABOVE_TITLE = 17
_LIVE_SHARE = 336 / 492  # of the height, for the live picture; the rest is the lower row
_TALLEST = 1.2  # the lower row, by the width of the mean picture
_MOST_OF_WIDTH = 0.4  # for the live picture
_GAP = 24  # between mean and spread; together they are as wide as the live picture
_CELL_GAP = 6
_LEAST_CELL = 44  # where time labels still fit below


@dataclass(frozen=True)
class Frame:
    """What surrounds the tiles."""

    scale: Scale
    margin: int
    heading: int  # baseline
    rule: Rect
    body: Rect
    foot: Rect  # one line: banner or status


def make_frame(size_wh: tuple[int, int]) -> Frame:
    """Lay out a picture of this size."""
    width, height = size_wh
    scale = Scale.of(width, height)
    margin = max(scale.px(_MARGIN), _LEAST_MARGIN)
    inner = width - 2 * margin
    heading = scale.px(22) + scale.heading
    rule = Rect(margin, heading + scale.px(18), inner, scale.px(1))
    foot = Rect(margin, height - scale.px(3) - scale.near(20), inner, scale.near(20))
    body = Rect(margin, rule.y, inner, foot.y - rule.y)
    return Frame(scale=scale, margin=margin, heading=heading, rule=rule, body=body, foot=foot)


def make_tiles(body: Rect, count: int, scale: Scale) -> list[Rect]:
    """Divide `body` into `count` tiles: as many columns as rows, or one more; in a tall picture the other way round."""
    many, few = math.ceil(math.sqrt(count)), math.ceil(count / math.ceil(math.sqrt(count)))
    rows = few if body.width >= body.height else many
    tiles, gap = [], scale.px(_MARGIN)
    for row, in_row in enumerate(_spread_out(count, rows)):
        top, bottom = body.y + row * body.height // rows, body.y + (row + 1) * body.height // rows
        width = (body.width + gap) // in_row - gap
        tiles += [Rect(body.x + place * (width + gap), top, width, bottom - top) for place in range(in_row)]
    return tiles


def content_of(tile: Rect, scale: Scale) -> Rect:
    """The part of a tile below its title and above the line of labels at its foot."""
    top = tile.y + scale.px(_ABOVE_TITLE) + scale.title + scale.near(_TITLE_GAP)
    return Rect(tile.x, top, tile.width, tile.bottom - scale.near(24) - top)


def title_baseline(rect: Rect, scale: Scale) -> int:
    """Return the baseline row of a panel's title."""
    return rect.y - scale.near(_TITLE_GAP)


@dataclass(frozen=True)
class Layout:
    """Positions of all panels. Pictures keep the model's aspect ratio inside their box."""

    live: Rect
    cells: tuple[tuple[Rect, ...], ...]  # rows: samples, columns: forecast steps
    mean: Rect
    spread: Rect
    bar: Rect  # color scale of the spread
    trace: Rect
    status: Rect


def make_layout(tile: Rect, scale: Scale, frame_hw: tuple[int, int], samples: int, horizon: int) -> Layout:
    """Lay out the panels of a model with frames of `frame_hw` pixels."""
    px, near = scale.px, scale.near
    top = tile.y + px(_ABOVE_TITLE) + scale.title + near(_TITLE_GAP)
    end = tile.bottom - px(25) - near(16)  # below: the color scale and its labels
    between = scale.title + near(_TITLE_GAP) + px(27)
    live_height = live_width = min(round((end - top - between) * _LIVE_SHARE), round(_MOST_OF_WIDTH * tile.width))
    small = (live_width - px(_GAP)) // 2
    lower = top + live_height + between
    lower_height = min(end - lower, round(_TALLEST * small))  # in a tall tile, room is left below
    left = tile.x + live_width + max(px(66), near(36))
    status_width = max(px(216), near(182))
    trace_right = tile.right - status_width - px(30)
    spread = fit(Rect(tile.x + small + px(_GAP), lower, small, lower_height), frame_hw)
    return Layout(
        live=fit(Rect(tile.x, top, live_width, live_height), frame_hw),
        cells=strip_cells(
            area=Rect(left, top, tile.right - left, live_height - px(14)), frame_hw=frame_hw, rows=min(samples, MAX_ROWS),
            columns=min(horizon, MAX_COLUMNS, (tile.right - left) // near(_LEAST_CELL)), scale=scale,
        ),
        mean=fit(Rect(tile.x, lower, small, lower_height), frame_hw),
        spread=spread,
        bar=Rect(spread.x, spread.bottom + px(10), spread.width, px(8)),
        trace=Rect(left, lower, trace_right - left, lower_height),
        status=Rect(tile.right - status_width, lower, status_width, lower_height),
    )  # fmt: skip


def shown_steps(horizon: int, columns: int = MAX_COLUMNS) -> list[int]:
    """Forecast steps (from 1) that a strip of so many columns shows: all, or evenly spaced ones up to the last."""
    columns = min(horizon, columns)
    return [round((column + 1) * horizon / columns) for column in range(columns)]


def strip_cells(area: Rect, frame_hw: tuple[int, int], rows: int, columns: int, scale: Scale) -> tuple[tuple[Rect, ...], ...]:
    """A grid of equal cells with the frame's aspect ratio, from the upper left of `area`."""
    gap = scale.px(_CELL_GAP)
    width = (area.width + gap) // columns - gap
    height = (area.height + gap) // rows - gap
    cell = fit(Rect(0, 0, width, height), frame_hw)
    step_x, step_y = cell.width + gap, cell.height + gap
    return tuple(
        tuple(Rect(area.x + c * step_x, area.y + r * step_y, cell.width, cell.height) for c in range(columns))
        for r in range(rows)
    )


def fit(box: Rect, frame_hw: tuple[int, int]) -> Rect:
    """Largest rectangle of the frame's aspect ratio in the upper left of `box`."""
    scale = min(box.height / frame_hw[0], box.width / frame_hw[1])
    return Rect(box.x, box.y, max(1, round(frame_hw[1] * scale)), max(1, round(frame_hw[0] * scale)))


def _spread_out(count: int, rows: int) -> list[int]:
    """`count` in so many parts, as equal as possible, the smaller ones first: what is alone in a row is larger."""
    return [(count + row) // rows for row in range(rows)]
