"""Errors and ensemble scores over all pixels, over those that move and over those that stand still.

A pixel moves at a lead if any of its channels differs there from the last observed frame by more than `MOVED`, in the truth.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from svg_common.frame_statistics import MOVED
from svg_common.metrics import psnr
from svg_eval.ensemble import Array, coverage, fair_crps, interval_probability, rank_histogram, spread_skill_ratio

PixelClass = Literal["all", "moving", "still"]
CLASSES: tuple[PixelClass, ...] = get_args(PixelClass)
SCORED: tuple[PixelClass, ...] = ("all", "moving")  # what the tables and plots show ensemble scores of

Rows = NDArray[np.bool_] | slice
_EVERY = slice(None)


@dataclass(frozen=True)
class PixelSums:
    """Sums over the values (channels of pixels) of N sequences, by class of pixels (axis of 3: `CLASSES`) and step.

    Squared errors of the best sample, the average sample and the mean of the samples; each class has its own best sample, the
    one with the least error over the whole horizon.
    """

    samples: int  # S
    count: Array  # (N, 3, T) values
    best: Array  # (N, 3, T)
    sample: Array  # (N, 3, T)
    mean: Array  # (N, 3, T)
    crps: Array  # (N, 3, T) fair CRPS
    variance: Array  # (N, 3, T) of the samples, unbiased; 0 for one sample
    ranks: Array  # (3, T, S + 1) of all sequences

    def scores(self, pixels: PixelClass, sequences: Rows = _EVERY) -> PixelScores:
        """Scores of one class of pixels, over some of the sequences."""
        index = CLASSES.index(pixels)
        names = ("count", "best", "sample", "mean", "crps", "variance")
        count, best, sample, mean, crps, variance = (getattr(self, name)[sequences, index].sum(0) for name in names)
        everything = self.count[sequences, CLASSES.index("all")].sum(0)
        return PixelScores(
            share=MeanOfValues(count, everything),
            best=MeanOfValues(best, count),
            sample=MeanOfValues(sample, count),
            mean=MeanOfValues(mean, count),
            crps=MeanOfValues(crps, count),
            variance=MeanOfValues(variance, count),
            samples=self.samples,
            ranks=self.ranks[index] if self.samples > 1 and sequences is _EVERY else None,
        )


@dataclass(frozen=True)
class MeanOfValues:
    """Means of values, from their sums and numbers per step (T,). NaN where there are no values."""

    total: Array  # sums of the values
    count: Array  # numbers of values

    @property
    def overall(self) -> float:
        """Over the whole horizon."""
        return float(self.total.sum() / self.count.sum()) if self.count.sum() else float("nan")

    @property
    def per_step(self) -> list[float]:
        """Per lead."""
        return [float(total / count) if count else float("nan") for total, count in zip(self.total, self.count, strict=True)]


@dataclass(frozen=True)
class PixelScores:
    """Means over the values of one class of pixels; each over the whole horizon and per step."""

    share: MeanOfValues  # of these pixels among all
    best: MeanOfValues  # mean squared errors
    sample: MeanOfValues
    mean: MeanOfValues
    crps: MeanOfValues
    variance: MeanOfValues
    samples: int
    ranks: Array | None  # (T, S + 1); None for one sample, or for a part of the sequences

    @property
    def spread_skill(self) -> float:
        """Over the whole horizon; NaN for one sample."""
        return self._ratio(self.variance.overall, self.mean.overall)

    @property
    def spread_skill_per_step(self) -> list[float]:
        """Per lead; NaN for one sample."""
        return [self._ratio(*step) for step in zip(self.variance.per_step, self.mean.per_step, strict=True)]

    def _ratio(self, variance: float, squared_error: float) -> float:
        return spread_skill_ratio(variance, squared_error, self.samples) if self.samples > 1 else float("nan")

    def coverage(self, probability: float | None = None) -> float:
        """Share of the truths in the central interval, by default that of `interval_probability`; NaN without ranks."""
        return float("nan") if self.ranks is None else coverage(self.ranks.sum(0), probability or self.interval)

    @property
    def coverage_per_step(self) -> list[float]:
        """As `coverage`, per lead."""
        return [] if self.ranks is None else [coverage(step, self.interval) for step in self.ranks]

    @property
    def interval(self) -> float:
        """Probability of the interval whose coverage is measured."""
        return interval_probability(self.samples)

    @property
    def rank_frequencies(self) -> Array | None:
        """(S + 1,) shares of the ranks, over the whole horizon; None without ranks or pixels."""
        if self.ranks is None or not self.ranks.sum():
            return None
        frequencies: Array = self.ranks.sum(0) / self.ranks.sum()
        return frequencies


def moving_pixels(target: Tensor, last: Tensor) -> Tensor:
    """(T, C, H, W) true frames and the last observed one (C, H, W) -> (T, H, W), whether each pixel moves."""
    return ((target - last).abs() > MOVED).any(-3)


@dataclass
class PixelAccumulator:
    """Adds up `PixelSums`, one sequence after the other: nothing of a frame's size is kept."""

    _sums: dict[str, list[Array]] = field(default_factory=dict)
    _ranks: Array | None = None

    def add(self, samples: Tensor, target: Tensor, last: Tensor) -> None:
        """Add one sequence: samples (S, T, C, H, W), true frames (T, C, H, W), the last observed frame (C, H, W)."""
        moving = moving_pixels(target, last)[:, None].expand_as(target)
        members, truth, mask = (values.cpu().numpy() for values in (samples, target, moving))
        steps = [
            _step_sums(members[:, step].reshape(len(members), -1), truth[step].ravel(), mask[step].ravel())
            for step in range(len(truth))
        ]
        sums = {name: np.stack([step[name] for step in steps], axis=1) for name in steps[0]}  # (3, T, ...)
        errors, ranks = sums.pop("errors"), sums.pop("ranks")  # (3, T, S), (3, T, S + 1)
        best = errors.sum(1).argmin(1)
        sums["best"] = np.stack([of_class[:, sample] for of_class, sample in zip(errors, best, strict=True)])
        sums["sample"] = errors.mean(2)
        for name, value in sums.items():
            self._sums.setdefault(name, []).append(value)
        self._ranks = ranks if self._ranks is None else self._ranks + ranks

    def sums(self) -> PixelSums:
        """What was added so far, at least one sequence."""
        assert self._ranks is not None
        arrays = {name: np.stack(values) for name, values in self._sums.items()}
        return PixelSums(samples=self._ranks.shape[2] - 1, ranks=self._ranks, **arrays)


def _step_sums(members: NDArray[np.float32], truth: NDArray[np.float32], moving: NDArray[np.bool_]) -> dict[str, Array]:
    """Sums of one frame by class of pixels: members (S, V), truth (V,), moving (V,)."""
    classes = np.stack([np.ones_like(moving), moving, ~moving])
    weights = classes.astype(np.float64)
    mean = members.mean(0, dtype=np.float64)
    spread = members.var(0, dtype=np.float64, ddof=1) if len(members) > 1 else np.zeros_like(mean)
    return {
        "count": weights.sum(1),
        "errors": weights @ np.square(members - truth, dtype=np.float64).T,
        "mean": weights @ (mean - truth) ** 2,
        "crps": weights @ fair_crps(members, truth),
        "variance": weights @ spread,
        "ranks": rank_histogram(members, truth, classes),
    }


def psnr_or_nan(squared_error: float) -> float:
    """PSNR in dB of a mean squared error; NaN of NaN, where there are no such pixels."""
    return psnr(squared_error) if squared_error == squared_error else squared_error
