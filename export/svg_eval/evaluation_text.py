"""An evaluation as human-readable tables."""

from __future__ import annotations

from svg_eval.clips import ClipGains
from svg_eval.evaluation_report import Evaluation
from svg_eval.score_tables import ScoreTable, frame_table, notes, pixel_table
from svg_eval.statistics import shown

_MOST_CLIPS = 30  # rows of a table
_GAP = 2  # between columns


def as_text(evaluation: Evaluation) -> str:
    """The metrics as tables, with their 95 % confidence intervals, and notes on them."""
    width = max(map(len, evaluation.described)) + 1
    head = [f"{name:<{width}}{what}" for name, what in evaluation.described.items()]
    scores = [*_table(frame_table(evaluation)), "", *_table(pixel_table(evaluation))]
    clips = ["", *_clip_table(evaluation.clip_gains())] if evaluation.clips else []
    return "\n".join([*head, "", *scores, *clips, "", *notes(evaluation)])


def _table(table: ScoreTable) -> list[str]:
    """Two lines of headings, and the rows; cells are aligned to the right, and so are the headings of groups."""
    labels = [table.title, "", *(row.label for row in table.rows)]
    width = max(map(len, labels))
    lines = [f"{label:{width}}" for label in labels]
    first = 0
    for group, names in table.groups.items():
        columns = [[name, *(row.cells[first + place] for row in table.rows)] for place, name in enumerate(names)]
        widths = [max(map(len, column)) + _GAP for column in columns]
        widths[0] = max(widths[0], len(group) + _GAP - sum(widths[1:])) + _GAP  # groups are further apart
        padded = [[f"{cell:>{width}}" for cell in column] for column, width in zip(columns, widths, strict=True)]
        cells = [f"{group:>{sum(widths)}}", *map("".join, zip(*padded, strict=True))]
        lines = [line + more for line, more in zip(lines, cells, strict=True)]
        first += len(names)
    return [line.rstrip() for line in lines]


def _clip_table(rows: list[ClipGains]) -> list[str]:
    """Gains over repeating the last frame in every clip, the least first."""
    title = "dB above repeating the last frame"
    width = max(len(title), *(len(row.clip) for row in rows))
    lines = [
        f"{title:{width}}{'all pixels':>40}{'moving pixels':>27}",
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
