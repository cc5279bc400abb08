"""What a published part has: its videos, if all that was written with them is still there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from svg_common.errors import SvgError

_DONE = ["video_id", "status", "reason", "frames", "forecasts"]  # columns of the videos that say what is done


def videos_of(part: Path, keeps_forecasts: bool) -> list[dict[str, Any]]:
    """The videos of a part.

    Only the ends of the other files are read: a file that lost its end, or is of another part, is found, however large it is.

    Args:
        part: its folder.
        keeps_forecasts: whether the forecasts themselves were written, too.

    Raises:
        SvgError: a file is missing, damaged, or has other rows than its videos: they would never be made again.
    """
    file = part / "videos.parquet"
    try:
        videos: list[dict[str, Any]] = pq.read_table(file, columns=_DONE).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise _unusable(file, _reason(error)) from error
    _require_rows(part / "frames.parquet", sum(video["frames"] for video in videos))
    _require_rows(part / "events.parquet", None)
    for video in videos:
        if keeps_forecasts and video["status"] != "failed":
            _require_rows(part / f"forecasts-{video['video_id']}.parquet", video["forecasts"])
    return videos


def _require_rows(file: Path, expected: int | None) -> None:
    """Check that a file can be opened and has so many rows; None: any number."""
    try:
        rows = pq.read_metadata(file).num_rows
    except (OSError, pa.ArrowException) as error:
        raise _unusable(file, _reason(error)) from error
    if expected not in (None, rows):
        raise _unusable(file, f"it has {rows} rows, and by videos.parquet it should have {expected}")


def _reason(error: Exception) -> str:
    return "it does not exist" if isinstance(error, FileNotFoundError) else str(error)


def _unusable(file: Path, reason: str) -> SvgError:
    return SvgError(f"cannot read '{file}': {reason}\n  remove the folder of this part; its videos are then forecast again")
