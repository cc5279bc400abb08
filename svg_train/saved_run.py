"""What the folder of a run says of it: whether there is one, how far it came, and whether it can go on."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from svg_common.errors import SvgError, UsageError
from svg_common.frame_statistics import TrainingData
from svg_common.path_advice import shell_argument
from svg_train.checkpoint import Checkpoint, CheckpointError, load_checkpoint
from svg_train.data.statistics import is_same_data, is_same_description
from svg_train.journal import foreign_line
from svg_train.run_folder import BEST, LAST, METRICS
from svg_train.run_length import RunLength

SCORE = "psnr_best"  # of the evaluations: the model with the highest one is kept


def resume_point(out: Path) -> Checkpoint:
    """The state from which the run in `out` goes on.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        UsageError: it holds no training state, or the run is complete.
    """
    if (out / BEST).exists() and not (out / LAST).exists():
        raise CheckpointError(
            f"the run in '{out}' ended before its first save: there is no {LAST} to continue from\n{_anew(out)}"
        )
    if not (out / LAST).exists():
        raise CheckpointError(
            f"there is no run in '{out}': no {LAST}\n  expected the --out of a run; start a new one without --resume"
        )
    checkpoint = load_checkpoint(out / LAST)
    if checkpoint.training is None:
        raise UsageError(f"'{out / LAST}' contains no training state\n  expected the last.pt of a run that svg-train started")
    if is_complete(checkpoint):
        raise UsageError(f"the run in '{out}' is complete ({checkpoint.step} steps)\n  start a new one with another --out")
    return checkpoint


def saved_precision(checkpoint: Checkpoint | None) -> str | None:
    """The precision in which a run was saved; older checkpoints do not have it."""
    training = checkpoint.training if checkpoint is not None else None
    return None if training is None else training.get("precision")


def refuse_other_data(out: Path, saved: Checkpoint, found: TrainingData, files: dict[str, str]) -> None:
    """Refuse to go on with other data: frames that were held out would be trained on.

    Checkpoints of older versions know less of their data, or nothing.

    Args:
        out: folder of the run.
        saved: its last.pt.
        found: the data that it would go on with.
        files: fingerprints of the files of each split, where there are files.

    Raises:
        UsageError: with what is different.
    """
    known, before = saved.training_data, (saved.training or {}).get("data_files", {})
    other = [split for split in before.keys() & files.keys() if before[split] != files[split]]
    if known is not None and not is_same_description(known, found):
        what = f"was trained on {known.description}\n  found {found.description}"
    elif known is not None and not is_same_data(known, found):
        what = "was trained on other frames"
    elif other:
        what = "was trained on other files, or in another order" if "train" in other else "held out other files"
    else:
        return
    raise UsageError(
        f"the run in '{out}' {what}\n"
        "  continue it with the same files as before, or start another run from its weights, "
        f"with the options of this one, another --out, and: --init {shell_argument(out / BEST)}"
    )


def is_complete(checkpoint: Checkpoint) -> bool:
    """Whether the run that saved `checkpoint`, a last.pt, has reached its length, and was evaluated then."""
    is_over = RunLength(checkpoint.config.train, elapsed_s(checkpoint)).is_over(checkpoint.step)
    return is_over and not owes_evaluation(checkpoint)


def owes_evaluation(checkpoint: Checkpoint | None) -> bool:
    """Whether a run was stopped where an evaluation was due. Older checkpoints were saved after it."""
    training = checkpoint.training if checkpoint is not None else None
    return training is not None and bool(training.get("evaluation_due", False))


def elapsed_s(checkpoint: Checkpoint | None) -> float:
    """Seconds that a run had trained when it was saved; older checkpoints do not have them."""
    training = checkpoint.training if checkpoint is not None else None
    return 0.0 if training is None else float(training.get("elapsed_s", 0.0))


def refuse_existing(out: Path) -> None:
    """Refuse to start a run in a folder that has one, or a model, or metrics of something else, which it would replace.

    Raises:
        UsageError: with what to do instead.
    """
    if (out / LAST).exists():
        raise UsageError(f"'{out}' already contains a run\n  continue it with --resume, or choose another --out")
    if (out / BEST).exists():  # the run was killed before its first save
        raise UsageError(f"'{out}' already contains a model, {BEST}, but no {LAST} to continue from\n{_anew(out)}")
    metrics = out / METRICS  # of a run that was killed before its first save, they may go
    number = foreign_line(metrics.read_text("utf-8", errors="replace")) if metrics.is_file() else None
    if number is not None:
        raise UsageError(
            f"'{metrics}' would be replaced, but is not from svg-train: see its line {number}\n"
            "  choose another --out, or move the file elsewhere"
        )


def best_so_far(out: Path, saved: Checkpoint) -> float:
    """The score of the best model of the run that goes on from `saved`, a last.pt.

    A run that was killed may have saved a better one since: it must not give way to what is worse.
    """
    known = float(saved.training["best"]) if saved.training is not None else float("-inf")
    with suppress(SvgError):
        return max(known, load_checkpoint(out / BEST).metrics.get(SCORE, known))
    return known


def _anew(out: Path) -> str:
    return f"  start again with another --out, from this model with: --init {shell_argument(out / BEST)}"
