"""The page's routes over loopback: pictures, numbers, events, changes, clips."""

from __future__ import annotations

import asyncio
import gc
import http.client
import json
import os
import re
import socket
import threading
import time
from collections import Counter
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import cv2
import httpx
import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from benchmarks import page_load
from svg_common.errors import UsageError
from svg_runtime.errors import BackendError
from svg_runtime.live.alarms.record import AlarmRecord, Files
from svg_runtime.live.page import controls, history, routes, studio
from svg_runtime.live.page.board import Board
from svg_runtime.live.page.camera import CameraAbout
from svg_runtime.live.page.controls import Change, Fixed, NotYetError
from svg_runtime.live.page.live_page import LivePage
from svg_runtime.live.page.options import PageOptions, page_options
from svg_runtime.live.signals import SignalValues
from svg_runtime.web.address import Address
from svg_runtime.web.limits import StreamSlots, WebLimits
from svg_runtime.web.token import Token
from tests.command_runner import HANG_S, wait_until
from tests.svg_runtime.live.page.page_helpers import (
    CAPTION,
    SETTINGS,
    PictureStream,
    add_camera,
    applying,
    client,
    make_stats,
    make_view,
    served_page,
)

CLIP, LINK = "alarm-20260101T000000.000Z-000001.mp4", "alarm-20260101T000000.000Z-000002.mp4"


def level_of(data: bytes) -> int:
    return round(float(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).mean()))


def events_of(address: str, path: str = "/events", until: str = "\n\n", **headers: str) -> str:
    """What a client of the event stream has read when `until` has come."""
    read, deadline = "", time.monotonic() + HANG_S
    with client(address) as known, known.stream("GET", path, headers=headers) as answer:
        for piece in answer.iter_text():
            read += piece
            if until in read:
                return read
            assert time.monotonic() < deadline, read[-500:]
    return read


def alarm(sequence: int, **more: Any) -> AlarmRecord:
    return AlarmRecord(
        sequence=sequence, phase="ended", source="wall", model="m", signal="combined", threshold=4.5, position_s=1.0, peak={},
        start=datetime.now(timezone.utc), **more,
    )  # fmt: skip


def open_streams(address: str) -> int:
    with client(address) as known:
        return int(float(re.search(r"^svg_page_streams (\S+)", known.get("/metrics").text, re.MULTILINE)[1]))


# 1) pictures


def test_nothing_is_composed_while_nobody_looks():
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        for number in range(50):
            camera.publish(make_view(number))
        for path in ("/", "/healthz", "/stats.json", "/metrics", "/cameras.json", "/cameras/wall/state.json"):
            assert known.get(path).status_code == 200
        assert set(camera.pictures_made.values()) == {0}
        assert not camera.watched


def test_a_picture_is_made_once_for_all_who_look_and_once_for_each_view():
    with served_page() as (page, address):
        camera = page.cameras["wall"]
        camera.publish(make_view(10))
        streams = [PictureStream(address, "/cameras/wall/stream.mjpg") for _ in range(10)]
        assert {level_of(stream.read()) for stream in streams} == {10}
        assert camera.pictures_made == {"live": 1, "futures": 0, "snapshot": 0}
        wait_until(lambda: len(camera.live.waiters) == 10)
        camera.publish(make_view(200))
        assert {level_of(stream.read()) for stream in streams} == {200}
        assert camera.pictures_made["live"] == 2
        for stream in streams:
            stream.close()
        wait_until(lambda: not camera.watched)
        camera.publish(make_view(30))
        assert camera.pictures_made["live"] == 2


def test_pictures_are_shown_to_programs_that_know_only_a_user_and_a_password():
    token = Token("0123456789abcdef0123")
    with served_page(token=token) as (page, address), client(address) as known:
        page.cameras["wall"].publish(make_view(10))
        user = httpx.BasicAuth("x", token.value)
        for name in ("picture.jpg", "futures.jpg", "snapshot.png", "picture.jpg?size=small"):
            assert known.get(f"/cameras/wall/{name}", auth=user).status_code == 200
        with known.stream("GET", "/cameras/wall/stream.mjpg", auth=user) as answer:
            assert answer.status_code == 200
        for path in ("/", "/stats.json", "/cameras/wall/state.json", "/cameras/wall/nothing.jpg"):
            assert known.get(path, auth=user).headers["www-authenticate"] == "Bearer"
        changed = known.post("/cameras/wall/controls", json={"overlay": "ghost"}, auth=user)
        assert (changed.status_code, changed.headers["www-authenticate"]) == (401, "Bearer")


def test_a_client_that_is_slow_gets_the_newest_picture_and_costs_nothing_meanwhile(monkeypatch):
    monkeypatch.setattr(studio, "_SHARE", 1.0)  # as many pictures as somebody takes
    with served_page() as (page, address):
        camera = page.cameras["wall"]
        camera.live.least_s = 0.0
        view = make_view(0, size_hw=(640, 640), noisy=True)
        camera.publish(view)
        with closing(PictureStream(address, "/cameras/wall/stream.mjpg")) as stream:
            stream.read()
            quiet = 0  # views since the last picture was made; nobody reads
            while quiet < 50:
                before = camera.pictures_made["live"]
                camera.publish(view)
                time.sleep(0.02)
                quiet = 0 if camera.watched or camera.pictures_made["live"] != before else quiet + 1
                assert before < 60  # the buffers are full, and nothing is made any more
            made = camera.pictures_made["live"]
            camera.publish(make_view(77))
            while level_of(stream.read()) != 77:
                assert camera.pictures_made["live"] <= made + 1


