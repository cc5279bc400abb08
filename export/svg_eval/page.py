"""An evaluation as one HTML file: its tables, plots and pictures, nothing outside it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svg_eval.clips import ClipGains
from svg_eval.evaluation_report import Evaluation
from svg_eval.page_parts import cells, number, picture, text, write_document
from svg_eval.page_plots import plots_of
from svg_eval.pixels import SCORED, PixelScores, psnr_or_nan
from svg_eval.plots import BRIGHTEST, example_rows
from svg_eval.score_tables import ScoreRow, ScoreTable, frame_table, notes, pixel_table
from svg_train.pictures import strip_of_rows


def write_page(file: Path, evaluation: Evaluation) -> None:
    """Write the page, atomically. Its pictures are the examples that `Settings.examples` asks for."""
    title = text(f"{evaluation.model.info.label}: forecast quality")
    plots = "".join(picture(plot, "svg+xml") for plot in plots_of(evaluation))
    parts = [
        f"<h1>{title}</h1>",
        _introduction(evaluation),
        _figures(evaluation),
        "<h2>Scores</h2>",
        _score_table(frame_table(evaluation)),
        _score_table(pixel_table(evaluation)),
        _note_list(evaluation),
        *_how_to_read(),
        *_clip_section(evaluation.clip_gains()),
        f'<h2>Plots</h2><div class="plots">{plots}</div>',
        *_strip_section(evaluation),
    ]
    write_document(file, title, parts)


def _introduction(evaluation: Evaluation) -> str:
    lines = [f"{name}: {what}" for name, what in evaluation.described.items()]
    return f'<p class="quiet">{"<br>".join(map(text, lines))}</p>'


def _figures(evaluation: Evaluation) -> str:
    """The few numbers that say whether the model is any good."""
    model, repeat = (entry.measured.pixels for entry in (evaluation.model, evaluation.repeat))
    what = "forecast" if evaluation.model.samples == 1 else "mean of samples"
    figures = []
    for pixels in SCORED:
        gain = psnr_or_nan(model.scores(pixels).mean.overall) - psnr_or_nan(repeat.scores(pixels).mean.overall)
        figures.append((number(gain, 2, sign=True, unit=" dB"), f"{what} above repeating the last frame, {pixels} pixels"))
    if clips := evaluation.clip_gains():
        worst = number(clips[0].gain_mean, 2, sign=True, unit=" dB")
        figures.append((worst, f"the same on the worst of {len(clips)} clips, {clips[0].clip}"))
    if evaluation.model.samples > 1:
        figures += _calibration_figures(model.scores("all"), model.scores("moving"))
    boxes = "".join(f"<div><b>{value}</b><span>{text(name)}</span></div>" for value, name in figures)
    return f'<div class="figures">{boxes}</div>'


def _calibration_figures(every: PixelScores, moving: PixelScores) -> list[tuple[str, str]]:
    ratios = [ratio for ratio in moving.spread_skill_per_step if ratio == ratio]
    between = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "–"
    inside = number(100 * every.coverage(), 0, unit=" %")
    return [
        (between, "spread / skill over the leads, moving pixels; calibrated: 1"),
        (inside, f"of the truth inside the central interval, all pixels; calibrated: {100 * every.interval:.0f} %"),
    ]


def _score_table(table: ScoreTable) -> str:
    over = "".join(f'<th colspan="{len(columns)}">{text(group)}</th>' for group, columns in table.groups.items())
    names = cells([name for columns in table.groups.values() for name in columns], "th")
    rows = "".join(map(_score_row, table.rows))
    head = f"<tr><th>{text(table.title)}</th>{over}</tr><tr><th></th>{names}</tr>"
    return f'<div class="scroll"><table>{head}{rows}</table></div>'


def _score_row(row: ScoreRow) -> str:
    style = ' class="group"' if row.begins else ""
    return f"<tr{style}>{cells([row.label, *row.cells])}</tr>"


def _note_list(evaluation: Evaluation) -> str:
    return f"<ul>{''.join(f'<li>{text(note)}</li>' for note in notes(evaluation))}</ul>"


def _how_to_read() -> list[str]:
    lines = [
        "CRPS (fair) is the error of a whole distribution, lower is better; "
        "of one future it is the mean absolute error, and there is no spread. Spread / skill below 1 is overconfidence.",
        "Moving pixels are chosen by what happened: even a perfect forecast is surprised there more often than it says.",
    ]
    return [f'<p class="quiet">{text(line)}</p>' for line in lines]


def _clip_section(rows: list[ClipGains]) -> list[str]:
    if not rows:
        return []
    below = sum(row.gain_mean < 0 for row in rows)
    verdict = f"The mean of samples is below repeating on {below} of {len(rows)} clips" if below else "None is below repeating"
    over = '<th colspan="3">all pixels</th><th colspan="3">moving pixels</th>'
    kinds = cells(["", "sequences", "moving", "repeat dB", *["best", "average", "mean"] * 2], "th")
    return [
        "<h2>Gain over repeating the last frame, dB, by clip</h2>",
        f'<p class="quiet">{verdict}; the least gain of the mean first.</p>',
        f'<div class="scroll"><table><tr><th colspan="4"></th>{over}</tr><tr>{kinds}</tr>',
        *map(_clip_row, rows),
        "</table></div>",
    ]


def _clip_row(row: ClipGains) -> str:
    facts = [row.clip, str(row.sequences), f"{100 * row.moving_share:.1f} %", f"{row.psnr_repeat:.2f}"]
    gains = [row.gain_best, row.gain_sample, row.gain_mean, row.moving_gain_best, row.moving_gain_sample, row.moving_gain_mean]
    return f"<tr>{cells(facts)}{''.join(map(_gain_cell, gains))}</tr>"


def _gain_cell(gain: float) -> str:
    style = ' class="below"' if gain < 0 else ""
    return f"<td{style}>{number(gain, 2, sign=True)}</td>"


def _strip_section(evaluation: Evaluation) -> list[str]:
    clips, figures = evaluation.clips, []
    for index, example in enumerate(evaluation.model.measured.examples):
        name = f"{'' if clips is None else f'{clips[example.number]}, '}sequence {example.number}"
        strip = _png(strip_of_rows(example_rows(evaluation, index), evaluation.model.info.n_past))
        figures.append(f'<figure class="strip"><figcaption>{text(name)}</figcaption>{picture(strip, "png")}</figure>')
    what = "the first sequences" if clips is None else "the sequences that move most, from as many clips as possible"
    marks = f"Green marks are observed frames, orange ones forecasts. Spread: standard deviation, white from {BRIGHTEST} on."
    return [f'<h2>Forecasts</h2><p class="quiet">Shown: {what}. {marks}</p>', *figures]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG", optimize=True)
    return file.getvalue()
