"""Runs our commands in processes of their own that start in milliseconds, for tests that need many of them.

A server imports the heavy libraries once and forks a process per run, before any of them has a thread.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from pathlib import Path

from tests.file_size import limit_file_size

_MAINS = {
    "svg-train": "svg_adapt.cli",
    "svg-export": "svg_export.cli",
    "svg-eval": "svg_eval.cli",
    "svg-live": "svg_runtime.live.cli",
    "svg-forecast": "svg_runtime.offline.cli",
    "svg-bench": "svg_runtime.bench.cli",
    "svg-doctor": "svg_runtime.doctor.cli",
}
HANG_S = 60.0  # only what hangs takes so long, on any machine: tests measure no speed
_CONTEXT = multiprocessing.get_context("forkserver")
_CONTEXT.set_forkserver_preload(["tests.command_preload"])


class _Reader(threading.Thread):
    """Collects what a process writes to a pipe: a log file would be subject to the limits of the process."""

    def __init__(self, pipe: Connection) -> None:
        super().__init__(daemon=True)
        self._pipe = pipe
        self.content = b""

    def run(self) -> None:
        while piece := os.read(self._pipe.fileno(), 1 << 16):
            self.content += piece


@dataclass
class Run:
    """A command in progress, or its end."""

    process: ForkServerProcess
    reader: _Reader

    @property
    def output(self) -> str:
        """All that it has written to stdout and stderr."""
        if self.process.exitcode is not None:
            self.reader.join(10)
        return self.reader.content.decode("utf-8", "replace")

    def wait(self, timeout_s: float = 120) -> int:
        """Wait for the end and return the exit code; negative: the signal that ended it."""
        self.process.join(timeout_s)
        if self.process.exitcode is None:
            self.process.kill()
            self.process.join()
            raise TimeoutError(self.output)
        return self.process.exitcode

    def kill_after(self, seconds: float) -> bool:
        """Kill it with SIGKILL after `seconds`, with its child processes; whether it was still running."""
        self.process.join(seconds)
        running = self.process.exitcode is None
        self.process.kill()
        self.process.join()
        return running

    def assert_one_message(self, *codes: int) -> None:
        """It ended with one of `codes`, and without a traceback."""
        code = self.wait()
        assert code in codes, (code, self.output)
        assert "Traceback" not in self.output, self.output
        if code not in (0, 130):
            assert self.output.count("\nerror: ") + self.output.startswith("error: ") >= 1, self.output


def start(
    command: Sequence[str],
    folder: Path,
    limits: Mapping[int, int] | None = None,
    before: Callable[[], None] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Start a command.

    Args:
        command: name and arguments.
        folder: working folder.
        limits: resource.RLIMIT_... -> soft limit.
        before: called in the new process, before the command; a function of a module.
        environment: variables to set.
    """
    ours, theirs = multiprocessing.Pipe(duplex=False)
    process = _CONTEXT.Process(
        target=_main, args=(list(command), str(folder), theirs, dict(limits or {}), before, dict(environment or {}))
    )
    process.start()
    theirs.close()
    reader = _Reader(ours)
    reader.start()
    return Run(process, reader)


def _main(
    command: list[str],
    folder: str,
    log: Connection,
    limits: dict[int, int],
    before: Callable[[], None] | None,
    environment: dict[str, str],
) -> None:
    os.dup2(log.fileno(), 1)
    os.dup2(log.fileno(), 2)
    log.close()
    sys.stdout = os.fdopen(1, "w", encoding="utf-8", buffering=1, closefd=False)
    sys.stderr = os.fdopen(2, "w", encoding="utf-8", errors="backslashreplace", buffering=1, closefd=False)
    os.chdir(folder)
    os.environ.update(environment)
    main = import_module(_MAINS[command[0]]).main
    sys.argv = command
    for kind, limit in limits.items():
        if kind == resource.RLIMIT_FSIZE:
            limit_file_size(limit)
        else:
            resource.setrlimit(kind, (limit, resource.getrlimit(kind)[1]))
    if before is not None:
        before()
    main()


def flush_slowly() -> None:
    """For `before` of `start`: a file waits for 0.1 s before it is published, so that a kill meets what is not complete."""
    from svg_common import files

    flush = files.flush

    def slow(path: Path) -> None:
        time.sleep(0.1)
        flush(path)

    files.flush = slow


def wait_until(condition: Callable[[], object], timeout_s: float = HANG_S) -> None:
    """Wait until `condition` holds."""
    end = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def is_running(process_id: int) -> bool:
    """Whether a process lives; one that has ended and was not waited for by its parent does not."""
    try:
        state = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"
