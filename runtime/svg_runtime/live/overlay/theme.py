"""The look of the picture: colours, type, and the drawing operations that all panels share. Everything is RGB."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.printable import printable

Canvas = NDArray[np.uint8]
Color = tuple[int, int, int]
Align = Literal["left", "center", "right"]

BACKGROUND: Color = (15, 18, 23)
PANEL: Color = (24, 28, 35)
LINE: Color = (48, 55, 66)
TEXT: Color = (229, 233, 239)
MUTED: Color = (139, 148, 160)
ACCENT: Color = (92, 200, 255)
WARNING: Color = (255, 180, 84)

GHOST: Color = ACCENT
LEVELS: tuple[Color, ...] = ((86, 180, 233), (240, 228, 66), (255, 122, 50))  # of contours, from low to high

TITLE, LABEL, SMALL = 17, 14, 12  # type sizes in pixels, at 1280 x 720
REGULAR, SEMIBOLD = 400, 600
_HEADING = 22
_LEAST = {_HEADING: 15, TITLE: 13, LABEL: 12, SMALL: 11}  # pixels; smaller type cannot be read
_DESIGN_WH = (1280, 720)


@dataclass(frozen=True)
class Scale:
    """How large things are drawn. All numbers are those at 1280 x 720, where `factor` is 1."""

    factor: float = 1.0

    @classmethod
    def of(cls, width: int, height: int) -> Scale:
        """The scale of a picture of this size."""
        return cls(min(width / _DESIGN_WH[0], height / _DESIGN_WH[1]))

    @property
    def heading(self) -> int:
        """Type size of the picture's name."""
        return self._type(_HEADING)

    @property
    def title(self) -> int:
        """Type size of a panel's title."""
        return self._type(TITLE)

    @property
    def label(self) -> int:
        """Type size of values."""
        return self._type(LABEL)

    @property
    def small(self) -> int:
        """Type size of what is beside the point."""
        return self._type(SMALL)

    def px(self, length: float) -> int:
        """A length that shrinks with the picture, at least one pixel."""
        return max(1, round(length * self.factor))

    def near(self, length: float) -> int:
        """A length that must be seen, or is beside type: it shrinks only as far as type does."""
        return max(1, round(length * self.small / SMALL))

    def _type(self, size: int) -> int:
        return max(_LEAST[size], round(size * self.factor))


@dataclass(frozen=True)
class Rect:
    """A rectangle of the canvas in pixels."""

    x: int
    y: int
    width: int
    height: int

    @property
    def right(self) -> int:
        """First column to the right of the rectangle."""
        return self.x + self.width

    @property
    def bottom(self) -> int:
        """First row below the rectangle."""
        return self.y + self.height

    def of(self, canvas: Canvas) -> Canvas:
        """Return the part of `canvas` inside the rectangle, as a view."""
        return canvas[self.y : self.bottom, self.x : self.right]


def fill(canvas: Canvas, rect: Rect, color: Color) -> None:
    """Fill `rect` with one color."""
    rect.of(canvas)[:] = color


def text(
    canvas: Canvas, string: str, x: int, baseline: int, *, size: int = LABEL, color: Color = TEXT, weight: int = REGULAR,
    align: Align = "left",
) -> None:  # fmt: skip
    """Draw one line of text. `x` is its left end, middle or right end, depending on `align`; `baseline` is a row."""
    string = printable(string)  # OpenCV crashes at a name that is not UTF-8
    if align != "left":
        width = text_width(string, size, weight)
        x -= width if align == "right" else width // 2
    face = _face()
    if face is None:
        stroke = _stroke(size, weight)
        cv2.putText(canvas, string, (x, baseline), cv2.FONT_HERSHEY_SIMPLEX, _scale(size), color, stroke, cv2.LINE_AA)
    else:
        cv2.putText(canvas, string, (x, baseline), color, face, size, weight)


@lru_cache(maxsize=512)
def text_width(string: str, size: int = LABEL, weight: int = REGULAR) -> int:
    """Return the width of one line in pixels."""
    string = printable(string)
    face = _face()
    if face is None:
        return int(cv2.getTextSize(string, cv2.FONT_HERSHEY_SIMPLEX, _scale(size), _stroke(size, weight))[0][0])
    _, _, width, _ = cv2.getTextSize((20_000, 200), string, (0, 100), face, size, weight)
    return int(width)


def shorten(string: str, width: int, size: int = LABEL, weight: int = REGULAR) -> str:
    """Cut `string` at the end, with an ellipsis, so that it fits into `width` pixels."""
    string = printable(string)
    if text_width(string, size, weight) <= width:
        return string
    while string and text_width(string + "...", size, weight) > width:
        string = string[:-1]
    return string + "..."


@lru_cache(maxsize=1)
def _face() -> Any:
    """Return a TrueType face with OpenCV 5; OpenCV 4 has only stroke fonts."""
    return cv2.FontFace("sans") if hasattr(cv2, "FontFace") else None


def _scale(size: int) -> float:
    return size / 29.0  # capitals of Hershey Simplex are 21 units high; 29 matches the TrueType face


def _stroke(size: int, weight: int) -> int:
    return max(1, round(size / 16)) + (weight > REGULAR)
