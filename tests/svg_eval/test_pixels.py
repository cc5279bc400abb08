"""Scores by class of pixels, against plain computations with boolean masks."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from svg_common.frame_statistics import MOVED
from svg_common.metrics import psnr
from svg_eval.clips import gains_by_clip
from svg_eval.ensemble import fair_crps
from svg_eval.pixels import CLASSES, PixelAccumulator, moving_pixels

SHAPE = (3, 3, 16, 12)  # T, C, H, W
SAMPLES = 5


def sequences(count: int, samples: int = SAMPLES):
    """Samples, truth and last frame of sequences in which about a third of the pixels move, more in later steps."""
    generator = torch.Generator().manual_seed(3)
    for _ in range(count):
        last = torch.rand(SHAPE[1:], generator=generator)
        change = torch.rand(SHAPE, generator=generator) * torch.tensor([0.07, 0.08, 0.09]).view(3, 1, 1, 1)
        truth = (last + change).clamp(0, 1)
        yield truth + 0.1 * torch.randn(samples, *SHAPE, generator=generator), truth, last


def accumulated(count: int, samples: int = SAMPLES):
    accumulator = PixelAccumulator()
    for one in sequences(count, samples):
        accumulator.add(*one)
    return accumulator.sums()


def test_a_pixel_moves_if_any_channel_does():
    last, truth = torch.zeros(3, 2, 2), torch.zeros(1, 3, 2, 2)
    truth[0, 1, 0, 0], truth[0, 2, 1, 1] = MOVED + 0.01, MOVED - 0.01
    assert moving_pixels(truth, last).tolist() == [[[True, False], [False, False]]]


@pytest.mark.parametrize("pixels", CLASSES)
def test_scores_are_those_of_masked_arrays(pixels):
    scores = accumulated(2).scores(pixels)
    errors = {"sample": [], "mean": [], "crps": [], "best": []}
    for samples, truth, last in sequences(2):
        moving = ((truth - last).abs() > MOVED).any(1, keepdim=True).expand_as(truth)
        mask = {"all": torch.ones_like(moving), "moving": moving, "still": ~moving}[pixels].numpy()
        members, y = samples.numpy(), truth.numpy()
        squared = (members - y) ** 2
        best = min(range(SAMPLES), key=lambda number, squared=squared, mask=mask: squared[number][mask].sum())
        errors["sample"].append(squared.mean(0)[mask])
        errors["best"].append(squared[best][mask])
        errors["mean"].append(((members.mean(0) - y) ** 2)[mask])
        errors["crps"].append(fair_crps(members[:, mask], y[mask]))
    for name, values in errors.items():
        assert getattr(scores, name).overall == pytest.approx(np.concatenate(values).mean(), rel=1e-5)
    assert 0 < accumulated(2).scores("moving").share.overall < 0.9
    assert scores.rank_frequencies.sum() == pytest.approx(1)
    assert len(scores.coverage_per_step) == len(scores.spread_skill_per_step) == 3


def test_moving_and_still_pixels_are_all():
    sums = accumulated(2)
    for name in ("count", "sample", "mean", "crps", "variance"):
        every, moving, still = np.moveaxis(getattr(sums, name), 1, 0)
        np.testing.assert_allclose(moving + still, every)
    np.testing.assert_allclose(sums.ranks[1] + sums.ranks[2], sums.ranks[0])


def test_one_sample_has_errors_but_neither_spread_nor_ranks():
    scores = accumulated(1, samples=1).scores("all")
    ((samples, truth, _),) = sequences(1, samples=1)
    assert scores.crps.overall == pytest.approx(float((samples - truth).abs().mean()), rel=1e-5)
    assert scores.best.overall == scores.sample.overall == pytest.approx(scores.mean.overall)
    assert np.isnan([scores.spread_skill, scores.coverage()]).all()
    assert scores.rank_frequencies is None


def test_where_nothing_moves_there_is_no_score_of_moving_pixels():
    accumulator = PixelAccumulator()
    truth = torch.full(SHAPE, 0.5)
    accumulator.add(truth + 0.01 * torch.randn(SAMPLES, *SHAPE), truth, truth[0])
    moving = accumulator.sums().scores("moving")
    assert moving.share.overall == 0
    assert np.isnan([moving.mean.overall, moving.spread_skill, moving.coverage(), *moving.crps.per_step]).all()
    assert moving.rank_frequencies is None


def test_gains_of_a_clip_are_those_of_its_sequences():
    model, repeat = accumulated(3), accumulated(3, samples=1)
    rows = gains_by_clip(["a", "b", "a"], model, repeat)
    assert {row.clip: row.sequences for row in rows} == {"a": 2, "b": 1}
    assert rows[0].gain_mean <= rows[1].gain_mean
    row = next(row for row in rows if row.clip == "a")
    values = SHAPE[0] * SHAPE[1] * SHAPE[2] * SHAPE[3]
    ours, last = (sums.mean[[0, 2], 0].sum() / (2 * values) for sums in (model, repeat))
    assert row.gain_mean == pytest.approx(psnr(ours) - psnr(last))
    assert row.psnr_repeat == pytest.approx(psnr(last))
