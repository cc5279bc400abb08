"""The page in a real Chromium, without a screen."""

from __future__ import annotations

import itertools
import re
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import datetime, timezone
from types import SimpleNamespace
from urllib.parse import urlsplit

import pytest
from playwright import sync_api

from benchmarks.page_pictures import CHROMIUM, CHROMIUM_ARGUMENTS
from svg_runtime.live.alarms.record import AlarmRecord
from svg_runtime.live.page import board, history, routes
from svg_runtime.live.page.camera import PageCamera
from svg_runtime.live.page.controls import Change
from svg_runtime.live.page.live_page import LivePage
from svg_runtime.live.page.options import PageOptions
from svg_runtime.live.page.routes import Routes
from svg_runtime.web.access import AccessControl
from svg_runtime.web.address import Address
from svg_runtime.web.token import Token
from tests.command_runner import HANG_S, wait_until
from tests.svg_runtime.live.page.page_helpers import LISTEN, add_camera, check_on_phone, client, make_view

pytestmark = pytest.mark.skipif(not CHROMIUM.exists(), reason="there is no Chromium")
TOKEN = "0123456789abcdef0123"


def opened(port: int = 0, names: frozenset[str] = frozenset(), token: str = TOKEN) -> LivePage:
    return LivePage.open(PageOptions(Address("127.0.0.1", port), names, Token(token)), lambda message: None)


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_ARGUMENTS)
        yield launched
        launched.close()


@pytest.fixture(scope="module")
def page():
    """A page with a token, whose live loop publishes 5 pictures a second."""
    served = opened()
    camera = add_camera(served)
    served.start()
    ended = threading.Event()

    def loop() -> None:
        number = 0
        while not ended.wait(0.2):
            number += 1
            camera.stats.seen = number
            camera.publish(make_view(number * 8 % 256))
            camera.apply_changes(lambda change: None)

    thread = threading.Thread(target=loop)
    thread.start()
    yield served
    ended.set()
    thread.join()
    served.close()


