"""Cameras at this machine by address: what they are opened with, what is asked of them, and why one is refused."""

from __future__ import annotations

import threading

import cv2
import numpy as np
import pytest
from typer.testing import CliRunner

from svg_common.errors import ExitCode, UsageError
from svg_runtime.errors import BackendMissingError, SourceLostError
from svg_runtime.live.cli import app
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources import SourceOptions, check_source, local_cameras, open_source
from svg_runtime.live.sources.camera_settings import CameraSettings, parse_camera_settings
from svg_runtime.live.sources.capture import NoPictureError
from svg_runtime.live.sources.local_cameras import complete_pipeline, csi_pipeline, find_local_camera
from svg_runtime.live.sources.opening import DeviceOpener
from svg_runtime.live.stop import StopRequest

NOTHING = CameraSettings()
needs_v4l2 = pytest.mark.skipif(not cv2.videoio_registry.hasBackend(cv2.CAP_V4L2), reason="this OpenCV has no V4L2")


@pytest.fixture
def gstreamer(monkeypatch):
    """An OpenCV with GStreamer, which those of PyPI are not: nothing is opened with it."""
    monkeypatch.setattr(local_cameras, "has_gstreamer", lambda: True)
    monkeypatch.setattr(local_cameras.shutil, "which", lambda name: None)


@needs_v4l2
@pytest.mark.parametrize(
    ("source", "device", "index"),
    [
        ("v4l2://3", 3, 3),
        ("V4L2://3", 3, 3),
        ("v4l2:///dev/video12", "/dev/video12", 12),
        ("v4l2:///dev/v4l/by-id/usb-Cam", "/dev/v4l/by-id/usb-Cam", None),
    ],
)
def test_a_camera_of_v4l2_by_number_and_by_path(source, device, index):
    camera = find_local_camera(source, NOTHING)
    assert (camera.device, camera.index, camera.api) == (device, index, cv2.CAP_V4L2)


@pytest.mark.parametrize(
    "source", ["v4l2://", "v4l2://front", "v4l2://99999999999999", "csi://", "csi://front", "gstreamer://", "gstreamer:// ! "]
)
def test_an_address_that_names_no_camera_says_how_one_is_written(source):
    with pytest.raises(UsageError, match="expected"):
        check_source(SourceOptions(source=source))


def test_a_number_that_opencv_takes_for_something_else_is_refused():
    """From 100 on it has the number of a library; it has none of more than 32 bits."""
    for number in (100, 99999999999999):
        with pytest.raises(UsageError, match=rf"--camera {number} is not a camera.*\n  .* --source v4l2:///dev/videoN"):
            check_source(SourceOptions(camera=number))
    check_source(SourceOptions(camera=99))


@needs_v4l2
def test_a_camera_by_another_name_has_the_number_of_its_device(monkeypatch):
    """So that it is not tried again where help names the other cameras."""
    monkeypatch.setattr(local_cameras.os.path, "realpath", {"/dev/v4l/by-id/usb-Cam": "/dev/video5"}.__getitem__)
    assert find_local_camera("v4l2:///dev/v4l/by-id/usb-Cam", NOTHING).index == 5


@needs_v4l2
def test_a_missing_camera_by_address_is_source_lost():
    with pytest.raises(SourceLostError) as error:
        open_source(SourceOptions(source="v4l2:///dev/video97"), 0.1, 64, StopRequest(), EventLog())
    assert str(error.value).startswith("v4l2:///dev/video97: ")
    assert error.value.exit_code == ExitCode.SOURCE_LOST


@pytest.mark.skipif(local_cameras.has_gstreamer(), reason="this OpenCV has GStreamer")
@pytest.mark.parametrize("source", ["csi://0", "gstreamer://rtspsrc location=rtsp://user:s3cret@host/x ! decodebin"])
def test_without_gstreamer_the_command_exits_with_4_and_the_reason(source):
    result = CliRunner().invoke(app, ["--source", source, "--headless"])
    assert isinstance(result.exception, BackendMissingError)
    assert result.exception.exit_code == 4
    assert "was built without" in str(result.exception)
    assert "s3cret" not in str(result.exception)


