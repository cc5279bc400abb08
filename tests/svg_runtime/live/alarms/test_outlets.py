"""Webhook and command, with a real server and real processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import sys
import threading
import time
import tracemalloc
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace

import pytest

from svg_common.errors import UsageError
from svg_runtime.live.alarms import command as command_module
from svg_runtime.live.alarms import webhook as webhook_module
from svg_runtime.live.alarms import worker as worker_module
from svg_runtime.live.alarms.command import AlarmCommand
from svg_runtime.live.alarms.outlet import Outlet, RefusedError
from svg_runtime.live.alarms.webhook import Webhook
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.events import EventLog
from tests.command_runner import HANG_S, is_running, wait_until
from tests.svg_runtime.live.alarms.test_archive import record


class Server:
    """Answers POSTs with the next of `answers`, then with 200, and keeps what came."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.requests: list[tuple[str, dict[str, str], bytes]] = []
        self.answer_now = threading.Event()  # until it is set, answers are not complete
        self.answer_now.set()
        self.drips = False  # they begin before that
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.requests.append((self.path, dict(self.headers), body))
                if not outer.drips:
                    outer.answer_now.wait(HANG_S)
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("Location", "file:///etc/passwd")
                while not outer.answer_now.wait(0.1):
                    self.send_header("X-Slow", "1")
                    self.flush_headers()
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.http = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/hook?key=1"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.http.shutdown()
    running.http.server_close()


def test_a_webhook_gets_the_record_and_the_login(server):
    Webhook(server.url.replace("//", "//me:p%40ss@")).send(record(3))
    path, headers, body = server.requests[0]
    assert path == "/hook?key=1"
    assert json.loads(body) == json.loads(record(3).to_json())
    assert headers["Content-Type"] == "application/json"
    assert headers["Authorization"] == "Basic bWU6cEBzcw=="  # me:p@ss
    assert "me" not in headers["Host"]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (503, NotDeliveredError, "503"),
        (429, NotDeliveredError, "429"),
        (404, RefusedError, "404"),
        (302, RefusedError, "redirects"),
    ],
)
def test_answers(server, status, error, message):
    server.answers = [status]
    with pytest.raises(error, match=message) as raised:
        Webhook(server.url.replace("//", "//me:secret@")).send(record())
    assert "secret" not in str(raised.value)
    assert len(server.requests) == 1  # nothing is followed


def test_a_webhook_that_is_away_waits():
    with pytest.raises(NotDeliveredError, match=r"^http://127\.0\.0\.1:1: "):
        Webhook("http://me:secret@127.0.0.1:1/hook").send(record())


@pytest.mark.parametrize("drips", [True, False], ids=["drips", "begins late"])
def test_a_slow_answer_is_waited_for_no_longer_than_any_other_and_the_record_is_sent_once(server, drips, monkeypatch):
    monkeypatch.setattr(webhook_module, "_TIMEOUT_S", 0.4)
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 0.01)
    server.drips = drips
    server.answer_now.clear()
    webhook, alarm = Webhook(server.url), record()
    with pytest.raises(NotDeliveredError, match=r"no complete answer within 0\.4 s"):
        webhook.send(alarm)
    outlet = Outlet(webhook, EventLog())
    outlet.put(alarm)
    server.answer_now.set()
    outlet.close(HANG_S)
    assert outlet.summary()["sent"] == len(server.requests) == 1  # a retry waits for the answer in progress


@pytest.mark.parametrize(
    ("answer", "error"), [(b"HTTP/1.1 404 \x1b[31mred\r\n\r\n", RefusedError), (b"\x1b[31mred\r\n\r\n", NotDeliveredError)]
)
def test_what_a_server_says_cannot_change_the_terminal(answer, error):
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_once, args=(listening, answer), daemon=True).start()
        with pytest.raises(error, match=r" \\x1b\[31mred$"):
            Webhook(f"http://127.0.0.1:{listening.getsockname()[1]}/").send(record())


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_to_what_is_not_an_address_is_refused_as_any_other(status):
    answer = f"HTTP/1.1 {status} Moved\r\nLocation: http://[\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        threading.Thread(target=_answer_once, args=(listening, answer), daemon=True).start()
        with pytest.raises(RefusedError, match=f"answers {status} Moved; give the address that it redirects to"):
            Webhook(f"http://127.0.0.1:{listening.getsockname()[1]}/").send(record())


