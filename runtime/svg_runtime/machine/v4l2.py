"""What the cameras of a Linux machine are and can do, asked of the kernel: Video4Linux's folder in sysfs and its ioctls.

The structures are those of linux/videodev2.h; https://docs.kernel.org/userspace-api/media/v4l/user-func.html describes them.
"""

from __future__ import annotations

import errno
import os
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

SYSFS = Path("/sys/class/video4linux")

Ioctl = Callable[[int, int, bytearray], object]
_Sizes = tuple[tuple[int, int], tuple[int, int] | None]  # one size and None, or the largest and the smallest of a range

_QUERYCAP, _ENUM_FMT, _ENUM_FRAMESIZES, _ENUM_FRAMEINTERVALS = 0x80685600, 0xC0405602, 0xC02C564A, 0xC034564B
_CAPTURE, _CAPTURE_MPLANE, _DEVICE_CAPS = 0x1, 0x1000, 0x80000000
_BUFFER_CAPTURE, _BUFFER_CAPTURE_MPLANE = 1, 9
_DISCRETE = 1
_MOST = 1000  # of anything that a driver enumerates


@dataclass(frozen=True)
class CameraMode:
    """One size in one format, or a range of sizes.

    Attributes:
        pixel_format: as the kernel writes it, such as YUYV or MJPG.
        size_wh: width and height in pixels; the largest where the driver has a range.
        fps: pictures per second at that size, highest first; the highest where the driver has a range; empty where it does
            not say.
        smallest_wh: where the driver has a range of sizes.
        lowest_fps: where the driver has a range of rates.
    """

    pixel_format: str
    size_wh: tuple[int, int]
    fps: tuple[float, ...]
    smallest_wh: tuple[int, int] | None = None
    lowest_fps: float | None = None


@dataclass(frozen=True)
class Camera:
    """A camera of this machine.

    Attributes:
        index: the N of /dev/videoN.
        device: its path.
        name: what the driver calls it.
        modes: what it can do.
        problem: why its modes are unknown.
        advice: what to do about it, such as the line to run.
    """

    index: int
    device: str
    name: str
    modes: tuple[CameraMode, ...] = ()
    problem: str | None = None
    advice: str = ""


class NoCameraError(Exception):
    """A device of Video4Linux that takes no pictures: metadata, an encoder, a radio."""


def v4l2_cameras(sysfs: Path = SYSFS, dev: Path = Path("/dev"), ioctl: Ioctl | None = None) -> list[Camera]:
    """List the cameras of this machine by index; one that cannot be opened says why.

    Args:
        sysfs: the folder with a folder per device.
        dev: the folder of the device nodes.
        ioctl: `fcntl.ioctl`, or a fake one.
    """
    if ioctl is None:
        from fcntl import ioctl as system_ioctl  # not on Windows

        ioctl = system_ioctl
    cameras = []
    for folder in sorted(sysfs.glob("video*"), key=lambda folder: int(_digits(folder.name) or 0)):
        index = _digits(folder.name)
        if index is None:
            continue
        device, name = dev / folder.name, _read_name(folder)
        try:
            card, modes = _query(device, ioctl)
        except NoCameraError:
            continue
        except OSError as error:
            problem, advice = _problem(device, error)
            cameras.append(Camera(int(index), str(device), name, problem=problem, advice=advice))
        else:
            cameras.append(Camera(int(index), str(device), card or name, tuple(modes)))
    return cameras


def _query(device: Path, ioctl: Ioctl) -> tuple[str, list[CameraMode]]:
    # Opening and asking disturbs no other program that streams from the device.
    handle = os.open(device, os.O_RDWR | os.O_NONBLOCK)
    try:
        buffer = bytearray(104)  # v4l2_capability
        ioctl(handle, _QUERYCAP, buffer)
        _, card, _, _, capabilities, device_caps = struct.unpack_from("16s32s32sIII", buffer)
        caps = device_caps if capabilities & _DEVICE_CAPS else capabilities
        if not caps & (_CAPTURE | _CAPTURE_MPLANE):
            raise NoCameraError
        kind = _BUFFER_CAPTURE if caps & _CAPTURE else _BUFFER_CAPTURE_MPLANE
        modes = [
            _mode(handle, ioctl, pixel_format, sizes)
            for pixel_format in _pixel_formats(handle, ioctl, kind)
            for sizes in _sizes(handle, ioctl, pixel_format)
        ]
        return _text(card), modes
    finally:
        os.close(handle)


