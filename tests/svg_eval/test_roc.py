"""ROC areas and average precision against counted pairs and thresholds, and another library's rank test."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from svg_eval.roc import areas, average_precision, roc_area


def random_case(count):
    """Scores with many ties, and labels of both kinds."""
    rng = np.random.default_rng(count)
    labels = np.arange(count) % 3 == 0
    rng.shuffle(labels)
    return rng.integers(0, 8, count).astype(float), labels


@pytest.mark.parametrize("count", [2, 7, 60])
def test_area_is_the_share_of_pairs_in_order(count):
    scores, labels = random_case(count)
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[labels] for b in scores[~labels]]
    assert roc_area(scores, labels) == pytest.approx(np.mean(pairs))
    assert roc_area(scores, labels) == pytest.approx(mannwhitneyu(scores[labels], scores[~labels]).statistic / len(pairs))


@pytest.mark.parametrize("count", [2, 7, 60])
def test_average_precision_is_the_sum_over_thresholds(count):
    scores, labels = random_case(count)
    expected, recall_before = 0.0, 0.0
    for threshold in sorted(set(scores), reverse=True):
        alarms = scores >= threshold
        recall = (alarms & labels).sum() / labels.sum()
        expected += (recall - recall_before) * (alarms & labels).sum() / alarms.sum()
        recall_before = recall
    assert average_precision(scores, labels) == pytest.approx(expected)


def test_what_cannot_be_measured_is_refused():
    with pytest.raises(ValueError, match="anomalous and normal"):
        roc_area(np.arange(3.0), np.ones(3, bool))
    with pytest.raises(ValueError, match="needs anomalous"):
        average_precision(np.arange(3.0), np.zeros(3, bool))


def test_micro_pools_frames_and_macro_averages_clips():
    scores = {"a": np.array([np.nan, 1.0, 2.0]), "b": np.array([10.0, 9.0, 30.0]), "c": np.array([50.0, 60.0])}
    labels = {"a": np.array([True, False, True]), "b": np.array([False, False, True]), "c": np.array([True, True])}
    found = areas(scores, labels)
    assert found.macro == 1.0  # of a and b: c has no normal frame
    anomalous, normal = [2, 30, 50, 60], [1, 10, 9]
    assert found.micro == pytest.approx(np.mean([a > b for a in anomalous for b in normal]))
    assert areas(scores, labels, average_precision).macro == 1.0


def test_there_is_no_macro_area_without_a_clip_of_both_kinds():
    found = areas({"a": np.zeros(2), "b": np.ones(2)}, {"a": np.zeros(2, bool), "b": np.ones(2, bool)})
    assert found.micro == 1.0
    assert math.isnan(found.macro)
