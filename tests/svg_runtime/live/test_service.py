"""svg-live as a service: a real datagram socket in the place of systemd's."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest

from svg_common import journal
from svg_runtime.live.service import ServiceManager, ServiceReport
from svg_runtime.live.stop import StopRequest
from tests.svg_runtime.live.live_helpers import write_video
from tests.svg_runtime.live.network_cameras import free_port

MAIN = "from svg_runtime.live.cli import main; main()"


class Systemd:
    """Receives notifications."""

    def __init__(self, address: str) -> None:
        self.address = address
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(f"\0{address[1:]}" if address.startswith("@") else address)

    def receive(self, timeout_s: float) -> dict[str, str] | None:
        """The next message; None if none comes in time."""
        self._socket.settimeout(max(timeout_s, 0.001))
        try:
            message = self._socket.recv(4096).decode()
        except TimeoutError:
            return None
        return dict(line.split("=", 1) for line in message.split("\n"))

    def receive_all(self) -> list[dict[str, str]]:
        return list(iter(lambda: self.receive(0), None))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def systemd(request, tmp_path) -> Iterator[Systemd]:
    address = str(tmp_path / "notify") if request.param == "path" else f"@svg-edge-test-{os.getpid()}-{id(request)}"
    manager = Systemd(address)
    yield manager
    manager.close()


# ---- The protocol ----


def test_a_message_is_one_datagram_of_lines(systemd):
    assert ServiceManager(systemd.address).send(READY="1", STATUS="two\nlines")
    assert systemd.receive(1) == {"READY": "1", "STATUS": "two lines"}


def test_a_manager_that_is_gone_ends_nothing(tmp_path):
    assert not ServiceManager(str(tmp_path / "gone")).send(READY="1")


def test_the_environment_says_where_and_how_often():
    environment = {"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid()), "HOME": "/"}
    manager = ServiceManager.from_environment(environment)
    assert manager is not None
    assert manager.watchdog_s == 3.0
    assert environment == {"HOME": "/"}  # children are not the service


@pytest.mark.parametrize(
    ("environment", "watchdog_s"),
    [
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000"}, 3.0),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}, None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "soon"}, None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "0"}, None),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "9" * 400}, float("inf")),
        ({"NOTIFY_SOCKET": "@x", "WATCHDOG_USEC": "9" * 5000}, float("inf")),
        ({"NOTIFY_SOCKET": "@x"}, None),
    ],
)
def test_a_watchdog_of_another_process_or_none(environment, watchdog_s):
    assert ServiceManager.from_environment(environment).watchdog_s == watchdog_s


@pytest.mark.parametrize("environment", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1"}])
def test_without_a_socket_there_is_no_manager(environment):
    assert ServiceManager.from_environment(environment) is None


# ---- What is reported, and when ----


@dataclass
class Statistics:
    """Of one camera, as much as the report reads."""

    taken: int = 0
    fps: float = 0.0
    dropped: int = 0
    interval_s: float = 0.1
    stopped_by: str | None = None
    name: str | None = None
    events: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(counts=Counter()))
    fit: SimpleNamespace = field(default_factory=lambda: SimpleNamespace(reasons=()))


def waiting_for(names: str) -> dict[str, str]:
    return {"STATUS": f"waiting for the first picture of {names}", "EXTEND_TIMEOUT_USEC": "60000000"}


def test_a_status_of_many_cameras_names_a_few(tmp_path):
    systemd, stop, clock = Systemd(str(tmp_path / "n")), StopRequest(), [100.0]
    names = [f"{number:040}" for number in range(100)]
    runs = [Statistics(name=name) for name in names]
    with ServiceReport(stop, runs, ServiceManager(systemd.address), names, now=lambda: clock[0]):
        assert systemd.receive_all() == [waiting_for(f"{', '.join(names[:8])} and 92 more")]
        runs[99].taken = 1
        stop.poll()
        clock[0] += 60.0
        stop.poll()
        status = systemd.receive_all()[-1]["STATUS"]
    assert status.startswith(f"100 cameras, {names[0]}: no picture for 60 s, ")
    assert f"{names[7]}: no picture for 60 s, and 92 more cameras, 1 frames, " in status


def test_the_start_may_take_longer_as_long_as_cameras_are_waited_for(tmp_path):
    systemd, stop, clock = Systemd(str(tmp_path / "n")), StopRequest(), [100.0]
    runs = [Statistics(name="gate"), Statistics(name="yard")]
    with ServiceReport(stop, runs, ServiceManager(systemd.address), ["gate", "yard"], now=lambda: clock[0]):
        for _ in range(3):
            assert systemd.receive_all() == [waiting_for("gate, yard")]
            clock[0] += 4.9
            stop.poll()
            assert systemd.receive_all() == []
            clock[0] += 0.2
            stop.poll()
        systemd.receive_all()
        runs[1].taken = 1
        stop.poll()
        clock[0] += 5.0
        stop.poll()
        assert [message.get("EXTEND_TIMEOUT_USEC") for message in systemd.receive_all()] == [None, None]
    systemd.close()


def test_a_camera_of_a_slow_model_is_not_away_between_two_pictures(tmp_path):
    systemd, stop, clock = Systemd(str(tmp_path / "n")), StopRequest(), [100.0]
    run = Statistics(taken=1, fps=0.2, interval_s=5.0)
    with ServiceReport(stop, [run], ServiceManager(systemd.address, watchdog_s=None), ["gate"], now=lambda: clock[0]):
        stop.poll()
        for passed_s, told in ((40.0, "0.2 frames/s"), (10.0, "no picture for 50 s")):
            clock[0] += passed_s
            stop.poll()
            assert systemd.receive_all()[-1]["STATUS"].startswith(told)
    systemd.close()


def test_status_and_pings_have_their_own_times(tmp_path):
    systemd, stop, clock, run = Systemd(str(tmp_path / "n")), StopRequest(), [100.0], Statistics()
    with ServiceReport(stop, [run], ServiceManager(systemd.address, watchdog_s=4.0), ["gate"], now=lambda: clock[0]):
        stop.poll()
        assert systemd.receive_all() == [waiting_for("gate"), {"WATCHDOG": "1"}]
        run.taken = 1
        stop.poll()
        assert systemd.receive_all() == [{"READY": "1", "STATUS": "running"}]
        clock[0] += 1.9
        stop.poll()
        assert systemd.receive_all() == []
        clock[0] += 0.2
        stop.poll()
        assert systemd.receive_all() == [{"WATCHDOG": "1"}]
        clock[0] += 3.0
        run.taken = 31
        run.fps = 9.96
        stop.poll()
        assert systemd.receive_all() == [
            {"STATUS": "10.0 frames/s, 31 frames, 0 dropped, 0 alarms"}, {"WATCHDOG": "1"},
        ]  # fmt: skip
        clock[0] += 7.0  # the camera is away: the loop waits, and says so
        run.events.counts["alarm"] = 1
        run.fit.reasons = ("it is night",)
        stop.poll()
        expected = "no picture for 7 s, 31 frames, 0 dropped, 1 alarm, the model does not fit"
        assert systemd.receive_all() == [{"STATUS": expected}, {"WATCHDOG": "1"}]
        run.stopped_by = "--max-frames"
    assert systemd.receive_all() == [{"STOPPING": "1", "STATUS": "ended by --max-frames"}]
    systemd.close()


def test_several_cameras_are_one_service(tmp_path):
    systemd, stop = Systemd(str(tmp_path / "n")), StopRequest()
    runs = [Statistics(taken=1, fps=10.0, dropped=1), Statistics(taken=3, fps=5.0)]
    clock = [0.0]
    with ServiceReport(stop, runs, ServiceManager(systemd.address), ["gate", "yard"], now=lambda: clock[0]):
        for clock[0] in (0.0, 2.0, 5.0):
            for run in runs:
                run.taken += 1
            stop.poll()
    assert {"STATUS": "2 cameras, 15.0 frames/s, 10 frames, 1 dropped, 0 alarms"} in systemd.receive_all()
    systemd.close()


def test_a_camera_that_is_away_or_has_ended_is_named_beside_those_that_go_on(tmp_path):
    systemd, stop, clock = Systemd(str(tmp_path / "n")), StopRequest(), [0.0]
    runs = [Statistics(name="gate", fps=6.4), Statistics(name="yard", fps=3.3), Statistics(name="door", fps=10.0)]
    names = [str(run.name) for run in runs]
    with ServiceReport(stop, runs, ServiceManager(systemd.address), names, now=lambda: clock[0]):
        for run in runs:
            run.taken = 1
        stop.poll()
        runs[0].stopped_by = "lost source"
        for clock[0] in (6.0, 20.0):
            runs[2].taken += 1
            stop.poll()
        stop.request("signal SIGTERM")
    expected = "3 cameras, gate: ended by lost source, yard: no picture for 20 s, 10.0 frames/s, 5 frames, 0 dropped, 0 alarms"
    messages = systemd.receive_all()
    assert messages[-2] == {"STATUS": expected}
    assert messages[-1] == {"STOPPING": "1", "STATUS": "ended by signal SIGTERM"}
    systemd.close()


def test_a_failure_is_told_without_its_password(tmp_path):
    systemd = Systemd(str(tmp_path / "n"))
    report = ServiceReport(StopRequest(), [Statistics()], ServiceManager(systemd.address), ["gate"])
    with pytest.raises(RuntimeError), report:
        raise RuntimeError("rtsp://user:secret@host is gone\n  try again")
    assert systemd.receive_all()[-1] == {"STOPPING": "1", "STATUS": "failed: rtsp://...@host is gone"}
    systemd.close()


# ---- Real runs ----


def start(systemd: Systemd, folder: Path, *arguments: str, before: str = "", watchdog_us: int = 200_000) -> subprocess.Popen:
    environment = {
        **os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "NOTIFY_SOCKET": systemd.address,
        "WATCHDOG_USEC": str(watchdog_us),
    }  # fmt: skip
    model = ("--model", "digits", "--backend", "cpu", "--threads", "1", "--samples", "2", "--horizon", "2")
    return subprocess.Popen(
        [sys.executable, "-c", before + MAIN, *model, "--headless", *arguments],
        cwd=folder, env=environment, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def collect_until(systemd: Systemd, condition: Callable[[list[dict[str, str]]], bool]) -> list[dict[str, str]]:
    messages, end = [], time.monotonic() + 60
    while not condition(messages):
        assert time.monotonic() < end, messages
        message = systemd.receive(1)
        messages += [] if message is None else [message]
    return messages


def test_a_run_is_ready_after_its_first_picture_and_feeds_the_watchdog(systemd, tmp_path):
    process = start(systemd, tmp_path, "--realtime", "--max-frames", "12")
    messages = collect_until(systemd, lambda found: any("STOPPING" in message for message in found))
    _, stderr = process.communicate(timeout=30)
    assert process.returncode == 0, stderr
    assert messages[0]["STATUS"].startswith("waiting for the first picture of ")
    assert sum("READY" in message for message in messages) == 1
    assert sum("WATCHDOG" in message for message in messages) >= 3
    assert messages[-1] == {"STOPPING": "1", "STATUS": "ended by --max-frames"}


SLOW_END = """
import time
from pathlib import Path
from svg_runtime.live.camera_run import CameraRun
real = CameraRun.finish
def finish(self, keep):
    while not Path("told").exists():
        time.sleep(0.02)
    real(self, keep)