def test_a_view_of_minutes_ago_is_not_served_as_new():
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view(10))
        assert level_of(known.get("/cameras/wall/picture.jpg").content) == 10
        camera.publish(make_view(90))
        assert level_of(known.get("/cameras/wall/picture.jpg").content) == 90
        assert level_of(known.get("/cameras/wall/picture.jpg").content) == 90
        assert camera.pictures_made["live"] == 2


def test_futures_and_snapshots_are_made_on_demand():
    with served_page() as (page, address), client(address) as known:
        page.cameras["wall"].publish(make_view(10, samples=5))
        grid = cv2.imdecode(np.frombuffer(known.get("/cameras/wall/futures.jpg").content, np.uint8), cv2.IMREAD_COLOR)
        assert grid.shape[0] / grid.shape[1] == pytest.approx(5 / 3, rel=0.05)  # 5 samples, 3 steps of square frames
        snapshot = known.get("/cameras/wall/snapshot.png")
        assert snapshot.headers["content-disposition"].startswith('attachment; filename="wall-2')
        picture = cv2.imdecode(np.frombuffer(snapshot.content, np.uint8), cv2.IMREAD_COLOR)
        assert picture.shape == (480, 480, 3)


@pytest.mark.parametrize(
    ("overlay", "small_wh", "large_wh"),
    [("live", (480, 480), (480, 480)), ("panels", (600, 440), (1280, 720)), ("before", (400, 400), (1280, 720))],
)
def test_a_phone_gets_a_display_that_can_be_read_on_it(overlay, small_wh, large_wh):
    with served_page() as (page, address), client(address) as known:
        page.cameras["wall"].publish(make_view(10))
        known.post("/cameras/wall/controls", json={"overlay": overlay})
        for query, expected in (("?size=small", small_wh), ("?size=large", large_wh), ("", large_wh)):
            data = known.get(f"/cameras/wall/picture.jpg{query}").content
            assert cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).shape == (*expected[::-1], 3)
        for path in ("picture.jpg", "stream.mjpg"):
            answer = known.get(f"/cameras/wall/{path}?size=huge")
            assert (answer.status_code, answer.text) == (400, "size: expected one of small, large\n")


def test_labels_are_those_of_the_forecast_that_is_shown():
    """Whatever the settings are by now."""
    with served_page() as (page, _):
        camera = page.cameras["wall"]
        camera.note_counts(9, 7)
        caption = camera._look(make_view(samples=5)).caption
        assert (caption.samples, caption.horizon, caption.lead) == (5, 3, 3)
        waiting = camera._look(replace(make_view(), futures=None)).caption
        assert (waiting.samples, waiting.horizon, waiting.lead) == (9, 7, 7)


@pytest.mark.parametrize("overlay", ["live", "ghost", "contours", "panels", "before", "likely"])
def test_every_overlay_can_be_shown(overlay):
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view(10, samples=4))
        assert known.post("/cameras/wall/controls", json={"overlay": overlay}).json()["settings"]["overlay"] == overlay
        assert known.get("/cameras/wall/picture.jpg").status_code == 200
        camera.publish(make_view(10, samples=64))  # more than the run began with
        assert known.get("/cameras/wall/picture.jpg").status_code == 200


def test_without_a_picture_there_is_an_answer_all_the_same(monkeypatch):
    monkeypatch.setattr(routes, "_PICTURE_S", 0.05)
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view())
        camera.live.ready_s = time.monotonic() + 3600  # as if it took for ever
        assert known.get("/cameras/wall/picture.jpg").status_code == 503


@pytest.mark.parametrize("file", ["picture.jpg", "futures.jpg", "snapshot.png"])
def test_the_first_picture_of_a_camera_is_not_waited_for(monkeypatch, file):
    """It may be away for days, and a browser has six connections for all of them."""
    monkeypatch.setattr(routes, "_PICTURE_S", 3600.0)
    with served_page() as (page, address), client(address) as known:
        answer = known.get(f"/cameras/wall/{file}")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        page.cameras["wall"].publish(make_view())
        assert known.get(f"/cameras/wall/{file}").status_code == 200


def test_streams_are_limited_and_a_head_request_takes_none():
    with served_page() as (page, address), client(address) as known:
        page.cameras["wall"].publish(make_view())
        assert known.head("/cameras/wall/stream.mjpg").headers["content-type"].startswith("multipart/x-mixed-replace")
        streams = [PictureStream(address, "/cameras/wall/stream.mjpg") for _ in range(33)]
        assert [stream.answer.status for stream in streams] == [200] * 32 + [503]
        for stream in streams:
            stream.close()


