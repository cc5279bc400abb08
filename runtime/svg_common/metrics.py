"""PSNR of frames in [0, 1]: one definition and one cap for training, evaluation, the runtime and the benchmarks."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

MIN_MSE = 1e-12  # smaller errors count as this one: equal frames have 120 dB, not infinity


def mean_squared_error(a: NDArray[Any], b: NDArray[Any]) -> float:
    """Mean squared difference of two arrays over all their values, in their own precision."""
    return float(np.mean((a - b) ** 2))


def psnr(mse: float) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error, for frames in [0, 1]; at most 120 dB."""
    return -10 * math.log10(max(mse, MIN_MSE))
