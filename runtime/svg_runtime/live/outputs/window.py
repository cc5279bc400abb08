"""A window on the screen; q, Esc or its close button end the run."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import cv2
import numpy as np
from numpy.typing import NDArray

from svg_common.errors import UsageError
from svg_runtime.live.stop import StopRequest

_TITLE = "svg-live"
_KEYS = {ord("q"): "key q", ord("Q"): "key q", 27: "key Esc"}
_PROBE = f"import cv2; cv2.namedWindow('{_TITLE}'); cv2.waitKey(1); print('works', flush=True); input()"


class Window:
    """Shows pictures with OpenCV: the newest one, whenever the main thread polls.

    Args:
        size_wh: initial size of the window in pixels; the user may change it.
        stop: receives the request when the user ends the run.

    Raises:
        UsageError: there is no display, or OpenCV was built without GUI support.
    """

    def __init__(self, size_wh: tuple[int, int], stop: StopRequest) -> None:
        self._stop = stop
        self._open = True
        self._newest: NDArray[np.uint8] | None = None
        # Qt warns about fonts that are missing in OpenCV's wheel; they are never used.
        os.environ.setdefault("QT_LOGGING_RULES", "*.warning=false")
        with _verified_display():
            cv2.namedWindow(_TITLE, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO | cv2.WINDOW_GUI_NORMAL)
            cv2.resizeWindow(_TITLE, *size_wh)
            cv2.waitKey(1)
        stop.add_check(self._poll)

    def write(self, picture: NDArray[np.uint8], tick: int) -> None:
        """Hand `picture`, (H, W, 3) uint8 RGB, to the main thread: toolkits draw in no other."""
        self._newest = np.asarray(cv2.cvtColor(picture, cv2.COLOR_RGB2BGR), np.uint8)
        self._stop.wake()

    def close(self, keep: bool) -> None:
        """Close the window."""
        if self._open:
            self._open = False
            cv2.destroyAllWindows()

    def _poll(self) -> None:
        if not self._open:
            return
        newest = self._newest
        self._newest = None
        if newest is not None:
            cv2.imshow(_TITLE, newest)
        key = cv2.waitKey(1) & 0xFF
        if key in _KEYS:
            self._stop.request(_KEYS[key])
        elif cv2.getWindowProperty(_TITLE, cv2.WND_PROP_VISIBLE) < 1:
            self._stop.request("window closed")


@contextmanager
def _verified_display() -> Iterator[None]:
    """Hold a window open in another process as a test: without a display, OpenCV's toolkit aborts the process.

    The other window stays until ours exists: an X server without a window manager resets when its last window closes, and
    refuses connections meanwhile.
    """
    command = [sys.executable, "-c", _PROBE]
    probe = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    try:
        if probe.stdout is None or probe.stdout.readline().strip() != b"works":
            raise UsageError(
                "cannot open a window: no display, or OpenCV without GUI support (opencv-python-headless)\n"
                "  write a video instead with: --headless --output forecast.mp4"
            )
        yield
    finally:
        probe.communicate()  # closes its input, which ends it
