"""Types of what errors hold."""

from __future__ import annotations

from typing import get_type_hints

from svg_runtime.errors import CamerasError
from svg_runtime.forecast.forecaster import Observation
from svg_runtime.forecast.noise import FloatArray


def test_the_results_of_the_other_cameras_have_a_type():
    hints = get_type_hints(CamerasError, localns={"Observation": Observation, "FloatArray": FloatArray})
    assert hints["results"] == dict[int, Observation] | dict[int, FloatArray]
