"""The overlays beside the panels: each shows what its name says, at any size, and in colors that all eyes tell apart."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import cv2
import numpy as np
import pytest

from svg_common.errors import ExitCode, UsageError
from svg_common.frames import fit_frame
from svg_runtime.live.overlay import Caption, ForecastPicture, View, check_display, likely_panel
from svg_runtime.live.overlay.ghost_panel import draw_ghost
from svg_runtime.live.overlay.layout import content_of, make_frame, make_tiles
from svg_runtime.live.overlay.likely_panel import distances_from_mean
from svg_runtime.live.overlay.names import LEAST_TILE_WH, parse_display_size, parse_overlays
from svg_runtime.live.overlay.scene import put_scene
from svg_runtime.live.overlay.theme import ACCENT, BACKGROUND, LEVELS, MUTED, PANEL, TEXT, WARNING, Rect
from svg_runtime.live.roi import Region

GRAY = np.full((90, 160, 3), 128, np.uint8)
ALONE = tuple((name,) for name in LEAST_TILE_WH)

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
BLIND = {
    "protanopia": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deuteranopia": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritanopia": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def caption(samples: int = 4, horizon: int = 5, lead: int = 5) -> Caption:
    return Caption("m.svgb", "cpu, fp32", "a/very/long/name/of/a/source" * 4, samples, horizon, 0.1, (32, 32), lead)


def futures(samples: int = 4, horizon: int = 5, value: float = 128 / 255) -> np.ndarray:
    return np.full((samples, horizon, 32, 32, 3), value, np.float32)


def view_of(picture: np.ndarray, made: np.ndarray, **rest) -> View:
    seen = fit_frame(picture, 32, 32, 3) / np.float32(255)
    return View(picture, made, frame=seen, position_s=0.1 * rest.get("tick", 0), **rest)


def seen_part(picture: np.ndarray, name: str, size_wh: tuple[int, int] = (1280, 720)) -> np.ndarray:
    """What a lone overlay over the live picture drew in the part that the model sees."""
    frame = make_frame(size_wh)
    scene = put_scene(
        canvas=picture.copy(), box=content_of(frame.body, frame.scale), picture=GRAY, frame_hw=(32, 32), region=None
    )
    return scene.seen.of(picture)


def test_the_model_is_shown_to_look_at_its_region():
    canvas = np.zeros((100, 200, 3), np.uint8)
    picture = np.zeros((50, 100, 3), np.uint8)
    scene = put_scene(canvas=canvas, box=Rect(0, 0, 200, 100), picture=picture, frame_hw=(32, 32), region=Region(10, 5, 20, 20))
    assert scene.seen == Rect(20, 10, 40, 40)


@pytest.mark.parametrize("size_wh", [(2, 2), (20, 2000), (100, 60)])
def test_a_display_smaller_than_its_margins_is_refused_with_one_that_does(size_wh):
    with pytest.raises(UsageError) as caught:
        check_display(size_wh, ("panels",))
    width, height = map(int, str(caught.value).rpartition("--display-size ")[2].split("x"))
    check_display((width, height), ("panels",))


@pytest.mark.parametrize("overlays", [*ALONE, ("ghost", "contours", "before", "likely"), ("before", "panels")])
@pytest.mark.parametrize("size_wh", [(640, 480), (1280, 720), (3840, 2160)])
def test_every_overlay_stays_within_the_margin_at_every_size(overlays, size_wh):
    if overlays == ("before", "panels") and size_wh == (640, 480):
        with pytest.raises(UsageError, match=r"(?s)'panels' cannot be read in .*--display-size \d+x\d+"):
            check_display(size_wh, overlays)
        return
    check_display(size_wh, overlays)
    frame = make_frame(size_wh)
    random = np.random.default_rng(0)
    picture = ForecastPicture(caption(), size_wh, overlays)
    for tick in (0, 5, 6):
        view = view_of(GRAY, random.random((4, 5, 32, 32, 3), np.float32), tick=tick, misfit=("a reason " * 40,) * (tick > 5))
        canvas = picture.annotate(view)
    assert canvas.shape == (size_wh[1], size_wh[0], 3)
    outside = np.ones(size_wh[::-1], bool)
    outside[frame.margin // 2 : size_wh[1] - 1, frame.margin - 2 : size_wh[0] - frame.margin + 2] = False
    assert (canvas[outside] == BACKGROUND).all()


def test_the_size_that_is_advised_is_enough():
    for overlays in ALONE:
        with pytest.raises(UsageError) as refused:
            check_display((160, 90), overlays)
        check_display(parse_display_size(str(refused.value).split()[-1]), overlays)


@pytest.mark.parametrize("size_wh", [(10, 10), (200, 100), (20, 2000), (640, 100)])
@pytest.mark.parametrize("overlays", [*ALONE, ("ghost", "before"), ("ghost", "contours", "before", "likely")])
def test_the_size_that_is_advised_is_no_larger_than_it_must_be(overlays, size_wh):
    with pytest.raises(UsageError) as refused:
        check_display(size_wh, overlays)
    assert ("fewer overlays" in str(refused.value)) == (len(overlays) > 1)
    width, height = parse_display_size(str(refused.value).split()[-1])
    check_display((width, height), overlays)
    for shorter in ((width - 20, height), (width, height - 20)):
        if shorter[0] >= size_wh[0] and shorter[1] >= size_wh[1]:
            with pytest.raises(UsageError):
                check_display(shorter, overlays)
    if len(overlays) == 1 and size_wh == (10, 10):
        assert width <= 640
        assert height <= 480


@pytest.mark.parametrize("count", range(1, 6))
@pytest.mark.parametrize("body", [Rect(5, 7, 1216, 635), Rect(0, 0, 400, 900)])
def test_tiles_divide_the_picture(body, count):
    taken = np.zeros((body.bottom, body.right), int)
    tiles = make_tiles(body, count, make_frame((1280, 720)).scale)
    assert len(tiles) == count
    for tile in tiles:
        tile.of(taken)[:] += 1
    assert taken.max() == 1
    assert taken.sum() == sum(tile.width * tile.height for tile in tiles) > 0.85 * body.width * body.height


def test_a_ghost_is_seen_only_where_something_will_change():
    picture = ForecastPicture(caption(), overlays=("ghost",))
    same = seen_part(picture.annotate(view_of(GRAY, futures())), "ghost")
    assert np.abs(same[60:-60, 60:-60].astype(int) - 128).max() <= 2
    changed = futures()
    changed[:, 4, 8:12, 8:12] = 0.0
    after = seen_part(picture.annotate(view_of(GRAY, changed)), "ghost")
    rows, columns = np.where(np.abs(after.astype(int) - same).max(2) > 8)
    side = same.shape[0] / 32
    assert 7 * side <= rows.min() < 9 * side
    assert 11 * side <= rows.max() < 13 * side
    assert abs(int(columns.mean()) - 10 * side) < side
    middle = after[int(10 * side), int(10 * side)]
    assert middle[2] > middle[0] + 20  # tinted with the accent, a blue


def test_a_ghost_keeps_the_sharpness_of_what_stays():
    image = np.random.default_rng(0).integers(0, 255, (320, 320, 3), np.uint8)
    now = cv2.resize(image, (32, 32), interpolation=cv2.INTER_AREA)
    drawn = image.copy()
    draw_ghost(drawn, now / np.float32(255), now / np.float32(255))
    assert np.abs(drawn.astype(int) - image).max() <= 1


def test_contours_surround_what_is_uncertain():
    spread = futures()
    spread[0::2, 4, 10:20, 10:20] += 0.15
    spread[1::2, 4, 10:20, 10:20] -= 0.15
    picture = ForecastPicture(caption(), overlays=("contours",))
    part = seen_part(picture.annotate(view_of(GRAY, spread)), "contours")
    side = part.shape[0] / 32
    inside = part[60:-60, 60:-60]
    for color, expected in zip(LEVELS, (True, True, False), strict=True):  # std 0.15, between the levels 0.1 and 0.2
        assert (np.abs(inside.astype(int) - color).max(2) < 12).any() == expected
    drawn = np.abs(part.astype(int) - 128).max(2) > 30
    drawn[:60] = drawn[-60:] = False  # the corners around the part that is seen
    rows = np.where(drawn.any(1))[0]
    assert abs(rows.min() - 9.5 * side) < 1.5 * side
    assert abs(rows.max() - 20 * side) < 1.5 * side


def test_before_shows_the_forecast_that_was_made_for_this_frame():
    """The forecast made at tick t expects brightness t + lead at each lead, in tenths."""

    def view(tick: int, resets: int = 0) -> View:
        made = np.stack([futures(2, 1, (tick + step) / 20)[:, 0] for step in range(1, 6)], 1)
        return view_of(np.full((32, 32, 3), tick * 255 / 20, np.uint8), made, tick=tick, resets=resets)

    picture = ForecastPicture(caption(samples=2), overlays=("before",))
    empty = picture.annotate(view(0))
    frame = make_frame((1280, 720))
    box = content_of(frame.body, frame.scale)
    left = Rect(box.x, box.y, box.width // 3 - 40, 200)
    assert (left.of(empty)[20:-20, 20:-20] == PANEL).all()
    for tick in (1, 2, 4, 5):
        canvas = picture.annotate(view(tick))
    shown = left.of(canvas)[20:-20, 20:-20]
    assert np.abs(shown.astype(int) - 5 * 255 / 20).max() <= 1
    canvas = picture.annotate(view(9))  # the forecast of tick 4 is the one made 5 steps ago
    assert np.abs(left.of(canvas)[20:-20, 20:-20].astype(int) - 9 * 255 / 20).max() <= 1
    canvas = picture.annotate(view(10, resets=1))  # another scene: nothing was expected of it
    assert (left.of(canvas)[20:-20, 20:-20] == PANEL).all()


def test_before_counts_the_steps_of_a_slow_camera():
    """One step is half a second, five intervals of the model: the forecast of the picture before is one step ahead."""
    picture = ForecastPicture(caption(samples=2, horizon=2, lead=1), overlays=("before",))
    for number in range(2):
        made = np.stack([futures(2, 1, value)[:, 0] for value in (0.5, 1.0)], 1)
        canvas = picture.annotate(replace(view_of(GRAY, made, tick=5 * number), step_s=0.5))
    box = content_of(make_frame((1280, 720)).body, make_frame((1280, 720)).scale)
    shown = Rect(box.x, box.y, box.width // 3 - 40, 200).of(canvas)[20:-20, 20:-20]
    assert np.abs(shown.astype(int) - 128).max() <= 1


def test_before_counts_the_pictures_of_a_video_whose_step_is_nearly_the_models():
    """A step 4 % longer than nominal: after 15 steps its seconds are more than half a step ahead of a count."""
    picture = ForecastPicture(caption(samples=2, horizon=16, lead=16), overlays=("before",))
    made = np.stack([futures(2, 1, step / 16)[:, 0] for step in range(1, 17)], 1)
    for number in range(17):
        canvas = picture.annotate(replace(view_of(GRAY, made if number == 0 else None), position_s=number / 9.6))
    box = content_of(make_frame((1280, 720)).body, make_frame((1280, 720)).scale)
    shown = Rect(box.x, box.y, box.width // 3 - 40, 200).of(canvas)[20:-20, 20:-20]
    assert np.abs(shown.astype(int) - 255).max() <= 1  # its step 16


def test_the_most_likely_sample_is_nearest_to_the_mean_over_the_horizon():
    made = futures(4)
    made[0] += 0.1
    made[1] -= 0.02
    made[3, 2] += 0.3
    distances = distances_from_mean(made)
    by_hand = np.sqrt(((made - made.mean(0)) ** 2).mean((1, 2, 3, 4)))
    assert distances == pytest.approx(by_hand, rel=1e-4)
    picture = ForecastPicture(caption(samples=2), overlays=("likely",))
    assert picture.annotate(view_of(GRAY, futures(2))).shape == (720, 1280, 3)  # says that it needs three


@pytest.mark.parametrize("samples", [2, 4])
@pytest.mark.parametrize("overlays", ALONE)
def test_labels_and_layout_are_those_of_the_forecast_that_is_shown(overlays, samples):
    """As with --adaptive: what was asked for is 8 samples of 12 steps."""
    shown, right = (
        ForecastPicture(each, overlays=overlays)
        for each in (caption(8, 12, 12), replace(caption(samples, 3, 3), score_lead=12))
    )
    assert not np.array_equal(shown.annotate(view_of(GRAY, futures(8, 12))), right.annotate(view_of(GRAY, None)))
    for tick in range(4):
        view = view_of(GRAY, futures(samples, 3, tick / 10), tick=tick)
        assert np.array_equal(shown.annotate(view), right.annotate(view))


def test_other_counts_leave_a_lead_that_is_not_the_last_step():
    began = caption(8, 10, 6)
    assert began.with_counts(8, 10) is began
    assert [began.with_counts(2, horizon).lead for horizon in (10, 5, 8)] == [6, 5, 6]
    assert caption(8, 10, 10).with_counts(2, 5).lead == 5


def test_two_samples_are_said_not_to_be_enough(monkeypatch):
    said = []
    monkeypatch.setattr(likely_panel, "explain", lambda canvas, area, scale, message: said.append(message))
    ForecastPicture(caption(samples=8), overlays=("likely",)).annotate(view_of(GRAY, futures(2)))
    assert said == ["needs 3 samples"]


def test_one_future_has_no_spread_and_no_likeliest_sample():
    """A deterministic model."""
    picture = ForecastPicture(caption(samples=1), overlays=("contours", "likely", "before", "ghost"))
    assert picture.annotate(view_of(GRAY, futures(1))).shape == (720, 1280, 3)


def linear(colors: np.ndarray) -> np.ndarray:
    scaled = np.asarray(colors, np.float64) / 255
    return np.where(scaled <= 0.04045, scaled / 12.92, ((scaled + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb: np.ndarray) -> np.ndarray:
    """CIELAB of linear sRGB, by D65."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    ratio = to_xyz @ np.clip(linear_rgb, 0, 1) / [0.9505, 1.0, 1.089]
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("blindness", BLIND)
def test_colors_that_mean_something_differ_for_the_color_blind(blindness):
    for one, other in (*combinations(LEVELS, 2), (ACCENT, WARNING), (TEXT, WARNING)):
        seen = [lab(np.array(BLIND[blindness]) @ linear(color)) for color in (one, other)]
        assert np.linalg.norm(seen[0] - seen[1]) > 20  # CIE76; 2.3 is just noticeable


