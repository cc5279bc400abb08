"""Deterministic recurrent frame models: ConvLSTM, PredRNN, PredRNN.v2, PredRNN++, MIM and E3D-LSTM, as OpenSTL has them."""

from svg_train.families.base import Family
from svg_train.families.frames.config import FramesConfig

FRAMES_FAMILY = Family(
    name="frames",
    config=FramesConfig,
    network="svg_train.families.frames.model:FramesModel",
    importers=("svg_train.families.frames.openstl",),
)

__all__ = ["FRAMES_FAMILY", "FramesConfig"]
