"""What a folder holds: videos by suffix, sequences of picture files by their numbers; pipes are refused, never waited for."""

from __future__ import annotations

import errno
import os

import pytest

from svg_common.errors import ExitCode, UsageError
from svg_common.video.clips import FolderError, find_clips, no_files
from svg_common.video.reader import VideoReader
from tests.refused import refused


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def described(folder):
    """Names and positions of the clips in a folder."""
    return [([str(path.relative_to(folder)) for path in clip.paths], clip.positions) for clip in find_clips(folder)]


def test_folders_in_folders_in_natural_order(tmp_path):
    touch(
        tmp_path,
        "b10.mp4",
        "b9.MKV",
        "walk/f2.png",
        "walk/f10.png",
        "walk/deep/c.h264",
        "notes.txt",
        "._b.mp4",
        ".hidden/a.mp4",
    )
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "same.mp4").symlink_to(tmp_path / "b10.mp4")
    (tmp_path / "walk" / "round").symlink_to(tmp_path)
    assert [names for names, _ in described(tmp_path)] == [
        ["b9.MKV"],
        ["b10.mp4"],
        ["walk/f2.png", "walk/f10.png"],
        ["walk/deep/c.h264"],
    ]
    assert find_clips(tmp_path / "folder.mp4") == []
    assert [clip.paths[0].name for clip in find_clips(tmp_path, nested=False)] == ["b9.MKV", "b10.mp4"]


def test_links_are_pictures_of_their_sequence_and_no_clips_of_their_own(tmp_path):
    touch(tmp_path, "f1.png", "f2.png", "f4.png")
    (tmp_path / "f3.png").symlink_to("f2.png")
    (tmp_path / "cover.png").symlink_to("f1.png")
    (tmp_path / "again").mkdir()
    for name in ("f1.png", "f2.png"):
        (tmp_path / "again" / name).symlink_to(tmp_path / name)
    assert [names for names, _ in described(tmp_path)] == [["f1.png", "f2.png", "f3.png", "f4.png"]]


def test_hard_links_are_like_other_links(tmp_path):
    """As train and validation folders share files: one name of a clip would be trained on, and another held out."""
    touch(tmp_path, "a.mp4", "f/1.png", "f/2.png", "f/4.png")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "soft.mp4").symlink_to(tmp_path / "a.mp4")
    links = {"z/b.mp4": "a.mp4", "f/3.png": "f/2.png", "z/1.png": "f/1.png", "z/2.png": "f/2.png"}
    for link, name in links.items():
        (tmp_path / link).hardlink_to(tmp_path / name)
    assert [names for names, _ in described(tmp_path)] == [["a.mp4"], [f"f/{number}.png" for number in range(1, 5)]]


def test_files_without_numbers_of_their_own_are_told_apart_by_their_paths(tmp_path, monkeypatch):
    touch(tmp_path, "a.mp4", "b.mp4")
    (tmp_path / "c.mp4").hardlink_to(tmp_path / "b.mp4")
    plain = type(tmp_path).stat

    def stat(path, **options):  # some network file systems
        state = plain(path, **options)
        return os.stat_result((state.st_mode, 0, *state[2:]))

    monkeypatch.setattr(type(tmp_path), "stat", stat)
    assert [names for names, _ in described(tmp_path)] == [["a.mp4"], ["b.mp4"], ["c.mp4"]]


