"""KTH human actions (Schuldt, Laptev and Caputo, ICPR 2004), from the published .avi files or the reference's pictures of them.

https://www.csc.kth.se/cvap/actions/: six zip files, each unpacked into the folder of its class, and 00sequences.txt:

    root/00sequences.txt
    root/boxing/person01_boxing_d1_uncomp.avi ...

The reference implementation of SVG trains on pictures that its convert_kth.lua made of these files:

    root/KTH/processed/boxing/person01_boxing_d1/image-001_64x64.png ...

Persons 1 to 20 are for training and 21 to 25 for test, as in Denton and Fergus (ICML 2018).
"""

from __future__ import annotations

import logging
import os
import re
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from svg_common.cache import cache_folder
from svg_common.errors import SvgError
from svg_common.quantities import count_text
from svg_common.video.clips import Clip as SourceClip
from svg_common.video.clips import find_clips, no_files, not_readable
from svg_train.config import Config
from svg_train.data import Frames, Split
from svg_train.data.frame_cache import FrameShape, Skipped, list_sources, root_folder, warn_about_sources
from svg_train.data.kth_ranges import FrameRanges, read_ranges
from svg_train.data.notes import log_once
from svg_train.data.video_cache import decode_videos
from svg_train.data.video_clips import Clip, ClipSequences, at_one_interval, describe_cuts, long_enough, model_interval

CLASSES = ("boxing", "handclapping", "handwaving", "jogging", "running", "walking")
PERSONS = {"train": range(1, 21), "test": range(21, 26)}
RANGES_FILE = "00sequences.txt"
FPS = 25.0
URL = "https://www.csc.kth.se/cvap/actions/"
_NAME = re.compile(r"(?P<clip>person(?P<person>\d\d)_(?P<action>[a-z]+)_d[1-4])(_uncomp)?(\.avi)?", re.ASCII)
_PLACES_OF_CLASSES = (".", "processed", "KTH/processed", "KTH")  # in the root
_LAYOUT = (
    f"  download the six zip files and {RANGES_FILE} from {URL} and unpack each zip into the folder of its class,\n"
    "  such as ROOT/boxing/person01_boxing_d1_uncomp.avi, with ROOT given as --data-root"
)


class KTHActions(ClipSequences):
    """Sequences of (length, H, W, C) uint8 frames of the persons of `split`, each inside one of the published frame ranges.

    Test sequences have a fixed random order, so that the first ones cover all persons, actions and conditions.

    Raises:
        UsageError: no root is given, or options contradict each other.
        SvgError: the split has no usable clip; the message explains where to get them and where to put them.
    """

    def __init__(self, config: Config, split: Split, length: int, trained_s: float | None = None) -> None:
        data, model = config.data, config.model
        root = root_folder(data.root, "kth", _LAYOUT)
        found, skipped = _clips_of_split(root, split, model.image_size)
        names = {clip.name: name for clip, name in found.items()}
        ranges = _ranges(root)
        shape = FrameShape(model.image_size, model.image_size, model.channels)
        decoded, unreadable = decode_videos(sorted(found, key=lambda clip: clip.name), cache_folder(data.cache), shape)
        videos = [video.at_rate(FPS) if video.time_base == "numbers" else video for video in decoded]
        self.frame_interval_s: float | None = trained_s or model_interval(data, FPS, "KTH")
        clips, other_rate = at_one_interval(videos, self.frame_interval_s)
        in_range, unlisted = _inside_ranges(clips, names, ranges)
        mine, too_short = long_enough(in_range, split, length)
        skipped += unreadable + other_rate + unlisted + too_short
        if not mine:
            raise SvgError(
                f"no KTH clip in '{root}' has {split} sequences of {length} frames:\n{list_sources(skipped)}\n{_LAYOUT}"
            )
        warn_about_sources("KTH clip", skipped, [(clip.video.source, clip.video.problem) for clip in mine])

        super().__init__(mine, split, length)
        order = np.random.default_rng(0).permutation(len(self)) if split == "test" else np.arange(len(self))
        self._order = order
        persons = {names[clip.video.source].person for clip in mine}
        actions = {names[clip.video.source].action for clip in mine}
        self.description = (
            f"kth: {count_text(len(mine), 'clip')} of {count_text(len(persons), 'person')} and "
            f"{count_text(len(actions), 'action')} with {self.frame_count} {split} "
            f"frames, {self.frame_interval_s:.4g} s per step, {len(self)} sequences of {length}{describe_cuts(mine)}"
        )

    def __getitem__(self, index: int) -> Frames:
        return super().__getitem__(self._order[index])

    def clip_source(self, index: int) -> Path:
        """As `ClipDataset.clip_source`."""
        return super().clip_source(self._order[index])


@dataclass(frozen=True)
class _Name:
    """The parts of a file's name: the clip as in 00sequences.txt, the person (1 to 25) and the action."""

    clip: str
    person: int
    action: str