def test_streams_that_are_asked_for_at_once_are_limited_and_leave_no_slot_taken():
    with served_page() as (_, address), ExitStack() as sockets:
        port = int(address.rstrip("/").rpartition(":")[2])
        waiting = [sockets.enter_context(socket.create_connection(("127.0.0.1", port), timeout=10)) for _ in range(60)]
        for each in waiting:
            each.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
        statuses = Counter(each.recv(12)[-3:] for each in waiting)
        assert statuses == {b"200": 32, b"503": 28}
        assert open_streams(address) == 32
        sockets.close()
        gone = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        for each in gone:
            each.sendall(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            each.close()
        wait_until(lambda: open_streams(address) == 0)


@pytest.mark.parametrize("ends", ["client", "cancelled"])
def test_a_stream_that_ends_before_its_first_piece_gives_its_slot_back(ends):
    slots = StreamSlots(WebLimits())
    held = []

    async def receive() -> dict[str, str]:
        await asyncio.sleep(0.01 if ends == "client" else 60)
        return {"type": "http.disconnect"}

    async def send(message: dict[str, str]) -> None:
        held.append(slots.count)
        await asyncio.sleep(60)

    async def pieces():
        yield "never"

    async def answer() -> None:
        await routes._StreamAnswer(slots, "127.0.0.1", pieces(), "text/event-stream")({"type": "http"}, receive, send)

    async def run() -> None:
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(answer(), 0.1 if ends == "cancelled" else 10)

    asyncio.run(run())
    assert held == [1]
    assert slots.count == 0


# 2) numbers


def test_statistics_are_those_of_the_run():
    with served_page() as (page, address), client(address) as known:
        stats = page.cameras["wall"].stats
        stats.timer.add("observe", 2.0)
        stats.surprise.add(float("nan"))
        found = known.get("/stats.json").json()
        assert found.keys() == stats.summary().keys()
        assert found["latency_ms"]["observe"]["p50"] == 2.0
        assert known.get("/cameras/wall/stats.json").json().keys() == found.keys()


def test_what_is_recorded_is_counted_while_the_run_goes_on():
    with served_page() as (page, address), client(address) as known:
        stats = page.cameras["wall"].stats
        counts = {"folder": "x", "segments": 1, "pictures": 30, "lost": 4}
        stats.recorders = [SimpleNamespace(summary=lambda: counts)]
        assert known.get("/stats.json").json()["recorded"] == [counts]
        text = known.get("/metrics").text
    assert 'svg_recordings_total{camera="wall",what="pictures"} 34.0' in text
    assert 'svg_recordings_lost_total{camera="wall",what="pictures"} 4.0' in text


def test_metrics_can_be_read_and_follow_the_conventions():
    with served_page() as (page, address), client(address) as known:
        stats = page.cameras["wall"].stats
        stats.seen, stats.forecast = 7, 6
        stats.timer.add("forecast", 20.0)
        stats.timer.add("forecast", 40.0)
        stats.events.add("camera_back", "it is back")
        families = {family.name: family for family in text_string_to_metric_families(known.get("/metrics").text)}
    samples = {
        (sample.name, *sorted(sample.labels.items())): sample.value for family in families.values() for sample in family.samples
    }
    camera, stage = ("camera", "wall"), ("stage", "forecast")
    assert samples["svg_frames_observed_total", camera] == 7
    assert samples["svg_reconnects_total", camera] == 1
    assert samples["svg_events_total", camera, ("kind", "camera_back")] == 1
    assert samples["svg_stage_duration_seconds_sum", camera, stage] == pytest.approx(0.06)
    assert samples["svg_stage_duration_seconds_count", camera, stage] == 2
    assert samples["svg_stage_duration_seconds", camera, ("quantile", "0.5"), stage] == pytest.approx(0.03)
    assert families["svg_stage_duration_seconds"].type == "summary"
    assert samples["process_resident_memory_bytes",] > 0
    assert all(family.documentation for family in families.values())


def test_metrics_have_no_signals_of_a_camera_without_pictures():
    """They were of the last one."""
    families = ("svg_surprise", "svg_signal_deviations")
    with served_page(names=()) as (page, address), client(address) as known:
        about = CameraAbout(name="wall", caption=replace(CAPTION, surprise_unit="nats"))
        (camera,) = page.add_cameras([(about, SETTINGS, make_stats())])
        camera.stats.surprise.add(3.0)
        camera.stats.alarms.values = SignalValues(7.5, 7.5, None, None, None, 7.5)
        for trouble in (None, "away", None, "ended"):
            camera.publish(make_view())
            if trouble == "away":
                camera._published_s -= 60
            elif trouble == "ended":
                camera.end("ended: lost source")
            text = known.get("/metrics").text
            assert [f'\n{name}{{camera="wall"' in text for name in families] == [trouble is None] * 2


def test_a_camera_that_was_missing_at_the_start_has_not_reconnected():
    with served_page() as (page, address), client(address) as known:
        events = page.cameras["wall"].stats.events
        for kind, expected in (("camera_missing", 0), ("camera_back", 0), ("camera_lost", 0), ("camera_back", 1)):
            events.add(kind, "")
            assert f'svg_reconnects_total{{camera="wall"}} {expected}.0' in known.get("/metrics").text


def test_two_pages_in_one_process_do_not_share_metrics():
    with served_page(names=("a",)) as (_, one), served_page(names=("b",)) as (_, other), client(one) as known:
        assert 'camera="a"' in known.get("/metrics").text
        with client(other) as second:
            assert 'camera="a"' not in second.get("/metrics").text


def test_health_says_why_a_run_makes_no_progress():
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        assert (known.get("/healthz").status_code, known.get("/healthz").text) == (503, "wall: no picture yet\n")
        camera.publish(make_view())
        assert known.get("/healthz").status_code == 200
        camera._published_s -= 60
        answer = known.get("/healthz")
        assert (answer.status_code, answer.text) == (503, "wall: no picture for 60 s\n")
        outside = make_view()
        outside.trouble = "roi_outside"  # pictures come, and nothing is observed
        camera.publish(outside)
        assert known.get("/healthz").text == "wall: the region of interest is outside the picture or too small in it\n"
        assert 'svg_camera_up{camera="wall"} 0.0' in known.get("/metrics").text
        camera.publish(make_view())
        assert known.get("/healthz").text == "ok\n"
        camera.end("ended: lost source")
        assert known.get("/healthz").text == "wall: ended: lost source\n"
        assert known.get("/cameras.json").json()[0]["problem"] == "ended: lost source"


def test_a_page_without_cameras_is_starting():
    with served_page(names=()) as (_, address), client(address) as known:
        assert (known.get("/healthz").status_code, known.get("/healthz").text) == (503, "starting\n")


def test_an_address_with_a_slash_at_its_end_leads_nowhere_else():
    """A redirect to a whole address would leave the path and the TLS of a proxy."""
    with served_page() as (_, address), client(address) as known:
        page = known.get("/cameras/wall/")
        assert page.status_code == 200
        assert 'src="../../static/page.js"' in page.text
        for path in ("/healthz", "/metrics"):
            assert known.get(f"{path}/").headers["content-type"] == known.get(path).headers["content-type"]
        for path in ("/cameras/nobody/", "/cameras/wall/state.json/"):
            assert known.get(path).status_code == 404


def test_cameras_have_names_of_their_own():
    with served_page(names=("Front Door", "front-door", "../x", "日本")) as (page, address), client(address) as known:
        assert list(page.cameras) == ["front-door", "front-door-2", "x", "camera"]
        assert known.get("/stats.json").json()["cameras"].keys() == page.cameras.keys()
        assert known.get("/cameras/x").text.startswith("<!doctype html>")
        assert known.get("/cameras/nobody").status_code == 404
        assert known.get("/cameras/nobody/stream.mjpg").status_code == 404


def test_the_names_of_a_file_of_options_are_those_of_the_addresses_and_metrics():
    names = ["a_b", "a-b", "Y_a-d", "-", "Gate" * 10]
    with served_page(names=tuple(names)) as (page, address), client(address) as known:
        assert list(page.cameras) == names
        for name in names:
            state = known.get(f"/cameras/{name}/state.json").json()
            assert (state["camera"], state["name"]) == (name, name)
            assert f'svg_camera_up{{camera="{name}"}}' in known.get("/metrics").text


def test_the_page_loads_only_what_is_its_own():
    with served_page() as (_, address), client(address) as known:
        for path in ("/", "/static/page.js", "/static/chart.js", "/static/page.css", "/static/icon.svg"):
            text = known.get(path).text
            assert "//" not in text.replace("http://www.w3.org/2000/svg", "").replace("// ", "")
        for path in ("/static/x.js", "/static/%2e%2e%2froutes.py", "/static/..%2froutes.py"):
            assert known.get(path).status_code == 404


# 3) events


def test_who_joins_late_gets_the_last_events_and_goes_on_from_there():
    with served_page() as (page, address):
        for number in range(1, 61):
            page.cameras["wall"].stats.events.add(f"kind {number}", f"event {number}")
        read = events_of(address, until="event 60")
        assert read.startswith("retry: 2000\n\n")
        assert "event 11" in read
        assert "event 10" not in read
        seen = re.findall(r"^id: (.*)$", read, re.MULTILINE)[-3]
        again = events_of(address, until="event 60", **{"last-event-id": seen})
        assert "event 58" not in again
        assert f"id: {seen[:-2]}59\nevent: event\n" in again
        assert events_of(address, f"/events?last={seen}", until="event 60") == again


def test_events_from_before_a_camera_was_on_the_page_are_shown():
    """Such as those of its opening."""
    stats = make_stats()
    stats.events.add("camera_settings", "camera 0 gives 640x480")
    with served_page(names=()) as (page, address):
        add_camera(page, "gate", stats=stats)
        stats.events.add("slow_source", "all there is")
        read = events_of(address, until="all there is")
        entries = [json.loads(data) for data in re.findall(r"event: event\ndata: (.*)", read)]
    assert [(entry["camera"], entry["kind"], entry["message"]) for entry in entries] == [
        ("gate", "camera_settings", "camera 0 gives 640x480"), ("gate", "slow_source", "all there is"),
    ]  # fmt: skip


def test_who_has_seen_events_of_an_earlier_run_gets_the_last_ones_of_this():
    with served_page() as (page, address):
        for number in range(1, 61):
            page.cameras["wall"].stats.events.add(f"kind {number}", f"event {number}")
        read = events_of(address, until="event 60", **{"last-event-id": "18c2f3a4b5d-58"})
        assert "event 11" in read


def test_alarms_are_events_with_links_to_their_clips(tmp_path):
    (tmp_path / CLIP).write_bytes(b"a video")
    record = alarm(1, files=Files(clip=str(tmp_path / CLIP)))
    with served_page(clips=tmp_path) as (page, address), client(address) as known:
        for listener in page.cameras["wall"].stats.alarms.listeners:
            listener(record)
        data = json.loads(events_of(address, until='"files"').rpartition("data: ")[2])
        assert data["camera"] == "wall"
        assert known.get(data["files"]["clip"]).content == b"a video"
        assert known.get(data["files"]["clip"], headers={"range": "bytes=2-3"}).content == b"vi"


def test_the_page_gets_signals_and_state_with_its_events():
    """Also of a camera that gives no other picture."""
    with served_page() as (page, address):
        page.cameras["wall"].publish(make_view())
        read = events_of(address, "/events?live=1", until='"points"')
        assert "event: state" in read
        assert '"raw"' not in read
        points = json.loads(read.partition("event: signals\ndata: ")[2].partition("\n")[0])["points"]
        assert points[0][0] == 1
        assert points[0][3] == 1.0


def live_data_of(address: str, query: str, until: str) -> dict[str, list[Any]]:
    """What has come of each kind."""
    found: dict[str, list[Any]] = {}
    for kind, data in re.findall(r"^event: (.*)\ndata: (.*)$", events_of(address, f"/events?{query}", until), re.MULTILINE):
        found.setdefault(kind, []).append(json.loads(data))
    return found


def numbers_of(signals: list[dict[str, Any]], camera: str) -> list[int]:
    return [point[0] for message in signals if message["camera"] == camera for point in message["points"]]


@pytest.fixture
def long_watched(monkeypatch):
    """Address of a page with two cameras that have been watched for more than a minute."""
    with served_page(names=("gate", "yard")) as (page, address):
        start_s = time.monotonic() - 100
        for each in page.cameras.values():
            each.stats.events.add("test", f"event of {each.key}")
            seconds = (start_s + number / 10 for number in range(1000))
            monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda left=seconds: next(left)))
            for _ in range(1000):
                each.history.add(None, 1.0, alarm=False)
        monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: start_s + 100.05))
        page.on_event("run", "event of the run")
        yield address


