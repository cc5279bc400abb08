"""A server in a thread, over real sockets: slow, half-open and stalled clients, and its end."""

from __future__ import annotations

import asyncio
import socket
import threading
import time
from contextlib import contextmanager, suppress

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse, StreamingResponse
from starlette.routing import Route

from svg_runtime.web import serving
from svg_runtime.web.access import Access, AccessControl
from svg_runtime.web.address import Address, AddressError, listen, parse_listen_address
from svg_runtime.web.limits import WebLimits
from svg_runtime.web.serving import ServerThread
from tests.command_runner import HANG_S, wait_until

QUICK = WebLimits(connections=4, request_s=0.3, stall_s=0.3, keep_alive_s=1, header_bytes=2000)


async def look(request):
    return PlainTextResponse("seen")


async def endless(request):
    async def pieces():
        while True:
            yield b"x" * 50_000
            await asyncio.sleep(0.001)

    return StreamingResponse(pieces())


async def show(request):
    return PlainTextResponse(f"{request.scope['path']} ? {request.url.query}")


@contextmanager
def server(limits: WebLimits = QUICK, access: Access | None = None):
    sock, address = listen(Address("127.0.0.1", 0))
    app = Starlette(routes=[Route("/", look), Route("/endless", endless), Route("/show/{rest:path}", show)])
    thread = ServerThread(app if access is None else AccessControl(app, access, limits), sock, limits)
    thread.start()
    try:
        yield address, thread
    finally:
        thread.stop()


def connect(address: Address) -> socket.socket:
    return socket.create_connection((address.host, address.port), timeout=HANG_S)


def send_slowly(client: socket.socket, request: bytes) -> None:
    for byte in request:
        client.sendall(bytes([byte]))
        time.sleep(0.02)


def wait_for_the_end(client: socket.socket) -> None:
    with suppress(ConnectionError):
        while client.recv(1 << 16):
            pass


def test_a_free_port_is_taken_and_one_in_use_is_refused():
    sock, address = listen(Address("127.0.0.1", 0))
    assert address.port > 0
    with sock, pytest.raises(AddressError, match="cannot listen at 127"):
        listen(address)


def test_an_address_of_another_machine_is_refused():
    with pytest.raises(AddressError, match="cannot listen at 192"):
        listen(Address("192.0.2.1", 0))


@pytest.mark.parametrize("text", ["[::ffff:127.0.0.1]:0", "127.1:0"])
def test_another_spelling_of_an_address_is_listened_at(text):
    sock, address = listen(parse_listen_address("--serve", text))
    with sock, connect(Address("127.0.0.1", address.port)):
        assert address.is_loopback


def test_an_address_that_needs_its_interface_says_so():
    with pytest.raises(AddressError, match=r"cannot listen at \[fe80::1\]:0: .*\n  expected its network interface, too; for"):
        listen(parse_listen_address("--serve", "[fe80::1]:0"))


def test_it_answers_as_soon_as_it_has_started():
    with server() as (address, _):
        assert httpx.get(address.link(), trust_env=False).text == "seen"


