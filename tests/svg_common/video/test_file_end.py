"""Files whose headers do not say how long they are, and that were cut or damaged."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from svg_common.video.reader import VideoReader
from tests.svg_common.video.test_timing import PLAYED, RAW, write_video

MARKED = (".gif", ".apng")  # formats with a mark of their end
SEEN = (*MARKED, ".ts", ".m2ts", ".dv", ".y4m")


def read(path: Path) -> tuple[list[np.ndarray], str | None]:
    with VideoReader(path) as reader:
        return [frame.image for frame in reader], reader.problem


@cache
def encoded(suffix: str) -> bytes:
    """Encoding takes longer than the tests of its result."""
    with TemporaryDirectory() as folder:
        return write_video(Path(folder) / f"whole{suffix}", *(PLAYED | RAW)[suffix]).read_bytes()


def whole_file(folder: Path, suffix: str) -> Path:
    path = folder / f"whole{suffix}"
    path.write_bytes(encoded(suffix))
    return path


@pytest.mark.parametrize("suffix", SEEN)
@pytest.mark.parametrize("share", [0.57, 0.83, 0.95])
def test_a_cut_file_is_noticed_and_its_cut_picture_is_not_shown(tmp_path, suffix, share):
    whole = whole_file(tmp_path, suffix)
    pictures, problem = read(whole)
    assert problem is None
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(content[: int(share * len(content))])
    shown, problem = read(cut)
    assert problem is not None
    assert f"{len(shown)} frames could be read" in problem
    assert 0 < len(shown) < len(pictures)
    # B-frames after the cut may be missing in the middle
    assert max(min(np.abs(image.astype(int) - other).mean() for other in pictures) for image in shown) < 0.5


@pytest.mark.parametrize("suffix", MARKED)
def test_a_missing_end_mark_is_noticed_and_costs_no_picture(tmp_path, suffix):
    whole = whole_file(tmp_path, suffix)
    content = whole.read_bytes()
    cut = tmp_path / f"cut{suffix}"
    for missing in (1, 8) if suffix == ".apng" else (1,):
        cut.write_bytes(content[:-missing])
        shown, problem = read(cut)
        assert len(shown) == len(read(whole)[0])
        assert problem is not None
        assert "without the mark of its end" in problem


@pytest.mark.parametrize("suffix", MARKED)
def test_bytes_after_the_end_mark_are_no_damage(tmp_path, suffix):
    whole = whole_file(tmp_path, suffix)
    longer = tmp_path / f"longer{suffix}"
    longer.write_bytes(whole.read_bytes() + b"appended by some program")
    assert read(longer)[1] is None


@pytest.mark.parametrize("mark", [b"\x3b", b"\xff", b"\0"], ids=["end", "unknown", "zero"])
def test_pictures_that_are_lost_behind_damage_of_a_gif_are_reported(tmp_path, mark):
    content = encoded(".gif")
    begins = [found.start() for found in re.finditer(rb"\x21\xf9\x04", content)]
    damaged = tmp_path / "damaged.gif"
    damaged.write_bytes(content[: begins[5]] + mark + content[begins[5] + 1 :])
    shown, problem = read(damaged)
    assert len(shown) < len(begins)
    assert problem is not None
    assert "damaged within a picture, and the pictures after it cannot be found" in problem


def test_joined_gifs_and_zeros_before_the_end_mark_are_no_damage(tmp_path):
    content = encoded(".gif")
    joined = tmp_path / "joined.gif"
    joined.write_bytes(content + content[:-1] + b"\0\0;")
    shown, problem = read(joined)
    assert problem is None
    assert len(shown) == 2 * len(read(whole_file(tmp_path, ".gif"))[0])


def test_no_whole_file_is_called_truncated(tmp_path):
    problems = {suffix: read(whole_file(tmp_path, suffix))[1] for suffix in PLAYED | RAW}
    assert {suffix: problem for suffix, problem in problems.items() if problem is not None} == {}
