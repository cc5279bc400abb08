"""Sequences at one time interval from decoded videos of different rates, for all data sets of video files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from pathlib import Path

import numpy as np

from svg_common.errors import UsageError
from svg_common.quantities import count_text
from svg_common.video.sampling import MAX_HOLD_S, MAX_STEP_S, MIN_STEP_S, step_of_video
from svg_train.config import DataConfig
from svg_train.data import ClipPart, Frames, Split
from svg_train.data.frame_cache import Skipped, list_sources
from svg_train.data.video_cache import DecodedVideo
from svg_train.data.video_sampling import Indices, nearest_step, regular_runs, window_starts


@dataclass(frozen=True, eq=False)
class Clip:
    """A video, how many ticks make one model step, and the frames in use as runs at a steady rate: one frame per tick."""

    video: DecodedVideo
    step: int
    runs: list[Indices]
    pauses: int = 0  # longer than a frame is held; no sequence crosses one

    @cached_property
    def pieces(self) -> list[Indices]:
        """The runs, cut where the size of the picture changes, as `svg-live` resets there: no sequence crosses that either."""
        pieces: list[Indices] = []
        for run in self.runs:
            pieces += np.split(run, np.flatnonzero(np.diff(self._changes_up_to(run))) + 1)
        return pieces

    @property
    def size_changes(self) -> int:
        """Changes of the picture's size within the frames in use."""
        in_use = np.concatenate([np.empty(0, np.int64), *self.runs])
        return int(np.count_nonzero(np.diff(self._changes_up_to(in_use))))

    def _changes_up_to(self, frames: Indices) -> Indices:
        """How many times the picture's size has changed up to each of these frames."""
        return np.searchsorted(np.asarray(self.video.size_changes, np.int64), frames, side="right")

    @property
    def longest_piece(self) -> int:
        """Ticks of the longest piece."""
        return max(map(len, self.pieces), default=0)

    def span(self, length: int) -> int:
        """Ticks from the first to the last of `length` frames, both counted."""
        return (length - 1) * self.step + 1

    def room(self, length: int) -> int:
        """How many sequences of `length` frames the longest piece holds without overlap."""
        return self.longest_piece // self.span(length)


