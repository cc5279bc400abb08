"""Runs a program of the user for each record."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
import threading
import time
from contextlib import suppress
from typing import Any

from svg_common.errors import UsageError
from svg_common.path_advice import shell_argument
from svg_common.printable import console_text
from svg_runtime.live.alarms.outlet import RefusedError, StoppedError
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.alarms.worker import NotDeliveredError

_TIMEOUT_S = 30.0
_LOOK_S = 0.1  # how often it is seen that the run has ended
_STDERR_BYTES = 4096  # kept of what a program writes to stderr, from its end
_STDERR_S = 1.0  # for the last of it to be read
_TERMINATE_S = 1.0  # for a program to end by itself at the end of the run
_PREFIX = "SVG_EDGE_ALARM_"


class AlarmCommand:
    """Runs a program without a shell: the record is on its standard input, and the main values in environment variables.

    Args:
        command: program and arguments, quoted as in a shell.

    Raises:
        UsageError: quotes that do not match, or no such program, or one that may not be run.
    """

    name = "command"

    def __init__(self, command: str) -> None:
        try:
            self._arguments = shlex.split(command)
        except ValueError as error:
            raise UsageError(
                f"--on-alarm: {str(error).lower()} in {command}\n  expected a program and its arguments"
            ) from error
        if not self._arguments or shutil.which(self._arguments[0]) is None:
            raise UsageError(_no_program(self._arguments[0] if self._arguments else ""))
        self._closing = threading.Event()
        self._idle = threading.Event()  # no program runs
        self._idle.set()

    def send(self, record: AlarmRecord) -> None:
        """See `Transport`. A program that fails or hangs is reported, and not run again for this record."""
        self._idle.clear()
        try:
            if self._closing.is_set():  # looked at after `clear`, as `close` waits after `set`: one of both sees the other
                raise NotDeliveredError("the run has ended")
            self._run(record)
        finally:
            self._idle.set()

    def close(self) -> None:
        """End a program that runs, with its children: without svg-live nobody would stop one that hangs."""
        self._closing.set()
        self._idle.wait(_LOOK_S + 2 * _TERMINATE_S)

    def _run(self, record: AlarmRecord) -> None:
        try:
            process = subprocess.Popen(
                self._arguments,
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, **environment(record)},
                start_new_session=True,  # Ctrl-C is for svg-live, and a program that hangs ends with its children
            )
        except OSError as error:
            raise RefusedError(f"{self._arguments[0]}: {error.strerror or error}") from None
        _feed(process, record.to_json().encode("utf-8") + b"\n")
        stderr = _Tail(process)
        self._wait(process)
        if process.returncode:
            last = stderr.read().decode("utf-8", "replace").strip().rpartition("\n")[2]
            said = f": {console_text(last)}" if last else ""
            raise RefusedError(f"{self._arguments[0]} failed with exit code {process.returncode}{said}")

    def _wait(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the program, not for children that it leaves behind."""
        until_s = time.monotonic() + _TIMEOUT_S
        while True:
            with suppress(subprocess.TimeoutExpired):
                process.wait(timeout=max(0.0, min(_LOOK_S, until_s - time.monotonic())))
                return
            if self._closing.is_set():
                _terminate(process)
                raise StoppedError(f"{self._arguments[0]} was stopped: the run ended before it did")
            if time.monotonic() >= until_s:
                _kill(process)
                raise RefusedError(f"{self._arguments[0]} was stopped: it took more than {_TIMEOUT_S:g} s")


def _no_program(program: str) -> str:
    """What is wrong with a name that is not that of a program."""
    if "/" in program and os.path.isdir(program):
        return f"--on-alarm: '{program}' is a folder\n  expected a program and its arguments"
    if "/" in program and os.path.exists(program):
        return f"--on-alarm: '{program}' is not executable\n  run: chmod +x {shell_argument(program)}"
    return (
        f"--on-alarm: there is no program '{program}'\n"
        "  expected a program and its arguments; no shell reads them: for a pipe, --on-alarm \"sh -c '...'\""
    )


def environment(record: AlarmRecord) -> dict[str, str]:
    """The main values of a record as environment variables; what is not known is empty."""
    peak = getattr(record.peak, record.signal)
    values = {
        "SEQUENCE": record.sequence,
        "PHASE": record.phase,
        "CAMERA": record.camera,
        "SOURCE": record.source,
        "START": record.start.isoformat(),
        "END": record.end.isoformat() if record.end else None,
        "PEAK": None if peak is None else f"{peak:.2f}",
        "CLIP": record.files.clip,
        "PICTURE": record.files.picture,
    }
    return {_PREFIX + name: "" if value is None else str(value) for name, value in values.items()}


def _feed(process: subprocess.Popen[bytes], given: bytes) -> None:
    """Write its input in a thread of its own: a program may read late, or never."""
    pipe = process.stdin
    assert pipe is not None
    process.stdin = None

    def write() -> None:
        with suppress(OSError), pipe:  # a program need not read
            pipe.write(given)

    threading.Thread(target=write, name="alarm-input", daemon=True).start()


class _Tail:
    """Reads what a program writes to stderr in a thread of its own, to the end of its last child, and keeps the last of it."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._pipe: Any = process.stderr
        self._kept = b""
        self._thread = threading.Thread(target=self._run, name="alarm-stderr", daemon=True)
        self._thread.start()

    def read(self) -> bytes:
        """What a program that has ended wrote; a child that it leaves behind may still hold the pipe."""
        self._thread.join(_STDERR_S)
        return self._kept

    def _run(self) -> None:
        with suppress(OSError), self._pipe:
            while chunk := self._pipe.read1(_STDERR_BYTES):
                self._kept = (self._kept + chunk)[-_STDERR_BYTES:]


def _terminate(process: subprocess.Popen[bytes]) -> None:
    """Let a program clean up for a moment, then end what is left of it and of its children."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM) if hasattr(os, "killpg") else process.terminate()
    with suppress(subprocess.TimeoutExpired):
        process.wait(_TERMINATE_S)
    _kill(process)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL) if hasattr(os, "killpg") else process.kill()
    process.wait()
