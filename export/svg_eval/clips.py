"""The recordings that sequences come from, and how much a forecast gains over repeating the last frame in each of them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from svg_common.printable import one_line
from svg_eval.pixels import PixelClass, PixelSums, psnr_or_nan
from svg_train.data import ClipDataset, HistoryDataset, SequenceDataset


def without_history(data: HistoryDataset, sequences: int) -> int:
    """How many of the first sequences have nothing before them in their clip, so that post-processing learns nothing."""
    return sum(not len(data.history(number, 1)) for number in range(sequences))


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
