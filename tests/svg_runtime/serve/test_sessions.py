"""Sessions over HTTP give what a Forecaster in the process gives, one beside the other, and end when they should."""

from __future__ import annotations

import asyncio
import gc
import os
import platform
import shutil
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from svg_common.digits import digit_stream
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import find_model
from svg_runtime.errors import BackendError, BundleError, ForecastError
from svg_runtime.forecast.checks import check_finite
from svg_runtime.forecast.forecaster import Observation
from svg_runtime.forecast.observer import FrameEncoder
from svg_runtime.live.preprocess import Preprocessor
from svg_runtime.serve import session as session_module
from svg_runtime.serve import sessions as sessions_module
from svg_runtime.serve.answers import encode
from svg_runtime.serve.catalogue import Catalogue, EngineOptions
from svg_runtime.serve.problems import problem_of
from tests.command_runner import wait_until
from tests.svg_runtime.serve.serve_helpers import RAW, array_of, digits, encoded, open_session, send


def own_forecaster(model: str = "digits", **options) -> Forecaster:
    return Forecaster.open(find_model(model), backend="cpu", threads=1, **options)


def numbers(observation: dict) -> tuple:
    return observation["index"], observation["surprise"], [tuple(score.values()) for score in observation["scores"]]


def numbers_of(seen) -> tuple:
    errors = [(each.lead, each.mse_best, each.mse_mean, each.mse_model, each.mse_repeat) for each in seen.scores]
    return seen.index, seen.surprise, errors


def test_interleaved_sessions_give_the_bits_of_forecasters_in_the_process(client):
    """Raw float32 in, raw float32 out: two seeds and other frames, turn by turn, with resets."""
    options = [
        {"samples": 3, "horizon": 4, "seed": 0, "post_process": True},
        {"samples": 2, "horizon": 6, "seed": 9, "context": "stream"},
    ]
    sessions = [open_session(client, **each) for each in options]
    with own_forecaster(**options[0]) as first, own_forecaster(**options[1]) as second:
        for step, pair in enumerate(zip(digits(9, seed=1), digits(9, seed=2), strict=True)):
            for forecaster, session, frame in zip((first, second), sessions, pair, strict=True):
                assert numbers(send(client, session, frame)) == numbers_of(forecaster.observe(frame))
                if forecaster.ready:
                    assert np.array_equal(array_of(client.post(f"{session}/forecast")), forecaster.forecast())
            if step == 6:
                assert client.post(f"{sessions[0]}/reset").status_code == 204
                first.reset()
    assert client.get(sessions[0]).json()["observed"] == 2


def test_a_model_that_was_replaced_is_not_described_as_what_it_was(tmp_path):
    folder = Path(shutil.copytree(find_model("digits"), tmp_path / "m.svgb"))
    catalogue = Catalogue.open([str(folder)], EngineOptions(backend="cpu", threads=1))
    model = catalogue.get("m")
    assert model is not None
    shutil.rmtree(folder)
    shutil.copytree(find_model("camera"), folder)
    was = model.about.bundle_id
    with pytest.raises(BundleError, match=rf"the model 'm' is .* by now\n  expected {was}, as at the start") as told:
        model.open(samples=1, horizon=1, seed=0, context=None)
    assert problem_of(told.value).body.type == "/#model-changed"


@pytest.mark.parametrize("post_process", [False, True])
def test_the_models_own_error_is_answered_with_and_without_post_processing(client, post_process):
    session = open_session(client, samples=2, horizon=2, post_process=post_process)
    scores = []
    for frame in digits(9):
        scores += send(client, session, frame)["scores"]
        client.post(f"{session}/forecast")
    assert any(score["mse_model"] != score["mse_mean"] for score in scores) == post_process


def test_other_counts_are_those_of_the_forecaster(client):
    session = open_session(client, samples=2, horizon=3)
    with own_forecaster(samples=2, horizon=3) as forecaster:
        for frame in digits(5):
            send(client, session, frame)
            forecaster.observe(frame)
        asked = client.post(f"{session}/forecast", json={"samples": 5, "horizon": 2})
        assert np.array_equal(array_of(asked), forecaster.forecast(5, 2))


