"""Who may ask: an ASGI middleware that checks host name, origin, token and sizes before anything else runs.

A server on this machine is reached by every web page that its user opens: by requests of the page's scripts, and by a name of
the attacker's that resolves to 127.0.0.1 (DNS rebinding). So host names and origins are checked on the loopback address, too.
"""

from __future__ import annotations

import asyncio
import base64
import html
import ipaddress
import re
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from svg_runtime.web.address import Address, ip_of
from svg_runtime.web.limits import WebLimits
from svg_runtime.web.token import Token

_SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
_SIMPLE_TYPES = (
    "",
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data",
)  # forms of other sites send these
_REST_BYTES, _REST_PAUSE_S = 256 << 20, 1.0  # of a refused request that are still read; without anything more of it
_ADDRESS = re.compile(rb"https?://(?P<host>[^/]*)(?P<path>/.*)?", re.IGNORECASE | re.DOTALL)
_COOKIE_AGE_S = 30 * 24 * 3600
CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; media-src 'self'; "
    "connect-src 'self'; manifest-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
    "cache-control": "no-store",
}


@dataclass(frozen=True)
class Access:
    """By which names a server may be asked for, and by whom.

    Attributes:
        address: where it listens.
        token: None: whoever reaches it may ask.
        names: further host names, in lower case: of a proxy, or in the DNS.
    """

    address: Address
    token: Token | None = None
    names: frozenset[str] = field(default_factory=frozenset)

    def allows_host(self, name: str) -> bool:
        """Whether `name`, in lower case without a port, is one of this server.

        An IP address is not a name that an attacker could let resolve to this machine.
        """
        if name in self.names or name in ("localhost", self.address.host):
            return True
        ip = ip_of(name)
        if ip is not None:
            return ip.is_loopback or not self.address.is_loopback
        own = socket.gethostname().lower()  # a short name, one with .local, as on a Mac, or one with its domain
        short = own.partition(".")[0]
        return not self.address.is_loopback and name in (own, short, f"{short}.local")

    @property
    def cookie_name(self) -> str:
        """Of its own for each port: browsers keep the cookies of a host together."""
        return f"svg_edge_{self.address.port}"

    def link(self, path: str = "/") -> str:
        """What to open in a browser; with the token if nobody knows it yet."""
        generated = self.token is not None and self.token.generated
        return self.address.link(path) + (f"?token={quote(self.token.value)}" if self.token and generated else "")


