"""The page in a real Chromium, from a server of plain files."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from playwright import sync_api

from benchmarks.browser_demo import served
from svg_common.digits import digit_stream
from tests.demo.conftest import FAKE_CAMERA
from tests.svg_runtime.live.page.page_helpers import LISTEN, check_on_phone

PATIENCE_MS = 30_000


class Seen:
    """One open page, what it asked for, and what went wrong in it."""

    def __init__(self, browser, address: str, query: str = "", **context) -> None:
        self.context = browser.new_context(**context)
        self.tab = self.context.new_page()
        self.errors: list[str] = []
        self.foreign: list[str] = []
        self.address = address
        self.query = query
        self.tab.on("console", lambda message: message.type == "error" and self.errors.append(message.text))
        self.tab.on("pageerror", lambda error: self.errors.append(str(error)))
        self.context.on("request", lambda request: self._note(request.url))

    def _note(self, url: str) -> None:
        if not url.startswith((self.address, f"blob:{self.address}")):
            self.foreign.append(url)

    def open(self) -> Seen:
        self.tab.goto(f"{self.address}/?{self.query}")
        return self

    def break_file(self, pattern: str, answer: Callable[[sync_api.Route], None]) -> None:
        self.context.route(re.compile(pattern), answer)

    def wait_for_forecasts(self) -> None:
        sync_api.expect(self.tab.locator("#rate")).to_have_text(re.compile(r"\d"), timeout=PATIENCE_MS)

    def wait_for_message(self, text: str) -> None:
        sync_api.expect(self.tab.locator("#message.bad")).to_contain_text(text, timeout=PATIENCE_MS)

    def picture(self, name: str) -> str:
        """The pixels of a canvas."""
        return self.tab.evaluate("name => document.getElementById(name).toDataURL()", name)

    def wait_for_change(self, name: str, picture: str) -> None:
        for _ in range(PATIENCE_MS // 50):
            if self.picture(name) != picture:
                return
            self.tab.wait_for_timeout(50)
        raise AssertionError(f"the canvas {name} does not change")

    def columns_of_the_curve(self) -> int:
        """How many columns of the chart have a pixel of it."""
        return self.tab.evaluate(
            """() => {
              const canvas = document.getElementById("chart"), g = canvas.getContext("2d");
              g.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--accent");
              const wanted = parseInt(g.fillStyle.slice(1), 16);
              const { data, width } = g.getImageData(0, 0, canvas.width, canvas.height);
              const columns = new Set();
              for (let at = 0; at < data.length; at += 4)
                if (((data[at] << 16) | (data[at + 1] << 8) | data[at + 2]) === wanted) columns.add((at / 4) % width);
              return columns.size;
            }"""
        )

    def __enter__(self) -> Seen:
        return self

    def __exit__(self, *error: object) -> None:
        self.context.close()


def test_the_synthetic_camera_runs_and_its_controls_work_from_the_keyboard(browser, address):
    with Seen(browser, address).open() as seen:
        seen.wait_for_forecasts()
        seen.tab.evaluate(LISTEN)
        assert seen.tab.inner_text("#device") == "WASM, 1 thread"
        # 1) pictures move: those of the camera, and those of the future
        for name in ("live", "seen", "mean", "spread", "futures", "chart"):
            seen.wait_for_change(name, seen.picture(name))
        # 2) the chart keeps what was: a second is about ten pixels wide
        for _ in range(PATIENCE_MS // 50):
            if seen.columns_of_the_curve() >= 15:
                break
            seen.tab.wait_for_timeout(50)
        assert seen.columns_of_the_curve() >= 15
        # 3) a row for each sample
        height = seen.tab.evaluate("document.getElementById('futures').height")
        seen.tab.focus("#samples")
        seen.tab.keyboard.press("ArrowUp")
        seen.tab.wait_for_timeout(50)
        sync_api.expect(seen.tab.locator("#futures")).to_have_js_property("height", height + 66, timeout=PATIENCE_MS)
        # 4) the slider says how far ahead mean and spread are
        seen.tab.focus("#lead")
        seen.tab.keyboard.press("Home")
        assert seen.tab.inner_text(".ahead .lead") == "+0.1 s"
        # 5) fewer steps: fewer columns
        seen.tab.fill("#horizon", "3")
        sync_api.expect(seen.tab.locator("#leads span")).to_have_count(3, timeout=PATIENCE_MS)
        # 6) stop, and start again; a screen reader hears that, and no numbers
        seen.tab.focus("#run")
        seen.tab.keyboard.press("Enter")
        assert seen.tab.inner_text("#status") == "stopped"
        assert seen.tab.evaluate("heard") == ["stopped"]
        seen.tab.wait_for_timeout(300)
        stopped = seen.picture("live")
        seen.tab.wait_for_timeout(300)
        assert seen.picture("live") == stopped
        mean = seen.picture("mean")
        seen.tab.focus("#lead")
        seen.tab.keyboard.press("Home")  # in the futures that are still shown
        assert seen.tab.inner_text(".ahead .lead") == "+0.1 s"
        assert seen.picture("mean") != mean
        seen.tab.focus("#run")
        seen.tab.keyboard.press("Enter")
        seen.wait_for_change("live", stopped)
        # 7) all came from here
        assert seen.foreign == []
        assert seen.errors == []


def test_an_address_with_unknown_choices_and_wild_numbers_runs(browser, address):
    with Seen(browser, address, "source=x&model=../x&engine=x&samples=1e9&horizon=x&seed=-1").open() as seen:
        seen.wait_for_forecasts()
        chosen = {
            name: seen.tab.input_value(f"#{name}") for name in ("source", "model", "engine", "samples", "horizon", "seed")
        }
        assert chosen == {
            "source": "synthetic", "model": "digits", "engine": "auto", "samples": "16", "horizon": "10", "seed": "0",
        }  # fmt: skip


def test_the_webcam_runs_with_the_camera_model(browser, address):
    with Seen(browser, address).open() as seen:
        seen.tab.select_option("#source", "webcam")
        assert seen.tab.input_value("#model") == "camera"
        assert "was trained on mostly static cameras: roads" in seen.tab.inner_text("#model-note")
        sync_api.expect(seen.tab.locator("#chart-note")).to_contain_text("1 is as usual", timeout=PATIENCE_MS)
        for name in ("live", "futures"):
            seen.wait_for_change(name, seen.picture(name))
        assert seen.foreign == []
        assert seen.errors == []


# Notes the video that plays. `halt` keeps it at one time for as many seconds, which it jumps over, and `go` ends that.
HALTED_VIDEO = """() => {
  const { prototype } = HTMLMediaElement, { play } = prototype, now = performance.now.bind(performance);
  const currentTime = Object.getOwnPropertyDescriptor(prototype, "currentTime");
  let jump = 0;
  performance.now = () => now() + jump;
  prototype.play = function () { window.video = this; return play.call(this); };
  window.halt = (seconds) => {
    Object.defineProperty(prototype, "currentTime", { get: () => 0.5, configurable: true });
    setTimeout(() => (jump += 1000 * seconds), 250); // it has been seen at that time
  };
  window.go = () => Object.defineProperty(prototype, "currentTime", currentTime);
}"""


def test_a_video_file_runs_and_begins_anew(browser, address, tmp_path):
    with Seen(browser, address).open() as seen:
        seen.tab.evaluate(HALTED_VIDEO)
        seen.tab.select_option("#source", "file")
        assert "Choose a video file" in seen.tab.inner_text("#message")
        seen.tab.set_input_files("#file", write_video(tmp_path / "clip.webm"))
        seen.tab.select_option("#model", "digits")
        seen.wait_for_forecasts()
        seen.wait_for_change("futures", seen.picture("futures"))
        seen.tab.wait_for_timeout(1500)  # longer than the file
        seen.wait_for_change("live", seen.picture("live"))
        assert seen.tab.is_hidden("#message")
        # what stands still is not taken for the present
        seen.tab.evaluate("halt(6)")
        status = seen.tab.locator("#status")
        sync_api.expect(status).to_have_text(re.compile(r"no picture for \d+ s"), timeout=PATIENCE_MS)
        assert seen.tab.inner_text("#said") == "no picture"
        seen.tab.evaluate("go()")
        sync_api.expect(status).to_contain_text("forecasts/s", timeout=PATIENCE_MS)
        # what breaks off is explained
        seen.tab.evaluate("video.dispatchEvent(new Event('error'))")
        seen.wait_for_message("clip.webm cannot be played any further")
        # the same file can be chosen again: a field that still has it would not change
        count = "document.getElementById('file').files.length"
        open_chooser(seen)
        assert seen.tab.evaluate(count) == 0
        seen.tab.evaluate("document.getElementById('file').dispatchEvent(new Event('cancel'))")
        assert seen.tab.evaluate(count) == 1  # nothing else was chosen
        open_chooser(seen).set_files(tmp_path / "clip.webm")
        sync_api.expect(status).to_contain_text("forecasts/s", timeout=PATIENCE_MS)
        # what is no video is refused
        (tmp_path / "text.mp4").write_text("no video")
        seen.tab.set_input_files("#file", tmp_path / "text.mp4")
        seen.wait_for_message("cannot play text.mp4")


def open_chooser(seen: Seen) -> sync_api.FileChooser:
    """Choose the field for a file."""
    with seen.tab.expect_file_chooser() as opened:
        seen.tab.click("#file")
    return opened.value


# All calls of the model are noted. `hold` keeps all back, in order; `breaks` makes it fail from the next answer on.
WATCHED_MODEL = """async () => {
  const { Engine } = await import("/engine.js");
  const { ask, answer } = Engine.prototype;
  const model = (window.model = { calls: [], held: [], hold: false, breaks: false, broken: null });
  Engine.prototype.ask = async function (call, options) {
    model.calls.push(call);
    if (model.hold) await new Promise((go) => model.held.push(go)); // every call: none overtakes another
    return ask.call(this, call, options);
  };
  Engine.prototype.answer = function ({ id, result, error }) {
    if (model.breaks) model.broken = this;
    model.breaks = false;
    answer.call(this, this === model.broken ? { id, error: "the GPU is lost" } : { id, result, error });
  };
}"""


def dropped(seen: Seen) -> int:
    """How many pictures the page says that it left out."""
    return int(seen.tab.inner_text("#dropped"))


def test_a_file_that_begins_anew_while_the_model_is_busy_is_a_new_scene(browser, address, tmp_path):
    """The picture at the cut is left out, and the model is told with the next one that it sees."""
    with Seen(browser, address).open() as seen:
        seen.tab.evaluate(WATCHED_MODEL)
        seen.tab.select_option("#source", "file")
        seen.tab.set_input_files("#file", write_video(tmp_path / "clip.webm"))
        seen.tab.select_option("#model", "digits")
        seen.wait_for_forecasts()
        # 1) time runs on, without a cut, while the model is busy
        seen.tab.evaluate(
            """() => {
              let time = 1000;
              window.cut = () => (time = 0);
              Object.defineProperty(HTMLMediaElement.prototype, "currentTime", { get: () => (time += 0.1) });
              model.hold = true;
            }"""
        )
        seen.tab.wait_for_function("from => Number(document.getElementById('dropped').textContent) > from", arg=dropped(seen))
        # 2) the file begins anew, and a picture later is left out too
        seen.tab.evaluate("() => { cut(); model.calls.length = 0; }")
        seen.tab.wait_for_function(
            "from => Number(document.getElementById('dropped').textContent) > from", arg=dropped(seen) + 2
        )
        # 3) the model goes on
        seen.tab.evaluate("() => { model.hold = false; model.held.forEach((go) => go()); }")
        seen.tab.wait_for_function("() => model.calls.filter((call) => call !== 'forecast').length >= 3")
        calls = [call for call in seen.tab.evaluate("model.calls") if call != "forecast"]
        assert calls[:3] == ["reset", "observe", "observe"]


def test_a_model_that_failed_is_opened_anew_by_the_next_start_but_not_for_its_source(browser, address):
    with Seen(browser, address, "source=webcam&model=digits") as seen:
        seen.context.add_init_script(
            """const ask = MediaDevices.prototype.getUserMedia;
            MediaDevices.prototype.getUserMedia = async function (...options) {
              return (window.stream = await ask.apply(this, options));
            };"""
        )
        seen.open().wait_for_forecasts()
        seen.tab.evaluate(WATCHED_MODEL)
        # 1) the system mutes the webcam for a while, which then shows nothing or black
        seen.tab.evaluate(
            """() => {
              Object.defineProperty(stream.getVideoTracks()[0], "muted", { value: true, configurable: true });
              const now = performance.now.bind(performance);
              performance.now = () => now() + 6000;
            }"""
        )
        sync_api.expect(seen.tab.locator("#status")).to_contain_text("no picture for", timeout=PATIENCE_MS)
        seen.tab.evaluate("delete stream.getVideoTracks()[0].muted")
        sync_api.expect(seen.tab.locator("#status")).to_contain_text("forecasts/s", timeout=PATIENCE_MS)
        # 2) it is unplugged: the model stays
        seen.tab.evaluate("stream.getVideoTracks()[0].dispatchEvent(new Event('ended'))")
        seen.wait_for_message("The webcam is gone")
        start_again(seen)
        assert "open" not in seen.tab.evaluate("model.calls")
        # 3) the model fails
        seen.tab.evaluate("model.breaks = true")
        seen.wait_for_message("the GPU is lost")
        start_again(seen)
        assert seen.tab.evaluate("model.calls").count("open") == 1


def start_again(seen: Seen) -> None:
    """Choose Start, and wait for forecasts."""
    futures = seen.picture("futures")
    seen.tab.click("#run")
    seen.wait_for_change("futures", futures)
    assert seen.tab.is_hidden("#message")


def write_video(path: Path) -> Path:
    """One second of digits in VP8, which every Chromium plays."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libvpx", rate=10)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        draw = digit_stream(1)
        for _ in range(10):
            gray = np.pad((draw() * 255).astype(np.uint8), ((0, 0), (16, 16)))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.dstack([gray] * 3), format="rgb24")))
        container.mux(stream.encode())
    return path