def test_an_answer_of_several_small_pieces_is_not_held_back():
    """Nagle's algorithm would wait with the second piece until the client has acknowledged the first: 40 ms each time."""
    with server() as (address, thread), connect(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(100)
        (connection,) = thread._server.server_state.connections
        accepted = connection.transport.get_extra_info("socket")
        assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


@pytest.mark.parametrize(
    ("target", "host", "status", "text"),
    [
        (b"http://127.0.0.1:8000/show/a%20b?c=1", b"127.0.0.1", 200, b"/show/a b ? c=1"),
        (b"HTTP://LocalHost/", b"evil.example", 200, b"seen"),  # its own host counts (RFC 9112, 3.2.2)
        (b"https://localhost", b"localhost", 200, b"seen"),  # as through a proxy with TLS
        (b"http://evil.example/", b"127.0.0.1", 403, b"unknown host name"),
        (b"http://evil.example:8000/show/x", b"127.0.0.1", 403, b"unknown host name"),
        (b"http://localhost@evil.example/", b"localhost", 403, b"unknown host name"),
        (b"http:///show/x", b"localhost", 403, b"unknown host name"),
        (b"/show/http://evil.example/x", b"localhost", 200, b"/show/http://evil.example/x ? "),
        (b"http%3A//localhost/", b"localhost", 404, b"Not Found"),
        (b"ftp://localhost/", b"localhost", 404, b"Not Found"),
    ],
)
def test_a_target_that_is_a_whole_address_is_answered_as_its_path_and_its_host_is_checked(target, host, status, text):
    with server(access=Access(Address("127.0.0.1", 8000))) as (address, _), connect(address) as client:
        client.sendall(b"GET " + target + b" HTTP/1.1\r\nHost: " + host + b"\r\nConnection: close\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(1 << 16), b""))
    assert answer.startswith(f"HTTP/1.1 {status}".encode())
    assert answer.partition(b"\r\n\r\n")[2].startswith(text)


@pytest.mark.parametrize(
    "sent", [b"", b"GET / HTTP/1.1\r\nHost: a\r\n", b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\nx"]
)
def test_a_client_that_owes_its_request_is_cut(sent):
    with server(WebLimits(request_s=0.3, stall_s=600, keep_alive_s=600)) as (address, _), connect(address) as client:
        client.sendall(sent)
        wait_for_the_end(client)


def test_a_client_that_sends_its_headers_byte_by_byte_is_cut():
    with server() as (address, _), connect(address) as client, pytest.raises(ConnectionError):
        send_slowly(client, b"GET / HTTP/1.1\r\nHost: a\r\n" + b"x: y\r\n" * 100)


def test_headers_without_end_are_refused():
    with server() as (address, _), connect(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nx: " + b"y" * 100_000)
        assert client.recv(100).startswith(b"HTTP/1.1 400")


def test_half_open_connections_give_way_to_clients_that_ask():
    with server(WebLimits(connections=4)) as (address, _):
        idle = [connect(address) for _ in range(20)]
        assert httpx.get(address.link(), trust_env=False).status_code == 200
        for client in idle:
            client.close()


def test_more_streams_than_connections_are_answered_with_503():
    with server(WebLimits(connections=3)) as (address, _):
        busy = [connect(address) for _ in range(3)]
        for client in busy:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            client.recv(100)
        assert httpx.get(address.link(), trust_env=False).status_code == 503
        for client in busy:
            client.close()


def test_a_client_that_takes_nothing_is_cut():
    with server() as (address, thread), connect(address) as client:
        client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
        connections = thread._server.server_state.connections
        wait_until(lambda: connections)
        wait_until(lambda: not connections)


def test_it_stops_with_streams_and_half_open_connections():
    threads = threading.active_count()
    with server(WebLimits()) as (address, thread):
        clients = [connect(address) for _ in range(4)]
        for client in clients[:3]:
            client.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n")
            client.recv(100)
        thread.stop()
        thread.join(HANG_S)
        assert not thread.is_alive()
        for client in clients:
            client.close()
    assert threading.active_count() <= threads
    with pytest.raises(OSError, match="refused"):
        connect(address)


def test_it_stops_without_an_answer_that_hangs(monkeypatch):
    monkeypatch.setattr(serving, "_STOP_S", 0.1)
    asked, go = threading.Event(), threading.Event()

    async def hang(request):
        asked.set()
        go.wait(HANG_S)  # nothing else is answered meanwhile
        return PlainTextResponse("late")

    sock, address = listen(Address("127.0.0.1", 0))
    thread = ServerThread(Starlette(routes=[Route("/", hang)]), sock, QUICK, grace_s=0)
    thread.start()
    with connect(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        assert asked.wait(HANG_S)
        thread.stop()
        assert thread.is_alive()
        go.set()
    thread.join(HANG_S)
    assert not thread.is_alive()