class ClipSequences:
    """All sequences of `length` frames in the pieces of `clips`: every start for train, few that overlap for test."""

    def __init__(self, clips: list[Clip], split: Split, length: int) -> None:
        self._length = length
        self._pieces = [(clip, piece) for clip in clips for piece in clip.pieces]
        self._windows = _windows(self._pieces, split, length)
        self.frame_count = sum(len(np.unique(piece)) for _, piece in self._pieces)  # a frame that is held counts once

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Frames:
        clip, run, start = self.window(index)
        return np.array(clip.video.frames()[run[start : start + clip.span(self._length) : clip.step]])

    @property
    def files(self) -> list[Path]:
        """As `FileDataset.files`."""
        return list(dict.fromkeys(file for clip, _ in self._pieces for file in clip.video.files))

    @property
    def parts(self) -> list[ClipPart]:
        """As `FileDataset.parts`."""
        pieces: dict[Clip, list[Indices]] = {}
        for clip, piece in self._pieces:
            if len(piece):
                pieces.setdefault(clip, []).append(piece)
        return [
            ClipPart(clip.video.source, tuple(clip.video.files), first=int(of_clip[0][0]), end=int(of_clip[-1][-1]) + 1)
            for clip, of_clip in pieces.items()
        ]

    @cached_property
    def counts(self) -> Indices:
        """Number of sequences of each clip, in order."""
        return np.array([len(list(same)) for _, same in groupby(self._windows[:, 0], lambda piece: self._pieces[piece][0])])

    def window(self, index: int) -> tuple[Clip, Indices, int]:
        """The clip of a sequence, its piece of frames, and the tick in it at which the sequence starts."""
        number, start = self._windows[index]
        return *self._pieces[number], int(start)

    def before(self, index: int, most: int) -> Indices:
        """The frames of its clip, one per model step and at most so many, that lead to a sequence; without a cut between."""
        clip, run, start = self.window(index)
        return run[start % clip.step : start : clip.step][max(0, start // clip.step - most) :]

    def clip_source(self, index: int) -> Path:
        """As `ClipDataset.clip_source`."""
        return self.window(index)[0].video.source


def model_interval(data: DataConfig, fps: float, of: str) -> float:
    """Return the seconds per model step that the options define. An interval that is given is never changed.

    Args:
        data: the options.
        fps: frames per second of the first video; `frame_step` counts its frames.
        of: name of that file, or of the data set.

    Raises:
        UsageError: frame_step and frame_interval_s contradict each other, or a step lasts longer or shorter than models run at.
    """
    rate = f"'{of}' with {fps:.4g} frames per second"
    if data.frame_interval_s is not None:
        step = nearest_step(data.frame_interval_s, fps)
        if data.frame_step not in (1, step):
            raise UsageError(
                f"--frame-interval-s {data.frame_interval_s:g} corresponds to {count_text(step, 'frame')} of {rate}, "
                f"but --frame-step {data.frame_step} was also given\n  remove one of the two"
            )
        return data.frame_interval_s
    step_s = data.frame_step / fps
    if not MIN_STEP_S <= step_s <= MAX_STEP_S:
        raise UsageError(
            f"a model step of {step_s:.4g} s, {count_text(data.frame_step, 'frame')} of {rate}, is not possible\n"
            f"  expected {MIN_STEP_S:g} to {MAX_STEP_S:g} s; give another --frame-step, or the true rate with --source-fps"
        )
    return step_s


def at_one_interval(videos: Sequence[DecodedVideo], interval_s: float) -> tuple[list[Clip], Skipped]:
    """Return the videos that have a frame for every step of `interval_s`, and the slower ones with the reason.

    Raises:
        UsageError: all are slower.
    """
    clips: list[Clip] = []
    skipped: Skipped = []
    for video in videos:
        step = step_of_video(interval_s, video.fps)
        if step is None:
            apart = f"at {video.fps:.4g} frames per second its frames are {1 / video.fps:.4g} s apart"
            skipped.append((video.source, f"{apart}, too slow for {interval_s:.4g} s per step"))
        else:
            runs = regular_runs(video.times_s, video.fps, step.tick_s)
            clips.append(Clip(video, step.pictures, runs, pauses=len(runs) - 1))
    if videos and not clips:
        own_s = 1 / max(video.fps for video in videos)
        raise UsageError(
            f"no video has a frame for every step of {interval_s:.4g} s:\n{list_sources(skipped)}\n"
            f"  use steps as long as the frames are apart: --frame-interval-s {own_s:.3g}"
        )
    return clips, skipped


def describe_cuts(clips: Sequence[Clip]) -> str:
    """Part of a data set's description about cuts in its recordings; empty if they have none."""
    pauses = sum(clip.pauses for clip in clips)
    changes = sum(clip.size_changes for clip in clips)
    cuts = [f"{count_text(pauses, 'pause')} over {MAX_HOLD_S:g} s"] if pauses else []
    cuts += [count_text(changes, "picture size change")] if changes else []
    return f", {' and '.join(cuts)} that no sequence crosses" if cuts else ""


def long_enough(clips: Sequence[Clip], split: Split, length: int) -> tuple[list[Clip], Skipped]:
    """Return the clips with a piece that holds a sequence of `length`, and the others with the reason."""
    fit: list[Clip] = []
    skipped: Skipped = []
    for clip in clips:
        longest, span = clip.longest_piece, clip.span(length)
        if longest >= span:
            fit.append(clip)
            continue
        in_a_row = count_text(longest, f"consecutive {split} frame")
        if max(map(len, clip.runs), default=0) >= span:
            in_a_row += f" between {count_text(clip.size_changes, 'picture size change')}"
        skipped.append((clip.video.source, f"too short: {in_a_row}, but a sequence needs {span}"))
    return fit, skipped


def _windows(runs: list[tuple[Clip, Indices]], split: Split, length: int) -> Indices:
    """Return (n, 2): number of the run, and tick in it at which the sequence starts."""
    starts = window_starts([(len(run), clip.span(length)) for clip, run in runs], split)
    return np.concatenate([np.stack([np.full(len(start), i), start], 1) for i, start in enumerate(starts)])
