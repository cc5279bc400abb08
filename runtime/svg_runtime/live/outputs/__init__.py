"""Outputs of a run: a window, a video, numbered pictures, and recorders. `open_outputs` and `open_recorders` open them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

from svg_common.errors import UsageError
from svg_runtime.live.events import EventLog
from svg_runtime.live.outputs.base import Output, Recorder
from svg_runtime.live.outputs.image_folder import SUFFIXES, ImageFolder, check_image_pattern
from svg_runtime.live.outputs.recording_options import RecordingOptions
from svg_runtime.live.stop import StopRequest

__all__ = ["Output", "Recorder", "RecordingOptions", "check_output_name", "open_outputs", "open_recorders"]


def open_outputs(
    file: Path | None, window: bool, size_wh: tuple[int, int], interval_s: float, stop: StopRequest
) -> list[Output]:
    """Open the requested outputs. The window comes first, because its failure leaves nothing behind.

    Raises:
        UsageError: no display.
        OutputError: `file` cannot be written.
    """
    outputs: list[Output] = []
    with ExitStack() as undo:
        if window:
            from svg_runtime.live.outputs.window import Window

            outputs.append(Window(size_wh, stop))
            undo.callback(outputs[-1].close, keep=False)
        if file is not None and file.suffix.lower() in SUFFIXES:
            outputs.append(ImageFolder(file))
        elif file is not None:
            from svg_runtime.live.outputs.mp4 import Mp4Writer

            outputs.append(Mp4Writer(file, size_wh, interval_s, fast=True))
        undo.pop_all()
    return outputs


def open_recorders(options: RecordingOptions, interval_s: float, bundle_id: str, events: EventLog) -> list[Recorder]:
    """Open the requested recorders, which count what they cannot write and try again.

    Args:
        options: what to record, and where.
        interval_s: seconds per tick.
        bundle_id: of the model that makes the forecasts.
        events: of the run.
    """
    from svg_runtime.live.outputs.forecasts import ForecastRecorder
    from svg_runtime.live.outputs.retrying import Retrying
    from svg_runtime.live.outputs.segments import SegmentRecorder

    recorders: list[Recorder] = []
    if options.folder is not None:
        segments = SegmentRecorder(
            folder=options.folder,
            interval_s=interval_s,
            segment_s=options.segment_s,
            limit_bytes=options.limit_bytes,
            what=options.what,
        )
        recorders.append(Retrying(segments, "--record", events))
    if options.forecasts is not None:
        forecasts = ForecastRecorder(
            folder=options.forecasts,
            limit_bytes=options.forecasts_limit_bytes,
            bundle_id=bundle_id,
            dtype=options.forecast_dtype,
        )
        recorders.append(Retrying(forecasts, "--save-forecasts", events))
    return recorders


def check_output_name(path: Path) -> None:
    """Refuse a name that is neither that of an mp4 file nor a pattern of numbered pictures.

    Raises:
        UsageError: for these reasons, or it is a folder, or pictures of another run are in the way.
    """
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        check_image_pattern(path)
        return
    if path.suffix.lower() != ".mp4" or path.is_dir():
        problem = "is a folder" if path.is_dir() else "is neither the name of an .mp4 file nor of numbered pictures"
        raise UsageError(
            f"the output '{path}' {problem}\n  expected, for example, --output forecast.mp4 or --output frames/%06d.png"
        )
