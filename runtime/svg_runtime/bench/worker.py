"""The other side of `process.py`: reads one job from stdin, answers with one JSON object per line."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any

from svg_common.errors import ExitCode, SvgError
from svg_common.log_messages import log_messages_to
from svg_common.signals import handle_sigterm_as_sigint
from svg_runtime.bench import measure, operations, probe

JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "measure": measure.measure,
    "count": operations.count_operations,
    "probe": probe.measure_peak,
}


class _Parent(logging.Handler):
    """The process that wants the answer, and gets progress and log messages meanwhile.

    Args:
        send: called with one message; two threads may call it at once.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send

    def progress(self, task: str, share: float) -> None:
        """As of `ProgressListener`."""
        self._send({"task": task, "share": share})

    def emit(self, record: logging.LogRecord) -> None:
        """As of `logging.Handler`."""
        self._send({"log": record.getMessage(), "level": record.levelno, "logger": record.name})


def main() -> None:
    """Run the job, whose own errors and those of the libraries under it are answers too."""
    handle_sigterm_as_sigint()
    channel, lock = _private_stdout(), threading.Lock()

    def send(message: dict[str, Any]) -> None:
        with lock:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

    job, parent = json.loads(sys.stdin.readline()), _Parent(send)
    try:
        with log_messages_to(parent):
            result = JOBS[job.pop("do")](parent, **job)
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
