"""The quality gate: forecasts of held-out sequences in fp32 and in a reduced precision, same noise, compared in pairs.

The loop amplifies rounding, so a sample soon differs from the one in fp32. What counts is whether it is worse: the best and the
average sample, compared with the truth, and the diversity of the samples must not fall.

Where the training data are not at hand, drawn frames show what needs no truth: divergence from fp32 and diversity.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from svg_common.command import require_modules
from svg_common.errors import ExitCode, MissingExtraError, SvgError, UsageError, first_line
from svg_common.metrics import psnr
from svg_common.progress import ProgressListener
from svg_eval.data import check_unseen, open_held_out
from svg_eval.measure import Settings, batches, frame_metrics, sample_metrics
from svg_eval.models import BundleModel, EvaluatedModel, checkpoint_info
from svg_eval.statistics import Array, best_sample, estimate
from svg_export.drawn_frames import DrawnSequences
from svg_runtime.backends import open_backend
from svg_runtime.bundle.manifest import DivergenceReport, Manifest, Metric, PairedDifference, Precision, QualityReport
from svg_runtime.bundle.reader import Bundle
from svg_runtime.errors import BackendMissingError, ForecastError
from svg_runtime.forecast.forecaster import Forecaster
from svg_train.checkpoint import Checkpoint
from svg_train.data import SequenceDataset
from svg_train.data.spread_sequences import spread_over_clips

_LOG = logging.getLogger(__name__)
SEQUENCES = 64  # on the embedded model they detect a loss of 0.03 dB, in seconds
MIN_SEQUENCES = 16  # with fewer, nearly everything would pass
SAMPLES, HORIZON, SEED = 10, 10, 0
CONFIDENCE = 0.95  # of `statistics.estimate`

MIN_FIRST_STEP_PSNR_DB = 45.0  # before the loop amplifies anything; an error of 1.4 of 255 grey levels
# Losses below these are invisible, even if certain, such as 0.1 % of the diversity. 0.05 dB is 1 % of the squared error;
# papers compare methods by tenths of a dB, and by the second or third decimal of SSIM.
TOLERANCE: Mapping[str, float] = {"psnr": 0.05, "ssim": 0.001}
# The rounding error of 8-bit frames: no screen shows less. Without this limit, a still scene that fp32 forecasts at 100 dB
# and a reduced precision at 80 dB would outweigh all others.
VISIBLE_PSNR_DB = psnr((1 / 255) ** 2 / 12)  # 58.9 dB
DIVERSITY_TOLERANCE = 0.01  # relative to its fp32 value, which depends on the model

# The engine that a variant is measured on: the one that its users will run.
_ENGINES: dict[Precision, tuple[str, str | None]] = {"fp32": ("cpu", None), "fp16": ("cpu", None), "bf16": ("openvino", None)}
_COMPUTED_BY = {"fp16": "onnxruntime CPUExecutionProvider:fp16 graphs", "bf16": "openvino CPU:bf16"}


class PrecisionError(SvgError):
    """A reduced precision loses visible quality; nothing was published."""

    exit_code = ExitCode.PARITY_FAILED


@dataclass(frozen=True)
class HeldOut:
    """Sequences of n_past + HORIZON frames that training did not see."""

    name: str  # of the data set
    data: SequenceDataset
    sequences: int = field(default_factory=lambda: SEQUENCES)

    @property
    def settings(self) -> Settings:
        """The forecasts to compare."""
        return Settings(min(self.sequences, len(self.data)), SAMPLES, HORIZON, SEED)


@dataclass(frozen=True)
class DrawnFrames:
    """What the gate compares on where there are no held-out sequences: frames without a truth."""

    data: SequenceDataset
    measure_with: str  # the command that measures the quality against the truth

    @property
    def settings(self) -> Settings:
        """The forecasts to compare."""
        return Settings(len(self.data), SAMPLES, HORIZON, SEED)


class NoHeldOutError(SvgError):
    """The held-out sequences cannot be opened."""


class _NoHeldOutUsageError(NoHeldOutError, UsageError):
    """As above, because of the options or of what they lack."""


def load_held_out(
    checkpoint: Checkpoint, given: Mapping[str, Any], fp16: bool, bf16: bool, model_options: str = ""
) -> HeldOut | DrawnFrames | None:
    """Open the sequences for the quality gate, before any work is done; None if no reduced precision is requested.

    Drawn frames replace those of the training where they are not on this machine and the user names no others.

    Args:
        checkpoint: of the model.
        given: as for `find_held_out`.
        fp16: whether fp16 is requested.
        bf16: whether bf16 is requested.
        model_options: of the command, that make another model of the checkpoint's file, without paths: what measures this
            model later needs them too.

    Raises:
        SvgError: no usable held-out sequences, or this machine does not support bf16.
    """
    if bf16:
        _check_bf16_available()
    if not (fp16 or bf16):
        return None
    if any(value is not None for value in given.values()):
        return find_held_out(checkpoint, given)
    try:
        return find_held_out(checkpoint, given)
    except NoHeldOutError as error:
        drawn = _draw_frames(checkpoint, f"{' --fp16' if fp16 else ''}{' --bf16' if bf16 else ''}{model_options}")
        _LOG.info("note: %s", first_line(error.__cause__ or error))
        _LOG.info("  so reduced precision is compared with fp32 on %s, and not with the truth", drawn.data.description)
        return drawn


def _draw_frames(checkpoint: Checkpoint, options: str) -> DrawnFrames:
    model = checkpoint.config.model
    command = f"svg-export CHECKPOINT{options} --data {checkpoint.config.data.name} --data-root DIR"
    return DrawnFrames(DrawnSequences(model, MIN_SEQUENCES, model.n_past + HORIZON), command)


def find_held_out(checkpoint: Checkpoint, given: Mapping[str, Any]) -> HeldOut:
    """Of the held-out split of the data that the checkpoint was trained on, or of the user's data, what the gate measures.

    Of videos they are as evenly as possible from all clips.

    Args:
        checkpoint: has data set, frame size and frame interval.
        given: the user's [data] settings; None means not given.

    Raises:
        SvgError: it cannot be opened, or is too small.
    """
    info = checkpoint_info("", checkpoint, "")
    name = given.get("name") or info.data["name"]
    needs = "reduced precision must pass a quality gate on held-out sequences"
    advice = "give others with --data and --data-root, or remove --fp16 and --bf16"
    try:
        data = open_held_out(info, given, None, HORIZON)
    except MissingExtraError:
        raise
    except SvgError as error:
        kind = _NoHeldOutUsageError if isinstance(error, UsageError) else NoHeldOutError
        raise kind(f"{needs}, but those of '{name}' cannot be opened: {error}\n  {advice}") from error
    if len(data) < MIN_SEQUENCES:
        raise SvgError(
            f"{needs}: expected at least {MIN_SEQUENCES} of {info.n_past + HORIZON} frames, got {len(data)} from "
            f"{data.description}\n  {advice}"
        )
    check_unseen([info], data)
    return HeldOut(name, spread_over_clips(data, SEQUENCES))


def _check_bf16_available() -> None:
    require_modules("--bf16", "openvino", "openvino")
    from svg_runtime.backends.openvino.device import choose_placement, shared_core

    try:
        choose_placement(shared_core(), "CPU:bf16")
    except (BackendMissingError, ImportError, OSError, RuntimeError) as error:  # not supported, or OpenVINO does not load
        raise BackendMissingError(
            f"--bf16 has to run the model in bf16, which this machine cannot: {error}\n"
            "  export on a processor with bf16 (x86 with AVX-512 BF16 or AMX), or remove --bf16"
        ) from error


def attach_quality_reports(
    folder: Path, manifest: Manifest, held_out: HeldOut | DrawnFrames, progress: ProgressListener
) -> Manifest:
    """`manifest` with a quality report of every reduced precision, measured as the Forecaster runs it by default.

    Args:
        folder: of the graphs.
        manifest: with the variants to measure, which need no report yet.
        held_out: what to forecast; on drawn frames the reports are about the divergence from fp32 alone.
        progress: receives the progress.

    Raises:
        PrecisionError: a variant does not pass; all failures of all variants are listed.
    """
    precisions: list[Precision] = [name for name in manifest.variants if name != "fp32"]
    reports = _run_quality_gate(Bundle(folder, manifest), precisions, held_out, progress)
    name_of_report = "quality" if isinstance(held_out, HeldOut) else "divergence"
    variants = {name: old.model_copy(update={name_of_report: reports.get(name)}) for name, old in manifest.variants.items()}
    return manifest.model_copy(update={"variants": variants})


def _run_quality_gate(
    bundle: Bundle, precisions: list[Precision], held_out: HeldOut | DrawnFrames, progress: ProgressListener
) -> dict[Precision, QualityReport] | dict[Precision, DivergenceReport]:
    names: list[Precision] = ["fp32", *precisions]
    count, data = held_out.settings.sequences, held_out.data.description
    kind = "held-out" if isinstance(held_out, HeldOut) else "drawn"
    _LOG.info("%s on %d %s sequences (%s)", ", ".join(names), count, kind, data)
    engines = [_COMPUTED_BY[name] for name in precisions]
    with ExitStack() as stack:
        models = [stack.enter_context(closing(_open(bundle, name))) for name in names]
        if isinstance(held_out, HeldOut):
            quality = dict(zip(precisions, compare(models, engines, held_out, progress), strict=True))
            _refuse_failures(quality, f"reduced precision loses quality on {count} held-out sequences", "")
            return quality
        divergence = dict(zip(precisions, compare_drawn(models, engines, held_out, progress), strict=True))
    _refuse_failures(
        divergence,
        f"reduced precision is too far from fp32 on {count} drawn sequences",
        ", or give held-out sequences with --data and --data-root",
    )
    return divergence


def _refuse_failures(
    reports: Mapping[Precision, QualityReport] | Mapping[Precision, DivergenceReport], problem: str, alternative: str
) -> None:
    failures = [f"{name}: {line}" for name, report in reports.items() for line in report.failures()]
    if failures:
        raise PrecisionError(
            f"{problem}:\n  " + "\n  ".join(failures)
            + f"\n  nothing was published; export without that precision{alternative}"
        )  # fmt: skip


def _open(bundle: Bundle, precision: Precision) -> BundleModel:
    backend = open_backend(bundle, *_ENGINES[precision], precision)
    variant = bundle.variant(precision)
    return BundleModel(
        precision,
        Forecaster(
            bundle=bundle, backend=backend, variant=variant, samples=SAMPLES, horizon=HORIZON, seed=SEED, context="window"
        ),
    )


def compare(
    models: Sequence[EvaluatedModel], computed_by: list[str], held_out: HeldOut, progress: ProgressListener
) -> list[QualityReport]:
    """Quality reports of all `models` except the first, the fp32 model that they are compared with.

    Args:
        models: of the same network.
        computed_by: engine, device and precision of each except the first.
        held_out: what to forecast.
        progress: receives the progress.

    Raises:
        PrecisionError: forecasts that are not finite.
    """
    scores = _score(models, held_out, progress, with_truth=True)
    fp32 = scores[0].quality()
    return [
        _report(held_out=held_out, computed_by=by, fp32=fp32, reduced=own.quality(), drift=own.drift())
        for by, own in zip(computed_by, scores[1:], strict=True)
    ]


def compare_drawn(
    models: Sequence[EvaluatedModel], computed_by: list[str], drawn: DrawnFrames, progress: ProgressListener
) -> list[DivergenceReport]:
    """Divergence reports of all `models` except the first, the fp32 model; arguments and errors: as for `compare`."""
    scores = _score(models, drawn, progress, with_truth=False)
    fp32, *reduced = [own.diversity() for own in scores]
    return [
        DivergenceReport(
            **_run_of(drawn.settings, by, own.drift(), samples=1 if diversity is None else SAMPLES),
            frames=drawn.data.description,
            quality_against_truth="not measured",
            measure_with=drawn.measure_with,
            diversity=None if fp32 is None or diversity is None else _paired("diversity", fp32, diversity),
        )
        for by, own, diversity in zip(computed_by, scores[1:], reduced, strict=True)
    ]


def _score(
    models: Sequence[EvaluatedModel], held_out: HeldOut | DrawnFrames, progress: ProgressListener, with_truth: bool
) -> list[_Scores]:
    """Forecasts of all `models` with the same noise, scored sequence by sequence."""
    scores, n_past, done = [_Scores() for _ in models], models[0].info.n_past, 0
    progress.progress("quality", 0.0)
    with torch.no_grad():
        for sequences, noise, context_noise in batches(models[0], held_out.data, held_out.settings):
            futures = [_finite_forecast(model, sequences[:, :n_past], noise, context_noise) for model in models]
            for own, given in zip(scores, futures, strict=True):
                own.add(given, futures[0], sequences[:, n_past:] if with_truth else None)
            done += len(sequences)
            progress.progress("quality", done / held_out.settings.sequences)
    return scores


def _finite_forecast(model: EvaluatedModel, context: Tensor, noise: Tensor, context_noise: Tensor) -> Tensor:
    try:
        futures = model.forecast(context, noise, context_noise)
    except ForecastError as error:  # a bundle says so itself, a checkpoint does not
        raise _not_finite(model) from error
    if not futures.isfinite().all():
        raise _not_finite(model)
    return futures


def _not_finite(model: EvaluatedModel) -> PrecisionError:
    return PrecisionError(f"{model.info.label} produces forecasts that are not finite\n  nothing was published")


@dataclass
class _Scores:
    """Metrics of one model's forecasts, sequence by sequence."""

    metrics: dict[str, list[Tensor]] = field(default_factory=dict)
    errors: list[Tensor] = field(default_factory=list)  # (B, T) mean squared difference from fp32

    def add(self, futures: Tensor, fp32: Tensor, truth: Tensor | None) -> None:
        """Add futures (B, S, T, C, H, W), those of fp32, and the true frames (B, T, C, H, W), if they are known."""
        self.errors.append((futures - fp32).square().mean(dim=(1, 3, 4, 5)).double())
        for index, samples in enumerate(futures):
            for name, value in (frame_metrics(samples, truth[index]) if truth is not None else sample_metrics(samples)).items():
                self.metrics.setdefault(name, []).append(value.double())

    def drift(self) -> list[float]:
        """PSNR in dB against fp32 per step, from the mean squared error over all sequences."""
        return [psnr(mse) for mse in torch.cat(self.errors).mean(0).tolist()]

    def quality(self) -> dict[Metric, Array]:
        """One value per sequence (N,), means over the horizon."""
        metrics = {name: torch.stack(values).numpy() for name, values in self.metrics.items()}
        psnr_db = metrics["psnr"].clip(max=VISIBLE_PSNR_DB)
        values: dict[Metric, Array] = {
            "psnr_best": best_sample(psnr_db).mean(1),
            "psnr_mean": psnr_db.mean((1, 2)),
            "ssim_best": best_sample(metrics["ssim"]).mean(1),
            "ssim_mean": metrics["ssim"].mean((1, 2)),
        }
        diversity = self.diversity()
        return values if diversity is None else {**values, "diversity": diversity}

    def diversity(self) -> Array | None:
        """One value per sequence (N,), its mean over the horizon; None for a single sample."""
        return torch.stack(self.metrics["distance"]).numpy().mean(1) if "distance" in self.metrics else None


