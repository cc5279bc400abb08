"""Where a set of videos is cut into training and held-out part."""

from __future__ import annotations

import numpy as np

from svg_train.data.video_sampling import cuts_at_end, cuts_in_time, side_of_cut


def test_each_file_is_cut_in_time():
    assert cuts_in_time([100, 20, 1], 0.15) == [85, 17, 1]


def test_the_end_of_a_recording_in_several_files_is_cut_off():
    assert cuts_at_end([100, 100, 100, 20], 0.25) == [100, 100, 40, 0]  # 80 of 320 frames
    assert cuts_at_end([100], 0.15) == [85]


def test_both_sides_of_a_cut_are_all_frames_and_share_none():
    runs = [np.arange(0, 10), np.arange(12, 20)]
    train, test = (np.concatenate(side_of_cut(runs, 14, split)).tolist() for split in ("train", "test"))
    assert train == [*range(10), 12, 13]
    assert test == list(range(14, 20))