def test_a_client_gets_no_more_points_than_the_chart_shows_and_these_in_pieces(long_watched):
    """A slow link would carry nothing else for long."""
    found = live_data_of(long_watched, "live=1", until='"yard", "points": [[998')
    for camera in ("gate", "yard"):
        assert numbers_of(found["signals"], camera) == list(range(398, 1001))  # a minute, and four before it
    assert max(len(message["points"]) for message in found["signals"]) == 100


def test_the_page_of_a_camera_gets_nothing_of_others_and_only_what_it_has_not_got(long_watched):
    found = live_data_of(long_watched, "live=1&camera=yard", until='"points": [[998')
    assert [state["camera"] for state in found["state"]] == ["yard"]
    assert found["cameras"][0] == {"cameras": ["gate", "yard"]}
    assert numbers_of(found["signals"], "gate") == []
    assert [event["message"] for event in found["event"]] == ["event of yard", "event of the run"]
    seen_s = found["signals"][-1]["points"][-3][1]
    again = live_data_of(long_watched, f"live=1&camera=yard&since={seen_s}", until='"points": [[999')
    assert numbers_of(again["signals"], "yard") == [999, 1000]
    after_a_reboot = live_data_of(long_watched, f"live=1&camera=yard&since={seen_s + 1e6}", until='"points": [[998')
    assert len(numbers_of(after_a_reboot["signals"], "yard")) == 603
    with client(long_watched) as known:
        assert known.get("/events?live=1&since=nan").status_code == 400


