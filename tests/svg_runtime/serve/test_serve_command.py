"""`svg-serve` as a process: its messages, its end by signals, and the clients of examples/."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from svg_common import command
from svg_runtime.serve.cli import app, main
from svg_runtime.serve.openapi import describe
from tests.sample import sampled
from tests.svg_runtime.serve.serve_helpers import digits

JSON = {"Content-Type": "application/json"}


@pytest.fixture
def svg_serve(monkeypatch, capsys):
    """Run the command in this process until it ends; returns its exit code and what it printed."""

    def run(*arguments: str):
        monkeypatch.setattr("sys.argv", ["svg-serve", *arguments])
        with pytest.raises(SystemExit) as end:
            main()
        return int(end.value.code), capsys.readouterr()

    return run


@contextmanager
def running(*arguments: str, program: tuple[str, ...] = ("-m", "svg_runtime.serve")):
    """Start the command; yields the process, its address and its first lines."""
    words = [sys.executable, *program, "--backend", "cpu", "--threads", "1", *arguments]
    process = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if "http://" in line:
                break
        assert lines, "it ended at once"
        yield process, re.search(r"http://\S+", lines[-1]).group(0), lines
    finally:
        process.kill()
        process.wait()
        process.stderr.close()


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None, headers: dict | None = None):
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read()


def ready_session(connection: http.client.HTTPConnection) -> str:
    _, headers, _ = ask(connection, "POST", "/v1/sessions", b'{"model": "digits"}', JSON)
    for frame in digits(5):
        ask(connection, "POST", f"{headers['Location']}/frames", frame.tobytes(), {"Content-Type": "application/octet-stream"})
    return headers["Location"]


@pytest.mark.parametrize(
    ("number", "code"), sampled([(signal.SIGTERM, 0), (signal.SIGHUP, 0), (signal.SIGINT, 130)], [(signal.SIGTERM, 0)])
)
def test_a_signal_lets_the_running_forecast_finish(number, code):
    """The forecast takes seconds; the signal comes while it runs."""
    with running("--model", "digits", "--listen", "0") as (process, address, _):
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
        session = ready_session(connection)
        connection.request("POST", f"{session}/forecast", json.dumps({"samples": 60, "horizon": 30}).encode(), JSON)
        with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as second:
            ask(second, "GET", "/healthz")  # what was sent before has arrived, too
        process.send_signal(number)
        answer = connection.getresponse()
        assert (answer.status, answer.headers["Svg-Shape"]) == (200, "60,30,64,64,1")
        assert len(answer.read()) == 60 * 30 * 64 * 64 * 4
        connection.close()
        assert process.wait(60) == code


HANGING = """
import os, time
from svg_runtime import Forecaster
from svg_runtime.serve import cli, server
server._GRACE_S, server._CLOSE_S, server._THREADS_S = {grace_s}, 1.0, 0.2
Forecaster.warm_up = lambda self: None
Forecaster.forecast = lambda *arguments: time.sleep(60)
os.environ["JOURNAL_STREAM"] = "%d:%d" % (os.fstat(2).st_dev, os.fstat(2).st_ino)
cli.main()
"""


@pytest.mark.parametrize(
    ("signals", "grace_s", "code"),
    [
        ([signal.SIGTERM], 1, 0),
        pytest.param([signal.SIGINT], 1, 130, marks=pytest.mark.slow),
        ([signal.SIGINT, signal.SIGINT], 50, 130),
    ],
)
def test_a_forecast_that_hangs_does_not_keep_the_server_alive(signals, grace_s, code):
    program = ("-c", HANGING.format(grace_s=grace_s))
    with running("--model", "digits", "--listen", "0", program=program) as (process, address, _):
        with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as connection:
            connection.request("POST", f"{ready_session(connection)}/forecast")
            with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as second:
                ask(second, "GET", "/healthz")  # what was sent before has arrived, too
            for number in signals:
                process.send_signal(number)
                time.sleep(0.5)  # two at once would be one
            if len(signals) == 1:  # a second one does not wait for any answer
                answer = connection.getresponse()
                assert (answer.status, json.loads(answer.read())["type"]) == (503, "/#shutting-down")
            assert process.wait(20) == code
        assert "<4>svg-serve: ended before all sessions were closed" in process.stderr.read()


DEFECTIVE = """
from svg_runtime import Forecaster
from svg_runtime.serve import cli
Forecaster.warm_up = lambda self: None
Forecaster.forecast = lambda *arguments: 1 / 0
cli.main()
"""


def test_a_defect_is_printed_with_its_traceback():
    with running("--model", "digits", "--listen", "0", program=("-c", DEFECTIVE)) as (process, address, _):
        with closing(http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)) as connection:
            status, _, body = ask(connection, "POST", f"{ready_session(connection)}/forecast")
        assert (status, json.loads(body)["advice"]) == (500, "report it, with what the server prints")
        process.terminate()
        printed = process.stderr.read()
        assert "warning: forecast failed\nTraceback " in printed
        assert "ZeroDivisionError" in printed


def test_another_address_needs_a_token_which_is_printed():
    with running("--model", "digits", "--listen", "0.0.0.0:0") as (_, link, lines):
        connection = http.client.HTTPConnection(f"127.0.0.1:{urlsplit(link).port}", timeout=60)
        token = re.search(r"token=(\S+)", link).group(1)
        assert ask(connection, "GET", "/healthz")[0] == 401
        connection.close()
        assert ask(connection, "GET", "/healthz", headers={"Authorization": f"Bearer {token}"})[0] == 200
        connection.close()
        assert lines[0].startswith("svg-serve: digits: cpu ")


def test_the_description_is_printed_without_opening_a_model(svg_serve):
    code, output = svg_serve("--print-openapi", "--model", "digits")
    assert code == 0
    assert json.loads(output.out) == describe(["digits"])


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--listen", "nowhere"], 2, "--listen nowhere is not an address"),
        (["--idle-timeout", "5"], 2, "--idle-timeout: '5' is not a duration"),
        (["--model", "missing.svgb", "--listen", "0"], 1, "no such bundle"),
        (["--model", "digits", "--backend", "cpu", "--listen", "0", "--max-forecast", "16kB"], 2, "expected at least 17kB"),
        (["--model", "digits", "--backend", "cpu", "--listen", "0", "--max-frame", "0MB"], 2, "--max-frame is 0 bytes"),
        (["--model", "digits", "--model", "digits", "--listen", "0"], 2, "the model 'digits' is given twice"),
        (["--backend", "tensorrt-rtx", "--fp16", "--bf16"], 2, "both --fp16 and --bf16"),
    ],
)
def test_mistakes_are_one_message(svg_serve, arguments, code, message):
    returned, output = svg_serve(*arguments)
    assert (returned, output.out) == (code, "")
    assert output.err.startswith("error: ")
    assert message in output.err


def test_without_its_extra_it_says_what_to_install(svg_serve, monkeypatch):
    monkeypatch.setattr(command, "is_installed", lambda module: module != "uvicorn")
    returned, output = svg_serve()
    assert returned == 4
    assert "pip install 'svg-edge[serve]'" in output.err


EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


def test_the_client_in_python_sends_a_token_to_a_server_with_tls_only_over_tls():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        address = f"https://127.0.0.1:{listening.getsockname()[1]}"
        asked = subprocess.Popen(
            [sys.executable, EXAMPLES / "05_over_http.py", address], stderr=subprocess.DEVNULL,
            env={**os.environ, "SVG_EDGE_TOKEN": "secret" * 4},
        )  # fmt: skip
        connection, _ = listening.accept()
        with connection:
            sent = connection.recv(1 << 16)
        assert asked.wait(30)
    assert sent[:1] == b"\x16"  # a handshake
    assert b"secret" not in sent


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_clients_in_python_and_javascript_print_the_same_forecast():
    with running("--model", "camera", "--listen", "0") as (_, address, _lines):
        printed = [
            subprocess.run([*interpreter, EXAMPLES / name, address], capture_output=True, text=True, timeout=120, check=False)
            for interpreter, name in (([sys.executable, "-S"], "05_over_http.py"), (["node"], "05_over_http.mjs"))
        ]
        assert [each.returncode for each in printed] == [0, 0], printed[0].stderr + printed[1].stderr
        shown = [re.sub(r"\bNone\b", "null", each.stdout) for each in printed]
        assert shown[0] == shown[1]
        assert "samples,steps,height,width,channels = 4,10,64,64,3" in shown[0]
        connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
        assert json.loads(ask(connection, "GET", "/v1/sessions")[2]) == {"sessions": []}
        connection.close()


def test_the_help_says_which_requests_keep_a_session():
    from typer.main import get_command

    (option,) = (option for option in get_command(app).params if option.name == "idle_timeout")
    assert option.help == "A session that gets no frame and no request for so long is closed; GET does not count."
