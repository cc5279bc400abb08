"""What an adaptation gained: adapted model, start and repeated last frame on the same held-out part."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from svg_common.metrics import psnr
from svg_common.progress import ProgressListener
from svg_eval.evaluation_run import Request, run
from svg_eval.measure import Settings
from svg_eval.pixels import CLASSES, PixelClass, PixelSums
from svg_train.config import DataConfig
from svg_train.config_options import fields
from svg_train.data.video import decoded_folder

SEQUENCES = 256  # at most
_LEAST_GAIN_DB = 0.1  # nobody sees less


@dataclass(frozen=True)
class Gain:
    """Difference of two PSNRs in dB, each of the mean squared error over all sequences, and its standard error.

    NaN where there are no such pixels; the error also for a single sequence.
    """

    db: float
    error: float


@dataclass(frozen=True)
class Scores:
    """One class of pixels: PSNR in dB of the mean of samples, and what the adapted model gained."""

    adapted: float
    start: float
    repeat: float
    over_start: Gain
    over_repeat: Gain


@dataclass(frozen=True)
class Comparison:
    """Of an adapted model on the held-out part."""

    start_name: str
    sequences: int
    samples: int
    horizon: int
    frame_interval_s: float
    moving_share: float
    all: Scores
    moving: Scores

    @property
    def reasons_against(self) -> list[str]:
        """Why the adapted model is not worth using instead of its start; empty if it is.

        Being below repeating the last frame is none: a start that it gains over is further below.
        """
        over_start = self.all.over_start
        margin = max(_LEAST_GAIN_DB, 0.0 if math.isnan(over_start.error) else over_start.error)
        if over_start.db < 0:
            return [f"it forecasts worse than {self.start_name}: {over_start.db:+.2f} dB"]
        if over_start.db < margin:
            return [f"it gains {over_start.db:+.2f} dB over {self.start_name}, and less than {margin:.2f} dB may be chance"]
        return []

    def as_json(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "worth_it": not self.reasons_against, "reasons_against": self.reasons_against}


def compare(
    adapted: Path,
    start: Path,
    start_name: str,
    data: DataConfig,
    settings: Settings,
    device: str,
    progress: ProgressListener,
) -> Comparison:
    """Forecast the held-out part of what `adapted` was trained on with both checkpoints.

    Args:
        adapted: checkpoint; it knows its data, but not where they are now.
        start: checkpoint that it started from.
        start_name: of that one, as it is displayed.
        data: has root and cache.
        settings: how much to evaluate.
        device: PyTorch's name of what computes both.
        progress: receives the progress.

    Raises:
        UsageError: clips that were trained on are held out now, because others were added or removed.
        SvgError: the data is gone, or a checkpoint is damaged.
    """
    request = Request(
        model=str(adapted),
        backend=None,
        device=device,
        precision=None,
        baselines=(str(start),),
        protocol=None,
        data={**dict.fromkeys(fields("data")), "root": data.root, "cache": str(decoded_folder(data))},
        settings=settings,
        refuse_seen=True,
    )
    evaluation = run(request, progress)
    sums = [entry.measured.pixels for entry in (evaluation.model, evaluation.baselines[0], evaluation.repeat)]
    interval_s = evaluation.model.info.frame_interval_s
    assert interval_s is not None  # of a set of videos it is known
    return Comparison(
        start_name=start_name,
        sequences=evaluation.sequences,
        samples=evaluation.model.samples,
        horizon=settings.horizon,
        frame_interval_s=interval_s,
        moving_share=sums[0].scores("moving").share.overall,
        all=_scores(sums, "all"),
        moving=_scores(sums, "moving"),
    )


def _scores(sums: list[PixelSums], pixels: PixelClass) -> Scores:
    """Of one class of pixels, from the sums of the adapted model, the start and the repeated frame."""
    values = [_squared_errors(one, pixels) for one in sums]
    ours, theirs, last = (psnr_of_sums(*of_model) for of_model in values)
    return Scores(
        adapted=ours,
        start=theirs,
        repeat=last,
        over_start=gain(values[0], values[1]),
        over_repeat=gain(values[0], values[2]),
    )


def _squared_errors(sums: PixelSums, pixels: PixelClass) -> tuple[np.ndarray, np.ndarray]:
    """(N,) squared errors of the mean of samples, and (N,) numbers of values, of each sequence."""
    index = CLASSES.index(pixels)
    return sums.mean[:, index].sum(1), sums.count[:, index].sum(1)


def psnr_of_sums(errors: np.ndarray, counts: np.ndarray) -> float:
    """PSNR in dB over all sequences; NaN where there are no values."""
    return psnr(float(errors.sum() / counts.sum())) if counts.sum() else math.nan


def gain(ours: tuple[np.ndarray, np.ndarray], other: tuple[np.ndarray, np.ndarray]) -> Gain:
    """Gain of one model over another on the same sequences, each given as squared errors and numbers of values (N,).

    The error is that of the jackknife over sequences, paired: how hard a sequence is for both models cancels.
    """

    def difference(chosen: np.ndarray) -> float:
        return psnr_of_sums(*(part[chosen] for part in ours)) - psnr_of_sums(*(part[chosen] for part in other))

    count = len(ours[0])
    everything = np.ones(count, bool)
    if count < 2:
        return Gain(difference(everything), math.nan)
    left_out = np.array([difference(np.arange(count) != index) for index in range(count)])
    variance = (count - 1) / count * np.square(left_out - left_out.mean()).sum()
    return Gain(difference(everything), math.sqrt(variance))
