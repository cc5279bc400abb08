"""H.264 in a fragmented mp4 file: what was written can be read at any moment, also when the program is killed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from svg_runtime.live.outputs.h264 import H264Stream

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


def has_fragment(path: Path) -> bool:
    """Whether the file at `path` has more than its index, so that a picture can be read from it.

    Raises:
        OSError: it cannot be read.
    """
    with path.open("rb") as file:
        return b"moof" in file.read(_INDEX_BYTES)


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
        self._container: Any = av.open(str(path), "w", format="mp4", options=_CONTAINER_OPTIONS)
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
                container.close()
