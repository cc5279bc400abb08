"""Scores of every labelled frame: a bundle runs frame by frame, as svg-live runs it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import UsageError
from svg_common.frames import fit_frame
from svg_common.path_advice import shell_argument
from svg_common.printable import printable
from svg_common.progress import ProgressListener
from svg_common.video.clips import Clip
from svg_eval.anomaly.clips import ClipTiming, SeenPicture, count_pictures, named_clips, seen_pictures
from svg_eval.anomaly.labels import Mask, read_labels
from svg_eval.anomaly.request import AnomalyRequest
from svg_runtime.bundle.reader import EMBEDDED_NAMES, find_model
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.live.signals import Signals, SignalValues
from svg_train.config_options import flag

SIGNALS = tuple(field.name for field in fields(SignalValues))
_DEFAULT_INTERVAL_S = 0.1
_DATA = ("name", "root", "frame_step", "frame_interval_s", "source_fps")  # the [data] settings that say something here

Scores = NDArray[np.float64]


@dataclass(frozen=True)
class ClipScores:
    """Scores of one clip's frames that the model saw with a full context, one of each kind per frame.

    Attributes:
        name: of the clip.
        mask: labels of all pictures of the clip, whether the model saw them or not.
        numbers: (n,) of the scored pictures, from 0.
        online: of each signal of svg-live (n,) robust standard deviations above the usual. 0 while it is not known.
        raw: error and, if the model has it, surprise (n,), before any normalisation.
    """

    name: str
    mask: Mask
    numbers: NDArray[np.int64]
    online: dict[str, Scores]
    raw: dict[str, Scores]

    @property
    def anomalous(self) -> Mask:
        """(n,) labels of the scored pictures."""
        return self.mask[self.numbers]

    @property
    def per_clip(self) -> dict[str, Scores]:
        """Offline, as papers do: each raw score from 0 to 1 between its smallest and largest of the clip, and their sum."""
        scaled = {name: _from_0_to_1(values) for name, values in self.raw.items()}
        return {**scaled, "combined": np.sum(list(scaled.values()), axis=0)}


@dataclass(frozen=True)
class AnomalyEvaluation:
    """All scores of a run."""

    model: str
    labels: str
    data: str
    clips: tuple[ClipScores, ...]
    n_past: int


def run(request: AnomalyRequest, progress: ProgressListener) -> AnomalyEvaluation:
    """Score all clips.

    Raises:
        UsageError: options, labels and clips do not fit each other.
        SvgError: the model or a clip is unusable.
    """
    root, timing = _clips_asked_for(request.data)
    labels = read_labels(request.labels, request.first_number)
    clips = named_clips(root)
    masks = {name: each.mask(count_pictures(clips[name])) for name, each in labels.of(list(clips)).items()}
    _require_both_kinds(masks, request.labels)
    with ExitStack() as stack:
        forecaster = stack.enter_context(_open(request))
        manifest = forecaster.manifest
        interval_s = request.data.get("frame_interval_s") or manifest.generation.frame_interval_s or _DEFAULT_INTERVAL_S
        timing = ClipTiming(interval_s, timing.frame_step, timing.source_fps)
        scores = []
        for number, (name, clip) in enumerate(clips.items()):
            progress.progress("scoring", number / len(clips))
            scores.append(_score_clip(forecaster=forecaster, name=name, clip=clip, mask=masks[name], timing=timing))
        return AnomalyEvaluation(
            model=f"{printable(find_model(request.model, real_video=True).name)}: {forecaster.description}",
            labels=labels.description,
            data=f"{printable(root)}, a picture every {_interval(timing)}",
            clips=tuple(scores),
            n_past=manifest.generation.n_past,
        )


def _interval(timing: ClipTiming) -> str:
    return f"{timing.frame_step} pictures" if timing.frame_step else f"{timing.interval_s:g} s"


def _clips_asked_for(data: Mapping[str, Any]) -> tuple[Path, ClipTiming]:
    given = {name for name, value in data.items() if value is not None}
    if data.get("name") != "video" or data.get("root") is None:
        raise UsageError("--anomaly needs the labelled clips\n  expected --data video --data-root CLIPS")
    if given - set(_DATA):
        names = ", ".join(sorted(flag("data", name) for name in given - set(_DATA)))
        raise UsageError(f"{names} has no effect with --anomaly, which reads every clip as a whole\n  remove it")
    if data.get("frame_step") and data.get("frame_interval_s"):
        raise UsageError("--frame-step and --frame-interval-s were both given\n  remove one of the two")
    return Path(data["root"]), ClipTiming(_DEFAULT_INTERVAL_S, data.get("frame_step"), data.get("source_fps"))


def _require_both_kinds(masks: Mapping[str, Mask], path: Path) -> None:
    anomalous, frames = sum(int(mask.sum()) for mask in masks.values()), sum(len(mask) for mask in masks.values())
    if not 0 < anomalous < frames:
        kind = "no" if anomalous == 0 else "every"
        raise UsageError(f"labels '{path}': {kind} frame is anomalous\n  a ROC area needs anomalous frames and normal ones")


def _open(request: AnomalyRequest) -> Forecaster:
    if request.model is not None and request.model not in EMBEDDED_NAMES and Path(request.model).is_file():
        raise UsageError(
            f"'{request.model}' is a checkpoint: --anomaly runs bundles, frame by frame as svg-live does\n"
            f"  export it first: svg-export {shell_argument(Path(request.model))}"
        )
    backend = request.backend or "auto"
    return Forecaster.open(
        find_model(request.model, real_video=True),
        backend=backend,
        device=request.device,
        precision=request.precision,
        samples=request.samples,
        horizon=request.horizon,
        seed=request.seed,
        calibrate="no" if backend == "auto" else None,  # so that results do not depend on what was fast at the moment
    )


def _score_clip(forecaster: Forecaster, name: str, clip: Clip, mask: Mask, timing: ClipTiming) -> ClipScores:
    """As svg-live sees one video after the other: each is a new scene, and the signals begin anew."""
    kept: list[tuple[int, SignalValues | None, dict[str, float]]] = []
    for picture, observation, values in _observed(forecaster, clip, timing):
        raw = _raw_scores(observation)
        if raw is not None and (forecaster.surprise_unit is None or "surprise" in raw):
            kept.append((picture.number, values, raw))
    numbers = np.array([number for number, _, _ in kept], np.int64)
    raw_names = list(kept[0][2]) if kept else []
    return ClipScores(
        name=name,
        mask=mask,
        numbers=numbers,
        online={signal: np.array([_value(values, signal) for _, values, _ in kept], np.float64) for signal in SIGNALS},
        raw={signal: np.array([raw[signal] for _, _, raw in kept], np.float64) for signal in raw_names},
    )


def _observed(
    forecaster: Forecaster, clip: Clip, timing: ClipTiming
) -> Iterator[tuple[SeenPicture, Observation, SignalValues | None]]:
    frame = forecaster.manifest.frame
    signals: Signals | None = None
    forecaster.reset()
    for picture in seen_pictures(clip, timing):
        signals = signals or Signals(picture.step_s)
        if picture.after_pause:
            forecaster.reset()
        fitted = fit_frame(picture.image, frame.height, frame.width, frame.channels).astype(np.float32) / np.float32(255)
        observation = forecaster.observe(fitted)
        yield picture, observation, signals.add(fitted, observation)
        if forecaster.ready:
            forecaster.forecast()


def _raw_scores(observation: Observation) -> dict[str, float] | None:
    """Mean squared error of the mean forecast of the next frame, and surprise; None if there was no forecast."""
    errors = [score.mse_mean for score in observation.scores if score.lead == 1]
    if not errors:
        return None
    surprise = {} if observation.surprise is None else {"surprise": observation.surprise}
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
