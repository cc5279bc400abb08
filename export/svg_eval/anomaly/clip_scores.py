"""Scores of one labelled clip: its pictures run through a model frame by frame, as svg-live runs them."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

from svg_common.video.clips import Clip
from svg_eval.anomaly.clips import ClipTiming, SeenPicture, seen_pictures
from svg_eval.anomaly.labels import Mask
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.live.alarms.settling import Settling
from svg_runtime.live.empty_pictures import PictureCheck
from svg_runtime.live.events import EventLog
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.live.signals import Signals, SignalValues

SIGNALS = tuple(field.name for field in fields(SignalValues))

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ClipScores:
    """Scores of one clip's frames that the model saw with a full context, one of each kind per frame.

    Pictures that carry nothing have no score, and neither has what was forecast from them.

    Attributes:
        name: of the clip.
        mask: labels of all pictures of the clip, whether the model saw them or not.
        numbers: (n,) of the scored pictures, from 0.
        online: of each signal of svg-live (n,) robust standard deviations above the usual. 0 while it can raise no alarm.
        raw: error and, if the model has it, surprise (n,), before any normalisation.
        empty: (m,) numbers of the pictures that carry nothing: blank or frozen.
    """

    name: str
    mask: Mask
    numbers: NDArray[np.int64]
    online: dict[str, Scores]
    raw: dict[str, Scores]
    empty: NDArray[np.int64]

    @property
    def anomalous(self) -> Mask:
        """(n,) labels of the scored pictures."""
        return self.mask[self.numbers]

    @property
    def per_clip(self) -> dict[str, Scores]:
        """Offline, as papers do: each raw score from 0 to 1 between its smallest and largest of the clip, and their sum."""
        scaled = {name: _from_0_to_1(values) for name, values in self.raw.items()}
        return {**scaled, "combined": np.sum(list(scaled.values()), axis=0)}


def score_clip(forecaster: Forecaster, name: str, clip: Clip, mask: Mask, timing: ClipTiming, notes: EventLog) -> ClipScores:
    """As svg-live sees one video after the other: each is a new scene, and the signals begin anew.

    Args:
        forecaster: is reset first.
        name: of the clip.
        clip: its pictures.
        mask: labels of all of them.
        timing: which of them the model sees.
        notes: gets what is odd about the clip's rate.
    """
    kept: list[tuple[_Seen, dict[str, float]]] = []
    empty: list[int] = []
    watch: _Watch | None = None
    for picture in seen_pictures(clip, timing, notes):
        watch = watch or _Watch(forecaster, picture.step_s)
        seen = watch.add(picture)
        if picture.held:  # over a short gap: one frame with one label
            continue
        if seen.empty:
            empty.append(seen.number)
        raw = _raw_scores(seen.observation) if seen.full_context else None
        if raw is None:
            continue
        if forecaster.surprise_unit is None or "surprise" in raw:
            kept.append((seen, raw))
    raw_names = list(kept[0][1]) if kept else []
    return ClipScores(
        name=name,
        mask=mask,
        numbers=np.array([seen.number for seen, _ in kept], np.int64),
        online={signal: np.array([_value(seen.values, signal) for seen, _ in kept], np.float64) for signal in SIGNALS},
        raw={signal: np.array([raw[signal] for _, raw in kept], np.float64) for signal in raw_names},
        empty=np.array(empty, np.int64),
    )


@dataclass(frozen=True)
class _Seen:
    """One picture that was observed.

    Attributes:
        number: in the clip, from 0.
        observation: of it.
        values: signals that may raise an alarm.
        empty: it carries nothing.
        full_context: it carries something, and so do as many before it as the model needs.
    """

    number: int
    observation: Observation
    values: SignalValues | None
    empty: bool
    full_context: bool


class _Watch:
    """What svg-live does with each picture of a clip."""

    def __init__(self, forecaster: Forecaster, step_s: float) -> None:
        frame = forecaster.manifest.frame
        self._forecaster = forecaster
        self._step_s = step_s
        self._n_past = forecaster.manifest.generation.n_past
        self._preprocessor = Preprocessor(frame.height, frame.width, frame.channels)
        self._check = PictureCheck(step_s, EventLog())
        self._signals = Signals(step_s)
        self._settling = Settling()
        self._steps = 0
        self._since_empty = 0  # pictures
        forecaster.reset()

    def add(self, picture: SeenPicture) -> _Seen:
        """Observe a picture, and forecast from it."""
        self._begin_anew_at_a_cut(picture)
        empty = self._check.add(picture.image, held=picture.held)
        frame = self._preprocessor.fit(picture.image)
        observation = self._forecaster.observe(frame)
        values = self._signals.add(frame, observation, empty)
        settled = self._settling.add(self._steps * self._step_s, empty is not None)
        self._steps += 1
        self._since_empty = 0 if empty is not None else self._since_empty + 1
        if self._forecaster.ready:
            self._forecaster.forecast()
        return _Seen(
            number=picture.number,
            observation=observation,
            values=values if settled else None,
            empty=empty is not None,
            full_context=self._since_empty > self._n_past,
        )

    def _begin_anew_at_a_cut(self, picture: SeenPicture) -> None:
        resized = self._preprocessor.size_changed(picture.image)
        if picture.after_pause or resized:
            self._forecaster.reset()
            self._check.cut()
            self._signals.reset(new_scene=resized)
            self._settling.reset()


def _raw_scores(observation: Observation) -> dict[str, float] | None:
    """Mean squared error of the mean forecast of the next frame, and surprise; None if there was no forecast."""
    errors = [score.mse_mean for score in observation.scores if score.lead == 1]
    if not errors:
        return None
    surprise = {} if observation.raw_surprise is None else {"surprise": observation.raw_surprise}
    return {"error": errors[0], **surprise}


def _value(values: SignalValues | None, signal: str) -> float:
    """A signal that is not known raises no alarm: 0, as usual."""
    value = None if values is None else getattr(values, signal)
    return 0.0 if value is None or not math.isfinite(value) else float(value)


def _from_0_to_1(values: Scores) -> Scores:
    """Liu et al. (CVPR 2018), equation 8, of an error in place of the PSNR."""
    if not len(values):
        return values
    scaled: Scores = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
    return scaled
