"""An evaluation as JSON values and as a human-readable table."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from svg_common.metrics import psnr
from svg_eval.measure import Measurements, Settings
from svg_eval.models import ModelInfo
from svg_eval.protocols import Protocol
from svg_eval.statistics import Array, Curve, Estimate, best_of_n, best_sample, curve

_DIGITS = 5  # of metrics in the JSON; more digits would be rounding noise


@dataclass(frozen=True)
class Evaluated:
    """A model with its measurements."""

    info: ModelInfo
    measured: Measurements

    @property
    def samples(self) -> int:
        """Futures per sequence."""
        return int(self.measured.psnr.shape[1])


@dataclass(frozen=True)
class Evaluation:
    """All of a run of svg-eval."""

    model: Evaluated
    repeat: Evaluated
    baselines: tuple[Evaluated, ...]
    data: str  # description of the data set
    settings: Settings
    protocol: Protocol | None

    @property
    def sequences(self) -> int:
        """Sequences that were evaluated; fewer than requested if the data has fewer."""
        return len(self.model.measured.psnr)

    @property
    def entries(self) -> list[Evaluated]:
        """All that was evaluated: the model, the baselines, the repeated last frame."""
        return [self.model, *self.baselines, self.repeat]


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain values. `ci95` is half the width of the interval."""
    model = evaluation.model
    values = {
        "model": {"name": model.info.label, "description": model.info.description},
        "data": evaluation.data, "protocol": evaluation.protocol.title if evaluation.protocol else None,
        "sequences": evaluation.sequences, "samples": model.samples, "n_past": model.info.n_past,
        "horizon": evaluation.settings.horizon, "seed": evaluation.settings.seed,
        **_whole_set(model.measured, evaluation.repeat.measured),
        **_of_model(model.measured),
        "repeat": _of_model(evaluation.repeat.measured),
        "baselines": [
            {"name": baseline.info.label, "description": baseline.info.description, "samples": baseline.samples,
             **_of_model(baseline.measured)} for baseline in evaluation.baselines
        ],
        "published": [asdict(row) for row in evaluation.protocol.published] if evaluation.protocol else [],
        "seconds": {"forecast": model.measured.forecast_s, "metrics": model.measured.metrics_s},
    }  # fmt: skip
    rounded: dict[str, Any] = _rounded(values)
    return rounded


def _whole_set(measured: Measurements, repeat: Measurements) -> dict[str, Any]:
    """PSNR from the mean squared error over all sequences, which a single easy sequence cannot raise."""
    best, mean, last = best_sample(measured.mse, lower_is_better=True), measured.mean_mse, repeat.mse[:, 0]
    return {
        "psnr_best": psnr(best.mean()), "psnr_sample": psnr(measured.mse.mean()), "psnr_mean": psnr(mean.mean()),
        "psnr_repeat": psnr(last.mean()), "gain": psnr(best.mean()) - psnr(last.mean()),
        "psnr_best_per_step": _db(best), "psnr_sample_per_step": _db(measured.mse.mean(1)), "psnr_mean_per_step": _db(mean),
        "psnr_repeat_per_step": _db(last), "spread": measured.spread.mean(), "spread_per_step": measured.spread.mean(0),
    }  # fmt: skip


def _of_model(measured: Measurements) -> dict[str, Any]:
    """Metrics that the model, its baselines and the repeated frame have in common."""
    values: dict[str, Any] = {
        "best": {"psnr": _curve(best_sample(measured.psnr)), "ssim": _curve(best_sample(measured.ssim))},
        "average_sample": {"psnr": _curve(measured.psnr.mean(1)), "ssim": _curve(measured.ssim.mean(1))},
        "best_of_n": {"psnr": _by_count(measured.psnr), "ssim": _by_count(measured.ssim)},
        "diversity": None if measured.distance is None else {
            "std_per_step": measured.spread.mean(0), "pairwise_rms_per_step": measured.distance.mean(0),
        },
        "lpips": None if measured.lpips is None else {
            "best": _curve(best_sample(measured.lpips, lower_is_better=True)), "average_sample": _curve(measured.lpips.mean(1)),
        },
        "fvd": measured.fvd,
    }  # fmt: skip
    return values


def _db(mse: Array) -> list[float]:
    return [psnr(value) for value in mse.mean(0)]


def _curve(values: Array) -> dict[str, Any]:
    result = curve(values)
    return {
        **asdict(result.overall),
        "mean_per_step": [step.mean for step in result.per_step], "ci95_per_step": [step.ci95 for step in result.per_step],
    }  # fmt: skip


