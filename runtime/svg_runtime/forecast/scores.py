"""Scores earlier forecasts of a frame when the frame itself arrives."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from svg_common.metrics import mean_squared_error, psnr
from svg_runtime.forecast.noise import FloatArray

if TYPE_CHECKING:
    from svg_runtime.forecast.post_processing import PostProcessor

_MEMORY_LIMIT = 256 << 20  # bytes of forecasts whose frames are still to come, see `drop_oldest`


@dataclass(frozen=True)
class Moments:
    """Mean and variance over samples.

    Attributes:
        mean: (..., H, W, C).
        variance: (..., H, W, C), divided by the number of samples.
    """

    mean: FloatArray
    variance: FloatArray


def variance_of_error(variance: FloatArray, samples: int) -> FloatArray:
    """Squared error that the mean of samples is expected to have, if the truth is like one more of them.

    Args:
        variance: over the samples, divided by their number; 0 of one sample, which says nothing of a spread: it stays 0.
        samples: how many there are. Of fewer, the variance is smaller, and the error of their mean larger.
    """
    return variance if samples == 1 else variance * np.float32((samples + 1) / (samples - 1))


@dataclass(frozen=True)
class ForecastScore:
    """Mean squared errors of one earlier forecast of the frame that has now been observed; frames are in [0, 1].

    Attributes:
        lead: frames from the forecast to this frame: 1 ... horizon.
        mse_best: of the closest sample.
        mse_mean: of the mean over samples.
        mse_model: of the mean before post-processing; without it the same.
        mse_repeat: of repeating the last frame before the forecast.
    """

    lead: int
    mse_best: float
    mse_mean: float
    mse_model: float
    mse_repeat: float

    @property
    def psnr_best(self) -> float:
        """PSNR in dB of the closest sample, at most 120."""
        return psnr(self.mse_best)

    @property
    def psnr_mean(self) -> float:
        """PSNR in dB of the mean over samples, at most 120."""
        return psnr(self.mse_mean)

    @property
    def psnr_model(self) -> float:
        """PSNR in dB of the mean over samples before post-processing, at most 120."""
        return psnr(self.mse_model)

    @property
    def psnr_repeat(self) -> float:
        """PSNR in dB of repeating the last frame before the forecast, at most 120."""
        return psnr(self.mse_repeat)


@dataclass(frozen=True)
class EarlierForecast:
    """What one earlier forecast said about the frame that has now been observed.

    Attributes:
        lead: frames from the forecast to this frame: 1 ... horizon.
        samples: (S, H, W, C) in [0, 1].
        before: of the samples before post-processing; None if they were not post-processed.
    """

    lead: int
    samples: FloatArray
    before: Moments | None = None

    def by_model(self) -> Moments:
        """Mean and variance over the samples as the model made them."""
        return self.before or Moments(self.mean(), self.variance())

    def mean(self) -> FloatArray:
        """(H, W, C) mean over samples."""
        mean: FloatArray = self.samples.mean(0)
        return mean

    def variance(self) -> FloatArray:
        """(H, W, C) variance over samples; zero for a deterministic model, whose samples are equal."""
        variance: FloatArray = self.samples.var(0)
        return variance


@dataclass(frozen=True)
class _Pending:
    """A forecast whose frames are still to come."""

    last_frame: FloatArray  # before it, (H, W, C)
    futures: FloatArray  # (S, T, H, W, C)
    before: Moments | None  # (T, H, W, C), of the samples before post-processing

    @property
    def nbytes(self) -> int:
        return self.futures.nbytes + (0 if self.before is None else self.before.mean.nbytes + self.before.variance.nbytes)

    def score(self, lead: int, truth: FloatArray) -> ForecastScore:
        samples = self.futures[:, lead - 1]
        mse_mean = mean_squared_error(samples.mean(0), truth)
        return ForecastScore(
            lead=lead,
            mse_best=min(mean_squared_error(sample, truth) for sample in samples),
            mse_mean=mse_mean,
            mse_model=mse_mean if self.before is None else mean_squared_error(self.before.mean[lead - 1], truth),
            mse_repeat=mean_squared_error(self.last_frame, truth),
        )


class ForecastMemory:
    """Forecasts of one camera whose frames are still to come.

    Args:
        post_process: correct forecasts by what came after earlier ones, see `PostProcessor`.
    """

    def __init__(self, post_process: bool = False) -> None:
        self._pending: dict[int, _Pending] = {}  # by the index of the last frame before it, oldest first
        self._post: PostProcessor | None = None
        if post_process:
            from svg_runtime.forecast.post_processing import PostProcessor  # only here: it needs OpenCV, forecasts do not

            self._post = PostProcessor()

    def remember(self, index: int, last_frame: FloatArray, futures: FloatArray) -> FloatArray:
        """Keep the futures (S, T, H, W, C) forecast after frame `index`; a newer forecast at the same frame replaces it.

        Returns:
            The futures, post-processed if they are to be.
        """
        before = None
        if self._post is not None:
            before, futures = self._post.correct(index, last_frame, futures)
        self._pending[index] = _Pending(last_frame, futures.copy(), before)
        drop_oldest(self._pending)
        return futures

    def score(self, index: int, frame: FloatArray) -> tuple[ForecastScore, ...]:
        """Scores of all forecasts that covered frame `index`, shortest lead first. Nothing changes."""
        return tuple(
            entry.score(index - at, frame)
            for at, entry in reversed(self._pending.items())
            if 0 < index - at <= entry.futures.shape[1]
        )

    def observe(self, index: int, frame: FloatArray) -> None:
        """Learn from frame `index`, and drop what reaches no further. To be called with every frame that counts, in order."""
        if self._post is not None:
            self._post.observe(index, frame)
        self._pending = {at: entry for at, entry in self._pending.items() if index - at < entry.futures.shape[1]}

    def latest(self, index: int) -> EarlierForecast | None:
        """What the latest forecast before frame `index` said about that frame; None if none reached it."""
        for at, entry in reversed(self._pending.items()):
            step = index - at - 1
            if 0 <= step < entry.futures.shape[1]:
                before = entry.before and Moments(entry.before.mean[step], entry.before.variance[step])
                return EarlierForecast(step + 1, entry.futures[:, step], before)
        return None

    def clear(self) -> None:
        """Drop all forecasts."""
        self._pending.clear()
        if self._post is not None:
            self._post.reset()


def drop_oldest(pending: dict[int, Any]) -> None:
    """Drop the oldest of several pending forecasts, each with `nbytes`, while together they take too much memory."""
    while len(pending) > 1 and sum(each.nbytes for each in pending.values()) > _MEMORY_LIMIT:
        del pending[next(iter(pending))]
