"""Runs a server from the command line: opens the models, listens, and ends without losing a request that runs."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from starlette.types import ASGIApp

from svg_common.errors import ExitCode, SvgError, UsageError
from svg_common.journal import as_warning
from svg_common.progress import ProgressDisplay
from svg_runtime.live.stop import StopRequest
from svg_runtime.machine.hardware import usable_cores
from svg_runtime.serve.api import Api
from svg_runtime.serve.app import ProblemsOfAccess, build_app
from svg_runtime.serve.catalogue import Catalogue, EngineOptions, frame_bytes
from svg_runtime.serve.limits import ServeLimits
from svg_runtime.serve.metrics import Metrics
from svg_runtime.serve.page import CONTENT_POLICY
from svg_runtime.serve.session import threads_end
from svg_runtime.serve.sessions import SessionTable
from svg_runtime.web.access import Access, AccessControl
from svg_runtime.web.address import Address, listen
from svg_runtime.web.limits import WebLimits
from svg_runtime.web.serving import ServerThread
from svg_runtime.web.token import find_token

_LOG = logging.getLogger(__name__)
_GRACE_S = 30  # for requests that run at the end
_CLOSE_S = 5.0  # for sessions to be closed after that
_THREADS_S = 1.0  # for their threads to end
_BODY_S = 30.0  # for a body to arrive when it is its turn
_POLL_S = 0.2
_MORE_CONNECTIONS = 32  # than sessions, each of which has one of its own: for models, metrics and refusals


@dataclass(frozen=True)
class ServeOptions:
    """What the command line says.

    Attributes:
        models: folders of bundles, or names of embedded models.
        address: where to listen.
        names: further host names by which clients ask.
        token_file: holds the token; None: that of the environment, or a new one where one is needed.
    """

    models: Sequence[str]
    engine: EngineOptions
    address: Address
    names: frozenset[str]
    token_file: Path | None
    limits: ServeLimits


class Server:
    """The application and the sessions of one server.

    Args:
        catalogue: models that may be opened.
        access: who may ask.
        limits: of what they may ask for.
    """

    def __init__(self, catalogue: Catalogue, access: Access, limits: ServeLimits) -> None:
        cores, measured = usable_cores(), Metrics()
        self.sessions = SessionTable(catalogue, limits, computing=max(1, cores // catalogue.threads(cores)))
        self.sessions.on_close = measured.closed
        self.web_limits = WebLimits(
            connections=max(WebLimits.connections, limits.sessions + _MORE_CONNECTIONS),
            request_s=limits.wait_s + _BODY_S,
            body_bytes=limits.frame_bytes,
        )
        api = Api(catalogue, self.sessions, limits, measured)
        self.app: ASGIApp = ProblemsOfAccess(
            AccessControl(
                build_app(api, measured), access, self.web_limits, content_policy=CONTENT_POLICY,
                on_error=lambda error: _LOG.error("an answer was not sent", exc_info=error),
            )
        )  # fmt: skip


def run_server(options: ServeOptions, console: Console) -> None:
    """Serve until Ctrl-C, SIGTERM or SIGHUP; requests that run then are finished.

    Raises:
        UsageError: a limit is too small for a model.
        SvgError: a model cannot be opened, or the address cannot be listened at.
        KeyboardInterrupt: Ctrl-C; also the others until the models are open.
    """
    with StopRequest() as stop, ExitStack() as resources:
        token = find_token("--token-file", options.token_file, required=not options.address.is_loopback)
        sock, address = listen(options.address)
        resources.callback(sock.close)
        with ProgressDisplay(console) as display:
            catalogue = Catalogue.open(options.models, options.engine, display)
        _check_limits(catalogue, options.limits)
        access = Access(address, token, options.names)
        server = Server(catalogue, access, options.limits)
        thread = ServerThread(server.app, sock, server.web_limits, grace_s=_GRACE_S)
        stop.start_graceful_stop()
        thread.start()
        for model in catalogue.about.models:
            console.print(f"svg-serve: {model.name}: {model.backend}", markup=False)
        console.print(f"svg-serve: {access.link()}", markup=False)
        try:
            while not stop:
                time.sleep(_POLL_S)
                if not thread.is_alive():
                    raise SvgError("the web server has ended by itself\n  start it again, and report what it has logged")
        finally:
            closed = _end(thread, server.sessions)
        if not closed:
            console.print(as_warning("svg-serve: ended before all sessions were closed"), markup=False)
            os._exit(ExitCode.INTERRUPTED if stop.interrupted else ExitCode.OK)  # Python would wait for what they compute
        if stop.interrupted:
            raise KeyboardInterrupt


def _check_limits(catalogue: Catalogue, limits: ServeLimits) -> None:
    for model in catalogue.about.models:
        needed = frame_bytes(model.frame)
        for option, limit in (("--max-frame", limits.frame_bytes), ("--max-forecast", limits.forecast_bytes)):
            if limit < needed:
                raise UsageError(
                    f"{option} is {limit} bytes; one frame of the model '{model.name}' is {needed} bytes as float32\n"
                    f"  expected at least {math.ceil(needed / 1000)}kB"
                )


def _end(thread: ServerThread, sessions: SessionTable) -> bool:
    """Finish the requests that run, and close all sessions. False: some compute after all this time, or a second Ctrl-C."""
    with suppress(asyncio.TimeoutError, KeyboardInterrupt):
        thread.stop()
        asyncio.run(asyncio.wait_for(sessions.close_all(), _CLOSE_S))
    return threads_end(_THREADS_S)
