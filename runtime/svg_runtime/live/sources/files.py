"""Video files, image files, or a folder of both: clips in name order, pictures selected by their timestamps."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from svg_common.errors import UsageError
from svg_common.picture_files import PictureError, PictureFiles
from svg_common.video import VIDEO_SUFFIXES, VideoError, VideoReader
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources.base import Picture, SourceFrame
from svg_runtime.live.sources.pacing import SLOWER_THAN_MODEL, Ticker, pick_at_interval
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL
from svg_runtime.live.stop import StopRequest

IMAGE_SUFFIXES = frozenset((".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"))


@dataclass(frozen=True)
class Clip:
    """Continuous pictures: one video file, or consecutive image files in a folder."""

    paths: tuple[Path, ...]
    is_video: bool


def find_clips(path: Path) -> list[Clip]:
    """List the clips in `path`, a file or a folder, in natural order (`frame2` before `frame10`).

    Raises:
        UsageError: the file or folder does not exist, or contains neither videos nor images.
    """
    if not path.exists():
        raise UsageError(
            f"no such file or folder: '{path}'\n  expected a video, an image, a folder of these, or {SYNTHETIC_URL}"
        )
    if path.is_char_device():
        raise UsageError(
            f"'{path}' is a device, not a file\n  expected, for a camera, --camera {path.name.removeprefix('video')}"
        )
    if not path.is_dir():
        return [Clip((path,), is_video=path.suffix.lower() not in IMAGE_SUFFIXES)]
    files = sorted((file for file in path.iterdir() if _is_picture_file(file)), key=_name_order)
    if not files:
        raise UsageError(f"the folder '{path}' contains no videos or images\n  expected files such as .mp4, .avi, .png or .jpg")
    clips: list[Clip] = []
    for is_video, group in groupby(files, key=lambda file: file.suffix.lower() in VIDEO_SUFFIXES):
        members = tuple(group)
        clips += [Clip((member,), True) for member in members] if is_video else [Clip(members, False)]
    return clips


class FileSource:
    """Pictures of files at the model's interval; none is skipped because the loop is slow.

    A video yields the picture nearest to each multiple of the model's interval; images are one interval apart. An unreadable
    file is an event, or an error if it is the only one.

    Args:
        path: a video, an image, or a folder of these.
        interval_s: the model's interval in seconds.
        stop: ends the iteration.
        events: event log for unreadable, damaged and slow files.
        ticker: real-time schedule, or None for as fast as the pictures are read.
    """

    def __init__(
        self, path: Path, interval_s: float, stop: StopRequest, events: EventLog, ticker: Ticker | None = None
    ) -> None:
        self.name = path.resolve().name
        self.description = str(path)
        self.captured = 0
        self.dropped = 0
        self._clips = find_clips(path)
        self._interval_s = interval_s
        self._stop = stop
        self._events = events
        self._ticker = ticker
        if len(self._clips) == 1 and self._clips[0].is_video:
            VideoReader(self._clips[0].paths[0]).close()  # the only file: an unreadable one is an error before anything starts

    def frames(self) -> Iterator[SourceFrame]:
        """Yield the pictures of all files, file by file.

        Raises:
            VideoError: not one picture could be read.
        """
        next_tick = 0
        for number, clip in enumerate(self._clips):
            first_tick = next_tick
            for step, image in self._clip_pictures(clip):
                if self._ticker is not None:
                    self._ticker.wait_for(first_tick + step)
                if self._stop:
                    return
                yield SourceFrame(image, first_tick + step, clip=number)
                next_tick = first_tick + step + 1
        if self.captured == 0:
            reasons = "\n  ".join(self._events.messages)
            raise VideoError(f"no frame of '{self.description}' can be read:\n  {reasons}", "no frame can be read")

    def close(self) -> None:
        """Files are closed when their iteration ends."""

    def _clip_pictures(self, clip: Clip) -> Iterator[tuple[int, Picture]]:
        return self._video_pictures(clip.paths[0]) if clip.is_video else enumerate(self._images(clip.paths))

    def _video_pictures(self, path: Path) -> Iterator[tuple[int, Picture]]:
        try:
            reader = VideoReader(path)
        except VideoError as error:
            self._events.add("unreadable_file", str(error))
            return
        with reader:
            if reader.fps * self._interval_s * SLOWER_THAN_MODEL < 1:
                self._warn_slow(path, reader.fps)
            yield from pick_at_interval(self._timed(reader), self._interval_s)
            if reader.problem is not None:
                self._events.add("damaged_file", f"{path}: {reader.problem}")

    def _timed(self, reader: VideoReader) -> Iterator[tuple[float, Picture]]:
        for frame in reader:
            self.captured += 1
            yield frame.time_s, frame.image

    def _images(self, paths: tuple[Path, ...]) -> Iterator[Picture]:
        pictures = PictureFiles(paths)
        for path in paths:
            try:
                image = pictures.read(path)
            except PictureError as error:
                self._events.add("unreadable_file", f"'{path}': {error}; skipped")
                continue
            if pictures.depth_note is not None:
                self._events.once("sample_depth", f"{path.parent}: {pictures.depth_note}")
            self.captured += 1
            yield image

    def _warn_slow(self, path: Path, fps: float) -> None:
        self._events.once(
            "slow_source",
            f"{path} has {fps:.4g} frames per second, the model expects {1 / self._interval_s:.4g}: "
            f"one forecast step is {1 / fps:.3g} s here, and the model sees larger motion per step than in training",
        )


def video_interval_s(path: Path) -> float | None:
    """Return the seconds between pictures of the first readable video in `path`; None if there is none."""
    for clip in find_clips(path):
        if clip.is_video:
            try:
                with VideoReader(clip.paths[0]) as reader:
                    return 1 / reader.fps
            except VideoError:
                continue
    return None


def _is_picture_file(path: Path) -> bool:
    return path.is_file() and not path.name.startswith(".") and path.suffix.lower() in {*VIDEO_SUFFIXES, *IMAGE_SUFFIXES}


def _name_order(path: Path) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]
