"""SRVP: a latent state that moves by residual steps, beside a constant content (Franceschi et al. 2020)."""

from svg_train.families.base import Family
from svg_train.families.srvp.config import SrvpConfig

SRVP_FAMILY = Family(
    name="srvp",
    config=SrvpConfig,
    network="svg_train.families.srvp.model:SrvpModel",
    importers=("svg_train.families.srvp.published",),
)

__all__ = ["SRVP_FAMILY", "SrvpConfig"]
