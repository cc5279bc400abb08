"""How unusual a frame is: surprise, forecast error, motion, change of scene, camera motion, in robust standard deviations.

    raw value -> logarithm -> (value - median) / scale, both of the last minutes -> z

Surprise depends on the model, errors on the scene: neither has a threshold that holds for two cameras. Relative to their own
last minutes they have. `Signals.add` is called for every observed frame; it takes two milliseconds.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_runtime.forecast.forecaster import Observation
from svg_runtime.forecast.scores import variance_of_error
from svg_runtime.live.camera_motion import CameraMotion
from svg_runtime.live.empty_pictures import EmptyPicture
from svg_runtime.live.lasting import LastingMean
from svg_runtime.live.motion import Motion
from svg_runtime.live.place_ratio import PlaceRatio

_Floats = NDArray[np.float32]

# 1) what is usual
_WINDOW_S = 300.0  # location and scale are those of the last minutes
_WARM_UP_S = 3.0  # of values before the first z ...
_WARM_UP_STEPS = 10  # ... and at least so many of them, however long a step is
_REFRESH_S = 1.0  # how often location and scale are computed
_CLIP_Z = 4.0  # larger values count as this: an anomaly does not become usual at once
_PRIOR_SCALE = 1.0  # of the logarithm, and for which share of the window's values it counts: a few values say little
_PRIOR_SHARE = 1 / 30  # ten seconds of five minutes
_USUAL_STEPS = 600  # frames, at most, of which the mean distance is what is usual
_LEAST_VALUES = 30  # that the window holds, however long a step is: the last one alone is not what is usual

# 2) forecast errors
_NOISE = 1e-4  # error variance that no camera is below: 40 dB
_SAMPLES = 8  # whose variance counts as it is beside _NOISE and the usual error; that of fewer is too small for their error

# 3) the scene
_CELLS = 16  # cells along the shorter side of the frame
_SCENE_MEMORY_S = 30.0  # how long a place remembers what it looks like: light changes
_SCENE_NOISE = 4e-4  # variance that a place has at least: 34 dB
_SCENE_CLIP = 3.0  # standard deviations: what differs more counts as this, and does not become usual at once

# 4) the camera: it either stands or moves, so less has to be learned, and small motions of either are alike
_STILL = 8e-4  # of the shorter side: a twentieth of a pixel of 64
_MOTION_SCALES = 0.25, 0.5  # the least one, and one instead of _PRIOR_SCALE

# 5) what lasts
_LASTING = 1.5  # a mean over a second varies less than single values do
_LASTING_MOST = 1.0  # above the present value: an alarm must not go on long after what raised it


@dataclass(frozen=True)
class SignalValues:
    """Robust standard deviations above what is usual; below 0: less than usual. None: not known (yet)."""

    surprise: float | None  # of the model
    error: float | None  # of its forecast, against what it predicted and what is usual at the place
    motion: float | None  # how fast things move, against how fast they usually do at their place
    scene: float | None  # how far the picture is from what it usually looks like
    camera_motion: float | None  # how far the whole picture has moved since the last frame
    combined: float | None  # the largest of those that are known, or what it has been for a second


class UsualRange:
    """Running median and upper scale of positive values, by their logarithm, in the last minutes.

    These are at least the last 30 values, and nothing is known before the tenth: steps of time-lapse last minutes.

    The scale is the larger of 1.48 times the median absolute deviation and what the 90 % quantile says (a normal distribution
    has it 1.28 standard deviations above the median): where something passes now and then, that is usual.

    Args:
        interval_s: seconds per model step.
        scales: of the logarithm: the least one, and the one that is mixed in as a thirtieth of the window's values.
    """

    def __init__(self, interval_s: float, scales: tuple[float, float] = (0.0, _PRIOR_SCALE)) -> None:
        self._min_scale = scales[0]
        self._prior_scale = scales[1]
        self._warm_up = max(_WARM_UP_STEPS, _steps(_WARM_UP_S, interval_s))
        self._refresh = _steps(_REFRESH_S, interval_s)
        self._ring = np.zeros(max(_LEAST_VALUES, _steps(_WINDOW_S, interval_s)), np.float32)
        self._prior = len(self._ring) * _PRIOR_SHARE
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self._count = 0  # steps
        self._location = 0.0
        self._scale = 0.0

    def z(self, value: float | None, steps: int = 1) -> float | None:
        """How far `value` is above the usual, of which it is then a part; None without one, and while too little is known.

        It stands for all model `steps` since the value before it.
        """
        if value is None:
            return None
        x = math.log(max(value, 1e-12))
        known = self._count >= self._warm_up
        z = (x - self._location) / self._scale if known else None
        limit = self._location + _CLIP_Z * self._scale
        before = self._count
        self._count += steps
        self._ring[np.arange(before, self._count) % len(self._ring)] = min(x, limit) if known else x
        if before < self._warm_up <= self._count or before // self._refresh < self._count // self._refresh:
            self._measure()
        return z

    def _measure(self) -> None:
        kept = self._ring[: min(self._count, len(self._ring))]
        median, q90 = np.quantile(kept, (0.5, 0.9)).tolist()
        deviation = 1.4826 * float(np.median(np.abs(kept - median)))
        scale = max(deviation, (q90 - median) / 1.2816)
        weight = len(kept) / (len(kept) + self._prior)
        self._location = median
        self._scale = max(self._min_scale, math.sqrt(weight * scale**2 + (1 - weight) * self._prior_scale**2))


class SceneChange:
    """How far the frame is from what each place usually looks like: an error that stays for as long as the change does.

    A forecast starts from the last frames, so a covered lens surprises it once. Per cell, mean and variance are tracked with
    clipped updates. The result is exp(mean over cells of log(1 + squared deviation / variance)): how widely the picture has
    changed counts more than how much.

    Args:
        interval_s: seconds per model step.
    """

    def __init__(self, interval_s: float) -> None:
        self._rate = interval_s / _SCENE_MEMORY_S
        self.reset()

    def reset(self) -> None:
        """Forget the scene."""
        self._mean: _Floats | None = None
        self._count = 0

    def of(self, frame: _Floats, steps: int = 1) -> float | None:
        """The change of one frame (H, W, C), so many model `steps` after the one before; None for the first of all."""
        cell = max(1, min(frame.shape[:2]) // _CELLS)
        size = frame.shape[1] // cell, frame.shape[0] // cell
        resized = np.asarray(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), np.float32)
        cells = resized.reshape(size[1], size[0], -1)
        if self._mean is None or self._mean.shape != cells.shape:
            self._mean = cells
            self._variance = np.zeros(cells.shape[:2], np.float32)
            self._count = 1
            return None
        deviation = cells - self._mean
        squared = (deviation**2).mean(axis=2)
        variance = self._variance + np.float32(_SCENE_NOISE)
        change = math.exp(float(np.log1p(squared / variance).mean()))
        self._count += 1
        rate = np.float32(min(1.0, max(steps * self._rate, 1 / self._count)))  # 1: the last frame alone counts
        limit = (_SCENE_CLIP * np.sqrt(variance))[:, :, None]
        self._mean = self._mean + rate * np.clip(deviation, -limit, limit)
        self._variance += rate * (np.minimum(squared, _SCENE_CLIP**2 * variance) - self._variance)
        return change


class Signals:
    """Signals of a run, frame by frame.

    Combined is the largest of them, and at least 0: calm does not make up for a forecast that failed, nor easy forecasts for
    another scene. They depend on each other: what moves unexpectedly is surprising, is forecast badly and is fast. So that they
    agree says little, and a sum of them would raise more false alarms. That something lasts says more: 1.5 times its mean of
    about the last second counts if that is larger, up to 1 above the largest of now.

    Args:
        interval_s: seconds per model step.
    """

    def __init__(self, interval_s: float) -> None:
        self._errors = PlaceRatio(interval_s, _NOISE)
        self._speeds = Motion(interval_s)
        self._change = SceneChange(interval_s)
        self._shift = CameraMotion()
        self._count = 0
        self._usual_steps = 1.0  # the mean, of the last frames
        self._surprise = UsualRange(interval_s)
        self._error = UsualRange(interval_s)
        self._motion = UsualRange(interval_s)
        self._scene = UsualRange(interval_s)
        self._camera_motion = UsualRange(interval_s, _MOTION_SCALES)
        self._lasting = LastingMean(interval_s)

    def add(
        self, frame: _Floats, observation: Observation, empty: EmptyPicture | None = None, steps: int = 1
    ) -> SignalValues | None:
        """Signals of an observed frame; None while nothing is known.

        A picture that carries nothing has none and is not learned. The next frame is not compared with one before it.

        Args:
            frame: (H, W, C) in [0, 1].
            observation: of this frame.
            empty: why its picture carries nothing.
            steps: model steps since the picture before it; 1 after a cut.
        """
        if empty is not None:
            self._new_context()
            return None
        self._count += 1
        self._usual_steps += (steps - self._usual_steps) / min(self._count, _USUAL_STEPS)
        surprise = self._surprise.z(observation.raw_surprise, steps)
        error = self._error.z(self._error_ratio(frame, observation, steps), steps)
        motion = self._motion.z(self._speeds.of(frame, steps, self._usual_steps), steps)
        scene = self._scene.z(self._change.of(frame, steps), steps)
        shift = self._shift.of(frame)
        camera_motion = self._camera_motion.z(None if shift is None else 1 + shift / steps * self._usual_steps / _STILL, steps)
        known = [z for z in (surprise, error, motion, scene, camera_motion) if z is not None]
        if not known:
            return None
        largest = max(0.0, *known)
        lasting = _LASTING * self._lasting.add(largest, steps)
        combined = max(largest, min(lasting, largest + _LASTING_MOST))
        return SignalValues(
            surprise=surprise, error=error, motion=motion, scene=scene, camera_motion=camera_motion, combined=combined
        )

    def reset(self, new_scene: bool = False) -> None:
        """The context starts anew: after a pause the same camera, with `new_scene` another one, which has to be learned."""
        self._new_context()
        if new_scene:
            for part in (self._errors, self._speeds, self._change):
                part.reset()
            for usual in (self._surprise, self._error, self._motion, self._scene, self._camera_motion):
                usual.reset()

    def _error_ratio(self, frame: _Floats, observation: Observation, steps: int) -> float | None:
        """Error of the mean forecast over the variance that was to be expected; None without a forecast of this frame.

        Expected is what the model predicted, and what its forecasts missed at this place before, which a deterministic model
        has alone. What post-processing learns is not a change of the scene: it has no part in it.
        """
        if observation.expected is None:
            return None
        by_model = observation.expected.by_model()
        one, samples = np.float32(1), len(observation.expected.samples)
        predicted = by_model.variance.mean(axis=2) * variance_of_error(one, samples) / variance_of_error(one, _SAMPLES)
        return self._errors.of(((frame - by_model.mean) ** 2).mean(axis=2), predicted, steps)

    def _new_context(self) -> None:
        """The next frame does not follow the last one."""
        self._shift.reset()
        self._speeds.skip()
        self._lasting.reset()


def _steps(seconds: float, interval_s: float) -> int:
    return max(1, round(seconds / interval_s))
