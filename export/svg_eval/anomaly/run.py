"""Scores of every labelled frame: a bundle runs frame by frame, as svg-live runs it."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from svg_common.errors import UsageError
from svg_common.path_advice import shell_argument
from svg_common.printable import one_line
from svg_common.progress import ProgressListener
from svg_common.video.clips import Clip
from svg_eval.anomaly.clip_scores import ClipScores, score_clip
from svg_eval.anomaly.clips import ClipTiming, count_pictures, named_clips
from svg_eval.anomaly.labels import Mask, number_steps, read_labels
from svg_eval.anomaly.request import AnomalyRequest
from svg_runtime.bundle.reader import EMBEDDED_MODEL, EMBEDDED_NAMES, KNOWS_DIGITS_ONLY, find_model
from svg_runtime.forecast.forecaster import Forecaster
from svg_runtime.live.events import EventLog
from svg_train.config_options import flag

_DEFAULT_INTERVAL_S = 0.1
_LOG = logging.getLogger(__name__)
_DATA = ("name", "root", "frame_step", "frame_interval_s", "source_fps")  # the [data] settings that say something here


@dataclass(frozen=True)
class AnomalyEvaluation:
    """All scores of a run.

    Attributes:
        first_number: of a clip's first frame, as the labels count.
    """

    model: str
    labels: str
    data: str
    clips: tuple[ClipScores, ...]
    n_past: int
    first_number: int


def run(request: AnomalyRequest, progress: ProgressListener) -> AnomalyEvaluation:
    """Score all clips.

    Raises:
        UsageError: options, labels and clips do not fit each other.
        SvgError: the model or a clip is unusable.
    """
    root, timing = _clips_asked_for(request.data)
    labels = read_labels(request.labels, request.first_number)
    clips = named_clips(root)
    masks = {name: each.mask(count_pictures(clips[name]), clips[name]) for name, each in labels.of(list(clips)).items()}
    _require_both_kinds(masks, request.labels)
    if not request.labels.is_dir():
        _note_gaps(clips)
    with ExitStack() as stack:
        forecaster = stack.enter_context(_open(request))
        manifest = forecaster.manifest
        timing = _timing_of(timing, request.data.get("frame_interval_s") or manifest.generation.frame_interval_s)
        if find_model(request.model, real_video=True) == EMBEDDED_MODEL:
            _LOG.info("note: %s", KNOWS_DIGITS_ONLY)
        notes = EventLog(announce=lambda message: _LOG.info("note: %s", message))
        scores = []
        for number, (name, clip) in enumerate(clips.items()):
            progress.progress("scoring", number / len(clips))
            scores.append(score_clip(forecaster=forecaster, name=name, clip=clip, mask=masks[name], timing=timing, notes=notes))
        return AnomalyEvaluation(
            model=f"{one_line(find_model(request.model, real_video=True).name)}: {forecaster.description}",
            labels=labels.description,
            data=f"{one_line(root)}, {_interval(timing)}",
            clips=tuple(scores),
            n_past=manifest.generation.n_past,
            first_number=labels.first_number,
        )


def _note_gaps(clips: Mapping[str, Clip]) -> None:
    """Ranges may have been written before pictures were lost, or after."""
    for name, clip in clips.items():
        after = [path.name for path, step in zip(clip.paths[1:], number_steps(clip), strict=True) if step > 1]
        if after:
            lost = f"the numbers of its pictures have a gap before '{one_line(after[0])}'"
            _LOG.info("note: clip %s: %s; ranges count the pictures that are there", one_line(name), lost)


def _timing_of(asked: ClipTiming, interval_s: float | None) -> ClipTiming:
    """As svg-live: a model that was trained without a time per step takes every picture of a clip."""
    if interval_s is None:
        return replace(asked, frame_step=asked.frame_step or 1)
    return replace(asked, interval_s=interval_s)


def _interval(timing: ClipTiming) -> str:
    if timing.frame_step == 1:
        return "every picture"
    if timing.frame_step:
        return f"a picture every {timing.frame_step} pictures"
    return f"a picture every {timing.interval_s:g} s, or every picture of slower clips"


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
