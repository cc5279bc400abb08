"""The page of `svg-live` under load:
`python -m benchmarks.page_load [--rounds 6] [--seconds 10] [--json FILE] [-- OPTIONS OF SVG-LIVE]`

Runs svg-live with its page as a process of its own, as fast as it can on the synthetic camera, and prints these numbers; fails
with exit code 1 where one does not hold:

    slow clients   forecast rate with ten page clients that read 20 kB/s each, over the rate with none; rounds of both
                   interleaved, the median of the ratios of neighbours; at least 0.95
    fast clients   the same with ten clients that read as fast as they can; for information
    first picture  from connecting to the first whole picture, 20 times; at most 1 s
    hostile        1,000 requests with a wrong host, origin or token, oversized, half-open or garbled, out of the folder: each
                   is refused, forecasts go on, resident memory grows by at most 5 MB, and no file stays open

Nothing else should run meanwhile; the processor's name is in the output.
"""

from __future__ import annotations

import argparse
import http.client
import itertools
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

from svg_common.files import write_json
from svg_runtime.machine.hardware import machine_today

TOKEN = "0123456789abcdef0123456789abcdef"
HOSTILE = 1000
LEAST_RATIO, MOST_FIRST_S, MOST_GROWTH_MB = 0.95, 1.0, 5.0
_CLIENTS = 10
_SLOW_BYTES, _SLOW_PAUSE_S = 2000, 0.1
_SETTLE_S = 1.0
_HALF_OPEN_S = 12.0  # the server waits 10 s for a request
DIGITS = ["--model", "digits", "--headless", "--backend", "cpu", "--alarm"]
_LINK = re.compile(r"the page: (http://\S+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=6, help="of each kind of client")
    parser.add_argument("--seconds", type=float, default=10.0, help="of a round")
    parser.add_argument("--hostile", type=int, default=HOSTILE, help="hostile requests")
    parser.add_argument("--json", type=Path, help="write all numbers to this file")
    parser.add_argument("live", nargs="*", help=f"options of svg-live, after --, in place of: {' '.join(DIGITS)}")
    options = parser.parse_args()
    os.environ["SVG_EDGE_TOKEN"] = TOKEN
    with served_run(options.live or DIGITS) as run:
        site = Site(run.link, TOKEN)
        site.wait_for_forecasts()
        figures = {
            "hardware": machine_today(),
            **rates(site, options.rounds, options.seconds),
            "first_picture_s": [first_picture_s(site) for _ in range(20)],
            "hostile": hostile_figures(site, run.process.pid, options.hostile),
        }
    problems = list(missed(figures))
    print("\n".join(report(figures)))
    if options.json is not None:
        write_json(options.json, figures)
    if problems:
        sys.exit("\n".join(problems))


class ServedRun(NamedTuple):
    """svg-live, and where its page is."""

    process: subprocess.Popen[str]
    link: str


@contextmanager
def served_run(arguments: list[str]) -> Iterator[ServedRun]:
    """Run svg-live with its page at a free port."""
    command = [sys.executable, "-c", "from svg_runtime.live.cli import main; main()", *arguments, "--serve", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as run:
        try:
            assert run.stderr is not None
            lines = []
            while not (found := _LINK.search("".join(lines))):
                lines.append(run.stderr.readline())
                if not lines[-1]:
                    sys.exit("".join(lines))
            threading.Thread(target=run.stderr.read, daemon=True).start()  # a pipe that is full would stop it
            yield ServedRun(run, found[1])
        finally:
            run.terminate()


class Site:
    """A page to ask, with its token."""

    def __init__(self, link: str, token: str) -> None:
        host, _, port = link.removeprefix("http://").partition("/")[0].rpartition(":")
        self.place = host, int(port)
        self.token = token
        while not (cameras := self.get_json("/cameras.json")):  # the model is being opened
            time.sleep(0.1)
        self.camera = cameras[0]["camera"]

    def open(self, path: str) -> socket.socket:
        """Send a GET that is allowed, and return its connection."""
        client = socket.create_connection(self.place, timeout=30)
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {self.token}\r\n\r\n".encode())
        return client

    def get_json(self, path: str) -> Any:
        """Ask for JSON."""
        connection = http.client.HTTPConnection(*self.place, timeout=30)
        connection.request("GET", path, headers={"Host": "localhost", "Authorization": f"Bearer {self.token}"})
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def forecasts(self) -> tuple[int, float]:
        """Forecasts so far, and the seconds of the run at that count: statistics are up to a second old."""
        time.sleep(_SETTLE_S)
        stats = self.get_json(f"/cameras/{self.camera}/stats.json")
        return int(stats["frames"]["forecast"]), float(stats["duration_s"])

    def wait_for_forecasts(self) -> None:
        """Wait until the run is in full swing."""
        while self.forecasts()[0] < 20:
            pass


@contextmanager
def clients(site: Site, count: int, slow: bool) -> Iterator[None]:
    """Page clients meanwhile: each reads the pictures and the events."""
    ended = threading.Event()
    connections = [site.open(path) for _ in range(count) for path in (f"/cameras/{site.camera}/stream.mjpg", "/events?live=1")]

    def read_slowly() -> None:
        while not ended.wait(_SLOW_PAUSE_S):
            for connection in connections:
                if readable(connection):
                    connection.recv(_SLOW_BYTES, socket.MSG_DONTWAIT)

    def read_fast(connection: socket.socket) -> None:
        while not ended.is_set() and connection.recv(1 << 16):
            pass

    work: Sequence[Callable[[], None]] = [read_slowly] if slow else [lambda one=one: read_fast(one) for one in connections]
    threads = [threading.Thread(target=each, daemon=True) for each in work]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join(15)
        for connection in connections:
            connection.close()


def readable(connection: socket.socket) -> bool:
    """Whether something has come."""
    try:
        return bool(connection.recv(1, socket.MSG_DONTWAIT | socket.MSG_PEEK))
    except BlockingIOError:
        return False


def rates(site: Site, rounds: int, seconds: float) -> dict[str, Any]:
    """Forecasts per second in interleaved rounds: without clients, with slow ones, with fast ones."""
    found: dict[str, list[float]] = {"alone": [], "slow": [], "fast": []}
    for kind, measured in itertools.islice(itertools.cycle(found.items()), 3 * rounds):
        with clients(site, 0 if kind == "alone" else _CLIENTS, slow=kind == "slow"):
            before, start_s = site.forecasts()
            time.sleep(seconds)
            after, end_s = site.forecasts()
            measured.append((after - before) / (end_s - start_s))
    ratios = {kind: [with_clients / alone for with_clients, alone in zip(found[kind], found["alone"], strict=True)]
              for kind in ("slow", "fast")}  # fmt: skip
    return {"rates": found, "slow_ratio": statistics.median(ratios["slow"]), "fast_ratio": statistics.median(ratios["fast"])}


def first_picture_s(site: Site) -> float:
    """Seconds from connecting to the end of the first picture, the page itself read before."""
    start_s = time.monotonic()
    with site.open("/") as client:
        client.recv(1 << 16)
    with site.open(f"/cameras/{site.camera}/stream.mjpg") as client:
        read = b""
        while read.count(b"--picture") < 2:
            piece = client.recv(1 << 16)
            if not piece:
                sys.exit(f"the stream ended before its first picture: {read[:100]!r}")
            read += piece
    return round(time.monotonic() - start_s, 3)


# Hostile requests: what is sent, and what the answer must begin with; None: the connection is left open and is to be closed.
Hostile = tuple[str, bytes, bytes | None]


def hostile_requests(camera: str, token: str) -> list[Hostile]:
    """One of each kind."""
    known = f"Authorization: Bearer {token}\r\n"
    posts = f"POST /cameras/{camera}/controls HTTP/1.1\r\nHost: localhost\r\n{known}Content-Type: application/json\r\n"
    texts = [
        ("host", f"GET / HTTP/1.1\r\nHost: evil.example\r\n{known}\r\n", b"HTTP/1.1 403"),
        ("origin", f"{posts}Origin: http://evil.example\r\nContent-Length: 2\r\n\r\n{{}}", b"HTTP/1.1 403"),
        ("origin of a stream", f"GET /events HTTP/1.1\r\nHost: localhost\r\n{known}Origin: null\r\n\r\n", b"HTTP/1.1 403"),
        ("token", "GET /stats.json HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer wrong\r\n\r\n", b"HTTP/1.1 401"),
        ("no token", "GET /cameras.json?token=x HTTP/1.1\r\nHost: localhost\r\n\r\n", b"HTTP/1.1 401"),
        ("form", f"{posts.replace('application/json', 'text/plain')}Content-Length: 2\r\n\r\n{{}}", b"HTTP/1.1 415"),
        ("large body", f"{posts}Content-Length: 99999999\r\n\r\n{'x' * 5000}", b"HTTP/1.1 413"),
        ("large chunks", f"{posts}Transfer-Encoding: chunked\r\n\r\n" + f"4000\r\n{'x' * 0x4000}\r\n" * 8, b"HTTP/1.1 413"),
        ("large header", f"GET / HTTP/1.1\r\nHost: localhost\r\nX: {'y' * 100_000}\r\n\r\n", b"HTTP/1.1 4"),
        ("many headers", "GET / HTTP/1.1\r\nHost: localhost\r\n" + "X: y\r\n" * 20_000 + "\r\n", b"HTTP/1.1 4"),
        ("control", f"{posts}Content-Length: 16\r\n\r\n{{\"samples\": 9e9}}", b"HTTP/1.1 422"),
        ("nesting", f"{posts}Content-Length: 50000\r\n\r\n{'[' * 50_000}", b"HTTP/1.1 422"),
        ("traversal", f"GET /cameras/{camera}/clips/..%2f..%2fetc%2fpasswd HTTP/1.1\r\nHost: localhost\r\n{known}\r\n",
         b"HTTP/1.1 404"),
        ("static", f"GET /static/../../../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n{known}\r\n", b"HTTP/1.1 404"),
        ("garbage", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"HTTP/1.1 400"),
        ("half a request", "GET / HTTP/1.1\r\nHost: localhost\r\n", None),
        ("half a body", f"{posts}Content-Length: 9\r\n\r\n{{", None),
        ("silence", "", None),
    ]  # fmt: skip
    return [(name, text.encode("latin-1"), answer) for name, text, answer in texts]


def send_hostile(site: Site, request: Hostile) -> str | socket.socket | None:
    """Send one; return what is wrong with the answer, or the connection if it was left open."""
    name, sent, expected = request
    client = socket.create_connection(site.place, timeout=30)
    with suppress(ConnectionError):  # refused before all was sent
        client.sendall(sent)
    if expected is None:
        return client
    try:
        answer = client.recv(100)
    except ConnectionError:
        answer = b""  # closed while more was being sent: the answer is lost on the way
    client.close()
    lost = not answer and len(sent) > 4096
    return None if answer.startswith(expected) or lost else f"{name}: {answer!r}"


def hostile_figures(site: Site, pid: int, count: int) -> dict[str, Any]:
    """Send `count` hostile requests from eight threads beside the forecasts."""
    kinds = hostile_requests(site.camera, site.token)
    requests = list(itertools.islice(itertools.cycle(kinds), count))
    for request in kinds:  # what is loaded and cached at the first time
        one = send_hostile(site, request)
        if isinstance(one, socket.socket):
            one.close()
    time.sleep(_SETTLE_S)
    memory, files, forecasts = resident_mb(pid), open_files(pid), site.forecasts()[0]
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda request: send_hostile(site, request), requests))
    half_open = [answer for answer in answers if isinstance(answer, socket.socket)]
    during = site.forecasts()[0] - forecasts
    time.sleep(_HALF_OPEN_S)
    still_open = sum(not is_closed(client) for client in half_open)
    for client in half_open:
        client.close()
    time.sleep(_SETTLE_S)
    return {
        "requests": count, "wrong_answers": [answer for answer in answers if isinstance(answer, str)],
        "still_open": still_open, "forecasts_meanwhile": during, "memory_growth_mb": round(resident_mb(pid) - memory, 2),
        "more_open_files": open_files(pid) - files,
    }  # fmt: skip


