"""Live video of one camera on the network, as FFmpeg reads it: always the newest picture, whole, or a word about why not."""

from __future__ import annotations

import errno
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from svg_runtime.live.sources.base import Picture
from svg_runtime.live.sources.capture import NoPictureError

# Formats that come as fast as they happen. Playlists (HLS) come late and in pieces of seconds, and name further addresses.
_FORMATS = ("rtsp", "mpjpeg", "mjpeg", "mpegts", "h264", "hevc")
_OPEN_TIMEOUT_S = 10.0  # FFmpeg takes it twice: for the connection, and to understand the stream
_DATA_TIMEOUT_S = 5.0
_PICTURE_TIMEOUT_S = 20.0  # some cameras send a picture that needs no other one before it only every ten seconds
# At most, from the last picture of a camera that is there to the word that it is not, without the time for retries.
ANSWER_S = 2 * (_OPEN_TIMEOUT_S + _DATA_TIMEOUT_S + _PICTURE_TIMEOUT_S)
_BACKLOG_S = 0.25  # what comes this soon after the first packet was there before it
_BEHIND_S, _CAUGHT_UP_S = 0.5, 0.1
_SILENT = "no response in time"


@dataclass(frozen=True)
class _Arrival:
    """Compressed video, and when it came."""

    packet: Any
    arrived_s: float


class StreamCapture:
    """A `CaptureDevice` on live video.

    A thread of its own receives, so that nothing queues where it cannot be seen. Where decoding is slower than the camera, what
    waits is left out, up to a picture that needs no other one before it: late pictures would be taken for new ones. Pictures
    that FFmpeg knows to be damaged, and those that build on them, are left out too.

    Args:
        url: where it is. RTSP goes over TCP where the camera can, since lost packets damage pictures.
        on_behind: called when pictures are left out because decoding is too slow.

    Attributes:
        problem: why there are no more pictures, once `read` gives none.

    Raises:
        NoPictureError: no answer, no live video, or no picture that decodes.
    """

    def __init__(self, url: str, on_behind: Callable[[], None] = lambda: None) -> None:
        self.problem = "the stream ended"
        self._on_behind = on_behind
        self._arrivals: SimpleQueue[_Arrival | None] = SimpleQueue()
        self._released = threading.Event()
        self._ended = self._skips = self._damaged = False
        self._first_s: float | None = None
        self._container = _connect(url)
        self._stream = self._container.streams.video[0]
        threading.Thread(target=self._receive, name="receiver of a stream", daemon=True).start()
        if not self.read()[0]:
            self.release()
            raise NoPictureError(self.problem)

    def read(self) -> tuple[bool, Picture | None]:
        """Wait for the next picture, (H, W, 3) uint8 BGR; (False, None) when the stream ended or is silent."""
        start_s = time.monotonic()
        while not self._ended:
            if time.monotonic() - start_s > _PICTURE_TIMEOUT_S:
                return self._end(f"nothing received for {_PICTURE_TIMEOUT_S:g} s could be decoded")
            try:
                arrival = self._arrivals.get(timeout=_DATA_TIMEOUT_S)
            except Empty:
                return self._end(_SILENT)
            if arrival is None:
                return self._end(self.problem)
            self._first_s = self._first_s or arrival.arrived_s
            picture = self._decode(arrival.packet) if self._keeps_up(arrival) else None
            # What came while FFmpeg looked at the stream is seconds old: it is decoded, as the next pictures build on it.
            if picture is not None and arrival.arrived_s - self._first_s > _BACKLOG_S:
                return True, picture
        return False, None

    def release(self) -> None:
        """Close the connection, at the latest when the camera sends or the receiver's time is over. May be called twice."""
        self._ended = True
        self._released.set()

    def _end(self, problem: str) -> tuple[bool, None]:
        self._ended = True
        self.problem = problem
        return False, None

    def _receive(self) -> None:
        """Take what comes until the stream ends or is released. The container is closed here, where it is read."""
        import av

        try:
            # Of all streams: if asked for pictures alone, PyAV stays inside as long as there is sound.
            for packet in self._container.demux():
                if self._released.is_set():
                    break
                if packet.stream_index == self._stream.index and packet.size:  # an empty one marks the end
                    self._arrivals.put(_Arrival(packet, time.monotonic()))
        except av.FFmpegError as error:
            self.problem = _reason(error)
        finally:
            self._arrivals.put(None)
            self._released.wait()
            self._container.close()

    def _keeps_up(self, arrival: _Arrival) -> bool:
        """Whether a packet is to be decoded."""
        late_s = time.monotonic() - arrival.arrived_s
        if self._skips and late_s < _CAUGHT_UP_S and arrival.packet.is_keyframe:
            self._skips = False
        elif not self._skips and late_s > _BEHIND_S:
            self._skips = True
            self._on_behind()
        return not self._skips

    def _decode(self, packet: Any) -> Picture | None:
        """The newest whole picture of a packet, if it has one."""
        import av

        whole = None
        try:
            for frame in packet.decode():
                self._damaged = frame.is_corrupt or (self._damaged and not frame.key_frame)
                whole = None if self._damaged else frame
        except av.FFmpegError:  # damaged, or of a kind that this decoder does not know
            self._damaged = True
        return None if whole is None else whole.to_ndarray(format="bgr24")


def _connect(url: str) -> Any:
    """Open the container of live video with at least one stream of pictures."""
    import av

    scheme, _, rest = url.partition("://")
    scheme = scheme.lower()
    options = {"format_whitelist": ",".join(_FORMATS), "fpsprobesize": "0"}
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_flags": "prefer_tcp", "allowed_media_types": "video"}
    start_s = time.monotonic()
    try:
        # At its time-out, FFmpeg gives what it held back, a picture as old as the silence: `read` has ended before.
        timeout = (_OPEN_TIMEOUT_S, 2 * _DATA_TIMEOUT_S)
        container = av.open(f"{scheme}://{rest}", options=options, timeout=timeout, metadata_errors="replace")
    except av.FFmpegError as error:
        late = time.monotonic() - start_s >= _OPEN_TIMEOUT_S  # RTSP then speaks of invalid data
        raise NoPictureError(_SILENT if late else _reason(error)) from None
    except ValueError as error:  # of PyAV, about characters
        raise NoPictureError(f"invalid address ({type(error).__name__})") from None
    problem = None
    if container.duration and scheme in ("http", "https"):
        problem = "it is a recording, not live video; download the file and use it as --source"
    elif not container.streams.video:
        problem = f"the format is '{container.format.name}' and contains no video stream"
    if problem:
        container.close()
        raise NoPictureError(problem)
    return container


def _reason(error: Any) -> str:
    """What happened, without the address: it may hold a password."""
    import av

    if isinstance(error, av.ExitError):
        return _SILENT
    if error.errno == errno.EINVAL or isinstance(error, av.InvalidDataError):
        return "the address does not serve live video"
    if error.errno == errno.EIO:
        return "unknown host name, or the connection was lost"
    return str(error.strerror)
