"""`svg-live` as a process: signals, what it loads, and how much memory it takes."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from svg_runtime.live.stop import StopRequest
from tests.command_runner import HANG_S, wait_until
from tests.sample import sampled
from tests.svg_runtime.live.live_helpers import read_times
from tests.svg_runtime.live.network_cameras import Rtsp, switched_on

MAIN = "from svg_runtime.live.cli import main; main()"


SMALL = ("--threads", "1", "--samples", "2", "--horizon", "3")


def start(
    folder: Path, *arguments: str, before: str = "", main: str = MAIN, sizes: tuple[str, ...] = SMALL
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", before + main, *sizes, *arguments], cwd=folder, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.PIPE, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip


def wait_for_pictures(folder: Path, process: subprocess.Popen[str], least: int = 10_000) -> None:
    """Wait until the encoder has written something beside the destination, at least so many bytes."""
    wait_until(lambda: process.poll() is not None or has_pictures(folder, least))
    assert process.poll() is None, process.stderr.read()


def has_pictures(folder: Path, least: int = 10_000) -> bool:
    return any(path.stat().st_size > least for path in folder.glob(".out*.mp4"))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0), (signal.SIGHUP, 0)])
def test_signals_end_with_a_complete_video(tiny_bundle, tmp_path, number, code):
    process = start(tmp_path, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4", "--json", "s.json")
    wait_for_pictures(tmp_path, process)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == code, stderr
    assert "Traceback" not in stderr
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["stopped_by"] == f"signal {number.name}"
    assert len(read_times(tmp_path / "out.mp4")) == stats["frames"]["seen"] > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.mp4", "s.json"]


def test_below_nohup_a_run_outlives_its_terminal(tiny_bundle, tmp_path):
    ignoring = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
    process = start(
        tmp_path, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4", "--json", "s.json", before=ignoring
    )
    wait_for_pictures(tmp_path, process)
    process.send_signal(signal.SIGHUP)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    assert json.loads((tmp_path / "s.json").read_text())["stopped_by"] == "signal SIGTERM"


def test_a_closed_terminal_ends_with_complete_results(tiny_bundle, tmp_path):
    """Also where the system and the shell each send a signal, and messages have no terminal to go to."""
    own, terminal = os.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", MAIN, *SMALL, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4",
         "--json", "s.json"],
        cwd=tmp_path, stdin=terminal, stdout=terminal, stderr=terminal,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    os.close(terminal)
    threading.Thread(target=read_all, args=(own,), daemon=True).start()
    wait_until(lambda: has_pictures(tmp_path))
    os.close(own)
    for _ in range(2):
        process.send_signal(signal.SIGHUP)
    assert process.wait(30) == 0
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["stopped_by"] == "signal SIGHUP"
    assert len(read_times(tmp_path / "out.mp4")) == stats["frames"]["seen"] > 0


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals that reach the handlers of before a run; afterwards all handlers are those of before the test."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    reached: list[int] = []
    for number in before:
        signal.signal(number, lambda caught, frame: reached.append(caught))
    yield reached
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_terminal_that_signals_again_after_the_run_changes_nothing(heard):
    with StopRequest() as stop:
        stop.start_graceful_stop()
        os.kill(os.getpid(), signal.SIGHUP)
        assert stop.signalled
    os.kill(os.getpid(), signal.SIGHUP)
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    assert heard == []


def test_a_second_signal_after_the_run_of_a_command_changes_nothing(heard, monkeypatch):
    """What is left is to leave, in functions that know of no signals."""
    monkeypatch.setattr("svg_runtime.live.stop.in_command", lambda: True)
    with StopRequest() as stop:
        stop.start_graceful_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signalled
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    assert heard == []


def test_a_program_of_ones_own_gets_its_handlers_back(heard, monkeypatch):
    monkeypatch.setattr("svg_runtime.live.stop.in_command", lambda: False)  # other tests have run commands in this process
    with StopRequest() as stop:
        stop.start_graceful_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop.signalled
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def test_after_a_run_that_ended_by_itself_signals_are_those_of_before(heard):
    with StopRequest() as stop:
        stop.start_graceful_stop()
    os.kill(os.getpid(), signal.SIGTERM)
    assert heard == [signal.SIGTERM]


def read_all(descriptor: int) -> None:
    """Read until it is closed: what is written to a terminal waits for its reader."""
    with suppress(OSError):
        while os.read(descriptor, 1 << 16):
            pass


@pytest.mark.parametrize("redirected", sampled(["2>/dev/full", "2>&-", "<&- >&- 2>&-"], ["2>/dev/full", "<&- >&- 2>&-"]))
def test_messages_that_cannot_be_written_do_not_end_the_run(tiny_bundle, tmp_path, redirected):
    program = shlex.join([sys.executable, "-c", MAIN, "--model", str(tiny_bundle), "--headless", "--max-frames", "6"])
    command = f"{program} --output out.mp4 --json s.json {redirected}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(["bash", "-c", command], cwd=tmp_path, env=environment, check=False, timeout=60).returncode == 0
    assert len(read_times(tmp_path / "out.mp4")) == json.loads((tmp_path / "s.json").read_text())["frames"]["seen"] == 6


SLOW = """
import time
from {module} import {owner}
real = {owner}.{function}

