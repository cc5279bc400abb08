"""What a run records: the options `--record` and `--save-forecasts` and those that go with them, checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from svg_common.errors import UsageError
from svg_common.quantities import parse_duration, parsed_option, parsed_size

DEFAULT_SEGMENT, DEFAULT_LIMIT = "10m", "10GB"
_LEAST_SEGMENT_S, _LEAST_LIMIT = 1.0, "10MB"

RecordWhat = Literal["display", "camera"]
ForecastDtype = Literal["float16", "float32"]


@dataclass(frozen=True)
class RecordingOptions:
    """Folders that grow for as long as the run lasts, up to their limit. Neither folder: nothing is recorded."""

    folder: Path | None = None
    what: RecordWhat = "display"
    segment_s: float = 600.0
    limit_bytes: int = 10_000_000_000  # of `folder`
    forecasts: Path | None = None
    forecasts_limit_bytes: int = 10_000_000_000
    forecast_dtype: ForecastDtype = "float16"

    @property
    def folders(self) -> dict[str, Path | None]:
        """Where it is recorded, by option."""
        return {"--record": self.folder, "--save-forecasts": self.forecasts}

    @property
    def shows_display(self) -> bool:
        """Whether the composed picture is recorded."""
        return self.folder is not None and self.what == "display"


def recording_options(
    record: Path | None,
    what: RecordWhat | None,
    segment: str | None,
    limit: str | None,
    forecasts: Path | None,
    dtype: ForecastDtype | None,
) -> RecordingOptions:
    """Read the options as they were given; None: not given.

    Raises:
        UsageError: an option has no effect, or cannot be read, or is too small.
    """
    of_video = {"--record-what": what, "--record-segment": segment}
    _refuse_idle(of_video if record is None else {}, "--record DIR")
    _refuse_idle({"--forecast-dtype": dtype} if forecasts is None else {}, "--save-forecasts DIR")
    _refuse_idle({"--record-limit": limit} if record is None and forecasts is None else {}, "--record DIR")
    segment_s = parsed_option("--record-segment", parse_duration, segment or DEFAULT_SEGMENT)
    if segment_s < _LEAST_SEGMENT_S:
        raise UsageError(f"--record-segment {segment} is too short for a video\n  expected at least 1s")
    limit_bytes = parsed_size("--record-limit", limit or DEFAULT_LIMIT, _LEAST_LIMIT, "a recording")
    return RecordingOptions(
        folder=record,
        what=what or "display",
        segment_s=segment_s,
        limit_bytes=limit_bytes,
        forecasts=forecasts,
        forecasts_limit_bytes=limit_bytes,
        forecast_dtype=dtype or "float16",
    )


def _refuse_idle(options: dict[str, str | None], needed: str) -> None:
    idle = [name for name, value in options.items() if value is not None]
    if idle:
        raise UsageError(f"{', '.join(idle)} without anything to record\n  add {needed}, or remove {' '.join(idle)}")
