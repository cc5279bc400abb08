"""An evaluation as one HTML file: its tables, plots and pictures, nothing outside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from svg_common.files import atomic_file
from svg_common.frame_statistics import MOVED
from svg_eval.clips import ClipGains
from svg_eval.ensemble import CENTRAL
from svg_eval.evaluation_report import Evaluated, Evaluation
from svg_eval.page_plots import plots_of
from svg_eval.pixels import CLASSES, SCORED, PixelClass, PixelScores, psnr_or_nan
from svg_eval.plots import BRIGHTEST, example_rows
from svg_train.pictures import strip_of_rows

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 22%, transparent); }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; max-width: 1180px; padding: 24px; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 18px; margin: 36px 0 8px; }
p { margin: 6px 0; max-width: 100ch; } .quiet { opacity: .72; }
.figures { display: flex; flex-wrap: wrap; gap: 12px; margin: 20px 0; }
.figures div { border: 1px solid var(--line); border-radius: 8px; padding: 8px 14px; max-width: 240px; }
.figures b { display: block; font-size: 22px; } .figures span { font-size: 13px; opacity: .72; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 3px 12px; text-align: right; border-bottom: 1px solid var(--line); }
th { font-weight: 600; } th:first-child, td:first-child { text-align: left; padding-left: 0; }
tr:first-child th { text-align: center; border-bottom: 0; } tr.group td { border-top: 2px solid var(--line); }
.below { color: #d22; font-weight: 600; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(460px, 1fr)); gap: 16px; }
.plots img, .strip img { width: 100%; border-radius: 6px; } .plots img { background: #fff; }
.strip { margin: 0 0 18px; } .strip img { image-rendering: pixelated; }
figcaption { font-size: 13px; opacity: .72; }
"""


def write_page(file: Path, evaluation: Evaluation) -> None:
    """Write the page, atomically. Its pictures are the examples that `Settings.examples` asks for."""
    title = _text(f"{evaluation.model.info.label}: forecast quality")
    plots = "".join(_picture(plot, "svg+xml") for plot in plots_of(evaluation))
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
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{title}</title>'
    body = "\n".join(parts)
    with atomic_file(file) as partial:
        partial.write_text(
            f'<!doctype html>\n<html lang="en"><head>{head}<style>{_STYLE}</style></head>\n<body>\n{body}\n</body></html>\n',
            encoding="utf-8",
        )


def _introduction(evaluation: Evaluation) -> str:
    lines = [f"{name}: {what}" for name, what in evaluation.described.items()]
    return f'<p class="quiet">{"<br>".join(map(_text, lines))}</p>'


def _figures(evaluation: Evaluation) -> str:
    """The few numbers that say whether the model is any good."""
    model, repeat = (entry.measured.pixels for entry in (evaluation.model, evaluation.repeat))
    what = "forecast" if evaluation.model.samples == 1 else "mean of samples"
    figures = []
    for pixels in SCORED:
        gain = psnr_or_nan(model.scores(pixels).mean.overall) - psnr_or_nan(repeat.scores(pixels).mean.overall)
        figures.append((_number(gain, 2, sign=True, unit=" dB"), f"{what} above repeating the last frame, {pixels} pixels"))
    if clips := evaluation.clip_gains():
        worst = _number(clips[0].gain_mean, 2, sign=True, unit=" dB")
        figures.append((worst, f"the same on the worst of {len(clips)} clips, {clips[0].clip}"))
    if evaluation.model.samples > 1:
        figures += _calibration_figures(model.scores("all"), model.scores("moving"))
    boxes = "".join(f"<div><b>{value}</b><span>{_text(name)}</span></div>" for value, name in figures)
    return f'<div class="figures">{boxes}</div>'


def _calibration_figures(every: PixelScores, moving: PixelScores) -> list[tuple[str, str]]:
    ratios = [ratio for ratio in moving.spread_skill_per_step if ratio == ratio]
    between = f"{min(ratios):.2f} to {max(ratios):.2f}" if ratios else "–"
    inside = _number(100 * every.coverage(), 0, unit=" %")
    return [
        (between, "spread / skill over the leads, moving pixels; calibrated: 1"),
        (inside, f"of the truth inside the central interval, all pixels; calibrated: {100 * every.interval:.0f} %"),
    ]


