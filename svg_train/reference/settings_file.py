"""Files with the settings of a model: one JSON table, which other programs write beside their weights, or the user."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from svg_common.files import refuse_pipe
from svg_common.text_files import decode_text
from svg_train.checkpoint import CheckpointError

_MAX_BYTES = 1 << 20  # the settings of a training run have 1 KB
_LARGEST = 1 << 63  # of a whole number; a longer one could cost seconds


def read_settings(path: Path) -> dict[str, Any]:
    """Read the table.

    Raises:
        CheckpointError: the file is missing or cannot be read, or is not one JSON table.
        UsageError: it is a pipe.
    """
    refuse_pipe(path)
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB")
        table = json.loads(decode_text(content), parse_int=_whole_number)
        if not isinstance(table, dict):
            raise ValueError(f"it is not a table {{...}} but a {type(table).__name__}")
    except (OSError, ValueError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise CheckpointError(
            f"cannot read the model's settings '{path}': {reason}\n"
            "  expected the JSON file that the program which trained the model wrote beside its weights,\n"
            '  or one of your own: {"name": value, ...}'
        ) from error
    return table


def _whole_number(digits: str) -> int:
    if len(digits) > len(str(_LARGEST)):
        raise ValueError("it has a number with too many digits")
    return int(digits)
