"""Options that choose sequences, the same in every command that reads a data set: the [data] table of the configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

_PANEL = "Data"
_SAME_NAME = ("num_digits", "edge_px", "frame_step", "frame_interval_s", "test_fraction", "split_by", "cache")
_PARAMETERS = {"data": "name", "data_root": "root", **{name: name for name in _SAME_NAME}}  # of a command -> of DataConfig


def _option(help: str) -> Any:
    return typer.Option(help=help, rich_help_panel=_PANEL)


DataOption = Annotated[
    Literal["digits", "smmnist", "video", "kth", "bair"] | None,
    _option("built-in digits, MNIST, video files, KTH actions, or BAIR robot pushing"),
]
DataRootOption = Annotated[str | None, _option("folder of MNIST, KTH or BAIR, or a video or folder of videos")]
NumDigitsOption = Annotated[int | None, _option("digits per scene (digits, smmnist)")]
EdgePxOption = Annotated[float | None, _option("soft edge of the drawn digits in pixels (digits)")]
FrameStepOption = Annotated[int | None, _option("use every n-th frame (video, kth)")]
FrameIntervalOption = Annotated[float | None, _option("seconds per model step, instead of --frame-step")]
TestFractionOption = Annotated[float | None, _option("share that is held out (video)")]
SplitByOption = Annotated[Literal["time", "file"] | None, _option("hold out file ends or whole files (video)")]
CacheOption = Annotated[str | None, _option("folder of the cache of decoded frames")]


def data_table(given: Mapping[str, Any]) -> dict[str, Any]:
    """The [data] settings among a command's parameters, by the names of `DataConfig`; None stands for not given."""
    return {setting: given[name] for name, setting in _PARAMETERS.items() if name in given}


def flag(setting: str) -> str:
    """The option that gives a setting of `DataConfig`: root is --data-root."""
    name = next(name for name, own in _PARAMETERS.items() if own == setting)
    return f"--{name.replace('_', '-')}"
