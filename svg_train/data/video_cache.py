"""Videos and sequences of picture files in the cache of decoded frames, with the time of every frame."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import UsageError
from svg_common.files import write_json
from svg_common.frames import Image, covering_size, fit_frame
from svg_common.printable import one_line
from svg_common.video.clips import Clip
from svg_common.video.picture_files import PictureError, PictureFiles
from svg_common.video.reader import UnreadableError, VideoError, VideoReader
from svg_train.data.frame_cache import (
    DAMAGED_RECORD,
    FrameShape,
    Problems,
    Skipped,
    SourceError,
    SourceProgress,
    cache_write_error,
    entry_path,
    frames_writer,
    is_complete,
    load_entries,
    map_frames,
)

_LOG = logging.getLogger(__name__)
_VERSION = 7  # increase it whenever the same source would decode to other frames, times or size changes
_REPORT_EVERY = 32  # frames
_MAX_SIDE = 1 << 16  # pixels; more is a damaged record

# What the times of the frames are from: time stamps, an assumed rate (raw streams), or the numbers of picture files, which
# are one second apart until a rate is given.
TimeBase = Literal["stamps", "assumed", "numbers"]

_FileStates = tuple[tuple[str, int, int], ...]  # name, size and time of change of each file
_unusable: dict[tuple[Path, _FileStates], str] = {}  # why a video is none, found out once in a process


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """A video or a folder of pictures in the cache.

    Attributes:
        source: the file or folder.
        shape: of its frames.
        times_s: (n,) seconds since its first frame.
        fps: usual frames per second.
        problem: damage found in it, or None.
        files: the file, or the pictures of the folder in order.
        size_changes: increasing indices of the frames whose picture has another size than the one before: another view.
    """

    source: Path
    frames_file: Path
    shape: FrameShape
    fps: float
    times_s: NDArray[np.float64]
    problem: str | None
    time_base: TimeBase = "stamps"
    files: tuple[Path, ...] = ()
    size_changes: tuple[int, ...] = ()

    def frames(self) -> NDArray[np.uint8]:
        """Map the frames, (n, H, W, C) uint8."""
        return map_frames(self.frames_file, len(self.times_s), self.shape)

    def at_rate(self, fps: float) -> DecodedVideo:
        """The same frames with the times that they have at `fps`."""
        return replace(self, fps=fps, times_s=self.times_s * (self.fps / fps))


@dataclass(frozen=True)
class _Decoded:
    """The result of decoding one source; the frames are in the cache."""

    fps: float
    time_base: TimeBase
    times_s: list[float]
    problem: str | None
    height: int
    width: int
    size_changes: list[int]


@dataclass(frozen=True)
class Fit:
    """How pictures become frames: scaled to cover `shape` and cropped to it, or, if `whole`, shrunk to just cover it.

    Whole frames have the size that the first picture of a source gives.
    """

    shape: FrameShape
    whole: bool = False

    def size(self, first: Image) -> tuple[int, int]:
        """Height and width of all frames of a source with this first picture."""
        return covering_size(first, *self.least) if self.whole else self.least

    @property
    def least(self) -> tuple[int, int]:
        """Height and width to cover."""
        return self.shape.height, self.shape.width


def decode_videos(
    clips: Sequence[Clip], folder: Path, shape: FrameShape, whole: bool = False
) -> tuple[list[DecodedVideo], Skipped]:
    """Return the decoded `clips`, from the cache in `folder` if it has them.

    Args:
        clips: files, and folders of pictures.
        folder: of the cache.
        shape: of the frames; with `whole`, what they cover at least, as far as the pictures are that large.
        whole: keep whole pictures instead of cropping them to `shape`.

    Returns:
        The clips that can be read, and the others with the reason, both in the order given.

    Raises:
        SvgError: the cache cannot be written.
    """
    fit = Fit(shape, whole)
    by_first = {clip.paths[0]: clip for clip in clips}

    def look_up(first: Path) -> DecodedVideo | None:
        return _look_up(by_first[first], folder, fit)

    def decode(first: Path, part: SourceProgress) -> DecodedVideo:
        return _decode(by_first[first], part, folder, fit)

    videos = all(clip.is_video for clip in clips)
    what = "video file" if videos else "clip"
    return load_entries(sources=list(by_first), look_up=look_up, decode=decode, folder=folder, what=what)


def _entry(clip: Clip, states: _FileStates, folder: Path, fit: Fit) -> Path:
    """Path of the entry of `clip` without suffix."""
    kind = "video" if clip.is_video else "pictures"
    return entry_path(folder, kind, clip.paths[0], _VERSION, *fit.least, fit.shape.channels, fit.whole, list(states))


def _file_states(clip: Clip) -> _FileStates:
    try:
        states = [(path.name, path.stat()) for path in clip.paths]
    except OSError as error:
        raise SourceError(clip.name, str(error.strerror)) from error
    return tuple((name, state.st_size, state.st_mtime_ns) for name, state in states)


def _look_up(clip: Clip, folder: Path, fit: Fit) -> DecodedVideo | None:
    """Return the entry of `clip`, or None if it is missing or incomplete.

    Raises:
        SourceError: it is known that the clip cannot be decoded.
    """
    states = _file_states(clip)
    reason = _unusable.get((clip.paths[0], states))
    if reason is not None:
        raise SourceError(clip.name, reason)
    entry = _entry(clip, states, folder, fit)
    try:
        about = json.loads(entry.with_suffix(".json").read_text(encoding="utf-8"))
        decoded = _Decoded(**{name: about[name] for name in _Decoded.__dataclass_fields__})
        if not 0 < decoded.height < _MAX_SIDE or not 0 < decoded.width < _MAX_SIDE:
            return None
        video = _decoded_video(clip, entry, fit, decoded)
        if video.times_s.ndim != 1 or not np.isfinite(video.times_s).all():
            return None
        if not _are_increasing(decoded.size_changes, below=len(video.times_s)):
            return None
        return video if is_complete(video.frames_file, len(video.times_s), video.shape) else None
    except DAMAGED_RECORD:
        return None


def _decode(clip: Clip, part: SourceProgress, folder: Path, fit: Fit) -> DecodedVideo:
    states = _file_states(clip)
    entry = _entry(clip, states, folder, fit)
    write = partial(_write_video, clip.paths[0]) if clip.is_video else partial(_write_pictures, clip)
    try:
        decoded = write(entry.with_suffix(".u8"), part, fit)
        write_json(entry.with_suffix(".json"), {"version": _VERSION, "source": str(clip.name), **vars(decoded)})
        return _decoded_video(clip, entry, fit, decoded)
    except (VideoError, UsageError) as error:
        reason = error.reason if isinstance(error, VideoError) else str(error)
        if not isinstance(error, UnreadableError):  # that may pass
            _unusable[clip.paths[0], states] = reason
        raise SourceError(clip.name, reason) from error
    except OSError as error:
        raise cache_write_error(folder, error) from error


def _decoded_video(clip: Clip, entry: Path, fit: Fit, decoded: _Decoded) -> DecodedVideo:
    return DecodedVideo(
        source=clip.name,
        frames_file=entry.with_suffix(".u8"),
        shape=FrameShape(decoded.height, decoded.width, fit.shape.channels),
        fps=float(decoded.fps),
        times_s=np.asarray(decoded.times_s, np.float64),
        problem=decoded.problem,
        time_base=decoded.time_base,
        files=clip.paths,
        size_changes=tuple(decoded.size_changes),
    )


class _FramesFile:
    """Writes the pictures of a source as frames of one size, and notes where the size of the pictures changes."""

    def __init__(self, out: BinaryIO, fit: Fit) -> None:
        self._out = out
        self._fit = fit
        self._picture_hw: tuple[int, int] | None = None
        self.size = fit.least
        self.times_s: list[float] = []
        self.size_changes: list[int] = []

    def add(self, image: Image, time_s: float) -> None:
        """Write the next picture."""
        hw = (image.shape[0], image.shape[1])
        if self._picture_hw is None:
            self.size = self._fit.size(image)
        elif hw != self._picture_hw:
            self.size_changes.append(len(self.times_s))
        self._picture_hw = hw
        self._out.write(fit_frame(image, *self.size, self._fit.shape.channels).tobytes())
        self.times_s.append(time_s)

    def decoded(self, fps: float, time_base: TimeBase, problem: str | None) -> _Decoded:
        """The description of what was written."""
        height, width = self.size
        return _Decoded(
            fps=fps,
            time_base=time_base,
            times_s=self.times_s,
            problem=problem,
            height=height,
            width=width,
            size_changes=self.size_changes,
        )


def _write_video(source: Path, frames_file: Path, part: SourceProgress, fit: Fit) -> _Decoded:
    with VideoReader(source) as reader:
        with frames_writer(frames_file) as out:
            frames = _FramesFile(out, fit)
            for frame in reader:
                frames.add(frame.image, frame.time_s)
                if len(frames.times_s) % _REPORT_EVERY == 0:
                    part.report(source, _done(frame.time_s, reader.duration_s), len(frames.times_s))
        return frames.decoded(reader.fps, "assumed" if reader.assumed_rate else "stamps", reader.problem)


def _write_pictures(clip: Clip, frames_file: Path, part: SourceProgress, fit: Fit) -> _Decoded:
    problems = Problems()
    with frames_writer(frames_file) as out:
        frames = _FramesFile(out, fit)
        for position, image in _readable(clip, problems):
            frames.add(image, position)
            count = len(frames.times_s)
            if count % _REPORT_EVERY == 0:
                part.report(clip.name, count / len(clip.paths), count)
        if not frames.times_s:
            raise SourceError(clip.name, f"no picture in it can be read: {problems.summary()}")
    return frames.decoded(1.0, "numbers", problems.summary())


def _readable(clip: Clip, problems: Problems) -> Iterator[tuple[float, NDArray[np.uint8]]]:
    """The pictures that can be decoded, with their positions.

    Raises:
        SourceError: one cannot be read now.
    """
    pictures = PictureFiles(clip.paths)
    for path, position in zip(clip.paths, clip.positions, strict=True):
        try:
            image = pictures.read(path)
        except PictureError as error:
            problems.add(f"'{one_line(path.name)}': {error}")
        else:
            yield position, image
        if pictures.unreadable is not None:  # not damage: it may well be whole
            raise SourceError(clip.name, pictures.unreadable)
    if pictures.depth_note is not None:
        _LOG.warning("'%s': %s", clip.name, pictures.depth_note)


def _done(time_s: float, duration_s: float | None) -> float:
    """Share of a video before `time_s`; 0 if its length is not known."""
    return min(time_s / duration_s, 1.0) if duration_s else 0.0


def _are_increasing(indices: list[int], below: int) -> bool:
    """Whether these are increasing indices from 1 on; a damaged record may have anything."""
    bounded = [0, *indices, below]
    return all(type(index) is int for index in indices) and all(a < b for a, b in pairwise(bounded))
