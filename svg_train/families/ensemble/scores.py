"""Scores of an ensemble of forecasts, which are smallest on average if the samples are drawn as the truth is."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

_TINY = 1e-6  # under the root: where two samples are equal its slope would be infinite


def fair_crps(members: Tensor, truth: Tensor) -> Tensor:
    """Continuous ranked probability score of every value by itself, averaged over each sequence.

    mean |x_i - y| - sum_{i < j} |x_i - x_j| / (M (M - 1)): fair, so that the number of members does not change its expectation
    (Ferro 2014, "Fair scores for ensemble forecasts").

    Args:
        members: (T, M, B, C, H, W), M at least 2.
        truth: (T, B, C, H, W).

    Returns:
        (B,).
    """
    return _fair(members, truth, lambda one, other: (one - other).abs().mean(dim=(0, 2, 3, 4)))


def patch_energy(members: Tensor, truth: Tensor, side: int) -> Tensor:
    """Fair energy score of square patches, in root mean squared error of a patch, averaged over all.

    The energy score (Gneiting and Raftery 2007, equation 22) generalises the CRPS to vectors: a sample must be right as a
    whole, not only pixel by pixel.

    Args:
        members: (T, M, B, C, H, W), M at least 2.
        truth: (T, B, C, H, W).
        side: of a patch in pixels; a smaller frame is one patch.

    Returns:
        (B,).
    """
    side = min(side, *truth.shape[-2:])

    def distance(one: Tensor, other: Tensor) -> Tensor:
        squares = functional.avg_pool2d(((one - other) ** 2).mean(2), side)
        return (squares + _TINY).sqrt().mean(dim=(0, 2, 3))

    return _fair(members, truth, distance)


def _fair(members: Tensor, truth: Tensor, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Mean distance of the members from the truth, less half of that between two of them."""
    each = members.unbind(1)
    between = torch.stack([distance(one, other) for one, other in combinations(each, 2)]).mean(0)
    return torch.stack([distance(member, truth) for member in each]).mean(0) - between / 2
