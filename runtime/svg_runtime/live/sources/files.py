"""Video files, image files, or a folder of both: clips in name order, pictures selected by their time."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path

from svg_common.errors import UsageError
from svg_common.printable import one_line
from svg_common.video.clips import Clip, find_clips
from svg_common.video.picture_files import PictureError, PictureFiles
from svg_common.video.reader import UnreadableError, VideoError, VideoReader
from svg_common.video.sampling import Picked, pick_at_interval, step_of_video
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Picture, SourceFrame
from svg_runtime.live.sources.pacing import Ticker, is_same_step
from svg_runtime.live.sources.read_ahead import read_ahead
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL
from svg_runtime.live.stop import StopRequest

_READ_AHEAD = 2  # pictures
_MOST_REASONS = 10


class FileSource:
    """Pictures of files at the model's interval, read ahead; none is skipped because the loop is slow.

    A video yields the picture nearest to each multiple of the model's interval; in a short pause that is the same one again. A
    pause of more than a second starts a new clip, and takes no time. Images are one interval apart by their numbers. An
    unreadable file is an event, or an error if it is the only one.

    Args:
        path: a video, an image, or a folder of these.
        interval_s: the model's interval in seconds.
        stop: ends the iteration.
        events: event log for unreadable, damaged and slow files, and for those without a time base.
        ticker: real-time schedule, or None for as fast as the pictures are read.
        source_fps: pictures per second of files without time stamps; None: what the codec says; of images one per interval.
        loop: begin anew at the end, with a new clip, until a stop is requested.
    """

    def __init__(
        self,
        path: Path,
        interval_s: float,
        stop: StopRequest,
        events: EventLog,
        ticker: Ticker | None = None,
        source_fps: float | None = None,
        loop: bool = False,
    ) -> None:
        self.name = one_line(path.resolve().name)
        self.description = one_line(path)
        self.captured = 0
        self.dropped = 0
        self._clips = require_clips(path)
        self._interval_s = interval_s
        self._stop = stop
        self._events = events
        self._ticker = ticker
        self._source_fps = source_fps
        self._loop = loop
        self._step_s: float | None = None  # of the first clip
        self._reading: Generator[SourceFrame, None, None] | None = None
        self._unreadable: list[str] = []  # reasons in this round over the files
        if len(self._clips) == 1 and len(self._clips[0].paths) == 1:
            _require_readable(self._clips[0])  # the only file: an unreadable one is an error before anything starts

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the pictures of all files, file by file.

        Raises:
            VideoError: not one picture could be read: of all files, in the first round or, with `loop`, in a later one.
        """
        self._reading = read_ahead(self._selected(), _READ_AHEAD)
        with closing(self._reading):
            for frame in self._reading:
                if self._ticker is not None:
                    self._ticker.wait_for(frame.tick)
                if self._stop:
                    return
                yield frame

    def close(self) -> None:
        """End the thread that reads, which closes its file. An error may still hold the iterator that would do so."""
        if self._reading is not None:
            self._reading.close()

    def _selected(self) -> Generator[SourceFrame, None, None]:
        number, next_tick = -1, 0
        next_s = 0.0
        again = False
        while True:
            captured = self.captured
            self._unreadable.clear()
            for clip in self._clips:
                number, first_tick = number + 1, next_tick
                first_s = next_s
                last: Picture | None = None
                for picked, scale in self._picked(clip):
                    number += picked.pause_s > 0
                    tick = first_tick + round(picked.tick * scale)
                    held = picked.item is last
                    source_s = first_s + picked.time_s
                    yield SourceFrame(
                        picked.item, tick, clip=number, pause_s=picked.pause_s, held=held, again=again, source_s=source_s
                    )
                    next_tick = tick + 1
                    next_s = source_s + scale * self._interval_s
                    last = picked.item
                    again = False
            if self.captured == captured:
                raise self._nothing_readable()
            if not self._loop:
                return
            again = True

    def _nothing_readable(self) -> VideoError:
        more = len(self._unreadable) - _MOST_REASONS
        reasons = self._unreadable[:_MOST_REASONS] + ([f"and {more} more"] if more > 0 else [])
        longer = " any longer" if self.captured else ""
        found = f"no frame of '{self.description}' can be read{longer}:"
        return VideoError("\n  ".join([found, *reasons]), "no frame can be read")

    def _picked(self, clip: Clip) -> Iterator[tuple[Picked[Picture], float]]:
        """The selected pictures of a clip, and the number of the model's intervals from one to the next."""
        return self._of_video(clip.paths[0]) if clip.is_video else self._of_images(clip)

    def _of_video(self, path: Path) -> Iterator[tuple[Picked[Picture], float]]:
        try:
            with VideoReader(path) as reader:
                fps = video_fps(reader, self._source_fps)
                self._note_time_base(path, reader)
                yield from self._at_interval(path, self._timed(reader, reader.fps / fps), fps)
                if reader.problem is not None:
                    self._events.add("damaged_file", f"{one_line(path)}: {reader.problem}")
        except VideoError as error:
            if isinstance(error, UnreadableError) and len(self._clips) == 1 and not self._loop:
                raise  # its disk or network fails: nothing else is left to read
            self._note_unreadable(str(error))

    def _of_images(self, clip: Clip) -> Iterator[tuple[Picked[Picture], float]]:
        fps = self._source_fps or 1 / self._interval_s
        yield from self._at_interval(clip.name, self._read_images(clip, fps), fps)

    def _at_interval(
        self, path: Path, timed: Iterator[tuple[float, Picture]], fps: float
    ) -> Iterator[tuple[Picked[Picture], float]]:
        """Select pictures at the model's interval, or all pictures of a clip that is slower than that."""
        step = step_of_video(self._interval_s, fps)
        step_s, scale = (1 / fps, 1 / (fps * self._interval_s)) if step is None else (step.step_s, 1.0)
        self._note_step(path, self._interval_s * scale)
        for number, picked in enumerate(pick_at_interval(timed, step_s, fps)):
            if number == 1 and step is None:  # one picture alone has no step
                self._warn_slow(path, fps)
            yield picked, scale

    def _timed(self, reader: VideoReader, stretch: float) -> Iterator[tuple[float, Picture]]:
        for frame in reader:
            self.captured += 1
            yield frame.time_s * stretch, frame.image

    def _read_images(self, clip: Clip, fps: float) -> Iterator[tuple[float, Picture]]:
        pictures = PictureFiles(clip.paths)
        for path, position in zip(clip.paths, clip.positions, strict=True):
            try:
                image = pictures.read(path)
            except PictureError as error:
                self._note_unreadable(f"'{one_line(path)}': {error}", "; the picture nearest to it is shown instead")
                continue
            if pictures.depth_note is not None:
                self._events.once("sample_depth", f"{one_line(path.parent)}: {pictures.depth_note}")
            self.captured += 1
            yield position / fps, image

    def _note_unreadable(self, reason: str, consequence: str = "") -> None:
        self._unreadable.append(reason)
        self._events.add("unreadable_file", reason + consequence)

    def _note_time_base(self, path: Path, reader: VideoReader) -> None:
        if reader.assumed_rate and self._source_fps is None:
            assumed = f"{one_line(path)} has no time stamps: assumed {reader.fps:.4g} frames per second"
            self._events.add("assumed_rate", f"{assumed}; give the true rate with --source-fps")
        elif self._source_fps is not None and not reader.assumed_rate:
            unused = f"{one_line(path)} has time stamps of its own: --source-fps does not change it"
            self._events.once("source_fps_unused", unused)

    def _note_step(self, path: Path, step_s: float) -> None:
        self._step_s = self._step_s or step_s
        if not is_same_step(step_s, self._step_s):
            self._events.once(
                "several_steps",
                f"one forecast step is {step_s:.3g} s in {one_line(path)} and {self._step_s:.3g} s in the first clip: "
                f"all lead times are nominal, of steps of {self._interval_s:.3g} s, as the model expects",
            )

    def _warn_slow(self, path: Path, fps: float) -> None:
        self._events.once(
            "slow_source",
            f"{one_line(path)} has {fps:.4g} frames per second, the model expects {1 / self._interval_s:.4g}: "
            f"one forecast step is {1 / fps:.3g} s here, and the model sees larger motion per step than in training",
        )


