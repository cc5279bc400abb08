"""Live video of a network camera, read with FFmpeg: always the newest undamaged picture, or the reason why there is none."""

from __future__ import annotations

import errno
import http.client
import threading
import time
import urllib.request
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import urlsplit

import numpy as np

from svg_common.video.damage import DamageTracker
from svg_common.video.picture import PictureConverter, conversion_not_supported
from svg_common.video.stream import NoFilmError, film_stream
from svg_runtime.live.sources.addresses import without_login
from svg_runtime.live.sources.base import Picture
from svg_runtime.live.sources.capture import NoPictureError
from svg_runtime.live.sources.jpeg_splitter import JpegSplitter

# Formats without delay. Playlists (HLS) arrive seconds late and contain further addresses.
_FORMATS = ("rtsp", "mpjpeg", "mjpeg", "mpegts", "h264", "hevc")
# As received: FFmpeg's parser gives a picture when the next one begins, and its probing takes ten seconds of them.
_UNPARSED = {"fflags": "noparse+nofillin", "probesize": "32", "analyzeduration": "0", "raw_packet_size": str(1 << 16)}
_MOST_BEFORE_JPEG = 1 << 16  # bytes without a picture: it is something else
_OPEN_TIMEOUT_S = 10.0  # used twice by FFmpeg: to connect, and to probe the stream
_DATA_TIMEOUT_S = 5.0
# A camera that is slow itself is waited for: longer than any of its last gaps, and longest for its second picture.
_LAST_GAPS, _LONGER = 10, 3.0
_PICTURE_TIMEOUT_S = 20.0  # some cameras send a keyframe only every ten seconds
# Longest time from the last picture of a camera to the report that it is lost, without the time for retries.
RESPONSE_TIMEOUT_S = 2 * (_OPEN_TIMEOUT_S + _DATA_TIMEOUT_S + _PICTURE_TIMEOUT_S)
_BACKLOG_S = 0.25  # packets within this time of the first one were buffered before
_BEHIND_S, _CAUGHT_UP_S = 0.5, 0.1
_FIRST_PICTURES = 8  # where all of them are refused, their damage is the camera's habit
_NO_RESPONSE = "no response in time"
_NOT_LIVE = "the address does not serve live video"
_WEB_PAGE = "the address answers with a web page, not with live video"
_NO_STREAM = "unknown host name, redirection without end, or the connection ended"
_DOWNLOAD = "download the file and use it as --source"
_closing: dict[str, threading.Event] = {}  # by UDP address: set when the one that was released last has given its port back


@dataclass(frozen=True)
class _Arrival:
    """A packet of compressed video, and its time of arrival."""

    packet: Any
    arrived_s: float


class _NotLiveError(NoPictureError):
    """What an address serves is not known as live video."""


@dataclass
class StreamForm:
    """How a camera sends its pictures: found out with its first connection, so that none after it has to try.

    Attributes:
        bare_jpegs: in no form that FFmpeg knows, but JPEG; None: not known yet.
    """

    bare_jpegs: bool | None = None