def test_the_overview_gets_numbers_alone(long_watched):
    found = live_data_of(long_watched, "live=numbers", until='"camera": "yard", "name"')
    assert found.keys() == {"cameras", "state"}
    assert [state["camera"] for state in found["state"]][:2] == ["gate", "yard"]


def test_the_page_is_told_which_cameras_there_are():
    with served_page(names=()) as (page, address), client(address) as known:
        with known.stream("GET", "/events?live=1") as answer:
            pieces = answer.iter_text()
            found: list[list[str]] = []
            while len(found) < 2 or not found[-1]:
                if found and not page.cameras:
                    add_camera(page, "gate")
                found += [json.loads(data)["cameras"] for data in re.findall(r"event: cameras\ndata: (.*)", next(pieces))]
        assert (found[0], found[-1]) == ([], ["gate"])
        assert "event: cameras" not in events_of(address, until=": still here")


def test_points_of_the_chart_are_as_far_apart_as_they_came_whatever_the_clock_says(monkeypatch):
    seconds, clock = iter([5.0, 6.0, 7.0, 7.01, 7.1]), iter([7300.0, 101.0, 102.0])  # set back by two hours
    monkeypatch.setattr(history, "time", SimpleNamespace(monotonic=lambda: next(seconds), time=lambda: next(clock)))
    kept = history.History()
    for _ in range(3):
        kept.add(None, 1.0, alarm=False)
    assert [point[1] for point in kept.after(0)] == [5.0, 6.0]  # the newest one may still grow
    assert [point[1] for point in kept.after(5.0)] == [6.0, 7.0]


# 4) changes


def test_an_event_that_comes_again_and_again_pushes_out_no_other():
    with served_page() as (page, address):
        events = page.cameras["wall"].stats.events
        events.add("camera_missing", "it was there once")
        for number in range(1, 301):
            events.add("loop", f"round {number} of it")
        read = events_of(address, until="round 300")
        assert "it was there once" in read
        assert "round 291 of it" in read
        assert "round 290 of it" not in read


def test_alarms_stay_whatever_else_is_reported_and_all_come_in_order():
    """Of two cameras, one has an alarm each, and a connection that is lost all day."""
    with served_page(names=("gate", "yard")) as (page, address):
        gate, yard = page.cameras.values()
        for camera in (gate, yard):
            camera.on_alarm(alarm(1))
        for number in range(300):
            yard.stats.events.add(f"kind {number}", f"event {number} of yard")
        gate.stats.events.add("end", "all there is")
        read = events_of(address, until="all there is")
        found = re.findall(r"^id: \w+-(\d+)\nevent: (\w+)$", read, re.MULTILINE)
        assert [kind for _, kind in found] == ["alarm"] * 2 + ["event"] * 51
        assert [int(number) for number, _ in found] == [1, 2, *range(253, 304)]
        seen = re.findall(r"^id: (.*)$", read, re.MULTILINE)[0]
        again = events_of(address, until="all there is", **{"last-event-id": seen})
        found = re.findall(r"^id: \w+-(\d+)$", again, re.MULTILINE)
        assert [int(number) for number in found] == [2, *range(103, 304)]


