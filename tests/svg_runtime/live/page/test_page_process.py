"""`svg-live --serve` as a process, with an embedded model and the synthetic camera."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys

import httpx
import pytest
from typer.testing import CliRunner

from svg_common.errors import MissingExtraError, UsageError
from svg_runtime.live.cli import app
from svg_runtime.live.page import options
from tests.command_runner import wait_until
from tests.svg_runtime.live.network_cameras import free_port
from tests.svg_runtime.live.page.page_helpers import PictureStream, client

MAIN = "from svg_runtime.live.cli import main; main()"
MODEL = ["--model", "digits", "--backend", "cpu", "--threads", "1", "--samples", "2", "--horizon", "3"]
RUN = ["--headless", "--realtime", *MODEL]


class Run:
    """The process; `lines` are what it has printed so far."""

    def __init__(self, folder, *arguments: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", MAIN, *arguments], cwd=folder, text=True, stderr=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
        )  # fmt: skip
        self.lines: list[str] = []

    def link(self) -> str:
        for line in self.process.stderr:
            self.lines.append(line)
            if found := re.search(r"the page: (http://\S+)", line):
                return found[1]
        raise AssertionError("".join(self.lines))

    def end(self) -> tuple[int, str]:
        _, rest = self.process.communicate(timeout=60)
        return self.process.returncode, "".join(self.lines) + rest


@pytest.fixture
def start(tmp_path):
    """Start a run; one that a failed test leaves is killed, as it would go on for ever."""
    runs: list[Run] = []

    def started(*arguments: str, **environment: str) -> Run:
        runs.append(Run(tmp_path, *arguments, **environment))
        return runs[-1]

    yield started
    for run in runs:
        run.process.kill()
        run.process.wait()
        run.process.stderr.close()


def keys_of(known: httpx.Client) -> list[str]:
    """Names of the cameras in addresses, once the model is open."""
    wait_until(lambda: known.get("/cameras.json").json())
    return [state["camera"] for state in known.get("/cameras.json").json()]


def wait_for_forecasts(known: httpx.Client, count: int) -> None:
    wait_until(lambda: known.get("/stats.json").json().get("frames", {}).get("forecast", 0) >= count)


def kinds_of(known: httpx.Client) -> list[str]:
    """Of the events so far, which a client that joins gets at once."""
    read = ""
    with known.stream("GET", "/events") as events:
        for piece in events.iter_text():
            read += piece
            if "event: " in read or "still here" in read:
                break
    return re.findall(r'"kind": "(\w+)"', read)


def test_a_real_run_is_seen_changed_and_ended(start, tmp_path):
    run = start(*RUN, "--alarm", "--serve", "0", "--json", "stats.json")
    address = run.link().rstrip("/")
    with client(address) as known:
        page = f"/cameras/{keys_of(known)[0]}"
        stream = PictureStream(address, f"{page}/stream.mjpg")
        assert len({stream.read() for _ in range(3)}) > 1  # it moves
        assert known.get("/healthz").text == "ok\n"
        wait_for_forecasts(known, 2)
        answer = known.post(f"{page}/controls", json={"samples": 5, "horizon": 7, "threshold": 6, "roi": "0.1,0.1,0.8,0.8"})
        assert answer.status_code == 200, answer.text
        assert known.get(f"{page}/futures.jpg").status_code == 200
        outside = known.post(f"{page}/controls", json={"roi": "0,0,9999,9999"})
        assert outside.status_code == 422
        assert known.get("/stats.json").json()["stopped_by"] is None
        assert known.post(f"{page}/controls", json={"roi": "0,0,1,0.9"}).status_code == 200
        soon = known.post(f"{page}/controls", json={"samples": 3})  # the context has just begun anew
        assert (soon.status_code, soon.json().get("settings", {}).get("samples")) == (200, 3), soon.text
    run.process.send_signal(signal.SIGTERM)  # with a stream open
    code, printed = run.end()
    assert code == 0, printed
    stats = json.loads((tmp_path / "stats.json").read_text())
    assert stats["alarms"]["threshold"] == 6
    assert (stats["samples"], stats["horizon"], stats["counts_changed"]) == (3, 7, True)
    assert "dB best sample" in printed
    assert stats["resets"] == 2
    assert "Traceback" not in printed
    assert "failed to answer" not in printed
    stream.close()


@pytest.mark.parametrize("count", [1, 2])
def test_cameras_that_are_away_at_the_start_are_on_the_page_with_the_reason(start, count):
    """And so is what concerns the run as a whole, here that these are no digits."""
    sources = ["--source", f"rtsp://127.0.0.1:{free_port()}/gate"] * count
    run = start("--headless", *MODEL, *sources, "--reconnect", "86400", "--serve", "0")
    with client(run.link().rstrip("/")) as known:
        names = keys_of(known)
        assert known.get("/healthz").text == "".join(f"{name}: no picture yet\n" for name in names)
        assert known.get(f"/cameras/{names[0]}/picture.jpg").status_code == 503
        wait_until(lambda: sorted(kinds_of(known)) == ["camera_missing"] * count + ["digits_only"])
        counted = f'svg_events_total{{camera="{names[0]}",kind="camera_missing"}} 1.0'
        wait_until(lambda: counted in known.get("/metrics").text)  # the numbers are a second old at most
    run.process.terminate()
    code, printed = run.end()
    assert code == 130, printed


def test_a_port_in_use_is_refused_before_anything_starts(start):
    with socket.create_server(("127.0.0.1", 0)) as other:
        code, printed = start(*RUN, "--serve", str(other.getsockname()[1])).end()
    assert code == 1
    assert "cannot listen at 127.0.0.1" in printed
    assert "forecasting" not in printed


def test_others_need_the_token_which_is_printed_once(start):
    run = start(*RUN, "--serve", "0.0.0.0:0", "--max-frames", "200")
    link = run.link()
    token, port = link.partition("?token=")[2], re.search(r":(\d+)/", link)[1]
    with client(f"http://127.0.0.1:{port}") as known:
        assert known.get("/").status_code == 401
        assert known.get("/stats.json", headers={"authorization": f"Bearer {token}"}).status_code == 200
        assert known.get(f"/?token={token}").status_code == 303
        assert known.get("/").status_code == 200
        keys_of(known)
    run.process.send_signal(signal.SIGINT)
    code, printed = run.end()
    assert code == 130
    assert printed.count(token) == 1


def test_a_given_token_is_not_printed(start):
    run = start(*RUN, "--serve", "0", SVG_EDGE_TOKEN="abcdefghijklmnop")
    with client(run.link().rstrip("/")) as known:
        assert known.get("/").status_code == 401
    run.process.terminate()
    code, printed = run.end()
    assert code in (0, 130)  # before the first picture, or after it
    assert "abcdefghijklmnop" not in printed


def test_the_link_is_no_warning_in_the_journal():
    """It may hold a token, and comes at every start."""
    journal = "import os; os.environ['JOURNAL_STREAM'] = '%d:%d' % (os.fstat(2).st_dev, os.fstat(2).st_ino); "
    arguments = [*RUN, "--serve", "127.0.0.1:0", "--max-frames", "1"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    run = subprocess.run([sys.executable, "-c", journal + MAIN, *arguments], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "<6>svg-live: the page: http://127.0.0.1:" in run.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--serve", "x"], "is not an address"),
        (["--serve", "0", "--serve-host", "a b"], "is not a host name"),
        (["--serve-host", "cam"], "--serve-host has no effect without a page"),
        (["--serve-token", "file"], "--serve-token has no effect without a page"),
    ],
)
def test_options_that_make_no_sense_are_refused(arguments, message):
    result = CliRunner().invoke(app, ["--headless", "--max-frames", "1", *arguments])
    assert isinstance(result.exception, UsageError)
    assert message in str(result.exception)


def test_without_the_extra_it_is_named(monkeypatch):
    def missing(what: str, extra: str, *modules: str) -> None:
        raise MissingExtraError(what, modules[0], extra)

    monkeypatch.setattr(options, "require_modules", missing)
    result = CliRunner().invoke(app, ["--headless", "--serve", "0"])
    assert isinstance(result.exception, MissingExtraError)
    assert result.exception.exit_code == 4
    assert "pip install 'svg-edge[serve]'" in str(result.exception)


def test_it_can_be_set_in_a_file(tmp_path):
    file = tmp_path / "live.toml"
    file.write_text('serve = "0.0.0.0:8000"\nserve_host = ["cam.example"]\nserve_token = "secret.txt"\nheadless = true\n')
    printed = CliRunner().invoke(app, ["--config", str(file), "--print-config"])
    assert printed.exit_code == 0, printed.exception
    assert 'serve = "0.0.0.0:8000"' in printed.stdout
    assert 'serve_host = ["cam.example"]' in printed.stdout
    assert f'serve_token = "{tmp_path}/secret.txt"' in printed.stdout


def test_help_loads_no_server():
    heavy = "{'starlette', 'uvicorn', 'cv2', 'prometheus_client'}"
    loaded = f"import sys; from svg_runtime.live import cli; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_two_cameras_have_their_own_pages_and_common_samples(start):
    run = start(*RUN, "--source", "synthetic://digits", "--source", "synthetic://digits", "--serve", "0")
    with client(run.link().rstrip("/")) as known:
        first, second = keys_of(known)
        wait_for_forecasts(known, 4)
        answer = known.post(f"/cameras/{second}/controls", json={"samples": 3, "roi": "0,0,0.5,0.5"})
        assert answer.status_code == 200, answer.text
        settings = {state["camera"]: state["settings"] for state in known.get("/cameras.json").json()}
        assert [settings[name]["samples"] for name in (first, second)] == [3, 3]
        assert [settings[name]["roi"] for name in (first, second)] == [None, "0,0,0.5,0.5"]
        assert known.get("/stats.json").json()["cameras"].keys() == {first, second}
        wait_until(lambda: known.get("/stats.json").json()["samples"] == 3)  # they are a second old at most
    run.process.terminate()
    code, printed = run.end()
    assert code == 0, printed
