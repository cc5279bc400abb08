"""Random views of training sequences: what varies, what stays, and that nothing depends on the order of reading."""

from __future__ import annotations

from pathlib import Path

import av
import cv2
import numpy as np
import pytest

from svg_common.errors import UsageError
from svg_common.frames import fit_frame
from svg_train.config import DataConfig, build_config
from svg_train.data import open_data
from svg_train.data.augmentation import Augmentation
from svg_train.data.frame_cache import FrameShape
from svg_train.data.view import CameraPath, View

LENGTH, HEIGHT, WIDTH = 6, 128, 192
GRAY = FrameShape(64, 64, 1)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))


def picture(number: int) -> np.ndarray:
    """(H, W, 3): red is the column, green the row, blue the number of the frame."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([columns, rows, np.full_like(rows, number)], -1).astype(np.uint8)


@pytest.fixture
def root(tmp_path) -> str:
    """A lossless video of 40 frames, 30 a second."""
    with av.open(str(tmp_path / "a.avi"), "w") as container:
        stream = container.add_stream("ffv1", rate=30)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "bgr0"
        for number in range(40):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture(number), format="rgb24")))
        container.mux(stream.encode())
    return str(tmp_path)


def open_split(root, split="train", seed=0, length=LENGTH, **data):
    tables = {"model": {"n_past": 2, "channels": 3}, "train": {"n_future": 4, "seed": seed}}
    config = build_config({**tables, "data": {"name": "video", "root": root, **data}})
    return open_data(config, split, length)


def columns(sequence) -> int:
    """Columns of the picture from the first to the last of the view."""
    return int(sequence[0, 0, -1, 0]) - int(sequence[0, 0, 0, 0])


def some(data, count=40):
    return [data[index] for index in range(count)]


def test_without_augmentation_a_sequence_is_the_central_square_of_its_frames(root):
    data = open_split(root)
    assert len(data) == 34 - LENGTH + 1
    expected = np.stack([fit_frame(picture(3 + number), 64, 64, 3) for number in range(LENGTH)])
    np.testing.assert_array_equal(data[3], expected)
    assert "random views" not in data.description


def test_native_crops_are_pixels_of_the_picture_from_everywhere_in_it(root):
    corners = set()
    for sequence in some(open_split(root, crop=(0.5, 0.5)), 200):
        left, top, first = (int(value) for value in sequence[0, 0, 0])
        expected = [picture(first + number)[top : top + 64, left : left + 64] for number in range(LENGTH)]
        np.testing.assert_array_equal(sequence, np.stack(expected))
        corners.add((top, left))
    tops, lefts = zip(*corners, strict=True)
    assert min(tops) < 4
    assert max(tops) > 60
    assert min(lefts) < 6
    assert max(lefts) > 122


def test_crops_of_several_scales_span_the_range(root):
    spans = [
        int(sequence[0, 0, -1, 0]) - int(sequence[0, 0, 0, 0]) for sequence in some(open_split(root, crop=(0.5, 1.0)), 100)
    ]
    assert 63 <= min(spans) < 70
    assert 118 < max(spans) <= 127
    assert 80 < np.median(spans) < 100  # the geometric mean of both ends is 90


def test_crops_are_not_enlarged(root):
    assert {columns(sequence) for sequence in some(open_split(root, crop=(0.1, 0.1)))} == {63}


def test_flip_mirrors_half_of_the_sequences(root):
    rising = [bool(sequence[0, 0, 0, 0] < sequence[0, 0, -1, 0]) for sequence in some(open_split(root, flip=True), 200)]
    assert 70 < sum(rising) < 130


def test_brightness_multiplies_all_values_alike(root):
    plain, changed = open_split(root), open_split(root, brightness=0.3)
    gains = []
    for index, sequence in enumerate(some(changed, len(plain))):
        truth = plain[index].astype(float)
        gain = np.median(sequence[..., 0] / truth[..., 0])
        assert np.abs(np.clip(truth * gain, 0, 255) - sequence).max() < 4
        gains.append(gain)
    assert 0.69 < min(gains) < 0.8
    assert 1.2 < max(gains) < 1.31


def test_playback_is_in_whole_pictures_per_step_and_fits_in_the_clip(root):
    data = open_split(root, frame_step=3, playback=(0.5, 2.4))
    steps = [np.diff(sequence[:, 0, 0, 2].astype(int)).tolist() for sequence in some(data, 300)]
    assert {step for each in steps for step in each} == {2, 3, 4, 5, 6}  # 7 would take 36 of the 34 frames
    assert all(len(set(each)) == 1 for each in steps)
    assert data.frame_interval_s == pytest.approx(0.1)


def test_of_several_views_the_one_that_changes_most_is_shown(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(8):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[:40, :40] = 30 * number  # everything else stands still
        cv2.imwrite(str(folder / f"{number}.png"), image)
    shares = []
    for moving in (1, 6):
        data = open_split(str(folder), length=3, crop=(0.5, 0.5), moving=moving, frame_interval_s=0.1, test_fraction=0.4)
        shares.append(np.mean([bool((sequence[0] != sequence[1]).any()) for sequence in some(data, 100)]))
    assert 0.08 < shares[0] < 0.3  # the square is in 19 % of all crops
    assert shares[1] > 0.55  # in one of six of them: 72 %


def test_views_are_chosen_without_knowing_the_future(tmp_path):
    """What stands still as long as it is observed moves afterwards as often as it does in views that were not chosen."""
    for number in range(8):
        image = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
        image[:40, :40] = 200 * (number >= 2)
        cv2.imwrite(str(tmp_path / f"{number}.png"), image)
    options = {"length": 3, "frame_interval_s": 0.1, "test_fraction": 0.4}
    starts = len(open_split(str(tmp_path), **options))
    data = open_split(str(tmp_path), crop=(0.5, 0.5), moving=6, **options)
    changed = [bool((data[index][0] != data[index][-1]).any()) for index in range(0, 100 * starts, starts)]  # all from 0 on
    assert 0.08 < np.mean(changed) < 0.3


def test_balanced_clips_count_by_the_square_root_of_their_lengths(tmp_path):
    for name, count in {"a": 10, "b": 40}.items():
        (tmp_path / name).mkdir()
        for number in range(count):
            cv2.imwrite(str(tmp_path / name / f"{number:02}.png"), np.full((HEIGHT, WIDTH, 3), 6 * number, np.uint8))
    options = {"length": 4, "frame_interval_s": 0.1, "test_fraction": 0.3, "split_by": "time"}
    plain, data = open_split(str(tmp_path), **options), open_split(str(tmp_path), balanced=True, **options)
    names = [plain.clip_source(index).name for index in range(len(plain))]
    drawn = [data.clip_source(index).name for index in range(400)]
    short, long = np.sqrt([names.count("a"), names.count("b")])
    assert drawn.count("a") / 400 == pytest.approx(short / (short + long), abs=0.07)
    starts = {(name, int(data[index][0, 0, 0, 0])) for index, name in enumerate(drawn)}
    assert len(starts) == len(plain)


def test_views_depend_on_seed_and_index_alone(root):
    options = {"crop": (0.5, 1.0), "flip": True, "brightness": 0.2, "playback": (1.0, 2.0)}
    first, again, other = open_split(root, **options), open_split(root, **options), open_split(root, seed=1, **options)
    forward = some(first, 12)
    backward = [again[index] for index in reversed(range(12))][::-1]
    for a, b in zip(forward, backward, strict=True):
        np.testing.assert_array_equal(a, b)
    assert any(not np.array_equal(a, other[index]) for index, a in enumerate(forward))
    starts = 34 - LENGTH + 1
    assert len(first) == 1_000_000 // starts * starts
    assert not np.array_equal(first[0], first[starts])  # the same sequence, another view of it
    assert first[len(first) - 1].shape == (LENGTH, 64, 64, 3)
    assert "in random views" in first.description


def test_held_out_sequences_are_the_central_crop_of_the_largest_share(root):
    plain = open_split(root, "test", test_fraction=0.3)
    varied = {"crop": (0.5, 1.0), "flip": True, "brightness": 0.2, "playback": (0.5, 2.0), "camera_motion": 1.0}
    augmented = open_split(root, "test", test_fraction=0.3, **varied)
    assert len(augmented) == len(plain)
    for index in range(len(plain)):
        np.testing.assert_array_equal(augmented[index], plain[index])
    native = open_split(root, "test", test_fraction=0.3, crop=(0.5, 0.5))
    np.testing.assert_array_equal(native[0][0], picture(28)[32:96, 64:128])


def test_small_and_narrow_pictures_give_their_largest_crop():
    frame = np.arange(48 * 40, dtype=np.uint8).reshape(48, 40, 1)
    for share in (0.2, 1.0):
        shown = View(share=share, top=0.0, left=0.5).show([frame], GRAY)
        np.testing.assert_array_equal(shown[0], fit_frame(frame[:40], 64, 64, 1))


def test_frames_that_are_not_square_are_cropped_in_their_shape():
    shown = View(share=0.5, top=1.0, left=0.0).show([picture(0)], FrameShape(32, 64, 3))
    expected = fit_frame(picture(0)[HEIGHT - 48 :, :96], 32, 64, 3)
    np.testing.assert_array_equal(shown[0], expected)


RGB = FrameShape(64, 64, 3)


def seen_by(path, share=0.5, top=0.5, left=0.5, count=5, **options):
    return View(share=share, top=top, left=left, path=path).show([picture(0)] * count, RGB, **options).astype(float)


def test_a_camera_that_stands_still_sees_what_a_crop_has():
    np.testing.assert_allclose(seen_by(CameraPath()), seen_by(None), atol=1)
    np.testing.assert_allclose(seen_by(CameraPath(), share=0.8), seen_by(None, share=0.8), atol=1)


def test_a_camera_pans_evenly():
    moved = seen_by(CameraPath(down=0.25, right=-0.5)) - seen_by(CameraPath())
    np.testing.assert_allclose(moved[:, 5:-5, 5:-5, 0].mean((1, 2)), 64 * np.array([0.25, 0.125, 0, -0.125, -0.25]), atol=0.5)
    np.testing.assert_allclose(
        moved[:, 5:-5, 5:-5, 1].mean((1, 2)), 64 * np.array([-0.125, -0.0625, 0, 0.0625, 0.125]), atol=0.5
    )


def test_a_camera_zooms_evenly_about_its_centre():
    shown = seen_by(CameraPath(zoom=np.log(1.5)), share=0.7)
    spans = shown[:, 0, -1, 0] - shown[:, 0, 0, 0]
    np.testing.assert_allclose(spans[1:] / spans[:-1], 1.5**-0.25, rtol=0.02)
    np.testing.assert_allclose(shown[..., :2].mean((1, 2)), shown[..., :2].mean((0, 1, 2))[None].repeat(5, 0), atol=0.6)


@pytest.mark.parametrize("path", [CameraPath(down=9, right=-9), CameraPath(down=-9, zoom=2), CameraPath(right=9, zoom=-1)])
def test_a_camera_stays_within_the_picture(path):
    for share, top, left in ((0.5, 0.0, 1.0), (1.0, 0.5, 0.5), (0.8, 1.0, 0.0)):
        shown = seen_by(path, share, top, left)
        for values, most in ((shown[..., 0], WIDTH - 1), (shown[..., 1], HEIGHT - 1)):
            steps = np.concatenate([np.diff(values[..., 1:-1], axis=axis).ravel() for axis in (1, 2)])
            assert steps.min() >= -1  # rounded
            assert values.min() >= 0
            assert values.max() <= most
        across = np.diff(shown[..., 0], axis=2)
        assert across[:, :, 1:-1].mean() > 0.2  # no edge is repeated
        assert (across.mean((1, 2)) > 0.15).all()


def test_some_frames_are_seen_from_where_the_camera_is_then():
    path = CameraPath(down=0.1, right=0.3, zoom=0.2)
    whole = View(share=0.5, path=path).show([picture(number) for number in range(5)], RGB)
    some_frames = View(share=0.5, path=path).show([picture(0), picture(3)], RGB, moments=[0, 0.75])
    np.testing.assert_array_equal(some_frames, whole[[0, 3]])


def pans(sequence) -> bool:
    """Whether the view moves. The clip's own frames differ in blue alone."""
    return bool(
        np.ptp(sequence[..., :2].astype(float).mean((1, 2)), axis=0).max() > 0.3 or columns(sequence) != columns(sequence[-1:])
    )


