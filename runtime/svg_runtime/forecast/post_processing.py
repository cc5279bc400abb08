"""Statistical post-processing: what came after earlier forecasts of this camera corrects the next ones.

For every pixel and lead, as far as it is known from forecasts whose frames have arrived:

    mean'   = last + a (mean - last) + c (usual - last) + d (flow - last) + e (background - last)
    sample' = mean' + b f (sample - mean)

where each sample has its own a, c, d and e, which differ from those of the mean as much as single forecasts would have needed
it, and its own f: most stay near the mean, a few go far. No value goes far beyond those of the samples, of `last`, `usual`,
`flow` and `background` at its pixel: nothing has other colours.

`last` is the last observed frame, `usual` a running mean of about the last second, `background` of five, `flow` the last
one carried on along its optical flow. Where nothing is known yet, a = 1, c = d = e = 0, for all samples, and b = 1. Fire,
leaves and water move without a direction: there a and d fall to 0, and the forecast becomes what is usual. What glides on is
where its flow takes it, and what it covered comes back. After a cut nothing of the old scene is gone by, see `observe`.

Regression on what a model forecast is known as model output statistics (Glahn and Lowry 1972); of each member of an ensemble,
as member-by-member post-processing (Van Schaeybroeck and Vannitsem 2015, doi:10.1002/qj.2397).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

import cv2
import numpy as np

from svg_runtime.forecast.amplitudes import stretch
from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.optical_flow import CarriedOn
from svg_runtime.forecast.planes import mean_around, mean_of_channels, to_channels
from svg_runtime.forecast.random_coefficients import RandomCoefficients, draws
from svg_runtime.forecast.scores import Moments, drop_oldest, variance_of_error

_NEAR = 3  # pixels, over which variance is compared
_TINY = np.float32(1e-7)  # variance; what is smaller counts as none

# A cut: so much of the frame changes by more than so many times what is usual there, and so much beyond. Real video without
# cuts, also of cameras that move, stays below 0.4 of the frame; where one clip follows another, 96 % are found.
_CUT_SHARE, _CUT_TIMES, _CUT_LEAST = 0.5, 3, 0.06
_CUT_STEPS = 50  # frames in what is usual

_REGRESSORS = 4  # changes from the last frame, each with a coefficient: to the forecast, what is usual, flow and background
_PAIRS = tuple(combinations_with_replacement(range(_REGRESSORS), 2))
_NUMBER_OF_PAIR = np.array([[_PAIRS.index((min(i, j), max(i, j))) for j in range(_REGRESSORS)] for i in range(_REGRESSORS)])
_WITH_TRUTH = len(_PAIRS)  # the sums: products of pairs, of each regressor with the truth, ...
_TRUTH2 = _WITH_TRUTH + _REGRESSORS  # ... of the truth with itself, ...
_VARIANCE = _TRUTH2 + 1  # ... and the variance of samples
_SUMS = _VARIANCE + 1
_PRODUCTS = (*_PAIRS, *((each, _REGRESSORS) for each in range(_REGRESSORS + 1)))  # of the regressors and the truth after them


@dataclass(frozen=True)
class Settings:
    """How fast and how much is learned. The defaults were chosen by `benchmarks/post_processing.py`, see the documentation.

    Sums are of squared changes of pixels in [0, 1], the mean of their channels, over the forecasts that are remembered.

    Attributes:
        memory_steps: forecasts that are remembered: older ones count less and less.
        usual_steps: frames in what is usual.
        background_steps: frames in the background.
        blocks: blocks along the shorter side of the frame: sums are those of the block around each pixel.
        prior_forecast: sum that speaks for a = 1.
        prior_usual: sum that speaks for c = 0.
        prior_flow: sum that speaks for d = 0.
        prior_background: sum that speaks for e = 0.
        flow_kept: share of the flow's speed that is left after each step.
        prior_varied: squared change, in each single forecast, that speaks for the coefficients of the mean.
        varied: how far the coefficients of samples differ, compared with those of single forecasts.
        uneven: how unevenly far samples go from their mean: standard deviation of the logarithm.
        prior_spread: sum that speaks for b = 1.
        least_spread: smallest b.
        most_spread: largest b.
        margin: how far a value may go beyond those of the samples and of all that is regressed on, at its pixel.
    """

    memory_steps: int = 100
    usual_steps: int = 10
    background_steps: int = 50
    blocks: int = 8
    prior_forecast: float = 0.02
    prior_usual: float = 0.5
    prior_flow: float = 0.05
    prior_background: float = 0.5
    flow_kept: float = 0.8
    prior_varied: float = 2.5e-5
    varied: float = 1.0
    uneven: float = 0.6
    prior_spread: float = 0.03
    least_spread: float = 0.3
    most_spread: float = 3.0
    margin: float = 0.15


class _RunningMean:
    """Mean of the newest frames, older ones counting less and less; of the first `steps`, of all alike."""

    def __init__(self, steps: int) -> None:
        self._steps = steps
        self._count = 0
        self._mean: FloatArray | None = None

    def add(self, frame: FloatArray) -> None:
        """One more, of always the same shape."""
        self._count = min(self._count + 1, self._steps)
        known = np.zeros_like(frame) if self._mean is None else self._mean
        self._mean = known + np.float32(1 / self._count) * (frame - known)

    @property
    def known(self) -> bool:
        """Whether there is a mean."""
        return self._mean is not None

    @property
    def mean(self) -> FloatArray:
        """Of at least one frame."""
        assert self._mean is not None
        return self._mean


@dataclass(frozen=True)
class _Pending:
    """A forecast whose frames are still to come. Changes are those from the last frame before it."""

    last: FloatArray  # the last frame before it, (H, W, C)
    mean: FloatArray  # (T, H, W, C) as the model forecast it
    usual: FloatArray  # (H, W, C) change to what is usual
    background: FloatArray  # (H, W, C) change to it
    flow: CarriedOn
    variance: FloatArray | None  # (T, H, W) that the truth has around the mean of so many samples, if the model is right

    def regressors(self, lead: int) -> tuple[FloatArray, ...]:
        """(H, W, C) each, at `lead`, from 0 on. The flow's is made anew: kept, it would take as much memory as the forecast."""
        return self.mean[lead] - self.last, self.usual, self.flow.at(lead + 1) - self.last, self.background

    @property
    def nbytes(self) -> int:
        changes = self.mean.nbytes + self.usual.nbytes + self.background.nbytes + self.flow.nbytes
        return changes + (0 if self.variance is None else self.variance.nbytes)


