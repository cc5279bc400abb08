"""Runs a program of the user for each record."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import subprocess
from contextlib import suppress

from svg_common.errors import UsageError
from svg_common.printable import console_text
from svg_runtime.live.alarms.outlet import RefusedError
from svg_runtime.live.alarms.record import AlarmRecord

_TIMEOUT_S = 30.0
_PREFIX = "SVG_EDGE_ALARM_"


class AlarmCommand:
    """Runs a program without a shell: the record is on its standard input, and the main values in environment variables.

    Args:
        command: program and arguments, quoted as in a shell.

    Raises:
        UsageError: quotes that do not match, or no such program.
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
            program = self._arguments[0] if self._arguments else ""
            raise UsageError(
                f"--on-alarm: there is no program '{program}'\n"
                "  expected a program and its arguments; no shell reads them: for a pipe, --on-alarm \"sh -c '...'\""
            )

    def send(self, record: AlarmRecord) -> None:
        """See `Transport`. A program that fails or hangs is reported, and not run again for this record."""
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
        try:
            _, message = process.communicate(record.to_json().encode("utf-8") + b"\n", _TIMEOUT_S)
        except subprocess.TimeoutExpired:
            _kill(process)
            raise RefusedError(f"{self._arguments[0]} was stopped: it took more than {_TIMEOUT_S:g} s") from None
        if process.returncode:
            last = message.decode("utf-8", "replace").strip().rpartition("\n")[2]
            said = f": {console_text(last)}" if last else ""
            raise RefusedError(f"{self._arguments[0]} failed with exit code {process.returncode}{said}")

    def close(self) -> None:
        """Nothing runs between records."""


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


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        if hasattr(os, "killpg"):
            os.killpg(process.pid, signal.SIGKILL)
        else:
            process.kill()
    process.wait()
    for pipe in (process.stdin, process.stderr):  # closed, not read to its end: a child in a session of its own may hold it
        if pipe is not None:
            pipe.close()
