"""The registry of families. A family is added by a folder beside this file and its line in both lists here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from svg_train.families.base import Family
from svg_train.families.svg import SVG_FAMILY, SvgConfig

FAMILIES: dict[str, Family] = {family.name: family for family in (SVG_FAMILY,)}
ModelConfig = Annotated[SvgConfig, Field()]
