"""huggingface_hub, imported when needed, and its errors in words that say what to do."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeGuard

from svg_common.command import require_modules
from svg_common.errors import ExitCode, OutputError, SvgError, UsageError, first_line
from svg_common.printable import one_line
from svg_runtime.bundle.remote.addresses import HubAddress, is_server_address
from svg_runtime.errors import BundleError

# Read by the library at its import: it would tell the Hub which other libraries run here, and draw a bar for every file.
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
LOG_IN = "log in with: hf auth login, or set HF_TOKEN"
_TOKEN = re.compile(r"[!-~]+")  # what a header of HTTP can carry
_BUSY = (407, 408, 429)  # refusals that are not of the model: a proxy's log-in, a timeout, too many requests
_PROXIES = ("http_proxy", "https_proxy", "all_proxy")  # read in lower and in upper case
_SOCKS = ("socks5", "socks5h")
_REASON_LIMIT = 300  # characters
_OS_ERROR = re.compile(r"\(os error (\d{1,5})\)")  # how Rust ends the message of an error of the system
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*://)?")
_OF_NETWORK = (
    errno.ECONNREFUSED, errno.ECONNRESET, errno.ECONNABORTED, errno.EPIPE, errno.ENOTCONN, errno.ETIMEDOUT,
    errno.ENETDOWN, errno.ENETUNREACH, errno.ENETRESET, errno.EHOSTUNREACH, errno.EADDRNOTAVAIL,
)  # fmt: skip


class StrangeAnswerError(Exception):
    """Something answers in place of the Hub, such as the log-in page of a network."""


class TransferFailedError(Exception):
    """The library's storage protocol, Xet, gave up: no permission, no such object, damage, or a bug in it."""


class NoConnectionError(SvgError):
    """The settings of this machine make a connection impossible."""


class _SocksMissingError(NoConnectionError):
    """A proxy is set that needs a package which is not installed."""

    exit_code = ExitCode.BACKEND_MISSING


def load_hub(what: str) -> Any:
    """Import huggingface_hub.

    Raises:
        MissingExtraError: it is not installed; the message says that `what` needs it.
        UsageError: $HF_ENDPOINT is not an address.
    """
    require_modules(what, "hub", "huggingface_hub")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    _refuse_bad_endpoint()  # the library's import would fail
    import huggingface_hub

    return huggingface_hub


def endpoint() -> str:
    """The Hub's address: $HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def hub_cache() -> str:
    """The folder into which the library downloads, below $HF_HOME."""
    from huggingface_hub import constants

    return constants.HF_HUB_CACHE


def is_offline() -> bool:
    """Whether the user has switched connections to the Hub off."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, or only that it is in trouble; not whether it refused."""
    from huggingface_hub.errors import HfHubHTTPError

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code in _BUSY
    if type(error) is TimeoutError and error.filename is None:  # of Xet; with a file, of a disk in the network
        return True
    # Its HTTP client is httpx, and a fork of it in later releases; both name their errors of the network the same.
    return isinstance(error, (ConnectionError, StrangeAnswerError, NoConnectionError)) or any(
        kind.__name__ == "RequestError" and kind.__module__.startswith("httpx") for kind in type(error).__mro__
    )


def why_unreachable(error: Exception) -> str:
    """The reason for a warning, of an error that `is_unreachable`."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    if isinstance(error, NoConnectionError):
        return first_line(error)
    return f"{endpoint()} does not answer like a Hub" if isinstance(error, StrangeAnswerError) else "the Hub cannot be reached"


@contextmanager
def talking(cache: str | None = None) -> Iterator[None]:
    """Around calls of the library that talk to the Hub: it reads the answers without care, and so anything may be raised.

    Args:
        cache: the Hub's, which the calls read and write; None: an error of the disk is not about it, and is raised as it is.

    Raises:
        UsageError: the token cannot be sent.
        NoConnectionError: no connection can be made with the settings of this machine.
        StrangeAnswerError: the answer cannot be read.
        TransferFailedError: the library's storage protocol, Xet, gave up.
        ConnectionError: a connection of Xet failed.
        OutputError: `cache` cannot be written.
        Exception: everything else that `explaining` knows, as it is.
    """
    if not is_offline():
        _refuse_bad_token()
        _refuse_bad_connection()
    try:
        yield
    except Exception as error:
        cause = _with_number(_root(error))
        if cache is not None and _is_of_disk(cause):
            raise _cannot_use(cache, cause) from error
        if _is_known(cause):
            raise cause from cause.__cause__
        reason = one_line(f"{type(cause).__name__}: {' '.join(str(cause).split())}"[:_REASON_LIMIT])
        if _is_of_xet(cause):
            raise TransferFailedError(reason) from error
        raise StrangeAnswerError(reason) from error


@contextmanager
def reading(cache: str) -> Iterator[None]:
    """Around what reads the Hub's cache without the library.

    Raises:
        SvgError: it cannot be read.
    """
    try:
        yield
    except OSError as error:
        raise SvgError(
            f"cannot read '{error.filename or cache}': {error.strerror or error}\n"
            "  check its permissions; or remove it, to download it again; or set HF_HOME to another folder"
        ) from error


def _cannot_use(cache: str, error: OSError) -> OutputError:
    """The error that names the Hub's cache, or what lies in it, and the variable that chooses another one.

    Whoever copies a file names its source first. Some errors name no file: those of Xet, and of a write to a full disk.
    """
    place = error.filename2 or error.filename or cache
    return OutputError(Path(os.fsdecode(place)), error, "set HF_HOME to a writable folder with free space")


def _root(error: Exception) -> Exception:
    """What went wrong when the library looked for a file: it says only that the file is not in the cache."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    is_cover = isinstance(error, LocalEntryNotFoundError) or type(error) is ValueError
    return _root(error.__cause__) if is_cover and isinstance(error.__cause__, Exception) else error


