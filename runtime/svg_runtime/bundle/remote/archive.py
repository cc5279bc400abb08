"""Fetches bundles from web servers. The hash in the address decides what is taken, whoever serves it."""

from __future__ import annotations

import hashlib
import http.client
import logging
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO, Any, BinaryIO

from svg_common.cache import models_folder
from svg_common.errors import SvgError
from svg_common.printable import one_line
from svg_runtime.bundle.remote.addresses import ArchiveAddress, is_encrypted_or_local
from svg_runtime.bundle.remote.published import find_published, publish, scratch_folder
from svg_runtime.bundle.remote.tar_files import TarFiles
from svg_runtime.errors import BundleError

_LOG = logging.getLogger(__name__)
ARCHIVE_LIMIT = 8 << 30  # bytes: two precisions of graphs, each of which has at most 2 GiB
_TIMEOUT_S = 30.0  # without a byte
_CONNECTIONS = 20  # of a download that a lost connection or a server in trouble interrupts
_BUSY = (429, 500, 502, 503, 504)  # what a server answers that may serve the file a little later
_PAUSE_S = 1.0  # before such a server is asked again
_PIECE = 1 << 20
_PACKED = "pack it with: svg-export ckpt.svgb --pack name.svgb.tar"


class _BrokenError(Exception):
    """The connection was lost."""


class _BusyError(_BrokenError):
    """The server is in trouble."""


class _RefusedRedirectError(Exception):
    """A server redirects to an address without encryption."""


class _SafeRedirects(urllib.request.HTTPRedirectHandler):
    """Follows redirects to https, and from a server on this machine to another on it."""

    max_redirections = 5

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Any, newurl: str
    ) -> urllib.request.Request | None:
        """See urllib."""
        leaves_https = req.full_url.startswith("https:") and not newurl.startswith("https:")
        if leaves_https or not is_encrypted_or_local(newurl):
            raise _RefusedRedirectError
        return super().redirect_request(req, fp, code, msg, headers=headers, newurl=newurl)


def fetch_archive(address: ArchiveAddress) -> Path:
    """Return the folder of the bundle at `address`, downloaded at the first time. Later, no connection is made.

    Raises:
        BundleError: another hash, not a bundle, or a damaged or hostile one.
        SvgError: it cannot be downloaded, or the cache cannot be written.
        OSError: it cannot be written to its end, as on a full disk.
    """
    folder = models_folder() / "archives" / address.sha256 / f"{address.name}.svgb"
    kept = find_published(folder)
    if kept is not None:
        return kept
    with scratch_folder() as scratch, (scratch / "bundle.tar").open("w+b") as stream:
        size = _Download(address, stream).run()
        try:
            files = TarFiles(stream, size)
        except BundleError as error:
            raise BundleError(f"{address}: {error}") from error
        return publish(folder, str(address), files, made_by=_PACKED)


class _Download:
    """A download that goes on where its connection was lost, as long as every connection brings something.

    It waits for a server in trouble, also before it has begun: a device may boot while the server restarts.
    """

    def __init__(self, address: ArchiveAddress, stream: BinaryIO) -> None:
        self._address = address
        self._stream = stream
        self._digest = hashlib.sha256()
        self._position = 0
        self._opener = urllib.request.build_opener(_SafeRedirects)

    def run(self) -> int:
        """Write the whole file; returns its size.

        Raises:
            BundleError: it has another hash, or is too large.
            SvgError: the server cannot be reached, or does not serve it.
        """
        reason = ""
        for _ in range(_CONNECTIONS):
            before = self._position
            try:
                self._receive()
                break
            except _BusyError as error:
                if reason != str(error):  # once, of many equal answers
                    _LOG.info("%s: %s; asking again every %g s", self._address, error, _PAUSE_S)
                reason = str(error)
                time.sleep(_PAUSE_S)
            except _BrokenError as error:
                reason = str(error)
                if self._position <= before:
                    raise self._unreachable(reason) from None
                _LOG.info("%s: %s after %.1f MB; going on", self._address, reason, self._position / 1e6)
        else:
            raise self._unreachable(f"{reason}, again and again")
        found = self._digest.hexdigest()
        if found != self._address.sha256:
            raise BundleError(
                f"the file at {self._address} has another hash than its address\n"
                f"  SHA-256 of the file: {found}\n  in the address:      {self._address.sha256}\n"
                "  it was replaced or damaged, and is not kept; ask for the right address where you found this one"
            )
        self._stream.flush()
        return self._position

    def _receive(self) -> None:
        """Receive from the current position to the end.

        Raises:
            _BrokenError: there is more to come.
        """
        with self._open() as response:
            if self._position and response.status != 206:  # the server cannot go on: from the beginning
                self._stream.seek(0)
                self._stream.truncate()
                self._digest = hashlib.sha256()
                self._position = 0
            end = None if response.length is None else self._position + response.length
            self._refuse_too_large(end or 0)
            if self._position == 0:
                _LOG.info("downloading %s%s", self._address, "" if end is None else f" ({end / 1e6:.1f} MB)")
            while piece := _read(response):
                self._refuse_too_large(self._position + len(piece))
                self._stream.write(piece)
                self._digest.update(piece)
                self._position += len(piece)
        if end is not None and self._position < end:
            raise _BrokenError("the connection was lost")

    def _open(self) -> http.client.HTTPResponse:
        headers = {"User-Agent": "svg-edge", "Accept-Encoding": "identity"}
        if self._position:
            headers["Range"] = f"bytes={self._position}-"
        try:
            response: http.client.HTTPResponse = self._opener.open(
                urllib.request.Request(self._address.url, headers=headers), timeout=_TIMEOUT_S
            )
            return response
        except _RefusedRedirectError:
            raise SvgError(
                f"{self._address} redirects to an address without encryption\n  expected one that stays with https://"
            ) from None
        except urllib.error.HTTPError as error:
            error.close()
            answer = f"the server answers {error.code} {one_line(str(error.reason))}"
            if error.code in _BUSY:
                raise _BusyError(answer) from None
            raise SvgError(
                f"no bundle at {self._address}: {answer}\n  check the address, or ask for a new one where you found it"
            ) from None
        except urllib.error.URLError as error:
            if isinstance(error.reason, ssl.SSLCertVerificationError):
                raise self._unreachable(f"its certificate is not valid ({error.reason.verify_message})") from None
            raise _BrokenError(one_line(str(error.reason))) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise _broken(error) from None

    def _refuse_too_large(self, size: int) -> None:
        if size > ARCHIVE_LIMIT:
            raise BundleError(f"the file at {self._address} is too large for a bundle (over {ARCHIVE_LIMIT >> 30} GiB)")

    def _unreachable(self, reason: str) -> SvgError:
        return SvgError(
            f"cannot download {self._address}: {reason}\n"
            "  this bundle is not in the cache yet; check the connection, try again later, or give a *.svgb folder"
        )


def _read(response: http.client.HTTPResponse) -> bytes:
    try:
        return response.read(_PIECE)
    except (OSError, http.client.HTTPException) as error:
        raise _broken(error) from None


def _broken(error: Exception) -> _BrokenError:
    return _BrokenError(one_line(str(error).strip()) or type(error).__name__)
