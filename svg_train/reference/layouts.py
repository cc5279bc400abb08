"""How training programs arrange weights and options in a file, brought into one form.

    parts       {"encoder": module, ..., "opt": options}                the reference's own
    nested      {"state_dict": weights, "hyper_parameters": options}    Lightning, and most training loops
    flat        {"encoder.c1.main.0.weight": tensor, ...}               a state_dict alone
    split       {"encoder_state_dict": weights, ..., "n_past": 5}       a state_dict per part

Weights may be a state_dict, a dictionary of parts, or a pickled module, and may lie in another module ("model.encoder...").
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from svg_train.reference.inert_pickle import Record
from svg_train.reference.modules import MAX_NAME, Tensors, attributes, is_module, named_tensors
from svg_train.reference.options import is_spatial
from svg_train.reference.tensors import StoredTensor, array_values
from svg_train.weight_names import unwrap_names

PARTS = ("encoder", "decoder", "frame_predictor", "posterior", "prior")  # of the reference
_OUR_PARTS = ("encoder", "decoder", "predictor", "posterior", "prior")
_OURS_ALONE, _THEIRS_ALONE = "predictor", "frame_predictor"
_OF_OTHER_FAMILIES = {  # parts that no other model has
    "srvp": ("content", "posterior_y", "dynamics"),
    "frames": ("stack", "conv_last"),
    "ensemble": ("prime", "step", "decoder"),
}
WEIGHT_KEYS = ("state_dict", "model_state_dict", "model", "weights", "net", "module", "params")  # keys, as programs name them
OPTION_KEYS = ("opt", "hyper_parameters", "hparams", "config", "args", "options")  # the same of tables of options

REFERENCE, SAFETENSORS = "a checkpoint of the reference implementation", "a safetensors file"
SVG_PRIME = "a checkpoint of svg-prime"

_BEFORE, _AFTER = "state_dict_|model_|net_", "_state_dict|_state|_weights|_params|_model|_net"
_NAMED_PART = re.compile(rf"(?:{_BEFORE})?({'|'.join(PARTS)})(?:{_AFTER})?")
_MAX_DEPTH = 3  # of tables in tables
_MAX_TABLES = 300  # that are looked at
_MAX_COPIES = 16  # of a network
_LARGEST_COUNT = 1 << 63
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
_OF_AVERAGES = frozenset(
    ("ema", "swa", "avg", "average", "averaged", "averages", "polyak", "shadow", "teacher", "target", "momentum")
)

Place = tuple[tuple[Any, ...], Any]  # keys that lead to a value, and the value
Owner = Literal["reference", "ours", "unknown"]


@dataclass(frozen=True)
class Layout:
    """What a file holds."""

    kind: str  # for messages, with an article
    owner: Owner  # whose names the weights have
    key: tuple[Any, ...] = ()  # keys that lead to the weights; none: they are the whole content
    parts: Mapping[str, Any] = field(default_factory=dict)  # of the reference: modules, or their tensors by name
    tensors: Tensors = field(default_factory=dict)  # all of ours, by full name, or those of an unknown model
    options: Mapping[Any, Any] | None = None  # None: the file has none


def recognize(content: Any, safetensors: bool = False) -> Layout:
    """Find weights and options in the content of a file, however they are arranged.

    Raises:
        PickleFormatError: modules are nested too deeply or too often.
    """
    top = _bare_parts(content if isinstance(content, dict) else {})
    options = options_in(content, top)
    if any(part in top and not isinstance(top[part], StoredTensor) for part in PARTS):
        tensors = {part: named_tensors(top[part]) or {} for part in PARTS if part in top}
        return Layout(SVG_PRIME if is_spatial(tensors) else REFERENCE, "reference", parts=top, options=options)
    others = []
    for place in weight_places(content):
        layout = _recognize_weights(content, place, safetensors, options)
        if layout.owner != "unknown":
            return layout
        others.append(layout)
    return next((layout for layout in others if layout.tensors), others[0])


def given_settings(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """The user's settings, which may be in tables as in a file with weights; without those that are null."""
    return {**(options_in(table, table) or {}), **{name: value for name, value in table.items() if value is not None}}


def _recognize_weights(content: Any, place: Place, safetensors: bool, options: dict[Any, Any] | None) -> Layout:
    key, weights = place
    kind = _kind(content, key, safetensors)
    if isinstance(weights, dict):
        named = _bare_parts(weights)
        if any(_holds_weights(named.get(part)) for part in PARTS):
            return Layout(kind, "reference", key, parts=named, options=options)
    tensors = without_outer_module(named_tensors(weights) or {})
    names = {name.partition(".")[0] for name in tensors}
    owner: Owner = "reference" if _THEIRS_ALONE in names else "ours" if _OURS_ALONE in names else "unknown"
    parts = {part: _part(tensors, part) for part in PARTS if part in names} if owner == "reference" else {}
    if owner == "ours":
        tensors = {f"{part}.{name}": value for part in _OUR_PARTS for name, value in _part(tensors, part).items()}
    return Layout(kind, owner, key, parts=parts, tensors=tensors, options=options)


def other_family(tensors: Tensors) -> str | None:
    """Which of our families other than svg has weights of such names, in whatever module; None for other models."""
    for family, parts in _OF_OTHER_FAMILIES.items():
        first, *others = (_modules_around(part, tensors).keys() for part in parts)
        if first & set.intersection(*map(set, others)):
            return family
    return None


def weight_places(content: Any) -> Iterator[Place]:
    """Where the weights may be: under the usual names, in the whole content, then under any other names, nearest first.

    Those whose names say that they are moving averages come last.
    """
    top = content if isinstance(content, dict) else {}
    usual = [((key,), top[key]) for key in WEIGHT_KEYS if _holds_weights(top.get(key))]
    yield from usual
    if not usual:
        yield (), content
    others = ((key, value) for key, value in tables_in(content) if key and _holds_weights(value))
    yield from sorted(others, key=_averages_above)


