"""Numbers of JSON, as the clients of the servers write them."""

from __future__ import annotations

from typing import Any

from pydantic import BeforeValidator


def _whole(number: Any) -> Any:
    """8 for 8.0, which JSON Schema calls an integer as well: some clients have no other numbers."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


# Limits of a field come before it: after it, a JSON schema would have them under names that it does not know.
WHOLE = BeforeValidator(_whole)
