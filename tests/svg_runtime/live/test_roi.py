"""The region of interest: how it is written, what the model sees of it, and what the picture shows."""

from __future__ import annotations

import math

import numpy as np
import pytest

from svg_common.errors import ExitCode, UsageError
from svg_common.frames import fit_frame
from svg_runtime.live.overlay import Caption, ForecastPicture, View
from svg_runtime.live.overlay.theme import ACCENT
from svg_runtime.live.preprocess import crop
from svg_runtime.live.roi import MIN_SIDE, Region, RegionOutsideError, Roi, parse_roi
from tests.svg_runtime.live.live_helpers import write_video


@pytest.mark.parametrize(
    ("text", "region"),
    [
        ("100,50,320,240", Region(100, 50, 320, 240)),
        ("0.5, 0.25, 0.5, 0.75", Region(320, 120, 320, 360)),
        ("0,0,1,1", Region(0, 0, 640, 480)),
        ("0.333,0.333,0.667,0.667", Region(213, 160, 427, 320)),
        ("624,464,16,16", Region(624, 464, 16, 16)),
    ],
)
def test_pixels_and_fractions(text, region):
    assert parse_roi(text).in_picture(480, 640) == region


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("1,2,3", "is not a region"),
        ("a,b,c,d", "is not a region"),
        ("-1,0,20,20", "is not a region"),
        ("0,0,0,20", "is not a region"),
        ("nan,0,20,20", "is not a region"),
        ("0,0,inf,20", "is not a region"),
        ("0.5,0.5,320,240", "mixes pixels and fractions"),
        ("0.5,0.5,0.6,0.5", "ends outside the picture"),
    ],
)
def test_what_is_no_region_is_refused_with_what_is_expected(text, problem):
    with pytest.raises(UsageError, match=f"{problem}(.|\n)*expected X,Y,W,H"):
        parse_roi(text)


def test_messages_name_the_region_as_it_was_given():
    with pytest.raises(UsageError, match=r"^roi abc is not a region"):
        parse_roi("abc", "roi")
    with pytest.raises(RegionOutsideError, match=r"^roi 400,100,300,200 does not lie"):
        parse_roi("400,100,300,200", "roi").in_picture(480, 640)
    with pytest.raises(RegionOutsideError, match=r"^--roi 0,0,0.01,0.01 is only"):
        parse_roi("0,0,0.01,0.01").in_picture(480, 640)
    assert parse_roi("0,0,64,64", "roi") == parse_roi("0,0,64,64")


def test_a_region_outside_the_picture_is_refused_with_its_size():
    with pytest.raises(RegionOutsideError, match="picture of 640x480 pixels: it ends at 700,300"):
        Roi(400, 100, 300, 200).in_picture(480, 640)
    with pytest.raises(RegionOutsideError, match=f"is only 13x10 pixels(.|\n)*less than {MIN_SIDE} each way"):
        Roi(0.5, 0.5, 0.02, 0.02).in_picture(480, 640)


@pytest.mark.parametrize("frame_hw", [(64, 64), (48, 96), (96, 48), (128, 128)])
@pytest.mark.parametrize(
    "region", [Region(0, 0, 64, 48), Region(10, 5, 30, 60), Region(3, 2, 90, 90), Region(100, 100, 300, 100)]
)
def test_what_is_drawn_is_what_the_model_sees(frame_hw, region):
    """Nothing outside the drawn part changes the model's frame; every corner inside does."""
    height, width = frame_hw
    seen = region.as_seen(frame_hw)
    picture = np.zeros((400, 500), np.uint8)
    crop(picture, region)[:] = 255
    crop(picture, Region(seen.x, seen.y, seen.width, seen.height))[:] = 0
    grown = fit_frame(crop(picture, region), height, width, 1)
    off = 1 + math.ceil(width / seen.width)  # half a pixel of the picture
    assert grown[off:-off, off:-off].max() == 0
    picture[:] = 0
    edge = 3
    crop(picture, Region(seen.x, seen.y, edge, edge))[:] = 255
    crop(picture, Region(seen.x + seen.width - edge, seen.y + seen.height - edge, edge, edge))[:] = 255
    grown = fit_frame(crop(picture, region), height, width, 1)
    assert grown[:4, :4].max() > 60
    assert grown[-4:, -4:].max() > 60


