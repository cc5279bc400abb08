"""The list of cameras: the kernel's answers are read as linux/videodev2.h defines them."""

from __future__ import annotations

import errno
import json
import os
import re
import struct
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svg_common.errors import UsageError
from svg_runtime.live.cli import app
from svg_runtime.live.sources import list_cameras
from svg_runtime.machine.v4l2 import Camera, CameraMode, v4l2_cameras

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="V4L2 is Linux's")

CAPTURE, MPLANE, METADATA, M2M = 0x1, 0x1000, 0x00800000, 0x8000


def number(code: str) -> int:
    return struct.unpack("<I", code.encode())[0]


class FakeKernel:
    """Answers the four ioctls for one device. No machine of CI has a camera, nor the module for virtual ones.

    modes: per format a size, or a range of sizes, with its intervals as fractions of a second, or a range of these.
    """

    def __init__(self, caps: int, modes: dict[str, dict[tuple[int, ...], list[tuple[int, ...]]]], kind: int = 1) -> None:
        self._caps = caps
        self._modes = modes
        self._kind = kind

    def __call__(self, handle: int, request: int, buffer: bytearray) -> int:
        direction, size, letter, command = request >> 30, request >> 16 & 0x3FFF, request >> 8 & 0xFF, request & 0xFF
        assert letter == ord("V")
        assert size == len(buffer)
        assert direction == (2 if command == 0 else 3)  # read, or write and read
        {0: self._capability, 2: self._format, 74: self._size, 75: self._interval}[command](buffer)
        return 0

    def _capability(self, buffer: bytearray) -> None:
        whole_card = CAPTURE | METADATA | 0x80000000
        struct.pack_into(
            "16s32s32sIII", buffer, 0, b"uvcvideo", b"HD Webcam: \xc3\x9cber", b"usb-1", 6 << 16, whole_card, self._caps
        )

    @staticmethod
    def _at(items, index: int):
        items = list(items)
        if index >= len(items):
            raise OSError(errno.EINVAL, "Invalid argument")
        return items[index]

    def _format(self, buffer: bytearray) -> None:
        index, kind = struct.unpack_from("II", buffer)
        assert kind == self._kind
        code = self._at(self._modes, index)
        struct.pack_into("I32sI", buffer, 8, 0, b"a format", number(code))

    def _size(self, buffer: bytearray) -> None:
        index, code = struct.unpack_from("II", buffer)
        size = self._at(self._sizes(code), index)
        struct.pack_into(f"{1 + len(size)}I", buffer, 8, 1 if len(size) == 2 else 3, *size)

    def _interval(self, buffer: bytearray) -> None:
        index, code, width, height = struct.unpack_from("4I", buffer)
        sizes = self._sizes(code)
        (key,) = [size for size in sizes if (size[:2] if len(size) == 2 else (size[1], size[4])) == (width, height)]
        fraction = self._at(sizes[key], index)
        struct.pack_into(f"{1 + len(fraction)}I", buffer, 16, 1 if len(fraction) == 2 else 3, *fraction)

    def _sizes(self, code: int) -> dict[tuple[int, ...], list[tuple[int, ...]]]:
        return {number(name): sizes for name, sizes in self._modes.items()}[code]


WEBCAM = FakeKernel(
    CAPTURE,
    {
        "MJPG": {(1280, 720): [(1, 30), (1, 15)], (640, 480): [(1001, 30000)]},
        "YUYV": {(640, 480): [(1, 30)]},
        "Y10 ": {(16, 3840, 16, 16, 2160, 16): []},
    },
)
MODES = (
    CameraMode("MJPG", (1280, 720), (30.0, 15.0)),
    CameraMode("MJPG", (640, 480), (29.97,)),
    CameraMode("YUYV", (640, 480), (30.0,)),
    CameraMode("Y10", (3840, 2160), (), smallest_wh=(16, 16)),
)


@pytest.fixture
def machine(tmp_path) -> tuple[Path, Path]:
    """A sysfs with video0, video2 and video10, whose device nodes are plain files: a fake kernel answers for them."""
    sysfs, dev = tmp_path / "sysfs", tmp_path / "dev"
    dev.mkdir()
    for name in ("video10", "video2", "video0", "v4l-subdev0"):
        (sysfs / name).mkdir(parents=True)
        (sysfs / name / "name").write_text(f"camera of {name}\n")
        (dev / name).touch()
    return sysfs, dev


def test_cameras_in_order_with_names_and_modes(machine):
    cameras = v4l2_cameras(*machine, WEBCAM)
    assert [camera.index for camera in cameras] == [0, 2, 10]
    assert cameras[0] == Camera(0, str(machine[1] / "video0"), "HD Webcam: Über", MODES)


@pytest.mark.parametrize("caps", [METADATA, M2M, 0])
def test_what_takes_no_pictures_is_no_camera(machine, caps):
    assert v4l2_cameras(*machine, FakeKernel(caps, {})) == []


