"""H.264 in an mp4 file that every browser plays: written to a temporary file, renamed when it is complete."""

from __future__ import annotations

from contextlib import ExitStack
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import ColorRange, Colorspace, VideoReformatter
from numpy.typing import NDArray

from svg_common.errors import OutputError
from svg_common.files import atomic_file

# veryfast with a short lookahead and two threads: x264's defaults buffer some 60 pictures, over 150 MB at 1280 x 720.
_ENCODER_OPTIONS = {"preset": "veryfast", "crf": "20", "rc-lookahead": "10", "bf": "0"}
_ENCODER_THREADS = 2
_SECONDS_PER_KEYFRAME = 2.0  # how exactly a player can seek
_BT709 = 1  # of ITU-T H.273, for primaries, transfer and matrix; without it players guess, and colors shift


class Mp4Writer:
    """Writes pictures with exact timestamps: picture `tick` is shown at tick * interval.

    Nothing appears at `path` before `close(keep=True)`, and an earlier file there stays intact until then.

    Args:
        path: the file; its name must end with .mp4.
        size_wh: width and height of the pictures in pixels, both even.
        interval_s: seconds per tick.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, path: Path, size_wh: tuple[int, int], interval_s: float) -> None:
        self.path = path
        self.frames = 0
        self.size_bytes = 0  # of the encoded pictures so far
        self._files = ExitStack()
        self._container: Any = None
        self._tick_of_first = 0
        self._reformatter = VideoReformatter()  # reused, because building its tables takes longer than the conversion
        try:
            partial = self._files.enter_context(atomic_file(path))
            self._open(partial, size_wh, interval_s)
        except OSError as error:  # PyAV's errors too: they derive from OSError
            self._discard()
            raise OutputError(path, error) from error

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Encode one picture.

        Raises:
            OutputError: the disk is full or gone; the unfinished file is removed.
        """
        if self.frames == 0:
            self._tick_of_first = tick
        frame: Any = self._reformatter.reformat(
            av.VideoFrame.from_ndarray(picture, format="rgb24"),
            format="yuv420p",
            dst_colorspace=Colorspace.ITU709,
            dst_color_range=ColorRange.MPEG,
        )
        frame.pts = tick - self._tick_of_first
        frame.time_base = self._interval
        self._mux(frame)
        self.frames += 1

    def close(self, keep: bool) -> None:
        """Complete the file and move it to `path`; without `keep`, or without any picture, remove it.

        Raises:
            OutputError: the disk is full or gone; the unfinished file is removed.
        """
        if self._container is None:
            return
        if not keep or self.frames == 0:
            self._discard()
            return
        self._mux(None)
        try:
            self._container.close()
            self._container = None
            self._files.close()
        except OSError as error:
            self._discard()
            raise OutputError(self.path, error) from error

    def _open(self, partial: Path, size_wh: tuple[int, int], interval_s: float) -> None:
        self._interval = Fraction(interval_s).limit_denominator(100_000)
        # faststart puts the index first, so that a browser can play while loading
        self._container = av.open(str(partial), "w", format="mp4", options={"movflags": "+faststart"})
        stream: Any = self._container.add_stream("libx264", rate=1 / self._interval, options=_ENCODER_OPTIONS)
        stream.width = size_wh[0]
        stream.height = size_wh[1]
        stream.pix_fmt = "yuv420p"
        stream.time_base = stream.codec_context.time_base = self._interval
        stream.codec_context.gop_size = max(1, round(_SECONDS_PER_KEYFRAME / interval_s))
        stream.codec_context.thread_count = _ENCODER_THREADS
        stream.codec_context.color_range = ColorRange.MPEG
        stream.codec_context.colorspace = _BT709
        stream.codec_context.color_primaries = stream.codec_context.color_trc = _BT709
        self._stream = stream

    def _mux(self, frame: Any) -> None:
        try:
            packets = self._stream.encode(frame)
            self._container.mux(packets)
        except OSError as error:
            self._discard()
            raise OutputError(self.path, error) from error
        self.size_bytes += sum(packet.size for packet in packets)

    def _discard(self) -> None:
        """Close and remove the unfinished file; an error in closing a broken file adds nothing."""
        container = self._container
        self._container = None
        try:
            if container is not None:
                container.close()
        except OSError:
            pass
        finally:
            self._files.__exit__(_DiscardedError, _DiscardedError(), None)


class _DiscardedError(Exception):
    """Makes `atomic_file` discard the file."""
