"""Held-out sequences for an evaluation: from the options, the protocol, or what the model was trained on."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from svg_common.errors import SvgError, UsageError
from svg_common.printable import one_line
from svg_common.video.clips import find_clips
from svg_eval.models import ModelInfo
from svg_eval.protocols import Protocol
from svg_train.config import build_config
from svg_train.config_options import check_data_channels, check_data_options, flag
from svg_train.data import SequenceDataset, open_data
from svg_train.data.as_trained import settings_as_trained
from svg_train.data.statistics import files_fingerprint
from svg_train.data.trained_clips import clips_in_words, held_out_in_vain

_LOG = logging.getLogger(__name__)
_USER_SETTINGS = ("root", "cache")  # where the files are; a protocol fixes all others
# Held-out sequences stay as they are.
_TRAINING_ONLY = ("flip", "brightness", "playback", "camera_motion", "moving", "balanced")


def open_held_out(info: ModelInfo, given: Mapping[str, Any], protocol: Protocol | None, horizon: int) -> SequenceDataset:
    """Test sequences of n_past + horizon frames at the model's frame size. `check_unseen` says if it was trained on them.

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


def check_unseen(models: Sequence[ModelInfo], data: SequenceDataset, refuse: bool = False, split_options: bool = False) -> None:
    """Warn of models that were trained on frames of `data`: which clips are held out depends on all that are in their folder.

    Args:
        models: that are evaluated.
        data: on which.
        refuse: raise instead, where the result would be a decision, for clips that the first model alone was trained on: of
            others it was told before.
        split_options: whether the command has --split-by and --test-fraction.

    Raises:
        UsageError: see `refuse`.
        OSError: a clip cannot be read.
    """
    files = files_fingerprint(data) if any(info.trained_clips for info in models) else None
    seen = [held_out_in_vain(data, files, info.trained_clips) for info in models]
    if refuse and not set(seen[0]) <= set().union(*seen[1:]):
        raise UsageError(
            f"{_trained_on(models[0], seen[0], data)}\n  clips were added or removed since its training began: "
            "give a folder with those of the training alone, as --data-root, with --resume"
        )
    divided = "; and --split-by and --test-fraction as in its training" if split_options else ""
    for info, clips in zip(models, seen, strict=True):
        if clips:
            _LOG.warning(
                "%s\n  clips were added or removed since its training, or are divided otherwise: give a folder with those "
                "of the training alone, or with others alone, as --data-root%s",
                _trained_on(info, clips, data),
                divided,
            )


def _trained_on(info: ModelInfo, seen: Sequence[Path], data: SequenceDataset) -> str:
    label = one_line(info.label) or "the model"
    return f"{label} was trained on frames of {clips_in_words(seen, data)}: its results would be too good"


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