@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_pictures_become_what_svg_live_makes_of_them(client, kind):
    """Camera pictures of another size, in colour, for a model of 64 x 64 pixels."""
    draw = digit_stream(4, image_size=90)
    pictures = [np.repeat((draw() * 255).astype(np.uint8)[..., None], 3, axis=2)[:70] for _ in range(6)]
    session = open_session(client, model="camera", samples=2, horizon=2)
    fit = Preprocessor(64, 64, 3).fit
    with own_forecaster("camera", samples=2, horizon=2) as forecaster:
        for picture in pictures:
            body = encoded(picture, f".{kind}")
            answer = client.post(f"{session}/frames", content=body, headers={"content-type": f"image/{kind}"})
            decoded = cv2.cvtColor(cv2.imdecode(np.frombuffer(body, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
            assert kind == "jpeg" or np.array_equal(decoded, picture)
            assert numbers(answer.json()) == numbers_of(forecaster.observe(fit(decoded)))
        assert np.array_equal(array_of(client.post(f"{session}/forecast")), forecaster.forecast())


def test_a_forecast_before_enough_frames_says_how_many_are_missing(client):
    session = open_session(client)
    send(client, session, digits(1)[0])
    refused = client.post(f"{session}/forecast")
    assert (refused.status_code, refused.json()["missing"]) == (409, 4)
    assert refused.headers["content-type"] == "application/problem+json"


def test_closed_and_unknown_sessions_are_not_found(client):
    session = open_session(client)
    assert [each["id"] for each in client.get("/v1/sessions").json()["sessions"]] == [session.rpartition("/")[2]]
    assert client.delete(session).status_code == 204
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/frames"), ("POST", "/forecast"), ("POST", "/reset")):
        answer = client.request(method, session + path, headers={"content-type": "image/png"})
        assert (answer.status_code, answer.json()["type"]) == (404, "/#no-such-session")


def test_there_is_room_for_so_many_sessions_until_one_is_closed(open_client):
    with open_client(sessions=2) as client:
        first, _ = open_session(client), open_session(client)
        refused = client.post("/v1/sessions", json={"model": "digits"})
        assert (refused.status_code, refused.json()["type"]) == (503, "/#no-room")
        assert int(refused.headers["retry-after"]) > 0
        client.delete(first)
        open_session(client)


@pytest.mark.parametrize(("sessions", "connections"), [(8, 96), (200, 232)])
def test_each_session_has_room_for_a_connection(make_server, sessions, connections):
    assert make_server(sessions=sessions).web_limits.connections == connections


def test_a_session_that_does_not_open_leaves_its_room(open_client):
    """The camera model reads windows of frames alone."""
    with open_client(sessions=1) as client:
        refused = client.post("/v1/sessions", json={"model": "camera", "context": "stream"})
        assert (refused.status_code, refused.json()["type"]) == (422, "/#invalid")
        assert "window" in refused.json()["expected"]
        open_session(client)


def test_what_the_stream_context_refuses_is_said_in_words_of_http(client):
    """The texts of the forecaster are for Python and for the command line."""
    window = '"context": "window" in POST /v1/sessions'
    refused = client.post("/v1/sessions", json={"model": "camera", "context": "stream"}).json()
    assert refused["detail"] == "models of the family 'ensemble' read windows of frames, and have no stream context"
    assert refused["expected"] == window
    session = open_session(client, samples=3, horizon=1, context="stream")
    for frame in digits(client.get(session).json()["n_past"]):
        send(client, session, frame)
    refused = client.post(f"{session}/forecast", json={"samples": 2}).json()
    assert refused["detail"] == "the stream context has already been read with 3 samples"
    assert refused["expected"] == f'"samples": 3, or a session with {window}'
    assert client.post(f"{session}/forecast", json={"samples": 3}).status_code == 200


def test_a_forecast_that_is_not_finite_is_refused_in_words_of_http():
    with pytest.raises(ForecastError) as found:
        check_finite(float("nan"), "the surprise is not a finite number")
    problem = problem_of(found.value).body
    assert (problem.status, problem.detail) == (503, "the surprise is not a finite number")
    assert (problem.expected, problem.advice) == (None, "reset the session, or open another one")


@pytest.mark.parametrize(
    ("broken", "error", "read", "advice"),
    [
        ((FrameEncoder, "encode"), BackendError, 0, "send the request again; if it fails again, "),
        ((Observation, "of"), ForecastError, 1, ""),
    ],
)
def test_a_session_has_read_what_its_forecaster_has_read(client, monkeypatch, broken, error, read, advice):
    def fail(*_):
        raise error("broken")

    session, frames = open_session(client, samples=1, horizon=1), digits(2)
    send(client, session, frames[0])
    with monkeypatch.context() as patch:
        patch.setattr(*broken, fail)
        answer = client.post(f"{session}/frames", content=frames[1].astype("<f4").tobytes(), headers=RAW)
    assert (answer.status_code, answer.json()["type"]) == (503, "/#engine-failed")
    assert answer.json()["advice"] == f"{advice}reset the session, or open another one"
    assert client.get(session).json()["observed"] == 1 + read
    assert send(client, session, frames[1])["index"] == 1 + read


def test_idle_sessions_are_closed_and_used_ones_are_not(client):
    used, idle = (open_session(client, samples=1, horizon=1) for _ in range(2))
    sessions = client.server.sessions
    for each in (used, idle):
        sessions.get(each.rpartition("/")[2]).last_used -= 301
    send(client, used, digits(1)[0])
    client.portal.call(sessions.close_idle)
    assert [client.get(each).status_code for each in (used, idle)] == [200, 404]
    assert 'svg_serve_sessions_closed_total{reason="idle"} 1.0' in client.get("/metrics").text


def test_a_client_may_close_a_session_that_is_found_idle_at_the_same_time(client):
    first, second = (open_session(client, samples=1, horizon=1) for _ in range(2))
    sessions = client.server.sessions
    names = [each.rpartition("/")[2] for each in (first, second)]
    for name in names:
        sessions.get(name).last_used -= 301

    async def close_both_ways() -> list:
        idle = asyncio.create_task(sessions.close_idle())
        asked = asyncio.create_task(sessions.close(names[0], "request"))
        return await asyncio.gather(idle, asked, return_exceptions=True)

    idle, _ = client.portal.call(close_both_ways)
    assert idle is None
    assert len(sessions) == 0


@pytest.mark.parametrize("path", ["opening", "forecast"])
def test_more_samples_than_the_server_allows_are_refused(open_client, path):
    """An engine keeps the memory that they took, however small the forecast was."""
    with open_client(samples=9) as client:
        session = ready_session(client)
        address = {"opening": "/v1/sessions", "forecast": f"{session}/forecast"}[path]
        model = {"model": "digits"} if path == "opening" else {}
        refused = client.post(address, json={**model, "samples": 10, "horizon": 1})
        assert (refused.status_code, refused.json()["type"]) == (413, "/#too-large")
        assert (refused.json()["detail"], refused.json()["expected"]) == ("10 samples", "at most 9")
        assert client.post(address, json={**model, "samples": 9, "horizon": 1}).status_code < 300
        assert " At most 9." in client.get("/openapi.json").text


def test_idle_sessions_are_looked_for_without_a_request(open_client):
    with open_client(idle_s=0.1) as client:
        open_session(client, samples=1, horizon=1)
        wait_until(lambda: not len(client.server.sessions))
        assert client.get("/healthz").json()["sessions"] == 0


@pytest.mark.parametrize(("error", "is_logged"), [(RuntimeError("the driver is gone"), True), (BackendError("gone"), False)])
def test_a_session_whose_closing_fails_is_gone_and_others_are_closed_after_it(
    open_client, monkeypatch, logged, error, is_logged
):
    """And not only once a client opens another session."""
    monkeypatch.setattr(sessions_module, "_IDLE_CHECK_S", 0.05)
    real, failed = Forecaster.close, []

    def close(self) -> None:
        real(self)
        if not failed:
            failed.append(self)
            raise error

    monkeypatch.setattr(Forecaster, "close", close)
    with open_client(sessions=2) as client:
        names = [open_session(client, samples=1, horizon=1).rpartition("/")[2] for _ in range(2)]
        table = client.server.sessions
        for name, left in zip(names, (1, 0), strict=True):
            table.get(name).last_used -= 301
            wait_until(lambda left=left: len(table) == left)
        wait_until(lambda: 'svg_serve_sessions_closed_total{reason="idle"} 2.0' in client.get("/metrics").text)
    assert ("the driver is gone" in logged.text) == is_logged


def test_a_session_whose_closing_fails_is_closed_for_its_client(client, monkeypatch, logged):
    session = open_session(client, samples=1, horizon=1)
    real = Forecaster.close

    def close(self) -> None:
        real(self)
        raise RuntimeError("the driver is gone")

    monkeypatch.setattr(Forecaster, "close", close)
    assert client.delete(session).status_code == 204
    assert client.get(session).status_code == 404
    assert "the driver is gone" in logged.text


def test_a_session_that_opens_slower_than_it_may_be_idle_is_not_closed_at_once(open_client, monkeypatch):
    """As where an engine is built: its time begins when it is open."""
    clock = SimpleNamespace(now_s=0.0, monotonic=lambda: clock.now_s)
    monkeypatch.setattr(session_module, "time", clock)
    with open_client(idle_s=20.0) as client:
        monkeypatch.setattr(Forecaster, "warm_up", lambda self: setattr(clock, "now_s", clock.now_s + 30))
        slow = open_session(client, samples=1, horizon=1)
        client.portal.call(client.server.sessions.close_idle)
        assert client.get(slow).status_code == 200
        clock.now_s += 21
        client.portal.call(client.server.sessions.close_idle)
        assert client.get(slow).status_code == 404


def resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="reads its memory as Linux reports it")
@pytest.mark.slow
def test_sessions_that_come_and_go_leave_no_memory_behind(client):
    """A session of 32 samples and 16 steps holds 50 MB with its engine: if it stayed, every round would show it.

    What the allocator keeps for threads that are new, and what else this process does, shows in some rounds only.
    """

    def come_and_go() -> int:
        for _ in range(4):
            session = open_session(client, samples=32, horizon=16)
            for frame in digits(5):
                send(client, session, frame)
            assert client.post(f"{session}/forecast").status_code == 200
            client.delete(session)
        gc.collect()
        return resident_bytes()

    rounds = [come_and_go(), come_and_go()]
    while rounds[-1] - rounds[-2] >= 32 << 20 and len(rounds) < 6:
        rounds.append(come_and_go())
    assert rounds[-1] - rounds[-2] < 32 << 20, rounds


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are not asked")
def test_the_memory_of_closed_sessions_is_free_for_other_programs(client):
    """Eight sessions hold 130 MB. glibc would keep a large part of it, in pieces, for a process that may never need it."""
    client.delete(open_session(client))  # what is loaded once stays
    gc.collect()
    before = resident_bytes()
    sessions = [ready_session(client) for _ in range(8)]
    for session in sessions:
        assert client.post(f"{session}/forecast").status_code == 200
    held = resident_bytes() - before
    for session in sessions:
        client.delete(session)
    gc.collect()
    assert held > 64 << 20
    assert resident_bytes() - before < held // 4


class Gate:
    """Holds a forecast in its thread until it may go on."""

    def __init__(self, monkeypatch) -> None:
        self.entered = threading.Event()
        self.leave = threading.Event()

        def held(*arguments):
            self.entered.set()
            assert self.leave.wait(20)
            return encode(*arguments)

        monkeypatch.setattr(session_module, "encode", held)


@pytest.fixture
def gate(monkeypatch) -> Gate:
    return Gate(monkeypatch)


def ready_session(client, horizon: int = 1) -> str:
    session = open_session(client, samples=1, horizon=horizon)
    for frame in digits(5):
        send(client, session, frame)
    return session


def wait_for_requests(client, session: str, count: int) -> None:
    """Wait until so many requests of a session are running or waiting."""
    opened = client.server.sessions.get(session.rpartition("/")[2])
    wait_until(lambda: opened._waiting >= count)
    assert opened._waiting == count


def test_requests_of_a_session_wait_for_each_other_and_too_many_are_refused(open_client, gate):
    with open_client(waiting=1) as client, ThreadPoolExecutor(3) as pool:
        session = ready_session(client)
        running = pool.submit(client.post, f"{session}/forecast")
        assert gate.entered.wait(10)
        waiting = pool.submit(client.post, f"{session}/reset")
        wait_for_requests(client, session, 2)
        refused = client.post(f"{session}/reset")
        assert (refused.status_code, refused.json()["type"]) == (429, "/#busy")
        assert not waiting.done()
        assert client.get(session).json()["observed"] == 5  # looking does not wait
        gate.leave.set()
        assert (running.result(10).status_code, waiting.result(10).status_code) == (200, 204)
        assert client.get(session).json()["observed"] == 0


def test_a_request_that_waits_too_long_is_refused(open_client, gate):
    with open_client(wait_s=0.1) as client, ThreadPoolExecutor(1) as pool:
        session = ready_session(client)
        running = pool.submit(client.post, f"{session}/forecast")
        assert gate.entered.wait(10)
        refused = client.post(f"{session}/reset")
        assert (refused.status_code, refused.json()["advice"]) == (429, "ask for fewer samples, or for a shorter horizon")
        gate.leave.set()
        assert running.result(10).status_code == 200


def test_opening_a_session_holds_up_no_other(open_client, monkeypatch):
    """A bundle that takes long to open: others observe and forecast meanwhile."""
    with open_client() as client, ThreadPoolExecutor(1) as pool:
        session = ready_session(client)
        opening, go_on = threading.Event(), threading.Event()

        def slow(self):
            opening.set()
            assert go_on.wait(20)

        monkeypatch.setattr(Forecaster, "warm_up", slow)
        opened = pool.submit(open_session, client)
        assert opening.wait(10)
        assert client.post(f"{session}/forecast").status_code == 200
        assert len(client.get("/v1/sessions").json()["sessions"]) == 1
        go_on.set()
        opened.result(10)


def test_closing_waits_for_the_forecast_that_runs_and_refuses_those_that_wait(open_client, gate):
    with open_client() as client, ThreadPoolExecutor(3) as pool:
        session = ready_session(client)
        running = pool.submit(client.post, f"{session}/forecast")
        assert gate.entered.wait(10)
        waiting = pool.submit(client.post, f"{session}/forecast")
        wait_for_requests(client, session, 2)
        closing = pool.submit(client.delete, session)
        time.sleep(0.1)
        assert not closing.done()
        gate.leave.set()
        assert [each.result(10).status_code for each in (running, waiting, closing)] == [200, 404, 204]


def test_a_device_that_fails_is_said_and_the_session_goes_on(client, monkeypatch):
    session = ready_session(client)

    def fail(*arguments):
        raise BackendError("out of memory\n  close other programs")

    with monkeypatch.context() as broken:
        broken.setattr(Forecaster, "forecast", fail)
        refused = client.post(f"{session}/forecast")
    assert (refused.status_code, refused.json()["detail"]) == (503, "out of memory")
    assert client.post(f"{session}/forecast").status_code == 200


def test_a_defect_is_said_without_its_cause_and_logged(client, monkeypatch, caplog):
    session = ready_session(client)
    monkeypatch.setattr(Forecaster, "forecast", lambda *arguments: 1 / 0)
    answer = client.post(f"{session}/forecast")
    assert (answer.status_code, answer.json()["type"]) == (500, "/#internal")
    assert "division" not in answer.text
    assert "ZeroDivisionError" in caplog.text


def test_a_client_that_takes_no_answer_holds_one_answer_and_its_own_session(open_client):
    """Otherwise many answers would wait in memory for slow clients."""
    with open_client(wait_s=0.1) as client:
        session, other = ready_session(client, horizon=5), ready_session(client)
        sent, taken = [], threading.Event()

        async def never_take(message) -> None:
            sent.append(len(message.get("body", b"")))
            while len(sent) > 1 and not taken.is_set():
                await asyncio.sleep(0.01)

        async def receive() -> dict:
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http", "method": "POST", "path": f"{session}/forecast", "query_string": b"",
            "headers": [(b"host", b"testserver")],
        }  # fmt: skip
        asking = client.portal.start_task_soon(client.server.app, scope, receive, never_take)
        wait_until(lambda: len(sent) >= 2)
        assert sent == [0, 1 << 16]  # of 80 KiB
        refused = client.post(f"{session}/reset")
        assert refused.status_code == 429
        assert refused.json()["advice"].startswith("an answer before this one is still on its way")
        assert client.post(f"{other}/reset").status_code == 204
        taken.set()
        asking.result(20)
        assert client.post(f"{session}/reset").status_code == 204
