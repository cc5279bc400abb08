"""Settings of the original program's checkpoints: sizes from the shapes of the weights, the rest from its `config.json`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from svg_train.families.base import MAX_LAYERS
from svg_train.families.srvp.config import SrvpConfig
from svg_train.reference.modules import Tensors
from svg_train.reference.options import Findings, shown, training_tables, valid_alone, whole_number

IMAGE_SIZE = 64  # of both backbones

# Ours -> the original's.
_SIZES = {
    "backbone": "archi", "skips": "skipco", "channels": "nc", "image_size": "nx", "nf": "nf", "nhx": "nhx", "ny": "ny",
    "nz": "nz", "nt_inf": "nt_inf", "inference_size": "nh_inf", "inference_layers": "nlayers_inf", "residual_size": "nh_res",
    "residual_layers": "nlayers_res",
}  # fmt: skip
_NEEDED = {"n_past": "nt_cond", "n_euler_steps": "n_euler_steps"}  # what the weights cannot tell
SETTING_NAMES = {**_SIZES, **_NEEDED}
_TRAINING = ("obs_scale", "beta_y", "l2_res", "res_gain")  # fields of SrvpConfig that a forecast does not depend on
_TRUTH = {"true": True, "false": False, "none": False}  # as the original's older configurations have skipco
_LAYERS = ("inference_layers", "residual_layers")
_SHAPES = ("channels", "nf", "nhx", "ny", "nz", "nt_inf", "inference_size", "residual_size")
_SAME_NAME = ("batch_size", "lr", "seed", "dataset")


def model_sizes(tensors: Tensors, settings: Mapping[str, Any], file: str, findings: Findings) -> dict[str, Any]:
    """Fields of SrvpConfig that the shapes depend on. The weights decide; what contradicts them in `file` is a finding."""
    sizes = {name: value for name, value in _from_shapes(tensors).items() if value is not None}
    for ours, theirs in _SIZES.items():
        stated = settings.get(theirs)
        if stated is None:
            continue
        if ours not in sizes:
            sizes[ours] = stated
            continue
        same = _as_ours(stated, sizes[ours])
        if isinstance(same, bool) != isinstance(sizes[ours], bool) or same != sizes[ours]:
            findings.add(f"{theirs} is {shown(stated)} in {file}, but the weights imply {shown(sizes[ours])}")
            if ours in _LAYERS and type(same) is int and sizes[ours] < same <= MAX_LAYERS:
                sizes[ours] = same  # so that the others are named as missing
    return sizes


def is_sized(sizes: Mapping[str, Any]) -> bool:
    """Whether all sizes are known. Those that are not would be shown by weights that are missing."""
    return sizes.keys() >= set(_SHAPES)


def says_how(settings: Mapping[str, Any]) -> bool:
    """Whether they say how to forecast, and not only how the training went."""
    return not settings.keys().isdisjoint(_NEEDED.values())


def generation_settings(settings: Mapping[str, Any], file: str, findings: Findings) -> dict[str, Any]:
    """Fields of SrvpConfig that no weight depends on. What a forecast needs and `settings` lack is a finding.

    Weights of the loss, and the gain of initial weights, are taken if they are valid, for training that goes on.
    """
    table = valid_alone(SrvpConfig, {name: settings[name] for name in _TRAINING if settings.get(name) is not None})
    for ours, theirs in _NEEDED.items():
        stated = whole_number(settings.get(theirs))
        if stated is None:
            findings.add(f"{theirs} is missing in {file}, and cannot be inferred from the weights")
        elif type(stated) is not int:
            findings.add(f"{theirs} is {shown(stated)} in {file}, expected a whole number")
        else:
            table[ours] = stated
    return table


def other_tables(settings: Mapping[str, Any], channels: int) -> dict[str, dict[str, Any]]:
    """The settings of training and data that our configuration has too.

    Our weight of the KL term counts it against the mean squared error of a pixel: see `SrvpModel.forward`.
    """
    options = {name: settings[name] for name in _SAME_NAME if settings.get(name) is not None}
    options["num_digits"] = settings.get("ndigits")
    numbers = {name: value for name, value in settings.items() if type(value) in (int, float)}
    if {"beta_z", "obs_scale"} <= numbers.keys():
        options["beta"] = 2 * numbers["obs_scale"] * numbers["obs_scale"] * numbers["beta_z"] / (channels * IMAGE_SIZE**2)
    if {"seq_len", "nt_cond"} <= numbers.keys() and numbers["seq_len"] > numbers["nt_cond"]:
        options["n_future"] = numbers["seq_len"] - numbers["nt_cond"]
    return training_tables(options, channels)


def _as_ours(stated: Any, ours: Any) -> Any:
    """In the type that we have: 0 and 1 for what is said by truth values, numbers as text, and names in capitals."""
    number = whole_number(stated)
    if isinstance(ours, bool):
        if isinstance(stated, str) and stated.lower() in _TRUTH:
            return _TRUTH[stated.lower()]
        return bool(number) if type(number) is int and number in (0, 1) else stated
    return number if isinstance(ours, int) else stated.lower() if isinstance(stated, str) else stated


def _from_shapes(tensors: Tensors) -> dict[str, Any]:
    """All that follows from shapes and names; None: a missing part would have told."""
    vgg = "encoder.conv.0.0.0.weight" in tensors
    nf, channels = (_size(tensors, f"encoder.conv.0.0{'.0' if vgg else ''}.weight", dim) for dim in (0, 1))
    enters = _size(tensors, f"decoder.conv.0.0{'.0' if vgg else ''}.weight", int(vgg))  # channels of d, and of a skip
    nhx = _size(tensors, f"encoder.last_conv.{'1.' if vgg else ''}0.weight", 0)
    reads = _size(tensors, "q_y.module.0.0.weight", 1)
    y_parameters, z_parameters = _size(tensors, "dynamics.module.0.0.weight", 1), _size(tensors, "q_z.weight", 0)
    nz = z_parameters // 2 if z_parameters else None
    layers = max(filter(None, (_layers(tensors, part) for part in ("dynamics", "p_z"))), default=None)
    return {
        "backbone": None if nf is None else "vgg" if vgg else "dcgan",
        "skips": None if nf is None or enters is None else enters > 8 * nf,
        "channels": channels,
        "image_size": IMAGE_SIZE,
        "nf": nf,
        "nhx": nhx,
        "ny": y_parameters - nz if y_parameters and nz else None,
        "nz": nz,
        "nt_inf": reads // nhx if reads and nhx else None,
        "inference_size": _size(tensors, "w_inf.0.weight", 0),
        "inference_layers": _layers(tensors, "q_y"),
        "residual_size": 0 if layers == 1 else _size(tensors, "dynamics.module.0.0.weight", 0),
        "residual_layers": layers,
    }


def _layers(tensors: Tensors, part: str) -> int | None:
    """Linear layers of an MLP; one more than the last one's number, so that a missing one is missed."""
    numbers = [int(match[1]) for name in tensors if (match := re.match(rf"{part}\.module\.(\d{{1,4}})\.", name))]
    return max(numbers) + 1 if numbers else None


def _size(tensors: Tensors, name: str, dim: int) -> int | None:
    shape = tensors[name].shape if name in tensors else ()
    return shape[dim] if len(shape) > dim else None