def _by_count(values: Array) -> list[dict[str, Any]]:
    return [{"n": n, **asdict(value)} for n, value in best_of_n(values)]


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_rounded(item) for item in value]
    return round(float(value), _DIGITS) if isinstance(value, (float, np.floating)) else value


def as_text(evaluation: Evaluation) -> str:
    """The metrics as a table, with their 95 % confidence intervals."""
    model, settings = evaluation.model, evaluation.settings
    head = [
        f"model     {model.info.label}: {model.info.description}",
        f"data      {evaluation.data}",
        f"evaluated {evaluation.sequences} sequences x {model.samples} samples x {settings.horizon} steps after "
        f"{model.info.n_past} observed frames, seed {settings.seed}",
    ]
    if evaluation.protocol:
        head.append(f"protocol  {evaluation.protocol.title}")
    return "\n".join([*head, "", *_table(evaluation), "", *_notes(evaluation)])


def _table(evaluation: Evaluation) -> list[str]:
    rows = [row for entry in evaluation.entries for row in _rows(entry)]
    protocol = evaluation.protocol
    for published in protocol.published if protocol else ():
        cells = f"{published.psnr:>11.2f}{'':9}{published.ssim:>11.4f}"
        rows.append((f"published: {published.method}, best of 100", cells))
    width = max(len(label) for label, _ in rows)
    lines = [f"{'':{width}}{'PSNR dB':>18}{'SSIM':>20}", *(f"{label:{width}}{cells}".rstrip() for label, cells in rows)]
    if protocol and not protocol.published:
        lines.append("no published values are known for this protocol")
    return lines


def _rows(entry: Evaluated) -> list[tuple[str, str]]:
    measured, label = entry.measured, entry.info.label
    if entry.samples == 1:
        return [(label, _cells(curve(measured.psnr[:, 0]), curve(measured.ssim[:, 0])))]
    best = curve(best_sample(measured.psnr)), curve(best_sample(measured.ssim))
    average = curve(measured.psnr.mean(1)), curve(measured.ssim.mean(1))
    return [(f"{label}, best of {entry.samples}", _cells(*best)), (f"{label}, average sample", _cells(*average))]


def _cells(psnr_curve: Curve, ssim_curve: Curve) -> str:
    return f"{_cell(psnr_curve.overall, 2, 11)}{_cell(ssim_curve.overall, 4, 11)}"


def _cell(value: Estimate, digits: int, width: int) -> str:
    # A single sequence has no interval.
    margin = f" ± {value.ci95:.{digits}f}" if value.ci95 == value.ci95 else ""
    return f"{value.mean:>{width}.{digits}f}{margin:<9}"


def _notes(evaluation: Evaluation) -> list[str]:
    measured, repeat = evaluation.model.measured, evaluation.repeat.measured
    whole = _whole_set(measured, repeat)
    lines = [
        "PSNR from the mean squared error over the whole set: "
        f"best {whole['psnr_best']:.2f}, sample {whole['psnr_sample']:.2f}, mean forecast {whole['psnr_mean']:.2f}, "
        f"repeat {whole['psnr_repeat']:.2f} dB; best above repeat {whole['gain']:+.2f} dB"
    ]
    if measured.distance is not None:
        steps = ", ".join(f"{n}: {value.mean:.2f}" for n, value in best_of_n(measured.psnr))
        spread, distance = measured.spread.mean(0), measured.distance.mean(0)
        lines += [
            f"PSNR of the best of n samples, dB: {steps}",
            f"diversity of the samples, first to last step: standard deviation {spread[0]:.4f} to {spread[-1]:.4f}, "
            f"distance of two samples {distance[0]:.4f} to {distance[-1]:.4f} (root mean square)",
        ]
    info = evaluation.model.info
    if not info.deterministic and not info.has_posterior:
        lines.append("approximate posterior: not available (the bundle has no graph for it; the checkpoint has)")
    return [*lines, *_learned_notes(measured)]


def _learned_notes(measured: Measurements) -> list[str]:
    lines = []
    if measured.lpips is None:
        lines.append("LPIPS: not computed (it needs weights: --lpips-weights FILE)")
    else:
        best, average = curve(best_sample(measured.lpips, lower_is_better=True)), curve(measured.lpips.mean(1))
        lines.append(f"LPIPS: best {_cell(best.overall, 4, 0).strip()}, average sample {_cell(average.overall, 4, 0).strip()}")
    if measured.fvd is None:
        lines.append("FVD: not computed (it needs weights: --fvd-weights FILE)")
    else:
        lines.append(f"FVD of one sample per sequence, observed frames included: {measured.fvd:.2f}")
    return lines