CameraRun.finish = finish
"""


def test_the_watchdog_does_not_end_a_run_that_completes_its_files(tmp_path):
    """systemd has none from STOPPING=1 on, so that is sent before it takes long."""
    systemd = Systemd(str(tmp_path / "notify"))
    process = start(systemd, tmp_path, "--max-frames", "3", "--json", "s.json", before=SLOW_END)
    try:
        collect_until(systemd, lambda found: any("STOPPING" in message for message in found))
        assert not (tmp_path / "s.json").exists()
        (tmp_path / "told").touch()
        _, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        assert (tmp_path / "s.json").exists()
    finally:
        process.kill()
        process.communicate()
        systemd.close()


HANGS = """
import time
from svg_runtime.forecast.forecaster import Forecaster
real, calls = Forecaster.forecast, []
def forecast(self, *counts):
    calls.append(counts)
    if len(calls) > 10:  # warming up takes some
        open("hangs", "w").close()
        time.sleep(600)
    return real(self, *counts)
Forecaster.forecast = forecast
"""


def test_a_backend_that_hangs_does_not_feed_the_watchdog(tmp_path):
    systemd = Systemd(str(tmp_path / "notify"))
    process = start(systemd, tmp_path, "--realtime", "--max-frames", "100", before=HANGS)
    try:
        collect_until(systemd, lambda found: any("WATCHDOG" in message for message in found))
        while not (tmp_path / "hangs").exists():
            assert process.poll() is None
            time.sleep(0.02)
        systemd.receive_all()
        assert systemd.receive(1.0) is None  # five times the timeout
    finally:
        process.kill()
        process.communicate()
        systemd.close()


OFTEN = "from svg_runtime.live import service; service._STATUS_EVERY_S = 0.2\n"


@pytest.mark.parametrize("names", [["rtsp://127.0.0.1:{port}"], ["127-0-0-1-{port}", "localhost-{port}"]])
def test_cameras_that_are_away_at_the_start_are_waited_for_longer_than_a_start_may_take(tmp_path, names):
    systemd, port = Systemd(str(tmp_path / "notify")), free_port()
    sources = [f"rtsp://viewer:secret@{host}:{port}/gate" for host in ("127.0.0.1", "localhost")[: len(names)]]
    given = [word for source in sources for word in ("--source", source)]
    process = start(systemd, tmp_path, *given, "--reconnect", "86400", "--max-frames", "1", before=OFTEN)
    try:
        messages = collect_until(systemd, lambda found: sum("EXTEND_TIMEOUT_USEC" in message for message in found) >= 3)
        process.terminate()
        messages += collect_until(systemd, lambda found: any("STOPPING" in message for message in found))
        _, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
        process.communicate()
        systemd.close()
    assert process.returncode == 130, stderr
    expected = waiting_for(", ".join(names).format(port=port))
    assert all(message == expected for message in messages if "EXTEND_TIMEOUT_USEC" in message)
    assert not any("READY" in message for message in messages)
    assert messages[-1] == {"STOPPING": "1", "STATUS": "ended by signal SIGTERM"}
    assert "secret" not in f"{messages}{stderr}"


LOST_CAMERA = """
import time
import numpy as np
from svg_runtime.live import service
from svg_runtime.live.sources import capture
service._STATUS_EVERY_S = 0.2
service._AWAY_AFTER_S = 0.5

