"""Imports every file of a folder and reports, as JSON, the result, what Python was asked to run, and the memory used.

Run as a program by the tests: an audit hook cannot be removed, and memory is measured best in a process of its own.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

from svg_common.errors import SvgError
from svg_train.reference.checkpoint import load_any_checkpoint

FORBIDDEN = (
    "exec",
    "compile",
    "import",
    "os.",
    "subprocess.",
    "shutil.",
    "socket.",
    "pickle.find_class",
    "code.__new__",
    "ctypes.",
)
ALLOWED = ("os.listdir", "os.scandir")


def memory_mb(key: str) -> float:
    """VmRSS or VmHWM. Not getrusage: a child starts with the peak of the process that made it."""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def load_measured(path: Path) -> dict[str, object]:
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before, result = memory_mb("VmRSS"), load(path)
    return {"result": result, "grown_mb": memory_mb("VmHWM") - before}


def load(path: Path) -> str:
    try:
        load_any_checkpoint(path)
    except SvgError as error:
        return str(error)
    except BaseException as error:
        return f"NOT EXPECTED {type(error).__name__}: {error}"
    return "loaded"


def main(folder: Path) -> None:
    files = sorted(folder.iterdir())
    for path in files:
        if "whole" in path.name:  # valid checkpoints: what the importer itself imports late has then been imported
            load(path)
    events: list[str] = []
    watching = [True]

    def watch(event: str, _: object) -> None:
        if watching[0] and event.startswith(FORBIDDEN) and event not in ALLOWED:
            events.append(event)

    sys.addaudithook(watch)
    before, report = memory_mb("VmRSS"), {}
    for path in files:
        events.clear()
        report[path.name] = load_measured(path) | {"events": sorted(set(events))}
    watching[0] = False
    print(json.dumps({"files": report, "kept_mb": memory_mb("VmRSS") - before}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
