"""A source whose pictures are rotated and mirrored, for a camera that hangs upside down or looks into a mirror."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from svg_common.errors import UsageError
from svg_runtime.live.sources.base import Picture, Source, SourceFrame

_ROTATIONS = {90: "ROTATE_90_CLOCKWISE", 180: "ROTATE_180", 270: "ROTATE_90_COUNTERCLOCKWISE"}  # OpenCV's names
_FLIPS = {"horizontal": 1, "vertical": 0}  # OpenCV's numbers


@dataclass(frozen=True)
class Turn:
    """How pictures are turned before everything else.

    Attributes:
        rotate: degrees clockwise: 0, 90, 180 or 270.
        flip: after that: "horizontal" exchanges left and right, "vertical" exchanges top and bottom.

    Raises:
        UsageError: another value.
    """

    rotate: int = 0
    flip: str | None = None

    def __post_init__(self) -> None:
        if self.rotate not in (0, *_ROTATIONS) or self.flip not in (None, *_FLIPS):
            raise UsageError(f"no such turn: {self}\n  expected 90, 180 or 270 degrees, and horizontal or vertical")

    @classmethod
    def of(cls, rotate: str | None, flip: str | None) -> Turn:
        """What --rotate and --flip say; "0" and "none" are as if they were not given, for a camera of several.

        Raises:
            UsageError: another value.
        """
        return cls(rotate=int(rotate or 0), flip=None if flip == "none" else flip)

    def __bool__(self) -> bool:
        return self.rotate != 0 or self.flip is not None

    def apply(self, picture: Picture) -> Picture:
        """Return the turned picture, (H, W, 3) or (H, W) uint8."""
        import cv2  # late: help and completion load this module

        if self.rotate:
            picture = np.asarray(cv2.rotate(picture, getattr(cv2, _ROTATIONS[self.rotate])), np.uint8)
        if self.flip is not None:
            picture = np.asarray(cv2.flip(picture, _FLIPS[self.flip]), np.uint8)
        return picture


class TurnedSource:
    """The pictures of another source, turned."""

    def __init__(self, source: Source, turn: Turn) -> None:
        self.name = source.name
        self.description = source.description
        self._source = source
        self._turn = turn

    @property
    def captured(self) -> int:
        """See `Source`."""
        return self._source.captured

    @property
    def dropped(self) -> int:
        """See `Source`."""
        return self._source.dropped

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the turned pictures."""
        for frame in self._source.frames():
            yield replace(frame, image=self._turn.apply(frame.image))

    def close(self) -> None:
        """Close the source."""
        self._source.close()