def _pixel_formats(handle: int, ioctl: Ioctl, kind: int) -> Iterator[int]:
    for buffer in _enumerate(
        handle=handle,
        ioctl=ioctl,
        request=_ENUM_FMT,
        size=64,
        given=struct.pack("I", kind),  # v4l2_fmtdesc
    ):
        yield struct.unpack_from("I", buffer, 44)[0]


def _mode(handle: int, ioctl: Ioctl, pixel_format: int, sizes: _Sizes) -> CameraMode:
    size_wh, smallest_wh = sizes
    fps, lowest_fps = _rates(handle, ioctl, pixel_format, size_wh)
    return CameraMode(
        pixel_format=_four_characters(pixel_format), size_wh=size_wh, fps=fps, smallest_wh=smallest_wh, lowest_fps=lowest_fps
    )  # fmt: skip


def _sizes(handle: int, ioctl: Ioctl, pixel_format: int) -> Iterator[_Sizes]:
    """Each size, without a smallest one; or the largest and the smallest of a range."""
    for buffer in _enumerate(
        handle=handle,
        ioctl=ioctl,
        request=_ENUM_FRAMESIZES,
        size=44,
        given=struct.pack("I", pixel_format),  # v4l2_frmsizeenum
    ):
        if struct.unpack_from("I", buffer, 8)[0] != _DISCRETE:
            width, largest_width, _, height, largest_height = struct.unpack_from("5I", buffer, 12)
            smallest_wh, size_wh = (width, height), (largest_width, largest_height)
            yield size_wh, smallest_wh if smallest_wh != size_wh else None
            return
        yield struct.unpack_from("2I", buffer, 12), None


def _rates(
    handle: int, ioctl: Ioctl, pixel_format: int, size_wh: tuple[int, int]
) -> tuple[tuple[float, ...], float | None]:  # fmt: skip
    """All rates, highest first, without a lowest one; or the highest and the lowest of a range."""
    rates = []
    given = struct.pack("3I", pixel_format, *size_wh)
    for buffer in _enumerate(
        handle=handle,
        ioctl=ioctl,
        request=_ENUM_FRAMEINTERVALS,
        size=52,
        given=given,  # v4l2_frmivalenum
    ):
        kind, numerator, denominator, longest, per_longest = struct.unpack_from("5I", buffer, 16)
        if numerator:
            rates.append(round(denominator / numerator, 3))
        if kind != _DISCRETE:  # from the shortest interval to the longest
            return tuple(rates), round(per_longest / longest, 3) if longest else None
    return tuple(sorted(set(rates), reverse=True)), None


def _enumerate(handle: int, ioctl: Ioctl, request: int, size: int, given: bytes) -> Iterator[bytearray]:
    """Ask for number 0, 1, ... until the driver has no more."""
    for number in range(_MOST):
        buffer = bytearray(size)
        struct.pack_into("I", buffer, 0, number)
        buffer[4 : 4 + len(given)] = given
        try:
            ioctl(handle, request, buffer)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTTY):  # the end, or a driver that does not enumerate
                return
            raise
        yield buffer


def _problem(device: Path, error: OSError) -> tuple[str, str]:
    """Why the device does not open, and what to do."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "no permission", f"sudo usermod -aG {_group(device)} $USER; log in again"
    if error.errno == errno.ENOENT:
        return "it has no device node here", f"pass it into the container: --device {device}"
    if error.errno == errno.EBUSY:
        return "another program is using it", f"close it; find it with: fuser -v {device}"
    return error.strerror or str(error), "unplug it; plug it in again"


def _group(device: Path) -> str:
    """The group of the device, which is video nearly everywhere."""
    import grp  # not on Windows

    try:
        return grp.getgrgid(device.stat().st_gid).gr_name
    except (KeyError, OSError):
        return "video"


def _read_name(folder: Path) -> str:
    try:
        return (folder / "name").read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return "unknown"


def _digits(name: str) -> str | None:
    found = re.fullmatch(r"video(\d+)", name)
    return found[1] if found else None


def _text(raw: bytes) -> str:
    return raw.partition(b"\0")[0].decode("utf-8", errors="replace").strip()


def _four_characters(pixel_format: int) -> str:
    """The code of a format in letters; its highest bit says big-endian."""
    return struct.pack("<I", pixel_format & 0x7FFFFFFF).decode("latin-1").strip()
