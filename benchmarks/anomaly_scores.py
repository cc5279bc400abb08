"""From error maps to one score per frame. Used by `anomaly.py`.

Two stages, each with its options in `Scoring`: a map becomes a number (block, top, place), and numbers become comparable
between clips (normalise, smooth).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import cv2
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Normalise = Literal["none", "live", "running", "clip"]
CELL = 4  # pixels: side of the squares whose mean errors are kept


@dataclass(frozen=True)
class Scoring:
    """How a frame gets its score.

    Attributes:
        block: side in pixels of the blocks over which errors are averaged, a multiple of 4; 0: the whole picture.
        top: number of largest blocks whose mean is the score; blocks overlap, one begins every 4 pixels.
        place: relative to what is usual there on normal frames.
        leads: forecasts made 1, ..., leads frames earlier; their errors are averaged.
        smooth: frames of the running mean: the last ones; with `normalise` "clip", half of them before and half after.
        normalise: "none": the score itself, over its mean on normal frames. "live": over the mean of all earlier scores of the
            clip. "running": the same, but the mean begins with the normal frames, as if the camera had run on them before.
            "clip": from 0 to 1 between the smallest and the largest score of the clip, which only the whole clip can tell: what
            papers do (Liu et al., CVPR 2018, equation 8).
    """

    block: int = 16
    top: int = 1
    place: bool = False
    leads: int = 1
    smooth: int = 1
    normalise: Normalise = "none"


def usual_errors(maps: Sequence[Floats]) -> Floats:
    """What to divide errors by: (h, w) mean of the (T, h, w) maps of normal clips at each place, plus the mean of all places.

    Without the latter, the noise of a place where nothing ever moves would count as much as a walker elsewhere.
    """
    frames = np.concatenate(list(maps))
    known = frames[np.isfinite(frames).all((1, 2))].mean(0, dtype=np.float64)
    return known + known.mean()


def block_means(maps: Floats, cells: int) -> Floats:
    """(T, h, w) -> means over all blocks of cells x cells, (T, h - cells + 1, w - cells + 1); 0: over everything, (T, 1, 1)."""
    if not cells:
        return maps.mean((1, 2), keepdims=True)
    if cells > min(maps.shape[1:]):
        raise ValueError(f"a block of {cells} x {cells} cells does not fit in a map of {maps.shape[1]} x {maps.shape[2]}")
    before, after = (cells - 1) // 2, cells // 2
    inside = slice(before, maps.shape[1] - after), slice(before, maps.shape[2] - after)
    anchor = (before, before)
    return np.stack([cv2.blur(each, (cells, cells), anchor=anchor)[inside] for each in maps])


def largest(maps: Floats, top: int) -> Floats:
    """(T, h, w) -> (T,) mean of the `top` largest values, nan where the map is."""
    flat = maps.reshape(len(maps), -1)
    rest = max(flat.shape[1] - top, 0)
    return np.partition(flat, rest, axis=1)[:, rest:].mean(1, dtype=np.float64)  # nan is sorted last


def _over_leads(errors: Floats, leads: int) -> Floats:
    """(T, leads, h, w) -> (T, h, w) mean over the forecasts that were made; nan where none was."""
    if leads == 1:
        return errors[:, 0]
    chosen = errors[:, :leads]
    made = np.isfinite(chosen)
    with np.errstate(invalid="ignore"):
        return np.where(made, chosen, 0).sum(1) / made.sum(1)


def raw_scores(clips: Mapping[str, Floats], normal: Mapping[str, Floats], scoring: Scoring) -> tuple[dict[str, Floats], int]:
    """Score frames by block, place, leads and top.

    Args:
        clips: of each clip (T, leads, h, w) errors: mean squares over cells of 4 x 4 pixels, nan where no forecast was made.
        normal: the same of clips without anomalies, which say what is usual.
        scoring: the options.

    Returns:
        Of each clip (T,) scores, relative to their mean on the normal clips, nan where no forecast was made; and the number of
        normal frames.
    """
    maps, usual_maps = ({name: _blocks(each, scoring) for name, each in group.items()} for group in (clips, normal))
    if scoring.place:
        usual = usual_errors(list(usual_maps.values()))
        maps, usual_maps = ({name: each / usual for name, each in group.items()} for group in (maps, usual_maps))
    known = np.concatenate([largest(each, scoring.top) for each in usual_maps.values()])
    known = known[np.isfinite(known)]
    return {name: largest(each, scoring.top) / known.mean() for name, each in maps.items()}, len(known)


def comparable(raw: Mapping[str, Floats], normal_frames: int, scoring: Scoring) -> dict[str, Floats]:
    """Smooth and normalise the scores of all clips, each (T,). Two kinds of scores may then be added."""
    return {name: normalised(smoothed(each, scoring), scoring, normal_frames) for name, each in raw.items()}


def _blocks(errors: Floats, scoring: Scoring) -> Floats:
    """(T, leads, h, w) cells -> (T, h', w') blocks."""
    return block_means(_over_leads(errors, scoring.leads), scoring.block // CELL)


def smoothed(scores: Floats, scoring: Scoring) -> Floats:
    """Running mean: of the last frames, or, where the whole clip is known, of those on both sides."""
    known = np.isfinite(scores)
    values = scores[known]
    before = scoring.smooth - 1
    after = scoring.smooth // 2 if scoring.normalise == "clip" else 0
    before -= after
    sums = np.concatenate([[0.0], np.cumsum(values)])
    positions = np.arange(len(values))
    first, last = np.maximum(positions - before, 0), np.minimum(positions + after + 1, len(values))
    result = np.full(len(scores), np.nan)
    result[known] = (sums[last] - sums[first]) / (last - first)
    return result


def normalised(scores: Floats, scoring: Scoring, normal_frames: int) -> Floats:
    """Comparable between clips. `scores` are relative to their mean on `normal_frames` frames without anomalies."""
    if scoring.normalise == "none":
        return scores
    known = np.isfinite(scores)
    values = scores[known]
    result = np.full(len(scores), np.nan)
    if scoring.normalise == "clip":
        result[known] = (values - values.min()) / max(float(np.ptp(values)), 1e-12)
        return result
    # The sum and number of earlier scores; `normal_frames` scores of mean 1 come before those of the clip.
    start = normal_frames if scoring.normalise == "running" else 0
    earlier = start + np.concatenate([[0.0], np.cumsum(values)[:-1]])
    counts = start + np.arange(len(values))
    with np.errstate(invalid="ignore", divide="ignore"):
        result[known] = np.where(earlier > 0, values * counts / earlier, np.nan)
    return result
