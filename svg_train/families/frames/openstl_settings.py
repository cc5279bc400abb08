"""Settings of a model of OpenSTL, from its model_param.json or a Lightning checkpoint, checked against its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from svg_train.families.frames.config import CELLS_WITH_DIALECTS, Cell, Dialect
from svg_train.families.frames.openstl_weights import Sizes
from svg_train.reference.options import Findings, shown, whole_number

_FORECASTS = {"kth": 20, "kth20": 20, "kth40": 40}  # frames that models of these data sets forecast, whatever is stated
_WHOLE = ("filter_size", "layer_norm", "stride", "patch_size", "pre_seq_length", "aft_seq_length")
_FRAME = ("observed frames", "channels", "height", "width")
METHODS: dict[str, Cell] = {
    "convlstm": "convlstm", "predrnn": "predrnn", "predrnnv2": "predrnn-v2", "predrnnpp": "predrnnpp", "mim": "mim",
    "e3dlstm": "e3d-lstm",
}  # fmt: skip
SETTING_NAMES = {
    "channels": "in_shape", "image_size": "in_shape", "image_width": "in_shape", "height": "in_shape", "width": "in_shape",
    "n_past": "in_shape", "patch_size": "patch_size", "hidden": "num_hidden", "filter_size": "filter_size", "stride": "stride",
    "history": "aft_seq_length", "layer_norm": "layer_norm",
}  # of our fields, and of what our messages say of them  # fmt: skip
# Arguments that only one version of the training program has, and writes among the settings.
_PROGRAMS: dict[Dialect, frozenset[str]] = {
    "openstl-0.3": frozenset({"display_step", "use_gpu", "resume_from", "auto_resume", "launcher", "early_stop_epoch"}),
    "openstl-1.0": frozenset({"gpus", "metric_for_bestckpt", "ckpt_path"}),
}  # fmt: skip
VERSION_ARGUMENTS = frozenset().union(*_PROGRAMS.values())


def merged_settings(own: Mapping[str, Any], beside: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a checkpoint, and those of the file beside it, which win. Numbers may be written as text."""
    given = {**own, **{name: value for name, value in beside.items() if value is not None}}
    return {**given, **{name: whole_number(given[name]) for name in _WHOLE if name in given}}


def stated_method(given: Mapping[str, Any]) -> str:
    """The name of the method in the settings, in small letters and however papers write it; empty if there is none."""
    method = given.get("method")
    text = method.lower() if isinstance(method, str) else ""
    bare = re.sub(r"[^a-z0-9]", "", text.replace("+", "p"))  # PredRNN++, E3D-LSTM
    return bare if bare in METHODS else text


def stated_hidden(given: Mapping[str, Any]) -> list[int]:
    """The channels of each layer, according to the settings; empty if they do not say."""
    hidden = given.get("num_hidden")
    return [] if hidden is None else _numbers(hidden) or []


def find_dialect(cell: Cell, given: Mapping[str, Any], container: Dialect | None, findings: Findings) -> Dialect:
    """Which version's equations the weights were trained with: as the user says, or as file and settings were written."""
    stated = given.get("dialect")
    named = next((dialect for dialect in _PROGRAMS if dialect == stated), None)
    if stated is not None and named is None:
        findings.add(f"dialect is {shown(stated)}, expected one of {', '.join(_PROGRAMS)}")
    if cell not in CELLS_WITH_DIALECTS:
        return "openstl-1.0"  # they compute the same
    if named is not None:
        return named
    writers = [each for each, arguments in _PROGRAMS.items() if each == container or arguments & given.keys()]
    if len(writers) != 1 and stated is None:
        findings.add(
            f"dialect is missing, and cannot be inferred from the weights: two versions of {cell} have the same ones. "
            'Add "dialect": "openstl-0.3" (the published weights, and all trained before OpenSTL 1.0) '
            'or "dialect": "openstl-1.0" (trained later)'
        )
    return writers[0] if writers else "openstl-1.0"


