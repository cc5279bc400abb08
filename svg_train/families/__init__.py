"""The registry of families. A family is added by a folder beside this file and its line in both lists here."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

from svg_train.families.base import Family
from svg_train.families.ensemble import ENSEMBLE_FAMILY, EnsembleConfig
from svg_train.families.frames import FRAMES_FAMILY, FramesConfig
from svg_train.families.srvp import SRVP_FAMILY, SrvpConfig
from svg_train.families.svg import SVG_FAMILY, SvgConfig

FAMILIES: dict[str, Family] = {family.name: family for family in (SVG_FAMILY, SRVP_FAMILY, FRAMES_FAMILY, ENSEMBLE_FAMILY)}


def _with_family(given: Any) -> Any:
    """Settings that name no family are of the first one: checkpoints and recipes from before there were others."""
    return {"family": SVG_FAMILY.name, **given} if isinstance(given, dict) else given


ModelConfig = Annotated[
    SvgConfig | SrvpConfig | FramesConfig | EnsembleConfig, Field(discriminator="family"), BeforeValidator(_with_family)
]
