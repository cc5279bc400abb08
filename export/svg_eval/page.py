"""An evaluation as one HTML file: its tables, plots and pictures, nothing outside it."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svg_common.frame_statistics import MOVED
from svg_eval.clips import ClipGains
from svg_eval.ensemble import CENTRAL
from svg_eval.evaluation_report import Evaluated, Evaluation
from svg_eval.page_parts import cells, number, picture, text, write_document
from svg_eval.page_plots import plots_of
from svg_eval.pixels import CLASSES, SCORED, PixelClass, PixelScores, psnr_or_nan
from svg_eval.plots import BRIGHTEST, example_rows
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
        _score_table(evaluation),
        *_how_to_read(evaluation),
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


def _score_table(evaluation: Evaluation) -> str:
    groups = {"PSNR dB": CLASSES, "CRPS x 1000": SCORED, "spread / skill": SCORED, f"inside {100 * CENTRAL:.0f} %": SCORED}
    over = "".join(f'<th colspan="{len(columns)}">{group}</th>' for group, columns in groups.items())
    names = cells([name for columns in groups.values() for name in columns], "th")
    rows = "".join(row for entry in evaluation.entries for row in _entry_rows(entry))
    return f'<div class="scroll"><table><tr><th></th>{over}</tr><tr><th></th>{names}</tr>{rows}</table></div>'


def _entry_rows(entry: Evaluated) -> Iterable[str]:
    scores = {name: entry.measured.pixels.scores(name) for name in CLASSES}
    label, scored = entry.info.label, [*_psnr_cells(scores, "mean"), *_ensemble_cells(scores)]
    if entry.samples == 1:
        yield f'<tr class="group">{cells([label, *scored])}</tr>'
        return
    yield f'<tr class="group">{cells([f"{label}, mean of samples", *scored])}</tr>'
    for kind, name in (("best", f"best of {entry.samples}"), ("sample", "average sample")):
        yield f"<tr>{cells([f'{label}, {name}', *_psnr_cells(scores, kind), *[''] * (3 * len(SCORED))])}</tr>"


def _psnr_cells(scores: Mapping[PixelClass, PixelScores], kind: str) -> list[str]:
    return [number(psnr_or_nan(getattr(one, kind).overall), 2) for one in scores.values()]


def _ensemble_cells(scores: Mapping[PixelClass, PixelScores]) -> list[str]:
    scored = [scores[name] for name in SCORED]
    return [
        *(number(1000 * one.crps.overall, 2) for one in scored),
        *(number(one.spread_skill, 2) for one in scored),
        *(number(100 * one.coverage(), 1, unit=" %") for one in scored),
    ]


def _how_to_read(evaluation: Evaluation) -> list[str]:
    moving = evaluation.model.measured.pixels.scores("moving")
    share = f"{100 * moving.share.overall:.1f} % of all"
    notes = [
        "PSNR is from the mean squared error over the whole set. "
        f"Moving are the pixels whose truth differs from the last observed frame by more than {MOVED}: {share}.",
        "CRPS (fair) is the error of a whole distribution, lower is better; "
        "of one future it is the mean absolute error, and there is no spread. Spread / skill below 1 is overconfidence.",
        "Moving pixels are chosen by what happened: even a perfect forecast is surprised there more often than it says.",
    ]
    if moving.samples > 1 and moving.interval < CENTRAL:
        notes.append(f"{moving.samples} samples span {100 * moving.interval:.0f} % at most: inside is inside their range.")
    return [f'<p class="quiet">{text(note)}</p>' for note in notes]


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