def test_a_refused_webcam_is_explained_and_the_synthetic_camera_is_still_there(launch, address):
    with Seen(launch(FAKE_CAMERA, "--deny-permission-prompts"), address, "source=webcam").open() as seen:
        seen.wait_for_message("The webcam was refused. Allow it")
        seen.tab.select_option("#source", "synthetic")
        seen.wait_for_forecasts()
        assert seen.tab.is_hidden("#message")


def test_a_missing_webcam_is_explained(launch, address):
    with Seen(launch("--use-fake-ui-for-media-stream"), address, "source=webcam").open() as seen:
        seen.wait_for_message("There is no webcam")


def damaged(route: sync_api.Route) -> None:
    body = bytearray(route.fetch().body())
    body[len(body) // 2] ^= 1
    route.fulfill(body=bytes(body))


@pytest.mark.parametrize(
    ("pattern", "answer", "message"),
    [
        ("decoder.onnx", damaged, "The model's file fp32/decoder.onnx is damaged: 1224954 bytes of hash"),
        ("decoder.onnx", lambda route: route.fulfill(body=b"short"), "is damaged: 5 bytes"),
        ("decoder.onnx", lambda route: route.fulfill(status=404), "decoder.onnx could not be fetched: the server says 404"),
        ("manifest.json", lambda route: route.fulfill(body="<html>"), "manifest.json is no JSON"),
        ("manifest.json", lambda route: route.fulfill(json={"format": "other"}), "expected svg-bundle 1"),
        (r"threaded\.wasm", lambda route: route.abort(), "WASM, 1 thread did not start in this browser"),
        (r"ort\.wasm", lambda route: route.abort(), "onnxruntime-web could not be loaded"),
    ],
    ids=["flipped bit", "cut off", "missing graph", "no JSON", "other format", "no WASM file", "no library"],
)
def test_what_cannot_be_loaded_is_named(browser, address, pattern, answer, message):
    with Seen(browser, address, "model=digits") as seen:
        seen.break_file(pattern, answer)
        seen.open().wait_for_message(message)
        assert seen.tab.inner_text("#status") == "stopped"


def test_a_browser_without_webassembly_is_told_so(browser, address):
    def without(route: sync_api.Route) -> None:
        route.fulfill(body=f"delete globalThis.WebAssembly;{route.fetch().text()}", content_type="text/javascript")

    with Seen(browser, address) as seen:
        seen.break_file("worker.js", without)
        seen.open().wait_for_message("This browser has no WebAssembly")


def test_webgpu_is_refused_where_there_is_none(browser, address):
    with Seen(browser, address, "engine=webgpu").open() as seen:
        seen.wait_for_message("This browser has no WebGPU")


def test_a_page_that_was_not_put_together_says_how(browser):
    with served(Path(__file__).parents[2] / "docs" / "demo") as address, Seen(browser, address).open() as seen:
        seen.wait_for_message("python docs/demo/build.py")


@pytest.mark.slow
def test_it_can_be_read_and_touched_on_a_phone(browser, address):
    phone = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
    with Seen(browser, address, **phone).open() as seen:
        seen.wait_for_forecasts()
        for scheme in ("dark", "light"):
            seen.tab.emulate_media(color_scheme=scheme)
            check_on_phone(seen.tab, scheme)
