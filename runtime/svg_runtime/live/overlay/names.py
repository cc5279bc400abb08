"""The names of the overlays, and what may be asked for; free of OpenCV, so that a command line is checked quickly."""

from __future__ import annotations

import math
from collections.abc import Sequence

from svg_common.errors import UsageError

# Name -> the smallest tile, in pixels, in which it can be read.
LEAST_TILE_WH = {"panels": (560, 380), "ghost": (240, 180), "contours": (240, 180), "before": (280, 120), "likely": (280, 200)}
DEFAULT = ("panels",)
DEFAULT_WH = (1280, 720)
LARGEST_WH = (7680, 4320)


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


def parse_display_size(text: str) -> tuple[int, int]:
    """Read a size such as 1280x720.

    Raises:
        UsageError: it is none; a side is odd, which H.264 does not take; or it is too large.
    """
    width, _, height = text.lower().partition("x")
    if not (width.isascii() and width.isdigit() and height.isascii() and height.isdigit()):
        raise UsageError(f"--display-size '{text}' is not a size\n  expected WIDTHxHEIGHT in pixels, such as 1280x720")
    size = int(width), int(height)
    if any(length % 2 for length in size) or not (0 < size[0] <= LARGEST_WH[0] and 0 < size[1] <= LARGEST_WH[1]):
        raise UsageError(f"--display-size {text} cannot be shown\n  expected even sides, up to 7680x4320")
    return size


def refuse_small(name: str, tile_wh: Sequence[int], size_wh: tuple[int, int]) -> None:
    """Refuse a tile in which the overlay `name` cannot be read.

    Raises:
        UsageError: with the size of the picture that would do.
    """
    tile_wh = [max(1, length) for length in tile_wh]  # margins may take more than there is
    shares = [least / given for least, given in zip(LEAST_TILE_WH[name], tile_wh, strict=True)]
    if max(shares) > 1:
        larger = (1.1 * length * max(share, 1) for length, share in zip(size_wh, shares, strict=True))
        enough = "x".join(str(math.ceil(length / 20) * 20) for length in larger)
        raise UsageError(
            f"the overlay '{name}' cannot be read in {tile_wh[0]}x{tile_wh[1]} pixels, its part of the display\n"
            f"  choose fewer overlays, or a larger one: --display-size {enough}"
        )
