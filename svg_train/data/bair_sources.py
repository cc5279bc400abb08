"""Files of BAIR robot pushing: the published TFRecord files, and the PNG folders that the SVG reference makes of them."""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from svg_train.data import Frames
from svg_train.data.frame_cache import Problems, SourceError
from svg_train.data.tfrecord import ExampleError, TFRecordReader, bytes_features

_CAMERA = "image_aux1"  # of the two views, the one that the SVG reference is trained on
_SIDE = 64  # pixels, in the TFRecord files
_MAX_SIDE = 4096  # pixels, in PNG files
_MAX_PNG = 256 << 20  # bytes of a file: more than _MAX_SIDE x _MAX_SIDE pixels of any kind

Trajectory = list[Frames]  # (H, W, 3) RGB each


def read_trajectories(source: Path, problems: Problems) -> Iterator[tuple[float, Trajectory]]:
    """Read the trajectories of a TFRecord file, or of the folders source/1/0.png, source/1/1.png, ...

    Args:
        source: file or folder.
        problems: collects the reasons why trajectories are skipped.

    Yields:
        The share of the source that has been read, 0 to 1, and the frames of a trajectory.

    Raises:
        SourceError: something cannot be read now. That is not damage: it may well be whole.
    """
    try:
        yield from _from_records(source, problems) if source.is_file() else _from_folders(source, problems)
    except OSError as error:
        raise SourceError(source, error.strerror or str(error)) from error


def source_state(source: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and modification time in ns of a file, or of each file in the folders of a folder.

    Raises:
        OSError: the source does not exist or cannot be read.
    """
    files = [source]
    if source.is_dir():
        files = [file for folder in trajectory_folders(source) for file in sorted(folder.iterdir())]
    states = [(file.relative_to(source).as_posix(), file.stat()) for file in files]
    return [(name, state.st_size, state.st_mtime_ns) for name, state in states]


def trajectory_folders(source: Path) -> list[Path]:
    """Return the folders of `source` whose names are numbers, in numerical order."""
    return sorted((folder for folder in source.iterdir() if _is_number(folder.name) and folder.is_dir()), key=_number)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdecimal()


def _number(path: Path) -> tuple[int, str]:
    return int(path.name), path.name  # "1" and "01" keep their order on every file system


def _from_records(source: Path, problems: Problems) -> Iterator[tuple[float, Trajectory]]:
    with TFRecordReader(source, problems) as reader:
        for record in reader:
            try:
                trajectory = _from_example(bytes_features(record))
            except ExampleError as error:
                problems.add(f"record {reader.number}: {error}")
            else:
                yield reader.done, trajectory


def _from_example(features: dict[str, memoryview]) -> Trajectory:
    """Return the frames of one record: feature "i/image_aux1/encoded" is frame i, raw RGB bytes.

    Raises:
        ExampleError: a frame is missing or has another size.
    """
    suffix = f"/{_CAMERA}/encoded"
    count = sum(name.endswith(suffix) for name in features)
    names = [f"{i}{suffix}" for i in range(max(count, 1))]
    for name in names:
        if name not in features:
            raise ExampleError(f"feature '{name}' is missing")
        if len(features[name]) != _SIDE * _SIDE * 3:
            raise ExampleError(f"'{name}' has {len(features[name])} bytes, which is not a {_SIDE}x{_SIDE} RGB frame")
    return [np.frombuffer(features[name], np.uint8).reshape(_SIDE, _SIDE, 3) for name in names]


def _from_folders(source: Path, problems: Problems) -> Iterator[tuple[float, Trajectory]]:
    folders = trajectory_folders(source)
    for index, folder in enumerate(folders):
        trajectory = _from_folder(folder, problems)
        if trajectory:
            yield (index + 1) / len(folders), trajectory


def _from_folder(folder: Path, problems: Problems) -> Trajectory:
    """Return the frames 0.png, 1.png, ... of a folder; empty if one of them is missing or damaged."""
    files = {file.name: file for file in folder.iterdir()}  # not glob, which takes a folder that cannot be read for empty
    count = sum(_is_number(file.stem) and file.suffix == ".png" for file in files.values())
    trajectory: Trajectory = []
    for name in (f"{i}.png" for i in range(max(count, 1))):
        try:
            trajectory.append(_decoded(_content(files[name])))
        except (SourceError, MemoryError):  # neither is of the file
            raise
        except Exception as error:  # bytes that are not a PNG can raise anything in Pillow
            problems.add(f"{folder.name}{os.sep}{name}: {'missing' if name not in files else _reason(error)}")
            return []
    return trajectory


def _content(path: Path) -> bytes:
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # is_file says so of a file that is away, too
            raise ValueError("not a file")  # opening a pipe would wait for a program that writes to it
        with path.open("rb") as file:
            return file.read(_MAX_PNG + 1)
    except OSError as error:
        raise SourceError(path, f"{path.parent.name}{os.sep}{path.name}: {error.strerror}") from error


def _decoded(content: bytes) -> Frames:
    if len(content) > _MAX_PNG:
        raise ValueError(f"it is larger than {_MAX_PNG >> 20} MiB")
    # From memory: of a file, Pillow reads as many bytes at once as a damaged chunk announces.
    with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
        if max(image.size) > _MAX_SIDE:
            raise ValueError(f"{image.size[0]}x{image.size[1]} pixels are over the limit of {_MAX_SIDE}x{_MAX_SIDE}")
        return np.asarray(image.convert("RGB"))


def _reason(error: Exception) -> str:
    # Pillow's message on unknown content repeats the file's name.
    return "not a PNG image" if "cannot identify" in str(error) else str(error)
