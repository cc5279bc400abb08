"""Runs a job in a process of its own: its peak memory is its own, and the crash of a native library ends it alone."""

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
_TERMINATE_S = 2.0  # for a worker that is told to end
_EXIT_S = 30.0  # an engine that hangs while it unloads has answered already


class JobError(SvgError):
    """A job failed, or its process died. `missing`: a backend, library, device or precision is not there."""

    def __init__(self, reason: str, missing: bool = False) -> None:
        super().__init__(reason)
        self.missing = missing


def run_job(job: dict[str, Any], folder: Path, progress: ProgressListener) -> dict[str, Any]:
    """Run one job of `worker.py` and return its result. What it logs is logged here again.

    Whatever ends this call, Ctrl-C included, the process has ended too.

    Args:
        job: its function's name under "do", and its arguments. Paths must be absolute.
        folder: where the process works and an engine may leave its files.
        progress: who is told how far it is.

    Raises:
        JobError: the job's own error, or how its process ended without a result.
    """
    with (folder / "stderr.txt").open("w+", encoding="utf-8", errors="replace") as words:
        process: subprocess.Popen[str] | None = None
        try:
            with defer_interrupts():
                process = subprocess.Popen(
                    [sys.executable, "-c", _WORKER], cwd=folder, env=_environment(job), text=True,
                    stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words,
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
            raise JobError(_how_it_ended(process.returncode, words))
    if "error" in answer:
        raise JobError(answer["error"], answer["exit_code"] == ExitCode.BACKEND_MISSING)
    result: dict[str, Any] = answer["result"]
    return result


def _environment(job: dict[str, Any]) -> dict[str, str]:
    """The worker finds packages where this process does, although it works in another folder.

    Jobs with `threads` get them from NumPy, whose matrix library reads their number once, from its environment.
    """
    threads = dict.fromkeys(_NUMPY_THREADS, str(job["threads"])) if "threads" in job else {}
    return {**os.environ, **threads, "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path)}


def _converse(process: subprocess.Popen[str], job: dict[str, Any], progress: ProgressListener) -> dict[str, Any] | None:
    """Hand the job over and listen until the process closes its end. None: it gave no answer."""
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
    """A worker that is told so takes its half-written files along, such as an engine for the cache."""
    process.terminate()
    try:
        with suppress(subprocess.TimeoutExpired):
            process.wait(_TERMINATE_S)
    finally:  # a second Ctrl-C does not wait
        process.kill()
        process.wait()


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            try:
                stream.close()
            except BrokenPipeError:  # what the process never read
                continue


def _how_it_ended(code: int, words: IO[str]) -> str:
    """A person's version of a process's end: the signal or the code, then the last words of the library."""
    if code < 0:
        try:
            name = signal.Signals(-code).name
        except ValueError:
            name = str(-code)
        ended = f"its process was killed by signal {name}"
    else:
        ended = f"its process exited with code {code} without a result"
    words.seek(0)
    said = [line.strip() for line in words.read().splitlines() if line.strip()]
    return f"{ended}: {said[-1]}" if said else ended
