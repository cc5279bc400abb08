"""The evaluation loop: forecast held-out sequences, and measure every frame of every sample against the truth."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from svg_common.errors import SvgError
from svg_common.progress import ProgressListener
from svg_eval.examples import Example, make_example
from svg_eval.learned import LearnedMetrics
from svg_eval.models import EvaluatedModel
from svg_eval.pixels import PixelAccumulator, PixelSums
from svg_runtime.forecast.noise import NoiseSource
from svg_train.data import Frames, HistoryDataset, SequenceDataset
from svg_train.data.loading import collate, to_unit
from svg_train.metrics import frame_mse, frame_ssim, psnr_of_frames

Array = NDArray[np.float64]

_VALUES_AT_ONCE = 1 << 23  # of the futures in memory (32 MiB); a sequence is never split


@dataclass(frozen=True)
class Settings:
    """How much to evaluate."""

    sequences: int
    samples: int
    horizon: int
    seed: int
    examples: int = 0  # sequences to return for pictures
    samples_option: str = "--samples"  # of the command, as messages name it
    horizon_option: str | None = "--horizon"  # None: it is fixed


@dataclass(frozen=True)
class Measurements:
    """Metrics of N sequences, S samples and T steps."""

    psnr: Array  # (N, S, T) dB
    ssim: Array  # (N, S, T)
    spread: Array  # (N, T) standard deviation over samples, mean over pixels
    distance: Array | None  # (N, T) root mean square difference of two samples, mean over pairs; None for one sample
    pixels: PixelSums  # squared errors and ensemble scores, by class of pixels
    lpips: Array | None  # (N, S, T); None without weights
    fvd: float | None  # None without weights
    examples: list[Example]
    forecast_s: float  # seconds spent on forecasts, and on their metrics
    metrics_s: float


@dataclass
class _Stopwatch:
    """Adds up the time spent in its `with` blocks."""

    seconds: float = 0.0
    _began: float = field(default=0.0)

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self.seconds += time.perf_counter() - self._began


def measure(
    model: EvaluatedModel,
    data: SequenceDataset,
    settings: Settings,
    learned: LearnedMetrics,
    progress: ProgressListener,
    shown: Collection[int] = (),
) -> Measurements:
    """Evaluate `model` on the first sequences of `data` (n_past + horizon frames each).

    The noise depends on the seed and the order of sequences alone, so that a checkpoint and its bundle draw the same futures.
    A deterministic model has one sample, regardless of the settings. `shown` are the numbers of the sequences to return as
    examples.

    Raises:
        SvgError: a forecast has values that are not finite.
    """
    done, count, n_past = 0, min(settings.sequences, len(data)), model.info.n_past
    task = f"evaluating {model.info.label}"
    progress.progress(task, 0.0)
    forecasting, measuring = _Stopwatch(), _Stopwatch()
    metrics: dict[str, list[Tensor]] = {}
    pixels = PixelAccumulator()
    examples: list[Example] = []
    fvd = learned.new_fvd()
    for sequences, noise, context_noise in batches(model, data, settings):
        # 1) forecast all samples of a batch of sequences
        with forecasting, torch.no_grad():
            futures = model.forecast(sequences[:, : -settings.horizon], noise, context_noise)
        _refuse_not_finite(model, futures, settings.horizon_option)
        # 2) measure every frame of every sample, one sequence at a time
        with measuring, torch.no_grad():
            length = n_past + settings.horizon  # without what is before it
            for number, (sequence, samples) in enumerate(zip(sequences[:, -length:], futures, strict=True), start=done):
                target = sequence[n_past:]
                pixels.add(samples, target, sequence[n_past - 1])
                values = frame_metrics(samples, target) | learned.per_frame(samples, target)
                for name, value in values.items():
                    metrics.setdefault(name, []).append(value.double().cpu())
                if fvd is not None:
                    fvd.add(sequence, samples[0])
                if number in shown:
                    examples.append(
                        make_example(model=model, number=number, sequence=sequence, samples=samples, psnr=values["psnr"])
                    )
        done += len(sequences)
        progress.progress(task, done / count)
    # 3) one array per metric over all sequences
    arrays = {name: torch.stack(values).numpy() for name, values in metrics.items()}
    return Measurements(
        psnr=arrays["psnr"],
        ssim=arrays["ssim"],
        spread=arrays["spread"],
        distance=arrays.get("distance"),
        pixels=pixels.sums(),
        lpips=arrays.get("lpips"),
        fvd=fvd.value() if fvd else None,
        examples=examples,
        forecast_s=forecasting.seconds,
        metrics_s=measuring.seconds,
    )


def batches(model: EvaluatedModel, data: SequenceDataset, settings: Settings) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The first sequences of `data` in batches that fit into memory, with the noise of their forecasts.

    Returns:
        Sequences (B, T, C, H, W) in [0, 1], noise (B, horizon, S, z_dim) and context noise (B, context_draws, S, z_dim), on the
        model's device. S is 1 for a deterministic model. A model with `info.history` gets one sequence at a time, after what
        came before it.
    """
    info, source = model.info, NoiseSource(settings.seed)
    samples = 1 if info.deterministic else settings.samples
    count = min(settings.sequences, len(data))
    values = samples * settings.horizon * info.channels * info.height * info.width
    batch = 1 if info.history else max(1, _VALUES_AT_ONCE // values)
    for start in range(0, count, batch):
        numbers = range(start, min(start + batch, count))
        frames = [_with_history(data, number, info.history) for number in numbers]
        sequences = to_unit(collate(frames)).transpose(0, 1).to(model.device)
        draws = [
            (source.draw(settings.horizon, samples, info.z_dim), source.draw(info.context_draws, samples, info.z_dim))
            for _ in numbers
        ]
        noise, context_noise = (torch.from_numpy(np.stack(part)).to(model.device) for part in zip(*draws, strict=True))
        yield sequences, noise, context_noise


def _with_history(data: SequenceDataset, number: int, steps: int) -> Frames:
    if not steps:
        return data[number]
    assert isinstance(data, HistoryDataset)
    return np.concatenate([data.history(number, steps), data[number]])


def _refuse_not_finite(model: EvaluatedModel, futures: Tensor, horizon_option: str | None) -> None:
    """Refuse futures (B, S, T, C, H, W) that cannot be measured. A bundle refuses its own; a checkpoint in PyTorch does not."""
    finite = futures.isfinite().movedim(2, 0).flatten(1).all(1)  # (T,)
    if not finite.all():
        step = 1 + int(finite.int().argmin())
        shorter = f"a smaller {horizon_option}, or " if horizon_option is not None and step > 1 else ""
        raise SvgError(
            f"{model.info.label} forecasts values that are not finite from step {step} on\n"
            f"  expected finite frames: use {shorter}an earlier checkpoint"
        )


def frame_metrics(samples: Tensor, target: Tensor) -> dict[str, Tensor]:
    """Metrics of one sequence, as in `Measurements`: samples (S, T, C, H, W), target (T, C, H, W)."""
    metrics = {
        "psnr": psnr_of_frames(frame_mse(samples, target)),
        "ssim": frame_ssim(samples, target),
        "spread": samples.std(0, correction=0).mean(dim=(1, 2, 3)),
    }
    return metrics | sample_metrics(samples)


def sample_metrics(samples: Tensor) -> dict[str, Tensor]:
    """Those of `frame_metrics` that need no truth and more than one sample: samples (S, T, C, H, W)."""
    if len(samples) == 1:
        return {}
    return {"distance": torch.stack([_pairwise_distance(step) for step in samples.unbind(1)])}


def _pairwise_distance(frames: Tensor) -> Tensor:
    """Root mean square difference of two of the frames (S, C, H, W), mean over all pairs."""
    vectors = (frames - frames.mean(0)).flatten(1)  # centred, or the matrix product below would lose precision
    distances = torch.cdist(vectors, vectors, compute_mode="use_mm_for_euclid_dist")
    distances.fill_diagonal_(0)
    return distances.sum() / (len(frames) * (len(frames) - 1) * math.sqrt(vectors.shape[1]))
