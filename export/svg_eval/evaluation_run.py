"""One evaluation from the user's request to its measurements: open models and data, check that they fit, measure."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from svg_common.errors import UsageError
from svg_common.printable import one_line
from svg_common.progress import ProgressListener
from svg_common.quantities import count_text
from svg_common.video.sampling import SAME_RATE
from svg_eval.baselines import simple_baselines
from svg_eval.clips import clip_names, without_history
from svg_eval.data import check_unseen, open_held_out
from svg_eval.evaluation_report import Evaluated, Evaluation
from svg_eval.examples import choose_examples
from svg_eval.learned import LearnedMetrics, Lpips, VideoFeatures
from svg_eval.measure import Settings, measure
from svg_eval.models import (
    BundleModel,
    CheckpointModel,
    EvaluatedModel,
    ModelInfo,
    is_checkpoint,
    is_digits_model,
    open_evaluated,
)
from svg_eval.protocols import Protocol, ProtocolName, check_protocol
from svg_runtime.bundle.manifest import Precision
from svg_runtime.bundle.reader import KNOWS_DIGITS_ONLY
from svg_train.data import HistoryDataset, SequenceDataset
from svg_train.data.spread_sequences import spread_over_clips
from svg_train.evaluation_size import forecast_bytes, refuse_beyond_memory

_LOG = logging.getLogger(__name__)
_DIGITS = ("digits", "smmnist")  # data sets of what the embedded model was trained on


@dataclass(frozen=True)
class Request:
    """What to evaluate, and how."""

    model: str | None
    backend: str | None
    device: str | None
    precision: Precision | None
    baselines: tuple[str, ...]  # further models, evaluated in the same run
    protocol: ProtocolName | None
    data: Mapping[str, Any]  # the [data] settings; None means not given
    settings: Settings
    lpips_weights: Path | None = None
    fvd_weights: Path | None = None
    post_process: bool = False  # the model's forecasts, as svg-live does
    refuse_seen: bool = False  # clips that the model was trained on, and no baseline; else a warning


def run(request: Request, progress: ProgressListener) -> Evaluation:
    """Evaluate the model, the user's baselines and the simple ones on the same sequences.

    Args:
        request: what to evaluate, and how.
        progress: receives the progress.

    Raises:
        UsageError: options that contradict each other, the models or the data.
        SvgError: a model, the data or weights are missing or unusable.
    """
    with ExitStack() as stack:
        model = stack.enter_context(closing(_open(request)))
        baselines = [stack.enter_context(closing(_open_baseline(request, name))) for name in request.baselines]
        for baseline in baselines:
            _check_comparable(model.info, baseline.info)
        _tell_apart([(request.model, model), *zip(request.baselines, baselines, strict=True)])
        protocol = check_protocol(request.protocol, model.info.n_past) if request.protocol is not None else None
        settings = request.settings
        if protocol is not None:
            settings = replace(settings, horizon=protocol.horizon, horizon_option=None)
        _refuse_too_large(model, settings)
        data = open_held_out(info=model.info, given=request.data, protocol=protocol, horizon=settings.horizon)
        check_unseen([each.info for each in (model, *baselines)], data, request.refuse_seen, split_options=protocol is None)
        if request.post_process and not isinstance(data, HistoryDataset):
            raise UsageError(
                "--post-process learns from what came before a sequence, which only --data video gives\n"
                "  expected --data video with --data-root; or remove --post-process"
            )
        _log_fewer(data, settings)
        for each in (model, *baselines):
            _note_other_interval(each, data)
        if is_digits_model(request.model, _is_real(request)) and not _is_digits(request, model.info, protocol):
            _LOG.info("note: %s", KNOWS_DIGITS_ONLY)
        data = spread_over_clips(data, settings.sequences, after_others=request.post_process)
        simple = simple_baselines(model.info)
        models: list[EvaluatedModel] = [model, *baselines, *simple.values()]
        count, others = min(settings.sequences, len(data)), 1 + len(baselines)
        shown = choose_examples(data, model.info.n_past, count, settings.examples)
        results = [
            _evaluate(model=entry, data=data, settings=settings, shown=shown, request=request, progress=progress)
            for entry in models
        ]
        return Evaluation(
            model=results[0],
            baselines=tuple(results[1:others]),
            simple=dict(zip(simple, results[others:], strict=True)),
            data=data.description,
            clips=clip_names(data, count),
            settings=settings,
            protocol=protocol,
            without_history=without_history(data, count) if isinstance(data, HistoryDataset) and request.post_process else None,
        )


def _open(request: Request) -> CheckpointModel | BundleModel:
    return open_evaluated(
        model=request.model,
        backend=request.backend,
        device=request.device,
        precision=request.precision,
        samples=request.settings.samples,
        real_video=_is_real(request),
        post_process=request.post_process,
    )


def _open_baseline(request: Request, name: str) -> CheckpointModel | BundleModel:
    """As the model, but for post-processing; options for a bundle mean nothing to a checkpoint, and the reverse."""
    if is_checkpoint(name) != is_checkpoint(request.model):
        return open_evaluated(name, samples=request.settings.samples, real_video=_is_real(request))
    return _open(replace(request, model=name, post_process=False))


def _tell_apart(models: Sequence[tuple[str | None, CheckpointModel | BundleModel]]) -> None:
    """Models of one name are shown as they were given: bundles of several runs are all called ckpt.svgb."""
    labels = Counter(model.info.label for _, model in models)
    for given, model in models:
        if given is not None and labels[model.info.label] > 1:
            model.info = replace(model.info, label=one_line(given))


def _is_real(request: Request) -> bool:
    return request.data.get("name") == "video"


def _refuse_too_large(model: EvaluatedModel, settings: Settings) -> None:
    """Refuse samples of which those of a single sequence do not fit in memory: the model's, or the baselines' on this host."""
    info = model.info
    frame_values = info.channels * info.height * info.width
    of_model = 1 if info.deterministic else settings.samples
    needed = {
        model.device: forecast_bytes(info.n_past, settings.horizon, of_model, frame_values),
        torch.device("cpu"): forecast_bytes(info.n_past, settings.horizon, settings.samples, frame_values),
    }
    samples, frames = count_text(settings.samples, "sample"), count_text(settings.horizon, "frame")
    refuse_beyond_memory(
        needed,
        f"{samples} of {frames} of a sequence, {info.height} x {info.width} pixels each",
        f"a smaller {' or '.join(filter(None, [settings.horizon_option, settings.samples_option]))}",
    )


def _evaluate(
    model: EvaluatedModel,
    data: SequenceDataset,
    settings: Settings,
    shown: list[int],
    request: Request,
    progress: ProgressListener,
) -> Evaluated:
    info, lpips, fvd = model.info, request.lpips_weights, request.fvd_weights
    learned = LearnedMetrics(
        Lpips(lpips, model.device, info.height, info.width) if lpips is not None else None,
        VideoFeatures(fvd, model.device, info.n_past + settings.horizon) if fvd is not None else None,
    )
    measured = measure(model=model, data=data, settings=settings, learned=learned, progress=progress, shown=shown)
    return Evaluated(model.info, measured)


def _check_comparable(model: ModelInfo, baseline: ModelInfo) -> None:
    names = ("n_past", "height", "width", "channels")
    different = [
        f"{name}: {getattr(model, name)} and {getattr(baseline, name)}"
        for name in names
        if getattr(model, name) != getattr(baseline, name)
    ]
    if different:
        raise UsageError(
            f"'{baseline.label}' cannot be compared with '{model.label}': their frames differ ({'; '.join(different)})\n"
            "  expected a baseline for the same frames; train one with the same --n-past, --image-size and --channels"
        )


def _is_digits(request: Request, info: ModelInfo, protocol: Protocol | None) -> bool:
    name = protocol.data["name"] if protocol is not None else request.data.get("name") or info.data["name"]
    return name in _DIGITS


def _log_fewer(data: SequenceDataset, settings: Settings) -> None:
    if len(data) < settings.sequences:
        requested = settings.sequences
        _LOG.info("note: the data has %d held-out sequences, fewer than the requested %d", len(data), requested)


def _note_other_interval(model: CheckpointModel | BundleModel, data: SequenceDataset) -> None:
    """Log that a model is not measured at the time per step of its training, and add that to its description."""
    given, trained = data.frame_interval_s, model.info.frame_interval_s
    if given and trained and abs(given - trained) > SAME_RATE * trained:
        note = f"trained at {trained:.4g} s per step, measured at {given:.4g} s"
        _LOG.info("note: %s: %s", model.info.label, note)
        model.info = replace(model.info, description=f"{model.info.description}; {note}")
