"""Random views of training sequences: which are drawn, and how fast they play."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_train.config import DataConfig
from svg_train.data import ClipPart, Frames, Split
from svg_train.data.frame_cache import FrameShape
from svg_train.data.video_clips import Clip, ClipSequences
from svg_train.data.video_sampling import Indices
from svg_train.data.view import CameraPath, View

_SEQUENCES = 1_000_000  # each index is a different view, as in the built-in digits
_STREAM, _NUMBER_STREAM = 3, 4
# Of a camera that moves, per frame: how far it pans, in sides of the crop, and by which factor it zooms, as a logarithm.
_PAN = (0.002, 0.02)
_ZOOM = (0.001, 0.02)
_MOST_ZOOM = 0.3  # of a whole sequence: more would enlarge what it ends or begins with


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
        settings = ("crop", "flip", "brightness", "playback", "camera_motion", "moving", "balanced")
        return self.split == "train" and any(getattr(self.data, name) != getattr(plain, name) for name in settings)

    @property
    def smallest_share(self) -> float:
        """Of the crops; 1 if all are as large as possible."""
        return self.data.crop[0 if self.split == "train" else 1]

    def views(self, length: int, rng: np.random.Generator) -> list[View]:
        """Draw views of a sequence of `length`, of which the one that has changed most when a forecast starts is to be shown.

        The camera moves in all of them or in none: else those in which it moves would be shown most of the time.
        """
        if not self.random:
            return [View(share=self.data.crop[1])]
        moves = self.data.camera_motion and rng.random() < self.data.camera_motion
        path = _camera_path(length - 1, rng) if moves else None
        return [self._view(path, rng) for _ in range(self.data.moving)]

    def _view(self, path: CameraPath | None, rng: np.random.Generator) -> View:
        """Draw a view. Shares are uniform in their logarithm: as many doublings of size everywhere."""
        small, large = self.data.crop
        share, top, left, gain = rng.random(4)
        return View(
            share=small * (large / small) ** share,
            top=top,
            left=left,
            mirrored=self.data.flip and bool(rng.integers(2)),
            gain=1 + self.data.brightness * (2 * gain - 1),
            path=path,
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
        views = self._augmentation.views(self._length, rng)
        view = max(views, key=lambda view: self._change(view, sequence)) if len(views) > 1 else views[0]
        return view.show(sequence, self._shape)

    def history(self, index: int, most: int) -> Frames:
        """As `HistoryDataset`, of held-out sequences."""
        assert not self._augmentation.random
        (view,) = self._augmentation.views(self._length, np.random.default_rng(0))
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

    @property
    def parts(self) -> list[ClipPart]:
        """As `FileDataset.parts`."""
        return self._sequences.parts

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
        observed = 0, self._n_past - 1
        moments = [number / max(1, len(sequence) - 1) for number in observed]
        first, last = view.show([sequence[number] for number in observed], self._shape, moments)
        return float(cv2.absdiff(first, last).mean())


def _camera_path(steps: int, rng: np.random.Generator) -> CameraPath:
    """Draw how a camera moves over so many steps: it pans in any direction, zooms in or out, or both, slow or fast."""
    kind = rng.choice(["pan", "zoom", "both"])
    pan = 0.0 if kind == "zoom" else steps * _uniform_in_logarithm(_PAN, rng)
    zoom = 0.0 if kind == "pan" else min(_MOST_ZOOM, steps * _uniform_in_logarithm(_ZOOM, rng))
    direction = 2 * math.pi * rng.random()
    return CameraPath(down=pan * math.sin(direction), right=pan * math.cos(direction), zoom=zoom if rng.integers(2) else -zoom)


def _uniform_in_logarithm(bounds: tuple[float, float], rng: np.random.Generator) -> float:
    least, most = map(math.log, bounds)
    return math.exp(rng.uniform(least, most))


def _ticks(run: Indices, start: int, step: int, length: int) -> Indices:
    """Frames of a sequence, which starts earlier where it would not fit."""
    span = (length - 1) * step + 1
    start = min(start, len(run) - span)
    return run[start : start + span : step]
