"""Sequences from a video file, a folder of pictures, or a folder of both."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from svg_common.cache import cache_folder
from svg_common.errors import SvgError, UsageError
from svg_common.path_advice import path_advice
from svg_common.quantities import count_text
from svg_common.video.clips import Clip as SourceClip
from svg_common.video.clips import find_clips, no_files
from svg_common.video.sampling import SAME_RATE
from svg_train.config import Config, DataConfig
from svg_train.data import Split
from svg_train.data.augmentation import Augmentation, AugmentedSequences
from svg_train.data.frame_cache import FrameShape, Skipped, list_sources, warn_about_sources
from svg_train.data.notes import log_once
from svg_train.data.video_cache import DecodedVideo, decode_videos
from svg_train.data.video_clips import (
    Clip,
    ClipSequences,
    at_one_interval,
    describe_cuts,
    long_enough,
    model_interval,
)
from svg_train.data.video_sampling import (
    MIN_FILES_TO_SPLIT_BY_FILE,
    Indices,
    cuts_at_end,
    cuts_in_time,
    files_of_split,
    side_of_cut,
)
from svg_train.run_folder import RECORDING_FRAMES, is_strip, recording_at

_PLAYABLE = "playable videos that are longer than a sequence"
_PICTURES_FPS = 10.0  # of picture files, if the options say nothing of time


class VideoClips(AugmentedSequences):
    """Sequences of (length, H, W, C) uint8 frames at one time interval, from all videos and picture folders of the root.

    With augmentation, each index of a training sequence is another view: it begins anew after the last start in the clips.

    The split depends on the files and on `config`, not on `length`: a longer test sequence never moves a frame from one side
    to the other.

    Args:
        config: of the training.
        split: which part to open.
        length: frames of a sequence.
        trained_s: as for `open_data`.

    Raises:
        UsageError: no root is given, options contradict each other, or no video has a frame for every step.
        SvgError: no video is usable (all reasons are listed), or the cache cannot be written.
    """

    def __init__(self, config: Config, split: Split, length: int, trained_s: float | None = None) -> None:
        data, n_past = config.data, config.model.n_past
        if split == "train":
            require_something_to_train_on(data)
        clips, skipped, interval_s = _clips_at_one_interval(config, split, trained_s)
        # A photo must not be all that is held out. One forecast frame is enough: the split is the same for all lengths.
        films, no_sequence = long_enough(clips, split, n_past + 1)
        mode = _split_mode(data, len(films), skipped + no_sequence)
        if mode == "file":
            clips = films
            skipped += no_sequence
        mine, too_short = long_enough(_part_of_split(clips, split, mode, data.test_fraction), split, length)
        too_few = f"no video is long enough for {split} sequences of {length} frames"
        if not mine:
            expected = _expected(data, split, mode, clips=clips, length=length)
            expected += _shorter_steps(data, clips, interval_s) if trained_s is None else ""
            raise _unusable(too_few, data, skipped + too_short, expected)
        warn_about_sources("video", skipped, [(clip.video.source, clip.video.problem) for clip in mine])
        warn_about_sources("video", too_short, split=split)

        sequences, augmentation = ClipSequences(mine, split, length), Augmentation(data, split)
        super().__init__(
            sequences=sequences,
            augmentation=augmentation,
            shape=_frame_shape(config),
            length=length,
            n_past=n_past,
            seed=config.train.seed,
        )
        self.frame_interval_s: float | None = interval_s
        self.description = (
            f"video: {count_text(len(mine), 'file')} with {sequences.frame_count} {split} frames (split by {mode}), "
            f"{interval_s:.4g} s per step, {len(sequences)} sequences of {length}{describe_cuts(mine)}"
            f"{', in random views' if augmentation.random else ''}"
        )


def require_something_to_train_on(data: DataConfig) -> None:
    """Refuse settings that hold out everything, with a `UsageError`."""
    if data.test_fraction == 1:
        raise UsageError("--test-fraction 1 leaves nothing to train on\n  expected less than 1, such as 0.15")


def split_for(config: Config, length: int) -> Literal["time", "end"]:
    """Return how to split videos of one camera: by time, or at the end where the ends of most are shorter than `length` frames.

    Videos that are shorter as a whole, or alone, are no reason for the latter.

    Raises:
        UsageError, SvgError: as `VideoClips`.
    """
    clips, _, _ = _clips_at_one_interval(config, "test", trained_s=None)
    films, _ = long_enough(clips, "test", length)
    ends, _ = long_enough(_part_of_split(films, "test", "time", config.data.test_fraction), "test", length)
    return "end" if len(films) > 1 and 2 * len(ends) < len(films) else "time"


def _clips_at_one_interval(config: Config, split: Split, trained_s: float | None) -> tuple[list[Clip], Skipped, float]:
    """The clips of the root as a whole, what cannot be used with the reasons, and the seconds per step."""
    data = config.data
    decoded, unreadable = _decoded(data, _frame_shape(config), Augmentation(data, split).smallest_share)
    skipped = no_files(Path(data.root or "")) + unreadable
    if not decoded:
        raise _unusable("no video can be read", data, skipped, _PLAYABLE)
    data = _timed_as_trained(decoded, data, config.sequence_length, trained_s)
    _note_rates(decoded, data)
    videos = _with_rates(decoded, data)
    interval_s = _interval(videos, data, config.sequence_length)
    clips, too_slow = at_one_interval(videos, interval_s)
    return clips, skipped + too_slow, interval_s


def _frame_shape(config: Config) -> FrameShape:
    return FrameShape(config.model.height, config.model.width, config.model.channels)


def _decoded(data: DataConfig, shape: FrameShape, smallest_share: float) -> tuple[list[DecodedVideo], Skipped]:
    """The videos at the model's size, or large enough that the smallest crop is not enlarged, as far as they are."""
    folder = decoded_folder(data)
    if smallest_share == 1:
        return decode_videos(_clips(data), folder, shape)
    height, width = (math.ceil(side / smallest_share) for side in (shape.height, shape.width))
    return decode_videos(_clips(data), folder, FrameShape(height, width, shape.channels), whole=True)