class Seen:
    """One open page, and what went wrong in it."""

    def __init__(self, browser, page: LivePage, token: str = TOKEN, path: str = "/", **context) -> None:
        self.context = browser.new_context(**context)
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        own = page.access.address.link("")
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.tab.on("request", lambda request: request.url.startswith((own, "blob:")) or self.foreign.append(request.url))
        self.answer = self.tab.goto(f"{own}{path}?token={token}")

    def wait_for(self, expression: str) -> None:
        self.until(lambda: self.find(expression))

    def find(self, expression: str) -> object:
        try:
            return self.tab.evaluate(expression)
        except sync_api.Error as error:
            if "navigation" not in str(error):
                raise
            return None  # it is being loaded anew

    def until(self, condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + HANG_S
        while not condition():
            assert time.monotonic() < deadline
            self.tab.wait_for_timeout(30)

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()


def test_the_page_shows_pictures_that_move_and_a_control_changes_them(browser, page):
    camera = page.cameras["wall"]
    with Seen(browser, page) as seen:
        assert seen.tab.url.endswith("/")  # without the token
        seen.wait_for("document.getElementById('live').naturalWidth")
        # 1) they move
        picture = seen.tab.locator("#live")
        first = picture.screenshot()
        seen.until(lambda: picture.screenshot() != first)
        assert seen.tab.evaluate("document.getElementById('live').naturalWidth") == 480
        # 2) the overlay changes the stream: all panels are wider
        seen.tab.select_option("#overlay", "panels")
        seen.wait_for("document.getElementById('live').naturalWidth === 1280")
        seen.tab.select_option("#overlay", "live")
        # 3) numbers reach the loop, and what cannot be is explained
        seen.tab.fill("#samples", "5")
        seen.tab.press("#samples", "Enter")
        wait_until(lambda: camera.state()["settings"]["samples"] == 5)
        seen.until(lambda: seen.tab.inner_text("#answer") == "Done.")
        seen.tab.fill("#samples", "")
        seen.tab.press("#samples", "Enter")
        assert seen.tab.input_value("#samples") == "5"
        seen.tab.fill("#roi", "1,2")
        seen.tab.press("#roi", "Enter")
        seen.until(lambda: "is not a region" in seen.tab.inner_text("#answer"))
        # 4) a region is drawn
        seen.wait_for("document.getElementById('live').naturalWidth === 480")
        seen.tab.click("#draw")
        box = picture.bounding_box()
        x, y, quarter = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2, box["height"] / 4  # bars at the sides
        seen.tab.mouse.move(x - quarter, y - quarter)
        seen.tab.mouse.down()
        seen.tab.mouse.move(x + quarter, y + quarter)
        seen.tab.mouse.up()
        wait_until(lambda: camera.state()["settings"]["roi"] is not None)
        region = [float(part) for part in camera.state()["settings"]["roi"].split(",")]
        assert region == pytest.approx([0.25, 0.25, 0.5, 0.5], abs=0.02)
        # 5) all came from here, and the refused region is the only error
        assert seen.foreign == []
        assert all("422" in error for error in seen.errors)
    wait_until(lambda: not camera.watched)


@pytest.mark.parametrize("ending", [None, ConnectionError])
def test_a_stream_of_pictures_that_ends_alone_is_asked_for_again(browser, page, monkeypatch, ending):
    """As a proxy ends a long answer, or the server that of a client which takes nothing for a while."""
    parts, streams = Routes._parts, []

    async def parts_of_a_first_stream_that_is_short(routes, camera, feed):
        streams.append(feed)
        is_short, count = len(streams) == 1, 0
        async for part in parts(routes, camera, feed):
            yield part
            count += 1
            if is_short and count == 3:
                if ending is not None:
                    raise ending
                return

    monkeypatch.setattr(Routes, "_parts", parts_of_a_first_stream_that_is_short)
    with Seen(browser, page) as seen:
        seen.until(lambda: len(streams) == 2)
        picture = seen.tab.locator("#live")
        for _ in range(2):
            last = picture.screenshot()
            seen.until(lambda before=last: picture.screenshot() != before)
        assert seen.tab.inner_text("#status").endswith("fps")


def test_a_hidden_tab_has_no_streams_and_no_alarm_in_its_title(browser, page, monkeypatch):
    """What was an alarm when it was hidden may be over."""
    camera = page.cameras["wall"]
    monkeypatch.setattr(camera.stats, "alarms", SimpleNamespace(active=True, values=None, summary=camera.stats.alarms.summary))
    turn = (
        "hidden => { Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }"
    )
    with Seen(browser, page) as seen:
        seen.wait_for("document.title === '▲ wall - svg-live'")
        seen.wait_for("document.getElementById('live').naturalWidth")
        seen.tab.evaluate(turn, True)
        assert seen.tab.title() == "wall - svg-live"
        seen.until(lambda: not camera.watched)
        seen.tab.evaluate(turn, False)
        seen.wait_for("document.title === '▲ wall - svg-live'")
        seen.until(lambda: camera.watched)


def test_drawing_ends_with_its_reason_and_with_escape(browser, page):
    camera = page.cameras["wall"]
    asked: list[str] = []
    pressed = "document.getElementById('draw').getAttribute('aria-pressed')"
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('live').naturalWidth")
        seen.tab.on("request", lambda request: request.method == "POST" and asked.append(request.url))
        box = seen.tab.locator("#stage").bounding_box()
        for end in (lambda: seen.tab.keyboard.press("Escape"), lambda: camera.ask(Change(overlay="panels"))):
            seen.wait_for("!document.getElementById('draw').disabled")
            seen.tab.click("#draw")
            seen.tab.evaluate("scrollTo(0, 0)")
            seen.tab.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
            seen.tab.mouse.down()
            seen.tab.mouse.move(box["x"] + 10, box["y"] + 10)
            assert seen.tab.is_visible("#selection")
            end()
            seen.wait_for(f"{pressed} === 'false'")
            seen.tab.mouse.move(box["x"] + 20, box["y"] + 20)
            assert not seen.tab.is_visible("#selection")
            seen.tab.mouse.up()
        assert seen.tab.is_disabled("#draw")
        seen.tab.wait_for_timeout(100)
        assert asked == []
    camera.ask(Change(overlay="live"))


def test_below_a_path_of_a_proxy_it_is_the_same(browser, page, monkeypatch):
    """Even if that looks like the path of a camera."""
    outside, below = [], "/cameras/yard"

    async def as_asked_by_a_proxy(self, scope, receive, send):
        if not scope["path"].startswith(f"{below}/"):
            outside.append(scope["path"])
        await answer(self, {**scope, "path": scope["path"].removeprefix(below)}, receive, send)

    answer = AccessControl.__call__
    monkeypatch.setattr(AccessControl, "__call__", as_asked_by_a_proxy)
    (camera,) = page.cameras.values()
    with Seen(browser, page, path=f"{below}/") as seen:
        site = seen.tab.url.removesuffix(f"{below}/")
        for address in (f"{below}/", f"{below}/cameras/wall", f"{below}/cameras/wall/"):
            seen.tab.goto(f"{site}{address}")
            assert seen.tab.url == f"{site}{address}"
            seen.wait_for("document.getElementById('live').naturalWidth")
            samples = 2 + len(address) % 2
            seen.tab.fill("#samples", str(samples))
            seen.tab.press("#samples", "Enter")
            wait_until(lambda expected=samples: camera.state()["settings"]["samples"] == expected)
            assert seen.tab.evaluate("document.getElementById('snapshot').href").endswith(f"{below}/cameras/wall/snapshot.png")
        assert [cookie["path"] for cookie in seen.context.cookies()] == [below]  # a host may have several of these
        assert seen.errors == []
    assert outside == []


@pytest.mark.parametrize(("width", "expected"), [(390, 400), (1280, 1280)])
def test_panels_are_composed_for_the_width_of_the_page(browser, page, width, expected):
    page.cameras["wall"].ask(Change(overlay="likely"))
    with Seen(browser, page, viewport={"width": width, "height": 844}) as seen:
        seen.wait_for(f"document.getElementById('live').naturalWidth === {expected}")
        seen.tab.set_viewport_size({"width": 1670 - width, "height": 844})  # the other one
        seen.wait_for(f"document.getElementById('live').naturalWidth === {1680 - expected}")
    page.cameras["wall"].ask(Change(overlay="live"))


@pytest.mark.parametrize(("width", "height"), [(390, 844), (844, 390), (1280, 900)])
def test_a_banner_hides_nothing_of_the_picture(browser, page, monkeypatch, width, height):
    """It stays for as long as the model does not fit."""
    reason = "the pictures are darker than those of its training, at 12 % of the range of values, where it had 45 % to 60 %"
    monkeypatch.setattr(page.cameras["wall"].stats.fit, "reasons", (reason,))
    with Seen(browser, page, viewport={"width": width, "height": height}) as seen:
        seen.wait_for("document.getElementById('live').naturalWidth")
        seen.until(lambda: reason in seen.tab.inner_text("#banner"))
        picture, banner = (seen.tab.locator(name).bounding_box() for name in ("#live", "#banner"))
        assert picture["height"] > 100
        assert banner["y"] >= picture["y"] + picture["height"] - 0.5
        assert seen.tab.evaluate("document.documentElement.scrollWidth") == width


def test_futures_of_few_steps_stay_small(browser, page):
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('leads').children.length === 3")  # of the six columns that there may be
        share = "document.getElementById('{}').clientWidth / document.getElementById('leads').parentElement.clientWidth"
        for name in ("leads", "futures"):
            assert 0.4 < seen.tab.evaluate(share.format(name)) < 0.51


# what the page puts into #samples from now on
NOTE_SAMPLES = """() => {
  const { get, set } = Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, "value");
  window.noted = [];
  const note = function (value) { noted.push(String(value)); set.call(this, value); };
  Object.defineProperty(document.getElementById("samples"), "value", { get, set: note });
}"""


def test_what_is_said_is_about_the_newest_change_and_the_older_ones_are_shown(browser, page):
    waiting: list[sync_api.Route] = []
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('counts').children.length")
        seen.tab.route("**/controls", lambda route: waiting.append(route))  # playwright takes no built-in method
        for name, value in (("samples", "6"), ("horizon", "4")):
            seen.tab.fill(f"#{name}", value)
            seen.tab.press(f"#{name}", "Enter")
        seen.until(lambda: len(waiting) == 2)
        waiting[1].fulfill(status=422, json={"error": "newer"})
        seen.until(lambda: seen.tab.inner_text("#answer").endswith("newer"))
        seen.tab.evaluate(NOTE_SAMPLES)
        waiting[0].continue_()
        seen.wait_for("noted.length")
        assert seen.tab.evaluate("noted[0]") == "6"  # and not once more what was in force before
        assert seen.tab.inner_text("#answer").endswith("newer")


def test_a_change_that_had_to_wait_is_said_to_be_made_when_it_is(browser, page):
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('counts').children.length")
        seen.tab.route("**/controls", lambda route: route.fulfill(status=202, json={"error": "not applied yet"}))
        seen.tab.fill("#samples", "7")
        seen.tab.press("#samples", "Enter")
        seen.until(lambda: seen.tab.inner_text("#answer").endswith("not applied yet"))
        page.cameras["wall"].note_counts(7, 3)
        seen.until(lambda: seen.tab.inner_text("#answer") == "Done.")
        seen.tab.fill("#samples", "8")
        seen.tab.press("#samples", "Enter")
        seen.until(lambda: seen.tab.inner_text("#answer").endswith("not applied yet"))
        page.cameras["wall"].note_counts(2, 3)  # for somebody else
        seen.until(lambda: seen.tab.inner_text("#answer").endswith("A newer change has replaced this one."))
        reply = {"error": "not applied yet", "change": "a name"}
        seen.tab.unroute("**/controls")
        seen.tab.route("**/controls", lambda route: route.fulfill(status=202, json=reply))
        seen.tab.fill("#samples", "9")
        seen.tab.press("#samples", "Enter")
        seen.until(lambda: seen.tab.inner_text("#answer").endswith("not applied yet"))
        page.cameras["wall"].note_refused(Change(samples=9), "a name", "no memory")
        seen.until(lambda: seen.tab.inner_text("#answer").endswith("no memory"))
        assert seen.tab.inner_text("#events li >> nth=0").endswith("samples 9: not applied: no memory")


def test_a_control_says_what_is_in_force_unless_it_is_being_edited(browser, page):
    """Also while it has the focus: others change it, too, and it would not be asked for what it says already."""
    camera = page.cameras["wall"]

    def type_samples(count: int) -> None:
        seen.tab.fill("#samples", str(count))
        seen.tab.press("#samples", "Enter")
        wait_until(lambda: camera.state()["settings"]["samples"] == count)

    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('counts').children.length")
        for _ in range(2):
            type_samples(5)
            camera.ask(Change(samples=2))
            seen.until(lambda: seen.tab.input_value("#samples") == "2")
        seen.tab.fill("#samples", "3")
        seen.tab.fill("#samples", "2")
        seen.tab.focus("#overlay")  # nothing is asked for
        camera.ask(Change(samples=4, overlay="ghost"))
        seen.until(lambda: (seen.tab.input_value("#samples"), seen.tab.input_value("#overlay")) == ("4", "ghost"))
        seen.tab.fill("#samples", "1")
        camera.ask(Change(overlay="live"))
        seen.until(lambda: seen.tab.input_value("#overlay") == "live")
        assert seen.tab.input_value("#samples") == "1"
        seen.tab.press("#samples", "Enter")
        seen.until(lambda: seen.tab.inner_text("#answer") == "Done.")
        seen.tab.fill("#samples", "65")
        seen.tab.press("#samples", "Enter")
        seen.until(lambda: "samples" in seen.tab.inner_text("#answer"))
        assert seen.tab.input_value("#samples") == "65"  # to be corrected
        seen.tab.focus("#overlay")
        assert seen.tab.input_value("#samples") == "1"


def test_a_region_whose_change_did_not_arrive_is_still_there_and_asked_for_again_by_enter(browser, page):
    region = "0.125,0.25,0.5,0.5"
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('counts').children.length")
        seen.tab.route("**/controls", lambda route: route.abort(), times=1)
        seen.tab.fill("#roi", region)
        seen.tab.press("#roi", "Enter")
        seen.until(lambda: seen.tab.inner_text("#answer") == "no connection")
        assert seen.tab.input_value("#roi") == region
        seen.tab.press("#roi", "Enter")
        seen.until(lambda: seen.tab.inner_text("#answer") == "Done.")
        wait_until(lambda: page.cameras["wall"].state()["settings"]["roi"] == region)
        seen.tab.select_option("#overlay", "ghost")  # which goes back at once, as it would not be asked for twice
        seen.until(lambda: seen.tab.inner_text("#answer") == "Done.")
        seen.tab.route("**/controls", lambda route: route.abort(), times=1)
        seen.tab.select_option("#overlay", "live")
        seen.until(lambda: seen.tab.inner_text("#answer") == "no connection")
        assert seen.tab.input_value("#overlay") == "ghost"
    page.cameras["wall"].ask(Change(overlay="live"))


def test_what_came_last_is_on_top_of_the_events_also_after_the_clock_was_set_back(browser, page, monkeypatch):
    camera = page.cameras["wall"]
    set_back, before = datetime(2026, 1, 2, tzinfo=timezone.utc), datetime(2026, 1, 2, 2, tzinfo=timezone.utc)
    record = AlarmRecord(
        sequence=1, phase="started", source="wall", model="m", signal="combined", threshold=4.5, position_s=1.0, peak={},
        start=set_back,
    )  # fmt: skip
    first = "document.querySelector('#events li').textContent"
    with Seen(browser, page) as seen:
        camera.stats.events.add("joined", "it listens")  # who joins later gets only the last ones
        seen.until(lambda: "it listens" in seen.tab.inner_text("#events"))
        with monkeypatch.context() as early:
            early.setattr(board, "datetime", SimpleNamespace(now=lambda zone: before))
            for number in range(110):  # more than are listed
                camera.stats.events.add(f"test {number}", f"before {number}")
        seen.until(lambda: "before 109" in seen.tab.inner_text("#events"))
        camera.on_alarm(record)
        seen.wait_for(f"{first}.includes('alarm 1')")
        camera.stats.events.add("while", "while it lasts")
        seen.wait_for(f"{first}.includes('while it lasts')")
        camera.on_alarm(record.model_copy(update={"phase": "ended", "end": set_back}))
        seen.wait_for(f"{first}.includes('alarm 1 over')")
        assert seen.tab.locator("#events li", has_text="alarm 1").count() == 1
        assert seen.tab.locator("#events li").count() == 101
        for number in range(110):
            camera.stats.events.add(f"test {number}", f"after {number}")
        seen.until(lambda: "after 109" in seen.tab.inner_text("#events"))
        assert seen.tab.locator("#events li", has_text="alarm 1 over").count() == 1  # they have pushed out the others
        assert seen.tab.locator("#events li").count() == 101


def test_an_event_has_the_time_of_day_and_the_next_day_its_date(browser, page, monkeypatch):
    time_of_day = "document.querySelector('#events time').textContent"
    with Seen(browser, page, locale="en-US", timezone_id="UTC") as seen:
        seen.context.clock.install(time=datetime(2026, 1, 2, 23, 59, 30, tzinfo=timezone.utc))
        seen.tab.reload()
        seen.wait_for("document.getElementById('counts').children.length")
        with monkeypatch.context() as early:
            at = datetime(2026, 1, 2, 0, 5, 12, tzinfo=timezone.utc)
            early.setattr(board, "datetime", SimpleNamespace(now=lambda zone: at))
            page.cameras["wall"].stats.events.add("early", "soon after midnight")
        seen.until(lambda: "soon after midnight" in seen.tab.inner_text("#events"))
        assert seen.tab.evaluate(time_of_day) == "00:05:12"
        seen.tab.clock.fast_forward(60_000)
        seen.wait_for(f"{time_of_day} === 'Jan 2 00:05:12'")


def test_the_chart_begins_anew_where_the_points_do(browser, page):
    """They are sent again, or are those of another run, whose seconds may be larger or smaller."""
    point = "[{number}, {seconds}, 0, 1, 1, 1, 1, 1, 1, 1]"
    with Seen(browser, page) as seen:
        for number, seconds, kept in ((3, 101, 3), (1, 101, 1), (1, 2, 1), (9000, 2, 1)):
            added = point.format(number=number, seconds=seconds)
            count = seen.tab.evaluate(
                "async () => { const { Chart } = await import(new URL('static/chart.js', document.baseURI));"
                "const chart = new Chart(document.createElement('canvas'));"
                f"chart.add([{point.format(number=1, seconds=100)}, {point.format(number=2, seconds=100.5)}]);"
                f"chart.add([{added}]); return chart.points.length; }}"
            )
            assert count == kept


def test_the_signal_of_a_camera_that_is_lost_is_of_the_past(browser):
    """The chart goes on to the present, and there is no value now."""
    served = opened()
    camera = add_camera(served)
    served.start()
    heading, picture = "document.getElementById('now').textContent", "document.getElementById('chart').toDataURL()"
    try:
        with Seen(browser, served) as seen:
            for _ in range(3):
                camera.publish(make_view())
                seen.tab.wait_for_timeout(60)
            seen.tab.select_option("#signal", "raw")
            seen.wait_for(f"{heading} === '1.0'")
            first = seen.tab.evaluate(picture)
            seen.wait_for(f"{picture} !== {first!r}")  # with no other picture
            camera._published_s -= 60
            seen.wait_for(f"{heading} === 'no signal'")
            assert "now unknown" in seen.tab.get_attribute("#chart", "aria-label")
            for _ in range(2):
                camera.publish(make_view())
                seen.tab.wait_for_timeout(60)
            seen.wait_for(f"{heading} === '1.0'")
            seen.tab.route("**/controls", lambda route: route.fulfill(status=202, json={"error": "not applied yet"}))
            seen.tab.fill("#samples", "7")
            seen.tab.press("#samples", "Enter")
            seen.until(lambda: seen.tab.inner_text("#answer").endswith("not applied yet"))
            camera.end("ended: lost source")
            seen.wait_for(f"{heading} === 'no signal'")
            seen.until(lambda: seen.tab.inner_text("#answer").endswith("ended: lost source"))
            assert all(seen.tab.is_disabled(f"#{name}") for name in ("samples", "threshold", "roi", "draw", "whole", "reset"))
            assert seen.tab.get_attribute("#samples", "title") == "This camera has ended"
            assert seen.tab.is_enabled("#overlay")
    finally:
        served.close()


@pytest.mark.parametrize(
    ("interval_s", "at_s", "is_line"),
    [
        pytest.param(5.0, (0, 5, 10), True, id="few, as pictures usually are"),
        pytest.param(1.0, (0, 5, 10), False, id="few, and pictures are closer"),
        pytest.param(0.1, (0, 5, 10, 15, 20, 25), True, id="of a machine that is slow"),
        pytest.param(0.1, (0, 0.1, 0.2, 0.3, 25, 25.1), False, id="a loss of pictures"),
    ],
)
def test_points_as_far_apart_as_they_usually_are_make_a_line(browser, monkeypatch, interval_s, at_s, is_line):
    served = opened()
    camera = add_camera(served)
    camera.stats.interval_s = interval_s
    start_s = time.monotonic() - 30
    for second in at_s:
        with monkeypatch.context() as earlier:
            at = SimpleNamespace(monotonic=lambda taken_s=start_s + second: taken_s)
            earlier.setattr(history, "time", at)
            camera.publish(make_view())
    served.start()
    drawn = """(() => { const canvas = document.getElementById('chart'), numbers = [];
      const accent = getComputedStyle(document.documentElement).getPropertyValue('--accent').trim();
      for (const place of [1, 3, 5]) numbers.push(parseInt(accent.slice(place, place + 2), 16));
      const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
      let count = 0;
      for (let i = 0; i < data.length; i += 4) count += numbers.every((number, place) => data[i + place] === number);
      return count; })()"""
    try:
        with Seen(browser, served) as seen:
            seen.tab.select_option("#signal", "raw")
            seen.wait_for("document.getElementById('now').textContent === '1.0'")
            assert (seen.tab.evaluate(drawn) > 40) == is_line
    finally:
        served.close()


def test_the_chart_ends_with_the_present(browser, page):
    """In the time of the server: what is older than a minute is gone, also where no points came since then."""
    with Seen(browser, page) as seen:
        found = seen.tab.evaluate(
            "async () => { const { Chart } = await import(new URL('static/chart.js', document.baseURI));"
            "const chart = new Chart(document.createElement('canvas')), found = [];"
            "chart.add([[1, 100, 1, 1], [2, 130, 0, 1]]);"
            "for (const now of [99, 140, 170, 200]) {"
            "  chart.moveOn(now); found.push([chart.now, chart.points.length, chart.bands().length]);"
            "} return found; }"
        )
        assert found == [[130, 2, 1], [140, 2, 1], [170, 1, 0], [200, 0, 0]]


def test_the_numbers_of_the_chart_are_whole(browser, page):
    """However long they are: the axis begins behind them."""
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('chart').clientWidth")
        found = seen.tab.evaluate(
            "async () => { const { Chart } = await import(new URL('static/chart.js', document.baseURI));"
            "const canvas = document.getElementById('chart').cloneNode(), numbers = {};"
            "document.getElementById('chart').after(canvas);"
            "const g = canvas.getContext('2d'), chart = new Chart(canvas);"
            "g.fillText = (text, x) => g.textAlign === 'right' && text !== 'now'"
            "  && (numbers[text] = x - g.measureText(text).width);"
            "for (chart.threshold of [4.5, 1000]) chart.draw();"
            "chart.signal = 'raw'; chart.add([[1, 1, 0, 1234567]]); return numbers; }"
        )
        assert set(found) == {"0", "3", "6", "1000", "2000", "1000000", "2000000"}
        assert min(found.values()) >= 0


def test_a_wrong_token_is_refused(browser, page):
    with Seen(browser, page, token="wrong") as seen:
        assert seen.answer.status == 401
        assert seen.tab.locator("img").count() == 0


@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_it_can_be_read_and_touched_on_a_phone(browser, page, scheme):
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": scheme, "has_touch": True, "is_mobile": True}
    with Seen(browser, page, **phone) as seen:
        seen.wait_for("document.getElementById('counts').children.length")
        check_on_phone(seen.tab, scheme)
        # a long name leaves a short status on its line
        heights = seen.tab.evaluate(
            "() => ['gate', 'north gate of the parking lot, building 7'].map((name) => {"
            "  document.getElementById('title').textContent = name;"
            "  document.getElementById('status').textContent = '16.5 fps';"
            "  return document.getElementById('status').clientHeight; })"
        )
        assert heights[0] == heights[1]


def test_events_of_a_run_that_was_started_again_are_shown(browser):
    """It counts from 1 again, under the same address, and the browser has entries of these numbers."""
    first = opened()
    try:
        camera = add_camera(first)
        for number in range(3):
            camera.stats.events.add("test", f"before {number}")
        first.start()
        with Seen(browser, first) as seen:
            seen.until(lambda: "before 2" in seen.tab.inner_text("#events"))
            first.close()
            second = opened(first.access.address.port)
            try:
                camera = add_camera(second)
                camera.stats.events.add("test", "afterwards")
                second.start()
                seen.until(lambda: "afterwards" in seen.tab.inner_text("#events"))
                assert "before" in seen.tab.inner_text("#events")
            finally:
                second.close()
    finally:
        first.close()


def served_with(*names: str, port: int = 0) -> LivePage:
    """A page whose cameras have a picture each."""
    served = opened(port)
    for name in names:
        add_camera(served, name).publish(make_view())
    served.start()
    return served


def test_pages_that_stay_open_follow_a_run_with_other_cameras(browser):
    served = served_with("gate", "yard")
    port = served.access.address.port
    size = {"viewport": {"width": 1000, "height": 600}}
    try:
        with (
            Seen(browser, served, **size) as overview,
            Seen(browser, served, path="/cameras/yard", **size) as yard,
            Seen(browser, served, path="/cameras/gate", **size) as gate,
        ):
            tiles = "[...document.querySelectorAll('.tile b')].map(one => one.textContent).join()"
            status = "document.getElementById('status').textContent"
            overview.wait_for(f"{tiles} === 'gate,yard' && {status} === '2 cameras'")
            yard.wait_for(f"{status}.endsWith('fps') && document.getElementById('live').naturalWidth")
            gate.wait_for(f"{status}.endsWith('fps')")
            gate.tab.evaluate("window.isAsBefore = true")
            gate.tab.fill("#roi", "0,0,")  # and goes on to type
            # 1) it is started again, and its model takes longer to open than a page waits for a silent connection
            served.close()
            served = served_with(port=port)
            for seen in (overview, yard, gate):
                seen.wait_for(f"{status} === 'starting'")
            assert overview.tab.locator(".tile .status").all_inner_texts() == ["", ""]
            overview.tab.wait_for_timeout(5500)
            for seen in (overview, yard, gate):
                assert seen.tab.evaluate(status) == "starting"
            # 2) one camera is gone, and others are new
            for name in ("gate", "garden", "roof"):
                add_camera(served, name).publish(make_view())
            overview.wait_for(f"{tiles} === 'gate,garden,roof' && {status} === '3 cameras'")
            yard.wait_for(f"{status} === 'no such camera'")
            assert not yard.tab.is_visible("#camera")
            assert yard.tab.is_visible(".home")
            gate.wait_for(f"{status}.endsWith('fps')")
            assert gate.tab.evaluate("window.isAsBefore")
            assert gate.tab.input_value("#roi") == "0,0,"
            # 3) the camera is back, alone
            served.close()
            served = served_with("yard", port=port)
            yard.wait_for(f"{status}.endsWith('fps') && document.getElementById('live').naturalWidth")
            assert yard.tab.is_visible("#camera")
            assert not yard.tab.is_visible(".home")
            overview.wait_for(f"{status}.endsWith('fps') && document.getElementById('live').naturalWidth")
            gate.wait_for(f"{status} === 'no such camera'")
            assert gate.tab.is_visible(".home")
    finally:
        served.close()


def test_a_page_of_the_only_camera_becomes_one_of_all_when_there_are_more(browser):
    served = served_with("gate")
    try:
        with Seen(browser, served) as seen:
            seen.wait_for("document.getElementById('live').naturalWidth")
            add_camera(served, "yard").publish(make_view())
            seen.wait_for("document.querySelectorAll('.tile img[src]').length === 2")
            assert not seen.tab.is_visible("#camera")
            assert seen.errors == []
    finally:
        served.close()


def test_a_page_of_a_camera_waits_for_a_run_that_is_starting(browser):
    served = served_with()
    try:
        with Seen(browser, served, path="/cameras/gate") as seen:
            seen.wait_for("document.getElementById('status').textContent === 'starting'")
            add_camera(served, "gate").publish(make_view())
            seen.wait_for("document.getElementById('live').naturalWidth")
    finally:
        served.close()


def test_a_page_for_which_no_stream_is_left_says_so(browser):
    served = served_with("gate")
    address = served.access.address.link("")
    status = "document.getElementById('status').textContent"
    reason = "too many streams are open; close some pages"
    try:
        with ExitStack() as streams:
            known = streams.enter_context(client(address))
            for _ in range(32):
                streams.enter_context(known.stream("GET", "/events", headers={"authorization": f"Bearer {TOKEN}"}))
            with Seen(browser, served, viewport={"width": 360, "height": 740}) as seen:
                seen.wait_for(f"{status} === '{reason}'")
                said = seen.tab.evaluate(
                    f"async () => {{ const found = new Set(); for (let i = 0; i < 100; i++) {{ found.add({status});"
                    " await new Promise((done) => setTimeout(done, 20)); } return [...found]; }"
                )
                assert said == [reason]  # also while it asks again
                assert seen.tab.evaluate("document.documentElement.scrollWidth") == 360
                streams.close()
                seen.wait_for(f"{status}.endsWith('fps') && document.getElementById('live').naturalWidth")
    finally:
        served.close()


def test_a_live_picture_that_is_refused_alone_is_taken_away_and_the_reason_said(browser, page):
    reason = "too many streams are open; close some pages"
    with Seen(browser, page) as seen:
        seen.wait_for("document.getElementById('live').naturalWidth")
        seen.context.route("**/stream.mjpg*", lambda route: route.fulfill(status=503, body=reason, content_type="text/plain"))
        seen.tab.set_viewport_size({"width": 400, "height": 700})  # for which another stream is asked for
        seen.wait_for(f"document.getElementById('banner').textContent === 'no live picture: {reason}'")
        assert seen.tab.get_attribute("#live", "src") is None
        assert seen.tab.inner_text("#status").endswith("fps")
        seen.context.unroute("**/stream.mjpg*")
        seen.wait_for("document.getElementById('live').naturalWidth && document.getElementById('banner').hidden")


def test_an_answer_of_a_proxy_without_a_reason_is_no_connection(browser):
    served = served_with("gate")
    status = "document.getElementById('status').textContent"
    try:
        with Seen(browser, served, path="/cameras/gate") as seen:
            seen.wait_for(f"{status}.endsWith('fps')")
            seen.context.route(
                "**/events*", lambda route: route.fulfill(status=502, body="", headers={"content-type": "text/plain"})
            )
            seen.tab.reload()
            seen.wait_for(f"{status} === 'no connection'")
            assert seen.tab.inner_text("#now") == "no signal"
            seen.tab.wait_for_timeout(2500)  # it has asked again
            assert seen.tab.inner_text("#status") == "no connection"
    finally:
        served.close()


def test_a_link_on_another_site_opens_the_page_without_tls(browser):
    """As in a web mail, for a device in the network, where browsers do not send Sec-Fetch-Site."""
    names = frozenset({"device.test", "mail.test"})
    served, other = (opened(names=names) for _ in range(2))
    try:
        for each in (served, other):
            add_camera(each)
            each.start()
        resolved = [*CHROMIUM_ARGUMENTS, "--host-resolver-rules=MAP *.test 127.0.0.1"]
        launched = browser.browser_type.launch(executable_path=CHROMIUM, args=resolved)
        tab = launched.new_page()
        tab.goto(f"http://mail.test:{other.access.address.port}/?token=wrong")
        link = f"http://device.test:{served.access.address.port}/?token={TOKEN}"
        tab.evaluate(
            "link => { const a = document.createElement('a'); a.href = link; document.body.append(a); a.click(); }", link
        )
        tab.wait_for_selector("#camera:not([hidden])", timeout=10_000)
        launched.close()
    finally:
        served.close()
        other.close()


@pytest.mark.parametrize("width", [360, 1280])
def test_many_cameras_without_pictures_are_counted_and_fit_on_the_page(browser, monkeypatch, width):
    served = opened()
    cameras = [add_camera(served, f"a camera with a long name at the gate number {number}") for number in range(5)]
    served.start()
    try:
        for camera in cameras[:2]:
            camera.publish(make_view())
        cameras[0].stats.alarms = SimpleNamespace(active=True, values=None, summary=cameras[0].stats.alarms.summary)
        monkeypatch.setattr(PageCamera, "problem", lambda camera: None if camera in cameras[:2] else "no picture yet")
        with Seen(browser, served, viewport={"width": width, "height": 800}) as seen:
            seen.wait_for("document.getElementById('status').textContent === '3 of 5 without pictures, 1 alarm'")
            assert seen.tab.evaluate("document.documentElement.scrollWidth") == width
            assert seen.tab.evaluate("document.getElementById('title').getBoundingClientRect().width") > 50
            tile = "[...document.querySelectorAll('.tile .status')].slice(0, 2).map(one => one.clientHeight)"
            assert max(seen.tab.evaluate(tile)) < 40  # one line
            count = "[...document.querySelectorAll('.tile img')].filter(one => {}).length"
            seen.wait_for(count.format("one.naturalWidth") + " === 2")
            visible = seen.tab.evaluate(count.format("getComputedStyle(one).visibility === 'visible'"))
            assert visible == 2  # the others have nothing to show, not even a broken picture
    finally:
        served.close()


def test_cameras_without_pictures_hold_up_no_tile(browser, monkeypatch):
    """There are more of them than connections of a browser to one server."""
    monkeypatch.setattr(routes, "_PICTURE_S", 3600.0)
    served = opened()
    *_, camera = (add_camera(served, f"gate-{number}") for number in range(8))
    served.start()
    try:
        with Seen(browser, served, viewport={"width": 1000, "height": 600}) as seen:
            seen.wait_for("document.querySelectorAll('.tile .status.bad').length === 8")
            picture = "document.querySelector('[data-camera=gate-7] img').src"
            shown = {""}
            for level in range(0, 250, 50):
                camera.publish(make_view(level))
                seen.until(lambda: seen.find(picture) not in shown)
                shown.add(seen.find(picture))
            seen.wait_for("document.querySelectorAll('.tile .status.bad').length === 7")
    finally:
        served.close()


def test_a_page_whose_token_is_no_longer_valid_says_so_and_opens_no_dialog_for_a_password(browser):
    served, refused = opened(), {}

    def note(answer) -> None:
        if answer.status == 401:
            refused[urlsplit(answer.url).path] = answer.headers["www-authenticate"]

    add_camera(served).publish(make_view())
    served.start()
    try:
        with Seen(browser, served) as seen:
            seen.wait_for("document.getElementById('status').textContent.includes('fps')")
            seen.tab.on("response", note)
            port = served.access.address.port
            served.close()
            served = opened(port, token=TOKEN[::-1])
            add_camera(served).publish(make_view())
            served.start()
            seen.wait_for("document.getElementById('status').textContent === 'log in again: open the link with the token'")
            seen.tab.set_viewport_size({"width": 400, "height": 700})  # for which another stream is asked for
            seen.tab.locator("#futures").scroll_into_view_if_needed()
            pictures = {f"/cameras/wall/{name}" for name in ("stream.mjpg", "futures.jpg")}
            seen.until(lambda: pictures <= set(refused))
            assert set(refused.values()) == {"Bearer"}  # and not Basic
    finally:
        served.close()


def test_the_login_of_a_page_that_stays_open_is_renewed_every_day(browser, page):
    def ends_s(seen: Seen) -> float:
        (cookie,) = seen.context.cookies()
        return cookie["expires"]

    with Seen(browser, page) as seen:
        seen.context.clock.install()
        seen.tab.reload()
        seen.wait_for("document.getElementById('live').naturalWidth")
        before_s = ends_s(seen)
        with seen.tab.expect_response("**/cameras.json"):
            seen.tab.clock.fast_forward(24 * 3600 * 1000)
        seen.until(lambda: ends_s(seen) > before_s)


def test_a_page_that_hears_nothing_any_more_says_so(browser, page, monkeypatch):
    """As behind a cable that was pulled: the connection stays open, and no error comes."""
    status = "document.getElementById('status')"
    with Seen(browser, page) as seen:
        seen.wait_for(f"{status}.textContent.includes('fps')")
        page.cameras["wall"].stats.events.add("test", "it listens")
        seen.wait_for("document.getElementById('events').children.length")
        asked: list[str] = []
        seen.tab.on("request", lambda request: "/events" in request.url and asked.append(urlsplit(request.url).query))
        with monkeypatch.context() as silent:
            silent.setattr(Routes, "_live_messages", lambda *arguments, **named: [])
            seen.wait_for(f"{status}.textContent === 'no connection' && {status}.classList.contains('bad')")
            assert seen.tab.inner_text("#now") == "no signal"
        seen.wait_for(f"{status}.textContent.includes('fps') && !{status}.classList.contains('bad')")
        seen.wait_for("document.getElementById('live').naturalWidth")
        assert re.fullmatch(r"live=1&camera=wall&last=\w+-\d+&since=[\d.]+", asked[0])  # what it has is not sent again


def test_a_start_without_an_answer_is_tried_again(browser, page):
    """No connection is refused or closed: only the time tells."""
    with Seen(browser, page, path="/healthz") as seen:  # logged in, and the page is still to be opened
        seen.context.clock.install()
        waiting: list[sync_api.Route] = []
        seen.context.route("**/cameras.json", lambda route: waiting.append(route), times=1)
        seen.tab.goto(page.access.address.link("/"))
        seen.until(lambda: len(waiting) == 1)
        seen.tab.clock.fast_forward(25_000)
        seen.wait_for("document.getElementById('status').textContent === 'no connection'")
        seen.tab.clock.fast_forward(1500)
        seen.wait_for("document.getElementById('live').naturalWidth")


def test_what_was_asked_for_on_a_connection_that_died_is_given_up(browser, page):
    """The picture is asked for again, and nothing holds one of the few connections of a browser."""
    waiting: list[sync_api.Route] = []
    with Seen(browser, page) as seen:
        seen.context.clock.install()
        for pattern in ("**/futures.jpg", "**/controls"):
            seen.context.route(pattern, lambda route: waiting.append(route), times=1)
        seen.tab.reload()
        seen.wait_for("document.getElementById('counts').children.length")
        seen.tab.click("#reset")
        seen.tab.locator("#futures").scroll_into_view_if_needed()
        seen.until(lambda: len(waiting) == 2)
        with seen.tab.expect_request("**/futures.jpg"):
            seen.tab.clock.fast_forward(6000)
            seen.wait_for("document.getElementById('answer').textContent === 'no connection'")


def test_a_screen_reader_hears_what_is_new_and_no_numbers(browser, page, monkeypatch):
    monkeypatch.setattr(routes, "_STATE_S", routes._SLICE_S)
    status, times = "document.getElementById('status').textContent", itertools.cycle(["5.5 s", "12.5 min", "2.0 h", "3.0 days"])
    with Seen(browser, page) as seen:
        seen.wait_for(f"{status}.endsWith('fps')")
        seen.tab.evaluate(LISTEN)
        with monkeypatch.context() as quiet:
            quiet.setattr(PageCamera, "problem", lambda camera: f"no picture for {next(times)}")
            for _ in range(2):
                before = seen.tab.evaluate(status)
                seen.wait_for(f"{status} !== '{before}' && {status}.startsWith('no picture for')")
            assert seen.tab.inner_text("#banner").startswith("no picture for")
        seen.wait_for(f"{status}.endsWith('fps')")
        monkeypatch.setattr(page.cameras["wall"].stats.fit, "reasons", ("it is darker by 7 %",))
        seen.until(lambda: "darker by 7 %" in seen.tab.inner_text("#banner"))
        assert seen.tab.evaluate("heard") == ["no picture", "live", "The model does not fit these pictures"]


def test_several_cameras_are_tiles_that_lead_to_their_own_pages(browser, page):
    second = add_camera(page, "Back door")
    second.publish(make_view(128))
    with Seen(browser, page, viewport={"width": 1000, "height": 600}) as seen:
        seen.until(lambda: seen.tab.locator(".tile").count() == 2)
        seen.wait_for("[...document.querySelectorAll('.tile img')].every(one => one.naturalWidth)")
        seen.tab.click("text=Back door")
        seen.until(lambda: seen.tab.url.endswith("/cameras/back-door"))
        seen.wait_for("document.getElementById('live').naturalWidth")
        assert seen.errors == []
