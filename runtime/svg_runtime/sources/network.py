"""A camera on the network: its live video, decoded by FFmpeg as it comes."""

from __future__ import annotations

import errno
import re
import threading
import time
from collections.abc import Generator, Iterator
from concurrent.futures import Future, wait
from typing import Any

from svg_common.errors import UsageError
from svg_runtime.sources.base import Picture
from svg_runtime.sources.capture import NoPictureError
from svg_runtime.sources.synthetic import SYNTHETIC_URL
from svg_runtime.stop import StopRequest

_SCHEMES = ("rtsp", "rtsps", "http", "https", "udp", "tcp")
# Formats that come as fast as they happen. Playlists (HLS) come late and in pieces of seconds, and name further addresses.
_FORMATS = ("rtsp", "mpjpeg", "mjpeg", "mpegts", "h264", "hevc")
_OPEN_TIMEOUT_S, _DATA_TIMEOUT_S = 10.0, 5.0
_PICTURE_TIMEOUT_S = 20.0  # some cameras send a picture that needs no other one before it only every ten seconds
ANSWER_S = _OPEN_TIMEOUT_S + _DATA_TIMEOUT_S + _PICTURE_TIMEOUT_S  # at most, to say that a camera gives nothing
_POLL_S = 0.05
_SILENT = "no answer in time"


def require_stream_address(url: str) -> None:
    """Refuse addresses of other kinds.

    Raises:
        UsageError: no camera is reached this way.
    """
    scheme, _, place = url.partition("://")
    if scheme.lower() not in _SCHEMES or not place:
        raise UsageError(f"the source '{stream_name(url)}' is not known\n"
                         f"  expected a file, a folder, {SYNTHETIC_URL}, or the address of live video: {'://, '.join(_SCHEMES)}://"
                         )  # fmt: skip


def stream_name(url: str) -> str:
    """Scheme, host and port. Users, passwords, paths and queries are left out: each of them may hold a password."""
    scheme, _, rest = url.partition("://")
    authority = re.split("[/?#]", rest)[0]
    if "@" in rest and "@" not in authority:  # a password with a character that should have been written as %XX
        authority = "..."
    return f"{scheme}://{authority.rpartition('@')[2]}"


def explain_missing_stream(url: str, reason: str) -> str:
    """Message for live video that cannot be had."""
    advice = "check that the camera is on and can be reached from here"
    if "401" in reason:
        advice = "give its user and password, rtsp://USER:PASSWORD@HOST/PATH, with %40 for @, %2F for / and %3F for ?"
    return (
        f"{stream_name(url)} gives no picture: {reason}\n"
        f"  {advice}\n"
        "  the address is in the camera's manual, with port and path; ffplay and VLC play it when it is right"
    )


def open_stream(url: str, stop: StopRequest) -> StreamCapture:
    """Connect to live video. Ctrl-C need not wait for a camera that does not answer.

    Raises:
        NoPictureError: as `StreamCapture`.
        KeyboardInterrupt: a stop was requested meanwhile.
    """
    opened: Future[StreamCapture] = Future()

    def connect() -> None:
        try:
            opened.set_result(StreamCapture(url))
        except BaseException as error:
            opened.set_exception(error)

    threading.Thread(target=connect, name=f"connection to {stream_name(url)}", daemon=True).start()
    while not wait([opened], timeout=_POLL_S).done:
        if stop:
            raise KeyboardInterrupt
    return opened.result()


class StreamCapture:
    """Live video of a camera on the network, as a `CaptureDevice`. Damaged pictures are left out.

    Args:
        url: where it is. RTSP goes over TCP where the camera can, since lost packets would damage pictures.

    Raises:
        NoPictureError: no answer, no live video, or no picture that decodes.
    """

    def __init__(self, url: str) -> None:
        import av

        options = {"format_whitelist": ",".join(_FORMATS)}
        if url.lower().startswith("rtsp"):
            options |= {"rtsp_flags": "prefer_tcp", "allowed_media_types": "video"}
        started_s = time.monotonic()
        try:
            self._container = av.open(
                url, options=options, timeout=(_OPEN_TIMEOUT_S, _DATA_TIMEOUT_S), metadata_errors="replace"
            )
        except av.FFmpegError as error:
            late = time.monotonic() - started_s >= _OPEN_TIMEOUT_S  # RTSP then speaks of invalid data
            raise NoPictureError(_SILENT if late else _reason(error)) from None
        try:
            if self._container.duration and url.lower().startswith("http"):
                raise NoPictureError("it is a recording, not live video; give a copy of the file to --source")
            if not self._container.streams.video:
                raise NoPictureError(f"it is '{self._container.format.name}' without a video stream")
            self._end = "it ended before the first picture"
            self._pictures = self._decode(self._container.streams.video[0])
            if not self.read()[0]:
                raise NoPictureError(self._end)
        except BaseException:
            self._container.close()
            raise

    def read(self) -> tuple[bool, Picture | None]:
        """Wait for the next picture, (H, W, 3) uint8 BGR; (False, None) when the stream ended or is silent."""
        picture = next(self._pictures, None)
        return picture is not None, picture

    def release(self) -> None:
        """Close the connection. May be called twice."""
        self._pictures.close()
        self._container.close()

    def _decode(self, stream: Any) -> Generator[Picture, None, None]:
        import av

        try:
            asked_s = picture_s = time.monotonic()
            for packet in self._container.demux(stream):
                if time.monotonic() - asked_s >= _DATA_TIMEOUT_S:
                    self._end = _SILENT  # what FFmpeg gives then is what it held back: a picture as old as the silence
                    return
                for picture in _intact_pictures(packet):
                    yield picture
                    picture_s = time.monotonic()
                asked_s = time.monotonic()
                if asked_s - picture_s >= _PICTURE_TIMEOUT_S:
                    self._end = f"nothing that came for {_PICTURE_TIMEOUT_S:g} s decodes"
                    return
        except av.FFmpegError as error:
            self._end = _reason(error)


def _intact_pictures(packet: Any) -> Iterator[Picture]:
    import av

    try:
        frames = packet.decode()
    except av.InvalidDataError:
        return  # one damaged packet; the next ones may be whole
    for frame in frames:
        if not frame.is_corrupt:
            yield frame.to_ndarray(format="bgr24")


def _reason(error: Any) -> str:
    """What happened, without the address: it may hold a password."""
    import av

    if isinstance(error, av.ExitError):
        return _SILENT
    if error.errno == errno.EINVAL or isinstance(error, av.InvalidDataError):
        return f"what is there is no live video ({', '.join(_FORMATS)})"
    return str(error.strerror)
