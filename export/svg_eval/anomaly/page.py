"""The result of `svg-eval --anomaly` as one HTML file: the table, and each clip's scores over time beside its labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from svg_common.printable import one_line
from svg_eval.anomaly.clip_scores import ClipScores
from svg_eval.anomaly.report import AnomalyReport, has_both_kinds, table
from svg_eval.page_parts import cells, number, picture, text, write_document
from svg_eval.page_plots import as_svg
from svg_eval.roc import roc_area

_TICKS = 5  # of a value's axis: the number that fits depends on its height, and matplotlib's layout on their labels
_LOWEST = -3.0  # robust standard deviations: nothing below is of interest, and a frozen picture may be far below


def write_page(file: Path, result: AnomalyReport) -> None:
    """Write the page, atomically."""
    title = text(f"{result.evaluation.model.partition(':')[0]}: anomalies")
    lines = [f"{name}: {what}" for name, what in result.described.items()]
    head, *rows = table(result)
    body = "".join(f"<tr>{cells(row)}</tr>" for row in rows)
    write_document(
        file,
        title,
        [
            f"<h1>{title}</h1>",
            f'<p class="quiet">{"<br>".join(map(text, lines))}</p>',
            "<h2>ROC areas</h2>",
            f'<div class="scroll"><table><tr>{cells(head, "th")}</tr>{body}</table></div>',
            *(f'<p class="quiet">{text(note)}</p>' for note in result.notes),
            "<h2>Scores over time</h2>",
            '<p class="quiet">Shaded: frames that are labelled anomalous. Left, blue: all signals combined, online, in robust '
            "standard deviations above the usual. Right, orange: per clip, error and surprise, each from 0 to 1, added.</p>",
            *(_figure(clip, result.evaluation.first_number) for clip in result.evaluation.clips),
        ],
    )


def _figure(clip: ClipScores, first_number: int) -> str:
    area = number(100 * roc_area(clip.online["combined"], clip.anomalous), 1, unit=" %") if has_both_kinds(clip) else "–"
    caption = f"{one_line(clip.name)}: ROC area online {area}, {int(clip.mask.sum())} of {len(clip.mask)} frames anomalous"
    plot = picture(plot_clip(clip, first_number), "svg+xml")
    return f'<figure class="strip"><figcaption>{text(caption)}</figcaption><div class="plots">{plot}</div></figure>'


def plot_clip(clip: ClipScores, first_number: int) -> bytes:
    """Combined scores over the frames of a clip, its labelled ranges shaded, as SVG.

    Args:
        clip: with its scores and labels.
        first_number: of its first frame.
    """
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    figure = Figure(figsize=(11, 2.2), layout="constrained")
    left = figure.subplots()
    right = left.twinx()
    edges = np.flatnonzero(np.diff(np.concatenate([[0], clip.mask.astype(np.int8), [0]])))
    for first, after in edges.reshape(-1, 2) + first_number:
        right.axvspan(first - 0.5, after - 0.5, color="0.85", linewidth=0, zorder=0)
    if len(clip.numbers):
        frames = clip.numbers + first_number
        right.plot(frames, clip.per_clip["combined"], color="C1", linewidth=0.9)
        left.plot(frames, np.maximum(clip.online["combined"], _LOWEST), color="C0", linewidth=1.3)
    left.set_zorder(right.get_zorder() + 1)
    left.patch.set_visible(False)
    edge = first_number - 0.5
    left.set(xlim=(edge, edge + len(clip.mask)), xlabel=f"frame, from {first_number}", ylabel="online")
    right.set(ylabel="per clip")
    for axis in (left, right):
        axis.locator_params(axis="y", nbins=_TICKS)
    left.yaxis.label.set_color("C0")
    right.yaxis.label.set_color("C1")
    return as_svg(figure)
