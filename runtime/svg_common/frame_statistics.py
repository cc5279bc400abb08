"""What frames look like, in a few numbers. A bundle has those of its training data; svg-live compares a camera with them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

Statistic = Literal["brightness", "contrast", "motion", "moving", "colour"]
STATISTICS: tuple[Statistic, ...] = get_args(Statistic)
MOVED = 0.06  # a pixel moves if a channel differs by more from another frame: 16 grey levels, above noise and compression
_DIGITS = 5  # of what is stored: far below what can be seen, and the same on every processor

_Share = Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)  # as all of the manifest


class Distribution(_Frozen):
    """One statistic over sequences of frames."""

    mean: _Share
    std: _Share
    p01: _Share  # quantiles: 1 %, 50 %, 99 %
    p50: _Share
    p99: _Share

    @model_validator(mode="after")
    def _in_order(self) -> Distribution:
        if not self.p01 <= self.p50 <= self.p99:
            raise ValueError(f"quantiles are not in order: {self.p01}, {self.p50}, {self.p99}")
        return self

    @classmethod
    def of(cls, values: NDArray[Any]) -> Distribution:
        """The distribution of (N,) values, one for each sequence."""
        numbers = values.mean(), values.std(), *np.quantile(values, (0.01, 0.5, 0.99))
        mean, std, p01, p50, p99 = (round(float(number), _DIGITS) for number in numbers)
        return cls(mean=mean, std=std, p01=p01, p50=p50, p99=p99)


class TrainingData(_Frozen):
    """What a model was trained on, in words and numbers."""

    description: str = Field(min_length=1, max_length=1000)  # what it shows, if that was said; and what svg-train logs of it
    sequences: int = Field(ge=1)  # that were measured: a sample
    frames: int = Field(ge=2)  # of each sequence
    statistics: dict[Statistic, Distribution]


def frame_statistics(frame: NDArray[np.float32], before: NDArray[np.float32] | None) -> dict[Statistic, float]:
    """Measure one frame, and what changed since the one before.

    Args:
        frame: (H, W, C) in [0, 1], at the model's size.
        before: the frame one model step earlier; None: the first of a clip, which has no motion.

    Returns:
        brightness: mean over pixels; contrast: their standard deviation; motion: mean absolute difference from the frame
        before; moving: share of pixels of which a channel differs by more than `MOVED`; colour: mean difference between the
        largest and the smallest channel, for frames in colour only.
    """
    measured: dict[Statistic, float] = {"brightness": float(frame.mean()), "contrast": float(frame.mean(axis=2).std())}
    if before is not None:
        change = np.abs(frame - before)
        measured["motion"] = float(change.mean())
        measured["moving"] = float((change.max(axis=2) > MOVED).mean())
    if frame.shape[2] > 1:
        measured["colour"] = float((frame.max(axis=2) - frame.min(axis=2)).mean())
    return measured


def mean_statistics(frames: Iterable[Mapping[Statistic, float]]) -> dict[Statistic, float]:
    """Average over frames, each statistic over those that have it."""
    listed = list(frames)
    values = {name: [frame[name] for frame in listed if name in frame] for name in STATISTICS}
    return {name: float(np.mean(of)) for name, of in values.items() if of}


def sequence_statistics(frames: NDArray[np.uint8]) -> dict[Statistic, float]:
    """Average over a sequence (T, H, W, C) of uint8 frames, one model step apart."""
    unit = frames.astype(np.float32) / np.float32(255)
    return mean_statistics(frame_statistics(frame, unit[t - 1] if t else None) for t, frame in enumerate(unit))
