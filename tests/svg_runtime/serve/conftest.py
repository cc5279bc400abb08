"""A server in this process, with the models of the package, asked without a socket."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from anyio.from_thread import start_blocking_portal
from starlette.testclient import TestClient

from svg_runtime.serve.catalogue import Catalogue, EngineOptions
from svg_runtime.serve.limits import ServeLimits
from svg_runtime.serve.server import Server
from svg_runtime.web.access import Access
from svg_runtime.web.address import Address

KNOWN = Access(Address("127.0.0.1", 80), names=frozenset({"testserver"}))


@pytest.fixture(scope="session")
def catalogue() -> Catalogue:
    return Catalogue.open(["digits", "camera"], EngineOptions(backend="cpu", threads=1))


@pytest.fixture(scope="session")
def make_server(catalogue) -> Callable[..., Server]:
    return lambda access=KNOWN, **limits: Server(catalogue, access, ServeLimits(**limits))


@pytest.fixture
def open_client(make_server) -> Callable:
    """Start a server, and yield a client of it; afterwards its sessions are closed."""

    @contextmanager
    def start(**options) -> Iterator[TestClient]:
        server = make_server(**options)
        with start_blocking_portal() as portal:
            client = TestClient(server.app)
            client.server = server
            client.portal = portal  # one event loop for all requests; the server takes no part in ASGI's lifespan
            yield client
            portal.call(server.sessions.close_all)

    return start


@pytest.fixture
def client(open_client) -> Iterator[TestClient]:
    with open_client() as started:
        yield started