class AccessControl:
    """Middleware: refuses what `Access` does not allow or is too large, adds headers for browsers, reports failures.

    Args:
        app: what answers.
        access: who may ask.
        limits: of the size of a request.
        content_policy: what a page may load, as in the header Content-Security-Policy.
        basic_paths: where the token may be the password of Basic authentication, of programs that know nothing else. Browsers
            send that by themselves, for other sites' pages as well: so addresses that are only read.
        on_error: gets what `app` raises; the client gets 500.
    """

    def __init__(
        self, app: ASGIApp, access: Access, limits: WebLimits, content_policy: str = CONTENT_POLICY,
        basic_paths: re.Pattern[str] | None = None,
        on_error: Callable[[Exception], None] | None = None,
    ) -> None:  # fmt: skip
        self._app = app
        self._access = access
        self._limits = limits
        self._headers = {**_HEADERS, "content-security-policy": content_policy}
        self._basic_paths = basic_paths
        self._on_error = on_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] != "http":
            return
        scope = _with_host_of_target(scope)
        rest = _Rest(scope, receive)
        answer = _Answer(send, self._headers, rest)
        refusal = self._refusal(scope)
        if refusal is not None:
            refusal.headers["connection"] = "close"  # what is left of the request is not for the application
            await refusal(scope, receive, answer.send)
            return
        answer.headers.update(self._renewed_login(scope))
        body = _Body(rest.receive, self._limits.body_bytes)
        try:
            await self._app(scope, body.receive, answer.send)
        except ClientDisconnect:
            return  # in the middle of its request
        except Exception as error:
            if self._on_error is not None:
                self._on_error(error)
            if not answer.started:
                await _refuse(500, "something went wrong; see what the server prints")(scope, receive, answer.send)

    def _refusal(self, scope: Scope) -> Response | None:
        headers = _headers(scope)
        return (
            self._host_refusal(headers)
            or _origin_refusal(scope["method"], headers)
            or self._token_answer(scope, headers)
            or _type_refusal(scope["method"], headers)
            or self._size_refusal(scope, headers)
        )

    def _host_refusal(self, headers: Mapping[str, str]) -> Response | None:
        if self._access.allows_host(host_name(headers.get("host", ""))):
            return None
        return _refuse(403, "unknown host name; expected the address that the server printed, or a name given to it")

    def _token_answer(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        """None where the token is right, or none is needed; an answer to the link with the token; or a refusal."""
        token = self._access.token
        if token is None:
            return None
        takes_basic = self._basic_paths is not None and self._basic_paths.fullmatch(scope["path"]) is not None
        if token.matches(_token_in(headers.get("authorization", ""), takes_basic)):
            return None
        query = parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)
        given = [value for name, value in query if name == "token"]
        if given and scope["method"] in ("GET", "HEAD") and token.matches(given[-1]):
            rest = urlencode([(name, value) for name, value in query if name != "token"])
            return self._logged_in(scope["path"], f"?{rest}" if rest else "", headers, token)
        if not given and self._has_login(headers, token):
            return None
        return _login_refusal(takes_basic, headers)

    def _logged_in(self, path: str, query: str, headers: Mapping[str, str], token: Token) -> Response:
        """Set the cookie, and go on without the token in the address, which is relative: a proxy may put all below a path.

        After a redirect from a link on another site, a browser would hold back a strict cookie. It says that there was one in
        Sec-Fetch-Site, but not to the address of another machine without TLS.
        """
        answer: Response
        address = f"./{quote(path.rpartition('/')[2])}{query}"
        to_browser = "text/html" in headers.get("accept", "")
        if headers.get("sec-fetch-site", "cross-site" if to_browser else "none") == "cross-site":
            page = f'<!doctype html><title>svg-live</title><a href="{html.escape(address)}">Go on</a>'
            answer = HTMLResponse(page, headers={"refresh": f"0; url={address}"})
        else:
            answer = RedirectResponse(address, 303)
        answer.headers["set-cookie"] = self._login(token, None if path == "/" else "/")
        return answer

    def _login(self, token: Token, path: str | None) -> str:
        """The cookie, for all addresses below `path`; None: below the folder of the address, which only the browser knows."""
        answer = Response()
        answer.set_cookie(
            self._access.cookie_name, token.cookie, max_age=_COOKIE_AGE_S, httponly=True, samesite="strict", path=path
        )
        return answer.headers["set-cookie"]

    def _has_login(self, headers: Mapping[str, str], token: Token) -> bool:
        """Whether one of the cookies is right: those of several folders have the same name, and an old one may be first."""
        given = _cookies(headers.get("cookie", ""), self._access.cookie_name)
        return any(token.matches_cookie(value) for value in given)

    def _renewed_login(self, scope: Scope) -> dict[str, str]:
        """Headers that set the cookie again where it was right: it lasts from the last use on, not from the login.

        Only at addresses in the folder of `/`, which is that of the cookie.
        """
        token = self._access.token
        is_of_folder = scope["method"] == "GET" and scope["path"].count("/") == 1
        if token is None or not is_of_folder or not self._has_login(_headers(scope), token):
            return {}
        return {"set-cookie": self._login(token, None)}

    def _size_refusal(self, scope: Scope, headers: Mapping[str, str]) -> Response | None:
        if sum(len(name) + len(value) for name, value in scope["headers"]) > self._limits.header_bytes:
            return _refuse(431, f"the headers are too large; expected at most {self._limits.header_bytes} bytes")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) <= self._limits.body_bytes:
            return None
        return _refuse(413, _too_large(self._limits.body_bytes))


