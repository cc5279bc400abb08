"""Sequences from a video file or a folder of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from svg_common.errors import SvgError, UsageError
from svg_common.video import VIDEO_SUFFIXES, VideoError, list_videos
from svg_train.config import Config, DataConfig
from svg_train.data import Frames, Split
from svg_train.data.cache import cache_folder
from svg_train.data.progress import note_once
from svg_train.data.video_cache import DecodedVideo, FrameShape, decode_videos
from svg_train.data.video_sampling import (
    MIN_FILES_TO_SPLIT_BY_FILE,
    Indices,
    files_of_split,
    nearest_step,
    regular_runs,
    split_by_time,
    step_at_interval,
    window_starts,
)

Skipped = list[tuple[Path, str]]  # files that are not used, and why


@dataclass(frozen=True, eq=False)
class _Clip:
    """A video, how many of its frames make one model step, and the frames in use as runs at its steady rate."""

    video: DecodedVideo
    step: int
    runs: list[Indices]

    def span(self, length: int) -> int:
        """Ticks from the first to the last of `length` frames, both counted."""
        return (length - 1) * self.step + 1


class VideoClips:
    """Sequences of (length, H, W, C) uint8 frames at one time interval from all videos of `config.data.root`.

    The split depends on the files and on `config`, not on `length`: no longer test sequence can move a frame from one side
    to the other.

    Raises:
        UsageError: no root is given, or options contradict each other.
        SvgError: no video is usable (all reasons are listed), or the cache cannot be written.
    """

    def __init__(self, config: Config, split: Split, length: int) -> None:
        data, model = config.data, config.model
        shape = FrameShape(model.image_size, model.image_size, model.channels)
        videos, skipped = decode_videos(_files(data), cache_folder(data.cache), shape)
        _require(bool(videos), "no video can be read", data, skipped)
        interval_s = _interval(videos, data, config.sequence_length)
        clips, off_pace = _at_one_interval(videos, interval_s)
        mode = _split_mode(data, len(clips))
        mine, too_short = _long_enough(_part_of_split(clips, split, mode, data.test_fraction), split, length)
        skipped += off_pace + too_short
        _require(bool(mine), f"no video is long enough for {split} sequences of {length} frames", data, skipped)
        _tell(skipped, [clip.video for clip in mine])

        self.frame_interval_s: float | None = interval_s
        self._length = length
        self._runs = [(clip, run) for clip in mine for run in clip.runs]
        self._windows = _windows(self._runs, split, length)
        frames = sum(len(run) for _, run in self._runs)
        self.description = (
            f"video: {len(mine)} file(s) with {frames} {split} frames (split by {mode}), "
            f"{interval_s:.4g} s per step, {len(self)} sequences of {length}"
        )

    def __len__(self) -> int:
        return len(self._windows)

    def __getitem__(self, index: int) -> Frames:
        number, start = self._windows[index]
        clip, run = self._runs[number]
        return np.array(clip.video.frames()[run[start : start + clip.span(self._length) : clip.step]])


def _files(data: DataConfig) -> list[Path]:
    if not data.root:
        raise UsageError("video data needs files\n  give a video file or a folder of videos with --data-root")
    try:
        files = list_videos(data.root)
    except VideoError as error:
        raise UsageError(f"{error}\n  correct --data-root") from error
    if not files:
        raise SvgError(
            f"the folder '{data.root}' given as --data-root holds no video\n"
            f"  expected files that end in one of {' '.join(VIDEO_SUFFIXES)}"
        )
    return files


def _require(usable: bool, what: str, data: DataConfig, skipped: Skipped) -> None:
    if not usable:
        raise SvgError(
            f"{what} in --data-root '{data.root}':\n{_listed(skipped)}\n"
            "  expected videos that play, and that are longer than a sequence in each part of the split;"
            " a larger --test-fraction gives more frames to the test part"
        )


def _interval(videos: list[DecodedVideo], data: DataConfig, sequence_length: int) -> float:
    """Return the seconds per model step: what the first video of a useful length makes of the options.

    Raises:
        UsageError: frame_step and frame_interval_s ask for different things.
    """
    lead = next((video for video in videos if len(video.times_s) >= sequence_length), videos[0])
    if data.frame_interval_s is None:
        return data.frame_step / lead.fps
    step = nearest_step(data.frame_interval_s, lead.fps)
    interval_s, rate = step / lead.fps, f"'{lead.source.name}' with {lead.fps:.4g} frames per second"
    if data.frame_step not in (1, step):
        raise UsageError(
            f"--frame-interval-s {data.frame_interval_s:g} means {step} frame(s) of {rate}, "
            f"but --frame-step {data.frame_step} was given as well\n  give only one of the two"
        )
    if abs(interval_s - data.frame_interval_s) > 1e-3 * data.frame_interval_s:
        note_once(f"note: {data.frame_interval_s:g} s per step becomes {interval_s:.4g} s, {step} frame(s) of {rate}")
    return interval_s


def _at_one_interval(videos: list[DecodedVideo], interval_s: float) -> tuple[list[_Clip], Skipped]:
    clips: list[_Clip] = []
    skipped: Skipped = []
    for video in videos:
        step = step_at_interval(interval_s, video.fps)
        if step is None:
            nearest_s = nearest_step(interval_s, video.fps) / video.fps
            reason = f"at {video.fps:.4g} frames per second its nearest step is {nearest_s:.4g} s, not {interval_s:.4g} s"
            skipped.append((video.source, reason))
        else:
            clips.append(_Clip(video, step, regular_runs(video.times_s, video.fps)))
    return clips, skipped


def _split_mode(data: DataConfig, files: int) -> str:
    if data.split_by == "file" and files < 2:
        raise UsageError(
            f"--split-by file needs at least 2 usable videos, and --data-root '{data.root}' has {files}\n"
            "  add videos, or use --split-by time"
        )
    return data.split_by or ("file" if files >= MIN_FILES_TO_SPLIT_BY_FILE else "time")


def _part_of_split(clips: list[_Clip], split: Split, mode: str, test_fraction: float) -> list[_Clip]:
    if mode == "file":
        return [clips[i] for i in files_of_split(len(clips), split, test_fraction)]
    return [replace(clip, runs=split_by_time(clip.runs, len(clip.video.times_s), split, test_fraction)) for clip in clips]


def _long_enough(clips: list[_Clip], split: Split, length: int) -> tuple[list[_Clip], Skipped]:
    fit: list[_Clip] = []
    skipped: Skipped = []
    for clip in clips:
        longest, span = max(len(run) for run in clip.runs), clip.span(length)
        if longest >= span:
            fit.append(clip)
        else:
            skipped.append((clip.video.source, f"too short: {longest} {split} frames in a row, a sequence needs {span}"))
    return fit, skipped


def _windows(runs: list[tuple[_Clip, Indices]], split: Split, length: int) -> Indices:
    """Return (n, 2): number of the run, and tick in it at which the sequence starts."""
    starts = window_starts([(len(run), clip.span(length)) for clip, run in runs], split)
    return np.concatenate([np.stack([np.full(len(start), i), start], 1) for i, start in enumerate(starts)])


def _tell(skipped: Skipped, used: list[DecodedVideo]) -> None:
    damaged = [(video.source, video.problem) for video in used if video.problem]
    if skipped:
        note_once(f"warning: {len(skipped)} video(s) are not used:\n{_listed(skipped)}")
    if damaged:
        note_once(f"warning: {len(damaged)} video(s) are damaged, their good part is used:\n{_listed(damaged)}")


def _listed(files: Skipped) -> str:
    return "\n".join(f"  {path}: {reason}" for path, reason in files)
