"""Posts records to a web server."""

from __future__ import annotations

import base64
import http.client
import string
import urllib.error
import urllib.request
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from svg_common.errors import UsageError
from svg_runtime.live.alarms.outlet import RefusedError
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.alarms.worker import NotDeliveredError
from svg_runtime.live.sources.addresses import stream_name

_TIMEOUT_S = 5.0
_RETRIED = (408, 425, 429)  # of the answers 4xx, those that mean "later"


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    """Redirects are refused: urllib would follow one without the record, and to other schemes than the user gave."""

    def redirect_request(self, *arguments: Any, **named: Any) -> None:
        return None


class Webhook:
    """Sends each record as the JSON body of a POST.

    Args:
        url: http or https; user and password in it become basic authentication.

    Raises:
        UsageError: it is neither.
    """

    name = "webhook"

    def __init__(self, url: str) -> None:
        parts = _split(url)
        self._shown = stream_name(url)
        self._headers = {"Content-Type": "application/json", "User-Agent": "svg-live"}
        if parts.username is not None:
            login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            self._headers["Authorization"] = "Basic " + base64.b64encode(login.encode("utf-8")).decode("ascii")
        self._url = parts._replace(
            netloc=parts.netloc.rpartition("@")[2],
            path=quote(parts.path, string.punctuation),  # letters beyond ASCII only: the rest is as the user encoded it
            query=quote(parts.query, string.punctuation),
        ).geturl()
        self._opener = urllib.request.build_opener(_NoRedirect)

    def send(self, record: AlarmRecord) -> None:
        """See `Transport`. Answers 4xx refuse the record, 5xx do so for now."""
        request = urllib.request.Request(self._url, record.to_json().encode("utf-8"), self._headers, method="POST")
        try:
            with self._opener.open(request, timeout=_TIMEOUT_S):
                pass
        except urllib.error.HTTPError as error:
            error.close()
            if error.code >= 500 or error.code in _RETRIED:
                raise NotDeliveredError(f"{self._shown} answers {error.code} {error.reason}") from None
            hint = "; give the address that it redirects to" if 300 <= error.code < 400 else ""
            raise RefusedError(f"{self._shown} answers {error.code} {error.reason}{hint}") from None
        except (OSError, http.client.HTTPException) as error:  # no connection, time-out; its text may hold the address
            reason = error.reason if isinstance(error, urllib.error.URLError) else error
            raise NotDeliveredError(f"{self._shown}: {reason or type(error).__name__}") from None

    def close(self) -> None:
        """Nothing is open between records."""


def _split(url: str) -> Any:
    try:
        parts = urlsplit(url)
        valid = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0 and url.isprintable()
        (parts.hostname or "").encode("idna")  # as sockets do: a label that is empty or too long is an error
    except ValueError:
        valid = False
    if not valid or " " in url:
        raise UsageError(f"--webhook '{stream_name(url)}' is not an address\n  expected, for example, https://host/path")
    return parts
