"""BAIR trajectories in the cache of decoded frames. The sources are TFRecord files, or folders of PNG folders."""

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
from svg_train.data import Frames
from svg_train.data.bair_sources import read_trajectories, source_state
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

_VERSION = 1  # increase it whenever the same source would decode to other bytes


@dataclass(frozen=True, eq=False)
class DecodedTrajectories:
    """The trajectories of a source in the cache, one after the other.

    `lengths` (n,) frames of each trajectory; `problem`: damage found in the source, or None.
    """

    source: Path
    frames_file: Path
    shape: FrameShape
    lengths: NDArray[np.int64]
    problem: str | None

    def frames(self) -> Frames:
        """Map the frames of all trajectories, (sum of lengths, H, W, C) uint8."""
        return map_frames(self.frames_file, int(self.lengths.sum()), self.shape)


def decode_trajectories(sources: Sequence[Path], folder: Path, shape: FrameShape) -> tuple[list[DecodedTrajectories], Skipped]:
    """Return the decoded `sources`, from the cache in `folder` if it has them.

    Args:
        sources: TFRecord files, and folders SOURCE/1/0.png, SOURCE/1/1.png, ...
        folder: of the cache.
        shape: to which frames are fitted.

    Returns:
        The sources with a trajectory that can be read, and the others with the reason, both in the order given.

    Raises:
        SvgError: the cache cannot be written.
    """
    look_up, decode = partial(_look_up, folder=folder, shape=shape), partial(_decode, folder=folder, shape=shape)
    return load_entries(sources=sources, look_up=look_up, decode=decode, folder=folder, what="trajectory file")


def _entry(source: Path, folder: Path, shape: FrameShape) -> Path:
    """Path of the entry of `source` without suffix."""
    dims = shape.height, shape.width, shape.channels
    try:
        return entry_path(folder, "bair", source, _VERSION, *dims, *source_state(source))
    except OSError as error:
        raise SourceError(source, str(error.strerror)) from error


def _look_up(source: Path, folder: Path, shape: FrameShape) -> DecodedTrajectories | None:
    """Return the entry of `source`, or None if it is missing or incomplete."""
    try:
        entry = _entry(source, folder, shape)
        about = json.loads(entry.with_suffix(".json").read_text(encoding="utf-8"))
        lengths = np.asarray(about["lengths"], np.int64)
        if lengths.ndim != 1 or (lengths < 1).any():
            return None
        found = DecodedTrajectories(
            source=source, frames_file=entry.with_suffix(".u8"), shape=shape, lengths=lengths, problem=about["problem"]
        )
        return found if is_complete(found.frames_file, int(lengths.sum()), shape) else None
    except (SourceError, *DAMAGED_RECORD):
        return None


def _decode(source: Path, part: SourceProgress, folder: Path, shape: FrameShape) -> DecodedTrajectories:
    entry, problems = _entry(source, folder, shape), Problems()
    frames_file, lengths = entry.with_suffix(".u8"), []
    with frames_writer(frames_file) as out:
        for done, trajectory in read_trajectories(source, problems):
            for frame in trajectory:
                out.write(fit_frame(frame, shape.height, shape.width, shape.channels).tobytes())
            lengths.append(len(trajectory))
            part.report(source, done, sum(lengths))
        if not lengths:
            raise SourceError(source, problems.summary() or "it contains no trajectory")
    try:
        about = {"version": _VERSION, "source": str(source), "lengths": lengths, "problem": problems.summary()}
        write_json(entry.with_suffix(".json"), about)
    except OSError as error:
        raise cache_write_error(folder, error) from error
    return DecodedTrajectories(
        source=source, frames_file=frames_file, shape=shape, lengths=np.asarray(lengths), problem=problems.summary()
    )
