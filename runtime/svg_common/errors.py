"""Expected errors, each with the exit code that the commands document."""

from __future__ import annotations

import errno
from enum import IntEnum
from pathlib import Path
from typing import Any

FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


class ExitCode(IntEnum):
    """Exit codes of every `svg-*` command."""

    OK = 0
    ERROR = 1
    USAGE = 2
    PARITY_FAILED = 3
    BACKEND_MISSING = 4
    SOURCE_LOST = 5
    INTERRUPTED = 130


class SvgError(Exception):
    """Base of all expected failures. The message says what was given, what was expected and what to do next."""

    exit_code = ExitCode.ERROR

    def __reduce__(self) -> tuple[Any, ...]:
        """For `pickle` and `copy`: message and attributes. By default they call `__init__` with the message alone."""
        return _without_init, (type(self), self.args), self.__dict__


def _without_init(kind: type[SvgError], args: tuple[Any, ...]) -> SvgError:
    return kind.__new__(kind, *args)


def first_line(error: BaseException | str) -> str:
    """The first line of a message, which is all that a table or an event has room for; without one, the name of the class."""
    line = (str(error).strip().splitlines() or [""])[0].rstrip()
    return line or ("" if isinstance(error, str) else type(error).__name__)


class UsageError(SvgError):
    """The arguments of a command or call are invalid or contradict each other."""

    exit_code = ExitCode.USAGE


class OutputError(SvgError):
    """A result cannot be written: no permission, no space, no such folder."""

    def __init__(self, path: Path, error: OSError, advice: str | None = None) -> None:
        full = error.errno in FULL_DISK
        advice = advice or f"{'free some space, or ' if full else ''}choose another path"
        super().__init__(f"cannot write '{path}': {error.strerror or error}\n  no file was left behind; {advice}")


class BackendMissingError(SvgError):
    """A requested backend, precision or device is not available on this machine or in this bundle."""

    exit_code = ExitCode.BACKEND_MISSING


class MissingExtraError(SvgError):
    """A feature was used whose optional dependencies are not installed."""

    exit_code = ExitCode.BACKEND_MISSING

    def __init__(self, what: str, module: str, extra: str) -> None:
        super().__init__(f"{what} needs the Python package '{module}'.\n  install it with: pip install 'svg-edge[{extra}]'")
