"""H.264 in an mp4 file that every browser plays: written to a temporary file, renamed when it is complete."""

from __future__ import annotations

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import OutputError
from svg_common.files import atomic_file
from svg_runtime.live.outputs.h264 import H264Stream, as_os_error, open_mp4

_SMALL = {"preset": "veryfast", "crf": "20", "rc-lookahead": "10", "thread_type": "slice"}  # x264's lookahead: 60 pictures
# Less than half of the time, and with the deblocking filter back on the same quality, for a third more bytes. A thread per
# picture: encoding goes on while the next one is made.
_FAST = {"preset": "ultrafast", "crf": "24", "x264-params": "deblock=0,0", "thread_type": "frame"}
_SECONDS_PER_KEYFRAME = 2.0


class Mp4Writer:
    """Writes pictures with exact timestamps: picture `tick` is shown at tick * interval.

    Nothing appears at `path` before `close(keep=True)`, and an earlier file there stays intact until then.

    Args:
        path: the file; its name must end with .mp4.
        size_wh: width and height of the pictures in pixels, both even.
        interval_s: seconds per tick.
        fast: take less of the processor and make larger files, for a video that is written beside a model.

    Raises:
        OutputError: the folder cannot be written.
    """

    def __init__(self, path: Path, size_wh: tuple[int, int], interval_s: float, fast: bool = False) -> None:
        self.path = path
        self.frames = 0
        self.size_bytes = 0  # of the encoded pictures so far
        self._files = ExitStack()
        self._container: Any = None
        try:
            self._partial = self._files.enter_context(atomic_file(path))
            # faststart puts the index first, so that a browser can play while loading
            self._container = open_mp4(self._partial, {"movflags": "+faststart"})
            self._stream = H264Stream(
                container=self._container,
                size_wh=size_wh,
                interval_s=interval_s,
                seconds_per_keyframe=_SECONDS_PER_KEYFRAME,
                options=_FAST if fast else _SMALL,
            )
        except OSError as error:
            self._discard()
            raise OutputError(path, error) from error

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Encode one picture.

        Raises:
            OutputError: the disk is full or gone; the unfinished file is removed.
        """
        try:
            self.size_bytes += self._stream.write(picture, tick)
            self._partial.stat()  # raises an error for a file that was removed, as writing to it does not
        except OSError as error:
            self._discard()
            raise OutputError(self.path, error) from error
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
        try:
            self.size_bytes += self._stream.flush()
            with as_os_error():
                self._container.close()
            self._container = None
            self._files.close()
        except OSError as error:
            self._discard()
            raise OutputError(self.path, error) from error

    def _discard(self) -> None:
        """Close and remove the unfinished file; an error in closing a broken file adds nothing."""
        container = self._container
        self._container = None
        try:
            if container is not None:
                with suppress(OSError), as_os_error():
                    container.close()
        finally:
            self._files.__exit__(_DiscardedError, _DiscardedError(), None)


class _DiscardedError(Exception):
    """Makes `atomic_file` discard the file."""
