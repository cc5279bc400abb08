"""Torch-free runtime of svg-edge: opens a bundle and forecasts video with a recurrent loop on the device.

with Forecaster.open("ckpt.svgb", samples=8, horizon=10) as forecaster:
    forecaster.observe(frame)
    futures = forecaster.forecast()
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from svg_runtime.forecast.forecaster import Forecaster, Observation
    from svg_runtime.forecast.scores import ForecastScore

__version__ = "0.1.0"
__all__ = ["ForecastScore", "Forecaster", "Observation", "__version__"]


def __getattr__(name: str) -> Any:
    """Load the forecaster on first use, so that `import svg_runtime` stays instant."""
    if name in ("Forecaster", "Observation"):
        from svg_runtime.forecast import forecaster

        return getattr(forecaster, name)
    if name == "ForecastScore":
        from svg_runtime.forecast.scores import ForecastScore

        return ForecastScore
    raise AttributeError(f"module 'svg_runtime' has no attribute '{name}'")
