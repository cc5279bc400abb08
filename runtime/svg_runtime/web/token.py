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

VARIABLE = "SVG_EDGE_TOKEN"
_LEAST_LENGTH = 16
_LARGEST_FILE = 4096
_VALID = re.compile(rf"[A-Za-z0-9._~+/=-]{{{_LEAST_LENGTH},256}}")  # what may stand in a header and in a link


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
        UsageError: the file cannot be read, or what was given is no token; `option` names the file.
    """
    if file is not None:
        return Token(_checked(_read(option, file), f"the file of {option}, '{file}',"))
    if os.environ.get(VARIABLE):
        return Token(_checked(os.environ[VARIABLE], f"the environment variable {VARIABLE}"))
    return Token(secrets.token_urlsafe(24), generated=True) if required else None


def _read(option: str, file: Path) -> str:
    try:
        with file.open("rb") as opened:
            return opened.read(_LARGEST_FILE).decode("utf-8", "replace").strip()
    except OSError as error:
        raise UsageError(
            f"cannot read the file of {option}, '{file}': {error.strerror or error}\n  expected a file with one line, the token"
        ) from error


def _checked(value: str, where: str) -> str:
    if not _VALID.fullmatch(value):
        raise UsageError(
            f"{where} holds no token\n"
            f"  expected {_LEAST_LENGTH} to 256 letters, digits and ._~+/=-; make one with: openssl rand -hex 24"
        )
    return value
