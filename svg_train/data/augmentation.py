"""Random views of training sequences: crops at several scales, mirrored, lighter or darker, faster or slower."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.frames import fit_frame
from svg_train.config import DataConfig
from svg_train.data import Frames, Split
from svg_train.data.frame_cache import FrameShape
from svg_train.data.video_clips import Clip, ClipSequences
from svg_train.data.video_sampling import Indices

_SEQUENCES = 1_000_000  # each index is a different view, as in the built-in digits
_STREAM, _NUMBER_STREAM = 3, 4


@dataclass(frozen=True)
class View:
    """One way to look at a sequence, the same for all of its frames.

    Attributes:
        share: side of the crop, relative to the largest crop of the model's shape. No crop is smaller than the model's frame.
        top: place of the crop, from 0 (top) to 1 (bottom).
        left: place of the crop, from 0 (left) to 1 (right).
        mirrored: left to right.
        gain: factor of all values.
    """

    share: float = 1.0
    top: float = 0.5
    left: float = 0.5
    mirrored: bool = False
    gain: float = 1.0

    def show(self, frames: Sequence[NDArray[np.uint8]], shape: FrameShape) -> Frames:
        """T times (H, W, C) of any size -> (T, height, width, C) of the model's `shape`."""
        height, width = frames[0].shape[:2]
        rows, columns = self._crop(height, width, shape)
        fitted = [fit_frame(frame[rows, columns], shape.height, shape.width, shape.channels) for frame in frames]
        shown = np.stack(fitted)
        if self.mirrored:
            shown = np.ascontiguousarray(shown[:, :, ::-1])
        return shown if self.gain == 1 else _gain_table(self.gain)[shown]

    def _crop(self, height: int, width: int, shape: FrameShape) -> tuple[slice, slice]:
        pixels = min(height / shape.height, width / shape.width)  # of the largest crop, per pixel of the model's frame
        scale = min(pixels, max(1.0, self.share * pixels))
        return _slice(height, scale * shape.height, self.top), _slice(width, scale * shape.width, self.left)


@dataclass(frozen=True)
class Augmentation:
    """Which views of a sequence are shown. Without any setting, and for held-out sequences, one: the central one.

    Args:
        data: the settings.
        split: held-out sequences are not random: they show the central crop of the largest share.
    """

    data: DataConfig
    split: Split

    @property
    def random(self) -> bool:
        """Whether every reading of a sequence is another view."""
        plain = DataConfig()
        settings = ("crop", "flip", "brightness", "playback", "moving", "balanced")
        return self.split == "train" and any(getattr(self.data, name) != getattr(plain, name) for name in settings)

    @property
    def smallest_share(self) -> float:
        """Of the crops; 1 if all are as large as possible."""
        return self.data.crop[0 if self.split == "train" else 1]

    def views(self, rng: np.random.Generator) -> list[View]:
        """Draw views of a sequence, of which the one that has changed most when a forecast starts is to be shown."""
        return [self._view(rng) for _ in range(self.data.moving)] if self.random else [View(share=self.data.crop[1])]

    def _view(self, rng: np.random.Generator) -> View:
        """Draw a view. Shares are uniform in their logarithm: as many doublings of size everywhere."""
        small, large = self.data.crop
        share, top, left, gain = rng.random(4)
        return View(
            share=small * (large / small) ** share,
            top=top,
            left=left,
            mirrored=self.data.flip and bool(rng.integers(2)),
            gain=1 + self.data.brightness * (2 * gain - 1),
        )

    def step(self, clip: Clip, ticks: int, length: int, rng: np.random.Generator) -> int:
        """Draw the ticks per model step: whole numbers within the playback rates that fit in a run of `ticks`."""
        if not self.random:
            return clip.step
        slow, fast = self.data.playback
        longest = max(clip.step, (ticks - 1) // (length - 1)) if length > 1 else clip.step
        least, most = math.ceil(slow * clip.step), min(math.floor(fast * clip.step), longest)
        return int(rng.integers(max(1, least), most + 1))


class AugmentedSequences:
    """Views of `sequences`. View `index` shows sequence `index` modulo their count, and is drawn from (seed, index).

    Args:
        sequences: of whole or cropped frames.
        augmentation: what to draw.
        shape: of the views.
        length: frames per sequence.
        n_past: of these a forecast observes so many.
        seed: of the draws.
    """

    def __init__(
        self,
        sequences: ClipSequences,
        augmentation: Augmentation,
        shape: FrameShape,
        length: int,
        n_past: int,
        seed: int,
    ) -> None:
        self._sequences = sequences
        self._augmentation = augmentation
        self._shape = shape
        self._length = length
        self._n_past = n_past
        self._seed = seed
        self._views = max(1, _SEQUENCES // len(sequences)) if augmentation.random else 1

    def __len__(self) -> int:
        return len(self._sequences) * self._views

    def __getitem__(self, index: int) -> Frames:
        clip, run, start = self._sequences.window(self._number(index))
        rng = np.random.default_rng((self._seed, _STREAM, index))
        step = self._augmentation.step(clip, len(run), self._length, rng)
        frames = clip.video.frames()
        # One by one: the crop alone is read from the file.
        sequence = [frames[number] for number in _ticks(run, start, step, self._length)]
        views = self._augmentation.views(rng)
        view = max(views, key=lambda view: self._change(view, sequence)) if len(views) > 1 else views[0]
        return view.show(sequence, self._shape)

    def history(self, index: int, most: int) -> Frames:
        """As `HistoryDataset`, of held-out sequences."""
        assert not self._augmentation.random
        (view,) = self._augmentation.views(np.random.default_rng(0))
        frames = self._sequences.window(index)[0].video.frames()
        before = self._sequences.before(index, most)
        if not len(before):
            return np.empty((0, self._shape.height, self._shape.width, self._shape.channels), np.uint8)
        return view.show([frames[number] for number in before], self._shape)

    def clip_source(self, index: int) -> Path:
        """As `ClipDataset.clip_source`."""
        return self._sequences.clip_source(self._number(index))

    @property
    def files(self) -> list[Path]:
        """As `FileDataset.files`."""
        return self._sequences.files

    def _number(self, index: int) -> int:
        """Of the sequence that is shown. Balanced, it is drawn: a clip by the square root of its length, and a start in it."""
        if not (self._augmentation.random and self._augmentation.data.balanced):
            return index % len(self._sequences)
        rng = np.random.default_rng((self._seed, _NUMBER_STREAM, index))
        counts = self._sequences.counts
        shares = np.sqrt(counts)
        clip = int(rng.choice(len(counts), p=shares / shares.sum()))
        return int(counts[:clip].sum() + rng.integers(counts[clip]))

    def _change(self, view: View, sequence: Sequence[NDArray[np.uint8]]) -> float:
        """Mean change of a pixel from the first to the last observed frame.

        A choice that knew the frames to be forecast would teach that more moves than does.
        """
        first, last = view.show([sequence[0], sequence[self._n_past - 1]], self._shape)
        return float(cv2.absdiff(first, last).mean())


def _ticks(run: Indices, start: int, step: int, length: int) -> Indices:
    """Frames of a sequence, which starts earlier where it would not fit."""
    span = (length - 1) * step + 1
    start = min(start, len(run) - span)
    return run[start : start + span : step]


def _slice(room: int, wanted: float, place: float) -> slice:
    size = max(1, min(room, round(wanted)))
    start = round(place * (room - size))
    return slice(start, start + size)


def _gain_table(gain: float) -> Frames:
    table: Frames = np.clip(np.arange(256) * gain + 0.5, 0, 255).astype(np.uint8)
    return table
