"""Sequences from a video file or a folder of videos."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from svg_common.cache import cache_folder
from svg_common.errors import SvgError, UsageError
from svg_common.video import VIDEO_SUFFIXES, VideoError, list_videos
from svg_train.config import Config, DataConfig
from svg_train.data import Split
from svg_train.data.frame_cache import FrameShape, Skipped, list_sources, warn_about_sources
from svg_train.data.video_cache import DecodedVideo, decode_videos
from svg_train.data.video_clips import Clip, ClipSequences, at_one_interval, long_enough, model_interval
from svg_train.data.video_sampling import MIN_FILES_TO_SPLIT_BY_FILE, files_of_split, split_by_time


class VideoClips(ClipSequences):
    """Sequences of (length, H, W, C) uint8 frames at one time interval from all videos of `config.data.root`.

    The split depends on the files and on `config`, not on `length`: a longer test sequence never moves a frame from one side
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
        clips, other_rate = at_one_interval(videos, interval_s)
        mode = _split_mode(data, len(clips))
        mine, too_short = long_enough(_part_of_split(clips, split, mode, data.test_fraction), split, length)
        skipped += other_rate + too_short
        _require(bool(mine), f"no video is long enough for {split} sequences of {length} frames", data, skipped)
        warn_about_sources("video(s)", skipped, [(clip.video.source, clip.video.problem) for clip in mine])

        super().__init__(mine, split, length)
        self.frame_interval_s: float | None = interval_s
        self.description = (
            f"video: {len(mine)} file(s) with {self.frame_count} {split} frames (split by {mode}), "
            f"{interval_s:.4g} s per step, {len(self)} sequences of {length}"
        )


def _files(data: DataConfig) -> list[Path]:
    if not data.root:
        raise UsageError("data 'video' needs --data-root\n  give a video file or a folder of videos")
    try:
        files = list_videos(data.root)
    except VideoError as error:
        raise UsageError(f"{error}\n  correct --data-root") from error
    if not files:
        raise SvgError(
            f"--data-root '{data.root}' contains no video\n  expected files that end in one of {' '.join(VIDEO_SUFFIXES)}"
        )
    return files


def _require(usable: bool, what: str, data: DataConfig, skipped: Skipped) -> None:
    if not usable:
        raise SvgError(
            f"{what} in --data-root '{data.root}':\n{list_sources(skipped)}\n"
            "  expected playable videos that are longer than a sequence in each part of the split;"
            " a larger --test-fraction gives more frames to the test part"
        )


def _interval(videos: list[DecodedVideo], data: DataConfig, sequence_length: int) -> float:
    """Return the seconds per model step: the options, applied to the first video that is long enough."""
    lead = next((video for video in videos if len(video.times_s) >= sequence_length), videos[0])
    return model_interval(data, lead.fps, lead.source.name)


def _split_mode(data: DataConfig, files: int) -> str:
    if data.split_by == "file" and files < 2:
        raise UsageError(
            f"--split-by file needs at least 2 usable videos, but --data-root '{data.root}' has {files}\n"
            "  add videos, or use --split-by time"
        )
    return data.split_by or ("file" if files >= MIN_FILES_TO_SPLIT_BY_FILE else "time")


def _part_of_split(clips: list[Clip], split: Split, mode: str, test_fraction: float) -> list[Clip]:
    if mode == "file":
        return [clips[i] for i in files_of_split(len(clips), split, test_fraction)]
    return [replace(clip, runs=split_by_time(clip.runs, len(clip.video.times_s), split, test_fraction)) for clip in clips]