def test_what_is_kept_of_alarms_and_of_all_else_is_bounded():
    kept = Board()
    for number in range(1000):
        for camera in ("gate", "yard"):
            kept.add("alarm", camera, {"sequence": number})
            kept.add("change", camera, {"samples": number})
    entries = kept.after(0)
    assert len(entries) == 4 * 200
    assert [entry.number for entry in entries] == list(range(3201, 4001))
    assert len(kept.after(None)) == 4 * 50
    assert [entry.number for entry in kept.after(3996, "gate")] == [3997, 3998]
    assert [entry.number for entry in kept.after(3998)] == [3999, 4000]


def test_what_is_in_force_already_is_not_done_again():
    applied = []
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view())
        with applying(camera, applied.append):
            for asked in (
                {}, {"roi": None}, {"samples": None, "horizon": None, "overlay": None, "threshold": None, "reset": None},
                {"samples": camera.state()["settings"]["samples"]}, {"overlay": "live"},
            ):  # fmt: skip
                assert known.post("/cameras/wall/controls", json=asked).status_code == 200, asked
            assert applied == []
            for roi in ("0,0,0.5,1", "0, 0, 0.5, 1", None):
                assert known.post("/cameras/wall/controls", json={"roi": roi}).status_code == 200
        assert [change.roi for change in applied] == ["0,0,0.5,1", None]
        camera.stats.events.add("end", "all there is")
        read = events_of(address, until="all there is")
        assert read.count("event: change") == 2


def test_a_change_that_cannot_be_applied_yet_waits_and_others_do_not_wait_for_it(monkeypatch):
    monkeypatch.setattr(routes, "_APPLY_S", 1.0)
    applied, ready = [], threading.Event()

    def apply(change):
        if change.samples and not ready.is_set():
            raise NotYetError("no forecast yet")
        applied.append(change)

    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view())
        with applying(camera, apply):
            waiting = known.post("/cameras/wall/controls", json={"samples": 4})
            assert waiting.status_code == 202
            assert "not applied yet" in waiting.json()["error"]
            assert known.post("/cameras/wall/controls", json={"threshold": 7}).status_code == 200
            ready.set()
            wait_until(lambda: camera.state()["settings"]["samples"] == 4)
        assert [(change.samples, change.threshold) for change in applied] == [(None, 7.0), (4, None)]


def test_a_change_that_is_refused_after_its_client_has_stopped_waiting_is_an_entry(monkeypatch, logged):
    monkeypatch.setattr(routes, "_APPLY_S", 0.02)

    def refuse(change: Change) -> None:
        raise BackendError("no memory\n  fewer samples")

    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        names = [known.post("/cameras/wall/controls", json={"samples": samples}).json()["change"] for samples in (7, 8)]
        camera.apply_changes(refuse)
        read = events_of(address, until="no memory")
        entries = [json.loads(data) for data in re.findall(r"event: change\ndata: (.*)", read)]
        gc.collect()  # of an error that nobody has asked for, asyncio would say so now
        assert [(entry["change"], entry["asked"], entry["refused"]) for entry in entries] == [
            (names[0], {"samples": 7}, "a newer change has replaced this one"),
            (names[1], {"samples": 8}, "no memory; fewer samples"),
        ]
    assert [record.getMessage() for record in logged.records if record.name == "asyncio"] == []


def test_counts_that_one_camera_was_asked_for_are_noted_for_all():
    with served_page(names=("gate", "yard")) as (page, address):
        for camera in page.cameras.values():
            camera.note_counts(3, 5)
            camera.note_counts(3, 5)
        page.cameras["yard"].stats.events.add("end", "all there is")
        changes = re.findall(r"event: change\ndata: (.*)", events_of(address, until="all there is"))
        assert [(each["camera"], each["samples"], each["horizon"]) for each in map(json.loads, changes)] == [
            ("gate", 3, 5), ("yard", 3, 5)
        ]  # fmt: skip


def test_statistics_of_a_run_that_goes_on_say_so():
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view())
        assert known.get("/cameras/wall/stats.json").json()["stopped_by"] is None


def test_changes_are_applied_by_the_loop_between_two_frames():
    applied = []
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        early = known.post("/cameras/wall/controls", json={"roi": "0,0,0.5,0.5"})
        assert (early.status_code, early.json()["error"]) == (422, "roi: there is no picture yet; try again in a moment")
        camera.publish(make_view())
        with applying(camera, applied.append):
            asked = {"samples": 4.0, "horizon": 9, "roi": "0,0,0.5,0.5", "threshold": 6, "reset": True}  # 4.0 is a whole number
            answer = known.post("/cameras/wall/controls", json=asked)
            assert answer.status_code == 200
            whole = known.post("/cameras/wall/controls", json={"roi": None})
            wrong = [known.post("/cameras/wall/controls", json={"roi": roi}).json()["error"] for roi in ("abc", "900,0,64,64")]
        first, second = applied
        assert (first.samples, first.horizon, first.threshold, first.reset) == (4, 9, 6.0, True)
        assert second.changes_region
        assert second.region is None
        settings = answer.json()["settings"]
        assert settings == {"samples": 4, "horizon": 9, "overlay": "live", "roi": "0,0,0.5,0.5", "threshold": 6.0}
        assert whole.json()["settings"]["roi"] is None
        assert wrong[0].startswith("roi abc is not a region")
        assert wrong[1].startswith("roi 900,0,64,64 does not lie within")
        assert answer.json()["lead_s"] == pytest.approx(0.9)
        assert "event: change" in events_of(address, until="event: change")


