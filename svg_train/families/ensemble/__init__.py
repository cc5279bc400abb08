"""Forecasts whose samples are trained together, by a proper scoring rule; they move the last frame, and draw what is new."""

from svg_train.families.base import Family
from svg_train.families.ensemble.config import EnsembleConfig

ENSEMBLE_FAMILY = Family(name="ensemble", config=EnsembleConfig, network="svg_train.families.ensemble.model:EnsembleModel")

__all__ = ["ENSEMBLE_FAMILY", "EnsembleConfig"]
