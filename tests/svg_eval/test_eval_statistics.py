"""Best of n, means and intervals, against enumeration and textbook formulas."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from svg_eval.page_parts import number
from svg_eval.statistics import best_of_n, best_sample, counts_up_to, curve, estimate, expected_best, shown

VALUES = np.random.default_rng(0).standard_normal((5, 7, 3)) * 3 + 20  # (N, S, T)


@pytest.mark.parametrize("n", range(1, 8))
def test_expected_best_is_the_mean_over_all_subsets(n):
    scores = VALUES.mean(2)
    subsets = [scores[:, list(subset)].max(1) for subset in combinations(range(7), n)]
    np.testing.assert_allclose(expected_best(scores, n), np.mean(subsets, axis=0))


@pytest.mark.parametrize("samples", [1000, 100_000])  # with so many, the binomials alone would take hours
def test_expected_best_stays_exact_for_many_samples(samples):
    scores = np.arange(float(samples))[None]
    # The mean of the maximum of n of the numbers 0 ... S - 1 is n (S + 1) / (n + 1) - 1.
    for n in (1, samples // 10, samples // 2, samples):
        assert expected_best(scores, n)[0] == pytest.approx(n * (samples + 1) / (n + 1) - 1)


def test_best_of_n_goes_from_the_average_sample_to_the_best_of_all():
    points = dict(best_of_n(VALUES))
    assert list(points) == [1, 2, 5, 7]
    assert points[1].mean == pytest.approx(VALUES.mean())
    assert points[7].mean == pytest.approx(best_sample(VALUES).mean())
    means = [point.mean for point in points.values()]
    assert means == sorted(means)


def test_each_sequence_has_its_own_best_sample_over_the_whole_horizon():
    best, least = best_sample(VALUES), best_sample(VALUES, lower_is_better=True)
    for sequence in range(5):
        scores = [sample.mean() for sample in VALUES[sequence]]
        np.testing.assert_array_equal(best[sequence], VALUES[sequence, int(np.argmax(scores))])
        np.testing.assert_array_equal(least[sequence], VALUES[sequence, int(np.argmin(scores))])


def test_interval_holds_the_mean_in_95_of_100_draws():
    rng, held = np.random.default_rng(1), 0
    for _ in range(2000):
        result = estimate(rng.normal(5, 2, 60))
        held += abs(result.mean - 5) < result.ci95
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_curve_has_an_interval_of_the_sequence_means_and_one_per_step():
    result = curve(VALUES[:, 0])
    assert result.overall.mean == pytest.approx(VALUES[:, 0].mean())
    assert result.overall.ci95 == pytest.approx(1.96 * VALUES[:, 0].mean(1).std(ddof=1) / 5**0.5, rel=1e-4)
    assert [step.mean for step in result.per_step] == pytest.approx(VALUES[:, 0].mean(0))
    assert np.isnan(estimate(np.array([3.0])).ci95)


def test_counts_end_at_the_number_of_samples():
    assert counts_up_to(1) == [1]
    assert counts_up_to(100) == [1, 2, 5, 10, 20, 50, 100]
    assert counts_up_to(64) == [1, 2, 5, 10, 20, 50, 64]


@pytest.mark.parametrize(
    ("value", "sign", "expected"),
    [(-0.001, False, "0.00"), (-0.001, True, "+0.00"), (-0.006, False, "-0.01"), (1.005, True, "+1.00"), (2.0, False, "2.00")],
)
def test_what_rounds_to_zero_has_no_minus(value, sign, expected):
    assert shown(value, 2, sign) == expected
    assert number(value, 2, sign) == expected