@pytest.mark.parametrize(
    ("asked", "reason"),
    [
        ({"samples": 0}, "samples"), ({"samples": 65}, "samples"), ({"samples": "4"}, "samples"), ({"samples": 2.5}, "samples"),
        ({"horizon": -1}, "horizon"), ({"overlay": "x"}, "expected one of live"), ({"unknown": 1}, "unknown"),
        ({"roi": "1,2,3"}, "is not a region"), ({"roi": "0,0,1000,1000"}, "does not lie within the picture"),
        ({"roi": "0,0,4,4"}, "only 4x4 pixels"), ({"threshold": 0}, "threshold"),
        ({"threshold": True}, "threshold: Input should be a valid number"), ({"threshold": "5"}, "valid number"),
        ({"reset": False}, "reset"), ({"reset": 1}, "reset"),
        ({"roi": "1" * 101}, "roi"), ([], "object"), ("x", "object"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_with_the_reason(asked, reason):
    with served_page() as (page, address), client(address) as known:
        page.cameras["wall"].publish(make_view())
        answer = known.post("/cameras/wall/controls", json=asked)
        assert answer.status_code == 422
        assert reason in answer.json()["error"]


@pytest.mark.parametrize("body", [b"", b"{", b'{"threshold": NaN}', b'{"threshold": 1e999}', b"\xff", b"[" * 50_000])
def test_what_is_no_json_is_refused(body):
    with served_page() as (_, address), client(address) as known:
        answer = known.post("/cameras/wall/controls", content=body, headers={"content-type": "application/json"})
        assert answer.status_code == 422


def test_a_name_that_is_given_twice_is_refused():
    with served_page() as (page, address), client(address) as known:
        page.cameras["wall"].publish(make_view())
        body, headers = b'{"samples": 3, "samples": 4}', {"content-type": "application/json"}
        answer = known.post("/cameras/wall/controls", content=body, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (422, "samples: given 2 times; expected each name once")


def test_what_this_run_cannot_do_is_refused_with_the_reason(monkeypatch):
    monkeypatch.setattr(controls, "_MOST_BYTES", 100 << 20)
    with served_page(names=()) as (page, address), client(address) as known:
        add_camera(page, fixed=Fixed(samples="this model has only one future", frame_bytes=1 << 20))
        for asked, reason in (
            ({"samples": 3}, "samples: this model has only one future"),
            ({"horizon": 60}, "2 samples of 60 steps take more than 100 MiB; expected fewer"),
        ):
            answer = known.post("/cameras/wall/controls", json=asked)
            assert (answer.status_code, answer.json()["error"]) == (422, reason)


def test_a_change_that_the_loop_refuses_changes_nothing():
    def refuse(change):
        raise UsageError("no memory\n  fewer samples")

    with served_page() as (page, address), client(address) as known, applying(page.cameras["wall"], refuse):
        answer = known.post("/cameras/wall/controls", json={"samples": 60})
        assert (answer.status_code, answer.json()["error"]) == (422, "no memory; fewer samples")
        assert known.get("/cameras.json").json()[0]["settings"]["samples"] == 2


def test_a_change_at_which_the_engine_fails_is_refused_with_the_reason():
    def fail(change):
        raise BackendError("the device is gone\n  plug it in")

    with served_page() as (page, address), client(address) as known, applying(page.cameras["wall"], fail):
        answer = known.post("/cameras/wall/controls", json={"samples": 60})
        assert (answer.status_code, answer.json()["error"]) == (422, "the device is gone; plug it in")


def test_a_camera_that_has_ended_is_not_changed_any_more():
    """But for its overlay: the last picture is still there."""
    applied = []
    with served_page() as (page, address), client(address) as known:
        camera = page.cameras["wall"]
        camera.publish(make_view())
        waiting = camera.ask(Change(samples=4))
        assert known.get("/cameras/wall/state.json").json()["ended"] is False
        camera.end("ended: lost source")
        with applying(camera, applied.append):
            for asked in ({"threshold": 7}, {"reset": True}, {"roi": None}, {"overlay": "ghost", "samples": 3}):
                answer = known.post("/cameras/wall/controls", json=asked)
                reason = "this camera has ended: lost source; only its overlay can be changed"
                assert (answer.status_code, answer.json()["error"]) == (422, reason)
            assert known.post("/cameras/wall/controls", json={"overlay": "likely"}).status_code == 200
            with pytest.raises(UsageError, match="has ended"):
                waiting.result(5)
        state = known.get("/cameras/wall/state.json").json()
        assert state["ended"] is True
        assert state["settings"] == {"samples": 2, "horizon": 3, "overlay": "likely", "roi": None, "threshold": 4.5}
        assert applied == []


def test_a_loop_that_waits_for_a_picture_gets_the_newest_changes_later(monkeypatch):
    monkeypatch.setattr(routes, "_APPLY_S", 0.02)
    applied = []
    with served_page() as (page, address), client(address) as known:
        asked = [*({"samples": 3 + number} for number in range(10)), {"threshold": 7}, {"reset": True}]
        assert {known.post("/cameras/wall/controls", json=each).status_code for each in asked} == {202}
        page.cameras["wall"].apply_changes(applied.append)
        assert applied == [Change(samples=12), Change(threshold=7.0), Change(reset=True)]


def too_early(change: Change) -> None:
    """Of a loop whose model has not seen enough pictures."""
    if change.samples or change.horizon:
        raise NotYetError("no forecast yet")


def test_a_change_that_waits_does_not_undo_a_newer_one():
    applied = []
    with served_page(names=("gate", "yard")) as (page, _):
        gate, yard = page.cameras.values()
        older = gate.ask(Change(samples=4))
        gate.apply_changes(too_early)
        yard.ask(Change(samples=2, threshold=5.0))  # which is in force; counts are those of all cameras
        with pytest.raises(UsageError, match="a newer change has replaced this one"):
            older.result(0)
        both = gate.ask(Change(horizon=9, threshold=7.0, overlay="ghost"))
        gate.apply_changes(too_early)
        gate.ask(Change(horizon=3, samples=None))  # in force, too
        gate.ask(Change(overlay="live"))
        assert not both.done()
        for camera in (gate, yard):
            camera.apply_changes(applied.append)
        assert applied == [Change(threshold=7.0), Change(threshold=5.0)]
        assert both.done()


def test_a_change_that_is_asked_for_while_an_older_one_is_put_off_counts():
    applied = []
    with served_page() as (page, _):
        camera = page.cameras["wall"]

        def ask_and_refuse(change: Change) -> None:
            camera.ask(Change(samples=2))
            too_early(change)

        camera.ask(Change(samples=4))
        camera.apply_changes(ask_and_refuse)
        camera.apply_changes(applied.append)
        assert applied == []


def test_changes_that_waited_are_refused_if_together_they_take_too_much(monkeypatch):
    monkeypatch.setattr(controls, "_MOST_BYTES", 100 << 20)
    with served_page(names=()) as (page, _):
        camera = add_camera(page, fixed=Fixed(frame_bytes=1 << 20))
        camera.ask(Change(samples=30))
        refused = camera.ask(Change(horizon=30))
        camera.apply_changes(lambda change: None)
        with pytest.raises(UsageError, match=r"30 samples of 30 steps take more than 100 MiB; expected fewer"):
            refused.result(0)


# 5) clips


@pytest.mark.parametrize(
    "name",
    [
        "x.mp4", "..%2f..%2fetc%2fpasswd", "%2e%2e/x", CLIP.replace(".mp4", ".txt"), LINK, CLIP + "%00",
    ],
)  # fmt: skip
def test_only_clips_of_alarms_are_served(name, tmp_path):
    secret, folder = tmp_path / "x.mp4", tmp_path / "clips"
    folder.mkdir()
    for file in (secret, folder / "x.mp4", folder / CLIP.replace(".mp4", ".txt")):
        file.write_bytes(b"secret")
    (folder / LINK).symlink_to(secret)
    with served_page(clips=folder) as (page, _):
        address = page.access.address
        connection = http.client.HTTPConnection(address.host, address.port, timeout=5)
        connection.request("GET", f"/cameras/wall/clips/{name}")  # as it is: other clients resolve dots
        answer = connection.getresponse()
        assert answer.status == 404
        assert b"secret" not in answer.read()
        connection.close()


# 6) the end


def test_it_ends_whoever_looks():
    with served_page() as (page, address):
        page.cameras["wall"].publish(make_view())
        streams = [PictureStream(address, "/cameras/wall/stream.mjpg") for _ in range(3)]
        page.close()
        page._server.join(HANG_S)
        assert not page._server.is_alive()
        for stream in streams:
            stream.close()
        with pytest.raises(httpx.ConnectError):
            client(address).get("/")


def test_a_picture_that_fails_is_reported_once_and_ends_nothing(monkeypatch):
    reports = []
    page = LivePage.open(PageOptions(Address("127.0.0.1", 0)), reports.append)
    camera = add_camera(page)
    page.start()
    with client(page.access.address.link("")) as known:
        camera.publish(make_view())
        working, camera.live.draw = camera.live.draw, lambda view: 1 / 0
        assert [known.get("/cameras/wall/picture.jpg").status_code for _ in range(3)] == [503] * 3
        camera.live.draw = working
        assert known.get("/cameras/wall/picture.jpg").status_code == 200
    page.close()
    assert reports == ["the page failed to answer: ZeroDivisionError: division by zero"]


def test_a_token_may_come_from_a_pipe_which_can_be_read_only_once():
    """As the shell's <(pass show camera)."""
    reading, writing = os.pipe()
    os.write(writing, b"a-token-of-a-pipe\n")
    os.close(writing)
    options = page_options("0", None, Path(f"/dev/fd/{reading}"))
    os.close(reading)
    options.check()
    page = LivePage.open(options, lambda message: None)
    page.close()
    assert page.access.token == Token("a-token-of-a-pipe")


# 7) hostile clients; `benchmarks/page_load.py` sends a thousand of them beside real forecasts


def test_hostile_requests_are_refused_and_leave_nothing():
    with served_page(token=Token(page_load.TOKEN)) as (page, address):
        page.cameras["wall"].publish(make_view())
        site = page_load.Site(address, page_load.TOKEN)
        answers = [page_load.send_hostile(site, request) for request in page_load.hostile_requests("wall", page_load.TOKEN) * 3]
        assert [answer for answer in answers if isinstance(answer, str)] == []
        assert site.get_json("/cameras.json")[0]["problem"] is None
        assert set(page.cameras["wall"].pictures_made.values()) == {0}
        for client in answers:
            if client is not None:
                client.close()
        connections = page._server._server.server_state.connections
        wait_until(lambda: not connections)
