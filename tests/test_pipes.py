"""A pipe where a command expects a file is refused at once: reading it would wait for a program that may never write."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from typer.testing import CliRunner

from svg_adapt.cli import app as svg_train
from svg_common.errors import ExitCode, UsageError
from svg_eval.cli import app as svg_eval
from svg_export.cli import app as svg_export
from svg_runtime.live.cli import app as svg_live


@pytest.fixture
def pipe(tmp_path, monkeypatch) -> str:
    """A FIFO in the current folder. It ends at once for a command that reads it all the same, which then fails the test."""
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe")

    def end() -> None:
        while True:
            os.close(os.open("pipe", os.O_WRONLY))

    threading.Thread(target=end, daemon=True).start()
    return "pipe"


@pytest.mark.parametrize(
    ("app", "arguments"),
    [
        (svg_live, ["--source", "pipe", "--headless"]),
        (svg_train, ["--config", "pipe"]),
        (svg_train, ["--init", "pipe", "--steps", "1"]),
        (svg_train, ["--data", "video", "--data-root", "pipe"]),
        (svg_export, ["pipe"]),
        (svg_eval, ["pipe"]),
        (svg_eval, ["CHECKPOINT", "--baseline", "pipe"]),
        (svg_eval, ["CHECKPOINT", "--data", "video", "--data-root", "pipe"]),
        (svg_eval, ["CHECKPOINT", "--lpips-weights", "pipe"]),
        (svg_export, ["CHECKPOINT", "--data", "video", "--data-root", "pipe", "--bn", "recalibrate", "--out", "o.svgb"]),
    ],
)
def test_a_pipe_is_refused_at_once(pipe, tiny_checkpoint, app, arguments):
    given = [str(tiny_checkpoint) if argument == "CHECKPOINT" else argument for argument in arguments]
    result = CliRunner().invoke(app, given)
    assert isinstance(result.exception, UsageError), result.output
    assert result.exception.exit_code == ExitCode.USAGE
    assert "is a pipe, which can be read only once\n  expected a file" in str(result.exception)
    assert not Path("o.svgb").exists()
