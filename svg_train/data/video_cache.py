"""Videos in the cache of decoded frames, with the time of every frame."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svg_common.files import write_json
from svg_common.frames import fit_frame
from svg_common.video import VideoError, VideoReader
from svg_train.data.frame_cache import (
    DAMAGED_RECORD,
    FrameShape,
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

_VERSION = 1  # increase it whenever the same video would decode to other bytes
_REPORT_EVERY = 32  # frames


@dataclass(frozen=True, eq=False)
class DecodedVideo:
    """A video in the cache. `times_s` (n,) seconds since its first frame; `problem`: damage found in it, or None."""

    source: Path
    frames_file: Path
    shape: FrameShape
    fps: float
    times_s: NDArray[np.float64]
    problem: str | None

    def frames(self) -> NDArray[np.uint8]:
        """Map the frames, (n, H, W, C) uint8."""
        return map_frames(self.frames_file, len(self.times_s), self.shape)


def decode_videos(sources: Sequence[Path], folder: Path, shape: FrameShape) -> tuple[list[DecodedVideo], Skipped]:
    """Return the decoded `sources`, from the cache in `folder` if it has them.

    Returns:
        The videos that can be read, and the others with the reason, both in the order given.

    Raises:
        SvgError: the cache cannot be written.
    """
    look_up, decode = partial(_look_up, folder=folder, shape=shape), partial(_decode, folder=folder, shape=shape)
    return load_entries(sources=sources, look_up=look_up, decode=decode, folder=folder, what="video file(s)")


def _entry(source: Path, folder: Path, shape: FrameShape) -> Path:
    """Path of the entry of `source` without suffix."""
    try:
        state = source.stat()
    except OSError as error:
        raise SourceError(source, str(error.strerror)) from error
    dims = shape.height, shape.width, shape.channels
    return entry_path(folder, "video", source, _VERSION, *dims, state.st_size, state.st_mtime_ns)


def _look_up(source: Path, folder: Path, shape: FrameShape) -> DecodedVideo | None:
    """Return the entry of `source`, or None if it is missing or incomplete."""
    try:
        entry = _entry(source, folder, shape)
        about = json.loads(entry.with_suffix(".json").read_text(encoding="utf-8"))
        times_s = np.asarray(about["times_s"], np.float64)
        if times_s.ndim != 1 or not np.isfinite(times_s).all():
            return None
        video = DecodedVideo(
            source=source,
            frames_file=entry.with_suffix(".u8"),
            shape=shape,
            fps=float(about["fps"]),
            times_s=times_s,
            problem=about["problem"],
        )
        return video if is_complete(video.frames_file, len(times_s), shape) else None
    except (SourceError, *DAMAGED_RECORD):
        return None


def _decode(source: Path, part: SourceProgress, folder: Path, shape: FrameShape) -> DecodedVideo:
    entry = _entry(source, folder, shape)
    frames_file, times_s = entry.with_suffix(".u8"), []
    try:
        with VideoReader(source) as reader:
            with frames_writer(frames_file) as out:
                for frame in reader:
                    fitted = fit_frame(frame.image, shape.height, shape.width, shape.channels)
                    out.write(fitted.tobytes())
                    times_s.append(frame.time_s)
                    if len(times_s) % _REPORT_EVERY == 0:
                        part.report(source, _done(frame.time_s, reader.duration_s), len(times_s))
            about = {"version": _VERSION, "source": str(source), "fps": reader.fps, "problem": reader.problem}
            write_json(entry.with_suffix(".json"), {**about, "times_s": times_s})
            return DecodedVideo(
                source=source,
                frames_file=frames_file,
                shape=shape,
                fps=reader.fps,
                times_s=np.asarray(times_s),
                problem=reader.problem,
            )
    except VideoError as error:
        raise SourceError(source, error.reason) from error
    except OSError as error:
        raise cache_write_error(folder, error) from error


def _done(time_s: float, duration_s: float | None) -> float:
    """Share of a video before `time_s`; 0 if its length is not known."""
    return min(time_s / duration_s, 1.0) if duration_s else 0.0
