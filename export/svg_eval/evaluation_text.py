"""An evaluation as human-readable tables."""

from __future__ import annotations

from collections.abc import Iterable

from svg_common.frame_statistics import MOVED
from svg_eval.clips import ClipGains
from svg_eval.ensemble import CENTRAL
from svg_eval.evaluation_report import Evaluated, Evaluation
from svg_eval.measure import Measurements
from svg_eval.pixels import CLASSES, SCORED, PixelScores, psnr_or_nan
from svg_eval.statistics import Curve, Estimate, best_of_n, best_sample, curve, shown

_CRPS_UNIT = 1000  # CRPS is printed in thousandths of the range of frames
_MOST_CLIPS = 30  # rows of a table


def as_text(evaluation: Evaluation) -> str:
    """The metrics as a table, with their 95 % confidence intervals."""
    width = max(map(len, evaluation.described)) + 1
    head = [f"{name:<{width}}{what}" for name, what in evaluation.described.items()]
    clips = ["", *_clip_table(evaluation.clip_gains())] if evaluation.clips else []
    return "\n".join([*head, "", *_table(evaluation), "", *_pixel_table(evaluation), *clips, "", *_notes(evaluation)])


def _table(evaluation: Evaluation) -> list[str]:
    rows = [row for entry in evaluation.entries for row in _rows(entry)]
    protocol = evaluation.protocol
    for published in protocol.published if protocol else ():
        cells = f"{published.psnr:>11.2f}{'':9}{published.ssim:>11.4f}"
        rows.append((f"published: {published.method}, best of 100", cells))
    width = max(len(label) for label, _ in rows)
    lines = [f"{'':{width}}{'PSNR dB':>18}{'SSIM':>20}", *(f"{label:{width}}{cells}".rstrip() for label, cells in rows)]
    if protocol and not protocol.published:
        lines.append("no published values are known for this protocol")
    return lines


def _rows(entry: Evaluated) -> list[tuple[str, str]]:
    measured, label = entry.measured, entry.info.label
    if entry.samples == 1:
        return [(label, _cells(curve(measured.psnr[:, 0]), curve(measured.ssim[:, 0])))]
    best = curve(best_sample(measured.psnr)), curve(best_sample(measured.ssim))
    average = curve(measured.psnr.mean(1)), curve(measured.ssim.mean(1))
    return [(f"{label}, best of {entry.samples}", _cells(*best)), (f"{label}, average sample", _cells(*average))]


def _cells(psnr_curve: Curve, ssim_curve: Curve) -> str:
    return f"{_cell(psnr_curve.overall, 2, 11)}{_cell(ssim_curve.overall, 4, 11)}"


def _cell(value: Estimate, digits: int, width: int) -> str:
    # A single sequence has no interval.
    margin = f" ± {value.ci95:.{digits}f}" if value.ci95 == value.ci95 else ""
    return f"{shown(value.mean, digits):>{width}}{margin:<9}"


def _pixel_table(evaluation: Evaluation) -> list[str]:
    """PSNR from the mean squared error over the whole set, and ensemble scores, of all pixels and of the moving ones."""
    rows = [row for entry in evaluation.entries for row in _pixel_rows(entry)]
    width = max(len(label) for label, _ in rows)
    inside = f"inside {100 * CENTRAL:.0f} %"
    return [
        f"{'from sums over the whole set':{width}}{'PSNR dB':>24}{'CRPS x 1000':>18}{'spread / skill':>18}{inside:>18}",
        f"{'':{width}}" + "".join(f"{name:>8}" for name in CLASSES) + "".join(f"{name:>9}" for name in SCORED * 3),
        *(f"{label:{width}}{cells}".rstrip() for label, cells in rows),
    ]


def _pixel_rows(entry: Evaluated) -> list[tuple[str, str]]:
    label, every = entry.info.label, {name: entry.measured.pixels.scores(name) for name in CLASSES}
    psnr = {
        kind: "".join(_number(psnr_or_nan(getattr(scores, kind).overall), 2, 8) for scores in every.values())
        for kind in ("best", "sample", "mean")
    }
    scored = _ensemble_cells([every[name] for name in SCORED])
    if entry.samples == 1:
        return [(label, psnr["mean"] + scored)]
    return [
        (f"{label}, best of {entry.samples}", psnr["best"]),
        (f"{label}, average sample", psnr["sample"]),
        (f"{label}, mean of samples", psnr["mean"] + scored),
    ]


def _ensemble_cells(scores: list[PixelScores]) -> str:
    """CRPS, spread / skill and coverage of a forecast; of one sample the first alone."""
    crps = "".join(_number(_CRPS_UNIT * one.crps.overall, 2, 9) for one in scores)
    ratio = "".join(_number(one.spread_skill, 2, 9) for one in scores)
    return crps + ratio + "".join(_number(100 * one.coverage(), 1, 7, " %") for one in scores)


