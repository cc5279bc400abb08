"""Shared by the tests of the page: a page over loopback whose live loop is the test itself."""

from __future__ import annotations

import http.client
import threading
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np

from svg_runtime.live.alarms.monitor import AlarmMonitor
from svg_runtime.live.alarms.options import AlarmOptions
from svg_runtime.live.events import EventLog
from svg_runtime.live.fit import FitMonitor
from svg_runtime.live.overlay import Caption, View
from svg_runtime.live.page.camera import CameraAbout, PageCamera
from svg_runtime.live.page.controls import Change, Fixed, Settings
from svg_runtime.live.page.held_summary import HeldSummary
from svg_runtime.live.page.live_page import LivePage
from svg_runtime.live.page.options import PageOptions
from svg_runtime.live.stats import LiveStats
from svg_runtime.web.address import Address
from svg_runtime.web.token import Token

STEP_S = 0.1

HEAD = b"--picture\r\nContent-Type: image/jpeg\r\n\r\n"
FRAME_HW = (16, 16)
CAPTION = Caption(
    model="m", backend="cpu", source="wall", samples=2, horizon=3, interval_s=STEP_S, frame_hw=FRAME_HW, lead=3
)  # fmt: skip
ABOUT = {
    "model": "m", "bundle_id": "0", "backend": "cpu", "samples": 2, "horizon": 3, "seed": 0, "context": "window",
    "source": "wall",
}  # fmt: skip
SETTINGS = Settings(samples=2, horizon=3, overlay="live", threshold=4.5)


# What is hard to read, to touch or to hear on a page, as JavaScript.
_SMALL = """[...document.querySelectorAll('body *')].filter(one => one.checkVisibility() && one.childElementCount === 0
  && one.textContent.trim() && parseFloat(getComputedStyle(one).fontSize) < 13).map(one => one.textContent)"""
_LOW = """[...document.querySelectorAll('button, select, input, .button')]
  .filter(one => one.checkVisibility() && one.getBoundingClientRect().height < 36).map(one => one.id)"""
_NAMELESS = """[...document.querySelectorAll('input, select')].filter(one => !one.labels.length
  || !one.labels[0].textContent.trim()).map(one => one.id)"""


# From now on, `heard` has what a screen reader says of the page by itself.
LISTEN = """() => {
  window.heard = [];
  for (const one of document.querySelectorAll('output, [role=status], [role=alert], [aria-live]')) {
    const note = () => heard.push(one.textContent);
    new MutationObserver(note).observe(one, { childList: true, characterData: true, subtree: true });
  }
}"""


def check_on_phone(tab, scheme: str) -> None:
    """Whether a page 360 pixels wide, in dark or light, can be read, touched and named."""
    assert tab.evaluate("document.documentElement.scrollWidth") == 360
    assert tab.evaluate(_SMALL) == []
    assert tab.evaluate(_LOW) == []
    assert tab.evaluate(_NAMELESS) == []
    back = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (sum(map(int, back[4:-1].split(","))) > 384) == (scheme == "light")


def make_stats() -> LiveStats:
    events = EventLog()
    alarms = AlarmMonitor(options=AlarmOptions(), interval_s=STEP_S, source="wall", model="m", events=events)
    return LiveStats(
        about=ABOUT, horizon=64, interval_s=STEP_S, events=events, fit=FitMonitor(None, STEP_S, events), alarms=alarms
    )


def make_view(level: int = 0, size_hw: tuple[int, int] = (64, 64), noisy: bool = False, samples: int = 2) -> View:
    picture = np.full((*size_hw, 3), level, np.uint8)
    if noisy:
        picture = np.random.default_rng(level).integers(0, 256, (*size_hw, 3)).astype(np.uint8)
    return View(
        picture=picture, futures=np.zeros((samples, 3, *FRAME_HW, 1), np.float32), frame=np.zeros((*FRAME_HW, 1), np.float32),
        trace_s=deque([0.0]), surprise=deque([1.0]), signal=deque([1.0]),
    )  # fmt: skip


def add_camera(
    page: LivePage, name: str = "wall", clips: Path | None = None, fixed: Fixed | None = None, stats: LiveStats | None = None
) -> PageCamera:
    about = CameraAbout(name=name, caption=CAPTION, clips=clips, fixed=fixed or Fixed())
    (camera,) = page.add_cameras([(about, SETTINGS, stats or make_stats())])
    return camera


def summary_of(page: LivePage) -> dict[str, Any]:
    """As of the run: of the one camera, or of several."""
    found = {key: camera.stats.summary() for key, camera in page.cameras.items()}
    return next(iter(found.values())) if len(found) == 1 else {"cameras": found, "recorded": []}


@contextmanager
def served_page(
    clips: Path | None = None, names: tuple[str, ...] = ("wall",), token: Token | None = None
) -> Iterator[tuple[LivePage, str]]:
    """A page that answers, and its address."""
    reports: list[str] = []
    page = LivePage.open(PageOptions(Address("127.0.0.1", 0), token=token), reports.append)
    try:
        for name in names:
            add_camera(page, name, clips)
        page.summary = HeldSummary(lambda: summary_of(page))
        page.start()
        yield page, page.access.address.link("")
        failures = [report for report in reports if "failed" in report]
        assert not failures, failures
    finally:
        page.close()


@contextmanager
def applying(camera: PageCamera, apply: Callable[[Change], None] = lambda change: None) -> Iterator[None]:
    """A live loop that applies changes meanwhile."""
    ended = threading.Event()

    def loop() -> None:
        while not ended.wait(0.01):
            camera.apply_changes(apply)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def client(address: str) -> httpx.Client:
    return httpx.Client(base_url=address, trust_env=False, timeout=10)


class PictureStream:
    """Reads a stream of pictures, part by part."""

    def __init__(self, address: str, path: str) -> None:
        host, _, port = address.removeprefix("http://").partition(":")
        self._connection = http.client.HTTPConnection(host, int(port), timeout=10)
        self._connection.request("GET", path)
        self.answer = self._connection.getresponse()
        if self.answer.status == 200:
            self._read_until(HEAD)

    def read(self) -> bytes:
        return self._read_until(b"\r\n" + HEAD)

    def _read_until(self, end: bytes) -> bytes:
        read = b""
        while not read.endswith(end):
            line = self.answer.readline()
            assert line
            read += line
        return read.removesuffix(end)

    def close(self) -> None:
        self.answer.close()
        self._connection.close()
