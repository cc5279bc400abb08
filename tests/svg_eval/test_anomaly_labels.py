"""Labels of anomalous frames: every kind of file, odd ones, and what does not match."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import Image

from svg_common.errors import UsageError
from svg_common.video.clips import Clip, find_clips
from svg_eval.anomaly.labels import read_labels
from tests.command_runner import HANG_S


def write(path, text):
    path.write_text(text)
    return path


def marked(labels, name, frames):
    """Numbers, from 1, of the anomalous frames of a clip."""
    return (np.flatnonzero(labels.clips[name].mask(frames)) + 1).tolist()


def write_masks(folder, flags):
    folder.mkdir(parents=True)
    for number, flag in enumerate(flags):
        mask = np.zeros((4, 6), np.uint8)
        mask[1, 2] = 255 * flag
        Image.fromarray(mask).save(folder / f"{number:03d}.bmp")


class TestRanges:
    @pytest.mark.parametrize("wrap", [lambda clips: {"clips": clips, "frames_are": "from 1"}, lambda clips: clips])
    def test_json_ranges_include_both_ends_and_may_overlap(self, tmp_path, wrap):
        clips = {"01": [[2, 4], [4, 5], [3, 3]], "02": []}
        labels = read_labels(write(tmp_path / "l.json", json.dumps(wrap(clips))))
        assert marked(labels, "01", 6) == [2, 3, 4, 5]
        assert marked(labels, "02", 6) == []
        assert "counted from 1" in labels.description

    def test_csv_has_a_line_per_range_and_files_with_or_without_suffix(self, tmp_path):
        text = "file,first,last\n# a remark\n01.mp4,2,3\n\n01, 5 ,5\nroad.v2,1,1\n02.avi,,\n03\n"
        labels = read_labels(write(tmp_path / "l.CSV", text))
        assert {name: marked(labels, name, 5) for name in labels.clips} == {"01": [2, 3, 5], "road.v2": [1], "02": [], "03": []}

    def test_clips_may_be_named_with_folder_and_suffix(self, tmp_path):
        text = "data/test/01.mp4,2,3\n./01,5,5\ntest/01.mp4,1,1\n02/\n"
        for labels in (
            read_labels(write(tmp_path / "l.csv", text)),
            read_labels(write(tmp_path / "l.json", '{"test/01.mp4": [[1, 3], [5, 5]], "02/": []}')),
        ):
            assert {name: marked(labels, name, 5) for name in labels.clips} == {"01": [1, 2, 3, 5], "02": []}

    @pytest.mark.parametrize(
        "text",
        ["a,2,3\rb\r", "# made by hand\n\nFile,First,Last\na,2,3\nb\n", "file,first,last,\r\na,2,3,\r\nb,,,\r\n"],
        ids=["lines as on old Macs", "a header below a remark", "a comma at every end"],
    )
    def test_csv_may_be_written_in_other_ways(self, tmp_path, text):
        (tmp_path / "l.csv").write_bytes(text.encode())
        labels = read_labels(tmp_path / "l.csv")
        assert {name: marked(labels, name, 5) for name in labels.clips} == {"a": [2, 3], "b": []}

    @pytest.mark.parametrize(
        "header",
        ["Video,Start,End", "clip,first frame,last frame,remark", "# by hand\nfile,from (1-based),to", ",first,last"],
    )
    def test_a_header_may_have_any_words(self, tmp_path, header):
        labels = read_labels(write(tmp_path / "l.csv", f"{header}\nb,2,3\n"))
        assert {name: marked(labels, name, 5) for name in labels.clips} == {"b": [2, 3]}

    @pytest.mark.parametrize("row", ["a,1.5,2.5", "a,5O,9O", "a,-,-", "a,-3,5", "a,x,5", "a,5,x", "01,x,y", "a,,5", "a,x"])
    def test_a_first_row_that_is_no_header_is_not_skipped(self, tmp_path, row):
        with pytest.raises(UsageError, match=f"line 1 is '{row}', not file,first,last"):
            read_labels(write(tmp_path / "l.csv", f"{row}\nb,2,3\n"))

    def test_a_second_header_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="line 2 is 'file,first,last'"):
            read_labels(write(tmp_path / "l.csv", "a,1,2\nfile,first,last\n"))

    @pytest.mark.parametrize("text", ["file;first;last\n01;61;180\n", "01;61;180\n", "01,1,2\n02;;\n", "sep=;\n01;61;180\n"])
    @pytest.mark.parametrize(("sign", "named", "escaped"), [(";", "semicolons", ";"), ("\t", "tabs", r"\\t")])
    def test_other_separators_are_refused_with_what_writes_commas(self, tmp_path, text, sign, named, escaped):
        text = text.replace(";", sign).replace("\t\t\n", "\t\t.\n")  # at the end of a line, tabs are space
        with pytest.raises(UsageError, match=rf"line \d is .*, with {named}: expected commas\n.* tr '{escaped}' ',' < FILE"):
            read_labels(write(tmp_path / "l.csv", text))

    def test_a_name_with_a_semicolon_needs_a_comma_behind_it(self, tmp_path):
        labels = read_labels(write(tmp_path / "l.csv", "a;b,\nc;d,2,3\n"))
        assert {name: marked(labels, name, 5) for name in labels.clips} == {"a;b": [], "c;d": [2, 3]}

    def test_ranges_may_count_from_0(self, tmp_path):
        labels = read_labels(write(tmp_path / "l.csv", "a,0,1\n"), first_number=0)
        assert marked(labels, "a", 3) == [1, 2]
        assert "counted from 0" in labels.description

    @pytest.mark.parametrize("text", ["a,0,1", "a,2,9", "a,3,2"])
    def test_a_range_outside_its_clip_is_refused(self, tmp_path, text):
        labels = read_labels(write(tmp_path / "l.csv", text))
        with pytest.raises(UsageError, match=r"clip a: range \d to \d, but the clip has frames 1 to 8"):
            labels.clips["a"].mask(8)

    @pytest.mark.parametrize(
        ("name", "text", "reason"),
        [
            ("l.json", "", "it is not JSON"),
            ("l.json", "[1]", 'no object "clips"'),
            ("l.json", "{}", "name no clip"),
            ("l.json", '{"clips": {"01": 5}}', "clip 01 has 5 in place of a list"),
            ("l.json", '{"clips": {"01": [[1, 2.5]]}}', r"clip 01 has the range \[1, 2.5\]"),
            ("l.json", '{"clips": {"01": [[1]]}}', "not \\[first, last\\]"),
            ("l.json", '{"01": [[1, 2]], "01": []}', "01 is named 2 times: expected one list"),
            ("l.json", '{"01": [[1, 2]], "01.mp4": []}', "01 is named 2 times"),
            ("l.json", '{"test/01.mp4": [[1, 2]], "./01": []}', "01 is named 2 times"),
            ("l.json", '{"clips": {"01": []}, "clips": {"01": [[1, 2]]}}', "clips is named 2 times"),
            ("l.csv", "a/01.mp4,1,2\nb/01.mp4,3,4\n", "'a/01.mp4' and 'b/01.mp4' are two files of one name"),
            ("l.csv", "01,1,2\na/01.mp4,3,4\nb/01.mp4,5,6\n", "'a/01.mp4' and 'b/01.mp4' are two files of one name"),
            ("l.csv", "", "name no clip"),
            ("l.csv", "file,first,last\n", "name no clip"),
            ("l.csv", "01,5\n", "line 1 is '01,5'"),
            ("l.csv", "01,a,b\n", "line 1 is"),
            ("l.m", "", "no line like TestVideoFile"),
            ("l.m", "TestVideoFile{1}.gt_frame = [1:2]; TestVideoFile{1}.gt_frame = [4];", "clip 1 has two entries"),
            ("l.m", "TestVideoFile{1}.gt_frame = [1:2]; TestVideoFile{2}.gt_frame = all;", "has a gt_frame that is not like"),
            ("l.csv", "a" * (1 << 18), "field larger than"),
            ("l.json", "[" * 10**5, "cannot be read"),
            ("l.m", "TestVideoFile{end+1}.gt_frame = [1:n];", r"entry 1 is \[1:n\]"),
            ("l.txt", "01,1,2", "unknown kind of labels"),
        ],
    )
    def test_what_is_not_labels_is_refused_with_the_reason(self, tmp_path, name, text, reason):
        with pytest.raises(UsageError, match=reason):
            read_labels(write(tmp_path / name, text))

    def test_what_is_far_too_large_for_labels_is_not_read(self, tmp_path):
        with (tmp_path / "l.csv").open("wb") as file:
            file.truncate(1 << 34)
        with pytest.raises(UsageError, match="cannot be read: it has more than 16 MiB"):
            read_labels(tmp_path / "l.csv")

    def test_missing_labels_are_refused(self, tmp_path):
        with pytest.raises(UsageError, match="do not exist"):
            read_labels(tmp_path / "none.json")


class TestMatlab:
    TEXT = (
        "% a remark: TestVideoFile{end+1}.gt_frame = [9:9];\n"
        "TestVideoFile = {};\n"
        "TestVideoFile{end+1}.gt_frame = [2:3];\n"
        "TestVideoFile{end+1}.gt_frame = [1 : 2, 4:5 7];  % two\n"
        "TestVideoFile{end+1}.gt_frame = [];\n"
        "delete('everything');\n"
    )

    def test_entries_count_and_nothing_runs(self, tmp_path):
        labels = read_labels(write(tmp_path / "UCSDped2.m", self.TEXT))
        assert {name: marked(labels, name, 8) for name in labels.clips} == {"1": [2, 3], "2": [1, 2, 4, 5, 7], "3": []}

    def test_numbers_in_braces_block_comments_and_bare_ranges(self, tmp_path):
        text = (
            "%{\nTestVideoFile{end+1}.gt_frame = [7:7];\n%}\nTestVideoFile{2}.gt_frame = [1:2];\r"
            "TestVideoFile{1}.gt_frame = 4:5; % [6]\r"
        )
        labels = read_labels(write(tmp_path / "l.m", text))
        assert {name: marked(labels, name, 8) for name in labels.clips} == {"2": [1, 2], "1": [4, 5]}

    def test_entries_belong_to_the_numbers_in_the_names_of_clips(self, tmp_path):
        labels = read_labels(write(tmp_path / "l.m", self.TEXT))
        for names in (["Test001", "Test002", "Test003"], ["01", "02", "03"]):
            assert [int(each.mask(8).sum()) for each in labels.of(names).values()] == [2, 5, 0]
        with pytest.raises(UsageError, match=r"do not match by the numbers(.|\n)*clips without labels: Test004"):
            labels.of(["Test001", "Test002", "Test003", "Test004"])
        with pytest.raises(UsageError, match="the numbers in their names"):
            labels.of(["a1", "b1", "c2"])

    @pytest.mark.parametrize(
        "text",
        [
            "TestVideoFile{" * 20_000,
            "TestVideoFile{1}.gt_frame = [" * 20_000,
            f"TestVideoFile{{1}}.gt_frame = {' ' * 100_000}x",
            f"TestVideoFile{{1}}.gt_frame = [1:2{' ' * 100_000}x];",
        ],
        ids=["braces", "brackets", "spaces after =", "spaces among ranges"],
    )
    def test_what_never_closes_is_refused_at_once(self, tmp_path, text):
        path = write(tmp_path / "l.m", text)
        begin = time.process_time()
        with pytest.raises(UsageError, match="cannot be read"):
            read_labels(path)
        assert time.process_time() - begin < HANG_S  # with a time that is the square of the size: minutes

    def test_ranges_may_be_on_lines_of_their_own_and_spaced(self, tmp_path):
        text = "TestVideoFile{end+1}.gt_frame = [ 1 : 2\n  4 :5 ];\nTestVideoFile{end+1}.gt_frame =  3 : 4 ;\n"
        labels = read_labels(write(tmp_path / "l.m", text))
        assert (marked(labels, "1", 5), marked(labels, "2", 5)) == ([1, 2, 4, 5], [3, 4])

    def test_clips_with_the_same_number_are_named(self, tmp_path):
        labels = read_labels(write(tmp_path / "l.m", "TestVideoFile{1}.gt_frame = [1:2]; TestVideoFile{2}.gt_frame = [];"))
        with pytest.raises(UsageError) as refused:
            labels.of(["cam2_01", "cam1_01", "cam1_2"])
        assert "these have the same: cam1_01, cam2_01\n  expected clips whose last numbers differ" in str(refused.value)
        assert "none" not in str(refused.value)


class TestMasks:
    def test_a_frame_is_anomalous_where_its_mask_has_a_set_pixel(self, tmp_path):
        write_masks(tmp_path / "gt" / "Test001_gt", [0, 1, 1, 0])
        write_masks(tmp_path / "gt" / "02", [0, 0])
        labels = read_labels(tmp_path / "gt")
        assert marked(labels, "Test001", 4) == [2, 3]
        assert marked(labels, "02", 2) == []
        with pytest.raises(UsageError, match="2 masks for 3 frames"):
            labels.clips["02"].mask(3)

    @pytest.mark.parametrize(
        ("numbers", "pictures", "refused"),
        [
            ([1, 2, 4, 5], [1, 2, 4, 5], None),
            ([0, 1, 3, 4], [1, 2, 4, 5], None),
            ([0, 33, 100, 133], [0, 1, 3, 4], None),
            ([1, 2, 3, 5], [1, 2, 4, 5], "003"),
            ([1, 2, 3, 4], [1, 2, 4, 5], "003"),
            ([1, 2, 4, 5], [1, 2, 3, 4], "004"),
            ([1, 2, 4, 5], None, "004"),
            ([1, 2, 3, 4], None, None),
        ],
    )
    def test_masks_lack_the_same_numbers_as_pictures_and_none_of_a_video(self, tmp_path, numbers, pictures, refused):
        for folder, each in (("gt/01", numbers), ("clips/01", pictures or [])):
            (tmp_path / folder).mkdir(parents=True)
            for number in each:
                Image.fromarray(np.full((4, 6), number == 2, np.uint8)).save(tmp_path / folder / f"{number:03d}.png")
        video = tmp_path / "clips" / "01.mp4"
        clip = find_clips(tmp_path / "clips" / "01")[0] if pictures else Clip((video,), is_video=True)
        labels = read_labels(tmp_path / "gt").clips["01"]
        if refused is None:
            assert labels.mask(4, clip).tolist() == [number == 2 for number in numbers]
            return
        with pytest.raises(UsageError, match=f"'{refused}.png' is not the mask of frame 3 of '.*01.*': their numbers"):
            labels.mask(4, clip)

    def test_clips_beside_their_masks_are_no_masks(self, tmp_path):
        write_masks(tmp_path / "Test001", [1, 1])
        write_masks(tmp_path / "Test002", [1, 1])
        write_masks(tmp_path / "Test002_gt", [0, 1])
        labels = read_labels(tmp_path)
        assert marked(labels, "Test002", 2) == [2]
        with pytest.raises(UsageError, match="clips without labels: Test001"):
            labels.of(["Test001", "Test002"])

    def test_a_mask_of_16_bits_is_set_by_its_smallest_value(self, tmp_path):
        (tmp_path / "gt" / "01").mkdir(parents=True)
        for number, value in enumerate((0, 1, 65535)):
            Image.fromarray(np.full((4, 6), value, np.uint16)).save(tmp_path / "gt" / "01" / f"{number}.png")
        assert marked(read_labels(tmp_path / "gt"), "01", 3) == [2, 3]

    def test_an_unreadable_mask_is_refused(self, tmp_path):
        write_masks(tmp_path / "gt" / "01", [0, 1])
        (tmp_path / "gt" / "01" / "001.bmp").write_bytes(b"no picture")
        with pytest.raises(UsageError, match="a mask cannot be read"):
            read_labels(tmp_path / "gt").clips["01"].mask(2)

    def test_masks_may_be_links_to_one_file_and_folders_links_to_one_folder(self, tmp_path):
        write_masks(tmp_path / "gt" / "01", [1])
        write_masks(tmp_path / "pool", [0])
        for number in (1, 2, 4):
            (tmp_path / "gt" / "01" / f"{number:03d}.bmp").symlink_to(tmp_path / "pool" / "000.bmp")
        (tmp_path / "gt" / "01" / "003.bmp").symlink_to("000.bmp")
        for name in ("02", "03"):
            (tmp_path / "gt" / name).symlink_to(tmp_path / "pool")
        labels = read_labels(tmp_path / "gt")
        assert marked(labels, "01", 5) == [1, 4]
        assert [marked(labels, name, 1) for name in ("02", "03")] == [[], []]

    def test_a_mask_that_is_a_link_to_nothing_is_refused(self, tmp_path):
        write_masks(tmp_path / "gt" / "01", [0, 1])
        (tmp_path / "gt" / "01" / "002.bmp").symlink_to("none.bmp")
        with pytest.raises(UsageError, match=r"002.bmp' is a link to a file that does not exist"):
            read_labels(tmp_path / "gt")

    @pytest.mark.parametrize("first_number", [0, 1])
    def test_masks_have_no_numbers_to_count_from(self, tmp_path, first_number):
        write_masks(tmp_path / "gt" / "01", [0, 1])
        assert read_labels(tmp_path / "gt").first_number == 1
        with pytest.raises(UsageError, match=r"--anomaly-first has no effect with .*gt', a folder of masks"):
            read_labels(tmp_path / "gt", first_number)

    def test_a_folder_without_masks_is_refused(self, tmp_path):
        with pytest.raises(UsageError, match="has no folders of pixel masks"):
            read_labels(tmp_path)


def test_what_does_not_match_is_named_on_both_sides(tmp_path):
    labels = read_labels(write(tmp_path / "l.csv", "".join(f"c{number}\n" for number in range(1, 9))))
    with pytest.raises(UsageError) as refused:
        labels.of(["c1", "extra"])
    assert "clips without labels: extra" in str(refused.value)
    assert "labels without a clip: c2, c3, c4, c5, c6 and 2 more" in str(refused.value)
    assert "the clips are c1, extra; the labels c1, c2, c3, c4, c5 and 3 more" in str(refused.value)
