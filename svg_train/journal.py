"""The record of a run: metrics.jsonl, TensorBoard events, and progress on a display."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

import numpy as np
from PIL import Image
from torch.utils.tensorboard import SummaryWriter

from svg_common.files import atomic_file, storable
from svg_common.progress import ProgressDisplay
from svg_train.run_folder import METRICS

_LOG = logging.getLogger(__name__)
_LINE_EVERY_S = 30.0
_KINDS = ("train", "eval")  # of lines
_BEGINNING = '{"kind": "'  # of each line


class Journal:
    """Append-only record of a run. Only the first process writes it; the others pass `active=False`."""

    def __init__(
        self, folder: Path, total_steps: int | None, start_step: int, active: bool = True, owes_evaluation: bool = False
    ) -> None:
        self._active = active
        self._of_total = "" if total_steps is None else f"/{total_steps}"
        self._start = start_step
        self._began = time.monotonic()
        if not active:
            return
        self._metrics = folder / METRICS
        self._events = folder / "tensorboard"
        with ExitStack() as opened:
            with _named(self._metrics):
                self._file = opened.enter_context(_continue_at(self._metrics, start_step, owes_evaluation))
            with _named(self._events):
                self._board = _open_board(self._events, start_step)
            self._display = ProgressDisplay(line_every_s=_LINE_EVERY_S)
            opened.pop_all()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._active:
            return
        self._display.close()
        # Closing a file on a full disk fails again: the first error is the one to report.
        with suppress(OSError) if error is not None else nullcontext(), _named(self._metrics):
            self._file.close()
        with suppress(OSError) if error is not None else nullcontext(), _named(self._events):
            if self._board is not None:
                self._board.close()

    def log(self, message: str) -> None:
        """Log `message`, on the first process."""
        if self._active:
            _LOG.info("%s", message)

    def step(self, step: int, loss: float, share: float) -> None:
        """Show progress after `step` optimizer steps, with their rate; `share` of the training is done."""
        if not self._active:
            return
        rate = (step - self._start) / max(time.monotonic() - self._began, 1e-9)
        self._display.progress("training", min(share, 1.0), f"step {step}{self._of_total}, loss {loss:.5f}, {rate:.2f} steps/s")

    def record(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl, where numbers that are not finite are null, and the same values to TensorBoard."""
        if not self._active:
            return
        line: dict[str, Any] = {"kind": kind, "step": step, **values}
        with _named(self._metrics):
            self._file.write(json.dumps(storable(line), allow_nan=False) + "\n")
            self._file.flush()
        if self._board is None:
            return
        with _named(self._events):
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, file: Path) -> None:
        """Show a picture file in TensorBoard."""
        if self._active and self._board is not None:
            with _named(self._events):
                self._board.add_image(name, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Name `path` in the error of a failed write, which names no file."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def _hide_repeated_error(details: threading.ExceptHookArgs) -> None:
    """TensorBoard raises the error of its thread in the main thread again; only there it is reported."""
    if not (type(details.thread).__module__.startswith("tensorboard") and issubclass(details.exc_type, OSError)):
        threading.__excepthook__(details)


def _open_board(folder: Path, start_step: int) -> SummaryWriter | None:
    """TensorBoard's writer; None, with a warning, for a name that it cannot handle."""
    try:
        os.fspath(folder).encode("utf-8")
    except UnicodeEncodeError:
        _LOG.warning("no TensorBoard events: the name of '%s' is not UTF-8; %s has the same values", folder, METRICS)
        return None
    threading.excepthook = _hide_repeated_error
    return SummaryWriter(str(folder), purge_step=start_step + 1 if start_step else None)  # it was saved with that step's


def _continue_at(path: Path, step: int, owes_evaluation: bool) -> TextIO:
    """Open for appending, without the lines that a resumed run will write again.

    They are the only copy: a full disk or a kill must not cost those that stay.
    """
    written = path.read_bytes() if path.is_file() else b""
    lines = written.decode("utf-8", errors="replace").splitlines() if step > 0 else []
    kept = "".join(line + "\n" for line in lines if _stays(line, step, owes_evaluation)).encode()
    if kept != written:
        with atomic_file(path) as partial:
            partial.write_bytes(kept)
    return path.open("a", encoding="utf-8")


def foreign_line(content: str) -> int | None:
    """Number, from 1, of the first line of a metrics.jsonl that no run of svg-train has written; None if there is none.

    The last line may be cut short: the run was killed, or its disk was full.
    """
    *lines, last = content.split("\n")
    last = last.rstrip("\0")  # which some file systems leave after a power cut
    cut_short = not _entry(last) and (last.startswith(_BEGINNING) or _BEGINNING.startswith(last))
    own = [*map(_is_own, lines), not last or cut_short or _is_own(last)]
    return None if all(own) else own.index(False) + 1


def _is_own(line: str) -> bool:
    entry = _entry(line)
    return entry.get("kind") in _KINDS and isinstance(entry.get("step"), int)


def _stays(line: str, at: int, owes_evaluation: bool) -> bool:
    """Whether a run that was saved at step `at` does not write `line` again, as it does with an evaluation that it owes."""
    entry = _entry(line)
    step = entry.get("step")
    if not isinstance(step, (int, float)):
        return False
    return step < at or (step == at and not (owes_evaluation and entry.get("kind") == "eval"))


def _entry(line: str) -> dict[str, Any]:
    """The values of a line; none for one that is damaged, or was being written when the run was killed."""
    try:
        entry = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return entry if isinstance(entry, dict) else {}