def _number(value: float, digits: int, width: int, unit: str = "") -> str:
    """`value`, or a dash for NaN: such as no pixels that move, or one sample, which has no spread."""
    return f"{shown(value, digits):>{width}}{unit}" if value == value else f"{'-':>{width}}{' ' * len(unit)}"


def _clip_table(rows: list[ClipGains]) -> list[str]:
    """Gains over repeating the last frame in every clip, the least first."""
    width = max(len(row.clip) for row in rows)
    lines = [
        f"{'dB above repeating the last frame':{width}}{'all pixels':>40}{'moving pixels':>27}",
        f"{'':{width}}{'sequences':>11}{'moving':>9}{'best':>8}{'average':>9}{'mean':>8}{'best':>9}{'average':>9}{'mean':>8}",
    ]
    for row in rows[:_MOST_CLIPS]:
        cells = [
            f"{row.sequences:>11}{100 * row.moving_share:>7.1f} %",
            _gain(row.gain_best, 8) + _gain(row.gain_sample, 9) + _gain(row.gain_mean, 8),
            _gain(row.moving_gain_best, 9) + _gain(row.moving_gain_sample, 9) + _gain(row.moving_gain_mean, 8),
        ]
        lines.append(f"{row.clip:{width}}{''.join(cells)}")
    if len(rows) > _MOST_CLIPS:
        lines.append(f"and {len(rows) - _MOST_CLIPS} clips with larger gains of the mean: --json or --page")
    return lines


def _gain(value: float, width: int) -> str:
    return f"{shown(value, 2, sign=True) if value == value else '-':>{width}}"


def _notes(evaluation: Evaluation) -> list[str]:
    measured, repeat = evaluation.model.measured, evaluation.repeat.measured
    best, last = measured.pixels.scores("all").best.overall, repeat.pixels.scores("all").mean.overall
    lines = [f"best above repeat: {shown(psnr_or_nan(best) - psnr_or_nan(last), 2, sign=True)} dB", *_ensemble_notes(measured)]
    if measured.distance is not None:
        steps = ", ".join(f"{n}: {value.mean:.2f}" for n, value in best_of_n(measured.psnr))
        spread, distance = measured.spread.mean(0), measured.distance.mean(0)
        lines += [
            f"PSNR of the best of n samples, dB: {steps}",
            f"diversity of the samples, first to last step: standard deviation {spread[0]:.4f} to {spread[-1]:.4f}, "
            f"distance of two samples {distance[0]:.4f} to {distance[-1]:.4f} (root mean square)",
        ]
    info = evaluation.model.info
    if not info.deterministic and not info.has_posterior:
        lines.append("approximate posterior: not available (a bundle without a graph for it, or a model without posterior)")
    return [*lines, *_learned_notes(measured)]


def _ensemble_notes(measured: Measurements) -> list[str]:
    every, moving = (measured.pixels.scores(name) for name in SCORED)
    share = f"{100 * moving.share.overall:.1f} % of the pixels"
    lines = [f"moving: {share}, those that differ from the last observed frame by more than {MOVED}"]
    if every.samples == 1:
        return [*lines, "one future: its CRPS is the mean absolute error; spread and coverage need samples"]
    for name, scores in zip(SCORED, (every, moving), strict=True):
        lines.append(f"spread / skill per lead, {name} pixels: {_listed(scores.spread_skill_per_step)}")
    if every.interval < CENTRAL:
        expected = f"{100 * every.interval:.0f} % expected"
        lines.append(f"{every.samples} samples show no 80 % interval: counted is what lies inside their range, {expected}")
    return lines


def _listed(values: Iterable[float]) -> str:
    return " ".join(_number(value, 2, 4) for value in values)


def _learned_notes(measured: Measurements) -> list[str]:
    lines = []
    if measured.lpips is None:
        lines.append("LPIPS: not computed (it needs weights: --lpips-weights FILE)")
    else:
        best, average = curve(best_sample(measured.lpips, lower_is_better=True)), curve(measured.lpips.mean(1))
        lines.append(f"LPIPS: best {_cell(best.overall, 4, 0).strip()}, average sample {_cell(average.overall, 4, 0).strip()}")
    if measured.fvd is None:
        lines.append("FVD: not computed (it needs weights: --fvd-weights FILE)")
    elif measured.fvd != measured.fvd:
        lines.append("FVD: not computed (a single sequence has no covariance: it needs --sequences 2 or more)")
    else:
        lines.append(f"FVD of one sample per sequence, observed frames included: {measured.fvd:.2f}")
    return lines
