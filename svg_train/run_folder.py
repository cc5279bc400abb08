"""The folder of a run: the names of what is written there, and how it is told from data."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path

BEST, LAST = "ckpt.pt", "last.pt"  # the model that was best, and the state to continue from
METRICS = "metrics.jsonl"
STRIPS = "strips"  # a folder of pictures of held-out forecasts

RECORDING = "recording"  # folder of what an adaptation has recorded
RECORDING_FACTS = "recording.json"  # in it: what is known of it
RECORDING_FORMAT = "svg-edge-recording"  # says that file
RECORDING_FRAMES = "frames"  # in it, too: its frames, decoded


def is_strip(path: Path) -> bool:
    """Whether a picture is one that a run has drawn: not data, even if the folder of the run lies among the clips."""
    return path.parent.name == STRIPS and (path.parent.parent / METRICS).is_file()


def recording_at(path: Path) -> Path | None:
    """The folder of the recording that `path` names: it, the folder of the run, or a segment; None: it is something else."""
    for folder in (path, path / RECORDING, path.parent):
        with suppress(OSError, ValueError, RecursionError, AttributeError):  # no file, no JSON, no object
            if json.loads((folder / RECORDING_FACTS).read_bytes()).get("format") == RECORDING_FORMAT:
                return folder
    return None
