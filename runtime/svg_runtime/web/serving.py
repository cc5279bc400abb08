"""Runs uvicorn in a thread: it starts before `start` returns, installs no signal handlers, and ends in time."""

from __future__ import annotations

import socket
import threading
import time

import uvicorn
from starlette.types import ASGIApp

from svg_common.errors import SvgError
from svg_runtime.web.limits import WebLimits
from svg_runtime.web.protocol import protocol_options

_START_S = 10.0
_STOP_S = 1.0  # beyond the time for answers


class ServerThread(threading.Thread):
    """Answers requests at a socket that listens already, in a thread with an event loop of its own.

    Args:
        app: what answers.
        sock: see `svg_runtime.web.address.listen`; it is closed at the end.
        limits: what clients may ask for.
        grace_s: seconds for answers that are on their way at the end.
    """

    def __init__(self, app: ASGIApp, sock: socket.socket, limits: WebLimits, grace_s: int = 1) -> None:
        super().__init__(name="web-server", daemon=True)
        self._grace_s = grace_s
        self._socket = sock
        self._error: BaseException | None = None
        self._server = uvicorn.Server(
            uvicorn.Config(
                app, loop="asyncio", lifespan="off", log_config=None, log_level="critical", access_log=False,
                proxy_headers=False, server_header=False, timeout_graceful_shutdown=grace_s, **protocol_options(limits),
            )
        )  # fmt: skip

    def start(self) -> None:
        """Start, and wait until requests are answered.

        Raises:
            SvgError: the server did not start.
        """
        super().start()
        deadline = time.monotonic() + _START_S
        while not self._server.started and self.is_alive() and time.monotonic() < deadline:
            time.sleep(0.005)
        if not self._server.started:
            raise SvgError(f"the web server did not start: {self._error or 'it takes too long'}\n  try another port")

    def run(self) -> None:
        """See `threading.Thread`; what is raised is kept for `start`."""
        try:
            self._server.run(sockets=[self._socket])
        except BaseException as error:
            self._error = error
        finally:
            self._socket.close()

    def stop(self) -> None:
        """End the server and all its connections, within a second of the time for answers. May be called twice."""
        self._server.should_exit = True
        if self.is_alive():
            self.join(self._grace_s + _STOP_S)
        self._socket.close()