def slow(*arguments, **options):
    print("reached", flush=True)
    end = time.monotonic() + {seconds}
    while time.monotonic() < end:
        time.sleep(0.01)
    print("waited", flush=True)
    return real(*arguments, **options)

{owner}.{function} = slow
"""


def start_slow(folder: Path, bundle: Path, place: tuple[str, str, str], seconds: float, *more: str) -> subprocess.Popen[str]:
    """Start svg-live with one function (module, owner, name) that takes `seconds`; return once the function is called."""
    slow = SLOW.format(**dict(zip(("module", "owner", "function"), place, strict=True)), seconds=seconds)
    process = start(folder, "--model", str(bundle), "--headless", "--output", "out.mp4", "--json", "s.json", *more, before=slow)
    assert process.stdout.readline() == "reached\n", process.stderr.read()
    return process


@pytest.mark.parametrize("number", sampled([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGTERM]))
def test_before_the_first_picture_a_signal_ends_the_run_at_once(tiny_bundle, tmp_path, number):
    """As it has to where an engine is built for minutes; this also shows that svg-live warms up."""
    process = start_slow(tmp_path, tiny_bundle, ("svg_runtime.forecast.forecaster", "Forecaster", "warm_up"), 40)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=HANG_S)
    assert "waited" not in stdout
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", sampled([signal.SIGINT, signal.SIGTERM], [signal.SIGINT]))
def test_a_signal_before_the_source_gives_a_picture_writes_nothing(tiny_bundle, tmp_path, number):
    process = start_slow(tmp_path, tiny_bundle, ("svg_runtime.live", "loop", "open_source"), 1)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 130, stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", sampled([signal.SIGINT, signal.SIGTERM, signal.SIGHUP], [signal.SIGINT]))
def test_a_signal_while_closing_does_not_lose_the_results(tiny_bundle, tmp_path, number):
    place = "svg_runtime.forecast.forecaster", "Forecaster", "close"
    process = start_slow(tmp_path, tiny_bundle, place, 0.5, "--max-frames", "6")
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert json.loads((tmp_path / "s.json").read_text())["frames"]["seen"] == len(read_times(tmp_path / "out.mp4")) == 6


AT_THE_END = {
    "exit": "import atexit, os, time; atexit.register(lambda: (os.write(1, b'ending\\n'), time.sleep(0.3)))\n",
    # Python has taken its handlers back by then.
    "last moment": (
        "import os, sys, time\n"
        "class Late:\n"
        "    def __del__(self, write=os.write, sleep=time.sleep): write(1, b'ending\\n'); sleep(0.3)\n"
        "sys.late = Late()\n"
    ),
}


@pytest.mark.parametrize("moment", AT_THE_END)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_second_signal_while_python_ends_changes_nothing(tiny_bundle, tmp_path, moment, number):
    process = start(
        tmp_path, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4",
        before=AT_THE_END[moment], main="from svg_common.console_scripts import svg_live; svg_live()",
    )  # fmt: skip
    wait_for_pictures(tmp_path, process)
    process.send_signal(signal.SIGTERM)
    assert process.stdout.readline() == "ending\n"
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in stderr) == (0, False), stderr


def test_ctrl_c_while_python_ends_ends_it_at_once_and_quietly(tiny_bundle, tmp_path):
    process = start(
        tmp_path, "--model", str(tiny_bundle), "--headless", "--max-frames", "3", before=AT_THE_END["exit"],
        main="from svg_common.console_scripts import svg_live; svg_live()",
    )  # fmt: skip
    assert process.stdout.readline() == "ending\n"
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=30)
    assert (process.returncode, "Traceback" in stderr) == (-signal.SIGINT, False), stderr


def test_a_full_disk_is_one_message_and_leaves_no_file(tiny_bundle, tmp_path):
    limited = f"from tests.file_size import limit_file_size; limit_file_size(60_000); {MAIN}"
    arguments = ["--model", str(tiny_bundle), "--headless", "--output", "out.mp4", "--max-frames", "400"]
    run = subprocess.run(
        [sys.executable, "-c", limited, *arguments],
        cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert run.returncode == 1, run.stderr
    assert "cannot write 'out.mp4'" in run.stderr
    assert "Traceback" not in run.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_statistics_outlive_a_video_that_cannot_be_completed(tiny_bundle, tmp_path):
    process = start(
        tmp_path, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4", "--json", "s.json", "--max-frames", "60",
        "--realtime",
    )  # fmt: skip
    wait_for_pictures(tmp_path, process, least=1)
    (tmp_path / "out.mp4" / "of another program").mkdir(parents=True)
    _, stderr = process.communicate(timeout=HANG_S)
    assert process.returncode == 1, stderr
    assert "error: cannot write 'out.mp4'" in stderr
    assert "written: out.mp4" not in stderr
    assert json.loads((tmp_path / "s.json").read_text())["frames"]["seen"] == 60


FAULTY = """
from svg_runtime.live.rounds import LiveLoop
apply_changes, rounds = LiveLoop._apply_changes, []
def faulty(loop):
    rounds.append(loop)
    if len(rounds) > 40:
        raise ZeroDivisionError("a fault of ours")
    apply_changes(loop)
