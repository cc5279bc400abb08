"""Outputs of the composed picture: a window, an mp4 file, both or none. `open_outputs` opens them."""

from __future__ import annotations

import errno
import os
import tempfile
from contextlib import ExitStack
from pathlib import Path

from svg_runtime.live.outputs.base import Output, OutputError
from svg_runtime.live.stop import StopRequest

__all__ = ["Output", "OutputError", "open_outputs", "require_writable"]


def open_outputs(
    video: Path | None, window: bool, size_wh: tuple[int, int], interval_s: float, stop: StopRequest
) -> list[Output]:
    """Open the requested outputs. The window comes first, because its failure leaves nothing behind.

    Raises:
        UsageError: no display, or `video` is not the name of an mp4 file.
        OutputError: `video` cannot be written.
    """
    outputs: list[Output] = []
    with ExitStack() as undo:
        if window:
            from svg_runtime.live.outputs.window import Window

            outputs.append(Window(size_wh, stop))
            undo.callback(outputs[-1].close, keep=False)
        if video is not None:
            from svg_runtime.live.outputs.mp4 import Mp4Writer

            outputs.append(Mp4Writer(video, size_wh, interval_s))
        undo.pop_all()
    return outputs


def require_writable(path: Path) -> None:
    """Refuse a result file that cannot be written, before the work starts.

    Raises:
        OutputError: the folder cannot be created or written, or `path` is a folder.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise OutputError(path, error) from error
