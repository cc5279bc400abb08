"""Refusals as application/problem+json (RFC 9457): what was given, what was expected, what to do next."""

from __future__ import annotations

from dataclasses import dataclass

from starlette.responses import Response

from svg_common.printable import printable
from svg_runtime.errors import (
    BundleError,
    ContextNotReadyError,
    ForecastError,
    FrameError,
    StreamContextError,
    SvgError,
    UsageError,
)
from svg_runtime.serve import schema

PROBLEM_JSON = "application/problem+json"
_WINDOW = '"context": "window" in POST /v1/sessions'


@dataclass(frozen=True)
class Kind:
    """One kind of problem, which clients can tell by the end of its type.

    Attributes:
        retry_s: what Retry-After says; None: trying again does not help.
    """

    name: str
    status: int
    title: str
    meaning: str
    retry_s: int | None = None


KINDS = {
    kind.name: kind
    for kind in (
        Kind("no-token", 401, "No token", "The token is missing or wrong: send Authorization: Bearer TOKEN."),
        Kind("not-allowed", 403, "Not allowed", "Asked for by another host name, or by a page of another site."),
        Kind("no-such-page", 404, "No such page", "The address leads nowhere; all that do are on this page."),
        Kind("no-such-session", 404, "No such session", "It was closed, by DELETE or because it was idle, or never existed."),
        Kind("wrong-method", 405, "Wrong method", "The address exists, but not with this method; Allow names those that do."),
        Kind("not-acceptable", 406, "Not acceptable", "Accept does not name a form in which a forecast can be sent."),
        Kind("too-slow", 408, "Too slow", "Nothing more of the body came for some seconds: send the request again."),
        Kind("not-ready", 409, "Not ready", "A forecast needs n_past frames; the member missing says how many more."),
        Kind("too-large", 413, "Too large", "A body, a picture, a forecast or a count is above a limit of this server."),
        Kind("wrong-type", 415, "Wrong type", "Content-Type is not one that this address reads, or the body is compressed."),
        Kind("invalid", 422, "Invalid", "The request was understood, but a value in it is wrong."),
        Kind("busy", 429, "Busy", "Too many requests of the session wait, or one did too long: wait for answers.", retry_s=1),
        Kind("long-headers", 431, "Headers too long", "The headers of the request are above a limit of this server."),
        Kind("internal", 500, "Internal error", "A defect of this program; its log tells more."),
        Kind("no-room", 503, "No room", "As many sessions are open as this server allows; close one.", retry_s=10),
        Kind("model-changed", 503, "Model changed", "A model is not what it was when the server started: restart it."),
        Kind("shutting-down", 503, "Shutting down", "The server ended before the request; its sessions are gone.", retry_s=5),
        Kind("engine-failed", 503, "Engine failed", "Memory ran out, a device failed, or the result is not finite.", retry_s=5),
    )
}  # fmt: skip


class ProblemError(Exception):
    """A request is refused.

    Args:
        kind: a name in `KINDS`.
        detail: what was given, or has happened.
        expected: what would have been right.
        advice: what to do next.
        missing: see `schema.Problem`.
        headers: further ones of the answer.
    """

    def __init__(
        self,
        kind: str,
        detail: str,
        expected: str | None = None,
        advice: str | None = None,
        missing: int | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.kind = KINDS[kind]
        self.body = schema.Problem(
            type=f"/#{kind}",
            title=self.kind.title,
            status=self.kind.status,
            detail=printable(detail),
            expected=None if expected is None else printable(expected),
            advice=None if advice is None else printable(advice),
            missing=missing,
        )
        self.headers = headers or {}

    @property
    def response(self) -> Response:
        """The answer to send."""
        retry = {} if self.kind.retry_s is None else {"Retry-After": str(self.kind.retry_s)}
        return Response(
            self.body.model_dump_json(exclude_none=True),
            status_code=self.kind.status,
            media_type=PROBLEM_JSON,
            headers={**self.headers, **retry},
        )


def problem_of(error: SvgError) -> ProblemError:
    """The problem that an error of the runtime is for a client. Its first line says what was given, the next what to do.

    Where that next line is in words of Python or of the command line, it is replaced by those of this interface.
    """
    detail, _, rest = str(error).partition("\n")
    expected = " ".join(rest.split()).removeprefix("expected ") or None
    if isinstance(error, ContextNotReadyError):
        return ProblemError("not-ready", detail, advice="send more frames first")
    if isinstance(error, StreamContextError):
        as_opened = "" if error.samples is None else f'"samples": {error.samples}, or a session with '
        return ProblemError("invalid", detail, f"{as_opened}{_WINDOW}")
    if isinstance(error, BundleError):
        return ProblemError("model-changed", detail, expected, advice="restart svg-serve")
    if isinstance(error, (FrameError, UsageError)):
        return ProblemError("invalid", detail, expected)
    anew = "reset the session, or open another one"
    if isinstance(error, ForecastError):  # what it expects is this advice, in words of Python
        return ProblemError("engine-failed", detail, advice=anew)
    return ProblemError("engine-failed", detail, expected, advice=f"send the request again; if it fails again, {anew}")