def _averages_above(place: Place) -> int:
    return sum(_averages(name) for name in place[0] if isinstance(name, str))


def _averages(name: str) -> int:
    """How many words of a name say that it is that of a moving average: one in "netG_ema", none in "schema"."""
    return sum(word.lower() in _OF_AVERAGES for word in _WORD.findall(name[:MAX_NAME]))


def tables_in(content: Any) -> Iterator[Place]:
    """All tables, lists and records in the content of a file, nearest first, each once, and not those inside modules."""
    queue: list[Place] = [((), content)]
    seen: set[int] = set()
    for key, value in queue:  # grows while it is read
        if id(value) in seen:
            continue
        seen.add(id(value))
        yield key, value
        if len(key) < _MAX_DEPTH and not is_module(value):
            inner = enumerate(value) if isinstance(value, (list, tuple)) else attributes(value).items()
            nested = [((*key, name), entry) for name, entry in inner if isinstance(entry, (dict, list, tuple, Record))]
            queue += nested[: _MAX_TABLES - len(queue)]


def _bare_parts(table: Mapping[Any, Any]) -> dict[Any, Any]:
    """A table of parts by their plain names: encoder_state_dict -> encoder."""
    renamed = {match[1]: value for name, value in table.items() if (match := _NAMED_PART.fullmatch(str(name)[:60]))}
    return {**{part: value for part, value in renamed.items() if _holds_weights(value)}, **table}


def _kind(content: Any, key: tuple[Any, ...], safetensors: bool) -> str:
    if safetensors:
        return SAFETENSORS
    if isinstance(content, dict) and "pytorch-lightning_version" in content:
        return "a Lightning checkpoint"
    if key:
        return f"a dictionary with its weights under '{'.'.join(str(name)[:40] for name in key)}'"
    return "a pickled module" if is_module(content) else "a state_dict"


def _holds_weights(value: Any) -> bool:
    """Whether it is a module, a state_dict, or a dictionary of these."""
    if not isinstance(value, dict):
        return is_module(value)
    return any(isinstance(entry, (dict, StoredTensor)) or is_module(entry) for entry in value.values())


def options_in(content: Any, top: Mapping[Any, Any], observed: str = "n_past") -> dict[Any, Any] | None:
    """The entries of all tables of options, and of those inside them: Lightning keeps an argument called `opt` as one entry.

    A table with the number of observed frames holds options whatever its name, unless several such tables differ in it.

    Args:
        content: of a file.
        top: its outermost table.
        observed: the option without which no weights can be used: that number.

    Returns:
        None: the file has no options.
    """
    tables = [attributes(top[name]) for name in OPTION_KEYS if name in top]
    tables += [attributes(table[name]) for table in tables for name in OPTION_KEYS if name in table]
    others = [attributes(value) for key, value in tables_in(content) if key]
    stated = {id(table): array_values(table.get(observed)) for table in others}
    others = [table for table in others if _is_count(stated[id(table)])]
    if len({str(stated[id(table)]) for table in others}) == 1:
        tables += others
    if _is_count(top.get(observed)):  # beside the weights
        tables.insert(0, {name: value for name, value in top.items() if isinstance(value, (int, float, str))})
    if not tables:
        return None
    merged: dict[Any, Any] = {}
    for table in reversed(tables):  # the outer ones win
        merged.update(table)
    return merged


def _is_count(value: Any) -> bool:
    """Whether it may be a number of frames. Python refuses to write out one with thousands of digits."""
    return isinstance(value, str) or (isinstance(value, (int, float)) and abs(value) < _LARGEST_COUNT)


def without_outer_module(tensors: Tensors) -> Tensors:
    """The encoder, the decoder and what is beside them, without the module that holds them: model.encoder.c1 -> encoder.c1."""
    with_encoder, with_decoder = _modules_around("encoder", tensors), _modules_around("decoder", tensors)
    modules = [name for name in with_encoder if name in with_decoder]
    return unwrap_names(held_by_trained_module(tensors, modules)) if modules else tensors


def _modules_around(part: str, tensors: Tensors) -> dict[str, None]:
    """The modules with this part, in the order of the file: "model." for model.encoder.c1, "" for encoder.c1."""
    named = (re.match(rf"((?:[^.]+\.)*?){part}\.", name) for name in tensors)
    return {outer[1]: None for outer in named if outer is not None}


def held_by_trained_module(tensors: Tensors, modules: Sequence[str]) -> Tensors:
    """The weights of the network that was trained, by their names in the module around it. As `trained_module`."""
    outer = trained_module(modules)
    copies = tuple(name for name in modules if not outer.startswith(name))[:_MAX_COPIES]
    inside = {name: value for name, value in tensors.items() if name.startswith(outer) and not name.startswith(copies)}
    return {name.removeprefix(outer): value for name, value in inside.items()}


def trained_module(modules: Sequence[str]) -> str:
    """Of modules around copies of a network ("model.", "model_ema."), the one that was trained, not its moving average.

    It is the one around all; else, of those whose names do not say that they are averages, that with a usual name, or the
    first. Empty if there are none.
    """
    if "" in modules or not modules:
        return ""
    averages = {name: _averages(name) for name in modules}
    fewest = min(averages.values())
    trained = [name for name in modules if averages[name] == fewest]
    return next((name for name in trained if name.partition(".")[0] in WEIGHT_KEYS), trained[0])


def _part(tensors: Tensors, part: str) -> Tensors:
    prefix = f"{part}."
    return unwrap_names({name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)})
