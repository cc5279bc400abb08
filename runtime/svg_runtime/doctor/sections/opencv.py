"""What OpenCV was built with: a window, GStreamer, cameras of the system."""

from __future__ import annotations

import re

from svg_runtime.doctor.finding import Finding
from svg_runtime.machine.opencv import GSTREAMER_ADVICE

_REINSTALL = "pip install --force-reinstall opencv-python"


def check() -> list[Finding]:
    """Read OpenCV's own description of its build."""
    import cv2

    return build_findings(cv2.getBuildInformation())


def build_findings(information: str) -> list[Finding]:
    """Findings from the text of `cv2.getBuildInformation()`."""
    gui, gstreamer, v4l = (_entry(information, name) for name in ("GUI", "GStreamer", "v4l/v4l2"))
    return [
        _finding("OpenCV window", gui, f"pip uninstall -y opencv-python-headless; {_REINSTALL}"),
        _finding("OpenCV GStreamer", gstreamer, f"only csi:// and gstreamer:// need it\n{GSTREAMER_ADVICE}"),
        _finding("OpenCV V4L2", v4l, f"local cameras of Linux need it; {_REINSTALL}"),
    ]


def _finding(name: str, built_with: str, advice: str) -> Finding:
    if built_with in ("", "NO", "NONE"):
        return Finding(name, "missing", "this OpenCV was built without it", advice)
    return Finding(name, "ok", built_with)


def _entry(information: str, name: str) -> str:
    found = re.search(rf"^\s*{re.escape(name)}:[ \t]*(.*)$", information, re.MULTILINE)
    return found[1].strip() if found else ""