def test_a_machine_that_is_no_jetson_is_told_so(gstreamer, monkeypatch):
    monkeypatch.setattr(local_cameras.shutil, "which", lambda name: "/bin/false")
    with pytest.raises(BackendMissingError, match="nvarguscamerasrc, which this machine does not have"):
        find_local_camera("csi://0", NOTHING)


def test_the_pipeline_of_a_jetson_has_the_number_the_size_and_the_rate(gstreamer):
    camera = find_local_camera("csi://1", CameraSettings((1920, 1080), 29.97))
    assert camera.api == cv2.CAP_GSTREAMER
    elements = str(camera.device).split(" ! ")
    assert elements[0] == "nvarguscamerasrc sensor-id=1"
    assert elements[1] == "video/x-raw(memory:NVMM),width=1920,height=1080,framerate=2997/100"
    assert elements[-1].split()[:3] == ["appsink", "drop=true", "max-buffers=1"]
    assert "width=1280,height=720,framerate=30/1" in csi_pipeline(0, NOTHING)
    assert not camera.settings  # they are in the pipeline already


@pytest.mark.parametrize("source", ["csi://0", "gstreamer://videotestsrc"])
def test_ctrl_c_does_not_wait_for_a_pipeline(gstreamer, source):
    """OpenCV waits for ever for the first picture of one that lacks an element."""
    assert find_local_camera(source, NOTHING).may_hang


def test_ctrl_c_waits_for_a_plain_camera_which_answers():
    assert not SourceOptions(camera=0).local_camera.may_hang


def test_a_pipeline_gets_an_appsink_unless_it_has_one():
    own = "videotestsrc ! appsink name=mine"
    assert complete_pipeline(own) == own
    completed = complete_pipeline(" videotestsrc ! ")
    assert completed.startswith("videotestsrc ! videoconvert ! video/x-raw,format=BGR ! appsink ")
    with pytest.raises(UsageError, match="leave '! autovideosink' out"):
        complete_pipeline("videotestsrc ! autovideosink sync=false")


def test_the_name_of_a_pipeline_holds_no_password(gstreamer):
    camera = find_local_camera("gstreamer://rtspsrc location=rtsp://user:s3cret@host/x ! decodebin", NOTHING)
    assert camera.name == "gstreamer://rtspsrc ..."
    for pipeline in ("rtsp://user:s3cret@host/x", '"rtsp://user:s3cret@host/x" ! decodebin', "location=s3cret ! x"):
        assert "s3cret" not in find_local_camera(f"gstreamer://{pipeline}", NOTHING).name
    with pytest.raises(UsageError, match="write them into it"):
        find_local_camera("gstreamer://videotestsrc", CameraSettings(fps=30))


