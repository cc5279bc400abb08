"""Reading of video files: every frame with its exact time, and a report of any damage."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError
from svg_common.video_container import missing_bytes

VIDEO_SUFFIXES = (
    *(".avi", ".mp4", ".m4v", ".mov", ".mkv", ".webm", ".mpg", ".mpeg", ".ts", ".mts", ".m2ts"),
    *(".wmv", ".flv", ".ogv", ".3gp", ".mjpg", ".mjpeg"),
)
_MAX_FPS = 1000  # higher rates come from broken headers
_JUMP_S = 1  # a clock that steps back further than this was restarted, by a wrap or a joined recording


class VideoError(SvgError):
    """A file is missing, unreadable, not a video, or has no frame that decodes.

    `reason` is the cause, without the file's name.
    """

    def __init__(self, message: str, reason: str) -> None:
        super().__init__(message)
        self.reason = reason


@dataclass(frozen=True)
class VideoFrame:
    """One picture: `image` (H, W, 3) uint8 RGB, upright; `time_s` seconds since the first picture of the file."""

    image: NDArray[np.uint8]
    time_s: float


class VideoReader:
    """Iterator over the frames of a video file, in the order in which they are shown. One pass; open again for another.

    Damage inside the file only costs the frames that cannot be decoded. It is described in `problem` once the iteration
    has ended.

    Args:
        path: a local file.

    Attributes:
        fps: frames per second, the average when the file's rate varies.
        duration_s: length that the header announces, for progress displays; None if it announces none.
        problem: None, or a readable description of what is wrong with the file.

    Raises:
        VideoError: the file is unreadable, is not a video, or has no frame that decodes.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self.problem: str | None = None
        self._container = _open_container(self.path)
        try:
            stream = _video_stream(self._container, self.path)
            rate = _frame_rate(stream, self.path)
            self.fps = float(rate)
            self.duration_s = self._container.duration / 1e6 if self._container.duration else None  # microseconds
            # AVI stores no presentation times, and those that FFmpeg derives for B-frames are out of order; its decode times
            # run at the same pace.
            self._clock = _Clock(1 / rate, decode_times=self._container.format.name == "avi")
            self._frames = self._decode(stream)
            self._first: VideoFrame | None = next(self._frames, None)
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

    def _decode(self, stream: Any) -> Generator[VideoFrame, None, None]:
        count = 0
        for frame in self._intact_frames(stream):
            time_s = float(self._clock.time_of(frame))
            # rot90 turns counterclockwise, as the display matrix that phones write does.
            image = np.rot90(frame.to_ndarray(format="rgb24"), round(frame.rotation / 90))
            count += 1
            yield VideoFrame(np.ascontiguousarray(image), time_s)
        missing = missing_bytes(self.path)
        if missing:
            self.problem = f"the file is truncated: {missing} bytes are missing at its end; {count} frames could be read"
        elif self.problem:
            self.problem += f"; {count} frames could be read"

    def _intact_frames(self, stream: Any) -> Iterator[Any]:
        """Decode packet by packet, so that one that is damaged does not end the rest."""
        import av

        stream.thread_type = "AUTO"
        packets = self._container.demux(stream)
        ended = False
        while not ended:
            frames: list[Any] = []
            try:
                packet = next(packets, None)
                ended = packet is None
                frames = packet.decode() if packet is not None else stream.codec_context.decode(None)
            except av.EOFError:
                pass  # the decoder was flushed already
            except av.FFmpegError as error:
                self.problem = self.problem or f"part of it cannot be decoded ({error.strerror})"
            for frame in frames:
                if frame.is_corrupt:
                    self.problem = self.problem or "part of it decodes to corrupt pictures"
                else:
                    yield frame


class _Clock:
    """Turns the time stamps of a file's frames into seconds that start at 0 and always advance."""

    def __init__(self, interval_s: Fraction, decode_times: bool) -> None:
        self._interval_s = interval_s
        self._decode_times = decode_times
        self._origin_s: Fraction | None = None
        self._next_s = Fraction(0)  # for a frame without a usable stamp: one interval after the last frame

    def time_of(self, frame: Any) -> Fraction:
        stamp = frame.dts if self._decode_times else frame.pts
        now_s = self._next_s if stamp is None else self._since_start(stamp * frame.time_base)
        self._next_s = now_s + self._interval_s
        return now_s

    def _since_start(self, stamp_s: Fraction) -> Fraction:
        if self._origin_s is None:
            self._origin_s = stamp_s - self._next_s
        last_s, now_s = self._next_s - self._interval_s, stamp_s - self._origin_s
        if now_s > last_s:
            return now_s
        if last_s - now_s > _JUMP_S:
            self._origin_s = stamp_s - self._next_s
        return self._next_s


def list_videos(path: str | os.PathLike[str]) -> list[Path]:
    """Return `path` itself when it is a file, else every video file below that folder by suffix, in name order.

    A file that is reachable under two names counts once. The list is empty when the folder holds no video.

    Raises:
        VideoError: `path` does not exist.
    """
    root = Path(path)
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise VideoError(
            f"'{root}' does not exist\n  expected a video file, or a folder that holds video files", "does not exist"
        )
    found: dict[Path, Path] = {}
    for file in sorted(root.rglob("*")):
        # Names with a leading dot are leftovers of other programs, such as macOS's "._clip.mp4".
        if file.suffix.lower() in VIDEO_SUFFIXES and not file.name.startswith(".") and file.is_file():
            found.setdefault(file.resolve(), file)
    return list(found.values())


def _open_container(path: Path) -> Any:
    import av

    try:
        if path.is_file() and not path.stat().st_size:
            raise _not_a_video(path, "the file is empty")
        # The absolute path keeps a name with a colon from being taken for a protocol, and the whitelist keeps a
        # playlist that poses as a video from opening connections.
        return av.open(str(path.absolute()), options={"protocol_whitelist": "file"}, metadata_errors="replace")
    except av.FFmpegError as error:
        raise _not_a_video(path, str(error.strerror)) from error
    except OSError as error:
        raise _not_a_video(path, error.strerror or str(error)) from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise _not_a_video(path, f"it is a '{container.format.name}' file without a video stream")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise _not_a_video(path, "FFmpeg has no decoder for its codec")
    return stream


def _frame_rate(stream: Any, path: Path) -> Fraction:
    rate: Fraction | None = stream.average_rate or stream.guessed_rate
    if rate is None or not 0 < rate <= _MAX_FPS:
        raise _not_a_video(path, f"its frame rate of {rate} is invalid")
    return rate


def _not_a_video(path: Path, reason: str) -> VideoError:
    message = f"cannot read '{path}' as a video: {reason}\n  expected a video file that FFmpeg can play"
    return VideoError(message, reason)
