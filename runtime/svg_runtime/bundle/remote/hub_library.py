"""huggingface_hub, imported when needed, and its errors in words that say what to do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from svg_common.command import require_modules
from svg_common.errors import SvgError
from svg_common.printable import one_line
from svg_runtime.bundle.remote.addresses import HubAddress
from svg_runtime.errors import BundleError

# Read by the library at its import: it would tell the Hub which other libraries run here, and draw a bar for every file.
_QUIET = {"HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
_LOG_IN = "log in with: hf auth login, or set HF_TOKEN"


def load_hub(what: str) -> Any:
    """Import huggingface_hub.

    Raises:
        MissingExtraError: it is not installed; the message says that `what` needs it.
    """
    require_modules(what, "hub", "huggingface_hub")
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import huggingface_hub

    return huggingface_hub


def endpoint() -> str:
    """The Hub's address: $HF_ENDPOINT, else https://huggingface.co."""
    from huggingface_hub import constants

    return constants.ENDPOINT


def is_offline() -> bool:
    """Whether the user has switched connections to the Hub off."""
    from huggingface_hub import constants

    return constants.HF_HUB_OFFLINE


def is_unreachable(error: Exception) -> bool:
    """Whether the Hub did not answer, or only that it is in trouble; not whether it refused."""
    from huggingface_hub.errors import HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, HfHubHTTPError):
        return error.response.status_code >= 500 or error.response.status_code == 429
    # Its HTTP client is httpx, and a fork of it in later releases; both name their errors of the network the same.
    return isinstance(error, OfflineModeIsEnabled) or any(
        kind.__name__ == "TransportError" and kind.__module__.startswith("httpx") for kind in type(error).__mro__
    )


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
        return SvgError(f"the author of {address} gives access on request\n  open {page}, accept the terms, and {_LOG_IN}")
    if isinstance(error, errors.RevisionNotFoundError):
        return BundleError(f"hf://{address.repo} has no revision '{address.revision}'\n  see {page}/commits/main")
    if isinstance(error, errors.RepositoryNotFoundError):
        return BundleError(
            f"no model '{address.repo}' at {endpoint()}, or a private one\n  check the name; for a private model {_LOG_IN}"
        )
    if isinstance(error, errors.EntryNotFoundError) and isinstance(error, errors.HfHubHTTPError):
        return BundleError(f"a file of {address} is missing: {one_line(error.response.url.path)}")
    if isinstance(error, errors.LocalTokenNotFoundError):
        return SvgError(f"the Hub needs to know who you are\n  {_LOG_IN}")
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
    reason = one_line(str(error).strip().splitlines()[0]) if str(error).strip() else type(error).__name__
    if push_advice is not None:
        return f"{endpoint()} cannot be reached, or does not answer: {reason}\n  {push_advice}"
    return (
        f"{endpoint()} cannot be reached: {reason}\n"
        f"  {address} is not in the cache; check the connection, or give a *.svgb folder"
    )


def _refused(error: Any, address: HubAddress) -> str:
    code = error.response.status_code
    if code == 401:
        return (
            f"{endpoint()} does not accept the token of this machine\n"
            f"  make a new one at {endpoint()}/settings/tokens, then {_LOG_IN}"
        )
    if code == 403:
        return (
            f"the token of this machine has no permission for hf://{address.repo}\n"
            f"  give it access at {endpoint()}/settings/tokens: to read for --model, to write for --push"
        )
    reason = one_line(error.server_message or error.response.reason_phrase)
    return f"{endpoint()} answers {code} {reason} for hf://{address.repo}\n  see {endpoint()}/{address.repo}"
