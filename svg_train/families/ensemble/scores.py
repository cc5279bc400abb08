"""Scores of an ensemble of forecasts, which are smallest on average if the samples are drawn as the truth is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-6  # under the root: where two samples are equal its slope would be infinite


def fair_crps(members: Tensor, truth: Tensor, fairness: float = 1.0) -> Tensor:
    """Continuous ranked probability score of every value by itself, averaged over each sequence.

    mean |x_i - y| - fairness sum_{i < j} |x_i - x_j| / (M (M - 1)). With fairness 1 it is fair: the number of members does not
    change its expectation (Ferro 2014, "Fair scores for ensemble forecasts"). But if the truth is certain, a member that is
    wrong with probability q by d costs q^2 d, next to nothing; with less fairness it costs at least (1 - fairness) q d
    (Lang et al. 2024, "AIFS-CRPS": almost fair).

    Args:
        members: (T, M, B, C, H, W), M at least 2.
        truth: (T, B, C, H, W).
        fairness: from 0 to 1.

    Returns:
        (B,).
    """
    return _score(members, truth, fairness, lambda one, other: (one - other).abs().mean(dim=(0, 2, 3, 4)))


def patch_energy(members: Tensor, truth: Tensor, side: int, fairness: float = 1.0) -> Tensor:
    """Energy score of square patches, in root mean squared error of a patch, averaged over all.

    The energy score (Gneiting and Raftery 2007, equation 22) generalises the CRPS to vectors: a sample must be right as a
    whole, not only pixel by pixel.

    Args:
        members: (T, M, B, C, H, W), M at least 2.
        truth: (T, B, C, H, W).
        side: of a patch in pixels; those at the right and at the bottom are smaller where it does not divide the frame's.
        fairness: as for `fair_crps`.

    Returns:
        (B,).
    """

    def distance(one: Tensor, other: Tensor) -> Tensor:
        squares = functional.avg_pool2d(((one - other) ** 2).mean(2), side, ceil_mode=True)
        return (squares + _TINY).sqrt().mean(dim=(0, 2, 3))

    return _score(members, truth, fairness, distance)


def _score(members: Tensor, truth: Tensor, fairness: float, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean distance of the members from the truth, less half of that between two of them, times the fairness."""
    each = members.unbind(1)
    between = torch.stack([distance(one, other) for one, other in combinations(each, 2)]).mean(0)
    return torch.stack([distance(member, truth) for member in each]).mean(0) - fairness * between / 2
