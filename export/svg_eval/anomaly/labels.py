"""Labels of anomalous frames: ranges as JSON or CSV, UCSD's .m files, and folders of pixel masks. `read_labels` reads any.

{"clips": {"01": [[61, 180]], "02": []}}         JSON; a list with all ranges per clip
01,61,180                                        CSV: file,first,last; a line per range, without numbers for a normal clip;
                                                 a header, with words in place of the numbers, and lines that begin
                                                 with #, are skipped
TestVideoFile{end+1}.gt_frame = [61:180];        UCSD: the n-th line, or that with {n}, is about the clip with n in its name
masks/01/0001.png, or masks/Test001_gt/*.bmp     pixel masks: a frame is anomalous where its mask has a pixel that is not 0
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from svg_common.errors import UsageError
from svg_common.files import refuse_pipe
from svg_common.printable import one_line, printable
from svg_common.text_files import EncodingError, decode_text
from svg_common.video.clips import IMAGE_SUFFIXES, Clip, find_clips
from svg_common.video.picture_files import PictureError, PictureFiles
from svg_common.video.reader import VIDEO_SUFFIXES

FIRST_NUMBER = 1  # of a clip's first frame, as most data sets count
MASK_SUFFIX = "_gt"  # of UCSD's folders of masks, which lie among those of the clips
_EXPECTED = (
    'expected ranges as JSON ({"clips": {"01": [[61, 180]]}}) or CSV (file,first,last), UCSD\'s .m file, '
    "or a folder of folders of pixel masks"
)
_COMMENTS = re.compile(r"^[ \t]*%\{[ \t]*$.*?(?:^[ \t]*%\}[ \t]*$|\Z)|%[^\n]*", re.DOTALL | re.MULTILINE)
_ASSIGNED = re.compile(r"\bgt_frame\b")
# No part of these can begin inside what the one before it matches: a file of brackets that never close, or of spaces, would
# otherwise take a time that grows with the square of its size.
_ENTRY = re.compile(r"TestVideoFile\s*\{([^{}]*)\}\s*\.\s*gt_frame\s*=\s*(?:\[([^\[\]]*)\]|(\d[\d: \t]*)(?:;|$))", re.MULTILINE)
_COLON = re.compile(r"(?<!\s)\s*:\s*")
_RANGE = re.compile(r"(\d+)(?::(\d+))?")
_WORD = re.compile(r"[^\d\s.+-].*", re.DOTALL)  # what is no number, nor meant as one, such as 12.5 or 5O
_SEPARATORS = {";": ("semicolons", ";"), "\t": ("tabs", r"\t")}  # in place of commas: their name, and how `tr` takes them
_SHOWN = 5  # names in a message
_MAX_BYTES = 16 << 20  # a range has a dozen

Mask = NDArray[np.bool_]


class ClipLabels(Protocol):
    """Which frames of one clip are anomalous."""

    def mask(self, frames: int, clip: Clip | None = None) -> Mask:
        """(frames,) true where anomalous.

        Args:
            frames: of the clip.
            clip: its files, if their numbers are to be those of the labels.

        Raises:
            UsageError: the labels are not of a clip with so many frames, or of other frames.
        """
        ...


@dataclass(frozen=True)
class FrameRanges:
    """Ranges of anomalous frames, both ends in them; they may overlap.

    Attributes:
        source: the file, and the clip in it, for messages.
        ranges: first and last frame of each.
        first_number: of a clip's first frame, 0 or 1.
    """

    source: str
    ranges: tuple[tuple[int, int], ...]
    first_number: int

    def mask(self, frames: int, clip: Clip | None = None) -> Mask:
        """As `ClipLabels.mask`: whatever their numbers, the frames that are there count."""
        anomalous = np.zeros(frames, bool)
        last_number = frames - 1 + self.first_number
        for first, last in self.ranges:
            if not self.first_number <= first <= last <= last_number:
                raise UsageError(
                    f"{self.source}: range {first} to {last}, but the clip has frames {self.first_number} to {last_number}\n"
                    "  expected first <= last within these; --anomaly-first 0 or 1 says what the first frame's number is"
                )
            anomalous[first - self.first_number : last - self.first_number + 1] = True
        return anomalous


@dataclass(frozen=True)
class PixelMasks:
    """One picture per frame, whose pixels are not 0 where the frame is anomalous.

    Attributes:
        source: for messages.
        files: the pictures in order.
        steps: `number_steps` of them.
    """

    source: str
    files: tuple[Path, ...]
    steps: tuple[int, ...]

    def mask(self, frames: int, clip: Clip | None = None) -> Mask:
        """As `ClipLabels.mask`."""
        if len(self.files) != frames:
            raise UsageError(
                f"{self.source}: {len(self.files)} masks for {frames} frames\n  expected one per frame of the clip"
            )
        if clip is not None:
            self._refuse_other_numbers(clip)
        try:
            return np.array([not PictureFiles.is_black(file) for file in self.files])
        except PictureError as error:
            raise UsageError(f"{self.source}: a mask cannot be read: {error}\n  expected pictures, such as .png") from error

    def _refuse_other_numbers(self, clip: Clip) -> None:
        expected = (1,) * len(self.steps) if clip.is_video else number_steps(clip)
        for number, (step, other) in enumerate(zip(self.steps, expected, strict=True), start=2):
            if step != other:
                raise UsageError(
                    f"{self.source}: '{self.files[number - 1].name}' is not the mask of frame {number} of '{clip.name}': "
                    "their numbers have different gaps\n  expected a mask with the same number for every picture"
                )


def number_steps(clip: Clip) -> tuple[int, ...]:
    """How far the number of each picture is from the one before: 1, and more where pictures are missing."""
    return tuple(max(round(later - earlier), 1) for earlier, later in pairwise(clip.positions))


@dataclass(frozen=True)
class AnomalyLabels:
    """Labels of all clips.

    Attributes:
        description: human-readable, with the number of the first frame.
        clips: by name, as `one_form` writes it; by the number in the clip's name if `numbered`.
        numbered: the labels have no names, but an order.
        first_number: of a clip's first frame.
    """

    description: str
    clips: Mapping[str, ClipLabels]
    numbered: bool = False
    first_number: int = FIRST_NUMBER

    def of(self, names: Sequence[str]) -> dict[str, ClipLabels]:
        """The labels of each clip, by its name.

        Raises:
            UsageError: clips without labels, labels without a clip, or several clips with the same labels.
        """
        keys = {name: _number(name) if self.numbered else name for name in names}
        counts = Counter(keys.values())
        alike = [name for name, key in keys.items() if counts[key] > 1]
        if alike:
            raise UsageError(
                "labels without names belong to clips by the numbers in their names, and these have the same: "
                f"{_listed(alike)}\n  expected clips whose last numbers differ, or labels by name (.json, .csv)"
            )
        if counts.keys() != self.clips.keys():
            what = "the numbers in their names" if self.numbered else "their names"
            raise UsageError(
                f"clips and labels do not match by {what}\n"
                f"  clips without labels: {_listed(name for name, key in keys.items() if key not in self.clips)}\n"
                f"  labels without a clip: {_listed(self.clips.keys() - counts.keys())}\n"
                f"  the clips are {_listed(names)}; the labels {_listed(self.clips)}"
            )
        return {name: self.clips[key] for name, key in keys.items()}


def read_labels(path: Path, first_number: int | None = None) -> AnomalyLabels:
    """Read labels of any kind; what kind it is follows from the name.

    Args:
        path: a .json, .csv or .m file, or a folder.
        first_number: of a clip's first frame in ranges, 0 or 1; None: 1.

    Raises:
        UsageError: the labels are missing, damaged or empty, or a number was given for masks.
    """
    if path.is_dir():
        if first_number is not None:
            raise UsageError(
                f"--anomaly-first has no effect with '{path}', a folder of masks, one of each frame\n"
                "  remove it; it says how ranges of frames count"
            )
        return _read_masks(path)
    if not path.exists():
        raise UsageError(f"labels '{path}' do not exist\n  {_EXPECTED}")
    readers = {".json": _json_ranges, ".csv": _csv_ranges, ".m": _matlab_ranges}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise UsageError(f"unknown kind of labels: '{path}'\n  {_EXPECTED}")
    refuse_pipe(path)
    try:
        ranges = reader(decode_text(_content(path)))
    except (EncodingError, ValueError, csv.Error, RecursionError) as error:
        raise UsageError(f"labels '{path}' cannot be read: {error}\n  {_EXPECTED}") from error
    if not ranges:
        raise UsageError(f"labels '{path}' name no clip\n  {_EXPECTED}")
    first = FIRST_NUMBER if first_number is None else first_number
    return AnomalyLabels(
        description=f"{one_line(path)}: ranges of frames, counted from {first}",
        clips={name: FrameRanges(f"'{path}', clip {printable(name)}", each, first) for name, each in ranges.items()},
        numbered=reader is _matlab_ranges,
        first_number=first,
    )


Ranges = dict[str, tuple[tuple[int, int], ...]]


def _content(path: Path) -> bytes:
    with path.open("rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise ValueError(f"it has more than {_MAX_BYTES >> 20} MiB, and labels have a few bytes for each range")
    return content


def _json_ranges(text: str) -> Ranges:
    try:
        read = json.loads(text, object_pairs_hook=_without_repeats)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is not JSON ({error})") from error
    clips = read.get("clips", read) if isinstance(read, dict) else None
    if not isinstance(clips, dict):
        raise ValueError('it has no object "clips"')
    named = {name: tuple(_pair(name, each) for each in _list_of(name, ranges)) for name, ranges in clips.items()}
    return _without_repeats([(_clip_name(name), ranges) for name, ranges in named.items()])


def _without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON allows a name twice, and Python takes the last one: the ranges of the first would be lost."""
    for name, count in Counter(name for name, _ in pairs).items():
        if count > 1:
            raise ValueError(f"{printable(name)} is named {count} times: expected one list with all of its ranges")
    return dict(pairs)