def _with_number(error: Exception) -> Exception:
    """An error of the system in Xet, as Python raises it: Xet, in compiled code, says the number in the message alone."""
    found = _OS_ERROR.search(str(error))
    if found is None or type(error) not in (OSError, RuntimeError) or getattr(error, "errno", None) is not None:
        return error
    number = int(found[1])
    numbered = ConnectionError(str(error)) if number in _OF_NETWORK else OSError(number, os.strerror(number))
    numbered.__cause__ = error
    return numbered


def _is_of_xet(error: Exception) -> bool:
    """Whether Xet gave up: it has two errors of its own; a RuntimeError means damage, a cancelled transfer, or a bug in it."""
    if isinstance(error, RuntimeError):
        return not isinstance(error, RecursionError)  # of an answer that is nested too deep
    is_io = type(error) is OSError and str(error).startswith("I/O error: ")  # one without a number
    return is_io or type(error).__module__.partition(".")[0] == "hf_xet"


def _is_known(error: Exception) -> bool:
    """Whether an error has a meaning for `explaining`, or is not about the Hub."""
    from huggingface_hub import errors

    known = (
        SvgError,
        MemoryError,
        errors.HfHubHTTPError,
        errors.LocalEntryNotFoundError,
        errors.LocalTokenNotFoundError,
    )
    return isinstance(error, known) or _is_of_disk(error) or is_unreachable(error)


def _is_of_disk(error: Exception) -> TypeGuard[OSError]:
    """Whether the system refused to read or write a file. The library's own errors of this kind have no number."""
    return isinstance(error, OSError) and error.errno is not None and not is_unreachable(error)


def _refuse_bad_endpoint() -> None:
    given = os.environ.get("HF_ENDPOINT")
    if given is not None and not is_server_address(given):
        shown = one_line(_without_login(given)[:_REASON_LIMIT])
        raise UsageError(
            f"HF_ENDPOINT is not the address of a server: '{shown}'\n"
            "  expected such as https://hub.example.org, or unset it for https://huggingface.co"
        )


def _without_login(address: str) -> str:
    """An address as it was given, which may be none, without user and password, in which any character may be."""
    login, _, server = address.rpartition("@")
    scheme = _SCHEME.match(login)
    return f"{scheme[0] if scheme else ''}{server}"


