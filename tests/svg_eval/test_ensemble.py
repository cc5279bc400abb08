"""Ensemble scores against their definitions, closed forms for Gaussians, and an independent implementation."""

from __future__ import annotations

from itertools import combinations, product
from statistics import NormalDist

import numpy as np
import pytest
import torch

from svg_eval.ensemble import coverage, fair_crps, interval_probability, rank_histogram, spread_skill_ratio

RNG = np.random.default_rng(0)
EVERY = np.ones((1, 40), bool)


def grey(*shape: int, rng=RNG) -> np.ndarray:
    """Few grey levels, so that ties are frequent."""
    return (rng.integers(100, 106, shape) / 255).astype(np.float32)


def calibrated(members: int, values: int) -> tuple[np.ndarray, np.ndarray]:
    """Members and truth of one distribution, which differs between values."""
    centre, scale = RNG.uniform(-1, 1, values), RNG.uniform(0.5, 2, values)
    draws = centre + scale * RNG.standard_normal((members + 1, values))
    return draws[:-1].astype(np.float32), draws[-1].astype(np.float32)


@pytest.mark.parametrize("count", [2, 3, 10])
def test_crps_is_its_double_sum(count):
    members, truth = RNG.random((count, 40), np.float32), RNG.random(40, np.float32)
    expected = [
        np.mean([abs(float(x) - float(y)) for x in column])
        - sum(abs(float(a) - float(b)) for a, b in product(column, column)) / (2 * count * (count - 1))
        for column, y in zip(members.T, truth, strict=True)
    ]
    np.testing.assert_allclose(fair_crps(members, truth), expected, atol=1e-7)


@pytest.mark.parametrize("count", [2, 10, 100])
def test_crps_of_gaussian_members_is_the_closed_form_for_any_number_of_them(count):
    """Gneiting and Raftery 2007: sigma (z (2 F(z) - 1) + 2 f(z) - 1 / sqrt(pi)). One that is not fair is off by 1 / S."""
    y, sigma, values = 0.7, 1.5, 400_000 // count
    members = (sigma * RNG.standard_normal((count, values))).astype(np.float32)
    scores = fair_crps(members, np.full(values, y, np.float32))
    z, norm = y / sigma, NormalDist()
    expected = sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi))
    assert scores.mean() == pytest.approx(expected, abs=4 * scores.std() / np.sqrt(values))


def test_crps_of_one_member_is_its_absolute_error():
    np.testing.assert_allclose(fair_crps(np.float32([[0.2, 0.9]]), np.float32([0.5, 0.5])), [0.3, 0.4], atol=1e-7)


def test_crps_equals_that_of_another_library():
    scoringrules = pytest.importorskip("scoringrules", reason="it needs Python 3.11")
    members, truth = calibrated(11, 200)
    expected = scoringrules.crps_ensemble(truth.astype(float), members.astype(float), m_axis=0, estimator="fair")
    np.testing.assert_allclose(fair_crps(members, truth), expected, atol=1e-6)


def test_ties_share_the_ranks_that_a_lot_would_give():
    members, truth = grey(4, 40), grey(40)
    histogram = rank_histogram(members, truth, EVERY)[0]
    expected = np.zeros(5)
    for column, y in zip(members.T, truth, strict=True):
        places = [rank for rank in range(5) if (column < y).sum() <= rank <= (column <= y).sum()]
        expected[places] += 1 / len(places)
    np.testing.assert_allclose(histogram, expected)
    assert histogram.sum() == pytest.approx(40)
    assert (expected % 1).any()  # there were ties


def test_differences_below_a_grey_level_are_ties():
    truth = np.float32([128 / 255])
    for offset in (-1e-4, 1e-4):
        np.testing.assert_allclose(rank_histogram(np.full((3, 1), truth + offset, np.float32), truth, EVERY[:, :1])[0], 0.25)


def test_ranks_are_counted_by_group():
    members, truth = grey(3, 40), grey(40)
    first = np.arange(40) < 15
    both = rank_histogram(members, truth, np.stack([first, ~first]))
    np.testing.assert_allclose(both.sum(1), [15, 25])
    np.testing.assert_allclose(both.sum(0), rank_histogram(members, truth, EVERY)[0])


@pytest.mark.parametrize("count", [9, 10, 19, 33])
def test_a_calibrated_ensemble_is_flat_covers_its_interval_and_has_ratio_one(count):
    members, truth = calibrated(count, 40_000)
    members, truth = (
        torch.special.ndtr(torch.from_numpy(values)).numpy() for values in (members, truth)
    )  # into the range of frames
    histogram = rank_histogram(members, truth, np.ones((1, 40_000), bool))[0]
    np.testing.assert_allclose(histogram * (count + 1) / 40_000, 1, atol=6 * np.sqrt((count + 1) / 40_000))
    assert coverage(histogram) == pytest.approx(0.8, abs=0.01)
    ratio = spread_skill_ratio(members.var(0, ddof=1).mean(), ((members.mean(0) - truth) ** 2).mean(), count)
    assert ratio == pytest.approx(1, abs=0.02)


def test_coverage_between_order_statistics_is_that_of_counting():
    """Of 9 members, the 10 % and 90 % quantiles are the least and the largest."""
    members, truth = np.sort(RNG.integers(0, 256, (9, 500)), axis=0), RNG.integers(0, 256, 500)
    untied = (members != truth).all(0)
    members, truth = members[:, untied], truth[untied]
    inside = ((members[0] < truth) & (truth < members[-1])).mean()
    histogram = rank_histogram(np.float32(members / 255), np.float32(truth / 255), np.ones((1, len(truth)), bool))[0]
    assert coverage(histogram) == pytest.approx(inside)


def test_few_members_have_no_interval_of_80_percent():
    assert interval_probability(4) == pytest.approx(0.6)
    assert interval_probability(9) == pytest.approx(0.8)
    assert interval_probability(100) == pytest.approx(0.8)
    assert coverage(np.array([3.0, 1, 1, 1, 4]), interval_probability(4)) == pytest.approx(0.3)  # inside their range


def test_without_truths_or_errors_there_is_no_score():
    assert np.isnan(coverage(np.zeros(5)))
    assert coverage(np.array([3.0, *[0] * 8, 2])) == 0  # exactly: its edges are those of the interval
    assert np.isnan(spread_skill_ratio(0.1, 0.0, 5))
    assert np.isnan(spread_skill_ratio(float("nan"), float("nan"), 5))


def test_the_least_ensemble_of_two_has_the_factor_of_its_mean():
    """Fortin et al. 2014: the squared error of a mean of S members is (S + 1) / S times their variance."""
    pairs = np.array(list(combinations(range(6), 2)), float).T
    assert spread_skill_ratio(pairs.var(0, ddof=1).mean(), 1.5 * pairs.var(0, ddof=1).mean(), 2) == pytest.approx(1)