def model_table(sizes: Sizes, given: Mapping[str, Any], dialect: Dialect, findings: Findings) -> dict[str, Any]:
    """Fields of our FramesConfig. The shapes decide; a setting that contradicts them is a finding, as is one that is missing.

    Where the frame is not known, it has a size that the weights would fit, so that these can be compared all the same.
    """
    _compare(sizes, given, findings)
    observed, channels, height, width = _frame(sizes, given, findings)
    patch = math.isqrt(max(sizes.patch_channels // channels, 1))
    table: dict[str, Any] = {
        "family": "frames", "cell": sizes.cell, "dialect": dialect, "channels": channels, "image_size": height,
        "n_past": observed, "patch_size": patch, "hidden": sizes.hidden, "filter_size": sizes.filter_size,
        "layer_norm": sizes.layer_norm,
    }  # fmt: skip
    if width != height:
        table["image_width"] = width
    if sizes.cell == "e3d-lstm":
        table |= _e3d_settings(observed, given, findings)
    elif given.get("stride") not in (None, 1):
        findings.add(f"stride is {shown(given['stride'])}, but {sizes.cell} only works with 1")
    return table


def _compare(sizes: Sizes, given: Mapping[str, Any], findings: Findings) -> None:
    """Settings that the weights show too."""
    method = given.get("method")
    if method is not None and METHODS.get(stated_method(given)) != sizes.cell:
        findings.add(f"method is {shown(method)}, but the weights are those of {sizes.cell}")
    hidden = given.get("num_hidden")
    implied = sizes.hidden[: sizes.layers]
    if hidden is not None and _numbers(hidden) != list(implied):
        findings.add(f"num_hidden is {shown(hidden)}, but the weights imply {','.join(map(str, implied))}")
    size = given.get("filter_size")
    if sizes.cell != "e3d-lstm" and size not in (None, sizes.filter_size):  # E3D-LSTM ignores it
        findings.add(f"filter_size is {shown(size)}, but the weights imply {sizes.filter_size}")
    norm = given.get("layer_norm")
    if norm not in (None, int(sizes.layer_norm)):
        findings.add(f"layer_norm is {shown(norm)}, but the weights imply {int(sizes.layer_norm)}")


def _frame(sizes: Sizes, given: Mapping[str, Any], findings: Findings) -> tuple[int, int, int, int]:
    """Observed frames, channels, height and width."""
    stated, patch = given.get("in_shape"), given.get("patch_size")
    shape = _numbers(stated) if isinstance(stated, (list, tuple)) else None
    if shape is None or len(shape) != 4 or min(shape) < 1:
        problem = (
            "missing, and cannot be inferred from the weights"
            if stated is None
            else f"{shown(stated)}, not four numbers from 1 to {_MAX_NUMBER}"
        )
        findings.add(f'in_shape is {problem}. Add "in_shape": [{", ".join(_FRAME)}], such as [10, 1, 64, 64]')
        return _assumed_frame(sizes)
    observed, channels, height, width = shape
    length = given.get("pre_seq_length")
    if length not in (None, observed):
        findings.add(f"pre_seq_length is {shown(length)}, but in_shape has {observed} observed frames; correct the wrong one")
    inferred = math.isqrt(sizes.patch_channels // channels)
    if inferred**2 * channels != sizes.patch_channels or inferred < 1:
        findings.add(f"in_shape has {channels} channel(s), but the weights imply {sizes.patch_channels} in a patch")
        return _assumed_frame(sizes)
    if patch not in (None, inferred):
        findings.add(f"patch_size is {shown(patch)}, but {channels} channel(s) and the weights imply {inferred}")
    if sizes.plane is not None and (height, width) != (sizes.plane[0] * inferred, sizes.plane[1] * inferred):
        findings.add(
            f"in_shape has {height} x {width} pixels, but the weights imply "
            f"{sizes.plane[0] * inferred} x {sizes.plane[1] * inferred}"
        )
        return _assumed_frame(sizes)
    return observed, channels, height, width


def _assumed_frame(sizes: Sizes) -> tuple[int, int, int, int]:
    """A frame that the weights would fit."""
    channels = next((c for c in (1, 3) if math.isqrt(sizes.patch_channels // c) ** 2 * c == sizes.patch_channels), 1)
    patch = max(math.isqrt(sizes.patch_channels // channels), 1)
    height, width = sizes.plane or (8, 8)
    return 10, channels, height * patch, width * patch


def _e3d_settings(observed: int, given: Mapping[str, Any], findings: Findings) -> dict[str, Any]:
    """The stride, and a history as long as the sequences of the training."""
    stride, future = given.get("stride"), given.get("aft_seq_length")
    for name, value, what in (
        ("stride", stride, "of its convolutions"),
        ("aft_seq_length", future, "frames that it predicts: its attention looks back at all before"),
    ):
        if type(value) is not int or not 1 <= value <= _MAX_NUMBER:
            limits = f"not a whole number from 1 to {_MAX_NUMBER}"
            problem = "missing, and cannot be inferred from the weights" if value is None else f"{shown(value)}, {limits}"
            findings.add(f'{name} is {problem}. Add "{name}": NUMBER ({what})')
    if findings.problems:
        return {}
    assert isinstance(future, int)
    # The settings of 0.3 state the lengths of its default data set, whichever the model was trained on. A history that is
    # longer than needed changes nothing.
    future = max(future, _FORECASTS.get(str(given.get("dataname")), 0))
    return {"stride": stride, "history": max(observed + future - 1, 2)}


_MAX_NUMBER = 1 << 16


def _numbers(value: Any) -> list[int] | None:
    """Whole numbers from a list, or from text such as "64,64"; None if there are others."""
    parts = value.split(",") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    numbers = [whole_number(part) for part in parts[:100]]
    return numbers if all(type(number) is int and abs(number) <= _MAX_NUMBER for number in numbers) else None
