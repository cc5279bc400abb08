"""What the page can show; free of OpenCV and of the web server."""

from __future__ import annotations

from svg_runtime.live.overlay.names import LEAST_TILE_WH

# live: without an overlay; the others as --overlay.
OVERLAYS = ("live", "ghost", "contours", *(name for name in LEAST_TILE_WH if name not in ("ghost", "contours")))
WHOLE_PICTURE = ("live", "ghost", "contours")  # these are as large as the source's picture, so that a region can be drawn there
