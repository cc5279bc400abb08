"""Areas of all signals, online and per clip, as a table and as JSON values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from svg_common.errors import UsageError
from svg_common.printable import one_line
from svg_eval.anomaly.clip_scores import SIGNALS, ClipScores, Scores
from svg_eval.anomaly.run import AnomalyEvaluation
from svg_eval.roc import Areas, areas, average_precision, roc_area
from svg_eval.statistics import significant

_ORDER = ("error", "surprise", "motion", "scene", "camera_motion", "combined")
_NAMES = {
    "error": "prediction error",
    "surprise": "surprise",
    "motion": "motion",
    "scene": "change of scene",
    "camera_motion": "camera motion",
    "combined": "all combined",
}


@dataclass(frozen=True)
class Row:
    """One signal with one way to normalise it."""

    signal: str
    roc: Areas
    precision: Areas  # average precision

    @property
    def name(self) -> str:
        """Human-readable."""
        return _NAMES.get(self.signal, self.signal)


@dataclass(frozen=True)
class AnomalyReport:
    """The result of a run.

    Attributes:
        online: each signal as svg-live has it at that moment, in robust standard deviations.
        per_clip: each signal from 0 to 1 in each clip, which only the whole clip can tell, as papers do.
    """

    evaluation: AnomalyEvaluation
    online: tuple[Row, ...]
    per_clip: tuple[Row, ...]

    @property
    def described(self) -> dict[str, str]:
        """What was evaluated."""
        clips = self.evaluation.clips
        pictures, labelled = sum(len(clip.mask) for clip in clips), sum(int(clip.mask.sum()) for clip in clips)
        scored, anomalous = sum(len(clip.numbers) for clip in clips), sum(int(clip.anomalous.sum()) for clip in clips)
        both = sum(has_both_kinds(clip) for clip in clips)
        empty, hidden = sum(len(clip.empty) for clip in clips), sum(int(clip.mask[clip.empty].sum()) for clip in clips)
        left_out = (
            f"{empty} frames are blank or frozen, {hidden} of them anomalous: no score, nor of what was forecast from them"
        )
        return {
            "model": self.evaluation.model,
            "data": self.evaluation.data,
            "labels": self.evaluation.labels,
            "frames": f"{pictures} in {len(clips)} clips, {labelled} of them anomalous",
            "scored": f"{scored} frames, {anomalous} of them anomalous; {both} clips have both kinds",
            **({"empty": left_out} if empty else {}),
        }

    @property
    def notes(self) -> list[str]:
        """How to read the table."""
        return [
            "online: as svg-live normalises each signal, by what it has seen of the clip before; "
            "per clip: from 0 to 1 between smallest and largest of the clip, as papers do, which only the whole clip tells",
            "micro: frames of all clips together; macro: mean over clips that have both kinds; AP: average precision, micro",
            f"not scored, in any column: {self.evaluation.n_past} or more frames at a clip's start, until there is a forecast, "
            "blank or frozen ones and as many after them, and frames that the model does not see; "
            "while online signals settle, they are 0",
        ]


def report(evaluation: AnomalyEvaluation) -> AnomalyReport:
    """Measure all areas.

    Raises:
        UsageError: the scored frames are all normal or all anomalous.
    """
    anomalous = sum(int(clip.anomalous.sum()) for clip in evaluation.clips)
    scored = sum(len(clip.numbers) for clip in evaluation.clips)
    if not 0 < anomalous < scored:
        raise UsageError(
            f"of the {scored} frames that the model could score, {anomalous} are anomalous: a ROC area needs both kinds\n"
            f"  {_why_one_kind(evaluation)}"
        )
    scored_clips = [clip for clip in evaluation.clips if len(clip.numbers)]
    raw = [*scored_clips[0].raw, "combined"]
    online = [name for name in SIGNALS if name in (*raw, "motion", "scene", "camera_motion")]
    return AnomalyReport(
        evaluation=evaluation,
        online=tuple(_row(scored_clips, name, lambda clip, name: clip.online[name]) for name in _ordered(online)),
        per_clip=tuple(_row(scored_clips, name, lambda clip, name: clip.per_clip[name]) for name in _ordered(raw)),
    )


def _why_one_kind(evaluation: AnomalyEvaluation) -> str:
    """Where the frames of the missing kind are, and what to do about it."""
    clips = [clip for clip in evaluation.clips if len(clip.numbers)]
    if not clips:
        return f"expected clips of more than {evaluation.n_past + 1} pictures that the model sees, and not all blank or frozen"
    kind, want = ("normal", False) if any(clip.anomalous.any() for clip in clips) else ("anomalous", True)
    early = sum(int((clip.mask[: clip.numbers[0]] == want).sum()) for clip in clips)
    empty = sum(int((clip.mask[clip.empty[clip.empty > clip.numbers[0]]] == want).sum()) for clip in clips)
    every = sum(int((clip.mask == want).sum()) for clip in evaluation.clips)
    shortest = min(clips, key=lambda clip: clip.numbers[0])
    places = {
        f"before the first score of their clip (in {one_line(shortest.name)}, after {shortest.numbers[0]} frames)": early,
        "blank or frozen, which svg-live reports as events and not as alarms": empty,
        "without a score for another reason: too short a clip, a pause, or not seen by the model": every - early - empty,
    }
    found = "; ".join(f"{count} {'is' if count == 1 else 'are'} {place}" for place, count in places.items() if count)
    return f"of {every} {kind} frames, {found}\n  expected frames of both kinds after the first score of a clip"


def _ordered(names: list[str]) -> list[str]:
    return [name for name in _ORDER if name in names]


def _row(clips: list[ClipScores], name: str, scores_of: Callable[[ClipScores, str], Scores]) -> Row:
    scores = {clip.name: scores_of(clip, name) for clip in clips}
    labels = {clip.name: clip.anomalous for clip in clips}
    return Row(name, areas(scores, labels, roc_area), areas(scores, labels, average_precision))


def has_both_kinds(clip: ClipScores) -> bool:
    """Whether a clip has scored frames of both kinds, and so a ROC area of its own."""
    return 0 < int(clip.anomalous.sum()) < len(clip.anomalous)


def table(result: AnomalyReport) -> list[list[str]]:
    """Rows of cells: header, then one per signal; a dash where a signal is not defined, as the scene without hindsight."""
    per_clip = {row.signal: row for row in result.per_clip}
    head = ["ROC area, %", "online: micro", "macro", "AP", "per clip: micro", "macro", "AP"]
    rows = [[row.name, *_cells(row), *_cells(per_clip.get(row.signal))] for row in result.online]
    return [head, *rows]


def _cells(row: Row | None) -> list[str]:
    values = (row.roc.micro, row.roc.macro, row.precision.micro) if row else (float("nan"),) * 3
    return ["-" if value != value else f"{100 * value:.1f}" for value in values]


def as_text(result: AnomalyReport) -> str:
    """Human-readable: what was evaluated, the table, and how to read it."""
    head = [f"{name:<8}{what}" for name, what in result.described.items()]
    rows = table(result)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]
    return "\n".join([*head, "", *lines, "", *result.notes])


def as_json(result: AnomalyReport) -> dict[str, Any]:
    """Plain values; NaN, where no clip has both kinds of frames, as null."""
    evaluation = result.evaluation
    return {
        **result.described,
        "n_past": evaluation.n_past,
        "online": {row.signal: _row_values(row) for row in result.online},
        "per_clip": {row.signal: _row_values(row) for row in result.per_clip},
        "clips": [_clip_values(clip) for clip in evaluation.clips],
    }


def _row_values(row: Row) -> dict[str, Any]:
    return {"roc_area": _areas(row.roc), "average_precision": _areas(row.precision)}


def _areas(values: Areas) -> dict[str, float | None]:
    return {name: _number(value) for name, value in asdict(values).items()}


def _number(value: float) -> float | None:
    return significant(value) if value == value else None


def _clip_values(clip: ClipScores) -> dict[str, Any]:
    """Areas are of the online signals in this clip alone; scores are those of the numbered pictures."""
    both = has_both_kinds(clip)
    return {
        "name": one_line(clip.name),
        "pictures": len(clip.mask),
        "labelled": int(clip.mask.sum()),
        "scored": len(clip.numbers),
        "empty": clip.empty.tolist(),
        "roc_area": {name: _number(roc_area(clip.online[name], clip.anomalous)) for name in SIGNALS} if both else None,
        "numbers": clip.numbers.tolist(),
        "anomalous": clip.anomalous.tolist(),
        "online": {name: [_number(value) for value in values] for name, values in clip.online.items()},
    }