def _refuse_bad_token() -> None:
    """The client's own error would show the token, and so would an error that is raised while that one is handled."""
    if _has_sendable_token():
        return
    from huggingface_hub import constants

    variable = next((name for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN") if os.environ.get(name)), None)
    raise UsageError(
        f"{variable or f'the file {constants.HF_TOKEN_PATH}'} is not a token of the Hub: a character in it cannot be sent\n"
        f"  expected letters, digits and underscores, such as hf_abc; make a new one at {endpoint()}/settings/tokens, "
        f"then {LOG_IN}"
    )


def _has_sendable_token() -> bool:
    from huggingface_hub import get_token

    try:
        token = get_token()
    except UnicodeError:  # a file of bytes
        return False
    except Exception:  # a service that makes tokens is away: the library's own call reports it
        return True
    return token is None or _TOKEN.fullmatch(token) is not None


def _refuse_bad_connection() -> None:
    """Let the library make its client, which reads the proxies and certificates of this machine."""
    from huggingface_hub import get_session

    try:
        get_session()
    except Exception as error:
        raise _no_connection(error) from error


def _no_connection(error: Exception) -> NoConnectionError:
    proxies = {name: value for name, value in os.environ.items() if name.lower() in _PROXIES and value}
    socks = [name for name, value in proxies.items() if value.partition("://")[0].lower() in _SOCKS]
    if isinstance(error, ImportError) and socks:
        names = " and ".join(sorted(socks))
        return _SocksMissingError(
            f"the SOCKS proxy in {names} needs the Python package 'socksio'\n"
            f"  install it with: pip install socksio, or unset {names}"
        )
    bad = [name for name, value in proxies.items() if not _is_proxy(value)]
    if bad:
        return NoConnectionError(
            f"{' and '.join(sorted(bad))} is not the address of a proxy\n  expected such as http://host:8080"
        )
    return NoConnectionError(
        f"no connection to the Hub can be made: {one_line(first_line(error)[:_REASON_LIMIT])}\n"
        "  check the variables SSL_CERT_FILE, SSL_CERT_DIR, HTTPS_PROXY, ALL_PROXY and NO_PROXY"
    )


def _is_proxy(value: str) -> bool:
    return is_server_address(value if "://" in value else f"http://{value}", ("http", "https", *_SOCKS))


@contextmanager
def explaining(address: HubAddress, push_advice: str | None = None) -> Iterator[None]:
    """Turn the library's errors into ours.

    Args:
        address: what is fetched or pushed.
        push_advice: of a push, what to do when the Hub does not answer; None: the model is fetched.

    Raises:
        BundleError: no such model, revision or file.
        SvgError: no permission, no connection, or the Hub is in trouble.
    """
    try:
        yield
    except Exception as error:
        explained = _explained(error, address, push_advice)
        if explained is None:
            raise
        raise explained from error


def _explained(error: Exception, address: HubAddress, push_advice: str | None) -> SvgError | None:
    """The same error as a message for the user; None: it is not about the Hub."""
    from huggingface_hub import errors

    page = f"{endpoint()}/{address.repo}"
    if isinstance(error, errors.GatedRepoError):
        return SvgError(f"the author of {address} gives access on request\n  open {page}, accept the terms, and {LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return BundleError(f"hf://{address.repo} has no revision '{address.revision}'\n  see {page}/commits/main")
    if isinstance(error, errors.RepositoryNotFoundError):
        return BundleError(
            f"no model '{address.repo}' at {endpoint()}, or a private one\n  check the name; for a private model {LOG_IN}"
        )
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        return BundleError(f"a file of {address} is missing: {one_line(error.response.url.path)}")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return SvgError(f"the Hub needs to know who you are\n  {LOG_IN}")
    if isinstance(error, SvgError):  # says it itself
        return None
    if isinstance(error, StrangeAnswerError):
        return SvgError(_strange(error, address, push_advice))
    if isinstance(error, TransferFailedError):
        return SvgError(_failed(error, push_advice))
    if isinstance(error, (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError)) or is_unreachable(error):
        return SvgError(_unreachable(error, address, push_advice))
    if isinstance(error, errors.HfHubHTTPError):
        return SvgError(_refused(error, address))
    return None


def _unreachable(error: Exception, address: HubAddress, push_advice: str | None) -> str:
    if is_offline() and push_advice is not None:
        return "a push needs a connection, and HF_HUB_OFFLINE is set\n  unset it, and run the command again"
    if is_offline():
        return (
            f"{address} is not in the cache, and HF_HUB_OFFLINE is set\n  unset it, and fetch the model once with a connection"
        )
    reason = one_line(first_line(error))
    if push_advice is not None:
        return f"{endpoint()} cannot be reached, or does not answer: {reason}\n  {push_advice}"
    return (
        f"{endpoint()} cannot be reached: {reason}\n"
        f"  {address} is not in the cache; check the connection, or give a *.svgb folder"
    )


def _strange(error: Exception, address: HubAddress, push_advice: str | None) -> str:
    here = "check HF_ENDPOINT and the proxy, or log in to the network"
    advice = f"{here}; {push_advice}" if push_advice is not None else f"{address} is not in the cache; {here}"
    return f"{endpoint()} does not answer like a Hub: {error}\n  {advice}"


def _failed(error: Exception, push_advice: str | None) -> str:
    if push_advice is not None:
        return f"the push failed: {error}\n  {push_advice}"
    return f"the download failed: {error}\n  run the command again, or set HF_HUB_DISABLE_XET=1 before it"


def _refused(error: Any, address: HubAddress) -> str:
    code = error.response.status_code
    if code == 401:
        return (
            f"{endpoint()} does not accept the token of this machine\n"
            f"  make a new one at {endpoint()}/settings/tokens, then {LOG_IN}"
        )
    if code == 403:
        return (
            f"the token of this machine has no permission for hf://{address.repo}\n"
            f"  give it access at {endpoint()}/settings/tokens: to read for --model, to write for --push"
        )
    reason = one_line(error.server_message or error.response.reason_phrase)
    return f"{endpoint()} answers {code} {reason} for hf://{address.repo}\n  see {endpoint()}/{address.repo}"
