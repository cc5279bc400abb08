"""Local cameras: their device nodes, and whether this user may open them."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from svg_runtime.doctor.finding import Finding


def check() -> list[Finding]:
    """Open every device, without reading a picture from it."""
    if not sys.platform.startswith("linux"):
        return [Finding("cameras", "info", "this system does not list them; try: svg-live --camera 0")]
    return camera_findings(Path("/"))


def camera_findings(root: Path) -> list[Finding]:
    """The devices below `root`, the root of the file system."""
    nodes = sorted((root / "dev").glob("video*"), key=lambda node: (len(node.name), node.name))
    if not nodes:
        advice = "a camera on the network: svg-live --source rtsp://HOST/PATH\nin Docker, pass it in: --device /dev/video0"
        return [Finding("cameras", "missing", "no /dev/video*: not plugged in, or not passed into the container", advice)]
    return [_look(node, root) for node in nodes]


def _look(node: Path, root: Path) -> Finding:
    named = root / "sys/class/video4linux" / node.name / "name"
    name = named.read_text(encoding="utf-8", errors="replace").strip() if named.is_file() else "unknown device"
    try:
        os.close(os.open(node, os.O_RDWR | os.O_NONBLOCK))
    except OSError as error:
        reason, advice = _problem(name, node, error)
        return Finding(node.name, "problem", reason, advice)
    return Finding(node.name, "ok", f"{name}; this user may open it")


def _problem(name: str, node: Path, error: OSError) -> tuple[str, str]:
    """Why the device does not open, and what to do."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"{name}: no permission", f"sudo usermod -aG {_group(node)} $USER; log in again"
    if error.errno == errno.EBUSY:
        return f"{name}: another program is using it", f"close it; find it with: fuser -v /dev/{node.name}"
    return f"{name}: {error.strerror}", "unplug the camera, and plug it in again"


def _group(node: Path) -> str:
    """The group of the device, which is video nearly everywhere."""
    import grp

    try:
        return grp.getgrgid(node.stat().st_gid).gr_name
    except (KeyError, OSError):
        return "video"