class Device:
    count = 0
    def read(self):
        Device.count += 1
        time.sleep(0.05)
        return Device.count <= 20, np.full((64, 64, 3), Device.count, np.uint8)
    def release(self):
        pass

def open_capture(*arguments):
    if Device.count:
        raise capture.NoPictureError("unplugged")
    return Device()

capture.open_capture = open_capture
"""


def test_a_camera_that_is_away_is_no_reason_for_the_watchdog(tmp_path):
    systemd = Systemd(str(tmp_path / "notify"))
    process = start(systemd, tmp_path, "--camera", "0", "--reconnect", "60", "--max-frames", "90", before=LOST_CAMERA)
    try:
        collect_until(systemd, lambda found: "no picture for" in "".join(message.get("STATUS", "") for message in found))
        collect_until(systemd, lambda found: sum("WATCHDOG" in message for message in found) >= 4)
    finally:
        process.kill()
        process.communicate()
        systemd.close()


# ---- The journal ----


def test_a_run_that_has_forecast_nothing_is_a_warning_in_the_journal(svg_live, monkeypatch):
    monkeypatch.setattr(journal, "stderr_is_journal", lambda: True)
    write_video(Path("short.mp4"), frames=2)
    code, stderr, _ = svg_live("--headless", "--source", "short.mp4", "--max-frames", "2")
    sys.stderr.detach()
    assert code == 0
    assert "<4>svg-live: no forecast was made: the run ended before the model had seen enough frames\n" in stderr
