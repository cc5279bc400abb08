"""Names and shapes of OpenSTL's weights: which of ours each becomes, which are never used, what sizes they show."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from svg_train.families.frames.config import Cell, FramesConfig
from svg_train.parameter_shapes import parameter_shapes
from svg_train.reference.layouts import held_by_trained_module, trained_module, weight_places
from svg_train.reference.modules import Tensors, named_tensors
from svg_train.reference.tensors import StoredTensor

_Shape = tuple[int, ...]

# Weights that a network has, in any of its layers, and those further down the list have not. One is enough.
_MARKS: dict[str, tuple[str, ...]] = {
    "SimVP or a relative of it": ("enc.enc.0.conv.conv.weight",),
    "MAU": ("cell_list.0.conv_t.0.weight",),
    "PhyDNet": ("phycell.cell_list.0.F.conv1.weight",),
    "mim": ("stlstm_layer.0.conv_x.0.weight", "stlstm_layer.0.conv_x_cc.0.weight"),
    "e3d-lstm": ("cell_list.0.conv_x.0.conv3d.weight", "cell_list.0.conv_h.0.conv3d.weight"),
    "predrnnpp": ("gradient_highway.x_concat.0.weight", "cell_list.0.conv_c2m.0.weight"),
    "predrnn-v2": ("adapter.weight",),
    "predrnn": ("cell_list.0.conv_m.0.weight",),
    "convlstm": ("cell_list.0.conv_x.0.weight", "cell_list.0.conv_h.0.weight"),
}
_CELLS: dict[str, Cell] = {
    "mim": "mim", "e3d-lstm": "e3d-lstm", "predrnnpp": "predrnnpp", "predrnn-v2": "predrnn-v2", "predrnn": "predrnn",
    "convlstm": "convlstm",
}  # fmt: skip
_OUTERMOST = re.compile(r"((?:[^.]+\.)*?)(?:cell_list\.\d+|stlstm_layer\.\d+|enc\.enc\.0|phycell)\.")
_LAYER = re.compile(r"(cell_list|stlstm_layer)\.(\d{1,3})\.")

# Our names -> OpenSTL's.
_RENAMED: list[tuple[str, str | Callable[[re.Match[str]], str]]] = [
    (r"^stack\.cells\.", "cell_list."),
    (r"^stack\.highway\.", "gradient_highway."),
    (r"^stack\.first\.", "stlstm_layer.0."),
    (r"^stack\.blocks\.(\d+)\.(stationary\.)?", lambda match: f"stlstm_layer.{int(match[1]) + 1}."),
    (r"^stack\.differences\.", "stlstm_layer_diff."),
    (r"\.norm_c\.", "._norm_c_t."),
    (r"\.gm_bias$", ".conv_gm.1.bias"),
    (r"\.conv\.weight$", ".0.weight"),
    (r"\.norm\.", ".1."),
]  # fmt: skip


@dataclass(frozen=True)
class Source:
    """Where one of our weights is in the file: entries `start` to `start + length` along axis 0, brought into our shape."""

    name: str
    shape: _Shape  # of the whole weight in the file
    start: int
    length: int
    ours: _Shape


@dataclass(frozen=True)
class Sizes:
    """What the weights show."""

    cell: Cell
    hidden: tuple[int, ...]
    layers: int  # that have weights; the settings may state more
    filter_size: int
    layer_norm: bool
    patch_channels: int
    plane: tuple[int, int] | None  # height and width in patches; None: no weight depends on them


def find_weights(content: Any) -> Tensors:
    """The weights in the content of a file, by the names that the network itself has; empty if there are none.

    They may be under any name, in any table. Those of a network win over others.
    """
    found = [tensors for _, held in weight_places(content) if (tensors := _without_outer_module(named_tensors(held) or {}))]
    return next((tensors for tensors in found if find_network(tensors)), found[0] if found else {})


def _without_outer_module(tensors: Tensors) -> Tensors:
    """The network, without the module that holds it, what is beside it there, such as a loss, and other copies of it.

    Where a name occurs with and without the outer module, that without keeps a name that no network has: it is surplus.
    """
    modules = list(dict.fromkeys(match[1] for name in tensors if (match := _OUTERMOST.match(name))))
    outer, held = trained_module(modules), held_by_trained_module(tensors, modules)
    surplus = {name: tensor for name, tensor in tensors.items() if outer and name in held}
    return held | {f"{name} (outside {outer.rstrip('.')})": tensor for name, tensor in surplus.items()}


def find_network(tensors: Mapping[str, Any]) -> str | None:
    """The cell, or the name of another network of OpenSTL; None if it is neither."""
    names = {_LAYER.sub(r"\1.0.", name) for name in tensors}
    found = next((network for network, marks in _MARKS.items() if not names.isdisjoint(marks)), None)
    return None if found == "predrnn-v2" and names.isdisjoint(_MARKS["predrnn"]) else found


def tell_sizes(tensors: Mapping[str, Any]) -> str:
    """Which weights `read_sizes` needs at least, in words."""
    prefix, gates, depth = _gates_of_state(_CELLS.get(str(find_network(tensors))))
    return f"of {prefix}.N.{gates}{depth} there must be one, and conv_last.weight or {prefix}.0.conv_x{depth}"


def read_sizes(tensors: Tensors, stated: Sequence[int] = ()) -> Sizes | None:
    """Sizes from the shapes of the weights; None if too few are there, or they have no plausible shape.

    Where a layer is missing, it has the size that is `stated`, or that of a layer beside it, so that its weights can be named.
    """
    cell = _CELLS.get(str(find_network(tensors)))
    prefix, _, depth = _gates_of_state(cell)
    layers = [int(match[2]) for name in tensors if (match := _LAYER.match(name)) and match[1] == prefix]
    known = {layer: shape for layer in layers if (shape := _shape_of_gates(tensors, f"{prefix}.{layer}", depth))}
    last, first = tensors.get("conv_last.weight"), tensors.get(f"{prefix}.0.conv_x{depth}")
    patch_channels = last.shape[:1] if last is not None else first.shape[1:2] if first is not None else ()
    if cell is None or not known or not patch_channels:
        return None
    norm = _first(tensors, rf"{prefix}\.\d+\.conv_\w+\.1\.weight")
    pixelwise = norm or _first(tensors, rf"{prefix}\.\d+\.ct_weight") or _first(tensors, rf"{prefix}\.\d+\._norm_c_t\.weight")
    shape = pixelwise.shape if pixelwise is not None else ()
    return Sizes(
        cell=cell,
        hidden=_hidden({layer: shape[0] // 4 for layer, shape in known.items()}, max(layers) + 1, stated),
        layers=max(layers) + 1,
        filter_size=next(iter(known.values()))[-1],
        layer_norm=norm is not None,
        patch_channels=patch_channels[0],
        plane=(shape[-2], shape[-1]) if len(shape) >= 3 else None,
    )


def _hidden(known: Mapping[int, int], layers: int, stated: Sequence[int]) -> tuple[int, ...]:
    """Channels of all layers: of those that are not known, as stated, else as in the nearest one that is."""
    if len(stated) > layers and all(stated[layer] == size for layer, size in known.items()):
        layers = len(stated)
    near = [min(known, key=partial(_distance, layer)) for layer in range(layers)]
    return tuple(stated[layer] if layer not in known and layer < len(stated) else known[near[layer]] for layer in range(layers))


def _distance(one: int, other: int) -> int:
    return abs(one - other)


def _first(tensors: Tensors, pattern: str) -> StoredTensor | None:
    return next((tensor for name, tensor in tensors.items() if re.fullmatch(pattern, name)), None)


def _gates_of_state(cell: Cell | None) -> tuple[str, str, str]:
    """The parts of the names of the convolutions that give each layer four gates from its state."""
    prefix, gates = ("stlstm_layer", "conv_s_cc") if cell == "mim" else ("cell_list", "conv_h")
    return prefix, gates, ".0.conv3d.weight" if cell == "e3d-lstm" else ".0.weight"


def _shape_of_gates(tensors: Tensors, layer: str, depth: str) -> _Shape | None:
    found = tensors.get(f"{layer}.conv_h{depth}") or tensors.get(f"{layer}.conv_s_cc{depth}")
    return found.shape if found is not None and len(found.shape) >= 4 else None


def map_weights(config: FramesConfig) -> dict[str, Source]:
    """Our weights by name -> where each is in a file of OpenSTL."""
    return {name: _source(name, shape, config) for name, shape in parameter_shapes(config).items()}


def _source(name: str, ours: _Shape, config: FramesConfig) -> Source:
    theirs = name
    for pattern, replacement in _RENAMED:
        theirs = re.sub(pattern, replacement, theirs)
    if config.cell == "e3d-lstm":
        theirs, shape = _with_planes(theirs, ours)
    else:
        shape = ours
    length = shape[0]
    start = 0
    # Gates that reach no output are left out: the first two of ConvLSTM's four, the last of E3D-LSTM's seven.
    if config.cell == "convlstm" and config.dialect == "openstl-0.3" and not config.layer_norm and theirs.endswith(".0.weight"):
        shape = (2 * length, *shape[1:])
        start = length
    if config.cell == "e3d-lstm" and not config.layer_norm and theirs.endswith(".conv_x.0.conv3d.weight"):
        shape = (length // 6 * 7, *shape[1:])
    return Source(name=theirs, shape=shape, start=start, length=length, ours=ours)


def _with_planes(theirs: str, ours: _Shape) -> tuple[str, _Shape]:
    """Name and shape of E3D-LSTM's three-dimensional weights: in ours, their two planes lie beside each other."""
    if "_norm_c_t" in theirs:
        return theirs, (ours[0] // 2, 2, *ours[1:])
    if theirs == "conv_last.weight":
        return theirs, (ours[0], ours[1] // 2, 2, 1, 1)
    if theirs.endswith(".conv_last.weight"):
        return theirs.replace(".weight", ".conv3d.weight"), (*ours[:2], 1, 1, 1)
    if theirs.endswith(".0.weight"):
        return theirs.replace(".weight", ".conv3d.weight"), (ours[0], ours[1] // 2, 2, *ours[2:])
    return theirs, ours  # of a norm


def unused_weights(config: FramesConfig) -> dict[str, _Shape]:
    """Name -> shape of the weights that OpenSTL has in its files, but that reach no output."""
    k, plane = config.filter_size, config.plane
    unused: dict[str, _Shape] = {}
    for layer, c in enumerate(config.hidden):
        if config.cell in ("convlstm", "predrnnpp"):
            unused[f"cell_list.{layer}.conv_o.0.weight"] = (c, 2 * c, k, k)
            if config.layer_norm:
                unused |= dict.fromkeys([f"cell_list.{layer}.conv_o.1.{part}" for part in ("weight", "bias")], (c, *plane))
        if config.cell == "convlstm":
            unused[f"cell_list.{layer}.conv_last.weight"] = (c, 2 * c, 1, 1)
        if config.cell == "mim" and layer:
            unused[f"stlstm_layer_diff.{layer - 1}.conv_last.weight"] = (c, 2 * c, 1, 1)
        if config.cell == "e3d-lstm":
            unused[f"cell_list.{layer}.conv_gm.0.conv3d.weight"] = (4 * c, c, 2, k, k)
            names = ["weight"] if config.layer_norm else []
            unused |= dict.fromkeys([f"cell_list.{layer}.conv_gm.1.{name}" for name in names], (4 * c, 2, *plane))
    return unused
