"""BatchNorm statistics re-estimated on real sequences (`svg-export --bn recalibrate`).

A model that was evaluated with batch statistics, as in the reference implementation at batch 100, may have poor running
statistics. They also describe true frames only, while a forecast feeds the model frames of its own. Only the running statistics
change here; weights, gains and offsets stay. The new statistics do not depend on the old ones.

There are two estimates: over true frames, as in training, and in closed loop, over the context and the model's forecasts from
it. Which one is better for a model is measured. In both, each batch is normalised by its own statistics while they are
collected. Iterating the closed loop with the statistics of the pass before would match the deployed model exactly, but it does
not converge: a trained digits model lost 0.7 dB in the first such pass and 12 dB by the third, because frames that drift
lead to statistics that make the next ones drift further. Batch statistics keep every step near what the weights were trained
on, and one pass is enough.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from svg_common.errors import SvgError, UsageError
from svg_train.checkpoint import Checkpoint
from svg_train.config import Config, build_config
from svg_train.data import SequenceDataset, open_data
from svg_train.data.as_trained import settings_as_trained
from svg_train.data.loading import collate, to_unit
from svg_train.evaluation import evaluate, held_out
from svg_train.families.video_model import VideoModel

_LOG = logging.getLogger(__name__)
DEFAULT_SEQUENCES = 200
MIN_SEQUENCES = 16  # fewer do not give reliable statistics
EVALUATED_SEQUENCES = 64
EVALUATED_SAMPLES = 10
_TRUE_FRAMES_BATCH = 8  # sequences per batch; all their frames pass a layer together
_CLOSED_LOOP_BATCH = 100  # sequences per batch, of which one frame each passes a layer: the reference's batch
_SEED = 0  # of the selection of sequences and of the forecasts' noise

Run = Callable[[VideoModel, Tensor, torch.Generator], object]
Metrics = dict[str, float]


@dataclass(frozen=True)
class Recalibration:
    """A checkpoint with new BatchNorm statistics, and their effect on forecasts of held-out sequences."""

    checkpoint: Checkpoint
    data: str  # description of the training sequences
    sequences: int  # training sequences behind the statistics
    horizon: int  # forecast frames per sequence
    chosen: str  # "true_frames" or "closed_loop"
    candidates: dict[str, float]  # PSNR in dB of the best sample on training sequences, by kind of estimate
    evaluated: int  # held-out sequences
    before: Metrics  # `Evaluation.metrics()` with the checkpoint's own statistics
    after: Metrics

    def summary(self) -> dict[str, Any]:
        """All metrics as plain values, for JSON."""
        names = ("data", "sequences", "horizon", "chosen", "candidates", "evaluated", "before", "after")
        return {"recalibrated": True, **{name: getattr(self, name) for name in names}, "samples": EVALUATED_SAMPLES}

    def lines(self) -> list[str]:
        """The metrics as a small readable table."""
        estimates = ", ".join(f"{name.replace('_', ' ')} {value:.2f} dB" for name, value in self.candidates.items())
        rows = (
            (f"best of {EVALUATED_SAMPLES} samples", "psnr_best"),
            ("average sample", "psnr_sample"),
            ("repeat last frame", "psnr_repeat"),
        )
        return [
            f"BatchNorm: best sample on training sequences: {estimates}; chosen: {self.chosen.replace('_', ' ')}",
            f"  {f'PSNR in dB, {self.evaluated} held-out sequences':<36}{'before':>9}{'after':>9}",
            *(f"  {label:<36}{self.before[name]:>9.2f}{self.after[name]:>9.2f}" for label, name in rows),
            self._change(),
        ]

    def _change(self) -> str:
        change = self.after["psnr_best"] - self.before["psnr_best"]
        if change < 0:
            worse = f"the best sample is {-change:.2f} dB worse than before"
            return f"  {worse}: recalibration did not help; --bn running keeps the checkpoint's own statistics"
        return f"  the best sample changed by {change:+.2f} dB"


def recalibrate_checkpoint(checkpoint: Checkpoint, data: dict[str, Any], sequences: int) -> Recalibration:
    """Estimate the BatchNorm statistics of `checkpoint` anew and measure them on held-out sequences.

    Args:
        checkpoint: the model. It is not changed.
        data: settings of `svg_train.config.DataConfig` by name, at least `name`: the train split is for the statistics, the
            test split for the metrics. Other settings are those of the training, if it was on the same data set.
        sequences: how many training sequences of n_past + n_future frames to use; fewer if there are fewer.

    Returns:
        The better of two estimates by the best sample on training sequences, so that the held-out ones stay unseen. The
        checkpoint has the held-out metrics with the new statistics, and those with the old ones under names in `_before`.

    Raises:
        UsageError: the model has no BatchNorm.
        SvgError: the data cannot be used, has too few sequences, or the model's values on it are not finite.
    """
    model = checkpoint.build()
    if not any(isinstance(part, nn.BatchNorm2d) for part in model.modules()):
        family = checkpoint.config.model.family
        raise UsageError(f"the model, of the family '{family}', has no BatchNorm to recalibrate\n  remove --bn recalibrate")
    # 1) open training sequences for the statistics, and held-out ones for the metrics
    config, trained_s = _data_config(checkpoint, data)
    length = config.sequence_length
    train, test = (open_data(config, split, length, trained_s) for split in ("train", "test"))
    selected, unseen = _select_sequences(train, sequences), held_out(test, EVALUATED_SEQUENCES)
    _LOG.info("BatchNorm: estimating statistics on %d training sequences (%s)", selected.shape[1], train.description)
    # 2) estimate the statistics in two ways, and choose the better one on training sequences
    horizon = config.train.n_future
    estimates = {"true_frames": true_frame_statistics(model, selected), "closed_loop": closed_loop_statistics(model, selected)}
    seen = selected[:, :EVALUATED_SEQUENCES]
    candidates = {name: _metrics(estimate, seen, horizon)["psnr_best"] for name, estimate in estimates.items()}
    chosen = max(candidates, key=candidates.__getitem__)
    # 3) measure the old and the new statistics on held-out sequences
    _LOG.info("BatchNorm: forecasting %d held-out sequences with the old and the new statistics", unseen.shape[1])
    before, after = (_metrics(evaluated, unseen, horizon) for evaluated in (model, estimates[chosen]))
    metrics = {**after, **{f"{name}_before": value for name, value in before.items()}}
    metrics |= {"bn_recalibrated_sequences": float(selected.shape[1]), "bn_closed_loop": float(chosen == "closed_loop")}
    recalibrated = replace(
        checkpoint,
        weights=estimates[chosen].state_dict(),
        metrics={name: value for name, value in metrics.items() if math.isfinite(value)},  # JSON has no others
        training=None,  # a training state belongs to the statistics it was saved with
    )
    return Recalibration(
        checkpoint=recalibrated,
        data=train.description,
        sequences=selected.shape[1],
        horizon=horizon,
        chosen=chosen,
        candidates=candidates,
        evaluated=unseen.shape[1],
        before=before,
        after=after,
    )


def true_frame_statistics(model: VideoModel, sequences: Tensor) -> VideoModel:
    """A copy of `model` with the statistics of true frames and of their reconstructions, as in training.

    Args:
        model: any network; it is not changed.
        sequences: (T, N, C, H, W) uint8.

    Raises:
        SvgError: activations are not finite.
    """
    return _with_statistics(model, sequences, _TRUE_FRAMES_BATCH, _reconstruct)


def closed_loop_statistics(model: VideoModel, sequences: Tensor) -> VideoModel:
    """A copy of `model` with the statistics of n_past true frames and of forecasts of the rest, as many as in a forecast.

    Args:
        model: any network; it is not changed.
        sequences: (n_past + horizon, N, C, H, W) uint8.

    Raises:
        SvgError: activations are not finite.
    """
    return _with_statistics(model, sequences, _CLOSED_LOOP_BATCH, _forecast)


@dataclass
class Moments:
    """Mean and variance per channel of all activations that reached one BatchNorm layer, pooled exactly.

    An average of batch variances would ignore how much the means of batches differ. Batches are merged in float64 from
    their means and squared deviations (Chan, Golub and LeVeque 1979), which keeps the precision that E[x^2] - E[x]^2 loses.
    """

    mean: Tensor  # (channels,) float64
    deviation: Tensor  # (channels,) float64: sum of squared deviations from the mean
    count: int = 0  # values per channel
    batches: int = 0

    @classmethod
    def of(cls, layer: nn.BatchNorm2d) -> Moments:
        """Empty moments for `layer`."""
        mean, deviation = (torch.zeros(layer.num_features, dtype=torch.float64) for _ in range(2))
        return cls(mean, deviation)

    def add(self, x: Tensor) -> None:
        """Add activations (B, channels, height, width)."""
        variance, mean = (value.double() for value in torch.var_mean(x, dim=(0, 2, 3), correction=0))
        count = x.numel() // x.shape[1]
        total, shift = self.count + count, mean - self.mean
        self.mean += shift * (count / total)
        self.deviation += variance * count + shift**2 * (self.count * count / total)
        self.count = total
        self.batches += 1

    def store(self, layer: nn.BatchNorm2d) -> None:
        """Make them the running statistics of `layer`; the variance is the unbiased one, as PyTorch keeps it."""
        statistics = {"running_mean": self.mean, "running_var": self.deviation / (self.count - 1)}
        layer.load_state_dict({**layer.state_dict(), **statistics, "num_batches_tracked": torch.tensor(self.batches)})


@torch.no_grad()
def _with_statistics(model: VideoModel, sequences: Tensor, batch: int, run: Run) -> VideoModel:
    estimate = copy.deepcopy(model).eval()
    layers = [module for module in estimate.modules() if isinstance(module, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(_SEED)
    with _collect_moments(layers) as moments:
        # Parts of equal size: a last batch of one sequence could not be normalised by its own statistics.
        for part in sequences.tensor_split(math.ceil(sequences.shape[1] / batch), dim=1):
            run(estimate, to_unit(part), generator)
    if not all(bool((moment.mean + moment.deviation).isfinite().all()) for moment in moments):
        raise SvgError(
            "the model produces values that are not finite on this data\n"
            "  expected a trained model, and data of the kind that it was trained on"
        )
    for layer, moment in zip(layers, moments, strict=True):
        moment.store(layer)
    return estimate


@contextmanager
def _collect_moments(layers: list[nn.BatchNorm2d]) -> Iterator[list[Moments]]:
    """Normalise by batch statistics, and collect the moments of each layer's inputs."""
    moments = [Moments.of(layer) for layer in layers]
    handles = [
        layer.train().register_forward_pre_hook(_moment_hook(moment)) for layer, moment in zip(layers, moments, strict=True)
    ]
    try:
        yield moments
    finally:
        for layer, handle in zip(layers, handles, strict=True):
            handle.remove()
            layer.eval()


