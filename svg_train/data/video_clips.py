"""Sequences at one time interval from decoded videos of different rates, for all data sets of video files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svg_common.errors import UsageError
from svg_train.config import DataConfig
from svg_train.data import Frames, Split
from svg_train.data.frame_cache import Skipped
from svg_train.data.notes import log_once
from svg_train.data.video_cache import DecodedVideo
from svg_train.data.video_sampling import Indices, nearest_step, regular_runs, step_at_interval, window_starts


@dataclass(frozen=True, eq=False)
class Clip:
    """A video, how many of its frames make one model step, and the frames in use as runs at its steady rate."""

    video: DecodedVideo
    step: int
    runs: list[Indices]

    def span(self, length: int) -> int:
        """Ticks from the first to the last of `length` frames, both counted."""
        return (length - 1) * self.step + 1


class ClipSequences:
    """All sequences of `length` frames in the runs of `clips`: every start for train, few that overlap for test."""

    def __init__(self, clips: list[Clip], split: Split, length: int) -> None:
        self._length = length
        self._runs = [(clip, run) for clip in clips for run in clip.runs]
        self._windows = _windows(self._runs, split, length)
        self.frame_count = sum(len(run) for _, run in self._runs)

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Frames:
        number, start = self._windows[index]
        clip, run = self._runs[number]
        return np.array(clip.video.frames()[run[start : start + clip.span(self._length) : clip.step]])


def model_interval(data: DataConfig, fps: float, of: str) -> float:
    """Return the seconds per model step that the options define for videos of `fps`, from the file or data set `of`.

    Raises:
        UsageError: frame_step and frame_interval_s contradict each other.
    """
    if data.frame_interval_s is None:
        return data.frame_step / fps
    step = nearest_step(data.frame_interval_s, fps)
    interval_s, rate = step / fps, f"'{of}' with {fps:.4g} frames per second"
    if data.frame_step not in (1, step):
        raise UsageError(
            f"--frame-interval-s {data.frame_interval_s:g} corresponds to {step} frame(s) of {rate}, "
            f"but --frame-step {data.frame_step} was also given\n  remove one of the two"
        )
    if abs(interval_s - data.frame_interval_s) > 1e-3 * data.frame_interval_s:
        log_once(
            logging.INFO, f"note: {data.frame_interval_s:g} s per step becomes {interval_s:.4g} s, {step} frame(s) of {rate}"
        )
    return interval_s


def at_one_interval(videos: Sequence[DecodedVideo], interval_s: float) -> tuple[list[Clip], Skipped]:
    """Return the videos of which a whole number of frames makes `interval_s` (within 5%), and the others with the reason."""
    clips: list[Clip] = []
    skipped: Skipped = []
    for video in videos:
        step = step_at_interval(interval_s, video.fps)
        if step is None:
            nearest_s = nearest_step(interval_s, video.fps) / video.fps
            reason = f"at {video.fps:.4g} frames per second its nearest step is {nearest_s:.4g} s, not {interval_s:.4g} s"
            skipped.append((video.source, reason))
        else:
            clips.append(Clip(video, step, regular_runs(video.times_s, video.fps)))
    return clips, skipped


def long_enough(clips: Sequence[Clip], split: Split, length: int) -> tuple[list[Clip], Skipped]:
    """Return the clips with a run that holds a sequence of `length`, and the others with the reason."""
    fit: list[Clip] = []
    skipped: Skipped = []
    for clip in clips:
        longest, span = max(map(len, clip.runs), default=0), clip.span(length)
        if longest >= span:
            fit.append(clip)
        else:
            skipped.append((clip.video.source, f"too short: {longest} consecutive {split} frames, but a sequence needs {span}"))
    return fit, skipped


def _windows(runs: list[tuple[Clip, Indices]], split: Split, length: int) -> Indices:
    """Return (n, 2): number of the run, and tick in it at which the sequence starts."""
    starts = window_starts([(len(run), clip.span(length)) for clip, run in runs], split)
    return np.concatenate([np.stack([np.full(len(start), i), start], 1) for i, start in enumerate(starts)])
