"""Cameras at this machine by address: v4l2://N, csi://N of a Jetson, and any pipeline of GStreamer."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import textwrap
from dataclasses import dataclass, field
from fractions import Fraction

from svg_common.errors import UsageError
from svg_runtime.errors import BackendMissingError
from svg_runtime.live.sources.camera_settings import CameraSettings
from svg_runtime.machine.opencv import GSTREAMER_ADVICE

MOST_CAMERA_INDEX = 99  # of what OpenCV chooses how to open: a greater number names a library of it, not a camera
LOCAL_SCHEMES = ("v4l2", "csi", "gstreamer")
_CSI_SIZE_WH, _CSI_FPS = (1280, 720), 30.0  # what every sensor of a Jetson can; models see far less
_GSTREAMER_RESPONSE_S = 35.0  # OpenCV waits 30 s for a picture of a pipeline
OPEN_TIMEOUT_S = 20.0  # of a pipeline
_V4L2_RESPONSE_S = 12.0  # V4L2 aborts a read after 10 s
_AFTER_NAME = re.compile(r"[^\w-]")  # of the first element; what follows may hold a password
_SINK = re.compile(r"[a-z0-9]*sink\b")  # fakesink, autovideosink, ...
_APPSINK = "appsink drop=true max-buffers=1 sync=false"  # the newest picture, without a queue


@dataclass(frozen=True)
class LocalCamera:
    """A camera as OpenCV opens it.

    Attributes:
        name: in messages. Of a pipeline only the name of its first element: the rest may hold a password.
        device: index, path of the device, or pipeline.
        api: OpenCV's number of the library that opens it, such as `cv2.CAP_V4L2`.
        settings: what is set on the device after it was opened.
        response_s: longest time in which it reports that there is no picture.
        advice: how to test it without svg-live.
    """

    name: str
    device: int | str
    api: int = 0  # cv2.CAP_ANY
    settings: CameraSettings = field(default_factory=CameraSettings)
    response_s: float = _V4L2_RESPONSE_S
    advice: str = ""

    @property
    def may_hang(self) -> bool:
        """Whether opening it may never end: OpenCV waits for the first picture of a pipeline that lacks an element."""
        import cv2  # late: help and completion load this module

        return self.api == cv2.CAP_GSTREAMER

    @property
    def index(self) -> int | None:
        """The N of /dev/videoN, if that is the device or what its name leads to, such as one in /dev/v4l/by-id."""
        device = self.device if isinstance(self.device, int) else os.path.realpath(self.device)
        found = re.fullmatch(r"(?:/dev/video)?(\d+)", str(device))
        return int(found[1]) if found else None


def is_local_camera(source: str) -> bool:
    """Whether a source is the address of a camera at this machine."""
    scheme, separator, _ = source.partition("://")
    return bool(separator) and scheme.lower() in LOCAL_SCHEMES


def find_local_camera(source: str, settings: CameraSettings) -> LocalCamera:
    """Return the camera that an address names, without opening it.

    Raises:
        UsageError: the address or the pipeline is invalid, or the settings do not apply to it.
        BackendMissingError: this OpenCV was built without what opens it.
    """
    scheme, _, rest = source.partition("://")
    if scheme.lower() == "v4l2":
        return _v4l2_camera(rest, settings)
    if scheme.lower() == "csi":
        return _csi_camera(rest, settings)
    return _pipeline_camera(rest, settings)


def has_gstreamer() -> bool:
    """Whether this OpenCV can open pipelines of GStreamer."""
    import cv2  # late: help and completion load this module

    return bool(cv2.videoio_registry.hasBackend(cv2.CAP_GSTREAMER))


def _v4l2_camera(rest: str, settings: CameraSettings) -> LocalCamera:
    import cv2

    if not (re.fullmatch(r"\d{1,3}", rest) or rest.startswith("/dev/")):
        raise UsageError(
            f"the source 'v4l2://{rest}' does not name a camera\n"
            "  expected v4l2://0, v4l2:///dev/video0, or v4l2:///dev/v4l/by-id/..., which does not\n"
            "  change when cameras are plugged in; svg-live --list-cameras shows the cameras"
        )
    if not cv2.videoio_registry.hasBackend(cv2.CAP_V4L2):
        raise BackendMissingError(
            f"v4l2://{rest} needs an OpenCV with Video4Linux, which this one was built without\n"
            f"  let OpenCV choose another way: --camera {rest.removeprefix('/dev/video')}"
        )
    device = int(rest) if rest.isdigit() else rest
    return LocalCamera(name=f"v4l2://{rest}", device=device, api=cv2.CAP_V4L2, settings=settings)


def _csi_camera(rest: str, settings: CameraSettings) -> LocalCamera:
    import cv2

    if not re.fullmatch(r"\d+", rest):
        raise UsageError(
            f"the source 'csi://{rest}' does not name a camera\n  expected its number on the Jetson, such as csi://0"
        )
    _require_gstreamer(f"csi://{rest}")
    _require_element("nvarguscamerasrc", f"csi://{rest}")
    test = f"gst-launch-1.0 nvarguscamerasrc sensor-id={rest} num-buffers=30 ! fakesink"
    return LocalCamera(
        name=f"csi://{rest}", device=csi_pipeline(int(rest), settings), api=cv2.CAP_GSTREAMER,
        response_s=_GSTREAMER_RESPONSE_S,
        advice=f"test the camera with: {test}",
    )  # fmt: skip


def _pipeline_camera(rest: str, settings: CameraSettings) -> LocalCamera:
    import cv2

    pipeline = complete_pipeline(rest)
    name = f"gstreamer://{_AFTER_NAME.split(pipeline, maxsplit=1)[0]} ..."
    if settings:
        raise UsageError(
            "--camera-size and --camera-fps do not apply to a pipeline\n"
            "  write them into it, such as: ... ! video/x-raw,width=1280,height=720,framerate=30/1 ! ..."
        )
    _require_gstreamer(name)
    return LocalCamera(
        name=name, device=pipeline, api=cv2.CAP_GSTREAMER, response_s=_GSTREAMER_RESPONSE_S,
        advice="test the pipeline with gst-launch-1.0 and fakesink at its end; GST_DEBUG=3 shows what is wrong",
    )  # fmt: skip


def csi_pipeline(number: int, settings: CameraSettings) -> str:
    """Return the pipeline of a CSI camera of a Jetson: its image processor scales, and converts but for the last step."""
    width, height = settings.size_wh or _CSI_SIZE_WH
    rate = Fraction(settings.fps or _CSI_FPS).limit_denominator(1001)
    caps = f"video/x-raw(memory:NVMM),width={width},height={height},framerate={rate.numerator}/{rate.denominator}"
    return (
        f"nvarguscamerasrc sensor-id={number} ! {caps} ! nvvidconv ! video/x-raw,format=BGRx "
        f"! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"
    )


def complete_pipeline(pipeline: str) -> str:
    """Return a pipeline with an appsink at its end, which gives the newest picture to OpenCV; one that has it stays as it is.

    Raises:
        UsageError: there is no pipeline, or it ends in another sink, which would take the pictures.
    """
    pipeline = pipeline.strip().rstrip("!").rstrip()
    if not pipeline:
        raise UsageError(
            "gstreamer:// without a pipeline\n  expected, for example, 'gstreamer://v4l2src device=/dev/video0 ! videoconvert'"
        )
    if re.search(r"\bappsink\b", pipeline):
        return pipeline
    last = (pipeline.rpartition("!")[2].split() or [""])[0]
    if _SINK.fullmatch(last):
        raise UsageError(
            f"the pipeline ends in {last}, which takes its pictures\n  leave '! {last}' out: an appsink is added here"
        )
    return f"{pipeline} ! videoconvert ! video/x-raw,format=BGR ! {_APPSINK}"


def _require_gstreamer(name: str) -> None:
    import cv2

    if not has_gstreamer():
        raise BackendMissingError(
            f"{name} needs GStreamer, which this OpenCV ({cv2.__version__}) was built without, as all from PyPI are\n"
            f"{textwrap.indent(GSTREAMER_ADVICE, '  ')}"
        )


def _require_element(element: str, name: str) -> None:
    """Refuse where GStreamer's own tool says that it lacks an element; where there is no tool, opening will tell."""
    tool = shutil.which("gst-inspect-1.0")
    if tool is not None and subprocess.run([tool, "--exists", element], check=False).returncode != 0:
        raise BackendMissingError(
            f"{name} needs GStreamer's element {element}, which this machine does not have: only a Jetson with JetPack has it\n"
            "  other cameras: svg-live --list-cameras, and --camera N or --source v4l2://N"
        )
