"""Reading of video files: every frame with its exact time, and a report of any damage."""

from __future__ import annotations

import errno
import os
from collections.abc import Generator, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError
from svg_common.files import refuse_pipe
from svg_common.printable import one_line
from svg_common.quantities import count_text, is_or_are
from svg_common.video.container import index_problem, is_joined, missing_bytes
from svg_common.video.damage import DamageTracker
from svg_common.video.file_end import FileEnd
from svg_common.video.joins import JoinedPackets
from svg_common.video.picture import PictureConverter, conversion_not_supported
from svg_common.video.stream import NoFilmError, count_pictures, film_stream
from svg_common.video.timing import Clock, measure_timing

# What FFmpeg plays and a camera, phone, recorder, editor or converter writes. Left out: suffixes that mean something else
# more often (.ogg, .mod, .bin, .dat, .avs), games' own formats, playlists, and pictures (.webp, .avif, .heic).
VIDEO_SUFFIXES = (
    *(".avi", ".divx", ".mp4", ".m4v", ".mov", ".qt", ".f4v", ".ismv", ".3gp", ".3g2", ".mj2"),  # AVI, and MP4's family
    *(".mkv", ".mk3d", ".webm", ".nut", ".flv", ".wmv", ".asf", ".wtv", ".ogv", ".ogm", ".rm", ".rmvb"),
    *(".mpg", ".mpeg", ".mpe", ".vob", ".ts", ".mts", ".m2ts", ".m2t", ".mp2t", ".tp", ".trp", ".tod"),  # MPEG-PS and -TS
    *(".mxf", ".gxf", ".dv", ".cine", ".y4m", ".ivf", ".gif", ".apng"),  # editing, exchange, animations
    *(".lrv", ".insv", ".dav", ".amv"),  # action cameras, recorders of surveillance cameras, players
    *(".h264", ".264", ".avc", ".h265", ".265", ".hevc", ".h266", ".266", ".vvc", ".obu", ".av1"),  # raw, no time stamps
    *(".m1v", ".m2v", ".mpv", ".h261", ".h263", ".vc1", ".dnxhd", ".dnxhr", ".mjpg", ".mjpeg"),
)
_UNFINISHED = "the recording was not finished, or the file was copied only in part"
_WHOLE = "copy it whole, or wait until its recorder has ended"
_TRANSPORT_STREAM = "mpegts"
_MOST = 0.9  # of a file in which the film is that of one stream; sound may go on after it
_JOINED = (
    "the file is several files one after the other, of which only the first can be read; give each one, or join them with "
    "ffmpeg -f concat"
)

# Errors that say nothing about the file: of this machine, and of the disk or network that holds it or the rights to it.
_MACHINE = (errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ENFILE)
_DISK = (
    errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENODEV, errno.ENXIO, errno.ENOTCONN,
    errno.ECONNABORTED, errno.ECONNRESET, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ENETUNREACH, errno.ESHUTDOWN,
)  # fmt: skip
_ALSO_DAMAGE = (errno.EPERM, errno.EIO)  # -1, and what some of FFmpeg's formats return where a file ends or is damaged
_PIECE, _MOST_PIECES = 1 << 20, 256  # bytes; of a larger file, so many pieces are tried: a stop waits for it