def _answer_once(listening: socket.socket, answer: bytes) -> None:
    connection, _ = listening.accept()
    with connection:
        received = b""
        while b'"files"' not in received:  # the end of the body
            received += connection.recv(1 << 16)
        connection.sendall(answer)


def test_letters_beyond_ascii_in_a_path_are_encoded_once(server):
    Webhook(server.url.replace("/hook?key=1", "/tür%20/%C3%BC?key=ä%26")).send(record())
    assert server.requests[0][0] == "/t%C3%BCr%20/%C3%BC?key=%C3%A4%26"


@pytest.mark.parametrize(
    "url",
    [
        "ftp://host/x", "file:///etc/passwd", "http://", "host", "http://a b/", "http://h:x/", "http://h\n/", "http://a..b/",
        f"http://{'a' * 64}/",
    ],
)  # fmt: skip
def test_other_addresses_are_refused(url):
    with pytest.raises(UsageError, match="--webhook"):
        Webhook(url)


def test_events_wait_until_the_server_is_back_and_are_counted(server, monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 0.01)
    server.answers = [500, 500, 200, 404, 200]
    events = EventLog()
    outlet = Outlet(Webhook(server.url), events)
    for sequence in (1, 2, 3):
        outlet.put(record(sequence))
    outlet.close(10)
    assert [json.loads(body)["sequence"] for *_, body in server.requests] == [1, 1, 1, 2, 3]
    assert outlet.summary() == {"sent": 2, "refused": 1, "stopped": 0, "dropped": 0}
    assert events.counts == {"webhook_failed": 1, "webhook_back": 1, "webhook_refused": 1}


class Patient:
    """A transport that is away at first, and notes what happens."""

    name = "patient"

    def __init__(self) -> None:
        self.is_away = True
        self.happened: list[str] = []

    def send(self, alarm) -> None:
        if self.is_away:
            raise NotDeliveredError("away")
        self.happened.append("sent")

    def close(self) -> None:
        self.happened.append("closed")


def test_what_waits_when_a_camera_ends_is_sent_once_the_server_is_back_and_then_goodbye_is_said(monkeypatch):
    monkeypatch.setattr(worker_module, "_FIRST_WAIT_S", 0.01)
    transport = Patient()
    outlet = Outlet(transport, EventLog())
    outlet.put(record())
    outlet.end()
    time.sleep(0.1)
    assert transport.happened == []
    transport.is_away = False
    wait_until(lambda: "closed" in transport.happened)
    assert transport.happened == ["sent", "closed"]
    outlet.close(1)
    assert transport.happened == ["sent", "closed"]
    assert outlet.summary()["dropped"] == 0


def python(code: str) -> str:
    return f'{sys.executable} -c "{code}"'


def test_a_command_gets_the_record_on_its_input_and_in_its_environment(tmp_path):
    target = tmp_path / "out.txt"
    code = f"import os, sys; open('{target}', 'w').write(sys.stdin.read() + os.environ['SVG_EDGE_ALARM_PEAK'] + sys.argv[1])"
    AlarmCommand(python(code) + " '; $HOME'").send(record(5))
    line, rest = target.read_text().split("\n")
    assert json.loads(line)["sequence"] == 5
    assert rest == "7.00; $HOME"  # no shell


def test_a_command_that_fails_says_why():
    with pytest.raises(RefusedError, match="exit code 3: no such lamp"):
        AlarmCommand(python("import sys; print('no such lamp', file=sys.stderr); sys.exit(3)")).send(record())


def test_a_command_that_hangs_is_stopped_with_its_children(monkeypatch):
    monkeypatch.setattr(command_module, "_TIMEOUT_S", 0.2)
    with pytest.raises(RefusedError, match="was stopped"):
        AlarmCommand("sh -c 'sleep 60 & sleep 60'").send(record())


@pytest.mark.parametrize("command", ["", "no-such-program-here x", "sh -c 'open"])
def test_a_command_that_cannot_run_is_refused_before_the_start(command):
    with pytest.raises(UsageError, match="--on-alarm"):
        AlarmCommand(command)


