"""What a person sees on stderr while engines are built: a bar on a terminal, else a line at the start and now and then."""

from __future__ import annotations

import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

_LINE_EVERY_S = 10.0


class BuildProgress:
    """A `ProgressListener` for commands.

    Args:
        console: on stderr.
        command: whose name is put before plain lines.
    """

    def __init__(self, console: Console, command: str) -> None:
        self._console, self._command = console, command
        self._what: str | None = None
        self._next_line_s = 0.0
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def say(self, line: str) -> None:
        """One line, above the bar."""
        self._console.print(f"{self._command}: {line}", markup=False)

    def progress(self, what: str, share: float) -> None:
        """Move the bar of `what`; at 1 it goes away, as it does when something else begins."""
        if what != self._what:
            self._end()
            self._begin(what)
        if self._bar is not None:
            self._bar.update(self._task, completed=share)
        elif time.monotonic() >= self._next_line_s:
            self._next_line_s = time.monotonic() + _LINE_EVERY_S
            self.say(f"{what}: {share:.0%}")
        if share >= 1.0:
            self._end()

    def close(self) -> None:
        """Take the bar away, whatever came of it."""
        self._end()

    def _begin(self, what: str) -> None:
        self._what, self._next_line_s = what, 0.0
        if self._console.is_terminal:
            columns = TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f} %"), TimeElapsedColumn()
            self._bar = Progress(*columns, console=self._console, transient=True)
            self._task = self._bar.add_task(what, total=1.0)
            self._bar.start()

    def _end(self) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._bar, self._what = None, None
