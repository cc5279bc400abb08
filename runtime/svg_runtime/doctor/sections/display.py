"""The display: which kind, and whether a window opens."""

from __future__ import annotations

import os
import sys

from svg_common.errors import first_line
from svg_runtime.doctor.finding import Finding

_HEADLESS = "svg-live --headless --output forecast.mp4"


def check() -> list[Finding]:
    """Open a window for a moment. Where that aborts the process, the report says so."""
    kind = display_kind()
    if kind is None:
        reason = "neither Wayland nor X11 (WAYLAND_DISPLAY, DISPLAY)"
        return [Finding("display", "missing", reason, f"run without: {_HEADLESS}")]
    return [_window(kind)]


def display_kind() -> str | None:
    """Wayland, X11, or the name of another system; None without any."""
    if not sys.platform.startswith("linux"):
        return sys.platform
    kinds = [kind for kind, name in (("Wayland", "WAYLAND_DISPLAY"), ("X11", "DISPLAY")) if os.environ.get(name)]
    return " and ".join(kinds) or None


def _window(kind: str) -> Finding:
    import cv2

    try:
        cv2.namedWindow("svg-doctor")
        cv2.waitKey(1)
        cv2.destroyAllWindows()
    except cv2.error as error:
        reason = first_line(error)
        return Finding("display", "missing", f"{kind}, and no window opens: {reason}", f"run without: {_HEADLESS}")
    return Finding("display", "ok", f"{kind}; a window opens")
