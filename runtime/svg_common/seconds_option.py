"""An option that takes a time in seconds, with or without a unit."""

from __future__ import annotations

from typing import Any

import typer

from svg_common.quantities import parse_seconds


def _parsed(text: str | float) -> float:
    """Of the command line, or a default, which typer gives as it is."""
    try:
        return parse_seconds(str(text))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


SECONDS: dict[str, Any] = {"min": 0.0, "metavar": "SECONDS", "parser": _parsed}  # arguments of typer.Option
