"""Progress of long file work on stderr: a bar in a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from svg_common.command import stderr_console

_PLAIN_EVERY_S = 5.0

Update = Callable[[float, str], None]  # (part done: 0 to 1, short text on what is being done)


@contextmanager
def progress(title: str) -> Iterator[Update]:
    """Show `title` while the body runs, and yield the function that it reports its progress to."""
    console = stderr_console()
    if not console.is_terminal:
        yield _plain_lines(title)
        return
    columns = TextColumn("{task.description}", markup=False), BarColumn(), TaskProgressColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(title, total=1.0)
        yield lambda done, text: bar.update(task, completed=done, description=f"{title} {text}")


@lru_cache(maxsize=256)
def note_once(message: str) -> None:
    """Tell the user `message` on stderr, once per process: train and test data are opened from the same files."""
    stderr_console().print(message, markup=False)


def _plain_lines(title: str) -> Update:
    print_line = stderr_console().print
    print_line(title, markup=False)
    last = time.monotonic()

    def update(done: float, text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _PLAIN_EVERY_S:
            last = time.monotonic()
            print_line(f"{title}: {done:.0%} {text}", markup=False)

    return update
