"""Processes that work when a line of their input says so, and answer with a line of JSON: what benchmarks of several share."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterable
from typing import Any


def ask(processes: Iterable[subprocess.Popen[str]], work: object) -> list[dict[str, Any]]:
    """Let all processes do so much work at once, and return what they say of it."""
    processes = list(processes)
    for process in processes:
        assert process.stdin is not None
        print(work, file=process.stdin, flush=True)
    return [read_line(process) for process in processes]


def read_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    """Return what a worker says next."""
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"a process has ended with exit code {process.wait()}")
    answer: dict[str, Any] = json.loads(line)
    return answer


def end(groups: Iterable[Iterable[subprocess.Popen[str]]]) -> None:
    """Close the input of all, which ends them."""
    for process in (process for group in groups for process in group):
        process.communicate()
