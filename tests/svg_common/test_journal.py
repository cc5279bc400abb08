"""Lines for the journal carry priorities; everything else is as on a terminal."""

from __future__ import annotations

import io
import os
import subprocess
import sys

import pytest

from svg_common.journal import JournalStream

WARN = "<4>"


def lines_of(*pieces: str) -> list[str]:
    behind = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace")
    stream = JournalStream(behind)
    for piece in pieces:
        stream.write(piece)
    stream.flush()
    return stream.buffer.getvalue().decode().splitlines()


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("svg-live: openvino\n", ["<6>svg-live: openvino"]),
        ("error: no camera\n  plug it in\n", ["<3>error: no camera", "<3>  plug it in"]),
        ("warning: odd\n  because\nsvg-live: goes on\n", ["<4>warning: odd", "<4>  because", "<6>svg-live: goes on"]),
        ("Traceback (most recent call last):\n  File\nValueError: x\n", ["<3>Traceback (most recent call last):", "<3>  File",
                                                                          "<3>ValueError: x"]),
        ("Usage: svg-live [OPTIONS]\nError: no such option\n", ["<3>Usage: svg-live [OPTIONS]", "<3>Error: no such option"]),
        (f"{WARN}svg-live: camera 0 stopped\n  retrying\n", ["<4>svg-live: camera 0 stopped", "<4>  retrying"]),
        ("svg-live: file 'a\n<0>b'\n", ["<6>svg-live: file 'a", "<6><0>b'"]),
    ],
)  # fmt: skip
def test_each_line_has_the_priority_of_its_kind(text, lines):
    assert lines_of(text) == lines


def test_a_line_may_come_in_pieces():
    assert lines_of("err", "or: x", "\n", "svg", "-live: y\n") == ["<3>error: x", "<6>svg-live: y"]


def journal_run(code: str, matches: bool = True) -> str:
    """What a process writes to a stderr that is, or is not, the journal by $JOURNAL_STREAM."""
    reader, writer = os.pipe()
    found = os.fstat(writer)
    stream = f"{found.st_dev}:{found.st_ino if matches else found.st_ino + 1}"
    environment = {**os.environ, "JOURNAL_STREAM": stream, "FORCE_COLOR": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, "-c", code], stderr=writer, env=environment)
    os.close(writer)
    with os.fdopen(reader, encoding="utf-8") as pipe:
        written = pipe.read()
    process.wait(30)
    return written


WRITES = """
import typer
from svg_common.command import run_command, stderr_console
from svg_common.errors import UsageError
from svg_common.progress import ProgressDisplay
app = typer.Typer()
@app.command()
def run():
    with ProgressDisplay(line_every_s=0) as display:
        for frame in range(3):
            display.progress("forecasting", None, f"frame {frame}")
    stderr_console().print("[bold]svg-live: ready :on:[/bold]")
    raise UsageError("cannot open rtsp://user:secret@host/\\n  check it")
run_command(app)
"""


def test_a_command_writes_to_the_journal_without_colours_progress_or_passwords():
    assert journal_run(WRITES).splitlines() == [
        "<6>forecasting ...", "<6>svg-live: ready :on:", "<3>error: cannot open rtsp://...@host/", "<3>  check it",
    ]  # fmt: skip


def test_another_stderr_is_no_journal():
    """As when a service starts a command whose stderr is a file: the variable is inherited, and names another stream."""
    assert "<" not in journal_run(WRITES, matches=False)
