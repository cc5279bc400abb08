"""An evaluation, and its JSON values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from svg_common.frame_statistics import MOVED
from svg_eval.clips import ClipGains, gains_by_clip
from svg_eval.measure import Measurements, Settings
from svg_eval.models import ModelInfo
from svg_eval.pixels import CLASSES, MeanOfValues, PixelScores, psnr_or_nan
from svg_eval.protocols import Protocol
from svg_eval.statistics import Array, best_of_n, best_sample, curve, significant


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
    baselines: tuple[Evaluated, ...]  # the user's
    simple: Mapping[str, Evaluated]  # those of `simple_baselines`
    data: str  # description of the data set
    clips: tuple[str, ...] | None  # the clip of each sequence, if they are from clips
    settings: Settings
    protocol: Protocol | None
    without_history: int | None = None  # sequences before which post-processing learned nothing; None: it was off

    @property
    def described(self) -> dict[str, str]:
        """What was evaluated, on which data and how."""
        model, settings = self.model, self.settings
        described = {
            "model": f"{model.info.label}: {model.info.description}",
            "data": self.data,
            "evaluated": f"{self.sequences} sequences x {model.samples} samples x {settings.horizon} steps after "
            f"{model.info.n_past} observed frames, seed {settings.seed}",
        }
        compared = {
            f"baseline {number}" if number > 1 else "baseline": f"{baseline.info.label}: {baseline.info.description}"
            for number, baseline in enumerate(self.baselines, start=1)
        }
        learned = {} if self.without_history is None else {"learned": self._learned(self.without_history)}
        return described | compared | learned | ({"protocol": self.protocol.title} if self.protocol else {})

    def _learned(self, without: int) -> str:
        """What post-processing had to learn from: without anything, its mean is the model's own."""
        if without == 0:
            return "before every sequence, from what was earlier in its clip"
        what = f"{without} of {self.sequences} sequences have nothing before them in their clip: their mean stays the model's"
        return what if without < self.sequences else f"{what}, and nothing was measured; more --sequences or longer clips help"

    @property
    def repeat(self) -> Evaluated:
        """The last frame repeated."""
        return self.simple["repeat"]

    @property
    def sequences(self) -> int:
        """Sequences that were evaluated; fewer than requested if the data has fewer."""
        return len(self.model.measured.psnr)

    @property
    def entries(self) -> list[Evaluated]:
        """All that was evaluated: the model, the baselines, the simple ones."""
        return [self.model, *self.baselines, *self.simple.values()]

    def clip_gains(self) -> list[ClipGains]:
        """The gains of the model in every clip, the least first; empty if the sequences are from no clips."""
        if self.clips is None:
            return []
        return gains_by_clip(self.clips, self.model.measured.pixels, self.repeat.measured.pixels)


def as_json(evaluation: Evaluation) -> dict[str, Any]:
    """Plain values. `ci95` is half the width of the interval."""
    model = evaluation.model
    values = {
        "model": {"name": model.info.label, "description": model.info.description},
        "data": evaluation.data, "protocol": evaluation.protocol.title if evaluation.protocol else None,
        "sequences": evaluation.sequences, "samples": model.samples, "n_past": model.info.n_past,
        "horizon": evaluation.settings.horizon, "seed": evaluation.settings.seed, "moving_threshold": MOVED,
        "sequences_without_history": evaluation.without_history,
        **_whole_set(model.measured, evaluation.repeat.measured),
        **_of_model(model.measured),
        **{name: _of_model(entry.measured) for name, entry in evaluation.simple.items()},
        "baselines": [
            {"name": baseline.info.label, "description": baseline.info.description, "samples": baseline.samples,
             **_of_model(baseline.measured)} for baseline in evaluation.baselines
        ],
        "clips": [asdict(row) for row in evaluation.clip_gains()],
        "published": [asdict(row) for row in evaluation.protocol.published] if evaluation.protocol else [],
        "seconds": {"forecast": model.measured.forecast_s, "metrics": model.measured.metrics_s},
    }  # fmt: skip
    rounded: dict[str, Any] = _rounded(values)
    return rounded


def _whole_set(measured: Measurements, repeat: Measurements) -> dict[str, Any]:
    """PSNR from the mean squared error over all sequences, which a single easy sequence cannot raise."""
    ours, last = measured.pixels.scores("all"), _psnr("repeat", repeat.pixels.scores("all").mean)
    values = {**_psnr("best", ours.best), **_psnr("sample", ours.sample), **_psnr("mean", ours.mean), **last}
    gain = values["psnr_best"] - values["psnr_repeat"]
    return {**values, "gain": gain, "spread": measured.spread.mean(), "spread_per_step": measured.spread.mean(0)}


def _psnr(name: str, squared_error: MeanOfValues) -> dict[str, Any]:
    per_step = [psnr_or_nan(error) for error in squared_error.per_step]
    return {f"psnr_{name}": psnr_or_nan(squared_error.overall), f"psnr_{name}_per_step": per_step}


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
        "pixels": {pixels: _of_pixels(measured.pixels.scores(pixels)) for pixels in CLASSES},
    }  # fmt: skip
    return values


def _of_pixels(scores: PixelScores) -> dict[str, Any]:
    """Of one class of pixels. One sample has neither spread nor ranks, and its CRPS is the mean absolute error."""
    values = {
        "share": scores.share.overall, "share_per_step": scores.share.per_step,
        **_psnr("best", scores.best), **_psnr("sample", scores.sample), **_psnr("mean", scores.mean),
        "crps": scores.crps.overall, "crps_per_step": scores.crps.per_step,
    }  # fmt: skip
    if scores.samples == 1:
        return values
    return {
        **values,
        "spread_skill": scores.spread_skill, "spread_skill_per_step": scores.spread_skill_per_step,
        "coverage": scores.coverage(), "coverage_per_step": scores.coverage_per_step, "coverage_expected": scores.interval,
        "rank_histogram": scores.rank_frequencies,
    }  # fmt: skip


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
    return significant(float(value)) if isinstance(value, (float, np.floating)) else value