def test_the_camera_moves_in_as_many_sequences_as_asked_for(root):
    options = {"crop": (0.5, 1.0), "moving": 3}
    for share, least, most in ((0.0, 0, 0), (0.25, 25, 75), (1.0, 185, 200)):  # some hardly move
        assert least <= sum(map(pans, some(open_split(root, camera_motion=share, **options), 200))) <= most


def test_a_long_sequence_zooms_no_farther_than_a_short_one():
    augmentation = Augmentation(DataConfig(name="video", crop=(0.5, 1.0), camera_motion=1.0), "train")
    for length, least in ((15, 0.2), (1000, 0.3)):
        zooms = [abs(augmentation.views(length, np.random.default_rng(seed))[0].path.zoom) for seed in range(200)]
        assert least <= max(zooms) <= 0.3
        assert min(zooms) == 0


def test_without_a_moving_camera_views_are_those_of_earlier_versions(root):
    data = open_split(root, crop=(0.5, 1.0), moving=2)
    assert [int(data[index].sum()) for index in range(3)] == [3723264, 3379200, 4657152]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"camera_motion": 1.1}, "camera_motion"),
        ({"camera_motion": 0.1}, "camera_motion needs smaller crops: .* add crop 0.5 1"),
        ({"name": "kth", "camera_motion": 0.5}, "camera_motion does not apply to data 'kth', only to video"),
        ({"crop": (0.0, 1.0)}, "crop must be two shares in ascending order"),
        ({"crop": (0.6, 0.5)}, "crop must be two shares in ascending order"),
        ({"crop": (0.5, 1.1)}, "crop must be two shares in ascending order"),
        ({"playback": (1.5, 2.0)}, "playback must be a rate up to 1 and one of at least 1"),
        ({"brightness": 1.0}, "brightness"),
        ({"name": "kth", "flip": True}, "flip does not apply to data 'kth', only to video"),
    ],
)
def test_settings_that_make_no_view_are_refused(data, message):
    with pytest.raises(UsageError, match=message):
        build_config({"data": {"name": "video", "root": "x", **data}})


def test_pictures_of_other_sizes_in_one_folder_keep_the_size_of_the_first(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(10):
        shape = (HEIGHT, WIDTH) if number != 4 else (HEIGHT // 2, WIDTH // 2)
        cv2.imwrite(str(folder / f"{number}.png"), np.full((*shape, 3), 20 * number, np.uint8))
    data = open_split(str(folder), crop=(0.5, 1.0), length=3, frame_interval_s=0.1)
    assert {frame.shape for sequence in some(data) for frame in sequence} == {(64, 64, 3)}


def test_the_cache_has_whole_pictures_only_as_large_as_needed(root, tmp_path):
    open_split(root, crop=(0.8, 1.0))
    (file,) = Path(tmp_path / "cache").glob("*.u8")
    assert file.stat().st_size == 40 * 80 * 120 * 3