@pytest.mark.parametrize(
    ("names", "positions"),
    [
        (["f1.png", "f2.png", "f4.png", "f5.png"], (0, 1, 3, 4)),  # a picture was lost
        (["f0010.jpg", "f0020.jpg", "f0040.jpg", "f0050.jpg"], (0, 1, 3, 4)),  # every tenth was kept
        (["image-001_64x64.png", "image-002_64x64.png", "image-003_64x64.png"], (0, 1, 2)),
        (["cam0_1403636579763555584.png", "cam0_1403636579813555456.png", "cam0_1403636579863555584.png"], (0, 1, 2)),
        (["a.png", "b.png", "x7.png"], (0, 1, 2)),  # no number counts
        (["1.png", "01.png", "2.png"], (0, 1, 2)),  # the same number twice
        (["only.png"], (0,)),
        (["98.png", "99.png", "100.png"], (0, 1, 2)),
        (["f1.png", "f2.jpg", "f3.PNG", "f5.jpeg"], (0, 1, 2, 4)),
        (["2024-01-01_11-59-58.png", "2024-01-01_11-59-59.png", "2024-01-01_12-00-00.png"], (0, 1, 2)),
        (["IMG_20231231_235958.jpg", "IMG_20231231_235959.jpg", "IMG_20240101_000001.jpg"], (0, 1, 3)),
        (["20240131T120059.800Z.png", "20240131T120059.900Z.png", "20240131T120100.000Z.png"], (0, 1, 2)),
        (["01-20240101120058-00.jpg", "01-20240101120058-01.jpg", "01-20240101120059-00.jpg"], (0, 1, 2)),
        (["20240101_120000_0009.jpg", "20240101_120000_0010.jpg", "20240101_120001_0011.jpg"], (0, 1, 2)),
        (["20240101_120000_1.jpg", "20240101_120000_2.jpg", "20240101_120000_4.jpg"], (0, 1, 3)),
        (["1305031102.900000.png", "1305031102.950000.png", "1305031103.000000.png"], (0, 1, 2)),
        (["20241399_999901.jpg", "20241399_999902.jpg"], (0, 1)),  # not a date
    ],
)
def test_the_numbers_of_picture_files_are_their_time(tmp_path, names, positions):
    touch(tmp_path, *names)
    ((_, found),) = described(tmp_path)
    assert found == pytest.approx(positions, abs=1e-4)


def test_views_of_one_scene_are_sequences_of_their_own(tmp_path):
    touch(tmp_path, *(f"{number}_cam{view}.png" for number in range(4) for view in (1, 2)))
    assert [names for names, _ in described(tmp_path)] == [[f"{n}_cam{view}.png" for n in range(4)] for view in (1, 2)]


def test_pictures_of_two_kinds_with_the_same_numbers_are_sequences_of_their_own(tmp_path):
    touch(tmp_path, *(f"{number}.{suffix}" for number in range(3) for suffix in ("jpg", "png")))
    assert [names for names, _ in described(tmp_path)] == [[f"{n}.{suffix}" for n in range(3)] for suffix in ("jpg", "png")]


def test_events_with_a_number_are_sequences_by_their_time(tmp_path):
    touch(tmp_path, *(f"{event}-2024010112000{second}-00.jpg" for event in (1, 2) for second in range(3)))
    assert [names for names, _ in described(tmp_path)] == [
        [f"{event}-2024010112000{second}-00.jpg" for second in range(3)] for event in (1, 2)
    ]


@pytest.mark.parametrize("stray", ["cover.png", "f_2 (1).png", "f_2 copy.png", "folder.jpg", "preview_1.png"])
def test_a_cover_or_a_copy_beside_the_pictures_of_a_film_is_not_one_of_them(tmp_path, stray):
    touch(tmp_path, stray, *(f"f_{number}.png" for number in range(4)))
    assert sorted(described(tmp_path), key=lambda clip: len(clip[0])) == [
        ([stray], (0,)),
        ([f"f_{number}.png" for number in range(4)], (0, 1, 2, 3)),
    ]


def test_names_that_no_grouping_fits_are_one_sequence(tmp_path):
    touch(tmp_path, "1_a.png", "2_b.png", "3_b.png")
    assert described(tmp_path) == [(["1_a.png", "2_b.png", "3_b.png"], (0, 1, 2))]


def test_pictures_between_videos_are_clips_of_their_own(tmp_path):
    touch(tmp_path, "a1.png", "a2.png", "b.mp4", "c1.png", "c2.png")
    assert [names for names, _ in described(tmp_path)] == [["a1.png", "a2.png"], ["b.mp4"], ["c1.png", "c2.png"]]


