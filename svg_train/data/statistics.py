"""What a model is trained on, measured on a sample of its sequences: stored in the checkpoint, and in the bundle made of it."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from svg_common.frame_statistics import STATISTICS, Distribution, TrainingData, sequence_statistics
from svg_common.printable import one_line
from svg_common.quantities import count_text
from svg_common.video.reader import VIDEO_SUFFIXES
from svg_train.data import ClipPart, FileDataset, SequenceDataset

_LOG = logging.getLogger(__name__)
_SEQUENCES = 256  # for quantiles of 1 and 99 %; a second or two of one core
_COMPARED = 8  # sequences in a fingerprint
_GREY_LEVEL = 1 / 255  # versions of a decoder may round otherwise
_END_BYTES = 1 << 14  # of a file: in these, videos have the sizes of their frames
_REWORDED = re.compile(r"\(s\)|s\b|(?<=digits of ).*/")  # earlier versions wrote "1 file(s)", and the folder of MNIST


def data_fingerprint(data: SequenceDataset) -> str:
    """A hash that two hosts share if they have the same sequences: of their number, and of some of them."""
    digest = hashlib.sha256(repr((len(data), data.frame_interval_s)).encode())
    for number in range(min(len(data), _COMPARED)):
        digest.update(data[number * len(data) // _COMPARED if len(data) >= _COMPARED else number].tobytes())
    return digest.hexdigest()


@dataclass(frozen=True)
class FilesFingerprint:
    """Hashes of the sizes, beginnings and ends of files.

    They do not depend on where the files are, what they are called, or how a version of a decoder rounds.

    Attributes:
        of_all: of the files of a split, in order.
        of_each: hash of each file.
    """

    of_all: str
    of_each: Mapping[Path, bytes]


def files_fingerprint(data: SequenceDataset) -> FilesFingerprint | None:
    """The fingerprint of the files of a split. None: it is not read from clips.

    Raises:
        OSError: a file cannot be read.
    """
    if not isinstance(data, FileDataset):
        return None
    of_all = hashlib.sha256()
    of_each: dict[Path, bytes] = {}
    for path in data.files:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            content = size.to_bytes(8, "big") + file.read(_END_BYTES)
            file.seek(max(0, size - _END_BYTES))
            content += file.read(_END_BYTES)
        of_all.update(content)
        of_each[path] = hashlib.sha256(content).digest()
    return FilesFingerprint(of_all.hexdigest(), of_each)


def warn_about_copies(
    train: SequenceDataset, train_files: FilesFingerprint, test: SequenceDataset, test_files: FilesFingerprint
) -> None:
    """Log held-out videos whose frames are trained on under another name. A file that is cut is in both splits itself.

    Pictures are left out: those of one camera may differ in their middle alone, or be black.

    Args:
        train: one split.
        train_files: fingerprint of its files.
        test: the other split.
        test_files: fingerprint of its files.
    """
    trained: dict[bytes, list[ClipPart]] = {}
    for part in _videos(train):
        trained.setdefault(train_files.of_each[part.source], []).append(part)
    held_out_videos = _videos(test)
    copies = {
        part.source: other.source
        for part in held_out_videos
        for other in trained.get(test_files.of_each[part.source], ())
        if other.source != part.source and part.first < other.end
    }
    if copies:
        held_out, original = next(iter(copies.items()))
        _LOG.warning(
            "copies of videos that are trained on: %d of %s, such as '%s' of '%s'; held-out metrics will be too good\n"
            "  remove the copies, and start again with another --out",
            len(copies),
            count_text(len(held_out_videos), "held-out video"),
            one_line(held_out),
            one_line(original),
        )


def _videos(data: SequenceDataset) -> list[ClipPart]:
    parts = data.parts if isinstance(data, FileDataset) else []
    return [part for part in parts if part.files == (part.source,) and part.source.suffix.lower() in VIDEO_SUFFIXES]


def measure_training_data(data: SequenceDataset, words: str | None = None) -> TrainingData:
    """Measure sequences that are spread evenly over the data set, always the same ones.

    Args:
        data: the data set.
        words: what it shows, before what it says of itself; None: nothing is known.
    """
    count = min(len(data), _SEQUENCES)
    measured = []
    for number in range(count):
        sequence = data[number * len(data) // count]
        measured.append(sequence_statistics(sequence))
    values = {name: np.array([each[name] for each in measured]) for name in STATISTICS if name in measured[0]}
    return TrainingData(
        description=data.description if words is None else f"{words}; {data.description}",
        sequences=count,
        frames=len(sequence),
        statistics={name: Distribution.of(of) for name, of in values.items()},
    )


def is_same_description(one: TrainingData, other: TrainingData) -> bool:
    """Whether both have the same description, perhaps in words of different versions."""
    return _REWORDED.sub("", one.description) == _REWORDED.sub("", other.description)


def is_same_data(one: TrainingData, other: TrainingData) -> bool:
    """Whether both were measured on the same sequences, wherever their files are: as many, which look alike."""
    if not is_same_description(one, other):
        return False
    if one.sequences != other.sequences:  # samples of different sizes, as of another version, have other statistics
        return True
    pairs = [(one.statistics[name], other.statistics[name]) for name in one.statistics.keys() & other.statistics.keys()]
    return all(abs(a - b) <= _GREY_LEVEL for pair in pairs for (_, a), (_, b) in zip(*pair, strict=True))