class VideoError(SvgError):
    """A file is missing, unreadable, not a video, or has no frame that decodes.

    `reason` is the cause, without the file's name.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


class UnreadableError(VideoError):
    """A file cannot be read now, and may well be whole: it may not be read, or its disk or network fails."""


@dataclass(frozen=True)
class VideoFrame:
    """One picture: `image` (H, W, 3) uint8 RGB as a viewer sees it (`svg_common.video.picture`); `time_s` seconds since the
    first picture of the file."""

    image: NDArray[np.uint8]
    time_s: float


class VideoReader:
    """Iterator over the frames of a video file, in the order in which they are shown. One pass; open again for another.

    Damage inside the file costs the frames from there to the next key frame, because they depend on what is damaged; the
    others keep their times. It is described in `problem` once the iteration has ended.

    Args:
        path: a local file.

    Attributes:
        fps: frames per second, from the usual distance of two time stamps: pauses do not change it.
        assumed_rate: the file has no time stamps. Frames are then 1 / `fps` apart, and `fps` is what the codec says, else 25.
        duration_s: length that the header announces, for progress displays; None if it announces none.
        problem: None, or a readable description of what is wrong with the file.

    Raises:
        VideoError: the file is unreadable, is not a video, or has no frame that decodes.
        UnreadableError: it cannot be read now; also raised by the iteration, where its disk or network fails.
        UsageError: it is a pipe, which can be read only once.
        SvgError: this machine has no threads, memory or open files left for it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.problem: str | None = None
        self._read_to = 0  # bytes of the file
        self._another_stream = False
        self._end = FileEnd.WHOLE
        refuse_pipe(self.path)
        with _open_container(self.path) as container:
            pictures = count_pictures(container)
        with _open_container(self.path) as container:
            timing = measure_timing(container, _video_stream(container, self.path, pictures))
        self.fps = float(timing.fps)
        self.assumed_rate = timing.assumed
        self._clock = Clock(timing)
        self._container = _open_container(self.path)
        try:
            stream = _video_stream(self._container, self.path, pictures)
            self.duration_s = self._container.duration / 1e6 if self._container.duration else None  # microseconds
            self._frames = self._decode(stream)
            self._first: VideoFrame | None = next(self._frames, None)
            if self._first is None and stream.codec_context.name == "mjpeg":
                self._begin_leniently(pictures)
            if self._first is None:
                raise _not_a_video(self.path, self.problem or "no frame of it can be decoded")
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> VideoReader:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def __iter__(self) -> Iterator[VideoFrame]:
        return self

    def __next__(self) -> VideoFrame:
        if self._first is not None:
            frame = self._first
            self._first = None
            return frame
        return next(self._frames)

    def close(self) -> None:
        """Close the file; the iteration then ends. Closing twice is harmless."""
        self._first = None
        self._frames.close()
        self._container.close()

    def _begin_leniently(self, pictures: Mapping[int, int]) -> None:
        """Begin again where all pictures are refused: some cameras end every JPEG too early or too late."""
        self._container.close()
        self.problem = None
        self._container = _open_container(self.path)
        self._frames = self._decode(_video_stream(self._container, self.path, pictures), strict=False)
        self._first = next(self._frames, None)

    def _decode(self, stream: Any, strict: bool = True) -> Generator[VideoFrame, None, None]:
        import av

        converter, damage = PictureConverter(stream), DamageTracker()
        count = 0
        for frame, intact in damage.intact_pictures(self._decoded_frames(stream, damage, strict)):
            if intact:
                try:
                    image = converter.convert(frame)
                except av.FFmpegError as error:
                    note = damage.never_converted if conversion_not_supported(error) else damage.not_converted
                    note(str(error.strerror))
                    continue
                count += 1
                yield VideoFrame(image, float(self._clock.time_of(frame)))
            elif count and (frame.pts is None or self.assumed_rate):
                self._clock.time_of(frame)  # without time stamps, what is left out takes its time as well
        self.problem = self._problem(damage, count)

    def _problem(self, damage: DamageTracker, count: int) -> str | None:
        """What was wrong with the file, after `count` frames of it."""
        try:
            size = self.path.stat().st_size
            missing, joined = missing_bytes(self.path), is_joined(self.path, self._read_to)
        except OSError:  # it was removed meanwhile, and all of it was read
            size, missing, joined = 0, 0, False
        could_be_read = f"{count_text(count, 'frame')} could be read"
        if missing:
            lacks = f"{count_text(missing, 'byte')} {is_or_are(missing)} missing at its end"
            return f"the file is truncated: {lacks}; {could_be_read}"
        if self._end == FileEnd.LOST:
            return f"the file is {self._end.value}; {could_be_read}"
        if self._end != FileEnd.WHOLE:
            return f"the file is truncated: it ends {self._end.value}; {could_be_read}"
        if joined:
            return f"{_JOINED}; {could_be_read}"
        if self._another_stream and self._read_to < _MOST * size:
            read = f"{self._read_to / size:.0%}"
            return f"from {read} of the file on, its film is another stream, which is not read; {could_be_read}"
        if damage.not_supported:
            left_out = f"{count_text(damage.left_out, 'frame')} left out"
            return f"{damage.not_supported}: {left_out}; {could_be_read}; re-encode it in BT.709"
        if damage.reason:
            left_out = f"{count_text(damage.left_out, 'frame')} up to the next key frame left out"
            return f"part of it is damaged ({damage.reason}): {left_out}; {could_be_read}"
        return None

    def _decoded_frames(self, stream: Any, damage: DamageTracker, strict: bool) -> Iterator[Any]:
        """Decode packet by packet, so that one that is damaged does not end the rest."""
        import av

        stream.thread_type = "AUTO"
        damage.reports_damage(stream.codec_context, strict)
        counted = self._container.format.name == _TRANSPORT_STREAM
        joined = JoinedPackets(self._packets(stream), self.path, 1 / self.fps, counted)
        packets = iter(joined)
        ended = False
        while not ended:
            frames: list[Any] = []
            try:
                packet, begins = next(packets, (None, False))
                ended = packet is None
                if begins:  # it is decoded like a file of its own
                    yield from _last_pictures(stream, damage)
                    damage.begins_anew()
                if packet is not None:
                    incomplete = joined.is_incomplete(packet)
                    damage.sending(packet, incomplete)
                    if not incomplete:  # FFmpeg takes the head of a joined IVF file for that of a picture, up to the end
                        self._read_to = max(self._read_to, (packet.pos or 0) + packet.size)
                frames = (packet or _end_of(stream)).decode()
            except IndexError:  # as in JoinedPackets
                self._another_stream = True
            except av.EOFError:
                pass  # the decoder was flushed already
            except av.FFmpegError as error:
                if error.errno == errno.EAGAIN and not stream.codec_context.is_open:  # no threads to decode with
                    raise _machine_is_short(self.path, str(error.strerror)) from error
                damage.failed(str(error.strerror))
            yield from frames
        self._end = joined.end

    def _packets(self, stream: Any) -> Iterator[Any]:
        """The packets of a stream.

        Raises:
            UnreadableError: the file cannot be read further now.
            av.FFmpegError: it is damaged.
        """
        import av

        try:
            yield from self._container.demux(stream)
        except av.FFmpegError as error:
            if _disk_failed(self.path, error):
                raise _unreadable(self.path, error) from error
            raise


