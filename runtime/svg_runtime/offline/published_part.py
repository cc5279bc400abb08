"""What a published part has: its videos, if all that was written with them is still there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from svg_common.errors import SvgError

_DONE = ["video_id", "status", "reason", "frames", "forecasts"]  # columns of the videos that say what is done
_KINDS = ["video_id", "kind"]  # and of the events


@dataclass(frozen=True)
class DoneVideo:
    """What an earlier run found out about a video.

    Attributes:
        status: as in its row of the table of videos.
        reason: why it is not ok.
        is_misfit: whether it has an event `misfit`.
    """

    status: str
    reason: str | None
    is_misfit: bool


def done_videos(part: Path, keeps_forecasts: bool) -> dict[str, DoneVideo]:
    """The videos of a part, by their id.

    Of the large files only the ends are read: one that lost its end, or is of another part, is found, however large it is.

    Args:
        part: its folder.
        keeps_forecasts: whether the forecasts themselves were written, too.

    Raises:
        SvgError: a file is missing, damaged, or has other rows than its videos: they would never be made again.
    """
    videos = _rows(part / "videos.parquet", _DONE)
    _require_rows(part / "frames.parquet", sum(video["frames"] for video in videos))
    misfits = {event["video_id"] for event in _rows(part / "events.parquet", _KINDS) if event["kind"] == "misfit"}
    for video in videos:
        if keeps_forecasts and video["status"] != "failed":
            _require_rows(part / f"forecasts-{video['video_id']}.parquet", video["forecasts"])
    return {each["video_id"]: DoneVideo(each["status"], each["reason"], each["video_id"] in misfits) for each in videos}


def _rows(file: Path, columns: list[str]) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = pq.read_table(file, columns=columns).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unusable(file, _reason(error)) from error
    return rows


def _require_rows(file: Path, expected: int) -> None:
    """Check that a file can be opened and has so many rows."""
    try:
        rows = pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowException) as error:
        raise _unusable(file, _reason(error)) from error
    if rows != expected:
        raise _unusable(file, f"it has {rows} rows, and by videos.parquet it should have {expected}")


def _reason(error: Exception) -> str:
    return "it does not exist" if isinstance(error, FileNotFoundError) else str(error)


def _unusable(file: Path, reason: str) -> SvgError:
    return SvgError(f"cannot read '{file}': {reason}\n  remove the folder of this part; its videos are then forecast again")
