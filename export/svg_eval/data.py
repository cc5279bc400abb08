"""Held-out sequences for an evaluation: from the options, the protocol, or what the model was trained on."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from svg_common.errors import SvgError, UsageError
from svg_common.video.clips import find_clips
from svg_eval.models import ModelInfo
from svg_eval.protocols import Protocol
from svg_train.config import build_config
from svg_train.config_options import check_data_channels, check_data_options, flag
from svg_train.data import SequenceDataset, open_data
from svg_train.data.as_trained import settings_as_trained

_USER_SETTINGS = ("root", "cache")  # where the files are; a protocol fixes all others
# Held-out sequences stay as they are.
_TRAINING_ONLY = ("flip", "brightness", "playback", "camera_motion", "moving", "balanced")


def open_held_out(info: ModelInfo, given: Mapping[str, Any], protocol: Protocol | None, horizon: int) -> SequenceDataset:
    """Test sequences of n_past + horizon frames at the model's frame size.

    Args:
        info: of the model.
        given: the user's [data] settings; None means not given.
        protocol: fixes all of them except where the files are.
        horizon: forecast frames.

    Raises:
        UsageError: options that contradict the protocol, the data set or the model's frames; a folder without any data.
        SvgError: the data is missing or unusable.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    idle = [flag("data", key) for key in _TRAINING_ONLY if key in chosen]
    if idle:
        raise UsageError(f"no effect on held-out sequences, only in training: {', '.join(idle)}\n  remove what has none")
    if protocol is not None:
        _refuse_overrides(protocol, chosen)
        settings, trained_s = {**protocol.data, **chosen}, None
    else:
        settings, trained_s = settings_as_trained(info.data, info.frame_interval_s, chosen)
    settings = {name: value for name, value in settings.items() if name not in _TRAINING_ONLY}
    check_data_options(settings["name"], chosen)
    check_data_channels(info.label, info.channels, settings["name"])
    config = build_config({"model": _any_model(info), "train": {"n_future": info.n_future}, "data": settings})
    try:
        return open_data(config, "test", info.n_past + horizon, trained_s)
    except SvgError as error:
        if config.data.root and _is_empty(Path(config.data.root), config.data.name):
            raise UsageError(str(error)) from error  # as in svg-live and svg-forecast
        raise


def _is_empty(root: Path, name: str) -> bool:
    """Whether a folder has no file at all, or none that a set of videos may consist of."""
    if not root.is_dir():
        return False
    return not (find_clips(root) if name == "video" else any(each.is_file() for each in root.rglob("*")))


def _any_model(info: ModelInfo) -> dict[str, Any]:
    """Settings of a model with such frames, all that data depends on. Of the family whose frames may have any shape."""
    frame = {"image_size": info.height, "image_width": info.width, "channels": info.channels, "patch_size": 1}
    return {"family": "frames", **frame, "n_past": info.n_past}


def _refuse_overrides(protocol: Protocol, chosen: dict[str, Any]) -> None:
    wrong = [key for key, value in chosen.items() if key not in _USER_SETTINGS and protocol.data.get(key) != value]
    if wrong:
        names = ", ".join(flag("data", key) for key in wrong)
        raise UsageError(
            f"{names} and --protocol ({protocol.title}) were both given\n  a protocol fixes its data; remove one of the two"
        )
