"""Posts records to a web server."""

from __future__ import annotations

import http.client
import threading
import urllib.error
import urllib.request
from concurrent.futures import Future, wait
from typing import Any
from urllib.parse import SplitResult, urlsplit

from svg_common.errors import UsageError
from svg_common.printable import console_text
from svg_runtime.live.alarms.outlet import RefusedError
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.sources.addresses import stream_name, without_login

_TIMEOUT_S = 5.0  # of an attempt, and of a connection
_SILENCE_S = 60.0  # of a server that has the record: its answer may take several attempts
_RETRIED = (408, 425, 429)  # of the answers 4xx, those that mean "later"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are refused: urllib would follow one without the record, and to other schemes than the user gave."""

    def http_error_302(self, *arguments: Any, **named: Any) -> None:  # before urllib reads the address, which may be none
        return None

    http_error_301 = http_error_303 = http_error_307 = http_error_308 = http_error_302


class _Patient:
    """A connection that waits longer for an answer than for the server itself."""

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        self.sock.settimeout(_SILENCE_S)  # type: ignore[attr-defined]


class _PatientHttp(_Patient, http.client.HTTPConnection):
    pass


class _PatientHttps(_Patient, http.client.HTTPSConnection):
    pass


class _PatientHttpHandler(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PatientHttp, req)


class _PatientHttpsHandler(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(_PatientHttps, req)


class Webhook:
    """Sends each record as the JSON body of a POST.

    Args:
        url: http or https; user and password in it become basic authentication.

    Raises:
        UsageError: it is neither.
    """

    name = "webhook"

    def __init__(self, url: str) -> None:
        self._shown = stream_name(url)
        address, login = without_login(_split(url))
        self._url = address
        self._headers = {"Content-Type": "application/json", "User-Agent": "svg-live", **login}
        self._opener = urllib.request.build_opener(_NoRedirect, _PatientHttpHandler, _PatientHttpsHandler)
        self._attempt: tuple[AlarmRecord, Future[None]] | None = None  # in progress

    def send(self, record: AlarmRecord) -> None:
        """See `Transport`. Answers 4xx refuse the record, 5xx do so for now.

        An answer that is not complete in time is waited for again at the next attempts. The record is sent again only when the
        server has been silent for a minute.
        """
        if self._attempt is None or self._attempt[0] is not record:
            self._attempt = record, self._start(record)
        answer = self._attempt[1]
        if not wait([answer], _TIMEOUT_S).done:
            raise NotDeliveredError(f"{self._shown}: no complete answer within {_TIMEOUT_S:g} s")
        self._attempt = None
        answer.result()

    def close(self) -> None:
        """Nothing is open between records."""

    def _start(self, record: AlarmRecord) -> Future[None]:
        """Send it in a thread of its own: the time-out of a socket is for each read, of which a slow server needs many."""
        answer: Future[None] = Future()

        def run() -> None:
            try:
                self._post(record)
                answer.set_result(None)
            except BaseException as error:
                answer.set_exception(error)

        threading.Thread(target=run, name="alarm-post", daemon=True).start()
        return answer

    def _post(self, record: AlarmRecord) -> None:
        request = urllib.request.Request(self._url, record.to_json().encode("utf-8"), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            answer = f"{self._shown} answers {error.code} {console_text(str(error.reason))}"
            if error.code >= 500 or error.code in _RETRIED:
                raise NotDeliveredError(answer) from None
            hint = "; give the address that it redirects to" if 300 <= error.code < 400 else ""
            raise RefusedError(answer + hint) from None
        except (OSError, http.client.HTTPException) as error:  # no connection, time-out; its text may hold the address
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            said = console_text(str(reason).strip()) or type(error).__name__
            raise NotDeliveredError(f"{self._shown}: {said}") from None


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and url.isprintable()
        (parts.hostname or "").encode("idna")  # as sockets do: a label that is empty or too long is an error
    except ValueError:
        valid = False
    if not valid or " " in url:
        raise UsageError(f"--webhook '{stream_name(url)}' is not an address\n  expected, for example, https://host/path")
    return parts
