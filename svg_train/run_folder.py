"""The folder of a run: the names of what is written there, and how it is told from data."""

from __future__ import annotations

from pathlib import Path

BEST, LAST = "ckpt.pt", "last.pt"  # the model that was best, and the state to continue from
METRICS = "metrics.jsonl"
STRIPS = "strips"  # a folder of pictures of held-out forecasts


def is_strip(path: Path) -> bool:
    """Whether a picture is one that a run has drawn: not data, even if the folder of the run lies among the clips."""
    return path.parent.name == STRIPS and (path.parent.parent / METRICS).is_file()
