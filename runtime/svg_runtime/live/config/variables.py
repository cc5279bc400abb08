"""Environment variables in the texts of a file, `${NAME}`: a password need not stand in it. `$${NAME}` is the text itself."""

from __future__ import annotations

import os
import re

_VARIABLE = re.compile(r"\$(\$?)\{([A-Za-z_][A-Za-z0-9_]*)\}")
# user:password@, or what a query calls so, such as ?user=me&password=x or ?access_token=x
_PASSWORD = re.compile(
    r"://(?:[^/@:]*:[^/?#@]+@|[^?]*\?(?:[^#]*&)?(?:[^=&#]*[_.-])?(?:pass(?:word|wd)?|pwd|token)=[^&#])", re.IGNORECASE
)


class MissingVariableError(ValueError):
    """An environment variable is not set."""

    def __init__(self, name: str) -> None:
        super().__init__(
            f"the environment variable {name} is not set; set it with: export {name}=VALUE, "
            f"or write $${{{name}}} for the text ${{{name}}}"
        )


def expand(text: str) -> str:
    """Replace every `${NAME}`.

    Raises:
        MissingVariableError: one is not set.
    """

    def value(match: re.Match[str]) -> str:
        name = match[2]
        if match[1]:
            return f"${{{name}}}"
        if name not in os.environ:
            raise MissingVariableError(name)
        return os.environ[name]

    return _VARIABLE.sub(value, text)


def has_password(address: str) -> bool:
    """Whether the password of an address, before its host or in its query, stands in it and not in a variable."""
    return _PASSWORD.search(_VARIABLE.sub("", address)) is not None


def escape(text: str) -> str:
    """Return what `expand` turns into `text`."""
    return _VARIABLE.sub(lambda match: f"${match[0]}", text)
