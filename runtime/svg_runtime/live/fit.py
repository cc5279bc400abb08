"""Whether the model fits what it sees: its forecasts against repeating the last frame, frames against its training data."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from svg_common.frame_statistics import Distribution, Statistic, TrainingData, frame_statistics, mean_statistics
from svg_common.metrics import psnr
from svg_runtime.bundle.reader import ADAPT_COMMAND
from svg_runtime.live.events import EventLog

if TYPE_CHECKING:
    from svg_runtime.forecast.scores import ForecastScore

_Value = TypeVar("_Value")

# 1) forecasts: the mean over samples and over all leads, against repeating the last frame
_SCORES_S = 60.0  # the last minute ...
_LEAST_SCORES = 30  # ... and at least so many frames, however long a step is: a single one says little
_ENOUGH_SCORES_S = 10.0  # of it, before anything is said ...
_ENOUGH_SCORES = 10  # ... and at least so many frames
_WORSE_DB = 0.5  # a smaller loss cannot be told from none in so short a time
_INVISIBLE_MSE = 1e-4  # 40 dB: where both errors are smaller, as in a scene where nothing moves, neither is worse

# 2) frames: averages over a window no shorter than the training sequences, so that they scatter no more than those
_FRAMES_S = 5.0
_NEAR = {"brightness": 0.05, "contrast": 0.03, "motion": 0.02, "moving": 0.05, "colour": 0.03}  # always near enough
_FAR = {"brightness": 0.15, "contrast": 0.1, "motion": 0.1, "moving": 0.3, "colour": 0.2}  # always far, however varied the data
_OF_PAIRS: tuple[Statistic, ...] = ("motion", "moving")  # without a lower limit: a scene that rests is not another scene
_GAP_STEPS = 1.5  # of the camera, between two pictures: from here on, one is missing between them

# 3) when it is checked, and how long nothing must be wrong until the model fits again
_CHECK_S = 1.0
_CLEAR_S = 10.0


class _Window(Generic[_Value]):
    """The values of the last steps.

    Args:
        most: steps that they reach back.
        least: values that are kept even if they reach back further, as where frames are dropped.
    """

    def __init__(self, most: int, least: int = 1) -> None:
        self._most = most
        self._least = least
        self._kept: deque[tuple[int, _Value]] = deque()
        self.steps = 0  # that it holds

    @property
    def values(self) -> list[_Value]:
        """The oldest first."""
        return [value for _, value in self._kept]

    @property
    def is_full(self) -> bool:
        """Whether it reaches back as far as it should."""
        return self.steps >= self._most and len(self._kept) >= self._least

    def add(self, value: _Value, steps: int) -> None:
        """Add a value that stands for so many steps, and forget what is older than needed."""
        self._kept.append((steps, value))
        self.steps += steps
        while len(self._kept) > self._least and self.steps - self._kept[0][0] >= self._most:
            self.steps -= self._kept.popleft()[0]


class FitMonitor:
    """Compares frames and forecast scores with what fits the model, and reports a misfit once.

    Args:
        training_data: of the model's bundle; None: not known, so that only forecasts are judged.
        interval_s: seconds per model step.
        events: receives one event when the model does not fit, and one when it fits again.
    """

    def __init__(self, training_data: TrainingData | None, interval_s: float, events: EventLog) -> None:
        self._training_data = training_data
        self._interval_s = interval_s
        self._events = events
        self._least_frames = training_data.frames if training_data else 1
        self._misfit_steps = 0
        self.reset()

    def reset(self) -> None:
        """Another scene begins: what was seen before says nothing about it. For how long the model did not fit is kept."""
        self._errors = _Window[tuple[float, float]](self._steps(_SCORES_S), _LEAST_SCORES)  # mean forecast, repeated frame
        most = max(self._steps(_FRAMES_S), self._least_frames)
        self._frames = _Window[Mapping[Statistic, float]](most, self._least_frames)
        self._before: NDArray[np.float32] | None = None
        self._observed = 0  # steps
        self._good_steps = 0  # in a row
        self.reasons: tuple[str, ...] = ()  # why the model does not fit, the most important first; empty: nothing speaks for it

    def add(self, frame: NDArray[np.float32], scores: Iterable[ForecastScore], steps: int = 1) -> None:
        """Ingest one observed frame.

        Args:
            frame: (H, W, C) in [0, 1].
            scores: of earlier forecasts of it.
            steps: model steps since the picture before it; 1 after a cut.
        """
        self._frames.add(frame_statistics(frame, self._before), steps)
        self._before = frame
        errors = [(score.mse_model, score.mse_repeat) for score in scores]
        if errors:
            forecast, repeat = np.mean(errors, axis=0).tolist()
            self._errors.add((forecast, repeat), steps)
        self._misfit_steps += steps if self.reasons else 0
        every = self._steps(_CHECK_S)
        checked = self._observed // every
        self._observed += steps
        due = self._observed // every - checked
        if due:
            self._check(due * every)

    def cut(self) -> None:
        """Forget the last frame: the next one is not one step after it, so that nothing is known of motion."""
        self._before = None

    def gain_db(self) -> float | None:
        """PSNR of the model's mean forecast above that of repeating the last frame, in dB; None until enough was scored."""
        errors = self._errors.values
        if self._errors.steps < self._steps(_ENOUGH_SCORES_S) or len(errors) < _ENOUGH_SCORES:
            return None
        forecast, repeat = np.mean(errors, axis=0).tolist()
        return psnr(max(forecast, _INVISIBLE_MSE)) - psnr(max(repeat, _INVISIBLE_MSE))

    def statistics(self) -> dict[Statistic, float] | None:
        """Statistics of the newest frames; None until there are enough. Those of motion need as many pairs as in training."""
        if not self._frames.is_full:
            return None
        seen = self._frames.values
        are_few = sum("motion" in frame for frame in seen) < self._least_frames - 1
        return {name: value for name, value in mean_statistics(seen).items() if not (are_few and name in _OF_PAIRS)}

    def summary(self) -> dict[str, Any]:
        """Return the verdict and what it rests on, as plain JSON values; `fits` is None where nothing could be judged."""
        gain, seen = self.gain_db(), self.statistics()
        return {
            "fits": not self.reasons if self._is_judged() else None,
            "reasons": list(self.reasons),
            "misfit_s": round(self._misfit_steps * self._interval_s, 3),
            "gain_db": None if gain is None else round(gain, 3),
            "statistics": None if seen is None else {name: round(value, 4) for name, value in seen.items()},
        }

    def _check(self, steps: int) -> None:
        """Judge now, for so many steps since the last check."""
        far = self._frame_reasons()
        reasons = (*self._forecast_reasons(), *far)
        self._good_steps = 0 if reasons or not self._is_judged() else self._good_steps + steps
        if reasons:
            self.reasons = reasons
            self._events.once("misfit", self._message(are_far=bool(far)))
        elif self._good_steps >= self._steps(_CLEAR_S):
            self.reasons = ()
            if "misfit" in self._events.counts:  # also in an earlier scene
                self._events.once("fits_again", "the model fits these pictures again")

    def _is_judged(self) -> bool:
        """Whether enough was seen to say anything."""
        return self.gain_db() is not None or (self.statistics() is not None and self._training_data is not None)

    def _forecast_reasons(self) -> Iterator[str]:
        gain = self.gain_db()
        if gain is not None and gain < -_WORSE_DB:
            yield f"the model's forecasts are {-gain:.1f} dB worse than repeating the last frame"

    def _frame_reasons(self) -> list[str]:
        """The statistics that are far from those of the training data, the farthest first."""
        seen, trained = self.statistics(), self._training_data
        if seen is None or trained is None:
            return []
        far = []
        for name, expected in trained.statistics.items():
            distance = _distance(name, seen[name], expected) if name in seen else 0.0
            if distance > 1:
                far.append((distance, f"{name} is {seen[name]:.2f}, trained on {expected.p01:.2f} to {expected.p99:.2f}"))
        return [reason for _, reason in sorted(far, reverse=True)]

    def _message(self, are_far: bool) -> str:
        known = self._training_data
        like_trained = f"pictures like those that it was trained on ({known.description})" if known and are_far else None
        expected = like_trained or "forecasts that are closer to what comes"
        return (
            f"the model does not fit these pictures: {'; '.join(self.reasons)}\n"
            f"  expected {expected}\n"
            f"  record this camera, and adapt the camera model to it: {ADAPT_COMMAND}"
        )

    def _steps(self, seconds: float) -> int:
        return max(1, round(seconds / self._interval_s))


def is_after_gap(steps: int, camera_steps: float) -> bool:
    """Whether a picture is missing before one, so that more moved since the last one than in a step of the training data.

    Args:
        steps: model steps since the picture before it.
        camera_steps: model steps between two pictures of this camera. If that is a little more than one, some are two apart.
    """
    return steps > max(_GAP_STEPS * camera_steps, math.ceil(camera_steps - 1e-6))


def _distance(name: Statistic, value: float, expected: Distribution) -> float:
    """How far a value is from 98 % of the training sequences; beyond 1 it is far.

    The unit is the width of their distribution. Where that is narrow, as after training on one video, it is what any camera
    changes by without showing something else. Where it is wide, as of dark and bright clips together, it is limited: a white
    picture would be near, too.
    """
    unit = min(max(expected.p99 - expected.p01, _NEAR[name]), _FAR[name])
    below = 0.0 if name in _OF_PAIRS else expected.p01 - value
    return max(below, value - expected.p99) / unit
