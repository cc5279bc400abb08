"""The displayed picture: one class per panel, each with `draw_static` and `annotate`, composed by `ForecastPicture`."""

from svg_runtime.live.overlay.picture import ForecastPicture, check_display, least_display
from svg_runtime.live.overlay.view import Caption, View

__all__ = ["Caption", "ForecastPicture", "View", "check_display", "least_display"]