def _list_of(name: str, ranges: Any) -> list[Any]:
    if not isinstance(ranges, list):
        raise ValueError(f"clip {printable(name)} has {ranges!r:.40} in place of a list of ranges")
    return ranges


def _pair(name: str, value: Any) -> tuple[int, int]:
    whole = isinstance(value, list) and len(value) == 2 and all(type(number) is int for number in value)
    if not whole:
        raise ValueError(f"clip {printable(name)} has the range {value!r:.40}, not [first, last]")
    return value[0], value[1]


def _csv_ranges(text: str) -> Ranges:
    ranges: dict[str, list[tuple[int, int]]] = {}
    spellings: dict[str, str] = {}
    first = True
    for number, row in enumerate(csv.reader(io.StringIO(text, newline=None)), start=1):
        cells = [cell.strip() for cell in row]
        if not any(cells) or cells[0].startswith("#"):
            continue
        if len(cells) == 1:
            _refuse_other_separators(number, name=cells[0])
        header = first and _is_header(cells)
        first = False
        if header:
            continue
        name, *numbers = cells
        while numbers and not numbers[-1]:
            numbers.pop()
        clip = _clip_name(name)
        name = one_form(name)
        known_as = spellings.get(clip, name)
        if not _may_be_one_file(known_as, name):
            raise ValueError(f"'{printable(known_as)}' and '{printable(name)}' are two files of one name")
        spellings[clip] = max(known_as, name, key=len)  # the others are parts of it
        known = ranges.setdefault(clip, [])
        if not numbers:
            continue
        if len(numbers) != 2 or not all(re.fullmatch(r"\d+", each, re.ASCII) for each in numbers):
            raise ValueError(f"line {number} is {','.join(cells)!r:.60}, not file,first,last")
        known.append((int(numbers[0]), int(numbers[1])))
    return {name: tuple(each) for name, each in ranges.items()}


