"""SVG with its three priors (Denton and Fergus 2018)."""

from svg_train.families.base import Family
from svg_train.families.svg.config import SvgConfig

SVG_FAMILY = Family(name="svg", config=SvgConfig, network="svg_train.families.svg.model:SVG")

__all__ = ["SVG_FAMILY", "SvgConfig"]
