"""The other side of `process.py`: reads one job from stdin, answers with one JSON object per line."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from svg_common.errors import ExitCode, SvgError
from svg_common.signals import handle_sigterm_as_sigint
from svg_runtime.bench import measure, operations, probe

JOBS: dict[str, Callable[..., dict[str, Any]]] = {
    "measure": measure.measure,
    "count": operations.count_operations,
    "probe": probe.measure_peak,
}


@dataclass(frozen=True)
class _Parent:
    """The process that wants the answer, and hears meanwhile how far it is."""

    send: Callable[[dict[str, Any]], None]

    def __call__(self, share: float) -> None:
        """The share of the job that is done."""
        self.send({"progress": share})

    def say(self, line: str) -> None:
        """As a watcher of builds."""
        self.send({"say": line})

    def progress(self, what: str, share: float) -> None:
        """As a watcher of builds."""
        self.send({"building": what, "share": share})


def main() -> None:
    """Run the job, whose own errors and those of the libraries under it are answers too."""
    handle_sigterm_as_sigint()
    channel = _private_stdout()

    def send(message: dict[str, Any]) -> None:
        channel.write(json.dumps(message) + "\n")
        channel.flush()

    job = json.loads(sys.stdin.readline())
    try:
        result = JOBS[job.pop("do")](_Parent(send), **job)
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
