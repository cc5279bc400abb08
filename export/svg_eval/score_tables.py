"""The scores of an evaluation as cells of tables, and notes on them: the text and the page of svg-eval show the same ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from svg_common.frame_statistics import MOVED
from svg_eval.ensemble import CENTRAL
from svg_eval.evaluation_report import Evaluated, Evaluation
from svg_eval.measure import Measurements
from svg_eval.pixels import CLASSES, SCORED, PixelClass, PixelScores, psnr_or_nan
from svg_eval.statistics import Array, Estimate, best_of_n, best_sample, curve, shown

_CRPS_UNIT = 1000  # CRPS is shown in thousandths of the range of frames
_INTERVAL = "± 95 %"


@dataclass(frozen=True)
class ScoreRow:
    """One row of a table.

    Attributes:
        label: of what is scored.
        cells: one per column; empty where a score does not apply.
        begins: whether it is the first row of a model.
    """

    label: str
    cells: tuple[str, ...]
    begins: bool = True


@dataclass(frozen=True)
class ScoreTable:
    """A table of scores.

    Attributes:
        title: what its scores are means of.
        groups: columns by their common heading.
        rows: in order.
    """

    title: str
    groups: Mapping[str, tuple[str, ...]]
    rows: tuple[ScoreRow, ...]


def frame_table(evaluation: Evaluation) -> ScoreTable:
    """PSNR and SSIM of frames with 95 % confidence intervals, and the published values of a protocol."""
    rows = [row for entry in evaluation.entries for row in _frame_rows(entry)]
    for published in evaluation.protocol.published if evaluation.protocol else ():
        cells = (shown(published.psnr, 2), "", shown(published.ssim, 4), "")
        rows.append(ScoreRow(f"published: {published.method}, best of 100", cells))
    groups = {"PSNR dB": ("mean", _INTERVAL), "SSIM": ("mean", _INTERVAL)}
    return ScoreTable("mean over frames and sequences", groups, tuple(rows))


def _frame_rows(entry: Evaluated) -> Iterator[ScoreRow]:
    measured, label = entry.measured, entry.info.label
    if entry.samples == 1:
        yield ScoreRow(label, _frame_cells(measured.psnr[:, 0], measured.ssim[:, 0]))
        return
    yield ScoreRow(f"{label}, best of {entry.samples}", _frame_cells(best_sample(measured.psnr), best_sample(measured.ssim)))
    yield ScoreRow(f"{label}, average sample", _frame_cells(measured.psnr.mean(1), measured.ssim.mean(1)), begins=False)


def _frame_cells(psnr: Array, ssim: Array) -> tuple[str, ...]:
    """Of values (N, T)."""
    return (*_with_interval(curve(psnr).overall, 2), *_with_interval(curve(ssim).overall, 4))


def _with_interval(value: Estimate, digits: int) -> tuple[str, str]:
    # A single sequence has no interval.
    return shown(value.mean, digits), f"± {value.ci95:.{digits}f}" if value.ci95 == value.ci95 else ""


def pixel_table(evaluation: Evaluation) -> ScoreTable:
    """PSNR from the mean squared error over the whole set, and ensemble scores, of all pixels and of the moving ones."""
    groups: dict[str, tuple[str, ...]] = {
        "PSNR dB": CLASSES, f"CRPS x {_CRPS_UNIT}": SCORED, "spread / skill": SCORED, f"inside {100 * CENTRAL:.0f} %": SCORED,
    }  # fmt: skip
    rows = [row for entry in evaluation.entries for row in _pixel_rows(entry)]
    return ScoreTable("from sums over the whole set", groups, tuple(rows))


def _pixel_rows(entry: Evaluated) -> Iterator[ScoreRow]:
    scores = {name: entry.measured.pixels.scores(name) for name in CLASSES}
    label, of_mean = entry.info.label, (*_psnr_cells(scores, "mean"), *_ensemble_cells(scores))
    if entry.samples == 1:
        yield ScoreRow(label, of_mean)
        return
    no_ensemble = ("",) * (3 * len(SCORED))
    yield ScoreRow(f"{label}, best of {entry.samples}", (*_psnr_cells(scores, "best"), *no_ensemble))
    yield ScoreRow(f"{label}, average sample", (*_psnr_cells(scores, "sample"), *no_ensemble), begins=False)
    yield ScoreRow(f"{label}, mean of samples", of_mean, begins=False)


def _psnr_cells(scores: Mapping[PixelClass, PixelScores], kind: str) -> list[str]:
    return [_number(psnr_or_nan(getattr(one, kind).overall), 2) for one in scores.values()]


def _ensemble_cells(scores: Mapping[PixelClass, PixelScores]) -> list[str]:
    """CRPS, spread / skill and coverage; of one sample the first alone."""
    scored = [scores[name] for name in SCORED]
    return [
        *(_number(_CRPS_UNIT * one.crps.overall, 2) for one in scored),
        *(_number(one.spread_skill, 2) for one in scored),
        *(_number(100 * one.coverage(), 1, " %") for one in scored),
    ]


def _number(value: float, digits: int, unit: str = "") -> str:
    """`value`, or a dash for NaN: such as no pixels that move, or one sample, which has no spread."""
    return f"{shown(value, digits)}{unit}" if value == value else "-"


def notes(evaluation: Evaluation) -> list[str]:
    """What the tables do not say: gain, best of n, spread, diversity, learned metrics, and what was not computed."""
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
    if evaluation.protocol and not evaluation.protocol.published:
        lines.append("published values: none are known for this protocol")
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
    return " ".join(_number(value, 2) for value in values)


def _learned_notes(measured: Measurements) -> list[str]:
    lines = []
    if measured.lpips is None:
        lines.append("LPIPS: not computed (it needs weights: --lpips-weights FILE)")
    else:
        best, average = curve(best_sample(measured.lpips, lower_is_better=True)), curve(measured.lpips.mean(1))
        of_best, of_average = (" ".join(_with_interval(each.overall, 4)).strip() for each in (best, average))
        lines.append(f"LPIPS: best {of_best}, average sample {of_average}")
    if measured.fvd is None:
        lines.append("FVD: not computed (it needs weights: --fvd-weights FILE)")
    elif measured.fvd != measured.fvd:
        lines.append("FVD: not computed (a single sequence has no covariance: it needs --sequences 2 or more)")
    else:
        lines.append(f"FVD of one sample per sequence, observed frames included: {measured.fvd:.2f}")
    return lines
