"""What is answered to each operation."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from typing import TypeVar

from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

import svg_runtime
from svg_common.validation import problem_text
from svg_runtime.serve import answers, metrics, operations, page, schema
from svg_runtime.serve.catalogue import Catalogue
from svg_runtime.serve.frames import MEDIA_TYPES, RAW
from svg_runtime.serve.limits import ServeLimits
from svg_runtime.serve.openapi import describe
from svg_runtime.serve.problems import ProblemError
from svg_runtime.serve.session import Session
from svg_runtime.serve.sessions import SessionTable
from svg_runtime.web.json_names import repeated_name

_JSON = "application/json"
_PROBLEMS_SHOWN = 5
_Body = TypeVar("_Body", bound=BaseModel)


class Api:
    """A method for each operation of `operations.OPERATIONS`, by its name.

    They take the request, and a stack of what is to be held until the answer has been sent.

    Args:
        catalogue: models that may be opened.
        sessions: those of this server.
        limits: of this server.
        measured: its counters.
    """

    def __init__(self, catalogue: Catalogue, sessions: SessionTable, limits: ServeLimits, measured: metrics.Metrics) -> None:
        self._catalogue = catalogue
        self._sessions = sessions
        self._limits = limits
        self._metrics = measured
        description = describe(catalogue.names, limits.samples)
        self._description = json.dumps(description, indent=2)
        self._page = page.render(description)

    async def list_models(self, request: Request, held: AsyncExitStack) -> Response:
        """All models."""
        return _json(self._catalogue.about)

    async def open_session(self, request: Request, held: AsyncExitStack) -> Response:
        """A new session."""
        session = await self._sessions.open(await self._json_body(request, schema.SessionRequest))
        self._metrics.opened(session.model.about.name)
        return _json(session.about, status=201, headers={"Location": f"/v1/sessions/{session.name}"})

    async def list_sessions(self, request: Request, held: AsyncExitStack) -> Response:
        """All sessions."""
        return _json(self._sessions.about)

    async def show_session(self, request: Request, held: AsyncExitStack) -> Response:
        """One session, also while it computes."""
        return _json(self._session(request).about)

    async def close_session(self, request: Request, held: AsyncExitStack) -> Response:
        """Close a session."""
        session = self._session(request)
        await self._check_no_body(request)
        await self._sessions.close(session.name, "request")
        return Response(status_code=204)

    async def observe_frame(self, request: Request, held: AsyncExitStack) -> Response:
        """The observation of the frame in the body."""
        session = self._session(request)
        media_type = _media_type(request)
        if media_type not in MEDIA_TYPES:
            raise _wrong_type(media_type, MEDIA_TYPES)
        if media_type != RAW:
            _check_no_form(request, media_type)
        dtype, shape = request.query_params.get("dtype", "float32"), request.query_params.get("shape")
        if dtype not in ("float32", "uint8"):
            raise ProblemError("invalid", f"dtype={dtype[:40]}", "float32 or uint8")
        limit = self._limits.frame_bytes
        early = await self._body(request, limit) if self._is_small(request) else None  # one that stalls holds up no other
        await held.enter_async_context(session.turn())
        body = await self._body(request, limit) if early is None else early
        return _json(await session.observe(body, media_type, "uint8" if dtype == "uint8" else "float32", shape))

    async def forecast(self, request: Request, held: AsyncExitStack) -> Response:
        """The forecast, in the form that the body or the header Accept asks for."""
        session = self._session(request)
        asked = await self._json_body(request, schema.ForecastRequest, or_nothing=True)
        await held.enter_async_context(session.turn())
        form = asked.format or _accepted_form(", ".join(request.headers.getlist("accept") or ["*/*"]))
        answer = await session.forecast(asked, form)
        return Response(answer.body, media_type=answer.media_type, headers=answer.headers)

    async def reset_session(self, request: Request, held: AsyncExitStack) -> Response:
        """Start a session anew."""
        session = self._session(request)
        await self._check_no_body(request)
        await held.enter_async_context(session.turn())
        await session.reset()
        return Response(status_code=204)

    async def health(self, request: Request, held: AsyncExitStack) -> Response:
        """That the server answers."""
        return _json(
            schema.Health(
                status="ok",
                version=svg_runtime.__version__,
                sessions=len(self._sessions),
                max_sessions=self._limits.sessions,
            )
        )

    async def show_metrics(self, request: Request, held: AsyncExitStack) -> Response:
        """For Prometheus."""
        self._metrics.sessions.set(len(self._sessions))
        return Response(self._metrics.text(), headers={"Content-Type": metrics.MEDIA_TYPE})

    async def show_description(self, request: Request, held: AsyncExitStack) -> Response:
        """The OpenAPI description."""
        return Response(self._description, media_type=_JSON)

    async def show_page(self, request: Request, held: AsyncExitStack) -> Response:
        """The same as a page."""
        return Response(self._page, media_type=operations.HTML)

    def _session(self, request: Request) -> Session:
        return self._sessions.get(request.path_params[operations.SESSION_ID])

    async def _json_body(self, request: Request, kind: type[_Body], or_nothing: bool = False) -> _Body:
        """Validate the body as `kind`.

        Raises:
            ProblemError: it is another type, compressed, too large or invalid.
        """
        body = await self._body(request, self._limits.json_bytes)
        if or_nothing and not body:
            return kind()
        media_type = _media_type(request)
        if media_type != _JSON:
            raise _wrong_type(media_type, (_JSON,))
        repeated = repeated_name(body)
        if repeated is not None:
            raise ProblemError("invalid", f"{repeated[0]}: given {repeated[1]} times", "each name once")
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise _invalid(error) from None

    def _is_small(self, request: Request) -> bool:
        """Whether many such bodies may wait in memory; one that does not say its length may not."""
        length = request.headers.get("content-length", "")
        return length.isdecimal() and int(length) <= self._limits.early_bytes

    async def _body(self, request: Request, limit: int) -> bytes:
        """Read the body.

        Raises:
            ProblemError: it is too large, compressed, or stalls. What is left of it is not read.
        """
        coding = request.headers.get("content-encoding", "identity").strip().lower()
        if coding != "identity":
            raise ProblemError(
                "wrong-type", f"Content-Encoding: {coding[:80]}", "none", advice="send the body as it is",
                headers={**_CLOSE, "Accept-Encoding": "identity"},
            )  # fmt: skip
        too_large = ProblemError("too-large", f"a body of more than {limit} bytes", f"at most {limit} bytes", headers=_CLOSE)
        length = request.headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > limit:
            raise too_large
        body = bytearray()
        async for part in self._parts(request):
            body += part
            if len(body) > limit:
                raise too_large
        return bytes(body)

    async def _check_no_body(self, request: Request) -> None:
        """Refuse values that would be ignored. An empty object has none: some libraries send one.

        Raises:
            ProblemError: there is a body, or it stalls.
        """
        refusal = ProblemError("invalid", "a body, which this request does not have", "no body", headers=_CLOSE)
        body = b""
        async for part in self._parts(request):
            body += part
            if not b"{}".startswith(body):
                raise refusal
        if body == b"{":
            raise refusal

    async def _parts(self, request: Request) -> AsyncIterator[bytes]:
        """The body as it arrives. A client that has lost its network would hold up its own session otherwise.

        Raises:
            ProblemError: nothing more has come for too long.
        """
        parts = request.stream()
        while True:
            try:
                part = await asyncio.wait_for(anext(parts), self._limits.stall_s)
            except StopAsyncIteration:
                return
            except asyncio.TimeoutError:
                raise ProblemError(
                    "too-slow", f"nothing more of the body came for {self._limits.stall_s:g} s", "the whole body",
                    advice="send the request again", headers=_CLOSE,
                ) from None  # fmt: skip
            yield part


_CLOSE = {"Connection": "close"}


def _json(answer: BaseModel, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(answer.model_dump_json(), status_code=status, media_type=_JSON, headers=headers)


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _check_no_form(request: Request, media_type: str) -> None:
    """Refuse what is said of raw numbers beside a picture, which says it itself.

    Raises:
        ProblemError: it is.
    """
    for query in operations.FORM_OF_NUMBERS:
        if query.name in request.query_params:
            raise ProblemError(
                "invalid", f"{query.name} in the query, with Content-Type: {media_type}", f"{query.name} with {RAW} alone"
            )


def _wrong_type(given: str, expected: tuple[str, ...]) -> ProblemError:
    detail = f"Content-Type: {given[:80]}" if given else "no Content-Type"
    return ProblemError("wrong-type", detail, f"one of: {', '.join(expected)}", headers=_CLOSE)


def _invalid(error: ValidationError) -> ProblemError:
    """What is wrong with a JSON body, member by member."""
    problems = error.errors()
    places = [".".join(str(part)[:40] for part in each["loc"]) or "the body" for each in problems]
    shown = [f"{place}: {problem_text(each)}" for place, each in zip(places, problems, strict=True)][:_PROBLEMS_SHOWN]
    more = f"; and {len(problems) - _PROBLEMS_SHOWN} more" if len(problems) > _PROBLEMS_SHOWN else ""
    return ProblemError("invalid", "; ".join(shown) + more, advice="see GET /openapi.json, or GET / in a browser")


def _accepted_form(accept: str) -> schema.Format:
    """The form that a header Accept prefers.

    Raises:
        ProblemError: it names none of them.
    """
    given: dict[str, tuple[float, int]] = {}  # quality, and place: of two equal ones, the first
    for place, part in enumerate(accept.lower().split(",")):
        kind, *parameters = (each.strip() for each in part.split(";"))
        quality = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        given.setdefault(kind, (_quality(quality), -place))
    ranked: list[tuple[tuple[float, int], schema.Format]] = []
    for form, media_type in answers.MEDIA_TYPES.items():
        kinds = (media_type, media_type.partition("/")[0] + "/*", "*/*")
        ranked.append((next((given[kind] for kind in kinds if kind in given), (0.0, 0)), form))  # the most exact one counts
    (best, _), form = max(ranked, key=lambda each: each[0])
    if best <= 0:
        raise ProblemError("not-acceptable", f"Accept: {accept[:80]}", f"one of: {', '.join(answers.MEDIA_TYPES.values())}")
    return form


def _quality(text: str) -> float:
    try:
        return min(max(0.0, float(text)), 1.0)  # in this order, 0 for nan, too
    except ValueError:
        return 0.0
