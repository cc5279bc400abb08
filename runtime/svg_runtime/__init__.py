"""Torch-free runtime of svg-edge: opens a bundle and forecasts video with a recurrent loop on the device.

with Forecaster.open("ckpt.svgb", samples=8, horizon=10) as forecaster:
    forecaster.observe(frame)
    futures = forecaster.forecast()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svg_runtime.forecast.batch import BatchForecaster
    from svg_runtime.forecast.forecaster import Forecaster, Observation
    from svg_runtime.forecast.scores import ForecastScore

    __version__: str

__all__ = ["BatchForecaster", "ForecastScore", "Forecaster", "Observation", "__version__"]


def __getattr__(name: str) -> Any:
    """Import the forecaster and look up the version on first use, so that `import svg_runtime` stays fast."""
    if name in ("Forecaster", "Observation"):
        from svg_runtime.forecast import forecaster

        return getattr(forecaster, name)
    if name == "BatchForecaster":
        from svg_runtime.forecast.batch import BatchForecaster

        return BatchForecaster
    if name == "ForecastScore":
        from svg_runtime.forecast.scores import ForecastScore

        return ForecastScore
    if name == "__version__":
        from svg_common.version import installed_version

        return installed_version()
    raise AttributeError(f"module 'svg_runtime' has no attribute '{name}'")
