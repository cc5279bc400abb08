"""H.264 in a fragmented mp4 file: what was written can be read at any moment, also when the program is killed."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.outputs.h264 import H264Stream, as_os_error, open_mp4

# An index at the start that says "fragments follow", then fragments that each have their own (ISO/IEC 14496-12, moof).
# A fragment is written when it is this long, so that a kill costs half a second and the picture that comes next.
_FRAGMENT_S = 0.5
_CONTAINER_OPTIONS = {
    "movflags": "+frag_keyframe+empty_moov+default_base_moof",
    "frag_duration": str(round(_FRAGMENT_S * 1e6)),
    "flush_packets": "1",  # else the end of a fragment waits in a buffer of the process
}
# zerolatency: no picture stays in the encoder, which would be lost with it. veryfast: a folder of weeks should be small.
_ENCODER_OPTIONS = {"preset": "veryfast", "crf": "23", "tune": "zerolatency", "thread_type": "slice"}
_SECONDS_PER_KEYFRAME = 1.0


_INDEX_BYTES = 4096  # of the index at the start, at most
_LAST_BOX_BYTES = 16  # mfro: length, name, version and flags, length of mfra


def has_fragment(path: Path) -> bool:
    """Whether the file at `path` has more than its index, so that a picture can be read from it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return b"moof" in file.read(_INDEX_BYTES)


def is_complete(path: Path) -> bool:
    """Whether the file at `path` was written to its end, where the box mfro closes the index of all fragments.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        file.seek(-min(_LAST_BOX_BYTES, file.seek(0, os.SEEK_END)), os.SEEK_END)
        return file.read(8)[4:] == b"mfro"


def keep_whole_fragments(path: Path) -> int:
    """Cut off what was being written when the disk was full, and return how many pictures can be read.

    A fragment is a box `moof`, which says how many pictures it has, then a box `mdat` with them (ISO/IEC 14496-12).

    Raises:
        OSError: the file cannot be read or cut.
    """
    pictures = whole = 0
    announced = 0  # by the last moof, whose mdat may be missing
    with path.open("r+b") as file:
        for kind, start, end in _boxes(file, 0, file.seek(0, os.SEEK_END)):
            if kind == b"moof":
                announced = _announced(file, start, end)
                continue
            if kind == b"mdat":
                pictures += announced
            whole = end
        file.truncate(whole)
    return pictures


def _boxes(file: BinaryIO, start: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, and where the content starts and ends, of every whole box between two positions."""
    while start + 8 <= end:
        file.seek(start)
        length, kind = struct.unpack(">I4s", file.read(8))
        if length < 8 or start + length > end:
            return
        yield kind, start + 8, start + length
        start += length


def _announced(file: BinaryIO, start: int, end: int) -> int:
    """How many pictures a moof has: the sum over its runs, trun, in its track, traf."""
    count = 0
    for kind, track, track_end in _boxes(file, start, end):
        for inner, run, _ in _boxes(file, track, track_end) if kind == b"traf" else ():
            if inner == b"trun":
                file.seek(run + 4)  # after version and flags
                count += int.from_bytes(file.read(4), "big")
    return count


class FragmentedMp4:
    """A video in progress at `path`, which it replaces.

    Args:
        path: the file; its folder must exist.
        size_wh: width and height of the pictures in pixels, both even.
        interval_s: seconds per tick.
        created: time of the first picture, ISO 8601, for the file's own records.

    Raises:
        OSError: the file cannot be written.
    """

    def __init__(self, path: Path, size_wh: tuple[int, int], interval_s: float, created: str) -> None:
        self.path = path
        self.size_bytes = 0  # of the encoded pictures so far
        self._container: Any = open_mp4(path, _CONTAINER_OPTIONS)
        self._container.metadata["creation_time"] = created
        self._stream = H264Stream(
            container=self._container,
            size_wh=size_wh,
            interval_s=interval_s,
            seconds_per_keyframe=_SECONDS_PER_KEYFRAME,
            options=_ENCODER_OPTIONS,
        )

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Encode (H, W, 3) uint8 RGB at `tick` intervals; the first picture is at time 0.

        Raises:
            OSError: the disk is full or gone; what was written before can still be read.
        """
        self.size_bytes += self._stream.write(picture, tick)

    def close(self) -> None:
        """Write the last fragment. May be called twice.

        Raises:
            OSError: as `write`.
        """
        container = self._container
        self._container = None
        if container is not None:
            try:
                self._stream.flush()
            finally:
                with as_os_error():
                    container.close()