def _require_readable(clip: Clip) -> None:
    path = clip.paths[0]
    if clip.is_video:
        VideoReader(path).close()
        return
    try:
        PictureFiles(clip.paths).read(path)
    except PictureError as error:
        message = f"cannot read '{one_line(path)}' as a picture: {error}\n  expected a PNG, JPEG, BMP, TIFF or WebP file"
        raise VideoError(message, str(error)) from error


def require_clips(path: Path) -> list[Clip]:
    """Return the clips in `path`, a file or a folder; those of the folders in it if it holds only folders.

    Results may lie in a folder below the videos, and are not read as videos.

    Raises:
        UsageError: it does not exist, is a pipe or a device, or contains neither videos nor images.
    """
    shown = one_line(path)
    if not path.exists():
        raise UsageError(
            f"no such file or folder: '{shown}'\n  expected a video, an image, a folder of these, or {SYNTHETIC_URL}"
        )
    if path.is_char_device():
        number = path.name.removeprefix("video")
        raise UsageError(
            f"'{shown}' is a device, not a file\n  expected, for a camera, --camera {number if number.isdecimal() else 0}"
        )
    if path.is_fifo() or path.is_socket():
        raise UsageError(
            f"'{shown}' is a pipe, which can be read only once\n"
            "  expected a file: save the video to a file first, or send it as live video to an address, such as\n"
            "  ffmpeg -re -i ... -f mpegts udp://127.0.0.1:5000, and give that: --source udp://127.0.0.1:5000"
        )
    clips = find_clips(path, nested=False) or find_clips(path)
    if not clips:
        raise UsageError(
            f"the folder '{shown}' contains no videos or images\n  expected files such as .mp4, .avi, .png or .jpg"
        )
    return clips


def video_fps(reader: VideoReader, source_fps: float | None) -> float:
    """Return the frames per second of a video: what the user says, if the file itself has no time stamps."""
    return source_fps if reader.assumed_rate and source_fps is not None else reader.fps


def source_intervals_s(path: Path, source_fps: float | None) -> Iterator[float | None]:
    """Yield the seconds between pictures of each readable clip in `path`; None for images whose rate is not given."""
    for clip in require_clips(path):
        interval_s = None if source_fps is None else 1 / source_fps
        if clip.is_video:
            try:
                with VideoReader(clip.paths[0]) as reader:
                    interval_s = 1 / video_fps(reader, source_fps)
            except VideoError:
                continue
        yield interval_s
