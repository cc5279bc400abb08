"""The sequences that pictures show: which ones, and what of their forecasts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from svg_eval.clips import clip_names
from svg_eval.models import EvaluatedModel
from svg_eval.pixels import moving_pixels
from svg_train.data import SequenceDataset

_RANDOM_ROWS = 2  # samples are exchangeable, so the first ones are random ones


@dataclass(frozen=True)
class Example:
    """One sequence for pictures. Frames (T, C, H, W) in [0, 1], on the CPU."""

    number: int  # of the sequence in the data
    truth: Tensor  # n_past + horizon frames
    best: Tensor  # horizon frames each; best and worst by PSNR
    worst: Tensor
    random: list[Tensor]
    mean: Tensor  # of all samples
    deviation: Tensor  # standard deviation of all samples, the root mean square over channels: (T, 1, H, W)
    posterior: Tensor | None  # z from the posterior of the true next frame; None where there is none


def make_example(model: EvaluatedModel, number: int, sequence: Tensor, samples: Tensor, psnr: Tensor) -> Example:
    """Of a sequence (n_past + horizon, C, H, W), samples of its future (S, horizon, C, H, W) and their PSNR (S, horizon)."""
    order = psnr.mean(1).argsort(descending=True)
    has_posterior = model.info.has_posterior and not model.info.deterministic
    posterior = model.reconstruct(sequence).cpu() if has_posterior else None
    return Example(
        number=number,
        truth=sequence.cpu(),
        best=samples[order[0]].cpu(),
        worst=samples[order[-1]].cpu(),
        random=[sample.cpu() for sample in samples[:_RANDOM_ROWS]],
        mean=samples.mean(0).cpu(),
        deviation=samples.var(0, correction=0).mean(-3, keepdim=True).sqrt().cpu(),
        posterior=posterior,
    )


def choose_examples(data: SequenceDataset, n_past: int, sequences: int, wanted: int) -> list[int]:
    """Numbers of the sequences to show, in order.

    Of data without clips the first ones. Of clips, those in which most pixels move, from as many clips as possible: real videos
    stand still most of the time.
    """
    names = clip_names(data, sequences)
    if names is None or not wanted:
        return list(range(min(wanted, sequences)))
    motion = [_moving_share(data, number, n_past) for number in range(sequences)]
    return sorted(_first_of_each_clip(names, motion)[:wanted])


def _first_of_each_clip(names: Sequence[str], motion: Sequence[float]) -> list[int]:
    """All numbers: first the liveliest sequence of each clip, then the second of each clip, and so on."""
    seen: Counter[str] = Counter()
    place: dict[int, int] = {}  # of a sequence within its clip
    lively_first = sorted(range(len(names)), key=lambda number: -motion[number])
    for number in lively_first:
        place[number] = seen[names[number]]
        seen[names[number]] += 1
    return sorted(lively_first, key=lambda number: place[number])


def _moving_share(data: SequenceDataset, number: int, n_past: int) -> float:
    frames = torch.from_numpy(data[number]).movedim(-1, -3).float() / 255
    return float(moving_pixels(frames[n_past:], frames[n_past - 1]).float().mean())
