"""Progress of long work: the interface of its listeners, and the display that all commands use."""

from __future__ import annotations

import time
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

from svg_common.command import stderr_console
from svg_common.journal import stderr_is_journal

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

_LINE_EVERY_S = 10.0


class ProgressListener(Protocol):
    """Receives the progress of long work, such as of an engine that takes minutes to build."""

    def progress(self, task: str, share: float) -> None:
        """A share of `task`, 0 to 1, is done; at 1 it has ended."""
        ...


class NullListener:
    """Ignores all progress."""

    def progress(self, task: str, share: float) -> None:
        """Do nothing."""


@dataclass
class _Task:
    """A task in progress."""

    began_s: float
    first_share: float
    next_line_s: float = 0.0

    def time_left(self, share: float) -> str:
        """`12.3 min left`, from the pace so far; empty before any progress."""
        done = share - self.first_share
        if done <= 0:
            return ""
        left_s = (time.monotonic() - self.began_s) * (1.0 - share) / done
        return f"{left_s / 60:.1f} min left"


class ProgressDisplay:
    """The `ProgressListener` of commands: a bar on a terminal, else a line at the start of a task and at intervals.

    It shows one task at a time: a bar is removed when its task ends, when another one begins, and at the end of the context.
    Text printed to the same console appears above the bar.

    Args:
        console: where to show it; None: `stderr_console()`, to which log messages go too.
        line_every_s: seconds between the plain lines of a task.
    """

    def __init__(self, console: Console | None = None, line_every_s: float = _LINE_EVERY_S) -> None:
        self._console = console or stderr_console()
        self._line_every_s = line_every_s
        self._tasks: dict[str, _Task] = {}
        self._shown: str | None = None  # the task that the bar shows
        self._bar: Progress | None = None
        self._row: TaskID | None = None

    def __enter__(self) -> ProgressDisplay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Remove the bar."""
        self._remove_bar()

    def progress(self, task: str, share: float | None, detail: str = "") -> None:
        """Show the progress of `task`. A task that has ended is shown again only when it restarts, with a share below 1.

        Args:
            task: what is being done.
            share: 0 to 1; 1 ends the task; None if its end is not known.
            detail: the current part of it.
        """
        over = share is not None and share >= 1.0
        begins = task not in self._tasks
        if begins and over:
            return
        if begins:
            self._tasks[task] = _Task(time.monotonic(), share or 0.0)
        if self._console.is_terminal:
            self._show_bar(task, share, detail)
        else:
            self._print_line(task, share, detail, begins)
        if over:
            del self._tasks[task]
            if task == self._shown:
                self._remove_bar()

    def _print_line(self, task: str, share: float | None, detail: str, begins: bool) -> None:
        now, state = time.monotonic(), self._tasks[task]
        if begins:
            self._console.print(f"{task} ...", markup=False, emoji=False)
        elif share is None and stderr_is_journal():
            return  # a service may run for years; its status tells how it is
        elif now >= state.next_line_s and (share is None or share < 1.0):
            done, left = ("", "") if share is None else (f"{share:.0%}", state.time_left(share))
            self._console.print(f"{task}: {', '.join(filter(None, (done, detail, left)))}", markup=False, emoji=False)
        else:
            return
        state.next_line_s = now + self._line_every_s

    def _show_bar(self, task: str, share: float | None, detail: str) -> None:
        if task != self._shown:
            self._remove_bar()
            self._bar = _make_bar(self._console, ends=share is not None)
            self._row = self._bar.add_task(task, total=None if share is None else 1.0)
            self._bar.start()
            self._shown = task
        assert self._bar is not None
        assert self._row is not None
        self._bar.update(self._row, completed=share, description=f"{task} {detail}".rstrip())

    def _remove_bar(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar = self._row = self._shown = None


def _make_bar(console: Console, ends: bool) -> Progress:
    """A line with a bar and the time left; where the end is not known, without them."""
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    title = TextColumn("{task.description}", markup=False)  # a file's name may hold brackets
    bar = [BarColumn(), TaskProgressColumn()] if ends else []
    left = [TextColumn("left"), TimeRemainingColumn()] if ends else []
    return Progress(title, *bar, TimeElapsedColumn(), *left, console=console, transient=True)