LiveLoop._apply_changes = faulty
"""


def test_video_and_statistics_outlive_an_error_that_nobody_expected(tiny_bundle, tmp_path):
    process = start(
        tmp_path, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4", "--json", "s.json", before=FAULTY
    )
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "ZeroDivisionError: a fault of ours" in stderr
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["frames"]["seen"] > 10
    assert stats["stopped_by"] == "error"
    assert len(read_times(tmp_path / "out.mp4")) > 10


def test_statistics_that_cannot_be_written_are_shown(tiny_bundle, tmp_path):
    process = start(tmp_path, "--model", str(tiny_bundle), "--headless", "--max-frames", "6", "--json", "/dev/full")
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "frames: 6 captured, 6 seen" in stderr
    assert stderr.endswith(
        "error: cannot write '/dev/full': No space left on device\n"
        "  no file was left behind; free some space, or choose another path\n"
    )


def test_help_loads_neither_camera_nor_codec_nor_engine():
    code = (
        "import sys; import svg_runtime.live.cli; print([m for m in ('cv2', 'av', 'onnxruntime', 'torch') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True,
                         env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})  # fmt: skip
    assert run.stdout.strip() == "[]"


def test_memory_stays_under_400_mb(tiny_bundle, tmp_path):
    process = start(
        tmp_path, "--model", str(tiny_bundle), "--headless", "--output", "out.mp4", "--max-frames", "60", "--json", "s.json",
        sizes=(),
    )  # fmt: skip
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stderr
    assert json.loads((tmp_path / "s.json").read_text())["peak_rss_mib"] < 400


@pytest.fixture
def screen(monkeypatch):
    """A virtual X display."""
    if not (shutil.which("Xvfb") and shutil.which("xdotool")):
        pytest.skip("needs Xvfb and xdotool")
    server = subprocess.Popen(
        ["Xvfb", "-displayfd", "1", "-screen", "0", "1400x900x24"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    monkeypatch.setenv("DISPLAY", f":{server.stdout.readline().strip()}")
    yield
    server.terminate()
    server.communicate()


def press(key: str) -> None:
    """Type into the window."""
    windows = subprocess.run(["xdotool", "search", "--name", "svg-live"], capture_output=True, text=True, check=True)
    subprocess.run(["xdotool", "key", "--window", windows.stdout.split()[-1], key], check=True, stderr=subprocess.DEVNULL)


@pytest.mark.parametrize("key", sampled(["q", "Escape"], ["q"]))
def test_a_key_in_the_window_ends_with_a_complete_video(tiny_bundle, tmp_path, screen, key):
    process = start(tmp_path, "--model", str(tiny_bundle), "--output", "out.mp4", "--json", "s.json")
    wait_for_pictures(tmp_path, process)
    press(key)
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    stats = json.loads((tmp_path / "s.json").read_text())
    assert stats["stopped_by"] == f"key {'Esc' if key == 'Escape' else key}"
    assert len(read_times(tmp_path / "out.mp4")) == stats["frames"]["seen"] - stats["frames"]["not_shown"] > 0


def test_a_key_ends_the_wait_for_a_camera(tiny_bundle, tmp_path, screen):
    with switched_on(Rtsp) as camera:
        url = f"rtsp://{camera.address}/cam"
        process = start(tmp_path, "--model", str(tiny_bundle), "--source", url, "--output", "out.mp4", "--json", "s.json")
        wait_for_pictures(tmp_path, process)
        camera.silent.set()
        time.sleep(1.5)  # what was sent before is shown
        press("q")
        _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert json.loads((tmp_path / "s.json").read_text())["stopped_by"] == "key q"
