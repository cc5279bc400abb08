"""Outputs of the composed picture: a window, an mp4 file, both or none. `open_outputs` opens them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from svg_common.errors import UsageError
from svg_runtime.live.outputs.base import Output
from svg_runtime.live.stop import StopRequest

__all__ = ["Output", "check_video_name", "open_outputs"]


def open_outputs(
    video: Path | None, window: bool, size_wh: tuple[int, int], interval_s: float, stop: StopRequest
) -> list[Output]:
    """Open the requested outputs. The window comes first, because its failure leaves nothing behind.

    Raises:
        UsageError: no display.
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


def check_video_name(video: Path) -> None:
    """Refuse the name of a video that is not an mp4 file's.

    Raises:
        UsageError: it is a folder, or does not end with .mp4.
    """
    if video.suffix.lower() != ".mp4" or video.is_dir():
        problem = "is a folder" if video.is_dir() else "is not the name of an .mp4 file"
        raise UsageError(f"the output '{video}' {problem}\n  expected, for example, --output forecast.mp4")