class StreamCapture:
    """A `CaptureDevice` for live video.

    A separate thread receives packets, so that no hidden queue builds up. If decoding is slower than the camera, waiting
    packets are skipped up to a keyframe: late pictures would be mistaken for new ones. Pictures that FFmpeg reports as damaged,
    and those that depend on them, are skipped too.

    Args:
        url: address of the camera. RTSP uses TCP if the camera supports it, because lost packets damage pictures.
        on_slow_decoding: called when packets are skipped because decoding is too slow.
        on_damage: called with the reason while pictures are skipped because they are damaged, once there was one that is not.
        bare_jpegs: look for JPEG pictures in what the camera sends, whatever else is in it.

    Attributes:
        problem: why there are no more pictures, once `read` returns none.
        captured_s: `time.monotonic()` when the picture that was read last could be decoded: its delay here counts as its age.

    Raises:
        NoPictureError: no response, not live video, or no picture could be decoded.
    """

    def __init__(
        self,
        url: str,
        on_slow_decoding: Callable[[], None] = lambda: None,
        on_damage: Callable[[str], None] = lambda reason: None,
        bare_jpegs: bool = False,
    ) -> None:
        self.problem = "the stream ended"
        self.captured_s: float | None = None
        self._on_slow_decoding = on_slow_decoding
        self._on_damage = on_damage
        self._arrivals: SimpleQueue[_Arrival | None] = SimpleQueue()
        self._released = threading.Event()
        self._closed = threading.Event()
        self._url = url
        self._ended = False
        self._skips = False  # until the next keyframe, because decoding is late
        self._first_s: float | None = None
        self._gaps_s: deque[float] = deque(maxlen=_LAST_GAPS)
        self._newest_s = 0.0  # arrival of the newest packet that was read
        self._splitter = JpegSplitter() if bare_jpegs else None
        self._container = _connect(url, bare_jpegs)
        self._stream = film_stream(self._container)
        self._converter = PictureConverter(self._stream)
        self._decoder = self._stream.codec_context
        self._damage = DamageTracker()
        self._damage.reports_damage(self._decoder)
        self._first_refused: int | None = 0 if self._decoder.name == "mjpeg" else None  # until one of them is taken
        threading.Thread(target=self._receive, name="receiver of a stream", daemon=True).start()
        self._first: Picture | None = None  # shows that there are pictures, and is read first
        self._first = self.read()[1]
        if self._first is None:
            self.release()
            raise (_NotLiveError if self.problem == _NOT_LIVE else NoPictureError)(self.problem)

    def read(self) -> tuple[bool, Picture | None]:
        """Wait for the next picture, (H, W, 3) uint8 BGR; (False, None) if the stream has ended or sends nothing."""
        if self._first is not None:
            first = self._first
            self._first = None
            return True, first
        start_s = time.monotonic()
        while not self._ended:
            if time.monotonic() - start_s > _PICTURE_TIMEOUT_S:
                return self._end(f"nothing received for {_PICTURE_TIMEOUT_S:g} s could be decoded")
            try:
                wait_s = self._longest_wait_s(start_s)
                arrival = self._arrivals.get(timeout=wait_s)
            except Empty:
                begun = self._first_s is not None and self.captured_s is None
                return self._end(f"its video began, and nothing more came for {wait_s:.3g} s" if begun else _NO_RESPONSE)
            if arrival is None:
                return self._end(self.problem)
            since_first_s = self._note_arrival(arrival.arrived_s)
            picture = self._decode(arrival.packet) if self._should_decode(arrival) else None
            # What arrived while FFmpeg probed the stream is seconds old: it is decoded because later pictures depend on it.
            if picture is not None and since_first_s > _BACKLOG_S:
                if self.captured_s is None:
                    self._damage.reason = None  # many a stream begins between two key frames
                self.captured_s = arrival.arrived_s
                return True, picture
        return False, None

    def _longest_wait_s(self, start_s: float) -> float:
        """How long `read`, which began at `start_s`, waits for a packet."""
        if self._first_s is None or _is_udp(self._url):
            return _DATA_TIMEOUT_S
        wait_s = _PICTURE_TIMEOUT_S if self.captured_s is None else _LONGER * max(self._gaps_s, default=0.0)
        return max(_DATA_TIMEOUT_S, min(wait_s, start_s + _PICTURE_TIMEOUT_S - time.monotonic()))

    def _note_arrival(self, arrived_s: float) -> float:
        """Note when a packet arrived, and return the seconds since the first one."""
        if self._first_s is None:
            self._first_s = arrived_s
        else:
            self._gaps_s.append(arrived_s - self._newest_s)
        self._newest_s = arrived_s
        return arrived_s - self._first_s

    def interrupt(self) -> None:
        """End a `read` that waits in another thread: it returns no picture."""
        self._ended = True
        self._arrivals.put(None)

    def release(self) -> None:
        """Close the connection, at the latest with the next packet or at the receiver's timeout. May be called twice."""
        self._ended = True
        if _is_udp(self._url) and not self._released.is_set():
            _closing[self._url] = self._closed
        self._released.set()

    def _end(self, problem: str) -> tuple[bool, None]:
        self._ended = True
        self.problem = problem
        return False, None

    def _receive(self) -> None:
        """Receive packets until the stream ends or is released. The container is closed in the same thread."""
        import av

        try:
            # Demux all streams: with video alone, PyAV would not return as long as only audio arrives.
            for packet in self._container.demux():
                if self._released.is_set():
                    break
                if packet.stream_index == self._stream.index and packet.size:  # an empty packet marks the end
                    for picture in self._pictures(packet):
                        self._arrivals.put(_Arrival(picture, time.monotonic()))
                if self._splitter is not None and self._splitter.skipped > _MOST_BEFORE_JPEG:
                    break
            if self._splitter is not None and self._splitter.count <= 1:  # one is a photograph
                self.problem = _NOT_LIVE
        except av.FFmpegError as error:
            self.problem = _reason(error)
        finally:
            self._arrivals.put(None)
            self._released.wait()
            self._container.close()
            self._closed.set()

    def _pictures(self, packet: Any) -> list[Any]:
        """The pictures in a packet, or that end in it."""
        from av.packet import Packet

        if self._splitter is None:
            return [packet]
        pictures = [Packet(jpeg) for jpeg in self._splitter.split(bytes(packet))]
        for picture in pictures:
            picture.is_keyframe = True
        return pictures

    def _should_decode(self, arrival: _Arrival) -> bool:
        """Whether to decode a packet: not while decoding is late, until a keyframe."""
        late_s = time.monotonic() - arrival.arrived_s
        if self._skips and late_s < _CAUGHT_UP_S and arrival.packet.is_keyframe:
            self._skips = False
        elif not self._skips and late_s > _BEHIND_S:
            self._skips = True
            self._on_slow_decoding()
        return not self._skips

    def _decode(self, packet: Any) -> Picture | None:
        """Decode a packet and return its newest undamaged picture, else None."""
        import av

        newest = None
        self._damage.sending(packet)
        try:
            for frame in self._decoder.decode(packet):
                newest = frame if self._damage.is_intact(frame) else None
        except av.FFmpegError as error:  # damaged, or not supported by this decoder
            self._damage.failed(str(error.strerror))
            self._count_refused()
        if self.captured_s is not None and self._damage.reason is not None:
            self._on_damage(self._damage.reason)
        if newest is None:
            return None
        self._first_refused = None
        try:
            return np.ascontiguousarray(self._converter.convert(newest)[..., ::-1])
        except av.FFmpegError as error:
            if conversion_not_supported(error):
                self._end(str(error.strerror))  # nor will any later picture be
            else:
                self._damage.not_converted(str(error.strerror))
            return None

    def _count_refused(self) -> None:
        """Take damaged pictures where all of the first ones are: some cameras end every JPEG too early or too late."""
        import av

        if self._first_refused is None:
            return
        self._first_refused += 1
        if self._first_refused == _FIRST_PICTURES:
            self._first_refused = None
            self._decoder = av.CodecContext.create("mjpeg", "r")
            self._damage = DamageTracker()
            self._damage.reports_damage(self._decoder, strict=False)


