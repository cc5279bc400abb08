"""Bodies that stall, go on slowly or are refused, over real sockets: sessions go on, and clients learn why."""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from http.client import HTTPConnection, HTTPResponse

import pytest

from svg_runtime.serve.server import Server
from svg_runtime.web.address import Address, listen
from svg_runtime.web.serving import ServerThread
from tests.svg_runtime.serve.serve_helpers import RAW, digits

FRAME = digits(1)[0].tobytes()  # 16 KiB


class Asker:
    """Asks a server of one session."""

    def __init__(self, address: Address, thread: ServerThread) -> None:
        self._address = address
        self.thread = thread
        body = b'{"model": "digits", "samples": 1, "horizon": 1}'
        answer, _ = self.ask("POST", "/v1/sessions", body, {"content-type": "application/json"})
        self.session = answer.headers["location"]

    def ask(self, method: str, path: str, body: bytes = b"", headers: dict | None = None) -> tuple[HTTPResponse, bytes]:
        with closing(HTTPConnection(self._address.host, self._address.port, timeout=60)) as connection:
            connection.request(method, path, body, headers or {})
            answer = connection.getresponse()
            return answer, answer.read()

    def send_frame(self) -> tuple[int, dict]:
        answer, body = self.ask("POST", f"{self.session}/frames", FRAME, RAW)
        return answer.status, json.loads(body)

    def begin(self, method: str, path: str, length: int | None, sent: bytes, kind: str) -> socket.socket:
        """Send the headers of a request and a part of its body; no length: it comes in chunks."""
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        client = socket.create_connection((self._address.host, self._address.port), timeout=60)
        head = f"{method} {self.session}{path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\n{size}\r\n\r\n"
        client.sendall(head.encode() + (b"%x\r\n%s\r\n" % (len(sent), sent) if length is None else sent))
        return client


@pytest.fixture
def serve(make_server):
    @contextmanager
    def start(**limits) -> Iterator[Asker]:
        sock, address = listen(Address("127.0.0.1", 0))
        server: Server = make_server(**limits)
        thread = ServerThread(server.app, sock, server.web_limits)
        thread.start()
        try:
            yield Asker(address, thread)
        finally:
            thread.stop()
            asyncio.run(server.sessions.close_all())

    return start


def answer_of(client: socket.socket) -> tuple[int, dict]:
    answer = HTTPResponse(client)
    answer.begin()
    assert answer.headers["connection"] == "close"
    return answer.status, json.loads(answer.read())


def test_a_small_frame_that_stalls_holds_up_nobody(serve):
    kind = RAW["content-type"]
    with serve(stall_s=600.0) as asker, asker.begin("POST", "/frames", len(FRAME), FRAME[:4000], kind) as stalled:
        status, seen = asker.send_frame()
        assert (status, seen["index"]) == (200, 0)
        stalled.sendall(FRAME[4000:])
        answer = HTTPResponse(stalled)
        answer.begin()
        assert json.loads(answer.read())["index"] == 1


@pytest.mark.parametrize("length", [1_000_000, None])
def test_a_large_frame_that_stalls_gives_way_and_is_not_observed(serve, length):
    with serve(stall_s=1.0) as asker, asker.begin("POST", "/frames", length, b"abc", RAW["content-type"]) as stalled:
        time.sleep(0.2)  # so that it is its turn
        start = time.monotonic()
        assert asker.send_frame() == (200, {"index": 0, "surprise": None, "scores": [], "missing": 4})
        assert time.monotonic() - start > 0.3  # it was not its turn before; a slow machine only adds to this
        status, problem = answer_of(stalled)
        assert (status, problem["type"], problem["advice"]) == (408, "/#too-slow", "send the request again")


@pytest.mark.parametrize(
    ("path", "kind", "size", "refusal"),
    [
        ("/frames", RAW, 40_000_000, (413, "/#too-large")),
        ("/frames", {"content-type": "image/webp"}, 10_000_000, (415, "/#wrong-type")),
        ("/frames", {**RAW, "content-encoding": "gzip"}, 10_000_000, (415, "/#wrong-type")),
        ("/reset", {"content-type": "application/json"}, 10_000_000, (422, "/#invalid")),
    ],
)
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(serve, path, kind, size, refusal):
    with serve() as asker:
        answer, body = asker.ask("POST", asker.session + path, b"\0" * size, kind)
        assert (answer.status, json.loads(body)["type"]) == refusal
        assert answer.headers["connection"] == "close"


def test_a_body_that_goes_on_is_read_however_slow(serve):
    kind = RAW["content-type"]
    with serve(stall_s=1.0) as asker, asker.begin("POST", "/frames", len(FRAME), FRAME[:4000], kind) as slow:
        for start in range(4000, len(FRAME), 4000):
            time.sleep(0.5)
            slow.sendall(FRAME[start : start + 4000])
        answer = HTTPResponse(slow)
        answer.begin()
        assert json.loads(answer.read())["index"] == 0


def test_who_waits_too_long_for_a_body_is_told_so(serve):
    with serve(stall_s=30.0, wait_s=0.3) as asker, asker.begin("POST", "/frames", 1_000_000, b"abc", RAW["content-type"]):
        time.sleep(0.2)
        status, problem = asker.send_frame()
        assert (status, problem["detail"]) == (429, "the requests before this one took more than 0.3 s")
        assert problem["advice"].startswith("a body before this one is still arriving")


@pytest.mark.parametrize(("method", "path"), [("POST", "/forecast"), ("POST", "/reset"), ("DELETE", "")])
def test_bodies_of_all_other_requests_may_not_stall_either(serve, method, path):
    with serve(stall_s=0.5) as asker, asker.begin(method, path, 9, b"", "application/json") as stalled:
        assert asker.send_frame()[0] == 200
        status, problem = answer_of(stalled)
        assert (status, problem["type"]) == (408, "/#too-slow")
        assert asker.send_frame()[1]["index"] == 1


def test_small_frames_that_wait_are_as_few_as_the_other_requests(serve):
    """Those that have arrived wait in memory: up to `waiting` and one."""
    with serve(stall_s=30.0, waiting=1) as asker:
        with asker.begin("POST", "/frames", 1_000_000, b"abc", RAW["content-type"]):
            time.sleep(0.2)
            with asker.begin("POST", "/frames", len(FRAME), FRAME, RAW["content-type"]):
                time.sleep(0.2)
                status, problem = asker.send_frame()
        assert (status, problem["type"]) == (429, "/#busy")


def test_what_is_abandoned_at_the_end_is_told_so(serve):
    """A request whose body is still arriving, and the one that waits for its turn behind it."""
    kind = RAW["content-type"]
    with serve(stall_s=30.0) as asker, asker.begin("POST", "/frames", 1_000_000, b"abc", kind) as arriving:
        time.sleep(0.2)  # so that it is its turn
        with asker.begin("POST", "/frames", len(FRAME), FRAME, kind) as waiting:
            time.sleep(0.2)
            asker.thread.stop()
            for client in (arriving, waiting):
                answer = HTTPResponse(client)
                answer.begin()
                kept = {name: answer.headers[name] for name in ("content-type", "connection", "retry-after")}
                assert kept == {"content-type": "application/problem+json", "connection": "close", "retry-after": "5"}
                assert (answer.status, json.loads(answer.read())["type"]) == (503, "/#shutting-down")