def test_pipes_and_devices_are_refused_and_in_folders_left_out(tmp_path):
    os.mkfifo(tmp_path / "pipe.mp4")
    for read in (find_clips, VideoReader):
        with pytest.raises(UsageError, match="is a pipe, which can be read only once"):
            read(tmp_path / "pipe.mp4")
    assert find_clips(tmp_path) == []
    assert no_files(tmp_path) == [(tmp_path / "pipe.mp4", "a pipe or a device, not a file")]
    with pytest.raises(UsageError, match="is a device"):
        find_clips(type(tmp_path)("/dev/null"))
    with pytest.raises(UsageError, match="does not exist"):
        find_clips(tmp_path / "nothing")


def test_broken_links_are_named_in_all_folders_that_are_searched(tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    touch(tmp_path / "b", "fine.mp4")
    (tmp_path / "b" / "gone.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "b" / "gone.txt").symlink_to("nowhere.txt")
    (tmp_path / "b" / "around").symlink_to(tmp_path / "a")
    (tmp_path / "a" / "linked").symlink_to(tmp_path / "b")
    found = tmp_path / "a" / "linked"
    assert [clip.name for clip in find_clips(tmp_path / "a")] == [found / "fine.mp4"]
    assert no_files(tmp_path / "a") == [(found / "gone.mp4", "a link that leads to no file")]


@pytest.mark.parametrize("number", [errno.EACCES, errno.ESTALE])
def test_a_folder_that_cannot_be_read_is_named_and_the_others_are_read(tmp_path, number):
    touch(tmp_path, "a/a.mp4", "b/b.mp4", "b/deep/c.mp4", "d.mp4")
    with refused(tmp_path / "b", number):
        assert [names for names, _ in described(tmp_path)] == [["d.mp4"], ["a/a.mp4"]]
        assert no_files(tmp_path) == [(tmp_path / "b", f"a folder that cannot be read: {os.strerror(number)}")]
        with pytest.raises(
            FolderError, match=rf"cannot read the folder '{tmp_path}/b': {os.strerror(number)}\n  check"
        ) as caught:
            find_clips(tmp_path / "b")
    assert caught.value.exit_code == ExitCode.ERROR
    assert no_files(tmp_path / "d.mp4") == []


def test_the_folder_of_a_disk_that_root_alone_may_read_is_not_missed(tmp_path):
    touch(tmp_path, "d.mp4")
    (tmp_path / "lost+found").mkdir()
    with refused(tmp_path / "lost+found"):
        assert described(tmp_path) == [(["d.mp4"], (0.0,))]
        assert no_files(tmp_path) == []


def test_a_link_into_a_folder_that_may_not_be_searched_is_named_and_the_others_are_read(tmp_path, monkeypatch):
    touch(tmp_path, "b/b.mp4", "b/b.txt", "b/c.mp4")
    plain = os.stat

    def refusing(path, **options):
        if str(path).startswith(f"{tmp_path}/b/b."):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return plain(path, **options)

    monkeypatch.setattr(os, "stat", refusing)
    assert described(tmp_path) == [(["b/c.mp4"], (0.0,))]
    assert no_files(tmp_path) == [(tmp_path / "b" / "b.mp4", "Permission denied")]


def test_videos_go_by_suffix_and_name_once_each(tmp_path):
    touch(tmp_path, "b.mp4", "a.mov", "._a.mov", "notes.txt")
    (tmp_path / "sub").mkdir()
    touch(tmp_path / "sub", "a.AVI")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "z_same_as_b.mp4").symlink_to(tmp_path / "b.mp4")
    found = [clip for clip in find_clips(tmp_path) if clip.is_video]
    assert [str(clip.paths[0].relative_to(tmp_path)) for clip in found] == ["a.mov", "b.mp4", "sub/a.AVI"]
    assert find_clips(tmp_path / "notes.txt")[0].paths == (tmp_path / "notes.txt",)
    with pytest.raises(UsageError, match="does not exist"):
        find_clips(tmp_path / "nothing")