def decoded_folder(data: DataConfig) -> Path:
    """Where decoded frames are cached: those of a recording in its folder, where they are private and deleted with it."""
    recording = recording_at(Path(data.root)) if data.root and data.cache is None else None
    return cache_folder(data.cache) if recording is None else recording / RECORDING_FRAMES


def _clips(data: DataConfig) -> list[SourceClip]:
    if not data.root:
        raise UsageError("data 'video' needs --data-root\n  give a video file, or a folder of videos or pictures")
    try:
        clips = [clip for clip in find_clips(Path(data.root)) if not is_strip(clip.paths[0])]
    except UsageError as error:
        exists = os.path.exists(data.root)
        advice = None if exists else path_advice("--data-root", data.root)
        raise UsageError(f"{error}\n  {advice or 'correct --data-root'}") from error
    if not clips:
        problem = f"--data-root '{data.root}' contains no video and no pictures"
        expected = "  expected files such as .mp4, .avi, .mkv, .png or .jpg, in it or in folders in it"
        left_out = list_sources(no_files(Path(data.root)))
        raise UsageError("\n".join(line for line in (problem, left_out, expected) if line))
    if data.split_by == "end":
        return clips  # in natural order, as a recorder numbers its files: the last ones are held out
    return sorted(clips, key=lambda clip: clip.paths[0])  # an order that stays: which files are held out depends on it


def _timed_as_trained(
    videos: Sequence[DecodedVideo], data: DataConfig, sequence_length: int, trained_s: float | None
) -> DataConfig:
    """The options, with the model's interval if it is not what they make of these videos.

    The videos of the training have it by the options of the training, which also time pictures. Others may have other rates.
    """
    if trained_s is None:
        return data
    try:
        own_s = _interval(_with_rates(videos, data), data, sequence_length)
    except UsageError:  # a frame step that is impossible with these videos
        own_s = math.inf
    if abs(own_s - trained_s) <= SAME_RATE * trained_s:
        return data
    return data.model_copy(update={"frame_interval_s": trained_s, "frame_step": 1})


def _note_rates(videos: Sequence[DecodedVideo], data: DataConfig) -> None:
    """Log which rates are assumed, and options that change none."""
    if data.source_fps is not None and all(video.time_base == "stamps" for video in videos):
        log_once(logging.WARNING, "note: all videos have time stamps of their own: --source-fps does not change them")
    for video in videos:
        one_per_step = video.time_base == "numbers" and data.frame_interval_s is not None
        if video.time_base == "stamps" or data.source_fps is not None or one_per_step:
            continue
        what = f"'{video.source}' has no time stamps: assumed {_with_rate(video, data).fps:.4g} frames per second"
        log_once(logging.WARNING, f"{what}; give the true rate with --source-fps")