_DEFAULT = Settings()


class PostProcessor:
    """Corrects the forecasts of one camera. `observe` every frame, `correct` every forecast."""

    def __init__(self, settings: Settings = _DEFAULT) -> None:
        self._settings = settings
        self._varied = RandomCoefficients(_REGRESSORS, settings.memory_steps, settings.prior_varied)
        self.reset()

    def reset(self) -> None:
        """Forget all that was learned."""
        self._begin_scene()
        self._changes = _RunningMean(_CUT_STEPS)  # (H, W), absolute, from one frame to the next
        self._sums: FloatArray | None = None  # (leads, _SUMS, H, W)
        self._weights = np.zeros((_REGRESSORS, 0, 0, 0), np.float32)  # of the last forecast
        self._varied.reset()

    def _begin_scene(self) -> None:
        """Forget what the scene looked like, and the forecasts of it; what forecasts are worth at each place stays."""
        self._usual = _RunningMean(self._settings.usual_steps)
        self._background = _RunningMean(self._settings.background_steps)
        self._pending: dict[int, _Pending] = {}  # by the index of the last frame before it, oldest first
        self._last: FloatArray | None = None
        self._before: FloatArray | None = None  # the frame before the last one

    def observe(self, index: int, frame: FloatArray) -> None:
        """Learn from frame `index`, (H, W, C) in [0, 1], what earlier forecasts of it were worth.

        After a cut, or when a light goes on, what was usual before would pull every forecast back to it.
        """
        # 1) begin anew where the scene has changed at once
        if self._last is not None and self._is_cut(mean_of_channels(np.abs(frame - self._last))):
            self._begin_scene()
        # 2) compare it with every forecast that reached it
        self._pending = {at: each for at, each in self._pending.items() if at < index <= at + len(each.mean)}
        for at, each in self._pending.items():
            self._learn(each, index - at - 1, frame - each.last)
        # 3) follow what is usual, and what moves
        self._before = self._last
        self._last = frame
        self._usual.add(frame)
        self._background.add(frame)

    def _is_cut(self, change: FloatArray) -> bool:
        """Whether a change (H, W) is far from the usual ones, of which it then is one: what lasts, such as rain, is no cut."""
        far = self._changes.known and (change > _CUT_TIMES * self._changes.mean + _CUT_LEAST).mean() > _CUT_SHARE
        self._changes.add(change)
        return bool(far)

    def correct(self, index: int, last: FloatArray, futures: FloatArray) -> tuple[Moments, FloatArray]:
        """Correct a forecast. A newer one after the same frame replaces it.

        Args:
            index: of the last frame before it, which was observed.
            last: that frame, (H, W, C).
            futures: (S, T, H, W, C) in [0, 1], as the model forecast them; not changed.

        Returns:
            Mean and variance (T, H, W, C) of the samples as the model forecast them, and the corrected futures (S, T, H, W, C)
            in [0, 1].
        """
        samples, horizon, height, width, channels = futures.shape
        # 1) mean and deviations of the samples, and what else there is to go by
        mean = futures.mean(0)
        deviations = futures - mean
        before = Moments(mean, _mean_square(deviations))
        variance = mean_of_channels(before.variance)
        pending = _Pending(
            last=last,
            mean=mean,
            usual=self._usual.mean - last,
            background=self._background.mean - last,
            flow=CarriedOn(last, last if self._before is None else self._before, self._settings.flow_kept),
            variance=None if samples == 1 else variance_of_error(variance, samples),
        )
        # 2) correct the mean by what was learned so far
        weights, b = self._coefficients(horizon, height, width)
        self._weights = weights
        # 3) and the samples: some go farther than others, all as far as errors do, and each has its own coefficients
        amplitudes = stretch(deviations, self._settings.uneven)
        drawn = draws(amplitudes, self._settings.varied**2 * self._varied.covariance(horizon), index)
        for lead, corrected in enumerate(deviations.swapaxes(0, 1)):
            regressors = np.stack(pending.regressors(lead))
            _scale(corrected, variance[lead], b[lead])
            self._add_limited(corrected, _weighted(drawn[:, lead], regressors), b[lead] ** 2 * variance[lead])
            corrected += last + np.einsum("khwc,khwc->hwc", to_channels(weights[:, lead], channels), regressors)
            lowest, highest = self._colours(futures[:, lead], last, regressors[1:])
            np.maximum(corrected, lowest, out=corrected)
            np.minimum(corrected, highest, out=corrected)
        # 4) remember what the model said, to learn from it
        self._pending[index] = pending
        drop_oldest(self._pending)
        return before, deviations

    def _add_limited(self, deviations: FloatArray, moved: FloatArray, variance: FloatArray) -> None:
        """Add to deviations (S, H, W, C) what other coefficients change, `moved`, as far as it may.

        In no block does that spread samples further, on average, than `variance` (H, W), that of the deviations: where the
        model is sure, and is right to be, nothing is moved because forecasts were wrong elsewhere.
        """
        spread = mean_of_channels(_mean_square(moved))
        allowed, there = (mean_around(each, self._side(*spread.shape)) for each in (variance, spread))
        moved *= to_channels(np.sqrt(np.minimum(allowed / (there + _TINY), 1)), moved.shape[-1])
        deviations += moved

    def _colours(self, samples: FloatArray, last: FloatArray, changes: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Lowest and highest (H, W, C) of what is there, and little farther: samples (S, H, W, C) are moved, also apart."""
        lowest, highest = samples.min(0), samples.max(0)
        for there in (last, *(last + changes)):
            np.minimum(lowest, there, out=lowest)
            np.maximum(highest, there, out=highest)
        margin = np.float32(self._settings.margin)
        return np.maximum(lowest - margin, 0), np.minimum(highest + margin, 1)

    def _side(self, height: int, width: int) -> int:
        return max(1, min(height, width) // self._settings.blocks)

    def _learn(self, pending: _Pending, lead: int, truth: FloatArray) -> None:
        """Add the change that was observed to the sums of its lead, and forget a little of what was in them."""
        assert self._sums is not None
        changes = *pending.regressors(lead), truth
        products = np.empty((_VARIANCE, *truth.shape), np.float32)
        for number, (i, j) in enumerate(_PRODUCTS):
            np.multiply(changes[i], changes[j], out=products[number])
        planes = mean_of_channels(products)
        # one sample says nothing of a spread: then the model's error counts as expected
        variance = mean_of_channels((truth - changes[0]) ** 2) if pending.variance is None else pending.variance[lead]
        self._sums[lead] *= np.float32(1 - 1 / self._settings.memory_steps)
        self._sums[lead, :_VARIANCE] += planes
        self._sums[lead, _VARIANCE] += variance
        if lead < self._weights.shape[1]:
            self._learn_coefficients(lead, planes[:_TRUTH2])

    def _learn_coefficients(self, lead: int, planes: FloatArray) -> None:
        """Add products (14, H, W) of the regressors with each other and with the truth to what is known of the lead."""
        flat = planes.reshape(len(planes), -1)
        means = flat.mean(1).astype(np.float64)
        usually = np.einsum("ijp,jp->i", flat[_NUMBER_OF_PAIR], self._weights[:, lead].reshape(_REGRESSORS, -1)) / flat.shape[1]
        self._varied.learn(lead, means[_NUMBER_OF_PAIR], means[_WITH_TRUTH:] - usually)

    def _coefficients(self, horizon: int, height: int, width: int) -> tuple[FloatArray, FloatArray]:
        """Of the regressors, (4, T, H, W), by ridge regression; b (T, H, W) by how large errors are beside the variance."""
        known = 0 if self._sums is None else len(self._sums)
        if self._sums is None or known < horizon:
            more = np.zeros((horizon - known, _SUMS, height, width), np.float32)
            self._sums = more if self._sums is None else np.concatenate([self._sums, more])
        chosen = self._settings
        side = self._side(height, width)
        sums = np.empty((_SUMS, horizon, height, width), np.float32)
        for number, lead in product(range(_SUMS), range(horizon)):
            cv2.blur(self._sums[lead, number], (side, side), dst=sums[number, lead])
        # 1) the normal equations with their priors: the forecast as it is, and nothing else
        priors = chosen.prior_forecast, chosen.prior_usual, chosen.prior_flow, chosen.prior_background
        matrix = {pair: sums[number] for number, pair in enumerate(_PAIRS)}
        for each, prior in enumerate(priors):
            matrix[each, each] = matrix[each, each] + np.float32(prior)
        right = list(sums[_WITH_TRUTH:_TRUTH2])
        right[0] = right[0] + np.float32(chosen.prior_forecast)
        weights = np.clip(_solved(matrix, right), 0, 1)
        # 2) the squared errors that remain with them, beside the variance
        errors = sums[_TRUTH2] - 2 * (weights * sums[_WITH_TRUTH:_TRUTH2]).sum(0)
        for number, (i, j) in enumerate(_PAIRS):
            errors += (1 if i == j else 2) * weights[i] * weights[j] * sums[number]
        prior = np.float32(chosen.prior_spread)
        b = np.sqrt((np.maximum(errors, 0) + prior) / (sums[_VARIANCE] + prior))
        return weights, np.clip(b, chosen.least_spread, chosen.most_spread)


def _mean_square(samples: FloatArray) -> FloatArray:
    """(S, ...) -> (...) over samples."""
    mean: FloatArray = np.einsum("s...,s...->...", samples, samples)
    mean /= np.float32(len(samples))
    return mean


def _weighted(weights: FloatArray, pictures: FloatArray) -> FloatArray:
    """(S, H, W, C) sums of the pictures (K, H, W, C), each with its weights (S, K). Not by `@`: see `planes`."""
    flat: FloatArray = np.einsum("sk,kp->sp", weights, pictures.reshape(len(pictures), -1))
    return flat.reshape(len(weights), *pictures.shape[1:])


def _scale(deviations: FloatArray, variance: FloatArray, b: FloatArray) -> None:
    """Multiply deviations (S, H, W, C), whose variance is to become b^2 times `variance`, (H, W) each, around each pixel."""
    now = mean_of_channels(_mean_square(deviations))
    was, now = (mean_around(each, _NEAR) for each in (variance, now))
    deviations *= to_channels(b * np.sqrt((was + _TINY) / (now + _TINY)), deviations.shape[-1])


def _solved(matrix: dict[tuple[int, int], FloatArray], right: Sequence[FloatArray]) -> FloatArray:
    """Positive definite equations of every pixel at once, by elimination. `matrix` has the entries (i, j) of i <= j.

    `np.linalg.solve` goes through the pixels one by one, which takes many times as long for so few unknowns.
    """
    rows, left, count = list(right), dict(matrix), len(right)
    for k in range(count):
        for i in range(k + 1, count):
            factor = left[k, i] / left[k, k]
            rows[i] = rows[i] - factor * rows[k]
            for j in range(i, count):
                left[i, j] = left[i, j] - factor * left[k, j]
    result = np.empty((count, *rows[0].shape), np.float32)
    for k in reversed(range(count)):
        known = sum((left[k, j] * result[j] for j in range(k + 1, count)), np.float32(0))
        result[k] = (rows[k] - known) / left[k, k]
    return result
