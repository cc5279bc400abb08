"""The clips that labels are about: their names, their frames as a model sees them, and the number of each in its file."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import SvgError, UsageError
from svg_common.files import folder_name
from svg_common.video.clips import Clip, find_clips
from svg_common.video.picture_files import PictureError, PictureFiles
from svg_common.video.reader import VideoReader
from svg_common.video.sampling import pick_at_interval, step_of_video
from svg_eval.anomaly.labels import MASK_SUFFIX, one_form, refuse_broken_links
from svg_runtime.live.events import EventLog

Picture = NDArray[np.uint8]


@dataclass(frozen=True)
class ClipTiming:
    """Which pictures of clips a model sees.

    Attributes:
        interval_s: seconds per model step.
        frame_step: every n-th picture instead; None: by time.
        source_fps: pictures per second of clips without time stamps; None: what the codec says; of pictures, one per step.
    """

    interval_s: float
    frame_step: int | None = None
    source_fps: float | None = None


@dataclass(frozen=True)
class SeenPicture:
    """One picture that the model sees.

    Attributes:
        number: in the clip, from 0.
        image: (H, W, 3) RGB or (H, W) gray.
        after_pause: earlier ones are not context for it.
        step_s: seconds of a model step in this clip, as svg-live counts them.
        held: it is the picture before it again, because none came in a short gap.
    """

    number: int
    image: Picture
    after_pause: bool
    step_s: float
    held: bool = False


def named_clips(root: Path) -> dict[str, Clip]:
    """Clips by the name of their file without suffix, or of their folder of pictures. UCSD's masks beside them are left out.

    Names are in one form of Unicode, as those of labels are.

    Raises:
        UsageError: there are none, or two of one name, or a picture is a link to nothing.
    """
    clips: dict[str, Clip] = {}
    for clip in find_clips(root):
        name = one_form(clip.paths[0].stem if clip.is_video else folder_name(clip.paths[0].parent))
        if name.endswith(MASK_SUFFIX) and not clip.is_video:
            continue
        if name in clips:
            raise UsageError(
                f"two clips are called '{name}': '{clips[name].name}' and '{clip.name}'\n"
                "  labels are found by the clip's name: expected a --data-root with one clip of each name"
            )
        if not clip.is_video:
            refuse_broken_links(clip.paths[0].parent)
        clips[name] = clip
    if not clips:
        raise UsageError(f"'{root}' contains no videos or pictures\n  expected the labelled clips in --data-root")
    return clips


def count_pictures(clip: Clip) -> int:
    """Pictures of a clip; a video is decoded for it, since headers are wrong.

    Raises:
        SvgError: the video is damaged, since what is lost would shift the labels.
    """
    if not clip.is_video:
        return len(clip.paths)
    with VideoReader(clip.paths[0]) as reader:
        count = sum(1 for _ in reader)
        _refuse_damage(clip.paths[0], reader)
    return count


def seen_pictures(clip: Clip, timing: ClipTiming, notes: EventLog) -> Iterator[SeenPicture]:
    """The pictures at the model's interval, as svg-live selects them.

    Args:
        clip: with all of its pictures.
        timing: which of them.
        notes: gets what svg-live says of such a file: a rate that is assumed or too slow, or not that of `source_fps`.

    Raises:
        SvgError: a picture cannot be read, since what is lost would shift the labels.
    """
    if not clip.is_video:
        fps = timing.source_fps or 1 / timing.interval_s
        timed = ((position / fps, picture) for position, picture in zip(clip.positions, _pictures(clip), strict=True))
        yield from _selected(timed, fps, timing, notes)
        return
    with VideoReader(clip.paths[0]) as reader:
        fps = timing.source_fps if reader.assumed_rate and timing.source_fps else reader.fps
        stretch = reader.fps / fps
        _note_time_base(clip.paths[0], reader, timing, notes)
        yield from _selected(((frame.time_s * stretch, frame.image) for frame in reader), fps, timing, notes)
        _refuse_damage(clip.paths[0], reader)


def _refuse_damage(path: Path, reader: VideoReader) -> None:
    """Of a reader that has come to the end of its file."""
    if reader.problem is not None:
        raise SvgError(f"'{path}' is damaged: {reader.problem}\n  its labels would be of other frames")


def _pictures(clip: Clip) -> Iterator[Picture]:
    files = PictureFiles(clip.paths)
    for path in clip.paths:
        try:
            yield files.read(path)
        except PictureError as error:
            raise SvgError(f"'{path}' cannot be read: {error}\n  its clip's labels would be of other frames") from error


def _note_time_base(path: Path, reader: VideoReader, timing: ClipTiming, notes: EventLog) -> None:
    if reader.assumed_rate and timing.source_fps is None:
        assumed = f"{path} has no time stamps: assumed {reader.fps:.4g} frames per second"
        notes.once("assumed_rate", f"{assumed}; give the true rate with --source-fps")
    elif timing.source_fps is not None and not reader.assumed_rate:
        notes.once("source_fps_unused", f"{path} has time stamps of its own: --source-fps does not change it")


def _selected(timed: Iterator[tuple[float, Picture]], fps: float, timing: ClipTiming, notes: EventLog) -> Iterator[SeenPicture]:
    numbered = ((time_s, (number, image)) for number, (time_s, image) in enumerate(timed))
    step = step_of_video(timing.interval_s, fps)
    own_s = (timing.frame_step or 1) / fps
    exact_s, step_s = (own_s, own_s) if timing.frame_step or step is None else (step.step_s, timing.interval_s)
    if step is None and not timing.frame_step:
        slow = f"clips have {fps:.4g} frames per second, the model expects {1 / timing.interval_s:.4g}"
        notes.once("slow_source", f"{slow}: its steps are {1 / fps:.3g} s there, with larger motion than in training")
    last = -1
    for picked in pick_at_interval(numbered, exact_s, fps):
        number, image = picked.item
        yield SeenPicture(number, image, after_pause=picked.pause_s > 0, step_s=step_s, held=number == last)
        last = number
