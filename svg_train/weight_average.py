"""The moving average of weights that is evaluated and saved."""

from __future__ import annotations

import math
from collections.abc import Callable

from torch import Tensor
from torch.optim.swa_utils import get_ema_multi_avg_fn

Tensors = tuple[Tensor, ...] | list[Tensor]


def warming_average(decay: float) -> Callable[[Tensors, Tensors, Tensor | int], None]:
    """An exponential moving average for `AveragedModel` that forgets the weights it began with.

    With a constant decay of 0.999, the random weights of the beginning still are 60 % of the average after 500 steps. After n
    steps the decay is (1 + n) / (10 + n), until that exceeds `decay`.
    """

    def update(averaged: Tensors, current: Tensors, steps: Tensor | int) -> None:
        count = int(steps)
        get_ema_multi_avg_fn(min(decay, (1 + count) / (10 + count)))(averaged, current, steps)

    return update


def warm_up_steps(decay: float) -> int:
    """Steps until `warming_average` has reached its decay. An average of weights that were trained before begins there."""
    return math.ceil((10 * decay - 1) / (1 - decay))
