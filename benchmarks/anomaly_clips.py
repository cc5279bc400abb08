"""Clips of UCSD Ped2 for `anomaly.py`: normal ones, test clips with their labels, and normal clips made anomalous."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.errors import UsageError
from svg_common.video.reader import VideoReader
from svg_eval.anomaly.labels import read_labels

Pictures = NDArray[np.uint8]
LABELS = "test_labels.json"
_FAST = 2  # times the speed


@dataclass(frozen=True)
class LabelledClip:
    """(T, H, W) gray pictures, and which of them are anomalous."""

    pictures: Pictures
    anomalous: NDArray[np.bool_]


def read_clips(root: Path, part: str) -> dict[str, Pictures]:
    """The clips of `root`/train or `root`/test by their name without suffix, each (T, H, W).

    Raises:
        UsageError: there are none.
    """
    files = sorted((root / part).glob("*.mp4"))
    if not files:
        raise UsageError(f"'{root / part}' has no clip\n  expected train/01.mp4 ..., test/01.mp4 ... and {LABELS} in --data")
    return {file.stem: _read(file) for file in files}


def read_test_clips(root: Path) -> dict[str, LabelledClip]:
    """The clips of `root`/test, with the ranges of anomalous frames of its file of labels: numbers from 1, both ends in it.

    Raises:
        UsageError: there are none, or labels are missing, damaged, or of other clips or frames.
    """
    clips = read_clips(root, "test")
    labels = read_labels(root / LABELS).of(list(clips))
    return {name: LabelledClip(clip, labels[name].mask(len(clip))) for name, clip in clips.items()}


def sped_up(clip: Pictures, side: int, start: int) -> LabelledClip:
    """A normal clip in which one place runs at double speed from frame `start` on: an anomaly that needs no anomalous clip.

    Args:
        clip: (T, H, W).
        side: of the square place in pixels: where most moves.
        start: first anomalous frame.
    """
    frames = min(len(clip), (len(clip) - 1 - start) // _FAST + start + 1)
    top, left = _liveliest(clip[start:], side)
    changed = clip[:frames].copy()
    fast = clip[start + _FAST * np.arange(frames - start)]
    changed[start:, top : top + side, left : left + side] = fast[:, top : top + side, left : left + side]
    return LabelledClip(changed, np.arange(frames) >= start)


def _liveliest(clip: Pictures, side: int) -> tuple[int, int]:
    change = np.mean([cv2.absdiff(a, b) for a, b in itertools.pairwise(clip)], axis=0)
    sums = cv2.integral(change)
    blocks = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
    top, left = np.unravel_index(int(blocks.argmax()), blocks.shape)
    return int(top), int(left)


def _read(file: Path) -> Pictures:
    with VideoReader(file) as reader:
        return np.stack([cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY) for frame in reader])