def _is_header(cells: Sequence[str]) -> bool:
    """Whether a first row has words in the place of numbers: a clip's name may be a number, which no header begins with."""
    return len(cells) > 2 and not cells[0][:1].isdigit() and all(_WORD.fullmatch(cell) for cell in cells[1:3])


def _refuse_other_separators(line: int, name: str) -> None:
    """The line as a whole would be the name of a clip without anomalies. Excel writes semicolons in many countries."""
    for sign, (called, escaped) in _SEPARATORS.items():
        if sign in name:
            raise ValueError(
                f"line {line} is {name!r:.60}, with {called}: expected commas\n"
                f"  this writes them: tr '{escaped}' ',' < FILE > NEW.csv; where it is a name, put a comma behind it"
            )


def one_form(name: str) -> str:
    """A name in one form of Unicode: macOS writes an umlaut as two characters, and others as one, which look alike."""
    return unicodedata.normalize("NFC", name)


def _clip_name(name: str) -> str:
    """The name of a clip, of whose file the folder and the suffix may be given too."""
    file = Path(one_form(name))
    return file.stem if file.suffix.lower() in VIDEO_SUFFIXES else file.name or one_form(name)


def _may_be_one_file(name: str, other: str) -> bool:
    """Whether two paths with the same last part may be of one clip: one may have more folders before it."""
    folders = [Path(os.path.normpath(each)).parts[-2::-1] for each in (name, other)]
    return all(one == two for one, two in zip(*folders, strict=False))


