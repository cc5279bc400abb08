"""Log messages of our packages, as the commands show them.

A program that uses our packages as libraries gets the same messages through `logging.getLogger("svg_runtime")` and the like.
If it configures nothing, Python shows warnings only.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console

from svg_common.printable import console_text

PACKAGES = ("svg_common", "svg_runtime", "svg_train", "svg_eval", "svg_export", "svg_adapt")


class ConsoleHandler(logging.Handler):
    """Prints messages of level INFO with a prefix, and more severe ones as `warning: ...`, without passwords of addresses.

    A defect that was logged with its exception is printed with the traceback, for a report of it.

    Args:
        console: shared with the `ProgressDisplay`, so that messages appear above its bar.
        prefix: before messages of level INFO.
    """

    def __init__(self, console: Console, prefix: str) -> None:
        super().__init__(logging.INFO)
        self._console = console
        self._prefix = prefix

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        prefix = "warning: " if record.levelno >= logging.WARNING else self._prefix
        self._console.print(f"{prefix}{console_text(self.format(record))}", markup=False, emoji=False)


@contextmanager
def log_messages_to(handler: logging.Handler) -> Iterator[None]:
    """Send the messages of all our packages from level INFO on to `handler`, and to no other handler."""
    loggers = [logging.getLogger(name) for name in PACKAGES]
    before = [(logger, logger.level, logger.propagate) for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
    try:
        yield
    finally:
        for logger, level, propagate in before:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