def is_closed(client: socket.socket) -> bool:
    client.settimeout(0.01)
    try:
        return client.recv(1) == b""
    except TimeoutError:
        return False
    except ConnectionError:
        return True


def resident_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024


def open_files(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def report(figures: dict[str, Any]) -> Iterator[str]:
    """The lines to print."""
    machine, first, hostile = figures["hardware"], figures["first_picture_s"], figures["hostile"]
    yield f"{machine['cpu']}, {machine['cores_usable']} cores"
    for kind, measured in figures["rates"].items():
        yield f"forecasts per second, {kind}: " + " ".join(f"{rate:.2f}" for rate in measured)
    yield f"rate with ten slow clients: {figures['slow_ratio']:.3f}; with ten fast ones: {figures['fast_ratio']:.3f}"
    yield f"first picture: median {statistics.median(first):.3f} s, longest {max(first):.3f} s"
    yield f"hostile: {hostile}"


def missed(figures: dict[str, Any]) -> Iterator[str]:
    """What does not hold."""
    hostile = figures["hostile"]
    if figures["slow_ratio"] < LEAST_RATIO:
        yield f"slow clients cost too much: {figures['slow_ratio']:.3f}, expected at least {LEAST_RATIO}"
    if max(figures["first_picture_s"]) > MOST_FIRST_S:
        yield f"the first picture took {max(figures['first_picture_s'])} s, expected at most {MOST_FIRST_S:g}"
    if hostile["wrong_answers"] or hostile["still_open"]:
        yield f"hostile requests were not refused: {hostile['wrong_answers'][:3]}, {hostile['still_open']} are still open"
    if hostile["memory_growth_mb"] > MOST_GROWTH_MB or hostile["more_open_files"] > 0:
        yield f"hostile requests left {hostile['memory_growth_mb']} MB and {hostile['more_open_files']} files"
    if hostile["forecasts_meanwhile"] < 1:
        yield "forecasts stopped"


if __name__ == "__main__":
    main()
