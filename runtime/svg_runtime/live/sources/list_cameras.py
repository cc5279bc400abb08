"""`svg-live --list-cameras`: the cameras of this machine, with their sizes, rates and pixel formats."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

import cv2
from rich.console import Console

from svg_common.errors import OutputError
from svg_common.files import write_json
from svg_common.opencv_log import silence_opencv
from svg_common.outputs import check_outputs
from svg_runtime.live.sources.synthetic import SYNTHETIC_URL
from svg_runtime.machine.v4l2 import Camera, CameraMode, v4l2_cameras

_INDICES_TO_TRY = 4  # where the system has no list


def find_cameras() -> list[Camera]:
    """List the cameras of this machine: on Linux as the kernel says, elsewhere the first indices that can be opened."""
    return v4l2_cameras() if sys.platform.startswith("linux") else _cameras_by_trying()


def print_cameras(json: Path | None) -> None:
    """Print all cameras to stdout, and write them to `json` if it is given.

    Raises:
        UsageError: the file is there and holds something else.
        OutputError: the file cannot be written.
    """
    check_outputs({"--json": json})
    cameras = find_cameras()
    console = Console(soft_wrap=True, highlight=False, emoji=False)
    for line in camera_lines(cameras):
        console.print(line, markup=False)
    if json is not None:
        try:
            write_json(json, {"cameras": [asdict(camera) for camera in cameras]})
        except OSError as error:
            raise OutputError(json, error) from error


def camera_lines(cameras: list[Camera]) -> list[str]:
    """Return the text: per camera how to open it and its name, and a line per format and size."""
    if not cameras:
        return [f"This machine has no camera. Without one: svg-live --source {SYNTHETIC_URL}, or --source FILE with a video."]
    lines = []
    for camera in cameras:
        lines.append(f"--camera {camera.index}   {camera.name}   {camera.device}")
        if camera.problem is not None:
            lines.append(f"    {camera.problem}: {camera.advice}")
        lines += [f"    {_mode_line(mode)}" for mode in camera.modes]
    return lines


def _mode_line(mode: CameraMode) -> str:
    smallest_wh = [] if mode.smallest_wh is None else [mode.smallest_wh]
    size = " to ".join(f"{width}x{height}" for width, height in (*smallest_wh, mode.size_wh))
    rates = " ".join(f"{fps:g}" for fps in mode.fps)
    if rates and mode.lowest_fps is not None:
        rates = f"up to {rates}"
    return f"{mode.pixel_format:<4}  {size:>9}" + (f"  {rates} fps" if rates else "")


def _cameras_by_trying() -> list[Camera]:
    silence_opencv()
    cameras = []
    for index in range(_INDICES_TO_TRY):
        capture = cv2.VideoCapture(index)
        if capture.isOpened():
            size_wh = round(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), round(capture.get(cv2.CAP_PROP_FRAME_HEIGHT))
            fps = capture.get(cv2.CAP_PROP_FPS)
            mode = CameraMode("", size_wh, (round(fps, 3),) if fps > 0 else ())
            cameras.append(Camera(index, f"index {index}", f"camera {index}", (mode,)))
        capture.release()
    return cameras
