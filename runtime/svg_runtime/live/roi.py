"""The region of interest: the part of the picture that the model looks at, in pixels or in fractions of the picture."""

from __future__ import annotations

from dataclasses import dataclass, field

from svg_common.errors import UsageError

MIN_SIDE = 16  # pixels; a model of 64 pixels sees nothing in less

REGION_OUTSIDE = "the region of interest is outside the picture or too small in it"  # `RegionOutsideError` in short
_EXPECTED = "expected X,Y,W,H: left, top, width and height in whole pixels, or all four as fractions of the picture from 0 to 1"


class RegionOutsideError(UsageError):
    """The region does not lie within the picture, or is too small in it."""


@dataclass(frozen=True)
class Region:
    """A rectangle of a picture in pixels."""

    x: int
    y: int
    width: int
    height: int

    def as_seen(self, frame_hw: tuple[int, int]) -> Region:
        """The centre of the region that a model with frames of `frame_hw` sees: the largest of that aspect ratio."""
        scale = max(frame_hw[0] / self.height, frame_hw[1] / self.width)
        width = min(self.width, round(frame_hw[1] / scale))
        height = min(self.height, round(frame_hw[0] / scale))
        return Region(self.x + (self.width - width) // 2, self.y + (self.height - height) // 2, width, height)


@dataclass(frozen=True)
class Roi:
    """What the user asked for: left, top, width and height. All four at most 1: fractions of the picture, else pixels.

    Attributes:
        option: the name under which it was asked for, for messages.
    """

    left: float
    top: float
    width: float
    height: float
    option: str = field(default="--roi", compare=False)

    def __str__(self) -> str:
        return ",".join(f"{value:g}" for value in (self.left, self.top, self.width, self.height))

    @property
    def is_fraction(self) -> bool:
        """Whether it follows the size of the picture."""
        return max(self.left, self.top, self.width, self.height) <= 1

    def in_picture(self, height: int, width: int) -> Region:
        """Return the region of a picture of `height` x `width` pixels.

        Raises:
            RegionOutsideError: it does not lie within the picture, or has a side of less than `MIN_SIDE` pixels.
        """
        scale_x, scale_y = (width, height) if self.is_fraction else (1, 1)
        left, right = round(self.left * scale_x), round((self.left + self.width) * scale_x)
        top, bottom = round(self.top * scale_y), round((self.top + self.height) * scale_y)
        if right > width or bottom > height:
            raise RegionOutsideError(
                f"{self.option} {self} does not lie within the picture of {width}x{height} pixels: "
                f"it ends at {right},{bottom}\n  {_EXPECTED}"
            )
        if min(right - left, bottom - top) < MIN_SIDE:
            raise RegionOutsideError(
                f"{self.option} {self} is only {right - left}x{bottom - top} pixels of the picture of {width}x{height}, "
                f"less than {MIN_SIDE} each way\n  expected a larger region, or larger pictures"
            )
        return Region(left, top, right - left, bottom - top)


def parse_roi(text: str, option: str = "--roi") -> Roi:
    """Read `X,Y,W,H`.

    Args:
        text: given by the user.
        option: the name under which it was given, for messages.

    Raises:
        UsageError: it is not four numbers, or they mix pixels and fractions.
    """
    try:
        left, top, width, height = (float(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"{option} {text} is not a region\n  {_EXPECTED}") from None
    roi = Roi(left=left, top=top, width=width, height=height, option=option)
    values = (left, top, width, height)
    if not (min(left, top) >= 0 and min(width, height) > 0 and all(value < 1e6 for value in values)):
        raise UsageError(f"{option} {text} is not a region\n  {_EXPECTED}")
    if not roi.is_fraction and not all(value.is_integer() for value in values):
        raise UsageError(f"{option} {text} mixes pixels and fractions\n  {_EXPECTED}")
    if roi.is_fraction and max(left + width, top + height) > 1 + 1e-6:
        raise UsageError(
            f"{option} {text} ends outside the picture: left + width and top + height are at most 1\n  {_EXPECTED}"
        )
    return roi
