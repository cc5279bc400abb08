"""The other side of `process.py`: reads one job from stdin, answers with one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from svg_common.errors import ExitCode, SvgError
from svg_runtime.bench import measure, operations, probe

Progress = Callable[[float], None]
JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "measure": measure.measure,
    "count": operations.count_operations,
    "probe": probe.measure_peak,
}


def main() -> None:
    """Run the job, whose own errors and those of the libraries under it are answers too."""
    channel = _private_stdout()

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    job = json.loads(sys.stdin.readline())
    try:
        result = JOBS[job.pop("do")](lambda share: send({"progress": share}), **job)
    except SvgError as error:
        send({"error": str(error), "exit_code": error.exit_code})
    except Exception as error:  # each engine raises classes of its own
        send({"error": f"{type(error).__name__}: {error}", "exit_code": ExitCode.ERROR})
    else:
        send({"result": result})


def _private_stdout() -> Any:
    """A stream to the parent that no native library prints into: their stdout goes to stderr from here on."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel
