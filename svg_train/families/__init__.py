"""The registry of families. A family is added by a folder beside this file and its line in both lists here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from svg_train.families.base import Family
from svg_train.families.srvp import SRVP_FAMILY, SrvpConfig
from svg_train.families.svg import SVG_FAMILY, SvgConfig

FAMILIES: dict[str, Family] = {family.name: family for family in (SVG_FAMILY, SRVP_FAMILY)}


def _family_of(given: Any) -> Any:
    """The name in settings that say none is svg: older checkpoints and recipes."""
    return given.get("family", "svg") if isinstance(given, dict) else getattr(given, "family", "svg")


ModelConfig = Annotated[
    Annotated[SvgConfig, Tag("svg")] | Annotated[SrvpConfig, Tag("srvp")],
    Discriminator(
        _family_of,
        custom_error_type="unknown_family",
        custom_error_message=f"unknown family; expected one of {', '.join(FAMILIES)}",
    ),
]