def test_a_camera_with_several_planes_is_asked_for_those(machine):
    kernel = FakeKernel(MPLANE, {"NM12": {(640, 480): [(1, 30)]}}, kind=9)
    assert v4l2_cameras(*machine, kernel)[0].modes == (CameraMode("NM12", (640, 480), (30.0,)),)


@pytest.mark.parametrize(
    ("number", "problem", "advice"),
    [
        (errno.EACCES, "no permission", r"sudo usermod -aG \w+ \$USER"),
        (errno.EBUSY, "another program is using it", "fuser -v .*video2"),
        (errno.ENODEV, "No such device", "unplug"),
    ],
)
def test_a_camera_that_cannot_be_opened_says_why_and_what_to_do(number, problem, advice, machine):
    sysfs, dev = machine
    (dev / "video0").unlink()

    def refuse(handle: int, request: int, buffer: bytearray) -> int:
        raise OSError(number, os.strerror(number))

    absent, refused, _ = v4l2_cameras(sysfs, dev, refuse)
    assert (absent.name, absent.problem) == ("camera of video0", "it has no device node here")
    assert f"--device {dev / 'video0'}" in absent.advice
    assert refused.problem == problem
    assert re.search(advice, refused.advice)
    lines = list_cameras.camera_lines([refused])
    assert lines[1] == f"    {refused.problem}: {refused.advice}"


def test_ranges_of_sizes_and_rates_are_shown_as_such(machine):
    yuyv, nm12 = {(32, 2592, 2, 32, 1944, 2): [(1, 90, 1, 1, 1, 90)]}, {(640, 640, 1, 480, 480, 1): [(1, 30)]}
    kernel = FakeKernel(CAPTURE, {"YUYV": yuyv, "NM12": nm12})
    camera = v4l2_cameras(*machine, kernel)[0]
    assert camera.modes == (
        CameraMode("YUYV", (2592, 1944), (90.0,), smallest_wh=(32, 32), lowest_fps=1.0),
        CameraMode("NM12", (640, 480), (30.0,)),
    )
    lines = list_cameras.camera_lines([camera])
    assert lines[1:] == ["    YUYV  32x32 to 2592x1944  up to 90 fps", "    NM12    640x480  30 fps"]


def test_a_driver_without_rates_still_has_its_sizes(machine):
    def without_rates(handle: int, request: int, buffer: bytearray) -> int:
        if request & 0xFF == 75:
            raise OSError(errno.ENOTTY, "Inappropriate ioctl for device")
        return WEBCAM(handle, request, buffer)

    assert [mode.fps for mode in v4l2_cameras(*machine, without_rates)[0].modes] == [()] * 4


def test_the_command_lists_them_and_writes_them(monkeypatch, tmp_path, machine):
    monkeypatch.setattr(list_cameras, "v4l2_cameras", lambda: v4l2_cameras(*machine, WEBCAM))
    result = CliRunner().invoke(app, ["--list-cameras", "--json", str(tmp_path / "cameras.json")])
    assert result.exit_code == 0
    lines = result.stdout.splitlines()
    assert lines[0] == f"--camera 0   HD Webcam: Über   {machine[1] / 'video0'}"
    assert lines[1] == "    MJPG   1280x720  30 15 fps"
    cameras = json.loads((tmp_path / "cameras.json").read_text())["cameras"]
    assert [camera["index"] for camera in cameras] == [0, 2, 10]
    assert cameras[0]["modes"][1] == {
        "pixel_format": "MJPG", "size_wh": [640, 480], "fps": [29.97], "smallest_wh": None, "lowest_fps": None,
    }  # fmt: skip


def test_a_file_of_something_else_is_not_replaced(tmp_path):
    (tmp_path / "street.mp4").write_bytes(b"\0\0\0 ftypisom")
    with pytest.raises(UsageError, match=r"--json would overwrite '.*street\.mp4', which is not JSON"):
        list_cameras.print_cameras(tmp_path / "street.mp4")
    assert (tmp_path / "street.mp4").read_bytes() == b"\0\0\0 ftypisom"


def test_no_camera_is_a_plain_sentence_and_no_error(monkeypatch):
    monkeypatch.setattr(list_cameras, "find_cameras", list)
    result = CliRunner().invoke(app, ["--list-cameras"])
    assert result.exit_code == 0
    assert result.stdout.startswith("This machine has no camera.")


def test_elsewhere_the_first_indices_are_tried(monkeypatch):
    class Capture:
        def __init__(self, index: int) -> None:
            self._index = index

        def isOpened(self) -> bool:  # noqa: N802 - OpenCV's name
            return self._index == 1

        def get(self, name: int) -> float:
            return {3: 1280.0, 4: 720.0, 5: 30.0}[name]

        def release(self) -> None:
            pass

    monkeypatch.setattr(list_cameras.sys, "platform", "darwin")
    monkeypatch.setattr(list_cameras.cv2, "VideoCapture", Capture)
    (camera,) = list_cameras.find_cameras()
    assert (camera.index, camera.modes) == (1, (CameraMode("", (1280, 720), (30.0,)),))
