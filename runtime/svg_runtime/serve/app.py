"""The ASGI application: routes, refusals, and answers that are sent within a session's turn."""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svg_common.out_of_memory import is_out_of_memory
from svg_runtime.errors import SvgError
from svg_runtime.serve.api import Api
from svg_runtime.serve.metrics import Metrics
from svg_runtime.serve.operations import OPERATIONS, Operation
from svg_runtime.serve.problems import ProblemError, problem_of

_LOG = logging.getLogger(__name__)
_TEXT = b"text/plain; charset=utf-8"
_KINDS_OF_ACCESS = {
    401: "no-token", 403: "not-allowed", 413: "too-large", 415: "wrong-type", 431: "long-headers", 500: "internal",
}  # fmt: skip
_REPLACED = (b"content-type", b"content-length")
_PIECE = 1 << 16  # bytes that are handed to the connection at once

Handler = Callable[[Request, AsyncExitStack], Awaitable[Response]]


def build_app(api: Api, measured: Metrics) -> Starlette:
    """Return the application, without access control.

    Args:
        api: what answers.
        measured: counts what is answered.
    """
    by_path: dict[str, dict[str, Endpoint]] = {}
    for operation in OPERATIONS:
        handler: Handler = getattr(api, operation.name)
        by_path.setdefault(operation.path, {})[operation.method] = Endpoint(operation, handler, measured)
    app = Starlette(
        routes=[Route(path, Methods(endpoints)) for path, endpoints in by_path.items()],
        exception_handlers={HTTPException: _no_such_page},
    )
    app.router.redirect_slashes = False
    return app


class Endpoint:
    """Answers one operation; refusals become problems.

    Args:
        operation: what is asked for.
        handler: of `Api`.
        measured: counts what is answered.
    """

    def __init__(self, operation: Operation, handler: Handler, measured: Metrics) -> None:
        self._operation = operation
        self._name = operation.name
        self._handler = handler
        self._metrics = measured

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        started = time.perf_counter()
        request = Request(scope, receive)
        async with AsyncExitStack() as held:
            try:
                _check_query(request, self._operation)
                response = await self._handler(request, held)
            except ClientDisconnect:
                return
            except ProblemError as problem:
                response = problem.response
            except HTTPException as error:  # of access control: the body that arrives is too large
                response = ProblemError("too-large", error.detail, headers=dict(error.headers or {})).response
            except SvgError as error:
                response = problem_of(error).response
            except asyncio.CancelledError:  # the server ends; before an answer has begun, so uvicorn would send text
                await _send_in_pieces(_shutting_down().response, send)
                raise
            except Exception as error:
                _LOG.exception("%s failed", self._name)
                response = _defect(error).response
            await _send_in_pieces(response, send)
        self._metrics.answered(self._name, response.status_code, time.perf_counter() - started)


def _check_query(request: Request, operation: Operation) -> None:
    """Refuse values that would be ignored. Addresses that are only read may carry any, as links do.

    Raises:
        ProblemError: a name is unknown, or given twice.
    """
    if operation.method == "GET":
        return
    known = [query.name for query in operation.query]
    for name, count in Counter(name for name, _ in request.query_params.multi_items()).items():
        if name not in known:
            nothing = "no query; values are members of the JSON body" if operation.body else "no query"
            expected = f"one of: {', '.join(known)}" if known else nothing
            raise ProblemError("invalid", f"{name[:40]} in the query", expected)
        if count > 1:
            raise ProblemError("invalid", f"{name} is {count} times in the query", "once")


def _defect(error: Exception) -> ProblemError:
    if is_out_of_memory(error):
        return ProblemError("engine-failed", "out of memory", advice="ask for fewer samples, or close sessions")
    return ProblemError("internal", "this program has a defect", advice="report it, with what the server prints")


def _shutting_down() -> ProblemError:
    return ProblemError(
        "shutting-down", "the server is shutting down, and this request did not end in time",
        advice="when it is back, open a session and send its frames again", headers={"Connection": "close"},
    )  # fmt: skip


class Methods:
    """Chooses the endpoint of a path by the request's method.

    Args:
        endpoints: by method.
    """

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self._endpoints = dict(endpoints)
        if "GET" in endpoints:
            self._endpoints["HEAD"] = endpoints["GET"]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        endpoint = self._endpoints.get(scope["method"])
        if endpoint is not None:
            await endpoint(scope, receive, send)
            return
        allowed = ", ".join(sorted(self._endpoints))
        problem = ProblemError("wrong-method", str(scope["method"])[:20], f"one of: {allowed}", headers={"Allow": allowed})
        await problem.response(scope, receive, send)


async def _send_in_pieces(response: Response, send: Send, ends: bool = True) -> None:
    """Send an answer so that no more of it lies in the connection than the client has taken; its end only with `ends`."""
    await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
    body = memoryview(response.body)
    for start in range(0, len(body), _PIECE):
        await send({"type": "http.response.body", "body": bytes(body[start : start + _PIECE]), "more_body": True})
    if ends:
        await send({"type": "http.response.body", "body": b""})


class ProblemsOfAccess:
    """Turns the refusals of access control, which are text, into problems.

    Args:
        app: the application within access control.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        refusal: Message | None = None

        async def send_problem(message: Message) -> None:
            nonlocal refusal
            if message["type"] == "http.response.start" and (b"content-type", _TEXT) in message["headers"]:
                refusal = message
            elif refusal is None or not message.get("body"):
                await send(message)
            else:
                await _send_in_pieces(_problem(refusal, message["body"]), send, ends=not message.get("more_body", False))

        await self._app(scope, receive, send_problem)


def _problem(refusal: Message, text: bytes) -> Response:
    """The problem that a refusal of access control is: its text is what was given, a semicolon, and what was expected."""
    kind = _KINDS_OF_ACCESS[refusal["status"]]
    detail, _, expected = text.decode().strip().partition("; ")
    if kind == "wrong-type":
        expected = "application/octet-stream, image/png or image/jpeg for frames, application/json for all else"
    kept = {name.decode(): value.decode() for name, value in refusal["headers"] if name not in _REPLACED}
    return ProblemError(kind, detail, expected.removeprefix("expected ") or None, headers=kept).response


async def _no_such_page(request: Request, error: Exception) -> Response:
    return ProblemError("no-such-page", request.url.path[:80], advice="see GET / in a browser, or GET /openapi.json").response