def _report(
    held_out: HeldOut, computed_by: str, fp32: dict[Metric, Array], reduced: dict[Metric, Array], drift: list[float]
) -> QualityReport:
    return QualityReport(
        **_run_of(held_out.settings, computed_by, drift, samples=SAMPLES if "diversity" in fp32 else 1),
        data=held_out.name,
        split="test",
        metrics={name: _paired(name, fp32[name], reduced[name]) for name in fp32},
    )


def _run_of(settings: Settings, computed_by: str, drift: list[float], samples: int) -> dict[str, Any]:
    """What both kinds of report say about the run that they are from."""
    return {
        "sequences": settings.sequences, "samples": samples, "horizon": settings.horizon, "seed": settings.seed,
        "confidence": CONFIDENCE, "computed_by": computed_by,
        "divergence_psnr_db": tuple(round(step, 2) for step in drift), "min_first_step_psnr_db": MIN_FIRST_STEP_PSNR_DB,
    }  # fmt: skip


def _paired(name: Metric, fp32: Array, reduced: Array) -> PairedDifference:
    change, level = estimate(reduced - fp32), float(fp32.mean())
    tolerance = DIVERSITY_TOLERANCE * level if name == "diversity" else TOLERANCE[name.partition("_")[0]]
    values = {
        "fp32": level, "reduced": float(reduced.mean()), "difference": change.mean, "low": change.mean - change.ci95,
        "high": change.mean + change.ci95, "tolerance": tolerance,
    }  # fmt: skip
    return PairedDifference(**{key: round(value, 6) + 0.0 for key, value in values.items()})  # no -0.0