def test_text_and_lines_have_the_contrast_that_wcag_asks_for():
    def luminance(color: tuple[int, int, int]) -> float:
        return float(linear(np.array(color)) @ [0.2126, 0.7152, 0.0722])

    for color, least in ((TEXT, 7.0), (MUTED, 4.5), (WARNING, 4.5), (ACCENT, 3.0), *((level, 3.0) for level in LEVELS)):
        for ground in (BACKGROUND, PANEL):
            assert (luminance(color) + 0.05) / (luminance(ground) + 0.05) >= least


@pytest.mark.parametrize("given", ["", "heat", "ghost,ghost", "ghost;panels"])
def test_an_unknown_overlay_is_refused_with_all_names(given):
    with pytest.raises(UsageError, match="panels,ghost,contours,before,likely"):
        parse_overlays(given)


@pytest.mark.parametrize("given", ["1280", "1280x", "x720", "-2x4", "641x480", "0x0", "9000x9000", "1280x720x3"])
def test_a_display_size_that_is_none_is_refused(given):
    with pytest.raises(UsageError, match="expected"):
        parse_display_size(given)


@pytest.mark.parametrize("size_wh", [(640, 480), (641, 483)])  # pictures may have odd sides
def test_the_command_shows_what_was_asked_for(svg_live, tmp_path, size_wh):
    arguments = ["--headless", "--max-frames", "4", "--horizon", "2", "--samples", "3"]
    shown = ["--overlay", "ghost, before", "--display-size", "{}x{}".format(*size_wh)]
    code, stderr, _ = svg_live(*arguments, *shown, "--output", "%d.png")
    assert code == 0, stderr
    assert cv2.imread(str(tmp_path / "3.png")).shape == (*size_wh[::-1], 3)
    code, stderr, _ = svg_live(*arguments, "--overlay", "panels,ghost", "--display-size", "640x480", "--output", "o.mp4")
    assert (code, "--display-size" in stderr) == (ExitCode.USAGE, True)
    for video in (("--output", "o.mp4"), ("--output", "%d.png", "--record", "r")):
        code, stderr, _ = svg_live(*arguments, "--display-size", "641x483", *video)
        assert (code, "expected even sides" in stderr) == (ExitCode.USAGE, True)


@pytest.mark.parametrize("option", [("--overlay", "ghost"), ("--display-size", "640x480")])
def test_a_display_that_nobody_sees_is_refused(svg_live, option):
    code, stderr, _ = svg_live("--headless", "--max-frames", "1", *option)
    assert (code, f"{option[0]} has no effect" in stderr) == (2, True)
