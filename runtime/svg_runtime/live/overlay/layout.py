"""The grid of the picture: 1280 x 720, one margin, panels that share their edges."""

from __future__ import annotations

from dataclasses import dataclass

from svg_runtime.live.overlay.theme import Rect

WIDTH, HEIGHT = 1280, 720
MARGIN = 32
MAX_ROWS, MAX_COLUMNS = 4, 10

_TITLE_GAP = 12  # between the baseline of a panel's title and the panel
_TOP, _BOTTOM = 108, 500  # upper edges of the two rows of panels
_LIVE, _SMALL = 336, 156  # sides of the live picture and of the mean and spread pictures
_GAP = 24  # between mean and spread; together they are as wide as the live picture
_STRIP_LEFT = 434
_CELL_GAP = 6
_TRACE_RIGHT = 1002


@dataclass(frozen=True)
class Layout:
    """Positions of all panels. Pictures keep the model's aspect ratio inside their box."""

    live: Rect
    cells: tuple[tuple[Rect, ...], ...]  # rows: samples, columns: forecast steps
    mean: Rect
    spread: Rect
    scale: Rect  # color scale of the spread
    trace: Rect
    status: Rect
    banner: Rect


def make_layout(frame_hw: tuple[int, int], samples: int, horizon: int) -> Layout:
    """Lay out the picture for a model with frames of `frame_hw` pixels."""
    spread = _fit(Rect(MARGIN + _SMALL + _GAP, _BOTTOM, _SMALL, _SMALL), frame_hw)
    return Layout(
        live=_fit(Rect(MARGIN, _TOP, _LIVE, _LIVE), frame_hw),
        cells=_cells(frame_hw, min(samples, MAX_ROWS), min(horizon, MAX_COLUMNS)),
        mean=_fit(Rect(MARGIN, _BOTTOM, _SMALL, _SMALL), frame_hw),
        spread=spread,
        scale=Rect(spread.x, _BOTTOM + _SMALL + 10, spread.width, 8),
        trace=Rect(_STRIP_LEFT, _BOTTOM, _TRACE_RIGHT - _STRIP_LEFT, _SMALL),
        status=Rect(_TRACE_RIGHT + 30, _BOTTOM, WIDTH - MARGIN - _TRACE_RIGHT - 30, _SMALL),
        banner=Rect(MARGIN, HEIGHT - 23, WIDTH - 2 * MARGIN, 20),
    )


def title_baseline(rect: Rect) -> int:
    """Return the baseline row of a panel's title."""
    return rect.y - _TITLE_GAP


def shown_steps(horizon: int) -> list[int]:
    """Forecast steps (from 1) that the strip shows: all, or evenly spaced ones up to the last."""
    columns = min(horizon, MAX_COLUMNS)
    return [round((column + 1) * horizon / columns) for column in range(columns)]


def _cells(frame_hw: tuple[int, int], rows: int, columns: int) -> tuple[tuple[Rect, ...], ...]:
    width = (WIDTH - MARGIN - _STRIP_LEFT + _CELL_GAP) // columns - _CELL_GAP
    height = (_LIVE - 14 + _CELL_GAP) // rows - _CELL_GAP  # 14: the time labels below end level with the live picture
    cell = _fit(Rect(0, 0, width, height), frame_hw)
    step_x, step_y = cell.width + _CELL_GAP, cell.height + _CELL_GAP
    return tuple(
        tuple(Rect(_STRIP_LEFT + c * step_x, _TOP + r * step_y, cell.width, cell.height) for c in range(columns))
        for r in range(rows)
    )


def _fit(box: Rect, frame_hw: tuple[int, int]) -> Rect:
    """Largest rectangle of the frame's aspect ratio in the upper left of `box`."""
    scale = min(box.height / frame_hw[0], box.width / frame_hw[1])
    return Rect(box.x, box.y, max(1, round(frame_hw[1] * scale)), max(1, round(frame_hw[0] * scale)))
