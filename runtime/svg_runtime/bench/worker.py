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
from svg_common.signals import handle_stop_signals_as_sigint
from svg_runtime.bench import measure, operations, probe

JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "measure": measure.measure,
    "count": operations.count_operations,
    "probe": probe.measure_peak,
}


class _Parent(logging.Handler):
    """Sends progress and log messages to the parent process.

    Args:
        send: called with one message; two threads may call it at once.
    """

    def __init__(self, send: Callable[[dict[str, Any]], None]) -> None:
        super().__init__(logging.INFO)
        self._send = send

    def progress(self, task: str, share: float) -> None:
        """Send the progress, see `ProgressListener`."""
        self._send({"task": task, "share": share})

    def emit(self, record: logging.LogRecord) -> None:
        """Send a log message, see `logging.Handler`."""
        self._send({"log": record.getMessage(), "level": record.levelno, "logger": record.name})


def main() -> None:
    """Run the job. Its errors, and those of the libraries, are sent as answers too."""
    handle_stop_signals_as_sigint()
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
    """Return a stream to the parent, and redirect stdout to stderr, so that no native library prints into the stream."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel
