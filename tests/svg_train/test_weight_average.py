"""The average of weights: soon without those of the beginning, later as slow as it was asked for."""

from __future__ import annotations

import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from svg_train.weight_average import warming_average


def averages(decay: float, steps: int) -> list[float]:
    """Of a weight that is 0 at first and 1 from then on, after each step."""
    model = torch.nn.Linear(1, 1, bias=False)
    average = AveragedModel(model, multi_avg_fn=warming_average(decay), use_buffers=True)
    found = []
    for step in range(steps):
        torch.nn.init.constant_(model.weight, float(step > 0))
        average.update_parameters(model)
        found.append(average.module.weight.item())
    return found


def test_the_weights_of_the_beginning_are_forgotten_within_some_steps():
    assert averages(0.999, 10)[-1] > 0.999


def test_in_the_long_run_it_is_as_slow_as_asked_for():
    *_, before, after = averages(0.5, 12)
    assert 1 - after == pytest.approx((1 - before) * 0.5, rel=1e-2)
