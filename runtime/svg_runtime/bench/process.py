"""Runs a job in its own process, so that peak memory is measured separately and a crash of a native library ends only it."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from svg_common.errors import ExitCode, SvgError
from svg_common.progress import ProgressListener
from svg_common.signals import defer_interrupts

_WORKER = "from svg_runtime.bench.worker import main; main()"
_NUMPY_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_TERMINATE_S = 2.0  # for a worker to end after SIGTERM
_EXIT_S = 30.0  # for an engine to unload; its answer has already arrived


class JobError(SvgError):
    """A job failed, or its process died. `missing`: a backend, library, device or precision is not available."""

    def __init__(self, reason: str, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


def run_job(job: dict[str, Any], folder: Path, progress: ProgressListener) -> dict[str, Any]:
    """Run one job of `worker.py` and return its result. Its log messages are logged again here.

    However this call ends, Ctrl-C included, the process has ended too.

    Args:
        job: the function's name under "do", and its arguments. Paths must be absolute.
        folder: working folder of the process, where an engine may leave files.
        progress: listener for the job.

    Raises:
        JobError: the job's own error, or how its process ended without a result.
    """
    with (folder / "stderr.txt").open("w+", encoding="utf-8", errors="replace") as stderr:
        process: subprocess.Popen[str] | None = None
        try:
            with defer_interrupts():
                process = subprocess.Popen(
                    [sys.executable, "-c", _WORKER], cwd=folder, env=_environment(job), text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                )  # fmt: skip
            answer = _converse(process, job, progress)
            process.wait(_EXIT_S if answer else None)
        except subprocess.TimeoutExpired:
            pass
        finally:
            if process is not None:
                _end(process)
                _close(process)
        assert process is not None
        if answer is None:
            raise JobError(_how_it_ended(process.returncode, stderr))
    if "error" in answer:
        raise JobError(answer["error"], answer["exit_code"] == ExitCode.BACKEND_MISSING)
    result: dict[str, Any] = answer["result"]
    return result


def _environment(job: dict[str, Any]) -> dict[str, str]:
    """Return the environment of a worker, which imports packages from where this process does.

    For jobs with `threads`, it also sets the threads of NumPy's matrix library, which reads them once from its environment.
    """
    threads = dict.fromkeys(_NUMPY_THREADS, str(job["threads"])) if "threads" in job else {}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}


def _converse(process: subprocess.Popen[str], job: dict[str, Any], progress: ProgressListener) -> dict[str, Any] | None:
    """Send the job and read messages until the process closes its stdout. None: there was no answer."""
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        process.stdin.write(json.dumps(job) + "\n")
        process.stdin.flush()
    except BrokenPipeError:
        return None
    answer: dict[str, Any] | None = None
    for line in process.stdout:
        try:
            message: dict[str, Any] = json.loads(line)
        except ValueError:  # cut in half by the end of the process
            break
        if "task" in message:
            progress.progress(message["task"], message["share"])
        elif "log" in message:
            logging.getLogger(message["logger"]).log(message["level"], "%s", message["log"])
        else:
            answer = message
    return answer


def _end(process: subprocess.Popen[str]) -> None:
    """Terminate the worker; on SIGTERM it removes its half-written files, such as an engine for the cache."""
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_S)
    finally:  # also when a second Ctrl-C interrupts the wait
        process.kill()
        process.wait()


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:  # the process never read its input
                continue


def _how_it_ended(code: int, stderr: IO[str]) -> str:
    """Describe how a process ended: the signal or the code, then the last line on stderr."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        ended = f"its process was killed by signal {name}"
    else:
        ended = f"its process exited with code {code} without a result"
    stderr.seek(0)
    lines = [line.strip() for line in stderr.read().splitlines() if line.strip()]
    return f"{ended}: {lines[-1]}" if lines else ended
