"""How training programs arrange weights and options in a file, brought into one form.

    parts       {"encoder": module, ..., "opt": options}                the reference's own
    nested      {"state_dict": weights, "hyper_parameters": options}    Lightning, and most training loops
    flat        {"encoder.c1.main.0.weight": tensor, ...}               a state_dict alone

Weights may be a state_dict, a dictionary of parts, or a pickled module, and may lie in another module ("model.encoder...").
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from svg_train.reference.modules import Tensors, attributes, is_module, named_tensors
from svg_train.reference.tensors import StoredTensor
from svg_train.weight_names import unwrap_names

PARTS = ("encoder", "decoder", "frame_predictor", "posterior", "prior")  # of the reference
_OUR_PARTS = ("encoder", "decoder", "predictor", "posterior", "prior")
_OURS_ALONE, _THEIRS_ALONE = "predictor", "frame_predictor"
_WEIGHTS = ("state_dict", "model_state_dict", "model", "weights", "net", "module", "params")  # keys, as programs name them
_OPTIONS = ("opt", "hyper_parameters", "hparams", "config", "args", "options")

REFERENCE, SAFETENSORS = "a checkpoint of the reference implementation", "a safetensors file"

Owner = Literal["reference", "ours", "unknown"]


@dataclass(frozen=True)
class Layout:
    """What a file holds."""

    kind: str  # for messages, with an article
    owner: Owner  # whose names the weights have
    key: str | None = None  # under which the weights are; None: they are the whole content
    parts: Mapping[str, Any] = field(default_factory=dict)  # of the reference: modules, or their tensors by name
    tensors: Tensors = field(default_factory=dict)  # all of ours, by full name, or those of an unknown model
    options: Mapping[Any, Any] | None = None  # None: the file has none


def recognize(content: Any, safetensors: bool = False) -> Layout:
    """Find weights and options in the content of a file, however they are arranged.

    Raises:
        PickleFormatError: modules are nested too deeply or too often.
    """
    top = content if isinstance(content, dict) else {}
    options = _options(top)
    if any(part in top and not isinstance(top[part], StoredTensor) for part in PARTS):
        return Layout(REFERENCE, "reference", parts=top, options=options)
    key = next((key for key in _WEIGHTS if _holds_weights(top.get(key))), None)
    weights = content if key is None else top[key]
    if isinstance(weights, dict) and any(_holds_weights(weights.get(part)) for part in PARTS):
        return Layout(_kind(content, key, safetensors), "reference", key, parts=weights, options=options)
    tensors = _without_outer_module(named_tensors(weights) or {})
    names = {name.partition(".")[0] for name in tensors}
    owner: Owner = "reference" if _THEIRS_ALONE in names else "ours" if _OURS_ALONE in names else "unknown"
    parts = {part: _part(tensors, part) for part in PARTS if part in names} if owner == "reference" else {}
    if owner == "ours":
        tensors = {f"{part}.{name}": value for part in _OUR_PARTS for name, value in _part(tensors, part).items()}
    return Layout(_kind(content, key, safetensors), owner, key, parts=parts, tensors=tensors, options=options)


def _kind(content: Any, key: str | None, safetensors: bool) -> str:
    if safetensors:
        return SAFETENSORS
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        return "a Lightning checkpoint"
    if key is not None:
        return f"a dictionary with its weights under '{key}'"
    return "a pickled module" if is_module(content) else "a state_dict"


def _holds_weights(value: Any) -> bool:
    """Whether it is a module, a state_dict, or a dictionary of these."""
    if not isinstance(value, dict):
        return is_module(value)
    return any(isinstance(entry, (dict, StoredTensor)) or is_module(entry) for entry in value.values())


def _options(top: Mapping[Any, Any]) -> dict[Any, Any] | None:
    """The entries of all tables of options, and of those inside them: Lightning keeps an argument called `opt` as one entry."""
    tables = [attributes(top[name]) for name in _OPTIONS if name in top]
    tables += [attributes(table[name]) for table in tables for name in _OPTIONS if name in table]
    if not tables:
        return None
    merged: dict[Any, Any] = {}
    for table in reversed(tables):  # the outer ones win
        merged.update(table)
    return merged


def _without_outer_module(tensors: Tensors) -> Tensors:
    """The encoder, the decoder and what is beside them, without the module that holds them: model.encoder.c1 -> encoder.c1."""
    for name in tensors:
        outer = re.match(r"((?:[^.]+\.)*?)encoder\.", name)
        if outer is not None and any(other.startswith(f"{outer[1]}decoder.") for other in tensors):
            held = {other.removeprefix(outer[1]): value for other, value in tensors.items() if other.startswith(outer[1])}
            return unwrap_names(held)
    return tensors


def _part(tensors: Tensors, part: str) -> Tensors:
    prefix = f"{part}."
    return unwrap_names({name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)})