def _score_table(evaluation: Evaluation) -> str:
    groups = {"PSNR dB": CLASSES, "CRPS x 1000": SCORED, "spread / skill": SCORED, f"inside {100 * CENTRAL:.0f} %": SCORED}
    over = "".join(f'<th colspan="{len(columns)}">{group}</th>' for group, columns in groups.items())
    names = _cells([name for columns in groups.values() for name in columns], "th")
    rows = "".join(row for entry in evaluation.entries for row in _entry_rows(entry))
    return f'<div class="scroll"><table><tr><th></th>{over}</tr><tr><th></th>{names}</tr>{rows}</table></div>'


def _entry_rows(entry: Evaluated) -> Iterable[str]:
    scores = {name: entry.measured.pixels.scores(name) for name in CLASSES}
    label, scored = entry.info.label, [*_psnr_cells(scores, "mean"), *_ensemble_cells(scores)]
    if entry.samples == 1:
        yield f'<tr class="group">{_cells([label, *scored])}</tr>'
        return
    yield f'<tr class="group">{_cells([f"{label}, mean of samples", *scored])}</tr>'
    for kind, name in (("best", f"best of {entry.samples}"), ("sample", "average sample")):
        yield f"<tr>{_cells([f'{label}, {name}', *_psnr_cells(scores, kind), *[''] * (3 * len(SCORED))])}</tr>"


def _psnr_cells(scores: Mapping[PixelClass, PixelScores], kind: str) -> list[str]:
    return [_number(psnr_or_nan(getattr(one, kind).overall), 2) for one in scores.values()]


def _ensemble_cells(scores: Mapping[PixelClass, PixelScores]) -> list[str]:
    scored = [scores[name] for name in SCORED]
    return [
        *(_number(1000 * one.crps.overall, 2) for one in scored),
        *(_number(one.spread_skill, 2) for one in scored),
        *(_number(100 * one.coverage(), 1, unit=" %") for one in scored),
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
    return [f'<p class="quiet">{_text(note)}</p>' for note in notes]


def _clip_section(rows: list[ClipGains]) -> list[str]:
    if not rows:
        return []
    below = sum(row.gain_mean < 0 for row in rows)
    verdict = f"The mean of samples is below repeating on {below} of {len(rows)} clips" if below else "None is below repeating"
    over = '<th colspan="3">all pixels</th><th colspan="3">moving pixels</th>'
    kinds = _cells(["", "sequences", "moving", "repeat dB", *["best", "average", "mean"] * 2], "th")
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
    return f"<tr>{_cells(facts)}{''.join(map(_gain_cell, gains))}</tr>"


def _gain_cell(gain: float) -> str:
    style = ' class="below"' if gain < 0 else ""
    return f"<td{style}>{_number(gain, 2, sign=True)}</td>"


def _strip_section(evaluation: Evaluation) -> list[str]:
    clips, figures = evaluation.clips, []
    for index, example in enumerate(evaluation.model.measured.examples):
        name = f"sequence {example.number}" if clips is None else clips[example.number]
        strip = _png(strip_of_rows(example_rows(evaluation, index), evaluation.model.info.n_past))
        figures.append(f'<figure class="strip"><figcaption>{_text(name)}</figcaption>{_picture(strip, "png")}</figure>')
    what = "the first sequences" if clips is None else "of each clip the sequence that moves most"
    marks = f"Green marks are observed frames, orange ones forecasts. Spread: standard deviation, white from {BRIGHTEST} on."
    return [f'<h2>Forecasts</h2><p class="quiet">Shown: {what}. {marks}</p>', *figures]


def _png(pixels: NDArray[np.uint8]) -> bytes:
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG", optimize=True)
    return picture.getvalue()


def _picture(data: bytes, kind: str) -> str:
    return f'<img alt="" src="data:image/{kind};base64,{base64.b64encode(data).decode()}">'


def _cells(values: Iterable[str], kind: str = "td") -> str:
    return "".join(f"<{kind}>{_text(value)}</{kind}>" for value in values)


def _number(value: float, digits: int, sign: bool = False, unit: str = "") -> str:
    """`value`, or a dash for NaN: no such pixels, or one sample, which has no spread."""
    return f"{value:{'+' if sign else ''}.{digits}f}{unit}" if value == value else "–"


def _text(value: str) -> str:
    return html.escape(value)