class _Body:
    """Counts the bytes of a request: one without a length, or with a wrong one, is refused while it arrives."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive = receive
        self._limit = limit
        self._count = 0

    async def receive(self) -> Message:
        """See ASGI."""
        message = await self._receive()
        self._count += len(message.get("body", b""))
        if self._count > self._limit:
            raise HTTPException(413, _too_large(self._limit), headers={"connection": "close"})
        return message


class _Rest:
    """What is left of a request whose answer closes the connection, after what the application has received.

    A client that reads only when it has sent all would lose an answer to which unread bytes are followed by a reset. The
    deadline of the whole request, see `protocol`, ends one that goes on and on.
    """

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        names = {name for name, _ in scope["headers"]}
        self._comes = names & {b"content-length", b"transfer-encoding"} and b"expect" not in names  # that one asks before

    async def receive(self) -> Message:
        """See ASGI."""
        message = await self._receive()
        self._comes = message["type"] == "http.request" and message.get("more_body", False)
        return message

    async def discard(self) -> None:
        """Read it and throw it away, as far as it comes soon."""
        count = 0
        while self._comes and count < _REST_BYTES:
            try:
                message = await asyncio.wait_for(self.receive(), _REST_PAUSE_S)
            except asyncio.TimeoutError:
                return
            count += len(message.get("body", b""))


class _Answer:
    """Adds headers that the answer does not set itself; one that closes the connection first lets the client finish."""

    def __init__(self, send: Send, headers: Mapping[str, str], rest: _Rest) -> None:
        self._send = send
        self.headers = dict(headers)
        self._rest = rest
        self._closes = False
        self.started = False

    async def send(self, message: Message) -> None:
        """See ASGI."""
        if message["type"] == "http.response.start":
            self.started = True
            given = list(message.get("headers", []))
            names = {name.lower() for name, _ in given}
            more = [(name.encode(), value.encode()) for name, value in self.headers.items() if name.encode() not in names]
            message = {**message, "headers": [*given, *more]}
            self._closes = (b"connection", b"close") in [(name.lower(), value.lower()) for name, value in given]
        elif self._closes and not message.get("more_body", False):
            await self._send({**message, "more_body": True})
            await self._rest.discard()
            message = {"type": "http.response.body"}
        await self._send(message)


def host_name(header: str) -> str:
    """The host of a header Host, in lower case, without port and brackets; "" for what is not a host."""
    try:
        parts = urlsplit(f"//{header}")
        valid = parts.netloc == header and not parts.path and parts.username is None and (parts.port or 0) >= 0
        name = (parts.hostname or "") if valid else ""
        return str(ipaddress.ip_address(name)) if ":" in name else name.rstrip(".")
    except ValueError:
        return ""


def _with_host_of_target(scope: Scope) -> Scope:
    """The same request with a path as its target. Of a whole address, as proxies are asked, its host replaces the header Host.

    Servers must accept that form, and ignore the header then (RFC 9112, 3.2.2); so checks and routes know one form alone.
    """
    target = _ADDRESS.fullmatch(scope.get("raw_path") or b"")  # not `path`, in which %3A%2F%2F is decoded
    if target is None:
        return scope
    path = target["path"] or b"/"
    headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
    return {
        **scope, "raw_path": path, "path": unquote(path.decode("ascii")), "headers": [*headers, (b"host", target["host"])],
    }  # fmt: skip


def _origin_refusal(method: str, headers: Mapping[str, str]) -> Response | None:
    """Refuse what a page of another site asks for: browsers say so in Origin, and in Sec-Fetch-Site. Links to here are fine."""
    origin = headers.get("origin")
    if origin is not None:
        parts = origin.split("://")
        if len(parts) != 2 or parts[0] not in ("http", "https") or parts[1].lower() != headers.get("host", "").lower():
            return _refuse(403, "asked by a page of another site; expected this server's own page, or no Origin")
    if headers.get("sec-fetch-site") in ("cross-site", "same-site"):
        opens_page = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
        if method not in _SAFE_METHODS or not opens_page:
            return _refuse(403, "asked by a page of another site; expected this server's own page")
    return None


def _token_in(authorization: str, takes_basic: bool) -> str:
    """What a header Authorization gives as the token; "": nothing. Of Basic, it is the password, whoever the user is."""
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic" or not takes_basic:
        return ""
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:
        return ""


def _login_refusal(takes_basic: bool, headers: Mapping[str, str]) -> Response:
    """Of the two schemes, it names one: FFmpeg reads no further than the first.

    A browser that is asked for Basic opens a dialog. It shall not for pictures within a page, which says itself what to do.
    """
    more = ", or give the token as the password of any user" if takes_basic else ""
    refusal = _refuse(
        401, f"token missing or wrong; open the link that was printed at the start, or send Authorization: Bearer TOKEN{more}"
    )
    is_within_page = headers.get("accept", "").startswith("image/")
    refusal.headers["www-authenticate"] = 'Basic realm="svg-edge"' if takes_basic and not is_within_page else "Bearer"
    return refusal


def _type_refusal(method: str, headers: Mapping[str, str]) -> Response | None:
    """Refuse bodies that a form of another site could send without asking."""
    kind = headers.get("content-type", "").partition(";")[0].strip().lower()
    nothing = not kind and headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers  # as no form sends
    if method != "POST" or kind not in _SIMPLE_TYPES or nothing:
        return None
    return _refuse(415, "unknown content type; expected Content-Type: application/json")


def _headers(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _cookies(header: str, name: str) -> Iterator[str]:
    for pair in header.split(";"):
        key, _, value = pair.strip().partition("=")
        if key == name:
            yield value


def _too_large(limit: int) -> str:
    return f"the body is too large; expected at most {limit} bytes"


def _refuse(status: int, message: str) -> Response:
    return PlainTextResponse(f"{message}\n", status)
