"""Exit codes and messages, from real processes."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys

import pytest

from svg_common import signals
from svg_common.command import require_modules
from svg_common.errors import ExitCode, MissingExtraError, SvgError, UsageError
from svg_common.signals import defer_interrupts

PROGRAM = """
import signal, sys, time, typer, warnings
from svg_common.command import require_modules, run_command
from svg_common.errors import *

class PartError(SvgError):
    exit_code = ExitCode.PARITY_FAILED

app = typer.Typer()

@app.command()
def main(what: str, number: int = typer.Option(0)):
    if what == "fine": print("result")
    elif what == "svg": raise SvgError("given / expected / next")
    elif what == "usage": raise UsageError("these two contradict")
    elif what == "parity": raise PartError("not the same")
    elif what == "printed": print("result", end=""); raise PartError("not the same")
    elif what == "extra": require_modules("this part", "train", "json", "no_such_module_at_all")
    elif what.startswith("import "): exec(what)
    elif what == "missing file": open("/no/such/file")
    elif what == "full": open("/dev/full", "w").write("x" * 10**6)
    elif what == "exit": raise typer.Exit(5)
    elif what == "abort": raise typer.Abort()
    elif what == "interrupt": raise KeyboardInterrupt
    elif what == "bug": raise RuntimeError("a bug")
    elif what == "warning": warnings.warn("rtsp://me:secret@camera/1 is slow")
    elif what == "much": print("y" * 10**5)
    elif what == "endless":
        while True: print("y" * 1000)
    elif what == "wait":
        print("ready", flush=True)
        time.sleep(60)
    elif what == "swallowed":
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            raise RuntimeError("a library's own failure")
    elif what == "orderly":
        heard = []
        signal.signal(signal.SIGINT, lambda *_: heard.append(sys.stderr.write("closing\\n")))
        print("ready", flush=True)
        while not heard: time.sleep(0.01)
        raise KeyboardInterrupt

