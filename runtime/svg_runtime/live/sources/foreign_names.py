"""Sources as other programs name them, such as OpenCV's camera index or a bare GStreamer pipeline: the line that works here."""

from __future__ import annotations

import re
from pathlib import Path

from svg_common.errors import UsageError
from svg_common.path_advice import path_advice, path_of_file_url, shell_argument
from svg_runtime.live.sources.addresses import is_stream_address
from svg_runtime.live.sources.local_cameras import has_gstreamer

_CAMERA = re.compile(r"(?:v4l2:(?://)?)?(?:/dev/video)?(\d+)", re.IGNORECASE)
_PIPELINE = re.compile(r"\s!\s")  # between two elements of GStreamer
_DEVICE = re.compile(r"\bdevice=\"?/dev/video(\d+)")
_LOCATION = re.compile(r"\b(?:location|uri)=(\"[^\"]+\"|\S+)")
# user:password@host, an address without rtsp://; a folder may have been put before it
_LOGIN = re.compile(r"(?:.*/)?[^/@]*:[^@]*@.+", re.DOTALL)
_MPEG_TS = "gst-launch-1.0 ... ! h264parse ! mpegtsmux ! udpsink host=127.0.0.1 port=5000"


def camera_number(source: str) -> int | None:
    """The index of the local camera that a source names, such as 0 or /dev/video0; None if it names something else."""
    found = _CAMERA.fullmatch(source)
    path = Path(source)
    return int(found[1]) if found and not path.is_file() and not path.is_dir() else None


def is_foreign_name(source: str) -> bool:
    """Whether a source is written as for another program. It means a path only where there is one; a pattern always does."""
    patterns = _CAMERA.fullmatch(source), _PIPELINE.search(source), _LOGIN.fullmatch(source)
    return any(patterns) or path_of_file_url(source) is not None


def refuse_foreign_name(source: str) -> None:
    """Refuse what is neither a path nor an address here, but a source for another program.

    Raises:
        UsageError: `source` is the number of a camera, a file: URL, a pattern of names, a GStreamer pipeline without
            gstreamer://, or an address without its scheme.
    """
    try:
        if Path(source).exists():
            return
    except OSError:  # too long for a path, as a pipeline may be
        pass
    camera = _CAMERA.fullmatch(source)
    if camera:
        raise _refusal(source, "is a camera", f"give it with: --camera {camera[1]}")
    if _PIPELINE.search(source):
        raise _refusal(source.split()[0] + " ...", "is a GStreamer pipeline", _instead_of_pipeline(source))
    if is_stream_address(source) and not source.lower().startswith("file:"):  # its query begins with ?: no pattern
        return
    if _LOGIN.fullmatch(source):  # no message repeats a password
        raise UsageError(
            "the source is not a file or folder, and seems to have a user name and a password\n"
            "  give the whole address: --source rtsp://..."
        )
    advice = path_advice("--source", source)
    if advice is not None:
        raise _refusal(source, "is not a file or folder", advice)


def _instead_of_pipeline(pipeline: str) -> str:
    if has_gstreamer():  # the pipeline is not repeated: it may hold a password
        return "give it with gstreamer:// before it: --source 'gstreamer://ELEMENT ! ELEMENT'"
    device, location = _DEVICE.search(pipeline), _LOCATION.search(pipeline)
    if device or pipeline.startswith("v4l2src"):
        return f"give the camera with: --camera {device[1] if device else 0}"
    if location:
        place = location[1].strip('"')
        if "://" in place:  # it may hold a password, which no message repeats
            return "give the address alone: --source rtsp://..."
        return f"give the file: --source {shell_argument(place)}"
    return f"this OpenCV has no GStreamer; let it send its video here: {_MPEG_TS}\n  and read that with: --source udp://127.0.0.1:5000"


def _refusal(source: str, problem: str, advice: str) -> UsageError:
    return UsageError(f"the source '{source}' {problem}\n  {advice}")
