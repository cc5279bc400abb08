"""The registry of families on the side of export: how a network becomes graphs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from svg_export.families import ensemble, frames, srvp, svg
from svg_export.graph_export import GraphExport


@dataclass(frozen=True)
class FamilyExport:
    """One entry of the registry. `Any` is the family's own network.

    Attributes:
        fold: a copy of a network without BatchNorm.
        graphs: of a folded network, in the type of its layers with weights, with or without the fused graphs, by name.
        has_separate: whether there are graphs that a forecast can run on without the fused ones.
    """

    fold: Callable[[Any], Any]
    graphs: Callable[[Any, torch.dtype, bool], dict[str, GraphExport]]
    has_separate: bool = False


FAMILY_EXPORTS = {
    "svg": FamilyExport(svg.fold, svg.graphs, has_separate=True),
    "srvp": FamilyExport(srvp.fold, srvp.graphs),
    "frames": FamilyExport(frames.fold, frames.graphs),
    "ensemble": FamilyExport(ensemble.fold, ensemble.graphs),
}
