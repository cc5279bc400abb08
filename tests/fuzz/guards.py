"""Watches a reader while it reads one input: what Python is asked to run, and how much memory it takes."""

from __future__ import annotations

import codecs
import os
import resource
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from svg_common.errors import SvgError
from tests.fuzz.target import Finding

MEMORY_LIMIT = 1 << 30  # bytes that an input may add
_HEADROOM = 256 << 20  # bytes of address space for the fuzzer itself
_RUNS_CODE = (
    "exec", "compile", "import", "pickle.find_class", "code.__new__", "marshal.", "ctypes.", "subprocess.", "os.exec",
    "os.fork", "os.posix_spawn", "os.spawn", "os.system", "pty.", "socket.", "urllib.", "ftplib.", "webbrowser.",
)  # fmt: skip
_CHANGES_FILES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown", "shutil.")
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_CODECS = ("ascii", "latin-1", "utf-8", "utf-16", "utf-32", "cp437", "raw_unicode_escape", "unicode_escape", "idna", "punycode")
_STATUS = os.open("/proc/self/status", os.O_RDONLY)  # of the process that opens it, so never before a fork
_PROJECT = ("/svg_common/", "/svg_runtime/", "/svg_train/", "/svg_export/", "/svg_eval/")


class Guard:
    """Runs a reader on one input after another.

    Args:
        scratch: the folder where the reader may write.

    Attributes:
        events: what the last input asked Python to do although it must not.
    """

    def __init__(self, scratch: Path) -> None:
        self.events: list[str] = []
        self._scratch = str(scratch)
        self._watching = False
        self._peak = _peak_bytes()
        for codec in _CODECS:  # imported late, by the first text that needs them
            codecs.lookup(codec)
        sys.addaudithook(self._audit)

    def limit_memory(self) -> None:
        """Refuse memory beyond the limit from now on: everything that the reader imports late must be loaded."""
        self._peak = _peak_bytes()
        limit = _address_space() + MEMORY_LIMIT + _HEADROOM
        resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))

    def read(self, read: Callable[[Any], object], placed: Any) -> Finding | None:
        """Give `placed` to the reader."""
        self.events.clear()
        self._watching = True
        try:
            read(placed)
        except SvgError:
            pass
        except BaseException as error:
            self._watching = False
            return Finding(type(error).__name__, _place(error), "".join(traceback.format_exception(error))[-4000:])
        finally:
            self._watching = False
        return self._broken_rule()

    def _broken_rule(self) -> Finding | None:
        if self.events:
            return Finding("ForbiddenEvent", self.events[0][:100], "\n".join(self.events[:20]))
        grown = _peak_bytes() - self._peak
        if grown > MEMORY_LIMIT:
            return Finding("Memory", "", f"the input took {grown >> 20} MiB, over the limit of {MEMORY_LIMIT >> 20} MiB")
        return None

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._watching or _is_traceback_of_cython(event, arguments):
            return
        if (
            event.startswith(_RUNS_CODE)
            or (event == "open" and self._writes_elsewhere(*arguments))
            or (event.startswith(_CHANGES_FILES) and not str(arguments[0]).startswith(self._scratch))
        ):
            self.events.append(f"{event} {str(arguments[:2])[:200]}")

    def _writes_elsewhere(self, path: Any, mode: str | None, flags: int) -> bool:
        return bool(flags & _WRITES) and not os.fsdecode(path if isinstance(path, (str, bytes)) else "").startswith(
            self._scratch
        )


def _is_traceback_of_cython(event: str, arguments: tuple[Any, ...]) -> bool:
    """PyAV, when it raises an error, makes code objects that show its own lines in the traceback. None of them is run."""
    if event == "code.__new__":
        return str(arguments[1]).startswith("av/")
    return event == "compile" and arguments[0] == b"_getframe()"


def _place(error: BaseException) -> str:
    """The innermost line of the project in the traceback."""
    lines = [frame for frame in traceback.extract_tb(error.__traceback__) if any(part in frame.filename for part in _PROJECT)]
    return f"{Path(lines[-1].filename).name}:{lines[-1].lineno} {lines[-1].name}" if lines else ""


def _peak_bytes() -> int:
    """VmHWM. Not getrusage: a child starts with the peak of the process that made it."""
    text = os.pread(_STATUS, 4096, 0)
    start = text.index(b"VmHWM:") + len(b"VmHWM:")
    return int(text[start : text.index(b"kB", start)]) * 1024


def _address_space() -> int:
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
