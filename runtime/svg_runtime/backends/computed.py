"""The precision in which graphs are really computed, read from the loaded engine and never from the request.

Only layers with weights count (convolutions, matrix products): they take nearly all of the time and cause the rounding.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

ComputedIn = Mapping[str, Mapping[str, int]]  # graph -> precision (f32, bf16, f16, ...) -> layers

_ORDER = ("i8", "f16", "bf16", "f32")  # reduced precisions first: they matter most to the reader


def summarize(computed_in: ComputedIn, joint: str = " and ") -> str:
    """List all precisions, reduced ones first: "bf16 and f32"; "" if none is known."""
    return joint.join(_sorted(name for layers in computed_in.values() for name in layers))


def describe(computed_in: ComputedIn, unknown: str) -> str:
    """Say what graphs compute in: "computed in bf16 and f32".

    Args:
        computed_in: of the graphs of which it is known.
        unknown: what to say of the precision if it is known of none.
    """
    if computed_in and not any(computed_in.values()):
        return "without layers that have weights"
    return f"computed in {summarize(computed_in) or unknown}"


def detail(computed_in: ComputedIn) -> str:
    """List the graphs per precision if they differ: "bf16: encoder; f32: posterior, prior"; else ""."""
    graphs: dict[str, list[str]] = {}
    for graph, layers in sorted(computed_in.items()):
        graphs.setdefault(" and ".join(_sorted(layers)), []).append(graph)
    graphs.pop("", None)  # no layers with weights
    return "; ".join(f"{precision}: {', '.join(names)}" for precision, names in graphs.items()) if len(graphs) > 1 else ""


def _sorted(precisions: Iterable[str]) -> list[str]:
    return sorted(set(precisions), key=lambda name: (_ORDER.index(name) if name in _ORDER else len(_ORDER), name))
