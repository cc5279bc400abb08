"""Statistical post-processing: what came after earlier forecasts of this camera corrects the next ones.

For every pixel and lead, as far as it is known from forecasts whose frames have arrived:

    mean'   = last + a (mean - last) + c (usual - last)
    sample' = mean' + b smooth(sample - mean)

where each lead is smoothed while the best of such samples comes nearer to the truth than the best of those as they are.
No value goes far beyond those of the samples, of `last` and of `usual` at its pixel: nothing has other colours.

`last` is the last observed frame, `usual` the mean of those of the last second. Where nothing is known yet, a = 1, c = 0,
b = 1, and nothing is smoothed. Fire, leaves and water move without a direction: there a falls to 0, and the forecast becomes
what is usual.

Regression on what a model forecast is known as model output statistics (Glahn and Lowry 1972); of each member of an ensemble,
as member-by-member post-processing (Van Schaeybroeck and Vannitsem 2015, doi:10.1002/qj.2397).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from svg_runtime.forecast.noise import FloatArray
from svg_runtime.forecast.smoothing import SmoothingTrial, mean_of_channels, smoothed

_MEMORY_LIMIT = 256 << 20  # bytes of forecasts whose frames are still to come; the oldest are dropped first
_TRIAL_LIMIT = 64 << 20  # bytes of the forecast that is made both ways, to find out whether to smooth; larger ones are not

# the sums, by place in their array
_FORECAST2, _CROSS, _USUAL2, _FORECAST_TRUTH, _USUAL_TRUTH, _TRUTH2, _VARIANCE = range(7)


@dataclass(frozen=True)
class Moments:
    """Mean and variance over samples, (..., H, W, C) each."""

    mean: FloatArray
    variance: FloatArray  # divided by the number of samples


@dataclass(frozen=True)
class Settings:
    """How fast and how much is learned. The defaults were chosen by `benchmarks/post_processing.py`, see the documentation.

    Sums are of squared changes of pixels in [0, 1], the mean of their channels, over the forecasts that are remembered.

    Attributes:
        memory_steps: forecasts that are remembered: older ones count less and less.
        usual_steps: frames in what is usual.
        blocks: blocks along the shorter side of the frame: sums are those of the block around each pixel.
        prior_forecast: sum that speaks for a = 1.
        prior_usual: sum that speaks for c = 0.
        prior_spread: sum that speaks for b = 1.
        least_spread: smallest b.
        most_spread: largest b.
        margin: how far a value may go beyond those of the samples, of the last frame and of what is usual at its pixel.
        smooth_weight: of the mean over a block, beside the deviation itself, where deviations are smoothed; 0: they never are.
    """

    memory_steps: int = 100
    usual_steps: int = 10
    blocks: int = 8
    prior_forecast: float = 0.02
    prior_usual: float = 0.5
    prior_spread: float = 0.03
    least_spread: float = 0.3
    most_spread: float = 3.0
    margin: float = 0.15
    smooth_weight: float = 4.0


@dataclass(frozen=True)
class _Pending:
    """A forecast whose frames are still to come. Changes are those from the last frame before it."""

    index: int  # of the last frame before it
    last: FloatArray  # (H, W, C)
    forecast: FloatArray  # (T, H, W, C) change of the mean, as the model forecast it
    usual: FloatArray  # (H, W, C) change to what is usual
    variance: FloatArray | None  # (T, H, W) that the truth has around the mean of so many samples, if the model is right

    @property
    def nbytes(self) -> int:
        return self.forecast.nbytes + (0 if self.variance is None else self.variance.nbytes)


_DEFAULT = Settings()


class PostProcessor:
    """Corrects the forecasts of one camera. `observe` every frame, `correct` every forecast."""

    def __init__(self, settings: Settings = _DEFAULT) -> None:
        from cv2 import blur  # not at the top: programs that do not post-process need no OpenCV

        self._block_mean = blur
        self._settings = settings
        self._trial = SmoothingTrial(settings.memory_steps, _TRIAL_LIMIT)
        self.reset()

    def reset(self) -> None:
        """Forget all that was learned."""
        self._count = 0  # frames in what is usual
        self._usual: FloatArray | None = None
        self._pending: deque[_Pending] = deque()
        self._sums: FloatArray | None = None  # (leads, 7, H, W)
        self._trial.reset()

    def observe(self, index: int, frame: FloatArray) -> None:
        """Learn from frame `index`, (H, W, C) in [0, 1], what earlier forecasts of it were worth."""
        # 1) compare it with every forecast that reached it
        self._pending = deque(each for each in self._pending if each.index < index <= each.index + len(each.forecast))
        for each in self._pending:
            self._learn(each, index - each.index - 1, frame - each.last)
        self._trial.observe(index, frame)
        # 2) follow what is usual
        if self._usual is None:
            self._usual = np.zeros_like(frame)
        rate = np.float32(1 / min(self._count + 1, self._settings.usual_steps))
        self._usual = self._usual + rate * (frame - self._usual)
        self._count += 1

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
        assert self._usual is not None
        samples, horizon = futures.shape[:2]
        # 1) mean and deviations of the samples
        mean = futures.mean(0)
        deviations = futures - mean
        before = Moments(mean, np.einsum("sthwc,sthwc->thwc", deviations, deviations) / np.float32(samples))
        variance = mean_of_channels(before.variance)
        pending = _Pending(
            index=index,
            last=last,
            forecast=mean - last,
            usual=self._usual - last,
            variance=None if samples == 1 else variance * np.float32((samples + 1) / (samples - 1)),
        )
        # 2) correct them by what was learned so far
        a, c, b = self._coefficients(horizon, *last.shape[:2])
        centre = last + a[..., None] * pending.forecast + c[..., None] * pending.usual
        scale = np.repeat(b[..., None], futures.shape[-1], axis=-1)  # multiplies five times as fast as a broadcast axis
        lowest, highest = self._limits(futures, last)

        def place(each: FloatArray) -> FloatArray:
            placed: FloatArray = each * scale
            placed += centre
            np.clip(placed, lowest, highest, out=placed)
            return placed

        corrected = self._smooth_or_not(index, deviations, variance, place)
        # 3) remember what the model said, to learn from it
        self._remember(pending)
        return before, corrected

    def _limits(self, futures: FloatArray, last: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Keep colours that are there: samples that are moved apart would get others."""
        assert self._usual is not None
        margin = np.float32(self._settings.margin)
        lowest = np.minimum(futures.min(0), np.minimum(last, self._usual)) - margin
        highest = np.maximum(futures.max(0), np.maximum(last, self._usual)) + margin
        return np.maximum(lowest, 0), np.minimum(highest, 1)

    def _smooth_or_not(
        self, index: int, deviations: FloatArray, variance: FloatArray, place: Callable[[FloatArray], FloatArray]
    ) -> FloatArray:
        """Samples from their deviations, smooth at leads where that is better; this forecast may be one that finds it out."""
        horizon, height, width = deviations.shape[1:4]
        due = bool(self._settings.smooth_weight) and self._trial.is_due(deviations)
        leads = self._trial.leads(horizon)
        if not due and not leads.any():
            return place(deviations)
        smooth = smoothed(deviations, variance, self._side(height, width), self._settings.smooth_weight)
        if due:
            self._trial.begin(index, (place(deviations), place(smooth)))
        smooth[:, ~leads] = deviations[:, ~leads]
        return place(smooth)

    def _side(self, height: int, width: int) -> int:
        return max(1, min(height, width) // self._settings.blocks)

    def _learn(self, pending: _Pending, lead: int, truth: FloatArray) -> None:
        """Add the change that was observed to the sums of its lead, and forget a little of what was in them."""
        assert self._sums is not None
        forecast, usual = pending.forecast[lead], pending.usual
        pairs = (forecast, forecast), (forecast, usual), (usual, usual), (forecast, truth), (usual, truth), (truth, truth)
        products = [mean_of_channels(one * other) for one, other in pairs]
        # one sample says nothing of a spread: then the model's error counts as expected
        variance = mean_of_channels((truth - forecast) ** 2) if pending.variance is None else pending.variance[lead]
        self._sums[lead] *= np.float32(1 - 1 / self._settings.memory_steps)
        self._sums[lead] += np.stack([*products, variance])

    def _coefficients(self, horizon: int, height: int, width: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(T, H, W) each: a and c by ridge regression, b by how large errors are beside the variance of the samples."""
        known = 0 if self._sums is None else len(self._sums)
        if self._sums is None or known < horizon:
            more = np.zeros((horizon - known, 7, height, width), np.float32)
            self._sums = more if self._sums is None else np.concatenate([self._sums, more])
        chosen = self._settings
        side = self._side(height, width)
        blurred = [[self._block_mean(plane, (side, side)) for plane in lead] for lead in self._sums[:horizon]]
        sums = np.asarray(blurred, np.float32).swapaxes(0, 1)
        # 1) the normal equations of a and c, with their priors
        forecast2, usual2 = sums[_FORECAST2] + np.float32(chosen.prior_forecast), sums[_USUAL2] + np.float32(chosen.prior_usual)
        forecast_truth, cross = sums[_FORECAST_TRUTH] + np.float32(chosen.prior_forecast), sums[_CROSS]
        determinant = forecast2 * usual2 - cross**2
        a = np.clip((forecast_truth * usual2 - sums[_USUAL_TRUTH] * cross) / determinant, 0, 1)
        c = np.clip((sums[_USUAL_TRUTH] * forecast2 - forecast_truth * cross) / determinant, 0, 1)
        # 2) the squared errors that remain with them, beside the variance
        explained = 2 * (a * sums[_FORECAST_TRUTH] + c * sums[_USUAL_TRUTH])
        errors = sums[_TRUTH2] - explained + a**2 * sums[_FORECAST2] + 2 * a * c * sums[_CROSS] + c**2 * sums[_USUAL2]
        prior = np.float32(chosen.prior_spread)
        b = np.sqrt((np.maximum(errors, 0) + prior) / (sums[_VARIANCE] + prior))
        b = np.clip(b, chosen.least_spread, chosen.most_spread)
        return np.asarray(a), np.asarray(c), np.asarray(b)

    def _remember(self, pending: _Pending) -> None:
        if self._pending and self._pending[-1].index == pending.index:
            self._pending.pop()
        self._pending.append(pending)
        while len(self._pending) > 1 and sum(each.nbytes for each in self._pending) > _MEMORY_LIMIT:
            self._pending.popleft()
