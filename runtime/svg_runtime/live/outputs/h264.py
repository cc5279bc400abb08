"""The H.264 stream of an mp4 file: how pictures are encoded, and what a player is told of their colors."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

_THREADS = 2  # x264's default follows the cores, and buffers over 150 MB at 1280 x 720
_BT709 = 1  # of ITU-T H.273, for primaries, transfer and matrix; without it players guess, and colors shift
# The muxer has 31 bits for the time between two pictures, in units of 10 µs at the finest: 6 hours, or half of that where the
# encoder sends them in another order. After a longer one, it gives every picture the same time, or an error.
_LONGEST_S = 3600.0


def encodable(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (H, W, 3) RGB or (H, W) gray as H.264 takes it: RGB, of even sides.

    An odd side loses its last row or column; a side of one pixel is doubled.
    """
    height, width = picture.shape[:2]
    if height == 1 or width == 1:
        picture = picture.repeat(2 if height == 1 else 1, axis=0).repeat(2 if width == 1 else 1, axis=1)
    height, width = (length // 2 * 2 for length in picture.shape[:2])
    even = picture[:height, :width]
    return np.ascontiguousarray(even) if even.ndim == 3 else np.asarray(cv2.cvtColor(even, cv2.COLOR_GRAY2RGB), np.uint8)


@contextmanager
def as_os_error() -> Iterator[None]:
    """Raise an error of FFmpeg as an OSError: PyAV's of a full disk is one, those of EINVAL and ENOMEM are not."""
    try:
        yield
    except OSError:
        raise
    except av.FFmpegError as error:
        raise OSError(error.errno or errno.EIO, error.strerror or str(error)) from error


def open_mp4(path: Path, options: dict[str, str]) -> Any:
    """Open the container of a new file with `options` of FFmpeg's muxer.

    Raises:
        OSError: it cannot be written.
    """
    with as_os_error():  # of a relative path, FFmpeg takes what is before a colon for a protocol
        return av.open(str(path.absolute()), "w", format="mp4", options=options)


class H264Stream:
    """Encodes pictures for one stream of an open container, with exact time stamps: picture `tick` is at tick * interval.

    A picture that stands still for more than an hour is repeated every hour.

    Args:
        container: see `open_mp4`.
        size_wh: width and height of the pictures in pixels, both even.
        interval_s: seconds per tick.
        seconds_per_keyframe: how exactly a player can seek.
        options: of x264: preset, quality, and whether its threads share a picture (thread_type).
    """

    def __init__(
        self, container: Any, size_wh: tuple[int, int], interval_s: float, seconds_per_keyframe: float, options: dict[str, str]
    ) -> None:
        self._container = container
        self._tick_of_first: int | None = None
        self._newest: Any = None  # frame that was encoded last
        self._longest_ticks = max(1, int(_LONGEST_S / interval_s))
        self._reformatter = VideoReformatter()  # reused, because building its tables takes longer than the conversion
        self._interval = Fraction(interval_s).limit_denominator(100_000)
        stream: Any = container.add_stream("libx264", rate=1 / self._interval, options=options)
        stream.width = size_wh[0]
        stream.height = size_wh[1]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._interval
        stream.codec_context.gop_size = max(1, round(seconds_per_keyframe / interval_s))
        stream.codec_context.thread_count = _THREADS
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        self._stream = stream

    def write(self, picture: NDArray[np.uint8], tick: int) -> int:
        """Encode (H, W, 3) uint8 RGB; the first picture is at time 0. Returns the bytes that the encoder gave.

        Raises:
            OSError: the container's file cannot be written, or the encoder does not take pictures of this size.
        """
        if self._tick_of_first is None:
            self._tick_of_first = tick
        with as_os_error():
            frame: Any = self._reformatter.reformat(
                av.VideoFrame.from_numpy_buffer(picture, format="rgb24"),  # without a copy
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
        frame.pts = tick - self._tick_of_first
        frame.time_base = self._interval
        size_bytes = 0
        while self._newest is not None and frame.pts - self._newest.pts > self._longest_ticks:
            self._newest.pts += self._longest_ticks
            size_bytes += self._mux(self._newest)
        self._newest = frame
        return size_bytes + self._mux(frame)

    def flush(self) -> int:
        """Write what the encoder still holds; there are no more pictures. Returns and raises as `write`."""
        return self._mux(None)

    def _mux(self, frame: Any) -> int:
        with as_os_error():
            try:
                packets = self._stream.encode(frame)
            except av.FFmpegError as error:
                if self._stream.codec_context.is_open or error.errno == errno.ENOMEM:
                    raise
                size = f"{self._stream.width}x{self._stream.height}"
                raise OSError(errno.EINVAL, f"the H.264 encoder does not take pictures of {size} pixels") from error
            self._container.mux(packets)
        return sum(packet.size for packet in packets)