def _clips_of_split(root: Path, split: Split, image_size: int) -> tuple[dict[SourceClip, _Name], Skipped]:
    """Return the clips of the persons of `split` in the class folders, and what else is there or cannot be read.

    A clip is an .avi file or a folder of pictures.

    Raises:
        SvgError: none exists.
    """
    found: dict[SourceClip, _Name] = {}
    skipped: Skipped = []
    for action in CLASSES:
        for entry in _entries(root, action):
            name = _parsed(entry.name, action)
            if name is not None and name.person not in PERSONS[split]:
                continue
            not_read = not_readable([entry]) + no_files(entry)
            clip = None if entry in dict(not_read) else _source_clip(entry, image_size)
            if name is not None:
                skipped += not_read
                if clip is not None:
                    found[clip] = name
            elif clip is not None or not_read:
                skipped.append((entry, f"expected a name such as person01_{action}_d1_uncomp.avi, with persons 1 to 25"))
    if not found:
        persons = PERSONS[split]
        raise SvgError(
            f"--data-root '{root}' has no KTH clip of the {split} persons {persons[0]} to {persons[-1]}"
            + ("\n" + list_sources(skipped) if skipped else "")
            + f"\n{_LAYOUT}"
        )
    _log_missing(root, split, found)
    return found, skipped


def _entries(root: Path, action: str) -> list[Path]:
    """The .avi files and the folders of one class; of a clip that is there as both, the file."""
    folders = [root / place / action for place in _PLACES_OF_CLASSES]
    entries = sorted({entry for folder in folders if folder.is_dir() for entry in folder.iterdir() if entry.name[0] != "."})
    of_pictures = [entry for entry in entries if os.path.isdir(entry)]
    files = [entry for entry in entries if entry.suffix == ".avi" and not os.path.isdir(entry)]
    known = {_stem(entry) for entry in files if os.path.isfile(entry)}
    return files + [entry for entry in of_pictures if _stem(entry) not in known]


def _stem(entry: Path) -> str:
    return entry.name.removesuffix(".avi").removesuffix("_uncomp")


def _source_clip(path: Path, image_size: int) -> SourceClip | None:
    """The file, or the pictures in the folder: those prepared at the model's size if there are several sizes."""
    clips = find_clips(path)
    of_size = [clip for clip in clips if f"_{image_size}x{image_size}" in clip.paths[0].name]
    return next(iter(of_size or clips), None)


def _parsed(name: str, action: str) -> _Name | None:
    match = _NAME.fullmatch(name)
    if match is None or match["action"] != action or not any(int(match["person"]) in group for group in PERSONS.values()):
        return None
    return _Name(match["clip"], int(match["person"]), action)


def _log_missing(root: Path, split: Split, found: dict[SourceClip, _Name]) -> None:
    actions = [action for action in CLASSES if action not in {name.action for name in found.values()}]
    persons = [str(person) for person in PERSONS[split] if person not in {name.person for name in found.values()}]
    if actions:
        log_once(logging.INFO, f"note: KTH in '{root}' has no {split} clip of {', '.join(actions)}")
    if persons:
        noun = "person" if len(persons) == 1 else "persons"
        log_once(logging.INFO, f"note: KTH in '{root}' has no clip of the {split} {noun} {', '.join(persons)}")


def _ranges(root: Path) -> FrameRanges | None:
    """Return the published frame ranges, or None if the file is missing."""
    path = next((file for place in _PLACES_OF_CLASSES if (file := root / place / RANGES_FILE).is_file()), None)
    if path is None:
        log_once(
            logging.INFO,
            f"note: '{root}' has no {RANGES_FILE}: whole clips are used, with the empty scenes between the passes of a person\n"
            f"  download {URL}{RANGES_FILE} and save it in that folder",
        )
        return None
    ranges, unparsed = read_ranges(path)
    if unparsed:
        lines = "\n".join(f"  line {number}: {line}" for number, line in unparsed)
        log_once(
            logging.WARNING,
            f"cannot parse {count_text(len(unparsed), 'line')} of '{path}':\n{lines}\n"
            "  expected lines such as: person01_boxing_d1 frames 1-95, 96-185",
        )
    return ranges


def _inside_ranges(clips: list[Clip], names: dict[Path, _Name], ranges: FrameRanges | None) -> tuple[list[Clip], Skipped]:
    """Cut the runs of each clip at the borders of its frame ranges; without ranges they stay as they are."""
    if ranges is None:
        return clips, []
    inside: list[Clip] = []
    unlisted: Skipped = []
    for clip in clips:
        source = clip.video.source
        mine = ranges.get(names[source].clip)
        if mine is None:
            unlisted.append((source, f"{RANGES_FILE} lists no frame ranges for it"))
        else:
            inside.append(_cut(clip, mine))
    return inside, unlisted


def _cut(clip: Clip, ranges: list[tuple[int, int]]) -> Clip:
    # By time, not by count: a frame that does not decode must not shift the frame numbers after it.
    numbers = np.rint(clip.video.times_s * FPS).astype(np.int64) + 1
    pieces = [run[(numbers[run] >= first) & (numbers[run] <= last)] for first, last in ranges for run in clip.runs]
    return replace(clip, runs=[piece for piece in pieces if len(piece)])
