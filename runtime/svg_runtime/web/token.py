"""The token that opens a server to others: given in the environment or a file, else generated."""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass, field
from pathlib import Path

from svg_common.errors import UsageError
from svg_common.text_files import EncodingError, decode_text

VARIABLE = "SVG_EDGE_TOKEN"
_LEAST_LENGTH = 16
_GREATEST_LENGTH = 256
_LARGEST_FILE = 4096
_INVALID = re.compile(r"[^A-Za-z0-9._~+/=-]")  # what may not stand in a header and in a link
_EXPECTED = f"expected {_LEAST_LENGTH} to {_GREATEST_LENGTH} letters, digits and ._~+/=-; make one with: openssl rand -hex 24"


@dataclass(frozen=True)
class Token:
    """A secret, which no message shows.

    Attributes:
        value: the secret.
        generated: nobody knows it yet.
    """

    value: str = field(repr=False)
    generated: bool = False

    def matches(self, given: str) -> bool:
        """Whether `given` is the token, in a time that does not depend on it."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.value.encode())

    @property
    def cookie(self) -> str:
        """What a browser keeps. Browsers send cookies to every port of a host: other programs there must not see the token."""
        return hmac.new(self.value.encode(), b"svg-edge cookie", hashlib.sha256).hexdigest()

    def matches_cookie(self, given: str) -> bool:
        """As `matches`, for the value of the cookie."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.cookie.encode())


def find_token(option: str, file: Path | None, required: bool) -> Token | None:
    """Return the token in `file`, else that of the environment, else a new one if one is required.

    Raises:
        UsageError: the file cannot be read, or what was given is not a token; `option` names the file.
    """
    if file is not None:
        where = f"the file of {option}, '{file}',"
        content = _read(option, file)
        if len(content) > _LARGEST_FILE:
            raise _no_token(where, f"it is larger than {_LARGEST_FILE} bytes")
        try:
            return Token(_checked(decode_text(content, "replace").strip(), where))
        except EncodingError as error:
            raise _no_token(where, str(error)) from error
    if os.environ.get(VARIABLE):
        return Token(_checked(os.environ[VARIABLE].removeprefix("\ufeff"), f"the environment variable {VARIABLE}"))
    return Token(secrets.token_urlsafe(24), generated=True) if required else None


def _read(option: str, file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST_FILE + 1)
    except OSError as error:
        raise UsageError(
            f"cannot read the file of {option}, '{file}': {error.strerror or error}\n  expected a file with one line, the token"
        ) from error


def _checked(value: str, where: str) -> str:
    fault = _fault(value)
    if fault is not None:
        raise _no_token(where, fault)
    return value


def _no_token(where: str, fault: str) -> UsageError:
    return UsageError(f"{where} holds no token: {fault}\n  {_EXPECTED}")


def _fault(value: str) -> str | None:
    """What is wrong with a token, without a character of it."""
    if not value:
        return "it is empty"
    lines = len(value.splitlines())
    if lines > 1:
        return f"it has {lines} lines, and not one"
    invalid = _INVALID.search(value)
    if invalid is not None:
        kind = "a space" if invalid.group().isspace() else "a character that cannot be used"
        return f"{kind} is at place {invalid.start() + 1}"
    if len(value) < _LEAST_LENGTH:
        return f"it is too short, {len(value)} characters"
    if len(value) > _GREATEST_LENGTH:
        return f"it is too long, more than {_GREATEST_LENGTH} characters"
    return None