def _matlab_ranges(text: str) -> Ranges:
    """Read as text; what a program could do besides is not looked at."""
    code = _COMMENTS.sub("", text.replace("\r\n", "\n").replace("\r", "\n"))
    entries = _ENTRY.findall(code)
    if entries and len(entries) != len(_ASSIGNED.findall(code)):
        raise ValueError("it has a gt_frame that is not like TestVideoFile{end+1}.gt_frame = [61:180];")
    if not entries:
        raise ValueError("it has no line like TestVideoFile{end+1}.gt_frame = [61:180];")
    ranges: Ranges = {}
    for place, (index, listed, bare) in enumerate(entries, start=1):
        number, entry = int(index) if re.fullmatch(r"\s*\d{1,9}\s*", index, re.ASCII) else place, listed or bare
        if str(number) in ranges:
            raise ValueError(f"clip {number} has two entries")
        parts = re.split(r"[\s,;]+", _COLON.sub(":", entry).strip())
        found = [_RANGE.fullmatch(part) for part in parts if part]
        if not all(found):
            raise ValueError(f"entry {number} is [{entry:.40}], not ranges such as 5:90, 140:200")
        ranges[str(number)] = tuple((int(each[1]), int(each[2] or each[1])) for each in found if each)
    return ranges


def _read_masks(folder: Path) -> AnomalyLabels:
    clips: dict[str, ClipLabels] = {}
    folders = sorted(entry for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    marked = [entry for entry in folders if entry.name.endswith(MASK_SUFFIX)]
    beside_clips = any((folder / entry.name.removesuffix(MASK_SUFFIX)).is_dir() for entry in marked)
    for each in marked if beside_clips else folders:
        refuse_broken_links(each)
        found = [clip for clip in find_clips(each, nested=False) if not clip.is_video]
        files = tuple(path for clip in found for path in clip.paths)
        if files:
            steps = number_steps(found[0]) if len(found) == 1 else (1,) * (len(files) - 1)
            name = one_form(each.name.removesuffix(MASK_SUFFIX))
            if name in clips:
                raise UsageError(f"two folders of masks in '{folder}' are called '{name}'\n  rename one, or its clip has both")
            clips[name] = PixelMasks(f"'{each}'", files, steps)
    if not clips:
        raise UsageError(f"the folder '{folder}' has no folders of pixel masks\n  {_EXPECTED}")
    return AnomalyLabels(f"{one_line(folder)}: pixel masks", clips)


def refuse_broken_links(folder: Path) -> None:
    """A picture that is missing would shift all labels after it.

    Raises:
        UsageError: a picture in `folder` is a link to nothing.
    """
    for entry in folder.iterdir():
        is_picture = entry.suffix.lower() in IMAGE_SUFFIXES and not entry.name.startswith(".")
        if is_picture and entry.is_symlink() and not entry.exists():
            raise UsageError(f"'{entry}' is a link to a file that does not exist\n  expected a picture for every frame")


def _number(name: str) -> str:
    """The last number in a clip's name, without leading zeros; a name without one fits no label."""
    numbers = re.findall(r"\d+", name, re.ASCII)
    return str(int(numbers[-1])) if numbers else f"no number in {name}"


def _listed(names: Iterable[str]) -> str:
    every = sorted(names)
    more = f" and {len(every) - _SHOWN} more" if len(every) > _SHOWN else ""
    return ", ".join(one_line(name) for name in every[:_SHOWN]) + more if every else "none"
