"""Text tables with grouped columns, and rows that are one sentence instead of figures."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

_GAP = "  "


@dataclass(frozen=True)
class Group:
    """Columns under one heading."""

    heading: str
    titles: tuple[str, ...]


@dataclass(frozen=True)
class Line:
    """One row: its labels, then a cell per column, or a sentence in their place."""

    labels: tuple[str, ...]
    cells: tuple[str, ...] = ()
    sentence: str = ""


def format_table(labels: tuple[str, ...], groups: Sequence[Group], lines: Sequence[Line], width: int) -> list[str]:
    """Lines of text. Labels are aligned left, figures right; sentences wrap at `width`.

    Args:
        labels: titles of the label columns.
        groups: the columns of figures.
        lines: each with a cell per column of `groups`, or a sentence.
        width: of the terminal, in characters. Figures are never cut: see `table_width`.
    """
    label_widths, cell_widths = _widths(labels, groups, lines)
    indent = sum(label_widths) + len(_GAP) * len(label_widths)
    above, titles, at = " " * indent, _row(labels, label_widths, left=True), 0
    for group in groups:
        widths = cell_widths[at : at + len(group.titles)]
        at += len(group.titles)
        above += group.heading.center(sum(widths) + len(_GAP) * (len(widths) - 1)) + _GAP
        titles += _GAP + _row(group.titles, widths)
    text = [above.rstrip(), titles.rstrip()]
    for line in lines:
        start = _row(line.labels, label_widths, left=True) + _GAP
        if line.sentence:
            text += textwrap.wrap(line.sentence, max(width, indent + 20), initial_indent=start, subsequent_indent=" " * indent)
        else:
            text.append((start + _row(line.cells, cell_widths)).rstrip())
    return text


def table_width(labels: tuple[str, ...], groups: Sequence[Group], lines: Sequence[Line]) -> int:
    """Characters that the figures need."""
    label_widths, cell_widths = _widths(labels, groups, lines)
    widths = [*label_widths, *cell_widths]
    return sum(widths) + len(_GAP) * (len(widths) - 1)


def _widths(labels: tuple[str, ...], groups: Sequence[Group], lines: Sequence[Line]) -> tuple[list[int], list[int]]:
    counting = [line.labels for line in lines if line.cells] or [line.labels for line in lines]  # sentences may begin later
    label_widths = [max(map(len, column)) for column in zip(labels, *counting, strict=True)]
    titles = [title for group in groups for title in group.titles]
    cells = [max(map(len, column)) for column in zip(titles, *(line.cells for line in lines if line.cells), strict=True)]
    at = 0
    for group in groups:  # a heading may be wider than its columns
        count = len(group.titles)
        spare = len(group.heading) - sum(cells[at : at + count]) - len(_GAP) * (count - 1)
        cells[at] += max(0, spare)
        at += count
    return label_widths, cells


def _row(cells: Sequence[str], widths: Sequence[int], left: bool = False) -> str:
    return _GAP.join(cell.ljust(width) if left else cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