def _last_pictures(stream: Any, damage: DamageTracker) -> list[Any]:
    """End the decoding of a recording, after which another one begins in the same file, and return what the decoder held."""
    import av

    frames: list[Any] = []
    try:
        frames = _end_of(stream).decode()
    except av.FFmpegError as error:
        damage.failed(str(error.strerror))
    stream.codec_context.flush_buffers()
    return frames


def _end_of(stream: Any) -> Any:
    """The packet that lets a decoder return the pictures that it holds. `decode(None)` returns them without a time base."""
    import av

    packet = av.Packet()
    packet.stream = stream
    packet.time_base = stream.time_base
    return packet


def _open_container(path: Path) -> Any:
    import av

    try:
        if path.is_file() and not path.stat().st_size:
            raise _not_a_video(path, "the file is empty")
        # The absolute path keeps a name with a colon from being taken for a protocol, and the whitelist keeps a
        # playlist that poses as a video from opening connections.
        return av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except (av.FFmpegError, OSError) as error:
        reason = str(error.strerror or error)
        if error.errno in _MACHINE:
            raise _machine_is_short(path, reason) from error
        if _disk_failed(path, error):
            raise _unreadable(path, error) from error
        raise _not_a_video(path, reason) from error


def _machine_is_short(path: Path, reason: str) -> SvgError:
    """The error of a file that may well be whole: nothing is noted of it, as of one that is not a video."""
    return SvgError(
        f"cannot open '{one_line(path)}' now: {reason}\n"
        "  this machine is short of threads, memory or open files; close other programs, then run this again"
    )


def _disk_failed(path: Path, error: Any) -> bool:
    """Whether it was not the content of a file that ended its reading with an error of FFmpeg or the system."""
    if error.errno not in _ALSO_DAMAGE:
        return error.errno in _DISK
    try:  # of the two, only reading tells
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            for start in range(0, size, max(_PIECE, size // _MOST_PIECES)):
                file.seek(start)
                file.read(_PIECE)
    except OSError:
        return True
    return False


def _unreadable(path: Path, error: Any) -> UnreadableError:
    return UnreadableError(
        f"cannot read '{one_line(path)}' now: {error.strerror}\n"
        "  check the rights to it, and the disk or network that it is on, then run this again",
        reason=str(error.strerror),
    )


def _video_stream(container: Any, path: Path, pictures: Mapping[int, int]) -> Any:
    try:
        return film_stream(container, pictures)
    except NoFilmError as error:
        raise _not_a_video(path, str(error)) from error


def _not_a_video(path: Path, reason: str) -> VideoError:
    """The error that says why; if the index of an MP4 file is not all there, FFmpeg's reason is one of many that come of it."""
    try:
        index = index_problem(path) if path.is_file() else None
        reason = reason if index is None else f"{_UNFINISHED}: {index}; {_WHOLE}"
    except OSError as error:
        if error.errno in _DISK:  # FFmpeg does not say that it could not read the index
            return _unreadable(path, error)
    message = f"cannot read '{one_line(path)}' as a video: {reason}\n  expected a video file that FFmpeg can play"
    return VideoError(message, reason)
