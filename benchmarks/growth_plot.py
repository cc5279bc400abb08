"""The plot of how the cost of a forecast grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.figure import Figure  # not pyplot, which needs a display
from matplotlib.ticker import LogLocator

from svg_common.files import atomic_file

_LABELS = {"samples": "samples", "horizon": "steps", "pixels": "pixels per side"}
_COLOURS = {
    "PyTorch eager": "#7f7f7f",
    "ONNX Runtime, plain": "#1f77b4",
    "svg-edge cpu": "#2ca02c",
    "svg-edge openvino": "#d62728",
}


def draw_growth(growth: list[dict[str, Any]], file: Path) -> None:
    """A panel per axis, each with a curve per peer: medians, and the quartiles as a band.

    Args:
        growth: `summarize(...)["growth"]`.
        file: the PNG.
    """
    figure = Figure(figsize=(10, 3.8), layout="constrained", facecolor="white")
    axes = figure.subplots(1, len(_LABELS), sharey=True, width_ratios=(3, 3, 2))
    for panel, (axis, label) in zip(axes, _LABELS.items(), strict=True):
        entries = [entry for entry in growth if entry["axis"] == axis]
        points = sorted((point for entry in entries for point in entry["points"]), key=lambda point: point["value"])
        _draw_panel(panel, points)
        panel.set(xlabel=label, xscale="log", yscale="log", title=_title(axis, entries))
        values = [point["value"] for point in points]
        panel.set_xticks(values, labels=[str(value) for value in values])
        panel.minorticks_off()
        panel.grid(alpha=0.25)
        panel.margins(x=0.12 if axis == "pixels" else 0.05)
        panel.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.yaxis.set_major_formatter(lambda value, position: f"{value:g}")
    axes[0].set_ylabel("ms per forecast")
    handles, labels = axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
    with atomic_file(file) as partial:
        figure.savefig(partial, dpi=120, format="png")


def _draw_panel(panel: Any, points: list[dict[str, Any]]) -> None:
    names = [(peer["name"], peer["precision"]) for peer in points[0]["peers"]] if points else []
    for index, (name, precision) in enumerate(names):
        x, peers = [point["value"] for point in points], [point["peers"][index] for point in points]
        colour = _COLOURS.get(name)
        panel.plot(x, [peer["median_ms"] for peer in peers], "o-", markersize=4, color=colour, label=f"{name}, {precision}")
        low, high = [peer["low_ms"] for peer in peers], [peer["high_ms"] for peer in peers]
        panel.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)


def _title(axis: str, entries: list[dict[str, Any]]) -> str:
    if not entries:
        return ""
    samples, horizon = f"{entries[0]['samples']} samples", f"{entries[0]['horizon']} steps"
    return {"samples": horizon, "horizon": samples, "pixels": f"{samples}, {horizon}"}[axis]