def open_in_any_form(open_as: Callable[[bool], StreamCapture], form: StreamForm, url: str) -> StreamCapture:
    """Open live video as its camera sends it, which is noted in `form`.

    Many cameras send Motion JPEG over HTTP with headers that FFmpeg does not accept, or with none.

    Args:
        open_as: opens it, given whether to look for bare JPEG pictures.
        form: of earlier connections to this camera.
        url: address of the camera.

    Raises:
        NoPictureError: see `StreamCapture`.
    """
    bare = bool(form.bare_jpegs)
    try:
        stream = open_as(bare)
    except _NotLiveError as error:
        if form.bare_jpegs is not None or not _is_web(url):
            raise
        bare = True
        try:
            stream = open_as(bare)
        except NoPictureError:
            raise error from None
    form.bare_jpegs = bare
    return stream


def _scheme(url: str) -> str:
    return url.partition("://")[0].lower()


def _is_udp(url: str) -> bool:
    return _scheme(url) == "udp"


def _is_web(url: str) -> bool:
    return _scheme(url) in ("http", "https")


def _connect(url: str, bare_jpegs: bool) -> Any:
    """Open live video with at least one video stream; of one with bare JPEG pictures the packets are pieces as received."""
    import av

    scheme, rest = _scheme(url), url.partition("://")[2]
    options = {"format_whitelist": ",".join(_FORMATS), "fpsprobesize": "0"}
    if scheme in ("rtsp", "rtsps"):
        options |= {"rtsp_flags": "prefer_tcp", "allowed_media_types": "video"}
    if bare_jpegs:
        options |= _UNPARSED
    is_web = _is_web(url)
    earlier = _closing.pop(url, None)
    if earlier is not None:
        earlier.wait(2 * _DATA_TIMEOUT_S)
    start_s = time.monotonic()
    try:
        # At its timeout, FFmpeg returns a delayed picture, as old as the silence: `read` times out before that. Until then a
        # UDP port is in use, so that such a camera is not waited for as long as others.
        longest_wait_s = _DATA_TIMEOUT_S if _is_udp(url) else max(_DATA_TIMEOUT_S, _PICTURE_TIMEOUT_S)
        timeout = (_OPEN_TIMEOUT_S, longest_wait_s + _DATA_TIMEOUT_S)
        container = av.open(
            f"{scheme}://{rest}",
            format="mjpeg" if bare_jpegs else None,
            options=options,
            timeout=timeout,
            metadata_errors="replace",
        )
    except av.FFmpegError as error:
        late = time.monotonic() - start_s >= _OPEN_TIMEOUT_S  # RTSP then reports invalid data
        reason = _NO_RESPONSE if late else _reason(error)
        if is_web and reason in (_NOT_LIVE, _NO_STREAM) and _serves_web_page(f"{scheme}://{rest}"):
            reason = _WEB_PAGE
        hint = f"; if it serves a recording, {_DOWNLOAD}" if is_web and reason == _NOT_LIVE else ""
        raise (_NotLiveError if reason == _NOT_LIVE else NoPictureError)(reason + hint) from None
    except ValueError as error:  # PyAV's, for invalid characters
        raise NoPictureError(f"invalid address ({type(error).__name__})") from None
    if bare_jpegs and container.size > 0:  # the length of the answer: a photograph or a file
        container.close()
        raise _NotLiveError(_NOT_LIVE)
    recorded = container.duration and is_web
    problem = f"it is a recording, not live video; {_DOWNLOAD}" if recorded else _film_problem(container)
    if problem:
        container.close()
        raise NoPictureError(problem)
    return container


def _film_problem(container: Any) -> str | None:
    try:
        film_stream(container)
    except NoFilmError as error:
        return str(error)
    return None


def _serves_web_page(url: str) -> bool:
    """Ask the server what it serves: FFmpeg does not say, and takes the end of an answer of unknown length for a lost one."""
    try:
        address, login = without_login(urlsplit(url))
        request = urllib.request.Request(address)
        for name, value in login.items():
            request.add_unredirected_header(name, value)  # a password is for this server alone
        with urllib.request.urlopen(request, timeout=_DATA_TIMEOUT_S) as answer:
            return answer.headers.get_content_type() in ("text/html", "application/xhtml+xml")
    except (OSError, ValueError, http.client.HTTPException):  # no answer, or one that says no more than FFmpeg's error
        return False


def _reason(error: Any) -> str:
    """Describe an error without the address, which may contain a password."""
    import av

    if isinstance(error, av.ExitError):
        return _NO_RESPONSE
    if error.errno == errno.EINVAL or isinstance(error, av.InvalidDataError):
        return _NOT_LIVE
    if error.errno == errno.EIO:
        return _NO_STREAM
    return str(error.strerror)
