"""What a check found out."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

State = Literal["ok", "untried", "missing", "problem", "unchecked", "info"]


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    Attributes:
        name: what was looked at.
        state: ok: it works. untried: what it needs was found. missing: it is not available, which may be fine.
            problem: svg-live would suffer from it. unchecked: the check could not be started. info: a fact.
        detail: version, place or the reason.
        advice: what to do, such as the line to run; "" if there is nothing to do.
    """

    name: str
    state: State
    detail: str
    advice: str = ""

    def as_json(self) -> dict[str, Any]:
        """The finding for a file, or for the process that asked."""
        return asdict(self)
