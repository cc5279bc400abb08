"""The plots of the page, each as an SVG picture: PSNR, spread / skill and coverage per lead, rank histogram, reliability."""

from __future__ import annotations

import io
from typing import Any

import numpy as np

from svg_eval.ensemble import coverage
from svg_eval.evaluation_report import Evaluation
from svg_eval.pixels import SCORED, PixelClass, psnr_or_nan
from svg_eval.plots import coloured_entries, line_of, plain_label, whole_numbers

_COLOURS: dict[PixelClass, str] = {"all": "C0", "moving": "C1"}


def plot_psnr(evaluation: Evaluation, pixels: PixelClass) -> bytes:
    """PSNR per lead of best, average sample and mean, beside the baselines."""
    figure, axis = _lead_figure(f"PSNR per lead, {pixels} pixels, dB")
    for entry, colour in coloured_entries(evaluation):
        scores, name = entry.measured.pixels.scores(pixels), plain_label(entry.info.label)
        kinds = [("mean", "-", "")] if entry.samples == 1 else [("mean", "-", ", mean of samples")]
        if entry is evaluation.model and entry.samples > 1:
            kinds += [("best", "--", f", best of {entry.samples}"), ("sample", ":", ", average sample")]
        for kind, style, what in kinds:
            values = [psnr_or_nan(error) for error in getattr(scores, kind).per_step]
            axis.plot(_leads(evaluation), values, color=colour, label=name + what, **line_of(style))
    return _svg(figure, axis)


def plot_spread_skill(evaluation: Evaluation) -> bytes:
    """Spread / skill per lead of all that has samples."""
    figure, axis = _lead_figure("Spread / skill per lead")
    for entry, colour in coloured_entries(evaluation):
        if entry.samples == 1:
            continue
        for pixels, style in zip(_found(evaluation), ("-", "--"), strict=False):
            label = f"{plain_label(entry.info.label)}, {pixels} pixels"
            ratios = entry.measured.pixels.scores(pixels).spread_skill_per_step
            axis.plot(_leads(evaluation), ratios, color=colour, label=label, **line_of(style))
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set_ylim(bottom=0)
    return _svg(figure, axis)


def plot_ranks(evaluation: Evaluation) -> bytes:
    """How often the truth has each rank among the samples, against the uniform frequency."""
    figure, axis = _figure("Rank of the truth among the samples", "rank, as a share of the samples")
    for pixels in SCORED:
        frequencies = evaluation.model.measured.pixels.scores(pixels).rank_frequencies
        if frequencies is not None:
            edges = np.linspace(0, 1, len(frequencies) + 1)
            axis.stairs(frequencies * len(frequencies), edges, color=_COLOURS[pixels], label=f"{pixels} pixels")
    axis.axhline(1, color="black", linewidth=0.8)
    axis.set(ylabel="frequency / that of a calibrated forecast", xlim=(0, 1), ylim=(0, None))
    return _svg(figure, axis)


def plot_reliability(evaluation: Evaluation) -> bytes:
    """Share of the truths inside central intervals of every probability that the samples can show."""
    figure, axis = _figure("Truths inside central intervals", "probability of the interval")
    for pixels in SCORED:
        scores = evaluation.model.measured.pixels.scores(pixels)
        if scores.rank_frequencies is not None:
            probabilities = np.linspace(0, (scores.samples - 1) / (scores.samples + 1), 50)
            inside = [coverage(scores.rank_frequencies, probability) for probability in probabilities]
            axis.plot(probabilities, inside, color=_COLOURS[pixels], label=f"{pixels} pixels")
    axis.plot([0, 1], [0, 1], color="black", linewidth=0.8)
    axis.set(ylabel="share of the truths inside", xlim=(0, 1), ylim=(0, 1))
    return _svg(figure, axis)


def plot_coverage(evaluation: Evaluation) -> bytes:
    """Share of the truths inside the central interval per lead."""
    figure, axis = _lead_figure("Truths inside the central interval per lead")
    for pixels in _found(evaluation):
        scores = evaluation.model.measured.pixels.scores(pixels)
        line = {"color": _COLOURS[pixels], "label": f"{pixels} pixels", **line_of("-")}
        axis.plot(_leads(evaluation), scores.coverage_per_step, **line)
    axis.axhline(evaluation.model.measured.pixels.scores("all").interval, color="black", linewidth=0.8)
    axis.set(ylabel="share of the truths inside", ylim=(0, 1))
    return _svg(figure, axis)


def plots_of(evaluation: Evaluation) -> list[bytes]:
    """All plots that apply: one future has neither spread nor ranks, and there may be no pixels that move."""
    plots = [plot_psnr(evaluation, pixels) for pixels in _found(evaluation)]
    if evaluation.model.samples > 1:
        plots += [draw(evaluation) for draw in (plot_spread_skill, plot_coverage, plot_ranks, plot_reliability)]
    return plots


def _found(evaluation: Evaluation) -> list[PixelClass]:
    """Classes that have pixels: in some data, nothing moves."""
    return [pixels for pixels in SCORED if evaluation.model.measured.pixels.scores(pixels).share.overall > 0]


def _leads(evaluation: Evaluation) -> range:
    return range(1, evaluation.settings.horizon + 1)


def _lead_figure(title: str) -> tuple[Any, Any]:
    figure, axis = _figure(title, "lead, steps")
    whole_numbers(axis)
    return figure, axis


def _figure(title: str, xlabel: str) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    figure = Figure(figsize=(6, 4), layout="constrained")
    axis = figure.subplots()
    axis.set_title(title, fontsize="medium")
    axis.set_xlabel(xlabel)
    axis.grid(alpha=0.25)
    return figure, axis


def _svg(figure: Any, axis: Any) -> bytes:
    """The picture, with a legend."""
    axis.legend(fontsize="x-small")
    return as_svg(figure)


def as_svg(figure: Any) -> bytes:
    """A figure of matplotlib as SVG, without the time of its making."""
    picture = io.BytesIO()
    figure.savefig(picture, format="svg", metadata={"Date": None})
    return picture.getvalue()