def describe(precision: Precision, report: QualityReport) -> list[str]:
    """The report in two readable lines."""
    metrics = [name for name in get_args(Metric) if name in report.metrics]
    changes = ", ".join(_change(name, report.metrics[name], report.samples) for name in metrics)
    return [
        _describe_divergence(precision, report),
        f"  against the truth, {report.sequences} sequences, paired {report.confidence:.0%} intervals: {changes}",
    ]


def describe_unmeasured(precision: Precision, report: DivergenceReport, measure_with: str) -> list[str]:
    """The report in readable lines: what was compared, what was not measured, and the command that measures it."""
    diversity = "" if report.diversity is None else f", {_change('diversity', report.diversity, report.samples)}"
    return [
        f"{_describe_divergence(precision, report)}{diversity}, on {report.sequences} drawn sequences",
        "  quality against the truth was not measured, because the held-out sequences are not here",
        f"  measure and record it with: {measure_with}",
        f"  until then {precision} is used only where it is chosen by name, as with svg-live --{precision}",
    ]


def _describe_divergence(precision: Precision, report: QualityReport | DivergenceReport) -> str:
    first, last = report.divergence_psnr_db[0], report.divergence_psnr_db[-1]
    return f"{precision} against fp32, {report.computed_by}: {first:.0f} dB at step 1, {last:.0f} dB at step {report.horizon}"


def _change(name: Metric, value: PairedDifference, samples: int) -> str:
    labels = {"psnr_best": f"best of {samples}", "psnr_mean": "average sample", "ssim_best": "best SSIM",
              "ssim_mean": "average SSIM", "diversity": "diversity"}  # fmt: skip
    digits, unit, scale = (2, " dB", 1.0) if name.startswith("psnr") else (4, "", 1.0)
    if name == "diversity":
        digits, unit, scale = 1, "%", 100 / value.fp32 if value.fp32 else 0.0
    change, low, high = (f"{scale * number:+.{digits}f}" for number in (value.difference, value.low, value.high))
    return f"{labels[name]} {change}{unit} ({low} to {high})"
