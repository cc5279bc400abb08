"""Plots of an evaluation: PSNR and SSIM per step and against the number of samples, and strips of single sequences."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from svg_common.errors import UsageError
from svg_common.files import atomic_file
from svg_eval.evaluation_report import Evaluated, Evaluation
from svg_eval.examples import Example
from svg_eval.statistics import Array, best_of_n, best_sample, counts_up_to, curve
from svg_train.pictures import Rows, save_rows

_FORMATS = (".png", ".pdf", ".svg")
_LABEL_LENGTH = 11  # characters that fit beside a row
_SIMPLE_COLOURS = ("dimgray", "darkgray", "black")  # of the baselines without a model, in their order
BRIGHTEST = 0.25  # standard deviation that is drawn white
_TOGETHER = 4  # sequences in the picture of several
_MARKERS = {"-": "o", "--": "^", ":": "v"}  # by the style of the line
_METRICS = {"psnr": "PSNR, dB", "ssim": "SSIM"}


def check_plot_format(file: Path) -> None:
    """Refuse a file name without a known format, before the evaluation rather than after it.

    Raises:
        UsageError: unknown suffix.
    """
    if file.suffix.lower() not in _FORMATS:
        raise UsageError(f"cannot plot to '{file}'\n  expected a name that ends in one of {' '.join(_FORMATS)}")


def draw_plot(file: Path, evaluation: Evaluation) -> None:
    """Metrics per step with 95 % bands (left), and the best of n samples against n (right)."""
    from matplotlib.figure import Figure  # not pyplot, which needs a display

    figure = Figure(figsize=(10, 7), layout="constrained")
    axes = figure.subplots(2, 2)
    for (left, right), (metric, label) in zip(axes, _METRICS.items(), strict=True):
        _plot_steps(left, evaluation, metric)
        _plot_counts(right, evaluation, metric)
        left.set(xlabel="forecast step", ylabel=label)
        whole_numbers(left)
        if evaluation.settings.horizon == 1:
            left.set_xlim(0.2, 1.2)  # the legend fits beside the points
        counts = counts_up_to(max(entry.samples for entry in evaluation.entries))
        right.set(xlabel="number of samples n", ylabel=f"{label}, best of n", xscale="log")
        right.set_xticks(counts, labels=[str(count) for count in counts])
        right.minorticks_off()
    axes[0, 0].legend(fontsize="small")
    axes[0, 1].legend(fontsize="small")
    title = f"{plain_label(evaluation.model.info.label)}: {evaluation.sequences} sequences, 95 % confidence bands"
    figure.suptitle(title, fontsize="medium")
    picture = io.BytesIO()  # on a full disk, matplotlib would raise an error of its own in place of the system's
    figure.savefig(picture, dpi=120, format=file.suffix[1:].lower())
    with atomic_file(file) as partial:
        partial.write_bytes(picture.getvalue())


def _plot_steps(axis: Any, evaluation: Evaluation, metric: str) -> None:
    for entry, colour in coloured_entries(evaluation):
        values: Array = getattr(entry.measured, metric)
        name = plain_label(entry.info.label)
        if entry.samples == 1:
            _band(axis=axis, values=values[:, 0], label=name, colour=colour, style="--")
        else:
            _band(axis=axis, values=best_sample(values), label=f"{name}, best of {entry.samples}", colour=colour, style="-")
            _band(axis=axis, values=values.mean(1), label=f"{name}, average sample", colour=colour, style=":")


def _band(axis: Any, values: Array, label: str, colour: str, style: str) -> None:
    steps = curve(values).per_step
    x = range(1, len(steps) + 1)
    axis.plot(x, [step.mean for step in steps], label=label, color=colour, **line_of(style))
    low, high = [step.mean - step.ci95 for step in steps], [step.mean + step.ci95 for step in steps]
    _fill(axis=axis, x=x, low=low, high=high, colour=colour)


def _plot_counts(axis: Any, evaluation: Evaluation, metric: str) -> None:
    most = max(entry.samples for entry in evaluation.entries)
    for entry, colour in coloured_entries(evaluation):
        points = best_of_n(getattr(entry.measured, metric))
        means = [value.mean for _, value in points]
        if entry.samples == 1:  # one future: a constant level
            axis.plot([1, most], [means[0]] * 2, color=colour, label=plain_label(entry.info.label), **line_of("--"))
            continue
        axis.plot([n for n, _ in points], means, color=colour, label=plain_label(entry.info.label), **line_of("-"))
        low, high = [value.mean - value.ci95 for _, value in points], [value.mean + value.ci95 for _, value in points]
        _fill(axis=axis, x=[n for n, _ in points], low=low, high=high, colour=colour)


def _fill(axis: Any, x: Sequence[int], low: Sequence[float], high: Sequence[float], colour: str) -> None:
    """A band; over a single x its edge alone would show."""
    axis.fill_between(x, low, high, alpha=0.15, color=colour, linewidth=6 if len(x) == 1 else 0)


def whole_numbers(axis: Any) -> None:
    """Ticks of the horizontal axis at whole numbers only: there is nothing between two steps."""
    axis.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)


def line_of(style: str) -> dict[str, Any]:
    """How a line is drawn: every point has a mark, since one without neighbours has no line."""
    return {"linestyle": style, "marker": _MARKERS[style], "markersize": 3}


def plain_label(label: str) -> str:
    """`label` for matplotlib, in which dollars begin a formula, and a leading underscore hides a line from the legend."""
    return (f" {label}" if label.startswith("_") else label).replace("$", r"\$")


def coloured_entries(evaluation: Evaluation) -> list[tuple[Evaluated, str]]:
    """Every entry with its colour, the same in all four plots."""
    simple = [(entry, colour) for entry, colour in zip(evaluation.simple.values(), _SIMPLE_COLOURS, strict=False)]
    others = [evaluation.model, *evaluation.baselines]
    return [*((entry, f"C{index}") for index, entry in enumerate(others)), *simple]


def save_sequences(folder: Path, evaluation: Evaluation) -> list[Path]:
    """Write PNG strips and GIFs of the rows of each example: one pair per example, and one of the first four together.

    Returns:
        The PNG files.
    """
    n_past = evaluation.model.info.n_past
    sequences = [example_rows(evaluation, index) for index in range(len(evaluation.model.measured.examples))]
    overview, *names = _names_of_sequences(len(sequences))
    files = [save_rows(folder, name, [rows], n_past) for name, rows in zip(names, sequences, strict=True)]
    return [save_rows(folder, overview, sequences[:_TOGETHER], n_past), *files]


def files_of_sequences(folder: Path, examples: int) -> list[Path]:
    """What `save_sequences` writes of so many examples."""
    return [folder / f"{name}{suffix}" for name in _names_of_sequences(examples) for suffix in (".png", ".gif")]


def _names_of_sequences(examples: int) -> list[str]:
    return ["overview", *(f"sequence-{index:03d}" for index in range(examples))]


def example_rows(evaluation: Evaluation, index: int) -> Rows:
    """The rows that show one example.

    Truth; best, worst and random samples, their mean and spread; approximate posterior, if there is one; a random sample of
    each baseline, and the optical flow. A deterministic model has one forecast in place of the samples.
    """
    example, info = evaluation.model.measured.examples[index], evaluation.model.info
    futures = _sample_rows(example)
    if evaluation.model.samples == 1:
        futures = [("forecast", example.best)]
    elif example.posterior is not None:
        futures.append(("posterior", example.posterior))
    futures += [(entry.info.label[:_LABEL_LENGTH], entry.measured.examples[index].random[0]) for entry in evaluation.baselines]
    if "optical_flow" in evaluation.simple:
        futures.append(("flow", evaluation.simple["optical_flow"].measured.examples[index].best))
    return [
        ("truth", example.truth),
        *((label, torch.cat([example.truth[: info.n_past], frames])) for label, frames in futures),
    ]


def _sample_rows(example: Example) -> list[tuple[str, Tensor]]:
    random = [(f"random {number}", sample) for number, sample in enumerate(example.random, start=1)]
    spread = (example.deviation / BRIGHTEST).clamp(max=1).expand_as(example.mean)
    return [("best", example.best), ("worst", example.worst), *random, ("mean", example.mean), ("spread", spread)]
