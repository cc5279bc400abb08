"""What is asked of a camera: the size and the rate of its pictures. The driver decides what it gives."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

from svg_common.errors import UsageError

_SIZE = re.compile(r"(\d+)x(\d+)")
_MJPEG = int.from_bytes(b"MJPG", "little")
_SAME_RATE = 0.02  # 29.97 is 30


@dataclass(frozen=True)
class CameraSettings:
    """Size and rate; None leaves it to the driver.

    Attributes:
        size_wh: width and height in pixels.
        fps: pictures per second.
    """

    size_wh: tuple[int, int] | None = None
    fps: float | None = None

    def __bool__(self) -> bool:
        return self.size_wh is not None or self.fps is not None

    def __str__(self) -> str:
        size = "" if self.size_wh is None else f"{self.size_wh[0]}x{self.size_wh[1]}"
        rate = "" if self.fps is None else f"{self.fps:.4g} fps"
        return " at ".join(part for part in (size, rate) if part)

    def apply(self, capture: Any) -> CameraSettings | None:
        """Set them on a `cv2.VideoCapture`, and return what the driver gives if that is something else.

        Uncompressed pictures of a high size and rate do not fit through USB 2: MJPEG is tried then.
        """
        import cv2  # late: help and completion load this module

        if not self:
            return None
        self._set(capture)
        if self._is_met(capture):
            return None
        pixel_format = capture.get(cv2.CAP_PROP_FOURCC)
        if capture.set(cv2.CAP_PROP_FOURCC, _MJPEG):
            self._set(capture)
            if self._is_met(capture):
                return None
            capture.set(cv2.CAP_PROP_FOURCC, pixel_format)
            self._set(capture)
        return _given(capture)

    def _set(self, capture: Any) -> None:
        import cv2

        if self.size_wh is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, self.size_wh[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, self.size_wh[1])
        if self.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, self.fps)

    def _is_met(self, capture: Any) -> bool:
        given = _given(capture)
        same_size = self.size_wh is None or self.size_wh == given.size_wh
        same_rate = self.fps is None or given.fps is None or abs(given.fps - self.fps) <= _SAME_RATE * self.fps
        return same_size and same_rate


def parse_camera_settings(size: str | None, fps: float | None) -> CameraSettings:
    """Read `--camera-size WxH` and `--camera-fps`.

    Raises:
        UsageError: they are not a size and a rate.
    """
    size_wh = None
    if size is not None:
        found = _SIZE.fullmatch(size.strip().lower())
        if found is None or 0 in (int(found[1]), int(found[2])):
            raise UsageError(f"--camera-size {size} is not a size\n  expected width x height in pixels, such as 1280x720")
        size_wh = int(found[1]), int(found[2])
    if fps is not None and not 0 < fps < math.inf:
        raise UsageError(f"--camera-fps {fps:g} is not a rate\n  expected pictures per second, such as 30")
    return CameraSettings(size_wh, fps)


def _given(capture: Any) -> CameraSettings:
    """What the driver says that it gives; its rate may be unknown."""
    import cv2

    width, height = (round(capture.get(side)) for side in (cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT))
    fps = capture.get(cv2.CAP_PROP_FPS)
    return CameraSettings((width, height), fps if 0 < fps < math.inf else None)