def _with_rates(videos: Sequence[DecodedVideo], data: DataConfig) -> list[DecodedVideo]:
    """The videos with the rates that the options give to those without time stamps."""
    return [_with_rate(video, data) for video in videos]


def _with_rate(video: DecodedVideo, data: DataConfig) -> DecodedVideo:
    if video.time_base == "stamps":
        return video
    if data.source_fps is not None:
        return video.at_rate(data.source_fps)
    if video.time_base == "assumed":
        return video.at_rate(video.fps)
    if data.frame_interval_s is not None:
        return video.at_rate(data.frame_step / data.frame_interval_s)  # as in svg-live: pictures are one step apart
    return video.at_rate(_PICTURES_FPS)


def _unusable(what: str, data: DataConfig, skipped: Skipped, expected: str) -> SvgError:
    return SvgError(f"{what} in --data-root '{data.root}':\n{list_sources(skipped)}\n  expected {expected}")


def _expected(data: DataConfig, split: Split, mode: str, clips: Sequence[Clip], length: int) -> str:
    """What would do where no clip gives a part of the split a sequence of `length`."""
    if data.test_fraction == 1:
        return _PLAYABLE
    expected = [f"{_PLAYABLE} in each part of the split"]
    longest = max(clips, key=lambda clip: clip.room(length))
    if longest.room(length):
        expected.append(f"a {'larger' if split == 'test' else 'smaller'} --test-fraction gives more frames to the {split} part")
    else:
        needed = f"a {split} sequence needs {longest.span(length)} frames"
        expected.append(f"{needed}, but the longest video has {longest.longest_piece} in a row")
    if mode == "time" and sum(clip.room(length) > 0 for clip in clips) > 1:
        expected.append("--split-by end or --split-by file holds out whole videos")
    return "; ".join(expected)


def _shorter_steps(data: DataConfig, clips: Sequence[Clip], interval_s: float) -> str:
    """Advice where a step takes several frames; else empty."""
    if all(clip.step == 1 for clip in clips):
        return ""
    option = "--frame-step" if data.frame_interval_s is None else "--frame-interval-s"
    return f"; a step lasts {interval_s:.4g} s here, and a smaller {option} makes sequences shorter"


def _interval(videos: list[DecodedVideo], data: DataConfig, sequence_length: int) -> float:
    """Return the seconds per model step: the options, applied to the first video that is long enough."""
    lead = next((video for video in videos if len(video.times_s) >= sequence_length), videos[0])
    return model_interval(data, lead.fps, lead.source.name)


def _split_mode(data: DataConfig, files: int, skipped: Skipped) -> str:
    if data.split_by == "file" and files < 2:
        too_few = f"--split-by file needs at least 2 usable videos, but --data-root '{data.root}' has {files}"
        listed = f":\n{list_sources(skipped)}" if skipped else ""
        raise UsageError(f"{too_few}{listed}\n  add videos, or use --split-by time")
    return data.split_by or ("file" if files >= MIN_FILES_TO_SPLIT_BY_FILE else "time")


def _part_of_split(clips: list[Clip], split: Split, mode: str, test_fraction: float) -> list[Clip]:
    """The clips with their frames of the split; without those that lie wholly in the other part, unless all do."""
    if mode == "file":
        return [clips[i] for i in files_of_split(len(clips), split, test_fraction)]
    frames = [len(clip.video.times_s) for clip in clips]
    cuts = cuts_at_end(frames, test_fraction) if mode == "end" else cuts_in_time(frames, test_fraction)
    parts = [_with_runs(clip, side_of_cut(clip.runs, cut, split)) for clip, cut in zip(clips, cuts, strict=True)]
    return [part for part in parts if any(map(len, part.runs))] or parts


def _with_runs(clip: Clip, runs: list[Indices]) -> Clip:
    """The part of a clip that these are, with the pauses within it."""
    return replace(clip, runs=runs, pauses=max(sum(len(run) > 0 for run in runs) - 1, 0))
