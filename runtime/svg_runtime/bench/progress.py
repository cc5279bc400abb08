"""How far a benchmark is, on stderr: a bar in a terminal, else a line per job."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class BenchProgress:
    """Context manager that shows what is being measured and what the last measurement gave."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = 0
        self._words = ""
        self._building: str | None = None  # told last
        self._bar: Progress | None = None
        self._task = TaskID(0)
        if console.is_terminal:
            columns = (
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:.0f} %"),
                TimeElapsedColumn(),
            )
            self._bar = Progress(*columns, console=console, transient=True)
            self._task = self._bar.add_task("starting", total=1)

    def __enter__(self) -> BenchProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, words: str, done: int, of: int) -> None:
        """A job begins, `done` of `of` are behind it."""
        self._done = done
        self._words = words
        self._building = None
        if self._bar is not None:
            self._bar.update(self._task, description=words, completed=done, total=of)
        else:
            self._console.print(f"[{done + 1}/{of}] {words} ...", markup=False)

    def progress(self, share: float) -> None:
        """The job's share that is done, 0 to 1."""
        if self._bar is not None:
            self._bar.update(self._task, description=self._words, completed=self._done + share)

    def building(self, what: str, share: float) -> None:
        """Before the job can begin, `what` is under way, its share 0 to 1 done."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{self._words}: {what}, {share:.0%}")
        elif what != self._building:
            self._console.print(f"{what} ...", markup=False)
        self._building = what

    def say(self, line: str) -> None:
        """What the job gave, or what happened in it."""
        self._console.print(line, markup=False)
