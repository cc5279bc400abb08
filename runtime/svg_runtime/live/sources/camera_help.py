"""Help for a camera that cannot be opened: existing devices, permissions, and sources that need no camera."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from svg_runtime.live.sources.capture import NoPictureError, open_capture
from svg_runtime.live.sources.local_cameras import MOST_CAMERA_INDEX, LocalCamera
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL

_INDICES_TO_TRY = 4


def explain_missing_camera(camera: LocalCamera, reason: str, try_others: bool) -> str:
    """Write the message for a camera that cannot be opened or delivers no frames, from the state of this machine.

    Args:
        camera: that one.
        reason: what is wrong with it.
        try_others: open the other cameras, to name those that work. This takes seconds, and disturbs programs that use them.
    """
    if camera.advice:
        return f"{camera.name}: {reason}\n  {camera.advice}"
    devices = sorted(Path("/dev").glob("video*"))
    lines = [f"{camera.name}: {reason}"]
    if sys.platform.startswith("linux"):
        lines.append(
            "  devices: "
            + (" ".join(map(str, devices)) or "none (no /dev/video*: not plugged in, or not passed into the container)")
        )
        lines += _permission_lines(devices)
    others = [other for other in _candidates(devices) if other != camera.index] if try_others else []
    working = [other for other in others if _delivers_frames(other)]
    lines += [f"  this camera works: --camera {other}" for other in working]
    if devices:
        lines.append("  what they are, and their sizes and rates: svg-live --list-cameras")
    if devices and not working:
        lines.append("  another program may be using the camera: close it and try again")
    lines.append(f"  to run without a camera: --source {SYNTHETIC_URL}, or --source FILE with a video")
    return "\n".join(lines)


def _permission_lines(devices: list[Path]) -> list[str]:
    closed = [str(device) for device in devices if not os.access(device, os.R_OK | os.W_OK)]
    if not closed:
        return []
    return [f"  no permission for {' '.join(closed)}: sudo usermod -aG video $USER, then log in again"]


def _candidates(devices: list[Path]) -> list[int]:
    if not sys.platform.startswith("linux"):
        return list(range(_INDICES_TO_TRY))
    numbers = (device.name.removeprefix("video") for device in devices)
    return sorted(int(number) for number in numbers if number.isdigit() and int(number) <= MOST_CAMERA_INDEX)


def _delivers_frames(index: int) -> bool:
    try:
        open_capture(index).release()
    except NoPictureError:
        return False
    return True
