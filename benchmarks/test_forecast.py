"""Latency of what an application calls for each camera frame: observe, then forecast 10 steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from svg_runtime.backends.base import Backend


def test_observe(measured: Any, backend: Backend, frames: np.ndarray, primed: Any) -> None:
    forecaster = primed(backend, 1)
    measured.group = "observe and forecast"
    measured(forecaster.observe, frames[0])


@pytest.mark.parametrize("samples", [1, 8])
def test_observe_and_forecast(measured: Any, backend: Backend, frames: np.ndarray, primed: Any, samples: int) -> None:
    forecaster = primed(backend, samples)

    def camera_frame() -> np.ndarray:
        forecaster.observe(frames[0])
        return forecaster.forecast()

    measured.group = "observe and forecast"
    assert measured(camera_frame).shape == (samples, forecaster.horizon, *frames.shape[1:])
