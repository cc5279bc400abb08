"""Videos decoded once into memory-mapped files at the model's frame size, beside a JSON file that says what they are.

An entry is found by the video's path, size and modification time, by the frame size and by the layout version, so that
a changed video or model never meets old frames. Two processes that decode the same video write the same bytes, each to
a file of its own that is then renamed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError
from svg_common.files import atomic_file, write_json
from svg_common.frames import fit_frame
from svg_common.video import VideoError, VideoReader
from svg_train.data.progress import Update, progress

_VERSION = 1  # raise it whenever the same video would be decoded to other bytes
_REPORT_EVERY = 32  # frames


@dataclass(frozen=True)
class FrameShape:
    """Height, width and channels of a decoded frame."""

    height: int
    width: int
    channels: int

    @property
    def size(self) -> int:
        """Bytes per frame."""
        return self.height * self.width * self.channels


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
        """Map the frames, (n, H, W, C) uint8; by each call anew, as thousands of open maps exhaust the file handles."""
        dims = (len(self.times_s), self.shape.height, self.shape.width, self.shape.channels)
        return np.memmap(self.frames_file, np.uint8, "r", shape=dims)


def decode_videos(
    sources: Sequence[Path], folder: Path, shape: FrameShape
) -> tuple[list[DecodedVideo], list[tuple[Path, str]]]:
    """Return the decoded form of `sources`, from the cache in `folder` where it has them.

    Returns:
        The videos that can be read, and the others with the reason, both in the order given.

    Raises:
        SvgError: the cache cannot be written.
    """
    found = {source: _look_up(source, folder, shape) for source in sources}
    missing = [source for source in sources if found[source] is None]
    failed: list[tuple[Path, str]] = []
    if missing:
        with progress(f"decoding {len(missing)} video file(s) into {folder}") as update:
            for index, source in enumerate(missing):
                part = _PartOfProgress(update, index, len(missing))
                try:
                    found[source] = _decode(source, folder, shape, part)
                except VideoError as error:
                    failed.append((source, error.reason))
    return [video for video in found.values() if video is not None], failed


def _entry(source: Path, folder: Path, shape: FrameShape) -> Path:
    """Path of the entry of `source` without suffix."""
    try:
        state = source.stat()
    except OSError as error:
        raise VideoError(f"cannot read '{source}': {error.strerror}", str(error.strerror)) from error
    key = (_VERSION, shape.height, shape.width, shape.channels, state.st_size, state.st_mtime_ns)
    digest = hashlib.sha256(repr(key).encode() + os.fsencode(source.resolve()))
    return folder / f"video-{digest.hexdigest()[:32]}"


def _look_up(source: Path, folder: Path, shape: FrameShape) -> DecodedVideo | None:
    """Return the entry of `source`, or None when there is none or it is not whole."""
    try:
        entry = _entry(source, folder, shape)
        about = json.loads(entry.with_suffix(".json").read_text(encoding="utf-8"))
        times_s = np.asarray(about["times_s"], np.float64)
        video = DecodedVideo(source, entry.with_suffix(".u8"), shape, float(about["fps"]), times_s, about["problem"])
        whole = len(times_s) > 0 and video.frames_file.stat().st_size == len(times_s) * shape.size
    except (VideoError, OSError, ValueError, TypeError, KeyError):
        return None
    return video if whole else None


def _decode(source: Path, folder: Path, shape: FrameShape, part: _PartOfProgress) -> DecodedVideo:
    entry = _entry(source, folder, shape)
    frames_file, times_s = entry.with_suffix(".u8"), []
    with VideoReader(source) as reader:
        try:
            with atomic_file(frames_file) as partial, partial.open("wb") as out:
                for frame in reader:
                    fitted = fit_frame(frame.image, shape.height, shape.width, shape.channels)
                    out.write(fitted.tobytes())
                    times_s.append(frame.time_s)
                    part.report(source, frame.time_s, reader.duration_s, len(times_s))
                out.flush()
            about = {"version": _VERSION, "source": str(source), "fps": reader.fps, "problem": reader.problem}
            write_json(entry.with_suffix(".json"), {**about, "times_s": times_s})
        except OSError as error:
            raise _cannot_write(folder, error) from error
        return DecodedVideo(source, frames_file, shape, reader.fps, np.asarray(times_s), reader.problem)


@dataclass(frozen=True)
class _PartOfProgress:
    """Progress of one file among `count`, each of which counts the same."""

    update: Update
    index: int
    count: int

    def report(self, source: Path, time_s: float, duration_s: float | None, frames: int) -> None:
        if frames % _REPORT_EVERY == 0:
            done = min(time_s / duration_s, 1.0) if duration_s else 0.0
            self.update((self.index + done) / self.count, f"{source.name}, {frames} frames")


def _cannot_write(folder: Path, error: OSError) -> SvgError:
    return SvgError(
        f"cannot write decoded videos to the cache folder '{folder}': {error.strerror or error}\n"
        "  expected a writable folder with free space; name another one with --cache or SVG_EDGE_CACHE"
    )
