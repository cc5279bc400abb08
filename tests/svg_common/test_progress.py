"""Progress and log messages as the commands show them."""

from __future__ import annotations

import io
import logging
import subprocess
import sys

import pytest
from rich.console import Console

from svg_common import progress as progress_module
from svg_common.command import stderr_console
from svg_common.log_messages import ConsoleHandler, log_messages_to
from svg_common.progress import ProgressDisplay


def terminal() -> Console:
    return Console(file=io.StringIO(), force_terminal=True, color_system=None, width=100, soft_wrap=True)


def file() -> Console:
    return Console(file=io.StringIO(), width=40, soft_wrap=True)


@pytest.fixture
def clock(monkeypatch):
    """The display's clock, in seconds."""
    now = [100.0]
    monkeypatch.setattr(progress_module.time, "monotonic", lambda: now[0])
    return now


def test_without_a_terminal_a_task_has_a_line_at_its_start_and_at_intervals(clock):
    console = file()
    with ProgressDisplay(console) as display:
        for second in range(0, 41, 4):
            clock[0] = 100.0 + second
            display.progress("building [bold]step.onnx", second / 40, f"step {second} of a long path that is not wrapped")
    assert console.file.getvalue().splitlines() == [
        "building [bold]step.onnx ...",
        "building [bold]step.onnx: 30%, step 12 of a long path that is not wrapped, 0.5 min left",
        "building [bold]step.onnx: 60%, step 24 of a long path that is not wrapped, 0.3 min left",
        "building [bold]step.onnx: 90%, step 36 of a long path that is not wrapped, 0.1 min left",
    ]


def test_without_a_terminal_alternating_tasks_have_one_start_each(clock):
    console = file()
    with ProgressDisplay(console) as display:
        for share in (0.0, 0.5, 1.0):
            display.progress("one", 0.5)
            display.progress("two", share)
        display.progress("two", 1.0)  # is over
        display.progress("two", 0.0)  # begins anew
    assert console.file.getvalue().splitlines() == ["one ...", "two ...", "two ..."]


def test_a_task_without_a_known_end_has_its_detail(clock):
    console = file()
    with ProgressDisplay(console) as display:
        for frame in (1, 2):
            display.progress("forecasting", None, f"frame {frame}, 9.5 fps")
            clock[0] += 11
    assert console.file.getvalue().splitlines() == ["forecasting ...", "forecasting: frame 2, 9.5 fps"]


def test_on_a_terminal_a_task_has_a_bar_until_it_ends():
    console = terminal()
    with ProgressDisplay(console) as display:
        display.progress("decoding", 0.25, "[bold]a.avi, 32 frames")
        (task,) = display._bar.tasks
        assert (task.description, task.completed, task.total) == ("decoding [bold]a.avi, 32 frames", 0.25, 1.0)
        display.progress("evaluating", None)
        (task,) = display._bar.tasks
        assert (task.description, task.total) == ("evaluating", None)
        display.progress("evaluating", 1.0)
        assert display._bar is None
        display.progress("evaluating", 1.0)
        assert display._bar is None
        display.progress("training", 0.5)
    assert display._bar is None
    assert "[bold]a.avi, 32 frames" in console.file.getvalue()


def test_an_error_removes_the_bar():
    display = ProgressDisplay(terminal())

    def fail() -> None:
        with display:
            display.progress("training", 0.5)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert display._bar is None


def test_messages_appear_above_the_bar():
    console = terminal()
    with ProgressDisplay(console) as display, log_messages_to(ConsoleHandler(console, prefix="svg-live: ")):
        display.progress("building", 0.5)
        logging.getLogger("svg_runtime.backends").info("'[/a].plan' is built again")
        display.progress("building", 0.6)
    text = console.file.getvalue()
    message = text.index("svg-live: '[/a].plan' is built again")
    assert text[:message].endswith("\x1b[2K")  # where the bar was, now erased
    assert "building" in text[message:]  # and it is drawn again below


def test_commands_print_and_show_progress_on_one_console():
    assert stderr_console() is stderr_console()
    assert ProgressDisplay()._console is stderr_console()


def test_messages_have_a_prefix_or_are_warnings_and_go_nowhere_else(caplog):
    console, log = file(), logging.getLogger("svg_export.engines")
    with log_messages_to(ConsoleHandler(console, prefix="svg-live: ")):
        log.debug("unseen")
        log.info("building %s", "step")
        log.warning("not kept")
        logging.getLogger("another_package").error("of others")
    assert console.file.getvalue().splitlines() == ["svg-live: building step", "warning: not kept"]
    assert [record.getMessage() for record in caplog.records] == ["of others"]
    log.warning("as before")
    assert caplog.messages[-1] == "as before"
    assert len(console.file.getvalue().splitlines()) == 2


@pytest.mark.parametrize("level", ["info", "warning", "error"])
def test_messages_show_no_password_of_an_address(level):
    console = file()
    with log_messages_to(ConsoleHandler(console, prefix="svg-live: ")):
        getattr(logging.getLogger("svg_runtime.live"), level)("%s is silent", "rtsp://me:se[cret@camera/1")
    assert console.file.getvalue().endswith(": rtsp://...@camera/1 is silent\n")


PROGRAM = """
import logging, sys, typer
from svg_common.command import run_command

app = typer.Typer()
log = logging.getLogger("svg_runtime.here")

@app.command()
def main():
    log.info("built")
    log.warning("slow")

if sys.argv.pop() == "library": main()
else: run_command(app, prefix="svg-live: ")
"""


@pytest.mark.parametrize(("use", "messages"), [("command", "svg-live: built\nwarning: slow\n"), ("library", "slow\n")])
def test_a_command_shows_messages_and_a_program_that_configures_nothing_sees_warnings_only(use, messages):
    run = subprocess.run([sys.executable, "-c", PROGRAM, use], capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "", messages)
