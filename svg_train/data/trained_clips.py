"""Which clips a model was trained on. It is in its checkpoint, because a folder of clips may have others by the next time."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from svg_common.errors import SvgError
from svg_common.printable import one_line
from svg_common.quantities import count_text
from svg_train.data import ClipPart, FileDataset, SequenceDataset
from svg_train.data.statistics import FilesFingerprint

_HEX_DIGITS = 16  # of a clip's hash: enough to tell millions apart


def trained_clips(
    train: SequenceDataset, train_files: FilesFingerprint | None, test: SequenceDataset, test_files: FilesFingerprint | None
) -> dict[str, int]:
    """The clips of a training, wherever they are: hash of each -> its frames before this number are trained on.

    Without those of which a copy is held out, which is known already: see `warn_about_copies`.

    Args:
        train: one split.
        train_files: fingerprint of its files. None: it is not read from clips.
        test: the other split.
        test_files: fingerprint of its files.

    Raises:
        SvgError: a clip is in both splits, because the folder has changed between the two.
    """
    if not (isinstance(train, FileDataset) and isinstance(test, FileDataset) and train_files and test_files):
        return {}
    own_ends = {part.source: part.end for part in train.parts}
    for part in test.parts:
        if part.first < own_ends.get(part.source, 0):
            raise SvgError(
                f"'{one_line(part.source)}' would be trained on and held out: the clips have changed while they were read\n"
                "  start again once they stay as they are"
            )
    ends: dict[str, int] = {}
    for part in train.parts:
        ends = all_trained_clips(ends, {_hash(part, train_files): part.end})
    for part in _overlapping(test, ends, test_files):
        ends.pop(_hash(part, test_files), None)
    return ends


def all_trained_clips(one: Mapping[str, int], other: Mapping[str, int]) -> dict[str, int]:
    """The clips of two trainings, as `trained_clips` returns them."""
    return {name: max(one.get(name, 0), other.get(name, 0)) for name in (*one, *other)}


def held_out_in_vain(test: SequenceDataset, test_files: FilesFingerprint | None, trained: Mapping[str, int]) -> list[Path]:
    """The clips of which frames are held out here on which a model was trained, or on those of a copy.

    Args:
        test: held-out sequences.
        test_files: fingerprint of its files. None: it is not read from clips.
        trained: as `trained_clips` returns it; empty: not known.
    """
    if test_files is None or not isinstance(test, FileDataset):
        return []
    return [part.source for part in _overlapping(test, trained, test_files)]


def clips_in_words(seen: Sequence[Path], test: SequenceDataset) -> str:
    """What `held_out_in_vain` has found in `test`, for a message."""
    assert isinstance(test, FileDataset)  # else it has no clips
    return f"{len(seen)} of {count_text(len(test.parts), 'held-out clip')}, such as '{one_line(seen[0])}'"


def _overlapping(test: FileDataset, trained: Mapping[str, int], traces: FilesFingerprint) -> list[ClipPart]:
    return [part for part in test.parts if part.first < trained.get(_hash(part, traces), 0)]


def _hash(part: ClipPart, traces: FilesFingerprint) -> str:
    return hashlib.sha256(b"".join(traces.of_each[path] for path in part.files)).hexdigest()[:_HEX_DIGITS]
