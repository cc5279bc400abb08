"""The log of OpenCV, which goes to stderr."""

from __future__ import annotations

from contextlib import suppress

import cv2


def silence_opencv() -> None:
    """OpenCV prints lines of its own about missing devices and damaged pictures, without names; our messages say what to do."""
    with suppress(AttributeError):  # OpenCV of Debian 12 and JetPack 5, which have GStreamer, cannot be told
        cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
