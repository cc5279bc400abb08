"""The recordings that sequences come from, and how much a forecast gains over repeating the last frame in each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svg_common.printable import one_line
from svg_eval.pixels import PixelClass, PixelSums, psnr_or_nan
from svg_train.data import ClipDataset, Frames, HistoryDataset, SequenceDataset
from svg_train.data.video import VideoClips


class SpreadSequences:
    """`count` sequences, as evenly as possible from all clips: the first ones alone would be of few clips.

    Args:
        data: the sequences of all clips.
        count: how many of them, fewer than there are.
        after_others: the only sequence of a clip is its middle one, not its first, before which there is nothing to learn from.
    """

    def __init__(self, data: HistoryDataset, count: int, after_others: bool = False) -> None:
        self._data = data
        self._numbers = _spread([data.clip_source(number) for number in range(len(data))], count, after_others)
        self.frame_interval_s = data.frame_interval_s
        middle = ", the middle one where a clip gives one" if after_others else ""
        self.description = f"{data.description}, {count} of them, as evenly as possible from all clips{middle}"

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Frames:
        return self._data[self._numbers[index]]

    def clip_source(self, index: int) -> Path:
        """As `ClipDataset.clip_source`."""
        return self._data.clip_source(self._numbers[index])

    def history(self, index: int, most: int) -> Frames:
        """As `HistoryDataset.history`."""
        return self._data.history(self._numbers[index], most)


def spread_over_clips(data: SequenceDataset, count: int, after_others: bool = False) -> SequenceDataset:
    """`data`, or `count` of its sequences from all clips if it is a set of videos with more. KTH's order does so by itself."""
    return SpreadSequences(data, count, after_others) if isinstance(data, VideoClips) and len(data) > count else data


def without_history(data: HistoryDataset, sequences: int) -> int:
    """How many of the first sequences have nothing before them in their clip, so that post-processing learns nothing."""
    return sum(not len(data.history(number, 1)) for number in range(sequences))


def _spread(sources: Sequence[Path], count: int, after_others: bool) -> list[int]:
    """Numbers of `count` of the sequences, in order: the same number from each clip as far as it has so many, evenly spaced."""
    clips: dict[Path, list[int]] = {}
    for number, source in enumerate(sources):
        clips.setdefault(source, []).append(number)
    chosen: list[int] = []
    for index, numbers in enumerate(sorted(clips.values(), key=len)):  # what short clips lack, longer ones make up for
        share = min(len(numbers), (count - len(chosen)) // (len(clips) - index))
        if share == 1 and after_others:
            chosen.append(numbers[len(numbers) // 2])
        else:
            chosen += [numbers[part * len(numbers) // share] for part in range(share)]
    return sorted(chosen)


def clip_names(data: SequenceDataset, sequences: int) -> tuple[str, ...] | None:
    """The clip of each of the first sequences: its path in the folder that all clips share.

    None for data that is not a recording, such as drawn digits.
    """
    if not isinstance(data, ClipDataset):
        return None
    sources = [data.clip_source(number) for number in range(sequences)]
    folder = os.path.commonpath([source.parent for source in sources])
    return tuple(one_line(source.relative_to(folder)) for source in sources)


@dataclass(frozen=True)
class ClipGains:
    """One clip: PSNR from the mean squared error over its sequences, in dB, and the gains over repeating the last frame."""

    clip: str
    sequences: int
    moving_share: float
    psnr_repeat: float
    gain_best: float
    gain_sample: float
    gain_mean: float
    moving_gain_best: float  # of moving pixels; NaN where nothing moves
    moving_gain_sample: float
    moving_gain_mean: float


def gains_by_clip(names: Sequence[str], model: PixelSums, repeat: PixelSums) -> list[ClipGains]:
    """Gains in every clip, the least gain of the mean of samples first.

    Args:
        names: of the clip of each sequence.
        model: of these sequences.
        repeat: the last frame repeated, of the same sequences.
    """
    rows = [_gains(name, np.array(names) == name, model, repeat) for name in dict.fromkeys(names)]
    return sorted(rows, key=lambda row: row.gain_mean)


def _gains(name: str, chosen: np.ndarray, model: PixelSums, repeat: PixelSums) -> ClipGains:
    gains = {}
    compared: tuple[tuple[str, PixelClass], ...] = (("", "all"), ("moving_", "moving"))
    for prefix, pixels in compared:
        ours, last = model.scores(pixels, chosen), repeat.scores(pixels, chosen)
        reference = psnr_or_nan(last.mean.overall)
        for kind in ("best", "sample", "mean"):
            gains[f"{prefix}gain_{kind}"] = psnr_or_nan(getattr(ours, kind).overall) - reference
    return ClipGains(
        clip=name,
        sequences=int(chosen.sum()),
        moving_share=repeat.scores("moving", chosen).share.overall,
        psnr_repeat=psnr_or_nan(repeat.scores("all", chosen).mean.overall),
        **gains,
    )
