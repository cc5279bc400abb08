"""What a run leaves behind while it goes: metrics.jsonl, TensorBoard events and a progress display."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from torch.utils.tensorboard import SummaryWriter

from svg_common.command import stderr_console

_PLAIN_INTERVAL_S = 30.0


class Journal:
    """Append-only record of a run. On a process that is not the first one it stays silent (`active=False`)."""

    def __init__(self, folder: Path, total_steps: int, start_step: int, active: bool = True) -> None:
        self._active = active
        self._total = total_steps
        self._start = start_step
        self._began = time.monotonic()
        self._last_plain = 0.0
        self._console = stderr_console()
        self._progress: Progress | None = None
        if not active:
            return
        self._file = _continue_at(folder / "metrics.jsonl", start_step)
        self._board = SummaryWriter(str(folder / "tensorboard"), purge_step=start_step or None)
        if self._console.is_terminal:
            self._progress = Progress(
                TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[info]}"),
                TimeElapsedColumn(), TextColumn("left"), TimeRemainingColumn(), console=self._console,
            )  # fmt: skip
            self._task = self._progress.add_task("training", total=total_steps, completed=start_step, info="")

    def __enter__(self) -> Journal:
        if self._progress:
            self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if not self._active:
            return
        if self._progress:
            self._progress.stop()
        self._file.close()
        self._board.close()

    def say(self, message: str) -> None:
        """One line for the person who watches."""
        if self._active:
            self._console.print(message)

    def step(self, step: int, loss: float) -> None:
        """Show progress after `step` optimizer steps: rate and time left."""
        if not self._active:
            return
        rate = (step - self._start) / max(time.monotonic() - self._began, 1e-9)
        info = f"loss {loss:.5f}  {rate:.2f} steps/s"
        if self._progress:
            self._progress.update(self._task, completed=step, info=info)
        elif time.monotonic() - self._last_plain > _PLAIN_INTERVAL_S or step == self._total:
            self._last_plain = time.monotonic()
            left = (self._total - step) / max(rate, 1e-9)
            print(f"step {step}/{self._total}  {info}  {left / 60:.1f} min left", file=sys.stderr, flush=True)

    def record(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Append one line to metrics.jsonl and the same values to TensorBoard."""
        if not self._active:
            return
        line: dict[str, Any] = {"kind": kind, "step": step, **values}
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        for name, value in values.items():
            self._board.add_scalar(f"{kind}/{name}", value, step)

    def picture(self, name: str, step: int, file: Path) -> None:
        """Show a picture file in TensorBoard."""
        if self._active:
            self._board.add_image(name, np.asarray(Image.open(file).convert("RGB")), step, dataformats="HWC")


def _continue_at(path: Path, step: int) -> Any:
    """Open for appending, without the lines that a resumed run is going to write again."""
    kept = []
    if path.exists() and step > 0:
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                continue  # the line that was being written when the run was killed
            if entry.get("step", 0) <= step:
                kept.append(line)
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    return path.open("a", encoding="utf-8")
