"""Local cameras: what the kernel lists, and whether this user may open them."""

from __future__ import annotations

import sys

from svg_runtime.doctor.finding import Finding
from svg_runtime.machine.v4l2 import Camera, v4l2_cameras


def check() -> list[Finding]:
    """Open every device, without reading a picture from it."""
    if not sys.platform.startswith("linux"):
        return [Finding("cameras", "info", "this system does not list them; try: svg-live --camera 0")]
    return camera_findings(v4l2_cameras())


def camera_findings(cameras: list[Camera]) -> list[Finding]:
    """A finding for each camera, or how to do without."""
    if not cameras:
        advice = "a camera on the network: svg-live --source rtsp://HOST/PATH\nin Docker, pass it in: --device /dev/video0"
        return [Finding("cameras", "missing", "none: not plugged in, or not passed into the container", advice)]
    return [_finding(camera) for camera in cameras]


def _finding(camera: Camera) -> Finding:
    node = f"video{camera.index}"
    if camera.problem is not None:
        return Finding(node, "problem", f"{camera.name}: {camera.problem}", camera.advice)
    return Finding(node, "ok", f"{camera.name}; this user may open it")
