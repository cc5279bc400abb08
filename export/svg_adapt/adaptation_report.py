"""The report of an adaptation as text: what was gained, whether that is worth it, and what to run next."""

from __future__ import annotations

import math
from pathlib import Path

from svg_adapt.comparison import Comparison, Gain, Scores
from svg_common.files import atomic_file
from svg_common.path_advice import shell_argument
from svg_common.quantities import count_text, duration_text

TEXT = "adaptation.txt"  # in the folder of the run
_STILL = 0.01  # share of moving pixels below which there is little to learn from
_SHORT_S = 600.0  # of held-out and training part together


def write_text(out: Path, text: str) -> None:
    """Write the text of the report."""
    with atomic_file(out / TEXT) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


def as_text(comparison: Comparison) -> str:
    """The comparison as a table."""
    width = max(len(comparison.start_name), len("repeating the last frame")) + len("gain over ")
    seconds = comparison.horizon * comparison.frame_interval_s
    rows = [
        ("adapted", *(_db(scores.adapted) for scores in _both(comparison))),
        (comparison.start_name, *(_db(scores.start) for scores in _both(comparison))),
        ("repeating the last frame", *(_db(scores.repeat) for scores in _both(comparison))),
        (f"gain over {comparison.start_name}", *(_gain(scores.over_start) for scores in _both(comparison))),
        ("gain over repeating", *(_gain(scores.over_repeat) for scores in _both(comparison))),
    ]
    return "\n".join(
        [
            f"held-out part, never trained on: {comparison.sequences} forecasts of {seconds:.3g} s, not post-processed, "
            f"PSNR of the mean of {count_text(comparison.samples, 'sample')} in dB, ± standard error",
            f"{'':{width}}{'all pixels':>16}{f'moving ({100 * comparison.moving_share:.1f} %)':>18}",
            *(f"{name:{width}}{every:>16}{moving:>18}" for name, every, moving in rows),
        ]
    )


def verdict(
    comparison: Comparison,
    bundle: Path,
    checkpoint: Path,
    start: str,
    source: str,
    recorded_s: float | None,
    kept_s: float | None = None,
    has_ended: bool = False,
) -> str:
    """Whether the adapted model is worth it, and the command to run next.

    Args:
        comparison: of the held-out part.
        bundle: of the adapted model, if it is worth it.
        checkpoint: of the adapted model.
        start: the command that runs the model that it started from.
        source: how svg-live is given the camera.
        recorded_s: seconds that were recorded; None for clips.
        kept_s: seconds that the limit of the recording left of them; None if that is all.
        has_ended: whether the source has no more.
    """
    reasons, below = comparison.reasons_against, _below_repeating(comparison)
    if not reasons:
        run = f"  run it with: svg-live --model {shell_argument(bundle)} {source}"
        return "\n".join([f"worth it: wrote {bundle}", *below, run])
    return "\n".join(
        [
            f"NOT worth it: keep {comparison.start_name}. No bundle was written, because",
            *(f"  - {reason}" for reason in reasons),
            *below,
            *(f"  {advice}" for advice in _advice(comparison, recorded_s, kept_s, has_ended)),
            f"  run that one with: {start}",
            f"  export this one all the same with: svg-export {shell_argument(checkpoint)}",
        ]
    )


def _below_repeating(comparison: Comparison) -> list[str]:
    """What a reader of the table would ask about a model that is below repeating the last frame."""
    scores = comparison.all
    if not scores.over_repeat.db < 0:
        return []
    below = f"by itself it is {-scores.over_repeat.db:.2f} dB below repeating the last frame"
    start = f"{comparison.start_name} is {scores.start - scores.repeat:+.2f} dB from it"
    return [f"  {below}; {start}; svg-live corrects both by what came after earlier forecasts"]


def _advice(comparison: Comparison, recorded_s: float | None, kept_s: float | None, has_ended: bool) -> list[str]:
    """What may help, the likeliest first."""
    advice = []
    if comparison.moving_share < _STILL:
        share = f"{100 * comparison.moving_share:.2f} %"
        advice.append(f"little moves: {share} of the held-out pixels; record when more is going on, or nearer to it")
    if recorded_s is not None and kept_s is not None and kept_s < _SHORT_S:
        kept = f"only {duration_text(kept_s)} of the {duration_text(recorded_s)} recorded were kept"
        advice.append(f"{kept}; record again with a larger --record-limit, in another --out")
    elif recorded_s is not None and recorded_s < _SHORT_S:
        more = "take a longer one, with another --out" if has_ended else "record longer, such as with --record 20m"
        advice.append(f"only {duration_text(recorded_s)} were recorded{' until the source ended' * has_ended}; {more}")
    return [*advice, "train longer, such as with --train 1h, or with a lower --lr, in another --out"]


def _both(comparison: Comparison) -> tuple[Scores, Scores]:
    return comparison.all, comparison.moving


def _db(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.2f}"


def _gain(value: Gain) -> str:
    if math.isnan(value.db):
        return "-"
    return f"{value.db:+.2f}" if math.isnan(value.error) else f"{value.db:+.2f} ± {value.error:.2f}"
