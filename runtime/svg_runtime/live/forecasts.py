"""What the live loop asks of the model: observations and forecasts of several cameras at once, by the cameras' numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from svg_runtime.bundle.manifest import Manifest
from svg_runtime.forecast.context import SurpriseUnit
from svg_runtime.forecast.forecaster import Forecaster, Observation
from svg_runtime.forecast.model import ContextMode


class CameraForecasts(Protocol):
    """A `BatchForecaster`, or a `Forecaster` of one camera."""

    manifest: Manifest
    samples: int
    horizon: int
    context: ContextMode

    @property
    def description(self) -> str:
        """See `Forecaster`."""
        ...

    @property
    def surprise_unit(self) -> SurpriseUnit | None:
        """See `Forecaster`."""
        ...

    def warm_up(self, counts: Sequence[tuple[int, int]] = ()) -> None:
        """See `Forecaster`."""
        ...

    def observe(self, frames: Mapping[int, NDArray[np.float32]]) -> dict[int, Observation]:
        """Read the next frame of each of these cameras."""
        ...

    def forecast(
        self, cameras: Sequence[int], samples: int | None = None, horizon: int | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """Sample futures of each of these cameras, (samples, horizon, H, W, C)."""
        ...

    def ready(self, camera: int) -> bool:
        """Whether it has seen enough frames for a forecast."""
        ...

    def reset(self, camera: int) -> None:
        """Forget the frames of a camera."""
        ...


class OneCamera:
    """The forecasts of one camera, number 0."""

    def __init__(self, forecaster: Forecaster) -> None:
        self._forecaster = forecaster
        self.manifest = forecaster.manifest
        self.samples = forecaster.samples
        self.horizon = forecaster.horizon
        self.context = forecaster.context

    @property
    def description(self) -> str:
        """See `Forecaster`."""
        return self._forecaster.description

    @property
    def surprise_unit(self) -> SurpriseUnit | None:
        """See `Forecaster`."""
        return self._forecaster.surprise_unit

    def warm_up(self, counts: Sequence[tuple[int, int]] = ()) -> None:
        """See `Forecaster`."""
        self._forecaster.warm_up(counts)

    def observe(self, frames: Mapping[int, NDArray[np.float32]]) -> dict[int, Observation]:
        """See `CameraForecasts`."""
        return {camera: self._forecaster.observe(frame) for camera, frame in frames.items()}

    def forecast(
        self, cameras: Sequence[int], samples: int | None = None, horizon: int | None = None
    ) -> dict[int, NDArray[np.float32]]:
        """See `CameraForecasts`."""
        return {camera: self._forecaster.forecast(samples, horizon) for camera in cameras}

    def ready(self, camera: int) -> bool:
        """See `CameraForecasts`."""
        return self._forecaster.ready

    def reset(self, camera: int) -> None:
        """See `CameraForecasts`."""
        self._forecaster.reset()
