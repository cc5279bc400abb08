"""The names of the overlays, and what may be asked for; free of OpenCV, so that a command line is checked quickly."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from svg_common.errors import UsageError

# Name -> the smallest tile, in pixels, in which it can be read.
LEAST_TILE_WH = {"panels": (560, 380), "ghost": (240, 180), "contours": (240, 180), "before": (280, 120), "likely": (280, 200)}
DEFAULT = ("panels",)
DEFAULT_WH = (1280, 720)
LARGEST_WH = (7680, 4320)
_STEP = 20  # pixels, of a size that is advised

Tiles = Sequence[tuple[str, tuple[int, int]]]  # overlays, and the size of the tile of each in pixels


def parse_overlays(text: str) -> tuple[str, ...]:
    """Read names separated by commas.

    Raises:
        UsageError: a name is unknown, or given twice.
    """
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in LEAST_TILE_WH]
    if unknown or len(set(names)) < len(names):
        problem = f"'{unknown[0]}' is not an overlay" if unknown else "an overlay is given twice"
        raise UsageError(f"--overlay {text}: {problem}\n  expected one or more of: {','.join(LEAST_TILE_WH)}")
    return names


def parse_display_size(text: str, is_video: bool = True) -> tuple[int, int]:
    """Read a size such as 1280x720.

    Args:
        text: the size.
        is_video: it is encoded as H.264, which takes even sides only.

    Raises:
        UsageError: it is none, a side of a video is odd, or it is too large.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--display-size '{text}' is not a size\n  expected WIDTHxHEIGHT in pixels, such as 1280x720")
    size = int(width), int(height)
    is_odd = is_video and any(length % 2 for length in size)
    if is_odd or not (0 < size[0] <= LARGEST_WH[0] and 0 < size[1] <= LARGEST_WH[1]):
        raise UsageError(
            f"--display-size {text} cannot be shown\n  expected {'even ' if is_video else ''}sides, up to 7680x4320"
        )
    return size


def refuse_small(tiles_in: Callable[[tuple[int, int]], Tiles], size_wh: tuple[int, int]) -> None:
    """Refuse a display in which an overlay cannot be read.

    Args:
        tiles_in: from the size of a display to the tiles of its overlays.
        size_wh: of the display in pixels.

    Raises:
        UsageError: with a size that would do, as small as can be without a side that is shorter than in `size_wh`.
    """
    tiles = tiles_in(size_wh)
    small = next((tile for tile in tiles if not can_be_read([tile])), None)
    if small is None:
        return
    name, (width, height) = small
    enough = smallest_display(tiles_in, size_wh)
    advice = ["fewer overlays"] if len(tiles) > 1 or enough is None else []
    advice += [] if enough is None else [f"a larger one: --display-size {enough[0]}x{enough[1]}"]
    raise UsageError(
        f"the overlay '{name}' cannot be read in {max(1, width)}x{max(1, height)} pixels, its part of the display\n"
        f"  choose {', or '.join(advice)}"
    )


def smallest_display(tiles_in: Callable[[tuple[int, int]], Tiles], size_wh: tuple[int, int]) -> tuple[int, int] | None:
    """Return the smallest size, of sides not shorter than in `size_wh`, in which all overlays can be read; None: none is."""
    return _smallest(lambda wh: can_be_read(tiles_in(wh)), size_wh)


def can_be_read(tiles: Tiles) -> bool:
    """Whether all tiles are as large as their overlays need."""
    return all(tile >= least for name, tile_wh in tiles for tile, least in zip(tile_wh, LEAST_TILE_WH[name], strict=True))


def _smallest(is_enough: Callable[[tuple[int, int]], bool], size_wh: tuple[int, int]) -> tuple[int, int] | None:
    """The size of about the same shape that is enough, with each side then made as short as can be; None: none is."""
    widths, heights = (range(math.ceil(side / _STEP) * _STEP, most + 1, _STEP)
                       for side, most in zip(size_wh, LARGEST_WH, strict=True))  # fmt: skip
    for step in range(max(len(widths), len(heights))):
        width, height = (sides[min(step, len(sides) - 1)] for sides in (widths, heights))
        if is_enough((width, height)):
            height = next(lower for lower in heights if is_enough((width, lower)))
            return next(narrower for narrower in widths if is_enough((narrower, height))), height
    return None
