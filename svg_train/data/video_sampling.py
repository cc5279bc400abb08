"""Selects the frames of a sequence: a steady rate, one time interval for all files, a split without overlap."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from svg_common.video.sampling import pick_at_interval
from svg_train.data import Split

MIN_FILES_TO_SPLIT_BY_FILE = 5
ENOUGH_TEST_SEQUENCES = 16
_STRIDE_PARTS = 64  # resolution of the search for a stride with enough test sequences

Indices = NDArray[np.int64]


def nearest_step(interval_s: float, fps: float) -> int:
    """Return the number of frames, at least 1, whose duration at `fps` is nearest to `interval_s`."""
    return max(1, math.floor(interval_s * fps + 0.5))


def regular_runs(times_s: NDArray[np.float64], fps: float, tick_s: float | None = None) -> list[Indices]:
    """Resample a recording to a steady rate: for each tick, the index of the frame that is nearest in time.

    A recording at a constant rate gives 0, 1, 2, ...; phones and screen recorders vary their rate, and damaged files lack
    frames. Pauses longer than a second (or three frames) end a run, as in `svg-live`.

    Args:
        times_s: (n,) increasing times of the frames.
        fps: usual frames per second.
        tick_s: seconds per tick; default: one frame.

    Returns:
        One array of frame indices per unbroken run.
    """
    runs: list[list[int]] = [[]]
    for picked in pick_at_interval(zip(times_s.tolist(), range(len(times_s)), strict=True), tick_s or 1 / fps, fps):
        if picked.pause_s:
            runs.append([])
        runs[-1].append(picked.item)
    return [np.array(run, np.int64) for run in runs]


def cuts_in_time(frames: Sequence[int], test_fraction: float) -> list[int]:
    """Return, for each video of so many frames, the first one of its last `test_fraction`, which is held out."""
    return [count - round(count * test_fraction) for count in frames]


def cuts_at_end(frames: Sequence[int], test_fraction: float) -> list[int]:
    """As `cuts_in_time` for the parts of one recording, in order: the last `test_fraction` of all frames together."""
    left = sum(frames) - round(sum(frames) * test_fraction)
    cuts = []
    for count in frames:
        cuts.append(min(count, left))
        left -= cuts[-1]
    return cuts


def side_of_cut(runs: list[Indices], cut: int, split: Split) -> list[Indices]:
    """Return the part of `runs` in a video's frames before `cut` (train), or from it on (test)."""
    return [run[(run < cut) == (split == "train")] for run in runs]


def files_of_split(files: int, split: Split, test_fraction: float) -> list[int]:
    """Return the indices of the files of `split`.

    Test files are spread evenly over the name order, which often groups similar scenes. One is left to train on, unless the
    fraction is 1.
    """
    count = files if test_fraction == 1 else min(files - 1, max(1, round(files * test_fraction)))
    test = {int((i + 0.5) * files / count) for i in range(count)}
    return [i for i in range(files) if (i in test) == (split == "test")]


def window_starts(runs: list[tuple[int, int]], split: Split) -> list[Indices]:
    """Return the first ticks of the sequences in each run.

    Train: every position. Test: windows that do not overlap, or, where that gives fewer than 16, evenly spaced ones
    that do.

    Args:
        runs: per run its number of ticks, and the ticks from a sequence's first frame to its last, both counted.
        split: train or test.
    """
    room = [max(0, ticks - span + 1) for ticks, span in runs]
    if split == "train":
        return [np.arange(positions) for positions in room]
    # Spans differ between files of different rate; the strides shrink alike.
    for part in range(_STRIDE_PARTS, 0, -1):
        strides = [max(1, span * part // _STRIDE_PARTS) for _, span in runs]
        starts = [np.arange(0, positions, stride) for positions, stride in zip(room, strides, strict=True)]
        if sum(map(len, starts)) >= ENOUGH_TEST_SEQUENCES:
            break
    return starts