run_command(app)
"""


def start(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [
        ("fine", 0, ""),
        ("svg", 1, "error: given / expected / next\n"),
        ("usage", 2, "error: these two contradict\n"),
        ("parity", 3, "error: not the same\n"),
        ("extra", 4, "pip install 'svg-edge[train]'"),
        ("missing file", 1, "error: No such file or directory: /no/such/file\n"),
        ("full", 1, "error: No space left on device"),
        ("exit", 5, ""),
        ("abort", 130, "error: interrupted\n"),
        ("interrupt", 130, ""),
    ],
)
def test_errors_have_a_message_and_a_code_and_no_traceback(argument, code, message):
    out, err = (process := start(argument)).communicate(timeout=30)
    assert process.returncode == code, err
    assert message in err
    assert "Traceback" not in err
    assert out == ("result\n" if argument == "fine" else "")


@pytest.mark.parametrize(("module", "package"), [("cv2", "opencv-python"), ("av", "av")])
def test_a_library_that_does_not_load_is_named_with_what_to_run(module, package, tmp_path, monkeypatch):
    (tmp_path / f"{module}.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file\\nmore')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    _, err = (process := start(f"import {module}")).communicate(timeout=30)
    assert process.returncode == ExitCode.BACKEND_MISSING
    assert err == (
        f"error: cannot import {module}: libGL.so.1: cannot open shared object file\n"
        f"  look closer with svg-doctor, or install it anew: pip install --force-reinstall {package}\n"
    )


def test_another_import_that_fails_is_a_bug():
    _, err = (process := start("import no_such_module_at_all")).communicate(timeout=30)
    assert (process.returncode, "Traceback" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(("fine", "--nothing"), "--nothing"), ((), "Missing argument"), (("fine", "--number", "x"), "--number")],
)
def test_wrong_arguments_are_usage_errors(arguments, message):
    _, err = (process := start(*arguments)).communicate(timeout=30)
    assert process.returncode == ExitCode.USAGE
    assert message in err
    assert "Usage" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("arguments", "given"),
    [(("",), "''"), (("fine", "--number", ""), "--number ''"), (("fine", "--number="), "--number="), (("--", ""), "-- ''")],
)
def test_an_empty_argument_is_refused(arguments, given):
    _, err = (process := start(*arguments)).communicate(timeout=30)
    assert process.returncode == ExitCode.USAGE
    assert f"error: an argument is empty: {given}\n  expected a value" in err


@pytest.mark.parametrize("arguments", [("warning",), ("fine", "rtsp://me:secret@camera/1")])
def test_no_warning_and_no_usage_error_shows_the_password_of_an_address(arguments):
    _, err = start(*arguments).communicate(timeout=30)
    assert "rtsp://...@camera/1" in err
    assert "secret" not in err


def test_a_bug_shows_where_it_is():
    _, err = (process := start("bug")).communicate(timeout=30)
    assert process.returncode == 1
    assert "RuntimeError" in err
    assert "a bug" in err


def test_help_is_a_success():
    out, _ = (process := start("--help")).communicate(timeout=30)
    assert process.returncode == 0
    assert "--number" in out


def test_a_deleted_folder_is_named(tmp_path, monkeypatch):
    folder = tmp_path / "gone"
    folder.mkdir()
    monkeypatch.chdir(folder)
    folder.rmdir()
    output, messages = (process := start("fine")).communicate(timeout=60)
    assert (process.returncode, output) == (1, "")
    assert messages == "error: the current folder was deleted\n  go to one that exists, with cd\n"


@pytest.mark.parametrize("columns", ["0", "1", "", "wide", "40"])
def test_no_width_of_the_terminal_hides_messages(columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", columns)
    code = (
        "import typer; from svg_common.command import run_command, stderr_console; app = typer.Typer()\n"
        "@app.command()\ndef main(): stderr_console().print('a message for the user')\nrun_command(app)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stderr == "a message for the user\n"


def test_a_closed_pipe_is_not_a_crash():
    process = start("endless")
    assert process.stdout is not None
    assert process.stdout.readline()
    process.stdout.close()
    assert process.wait(timeout=30) == ExitCode.ERROR
    assert process.stderr is not None
    assert process.stderr.read() == ""
    process.stderr.close()


@pytest.mark.parametrize("what", ["fine", "much"])
def test_results_that_cannot_be_written_are_an_error(what):
    """Also those that Python would write at its exit."""
    command = [sys.executable, "-c", PROGRAM, what]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    message = "error: No space left on device\n  free some space, or choose another path\n"
    assert (done.returncode, done.stderr) == (ExitCode.ERROR, message)


@pytest.mark.parametrize("what", ["fine", "much"])
def test_a_reader_that_is_gone_is_an_error_without_a_message(what):
    ours, theirs = os.pipe()
    os.close(ours)
    with os.fdopen(theirs, "w") as pipe:
        command = [sys.executable, "-c", PROGRAM, what]
        done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, timeout=30, check=False)
    assert (done.returncode, done.stderr) == (ExitCode.ERROR, "")


@pytest.mark.parametrize("number", [0, 1, 2])
def test_what_is_opened_never_takes_the_number_of_a_closed_stream(number, tmp_path):
    """Else what a library prints to that number goes into the file."""
    program = PROGRAM.replace("app = ", "import os\napp = ").replace(
        'if what == "fine": print("result")',
        'if what == "fine": print(open("file", "w").fileno() > 2, file=open("found", "w"))',
    )
    command = f"{shlex.join([sys.executable, '-c', program, 'fine'])} {number}>&-"
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, timeout=30, check=False).returncode == 0
    assert (tmp_path / "found").read_text() == "True\n"


def test_results_that_cannot_be_written_do_not_hide_why_a_run_failed():
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, "printed"], stdout=full, stderr=subprocess.PIPE, text=True, timeout=30, check=False,
            env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
        )  # fmt: skip
    assert done.returncode == ExitCode.PARITY_FAILED
    assert "not the same" in done.stderr


@pytest.mark.parametrize(
    ("what", "number", "message"),
    [
        ("wait", signal.SIGINT, "error: interrupted\n"),
        ("wait", signal.SIGTERM, "error: interrupted\n"),
        ("swallowed", signal.SIGINT, "error: interrupted\n"),
        ("orderly", signal.SIGINT, "closing\n"),
    ],
)
def test_a_signal_exits_130_and_says_so_once(what, number, message):
    process = start(what)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (ExitCode.INTERRUPTED, message)


def test_a_program_that_uses_us_keeps_its_signal_handlers(monkeypatch):
    monkeypatch.setattr(signals, "_in_command", False)
    before = signal.getsignal(signal.SIGINT)
    with defer_interrupts():
        assert signal.getsignal(signal.SIGINT) is before


def test_in_a_command_interrupts_wait_for_the_end(monkeypatch):
    monkeypatch.setattr(signals, "_in_command", True)
    before, reached = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)], []

    def work() -> None:
        with defer_interrupts():
            os.kill(os.getpid(), signal.SIGINT)
            reached.append(True)

    with pytest.raises(KeyboardInterrupt):
        work()
    assert reached
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


@pytest.mark.parametrize("module", ["no_such_module_at_all", "no_such_module_at_all.part"])
def test_a_missing_module_names_the_extra(module):
    with pytest.raises(MissingExtraError, match=r"svg-edge\[gpu\]") as caught:
        require_modules("the gpu backend", "gpu", "sys", module)
    assert module in str(caught.value)


def test_a_blocked_module_counts_as_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "blocked_module", None)
    with pytest.raises(MissingExtraError):
        require_modules("it", "train", "blocked_module")
    require_modules("it", "train", "json", "os.path")


def test_every_expected_error_has_its_code():
    assert SvgError("x").exit_code == 1
    assert UsageError("x").exit_code == 2
    assert [int(code) for code in ExitCode] == [0, 1, 2, 3, 4, 5, 130]
