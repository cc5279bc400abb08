"""Scores earlier forecasts of a frame when the frame itself arrives."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from svg_common.metrics import mean_squared_error, psnr
from svg_runtime.forecast.noise import FloatArray

_MEMORY_LIMIT = 256 << 20  # bytes of remembered forecasts; the oldest are dropped first


@dataclass(frozen=True)
class ForecastScore:
    """Mean squared errors of one earlier forecast of the frame that has now been observed; frames are in [0, 1]."""

    lead: int  # frames from the forecast to this frame: 1 ... horizon
    mse_best: float  # of the closest sample
    mse_mean: float  # of the mean over samples
    mse_repeat: float  # of repeating the last frame before the forecast

    @property
    def psnr_best(self) -> float:
        """PSNR in dB of the closest sample, at most 120."""
        return psnr(self.mse_best)

    @property
    def psnr_mean(self) -> float:
        """PSNR in dB of the mean over samples, at most 120."""
        return psnr(self.mse_mean)

    @property
    def psnr_repeat(self) -> float:
        """PSNR in dB of repeating the last frame before the forecast, at most 120."""
        return psnr(self.mse_repeat)


@dataclass(frozen=True)
class EarlierForecast:
    """What one earlier forecast said about the frame that has now been observed."""

    lead: int  # frames from the forecast to this frame: 1 ... horizon
    samples: FloatArray  # (S, H, W, C) in [0, 1]

    def mean(self) -> FloatArray:
        """(H, W, C) mean over samples."""
        mean: FloatArray = self.samples.mean(0)
        return mean

    def variance(self) -> FloatArray:
        """(H, W, C) variance over samples; zero for a deterministic model, whose samples are equal."""
        variance: FloatArray = self.samples.var(0)
        return variance


class ForecastMemory:
    """Forecasts whose frames are still to come."""

    def __init__(self) -> None:
        self._pending: deque[tuple[int, FloatArray, FloatArray]] = deque()  # frame index, last frame, futures

    def remember(self, index: int, last_frame: FloatArray, futures: FloatArray) -> None:
        """Keep the futures (S, T, H, W, C) forecast after frame `index`; a newer forecast at the same frame replaces it."""
        if self._pending and self._pending[-1][0] == index:
            self._pending.pop()
        self._pending.append((index, last_frame, futures.copy()))
        while len(self._pending) > 1 and sum(entry[2].nbytes for entry in self._pending) > _MEMORY_LIMIT:
            self._pending.popleft()

    def score(self, index: int, frame: FloatArray) -> tuple[ForecastScore, ...]:
        """Scores of all forecasts that covered frame `index`, shortest lead first."""
        self._pending = deque(entry for entry in self._pending if index - entry[0] < entry[2].shape[1] + 1)
        return tuple(
            _score(index - made, last_frame, futures[:, index - made - 1], frame)
            for made, last_frame, futures in reversed(self._pending)
            if made < index
        )

    def latest(self, index: int) -> EarlierForecast | None:
        """What the latest forecast before frame `index` said about that frame; None if none reached it."""
        for made, _, futures in reversed(self._pending):
            if made < index <= made + futures.shape[1]:
                return EarlierForecast(index - made, futures[:, index - made - 1])
        return None

    def clear(self) -> None:
        """Drop all forecasts."""
        self._pending.clear()


def _score(lead: int, last_frame: FloatArray, samples: FloatArray, truth: FloatArray) -> ForecastScore:
    return ForecastScore(
        lead=lead,
        mse_best=min(mean_squared_error(sample, truth) for sample in samples),
        mse_mean=mean_squared_error(samples.mean(0), truth),
        mse_repeat=mean_squared_error(last_frame, truth),
    )
