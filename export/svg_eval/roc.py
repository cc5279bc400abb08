"""How well scores tell anomalous frames from normal ones: area under the ROC curve and average precision, micro and macro."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.floating]
Labels = NDArray[np.bool_]


def roc_area(scores: Scores, anomalous: Labels) -> float:
    """Probability that an anomalous frame scores above a normal one, ties counting half: the area under the ROC curve.

    Args:
        scores: (n,).
        anomalous: (n,) labels, of which both values occur.

    Raises:
        ValueError: there are no anomalous or no normal frames.
    """
    _, which, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # of each distinct score, from 1; ties share their mean
    positives, negatives = int(anomalous.sum()), int((~anomalous).sum())
    if not positives or not negatives:
        raise ValueError("a ROC area needs anomalous and normal frames")
    return float((ranks[which][anomalous].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(scores: Scores, anomalous: Labels) -> float:
    """Sum over thresholds of precision times the step in recall: the area under the precision-recall curve, without trapezoids.

    Equal scores pass a threshold together. By chance it is the share of anomalous frames.

    Args:
        scores: (n,).
        anomalous: (n,) labels, of which some are true.

    Raises:
        ValueError: there are no anomalous frames.
    """
    if not anomalous.any():
        raise ValueError("an average precision needs anomalous frames")
    _, which, above = np.unique(-scores, return_inverse=True, return_counts=True)  # from the highest score downwards
    found = np.bincount(which, anomalous)
    precision = np.cumsum(found) / np.cumsum(above)
    return float((precision * found).sum() / found.sum())


@dataclass(frozen=True)
class Areas:
    """A measure over all clips.

    Attributes:
        micro: of the frames of all clips together, which is what most papers report.
        macro: mean over the clips that have both kinds of frames; nan if none has.
    """

    micro: float
    macro: float


def areas(
    scores: Mapping[str, Scores], labels: Mapping[str, Labels], measure: Callable[[Scores, Labels], float] = roc_area
) -> Areas:
    """The measure of the frames that have a score.

    Args:
        scores: of each clip (T,), nan where a frame has none.
        labels: of each clip (T,).
        measure: `roc_area` or `average_precision`.

    Raises:
        ValueError: the frames of all clips together are all normal or all anomalous.
    """
    known = {name: np.isfinite(each) for name, each in scores.items()}
    all_scores = np.concatenate([scores[name][mask] for name, mask in known.items()])
    all_labels = np.concatenate([labels[name][mask] for name, mask in known.items()])
    each = [
        measure(scores[name][mask], labels[name][mask])
        for name, mask in known.items()
        if 0 < labels[name][mask].sum() < mask.sum()
    ]
    return Areas(measure(all_scores, all_labels), float(np.mean(each)) if each else float("nan"))
