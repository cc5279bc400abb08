"""What pays in `anomaly.py`: scorings one after the other, chosen on clips that were made anomalous, with test areas beside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
from anomaly_scores import CELL, Floats, Normalise, Scoring, comparable, raw_scores
from goal_metrics import aligned
from numpy.typing import NDArray

from svg_eval.roc import Areas, areas

NORMALISE: tuple[Normalise, ...] = get_args(Normalise)
PUBLISHED = {  # micro, in percent, each clip from 0 to 1 ("clip")
    "ConvAE (Hasan et al., CVPR 2016)": 90.0,
    "FramePred (Liu et al., CVPR 2018)": 95.4,
    "Conv-VRNN (Lu et al., AVSS 2019)": 96.1,
}
_BLOCKS = (8, 16, 32, 64)
_TOPS = (4, 16, 64)
_SMOOTH = 10  # frames: a second
_HEADER = ["", "made", *NORMALISE, "macro", ""]

Maps = Mapping[str, Floats]  # of each clip (T, leads, h, w)
Labels = Mapping[str, NDArray[np.bool_]]


@dataclass(frozen=True)
class Group:
    """Clips with labels: maps of the errors, and of the surprise of tiles."""

    errors: Maps
    surprise: Maps
    labels: Labels


@dataclass(frozen=True)
class Row:
    """One scoring: its area on the made clips, and on the test clips with each way to normalise."""

    name: str
    error: Scoring | None
    surprise: Scoring | None
    made: float
    test: dict[Normalise, Areas]

    def cells(self, chosen: bool) -> list[str]:
        """For the table, in percent."""
        micro = [f"{100 * self.test[way].micro:.1f}" for way in NORMALISE]
        return [self.name, f"{100 * self.made:.1f}", *micro, f"{100 * self.test['none'].macro:.1f}", "chosen" if chosen else ""]


class Comparison:
    """Areas of scorings.

    Args:
        normal: clips without anomalies, which say what is usual; their labels are not read.
        made: held-out normal clips made anomalous: the best area on these chooses.
        test: the test clips.
    """

    def __init__(self, normal: Group, made: Group, test: Group) -> None:
        self._normal = normal
        self._made = made
        self._test = test

    def row(self, name: str, error: Scoring | None, surprise: Scoring | None = None) -> Row:
        """Areas of scores by the error, by the surprise, or by the sum of both."""
        made = areas(self._scores(self._made, error, surprise)["none"], self._made.labels).micro
        test = {way: areas(each, self._test.labels) for way, each in self._scores(self._test, error, surprise).items()}
        return Row(name=name, error=error, surprise=surprise, made=made, test=test)

    def _scores(self, group: Group, error: Scoring | None, surprise: Scoring | None) -> dict[Normalise, dict[str, Floats]]:
        """Of each way to normalise, the scores of the clips."""
        kinds = [
            (scoring, raw_scores(clips, normal, scoring))
            for scoring, clips, normal in (
                (error, group.errors, self._normal.errors),
                (surprise, group.surprise, self._normal.surprise),
            )
            if scoring is not None
        ]
        return {way: _sums([comparable(*raw, replace(scoring, normalise=way)) for scoring, raw in kinds]) for way in NORMALISE}

    def stages(self, leads: int) -> list[tuple[Row, bool]]:
        """All scorings, and whether each was chosen. Each stage changes one thing of the best so far."""
        best = self.row("whole picture", Scoring(block=0))
        rows, chosen = [best], []
        for changes in _changes(leads):
            tried = [self.row(name, replace(best.error or Scoring(), **change)) for name, change in changes.items()]
            best = max([best, *tried], key=lambda each: each.made)
            rows += tried
            chosen.append(best)
        error = best.error or Scoring()
        rows.append(self.row(f"running mean of {_SMOOTH} frames", replace(error, smooth=_SMOOTH)))
        if any(np.isfinite(each).any() for each in self._test.surprise.values()):
            rows += self._with_surprise(error)
        return [(each, each in chosen) for each in rows]

    def _with_surprise(self, error: Scoring) -> list[Row]:
        largest = Scoring(block=CELL)
        here = replace(largest, place=True)
        rows = [
            self.row("surprise, largest tile", None, largest),
            self.row("surprise, relative to its place", None, here),
        ]
        better = max(rows, key=lambda each: each.made).surprise or largest
        both = self.row("error and surprise", error, better)
        second = self.row(
            f"both, running mean of {_SMOOTH} frames", replace(error, smooth=_SMOOTH), replace(better, smooth=_SMOOTH)
        )
        return [*rows, both, second]


def _sums(kinds: list[dict[str, Floats]]) -> dict[str, Floats]:
    """Of each clip the sum of the kinds of scores."""
    return {name: np.sum([kind[name] for kind in kinds], axis=0) for name in kinds[0]}


def _changes(leads: int) -> list[dict[str, dict[str, Any]]]:
    """What each stage tries."""
    return [
        {f"largest block of {side} px": {"block": side} for side in _BLOCKS},
        {"relative to its place": {"place": True}},
        {f"mean of the {top} largest": {"top": top} for top in _TOPS},
        {f"forecasts of 1 to {number} frames": {"leads": number} for number in range(2, leads + 1)},
    ]


def lines(stages: list[tuple[Row, bool]]) -> list[str]:
    """The table, and published areas."""
    rows = [_HEADER, *(row.cells(chosen) for row, chosen in stages)]
    published = [f"  {name}: {area:.1f}" for name, area in PUBLISHED.items()]
    return [*aligned(rows), "", "published (micro, clip):", *published]


def as_json(stages: list[tuple[Row, bool]]) -> dict[str, Any]:
    """All numbers."""
    return {"rows": [{**asdict(row), "chosen": chosen} for row, chosen in stages], "published": PUBLISHED}