def test_the_live_panel_shows_the_whole_picture_with_the_region():
    caption = Caption("m.svgb", "cpu, fp32", "a camera", 4, 4, 0.1, (64, 64), 4)
    picture = np.full((480, 640, 3), 100, np.uint8)
    plain = ForecastPicture(caption).annotate(View(picture))
    framed = ForecastPicture(caption).annotate(View(picture, region=Region(320, 240, 240, 240)))
    live = framed[108:444, 32:368]
    assert (plain[108:444, 32:368] == 100).all()
    assert (live[:40] == framed[100, 33]).all()  # 4:3 in a square: bars above and below
    assert (live[168 + 60, 168 + 60] == 100).all()
    assert (live[168 - 60, 168 - 60] == 50).all()
    rows, columns = np.where((live == ACCENT).all(-1))
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == pytest.approx((168, 293, 168, 293), abs=2)


def test_a_run_sees_only_its_region_in_a_gray_source_too(svg_live):
    code, stderr, stats = svg_live(
        "--headless", "--max-frames", "8", "--json", "stats.json", "--output", "o.mp4", "--roi", "0.25,0.25,0.5,0.5"
    )
    assert code == 0, stderr
    assert stats["frames"]["forecast"] == 6


def test_a_region_outside_the_first_picture_is_a_usage_error_and_leaves_no_file(svg_live, tmp_path):
    write_video(tmp_path / "a.mp4", frames=6)
    code, stderr, _ = svg_live(
        "--source", "a.mp4", "--headless", "--roi", "40,0,64,64", "--output", "o.mp4", "--json", "stats.json"
    )
    assert (code, "picture of 64x64" in stderr) == (ExitCode.USAGE, True)
    assert not (tmp_path / "o.mp4").exists()
    assert not (tmp_path / "stats.json").exists()


def test_pixels_that_no_longer_fit_are_an_event_and_forecasts_come_back(svg_live, tmp_path):
    for name, size in (("a", 128), ("b", 64), ("c", 128)):
        write_video(tmp_path / f"{name}.mp4", frames=5, size=size)
    options = ("--source", ".", "--headless", "--json", "stats.json", "--output", "out/o.mp4", "--horizon", "2")
    code, stderr, stats = svg_live(*options, "--roi", "50,50,64,64", "--save-forecasts", "out/raw")
    assert code == 0, stderr
    assert stats["events"]["counts"]["roi_outside"] == 1
    assert "does not lie within the picture of 64x64 pixels" in stderr
    assert (stats["frames"]["seen"], stats["frames"]["forecast"], stats["frames"]["unused"]) == (10, 6, 0)
    assert int(np.load(max((tmp_path / "out/raw").glob("*.npz")))["frame"]) == 14  # of all pictures, from 0
    code, stderr, stats = svg_live(*options, "--roi", "50,50,64,64", "--max-frames", "8")
    assert code == 0, stderr
    assert (stats["stopped_by"], stats["frames"]["seen"]) == ("--max-frames", 5)
    code, stderr, stats = svg_live(*options, "--roi", "0.5,0.5,0.5,0.5")
    assert code == 0, stderr
    assert "roi_outside" not in stats["events"]["counts"]
    assert stats["frames"]["forecast"] == 9
    code, stderr, stats = svg_live(*options, "--roi", "0.5,0.5,0.2,0.2")
    assert (code, stats["events"]["counts"]["roi_outside"]) == (0, 1)
    small = (
        "is only 13x13 pixels of the picture of 64x64, less than 16 each way; there are no forecasts for pictures of this size"
    )
    assert small in stderr


def test_what_came_is_the_region_beside_what_was_expected_of_it():
    caption = Caption("m.svgb", "cpu, fp32", "a camera", 4, 4, 0.1, (64, 64), 4)
    region = Region(320, 240, 240, 240)
    picture = np.zeros((480, 640, 3), np.uint8)
    crop(picture, region)[:] = (10, 200, 90)
    canvas = ForecastPicture(caption, overlays=("before",)).annotate(View(picture, region=region))
    seen = (np.abs(canvas.astype(int) - (10, 200, 90)).max(-1) <= 1).sum(1).max()
    alone = ForecastPicture(caption, overlays=("before",)).annotate(View(np.ascontiguousarray(crop(picture, region))))
    assert np.array_equal(canvas, alone)
    assert seen > 200
