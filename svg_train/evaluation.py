"""Quality of forecasts on held-out sequences: best of N samples against the truth, beside repeating the last frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from svg_common.metrics import psnr
from svg_train.data import SequenceDataset
from svg_train.data.loading import collate, to_unit
from svg_train.data.spread_sequences import spread_over_clips
from svg_train.families.video_model import VideoModel

BATCH = 16  # sequences that are forecast at once
_EXAMPLES = 4  # sequences whose futures are returned for pictures


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all held-out sequences, and the futures of the first few for pictures."""

    psnr_best: float  # dB, best sample of each sequence
    psnr_sample: float  # dB, average over all samples
    psnr_mean: float  # dB, mean forecast over the samples
    psnr_repeat: float  # dB, the last observed frame repeated
    spread: float  # mean per-pixel standard deviation over samples
    examples: list[Futures]

    @property
    def gain(self) -> float:
        """dB of the best sample above repeating the last frame."""
        return self.psnr_best - self.psnr_repeat

    def metrics(self) -> dict[str, float]:
        """The metrics as plain values."""
        names = ("psnr_best", "psnr_sample", "psnr_mean", "psnr_repeat", "spread", "gain")
        return {name: float(getattr(self, name)) for name in names}


@dataclass(frozen=True)
class Futures:
    """One held-out sequence with its sampled futures, on the CPU."""

    truth: Tensor  # (n_past + horizon, C, H, W)
    samples: Tensor  # (S, horizon, C, H, W)
    errors: Tensor  # (S,) mean squared error over the horizon


def held_out(dataset: SequenceDataset, count: int) -> Tensor:
    """`count` sequences of a data set, if it has so many, (T, N, C, H, W) uint8; of videos, as evenly as possible from all."""
    chosen = spread_over_clips(dataset, count)
    return collate([chosen[index] for index in range(min(count, len(chosen)))])


def sample_futures(model: VideoModel, truth: Tensor, samples: int, horizon: int, seed: int) -> Tensor:
    """Draw `samples` futures for each sequence of `truth` (T, B, C, H, W) -> (S, horizon, B, C, H, W).

    A deterministic model has one, which is computed once and repeated.
    """
    n_past, batch = model.config.n_past, truth.shape[1]
    generator = torch.Generator().manual_seed(seed)
    drawn = samples if model.config.noise_dim else 1
    shape = (drawn * batch, model.config.noise_dim)
    noise = torch.randn(horizon, *shape, generator=generator).to(truth.device)
    context_noise = torch.randn(model.config.context_draws, *shape, generator=generator).to(truth.device)
    context = truth[:n_past].repeat(1, drawn, 1, 1, 1)
    frames = model.generate(context, noise, context_noise).view(horizon, drawn, *truth.shape[1:]).transpose(0, 1)
    return frames.expand(samples, *frames.shape[1:])


@torch.no_grad()
def evaluate(
    model: VideoModel,
    sequences: Tensor,
    samples: int,
    horizon: int,
    seed: int = 0,
    batch: int = BATCH,
    look: Callable[[], None] = lambda: None,
) -> Evaluation:
    """Forecast `horizon` frames of held-out `sequences` (T, N, C, H, W) uint8 after n_past observed ones.

    PSNR is computed from the mean squared error over the whole set, not averaged over sequences.

    Args:
        model: its mode, training or not, stays as it is.
        sequences: to forecast.
        samples: futures of each.
        horizon: frames of each.
        seed: of the noise.
        batch: sequences at once.
        look: called before every layer of every step. What it raises ends the evaluation.
    """
    with _evaluating(model, look):
        return _evaluate(model=model, sequences=sequences, samples=samples, horizon=horizon, seed=seed, batch=batch)


@contextmanager
def _evaluating(model: VideoModel, look: Callable[[], None]) -> Iterator[None]:
    was_training = model.training
    model.eval()
    hooks = [module.register_forward_pre_hook(lambda module, inputs: look()) for module in model.modules()]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        model.train(was_training)


def _evaluate(model: VideoModel, sequences: Tensor, samples: int, horizon: int, seed: int, batch: int) -> Evaluation:
    device = next(model.parameters()).device
    n_past, count = model.config.n_past, sequences.shape[1]
    total: dict[str, list[Tensor]] = {name: [] for name in ("best", "sample", "mean", "repeat", "spread")}
    examples: list[Futures] = []
    for start in range(0, count, batch):
        truth = to_unit(sequences[: n_past + horizon, start : start + batch].to(device))
        futures = sample_futures(model=model, truth=truth, samples=samples, horizon=horizon, seed=seed + start)
        target = truth[n_past:]
        errors = ((futures - target) ** 2).mean(dim=(1, 3, 4, 5))  # (S, B)
        total["best"].append(errors.amin(0))
        total["sample"].append(errors.mean(0))
        total["mean"].append(((futures.mean(0) - target) ** 2).mean(dim=(0, 2, 3, 4)))
        total["repeat"].append(((truth[n_past - 1] - target) ** 2).mean(dim=(0, 2, 3, 4)))
        total["spread"].append(futures.std(0, correction=0).mean(dim=(0, 2, 3, 4)))
        wanted = range(min(truth.shape[1], _EXAMPLES - len(examples)))
        examples += [Futures(truth[:, i].cpu(), futures[:, :, i].cpu(), errors[:, i].cpu()) for i in wanted]
    mean = {name: float(torch.cat(values).mean()) for name, values in total.items()}
    return Evaluation(
        psnr_best=psnr(mean["best"]),
        psnr_sample=psnr(mean["sample"]),
        psnr_mean=psnr(mean["mean"]),
        psnr_repeat=psnr(mean["repeat"]),
        spread=mean["spread"],
        examples=examples,
    )