def test_a_file_that_is_no_program_is_not_said_to_be_missing(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("notify it.sh").touch(mode=0o644)
    with pytest.raises(UsageError, match=r"'\./notify it\.sh' is not executable\n  run: chmod \+x '\./notify it\.sh'"):
        AlarmCommand("'./notify it.sh' now")
    with pytest.raises(UsageError, match=r"'\./' is a folder"):
        AlarmCommand("./")
    with pytest.raises(UsageError, match=r"there is no program '\./notify'"):
        AlarmCommand("./notify")


def test_of_what_a_command_writes_only_the_end_is_kept():
    tracemalloc.start()
    try:
        with pytest.raises(RefusedError, match=r"exit code 3: no such lamp$"):
            AlarmCommand("sh -c 'yes | head -c 20000000 >&2; echo no such lamp >&2; exit 3'").send(record())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_a_child_that_a_command_leaves_behind_is_not_waited_for(monkeypatch):
    """It holds the pipe of the messages."""
    monkeypatch.setattr(command_module, "_TIMEOUT_S", 3.0)
    AlarmCommand("sh -c 'sleep 10 & exit 0'").send(record())
    with pytest.raises(RefusedError, match=r"exit code 3: no such lamp$"):
        AlarmCommand("sh -c 'sleep 10 & echo no such lamp >&2; exit 3'").send(record())


@pytest.mark.skipif(shutil.which("setsid") is None, reason="no setsid")
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
def test_a_child_that_lives_on_in_a_session_of_its_own_is_not_waited_for(monkeypatch, tmp_path):
    child = tmp_path / "child"
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + (HANG_S if child.exists() and child.read_text() else 0.0))
    monkeypatch.setattr(command_module, "_TIMEOUT_S", HANG_S)  # over as soon as the child runs
    monkeypatch.setattr(command_module, "time", clock)
    with pytest.raises(RefusedError, match="was stopped"):
        AlarmCommand(f"sh -c 'setsid sh -c \"echo \\$\\$ > {child}; exec sleep 100\" & sleep 100'").send(record())
    process_id = int(wait_for_file(child))
    assert is_running(process_id)
    os.kill(process_id, signal.SIGKILL)


def wait_for_file(path: Path) -> str:
    wait_until(lambda: path.exists() and path.read_text())
    return path.read_text()


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc")
@pytest.mark.parametrize("reaction", ["", "trap '' TERM; "])
def test_a_command_is_ended_with_the_run_and_counted_as_stopped(reaction, tmp_path):
    child = tmp_path / "child"
    script = tmp_path / "lamp"
    script.write_text(f"{reaction}sleep 60 &\necho $! > {child}.new; mv {child}.new {child}\nwait; sleep 60\n")
    events = EventLog()
    outlet = Outlet(AlarmCommand(f"sh {script}"), events)
    outlet.put(record(1))
    outlet.put(record(2))
    process_id = int(wait_for_file(child))
    assert is_running(process_id)
    outlet.close(0.2)
    assert outlet.summary() == {"sent": 0, "refused": 0, "stopped": 1, "dropped": 1}
    assert events.messages == [
        "command: sh was stopped: the run ended before it did",
        "command: 1 messages were not delivered",
    ]
    wait_until(lambda: not is_running(process_id))


def test_a_command_may_clean_up_at_the_end_of_the_run(tmp_path):
    started, cleaned = tmp_path / "started", tmp_path / "cleaned"
    script = tmp_path / "lamp"
    script.write_text(f"trap 'echo off > {cleaned}; exit' TERM\necho on > {started}\nwhile :; do sleep 0.02; done\n")
    outlet = Outlet(AlarmCommand(f"sh {script}"), EventLog())
    outlet.put(record())
    wait_for_file(started)
    outlet.close(0.1)
    assert cleaned.read_text() == "off\n"
    assert outlet.summary()["stopped"] == 1


def test_a_command_that_ends_in_time_is_not_stopped_and_none_is_begun_after_the_end(tmp_path):
    target = tmp_path / "out"
    outlet = Outlet(AlarmCommand(f"sh -c 'sleep 0.3; echo x >> {target}'"), EventLog())
    outlet.put(record())
    outlet.close(10)
    assert outlet.summary() == {"sent": 1, "refused": 0, "stopped": 0, "dropped": 0}
    command = AlarmCommand(f"sh -c 'echo x >> {target}'")
    command.close()
    with pytest.raises(NotDeliveredError):
        command.send(record())
    assert target.read_text() == "x\n"


def test_a_command_gets_a_record_larger_than_a_pipe_though_it_reads_late(tmp_path, monkeypatch):
    monkeypatch.setattr(command_module, "_LOOK_S", 0.01)
    target = tmp_path / "out"
    AlarmCommand(f"sh -c 'sleep 0.2; cat > {target}'").send(record(source="x" * 100_000))
    assert json.loads(target.read_text())["source"] == "x" * 100_000
