"""One check in a process of its own, which a driver that crashes or hangs takes down instead of the report."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from svg_runtime.doctor.finding import Finding

RUN_CHECK = "from svg_runtime.doctor.check import main; main()"
_GRACE_S = 2.0  # for a killed process; one that waits for a broken driver may never end
_LAST_LINES = 3
_MAKE_ROOM = "free some memory and disk space, end other programs, and run svg-doctor again"
_running: set[subprocess.Popen[bytes]] = set()


@dataclass(frozen=True)
class Check:
    """A function of `sections/`, which returns findings.

    Attributes:
        title: heading of the report; checks that follow each other may share one.
        module: file in `sections/`.
        arguments: for its function `check`.
        limit_s: when it is given up.
        advice: what to do when it crashes or hangs.
        label: what it looks at, where neither arguments nor title say it.
    """

    title: str
    module: str
    arguments: tuple[str, ...] = ()
    limit_s: float = 60.0
    advice: str = ""
    label: str = ""

    @property
    def name(self) -> str:
        """What it looks at, for the report of a check that gives no answer."""
        return self.label or " ".join(self.arguments) or self.title.lower()

    def run(self) -> list[Finding]:
        """Run it in another process; what fails there is a finding, too."""
        try:
            with _open_buffer() as output, _open_buffer() as errors:
                return self._ask(output, errors)
        except OSError as error:  # no room for a file or a process: that says nothing about what was to be looked at
            return [Finding(self.name, "unchecked", f"the check cannot be started: {error}", _MAKE_ROOM)]

    def _ask(self, output: IO[bytes], errors: IO[bytes]) -> list[Finding]:
        """Files and not pipes: a program that the check started may hold a pipe open for ever."""
        command = [sys.executable, "-c", RUN_CHECK, self.module, *self.arguments]
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=errors, start_new_session=True, env=_environment()
        )  # fmt: skip
        _running.add(process)
        try:
            code = process.wait(self.limit_s)
        except subprocess.TimeoutExpired:
            return [self._failed(f"no answer within {self.limit_s:g} s")]
        finally:
            _kill(process)
            _running.discard(process)
        answer = _answer(_text(output))
        return answer if answer is not None else [self._failed(_why(code, _text(errors)))]

    def _failed(self, reason: str) -> Finding:
        return Finding(self.name, "problem", reason, self.advice)


def stop_checks() -> None:
    """End all that run now; one that is being started is not among them yet."""
    for process in list(_running):
        _kill(process)


def run_here(module: str, arguments: Sequence[str]) -> list[Finding]:
    """Run the check of a file in `sections/` in this process."""
    from importlib import import_module

    found: list[Finding] = import_module(f"svg_runtime.doctor.sections.{module}").check(*arguments)
    return found


def main() -> None:
    """Entry point of the other process: the last line that it prints is the answer."""
    findings = run_here(sys.argv[1], sys.argv[2:])
    print("\n" + json.dumps([finding.as_json() for finding in findings]), flush=True)
    os._exit(0)  # some drivers crash when their process ends


def _open_buffer() -> IO[bytes]:
    """A file in memory where the system has such: that the disk is full is a thing to report."""
    with contextlib.suppress(AttributeError, OSError):
        return os.fdopen(os.memfd_create("svg-doctor"), "w+b")
    return tempfile.TemporaryFile()


def _environment() -> dict[str, str]:
    """Ours, with the folders that Python imports from: the program may have been started from a checkout.

    From Python 3.11 on the current folder is none of them: a json.py of the user's would be run.
    """
    paths = [str(Path(path).absolute()) for path in sys.path if path]
    own = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "QT_LOGGING_RULES": "*.warning=false"}
    return {**os.environ, **own}


def _kill(process: subprocess.Popen[bytes]) -> None:
    """End it, and what it started."""
    if hasattr(os, "killpg"):
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_GRACE_S)


def _text(file: IO[bytes]) -> str:
    file.seek(0)
    return file.read().decode("utf-8", "replace")


def _answer(output: str) -> list[Finding] | None:
    lines = output.splitlines()
    try:
        rows: list[dict[str, Any]] = json.loads(lines[-1])
        return [Finding(**row) for row in rows]
    except (IndexError, ValueError, TypeError):
        return None


def _why(code: int, errors: str) -> str:
    """A crash, with its signal, or the last lines of what was written to stderr."""
    lines = [line.strip() for line in errors.splitlines() if line.strip()]
    lines = lines[-1:] if "Traceback (most recent call last):" in lines else lines[-_LAST_LINES:]
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        lines = [f"it crashed with {names.get(-code, f'signal {-code}')}", *lines]
    return "; ".join(lines) or f"it ended with exit code {code} and said nothing"