def test_a_bare_pipeline_is_told_where_it_goes(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.foreign_names.has_gstreamer", lambda: True)
    with pytest.raises(UsageError, match="--source 'gstreamer://"):
        check_source(SourceOptions(source="videotestsrc ! videoconvert"))


@pytest.mark.parametrize("source", [None, "clip.mp4", "rtsp://host/x", "synthetic://digits"])
def test_settings_are_for_cameras_at_this_machine(source):
    with pytest.raises(UsageError, match="cameras at this machine"):
        check_source(SourceOptions(source=source, settings=CameraSettings(fps=30)))


def test_sizes_and_rates_are_read_or_refused():
    assert parse_camera_settings("1280X720", 29.97) == CameraSettings((1280, 720), 29.97)
    assert not parse_camera_settings(None, None)
    for size, fps in (("1280", None), ("0x720", None), (None, 0.0), (None, float("inf"))):
        with pytest.raises(UsageError, match="expected"):
            parse_camera_settings(size, fps)


class Driver:
    """Stands for a cv2.VideoCapture of a camera with two formats: as with USB 2, only MJPG has all sizes and rates."""

    def __init__(self, has_mjpeg: bool = True) -> None:
        self._has_mjpeg = has_mjpeg
        self._values = {cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV"))}
        self._values |= {cv2.CAP_PROP_FRAME_WIDTH: 640.0, cv2.CAP_PROP_FRAME_HEIGHT: 480.0, cv2.CAP_PROP_FPS: 30.0}

    @property
    def pixel_format(self) -> str:
        return int(self._values[cv2.CAP_PROP_FOURCC]).to_bytes(4, "little").decode()

    def set(self, name: int, value: float) -> bool:
        if name == cv2.CAP_PROP_FOURCC and not self._has_mjpeg:
            return False
        self._values[name] = float(value)
        return True

    def get(self, name: int) -> float:
        if name == cv2.CAP_PROP_FPS and self.pixel_format == "YUYV" and self._values[cv2.CAP_PROP_FRAME_WIDTH] > 640:
            return min(10.0, self._values[name])
        return min({cv2.CAP_PROP_FRAME_WIDTH: 1280, cv2.CAP_PROP_FRAME_HEIGHT: 720}.get(name, 1e12), self._values[name])


def test_the_driver_gets_what_was_asked_for_and_mjpeg_only_where_that_helps():
    driver = Driver()
    assert CameraSettings((640, 480), 15).apply(driver) is None
    assert driver.pixel_format == "YUYV"
    assert CameraSettings((1280, 720), 30).apply(driver) is None
    assert driver.pixel_format == "MJPG"


def test_what_the_driver_gives_instead_is_returned():
    assert CameraSettings((1280, 720), 30).apply(Driver(has_mjpeg=False)) == CameraSettings((1280, 720), 10)
    driver = Driver()
    assert CameraSettings((4000, 3000)).apply(driver) == CameraSettings((1280, 720), 10)
    assert driver.pixel_format == "YUYV"  # MJPEG did not help
    assert str(CameraSettings((1280, 720), 10)) == "1280x720 at 10 fps"


def test_a_camera_that_gives_something_else_is_reported(monkeypatch):
    class Device:
        def read(self):
            return True, np.zeros((48, 64, 3), np.uint8)

        def release(self) -> None:
            pass

    def open_capture(device, api, settings, on_other_settings):
        on_other_settings(CameraSettings((640, 480), 15))
        return Device()

    monkeypatch.setattr("svg_runtime.live.sources.capture.open_capture", open_capture)
    events = EventLog()
    options = SourceOptions(camera=0, settings=CameraSettings((1280, 720), 30))
    open_source(options, 0.1, 64, StopRequest(), events).close()
    assert events.counts == {"camera_settings": 1}
    assert "camera 0 was asked for 1280x720 at 30 fps and gives 640x480 at 15 fps" in events.messages[0]


def test_opening_ends_in_time_and_when_asked_to_stop():
    test_is_over = threading.Event()

    def hang():
        test_is_over.wait()
        raise NoPictureError("too late")

    with pytest.raises(NoPictureError, match=r"within 0\.1 s"):
        DeviceOpener(hang, "a camera", StopRequest(), timeout_s=0.1)()
    stop = StopRequest()
    stop.request("a test")
    with pytest.raises(KeyboardInterrupt):
        DeviceOpener(hang, "a camera", stop)()
    test_is_over.set()

    def unplugged():
        raise NoPictureError("unplugged")

    with pytest.raises(NoPictureError, match="unplugged"):
        DeviceOpener(unplugged, "a camera", StopRequest())()


def test_a_device_that_hangs_is_opened_once_and_used_when_it_answers():
    """Else every retry would leave a thread behind, and what opens late would keep the camera busy."""
    answers, devices = threading.Event(), []

    class Device:
        def read(self):
            return False, None

        def release(self) -> None:
            pass

    def open_late() -> Device:
        devices.append(Device())
        answers.wait()
        return devices[-1]

    opener = DeviceOpener(open_late, "a camera", StopRequest(), timeout_s=0.1)
    for _ in range(3):
        with pytest.raises(NoPictureError, match="no response"):
            opener()
    answers.set()
    assert opener() is devices[0]
    assert len(devices) == 1
    assert opener() is devices[1]  # after a loss, anew
