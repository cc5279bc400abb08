"""Forecasts whose samples are trained together, by a proper scoring rule, and that move the last frame instead of drawing it."""

from svg_train.families.base import Family
from svg_train.families.ensemble.config import EnsembleConfig

ENSEMBLE_FAMILY = Family(name="ensemble", config=EnsembleConfig, network="svg_train.families.ensemble.model:EnsembleModel")

__all__ = ["ENSEMBLE_FAMILY", "EnsembleConfig"]