def _moment_hook(moments: Moments) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    return lambda layer, inputs: moments.add(inputs[0])


def _reconstruct(model: VideoModel, x: Tensor, generator: torch.Generator) -> None:
    draws, size = model.config.training_noise(len(x))
    model(x, torch.randn(draws, x.shape[1], size, generator=generator))


def _forecast(model: VideoModel, x: Tensor, generator: torch.Generator) -> None:
    n_past, (length, batch) = model.config.n_past, x.shape[:2]
    steps = (model.config.context_draws, length - n_past)
    context_noise, noise = (torch.randn(n, batch, model.config.noise_dim, generator=generator) for n in steps)
    model.generate(x[:n_past], noise, context_noise)


def _metrics(model: VideoModel, sequences: Tensor, horizon: int) -> Metrics:
    return evaluate(model, sequences, EVALUATED_SAMPLES, horizon).metrics()


def _select_sequences(data: SequenceDataset, count: int) -> Tensor:
    """`count` sequences spread over the data set, always the same ones: neighbours in a video are nearly equal."""
    if len(data) < MIN_SEQUENCES:
        raise SvgError(
            f"recalibration needs at least {MIN_SEQUENCES} training sequences, got {len(data)} from {data.description}\n"
            "  add more data, or export with --bn running"
        )
    chosen = np.random.default_rng(_SEED).choice(len(data), min(count, len(data)), replace=False)
    return collate([data[int(index)] for index in chosen])


def _data_config(checkpoint: Checkpoint, data: dict[str, Any]) -> tuple[Config, float | None]:
    """The configuration of the checkpoint with the user's data set, and the `trained_s` of `open_data`.

    Paths come from the user alone.
    """
    trained = checkpoint.config.data.model_dump(exclude={"root", "cache"})
    settings, trained_s = settings_as_trained(trained, checkpoint.frame_interval_s, data)
    tables = {name: getattr(checkpoint.config, name).model_dump() for name in ("model", "train")}
    return build_config({**tables, "data": settings}), trained_s
