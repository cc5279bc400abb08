"""Cameras on the network: FFmpeg against real servers on the loopback."""

from __future__ import annotations

import base64
import errno
import json
import socketserver
import threading
import time
from collections.abc import Container, Iterator
from contextlib import ExitStack, suppress
from fractions import Fraction
from itertools import islice
from typing import Any

import av
import cv2
import numpy as np
import pytest

from svg_common.errors import ExitCode, UsageError
from svg_runtime.errors import SourceLostError
from svg_runtime.live import source_reader
from svg_runtime.live.events import EventLog
from svg_runtime.live.sources import SourceFrame, SourceOptions, open_source, stream_capture
from svg_runtime.live.sources.addresses import stream_name
from svg_runtime.live.sources.capture import CaptureThread, NoPictureError
from svg_runtime.live.sources.network import open_stream
from svg_runtime.live.sources.stream_capture import StreamCapture, StreamForm
from svg_runtime.live.stop import StopRequest
from tests.command_runner import HANG_S
from tests.svg_runtime.live.live_helpers import read_times, write_video
from tests.svg_runtime.live.network_cameras import (
    FPS,
    GOP,
    Mjpeg,
    NetworkCamera,
    Rtsp,
    free_port,
    numbers_of,
    picture,
    sent_to,
    switched_on,
)

REFUSED = "the camera refused the user name and password in the address"


def camera_at(url: str, events: EventLog | None = None, **options):
    return open_source(SourceOptions(source=url, **options), 0.04, 64, StopRequest(), events or EventLog())


def require_live(camera, frames: int = 6) -> None:
    """Each picture is newer than the one before it, and its colours are right."""
    pictures = list(islice(camera.frames(), frames))
    camera.close()
    steps = np.diff(numbers_of([frame.image for frame in pictures])) % 400
    assert steps.min() >= 1
    assert steps.max() < 200  # none goes back
    assert all(frame.captured_s is not None for frame in pictures)


def ages(pictures: list[SourceFrame], server: NetworkCamera) -> list[float]:
    """Return the seconds from sending to the reported capture time, which is when the loop gets the pictures."""
    numbers = numbers_of([frame.image for frame in pictures])
    return [frame.captured_s - server.sent_s[number] for frame, number in zip(pictures, numbers, strict=True)]


@pytest.mark.parametrize("codec", ["H264", "H265"])
def test_rtsp_is_received(codec):
    with switched_on(Rtsp, codec=codec) as server:
        require_live(camera_at(f"rtsp://{server.address}/cam?channel=1"))
    assert sum(request.startswith("SETUP") for request in server.requests) == 1  # the picture, not the sound


def test_the_first_picture_is_as_new_as_the_others():
    """FFmpeg looks at a stream for a while before it gives the first picture of it."""
    with switched_on(Rtsp, fps=5) as server:
        camera = camera_at(f"rtsp://{server.address}/cam")
        pictures = list(islice(camera.frames(), 4))
        camera.close()
    assert max(ages(pictures, server)) < 0.8  # that of the first one was 1.6


def test_pictures_do_not_grow_old_where_decoding_is_slower_than_the_camera(monkeypatch):
    decode, events = StreamCapture._decode, EventLog()
    with switched_on(Rtsp) as server:
        camera = camera_at(f"rtsp://{server.address}/cam", events)
        monkeypatch.setattr(StreamCapture, "_decode", lambda *arguments: time.sleep(0.06) or decode(*arguments))
        pictures = list(islice(camera.frames(), 70))
        camera.close()
    assert max(ages(pictures, server)) < 1.5  # they grew to 2.8
    assert events.counts["slow_decoding"] == 1


def test_pictures_that_depend_on_a_damaged_one_are_skipped():
    lost = range(2 * GOP + 3, 2 * GOP + 4)
    with switched_on(Rtsp, fps=25, lost=lost) as server:
        stream = StreamCapture(f"rtsp://{server.address}/cam")
        numbers = numbers_of([stream.read()[1][..., ::-1] for _ in range(3 * GOP)])
        stream.release()
    damaged = range(lost.start, 3 * GOP)
    assert lost.start - 1 in numbers
    assert damaged.stop in numbers
    assert not set(damaged) & set(numbers)
    assert numbers == sorted(set(numbers))


def test_audio_does_not_hide_the_loss_of_video(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.stream_capture._DATA_TIMEOUT_S", 1.5)
    port = free_port()
    with sent_to(port, pictures=2 * FPS):
        stream = StreamCapture(f"udp://127.0.0.1:{port}")
        while stream.read()[0]:
            pass
        assert stream.problem == "no response in time"
        receivers = [thread for thread in threading.enumerate() if thread.name == "receiver of a stream"]
        stream.release()
        for thread in receivers:
            thread.join(timeout=5)
        assert not any(thread.is_alive() for thread in receivers)


def test_the_port_of_a_camera_that_went_silent_is_not_said_to_be_in_use(monkeypatch):
    """The connection that was released has it until it times out."""
    monkeypatch.setattr(stream_capture, "_DATA_TIMEOUT_S", 1.0)
    port = free_port()
    with sent_to(port):
        stream = StreamCapture(f"udp://127.0.0.1:{port}")
    while stream.read()[0]:
        pass
    stream.release()
    monkeypatch.setattr(stream_capture, "_OPEN_TIMEOUT_S", 0.5)
    with pytest.raises(NoPictureError, match=r"^no response in time$"):
        StreamCapture(f"udp://127.0.0.1:{port}")


def test_mjpeg_over_http_is_received():
    with switched_on(Mjpeg) as server:
        require_live(camera_at(f"http://{server.address}/video"))


def test_a_camera_that_is_slow_itself_is_waited_for(monkeypatch):
    monkeypatch.setattr(stream_capture, "_DATA_TIMEOUT_S", 0.5)
    with switched_on(Mjpeg, fps=1) as server:
        stream = StreamCapture(f"http://{server.address}/video")
        assert all(stream.read()[0] for _ in range(2))
        stream.release()


class Once(Mjpeg):
    """Is silent after its second picture, with which FFmpeg gives the first."""

    def parts(self) -> Iterator[bytes]:
        for number, part in enumerate(super().parts(), 1):
            yield part
            if number == 2:
                self.server.silent.set()


def test_one_picture_is_not_a_camera_that_does_not_respond(monkeypatch):
    monkeypatch.setattr(stream_capture, "_DATA_TIMEOUT_S", 1.0)
    monkeypatch.setattr(stream_capture, "_PICTURE_TIMEOUT_S", 1.0)
    with switched_on(Once) as server, pytest.raises(NoPictureError, match="its video began, and nothing more came for"):
        StreamCapture(f"http://{server.address}/video")


class Cut(Mjpeg):
    """Cuts off the second half of some pictures, which are as `picture` makes them."""

    cut: Container[int] = range(0)

    def parts(self) -> Iterator[bytes]:
        for number, _ in enumerate(self.server.live_packets("mpjpeg", "mjpeg")):
            jpeg = cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes()
            kept = jpeg[: len(jpeg) // 2] if number in self.cut else jpeg
            yield b"--ffmpeg\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n%s\r\n" % (len(kept), kept)


def test_a_broken_picture_of_motion_jpeg_is_left_out_and_reported():
    events = EventLog()
    handler = type("Some", (Cut,), {"cut": range(30, 40)})
    with switched_on(handler, fps=25) as server:
        camera = camera_at(f"http://{server.address}/video", events)
        numbers: list[int] = []
        for frame in camera.frames():
            numbers += [] if frame.held else numbers_of([frame.image])
            if numbers[-1] >= 44:
                break
        camera.close()
    assert not set(numbers) & set(range(30, 40))
    assert numbers == sorted(set(numbers))
    assert events.counts["damaged_stream"] == 1
    assert any("sends damaged pictures" in message for message in events.messages)


def test_a_camera_that_breaks_every_picture_of_motion_jpeg_is_shown():
    handler = type("All", (Cut,), {"cut": range(1000)})
    with switched_on(handler, fps=25) as server:
        stream = StreamCapture(f"http://{server.address}/video")
        assert all(stream.read()[0] for _ in range(5))
        stream.release()


def test_a_camera_whose_colours_cannot_be_converted_is_refused_by_their_name(monkeypatch):
    class Converter:
        def __init__(self, stream: Any) -> None:
            pass

        def convert(self, frame: Any) -> None:
            raise av.FFmpegError(errno.EOPNOTSUPP, "its colour space, YCgCo, is not supported")

    monkeypatch.setattr("svg_runtime.live.sources.stream_capture.PictureConverter", Converter)
    with switched_on(Mjpeg) as server, pytest.raises(NoPictureError, match="YCgCo"):
        StreamCapture(f"http://{server.address}/video")


class OddMjpeg(Mjpeg):
    """Sends Motion JPEG as some cameras do; `%d` is the length of the picture."""

    content_type = "multipart/x-mixed-replace;boundary=ffmpeg"
    preamble, before, after = b"", b"", b"\r\n"

    def do_GET(self) -> None:  # noqa: N802
        self.server.requests.append(self.requestline)
        self.send_response(200)
        self.send_header("Content-Type", self.content_type)
        self.end_headers()
        with suppress(OSError):  # until the other side hangs up
            self.wfile.write(self.preamble)
            for number, _ in enumerate(self.server.live_packets("mpjpeg", "mjpeg")):
                jpeg = cv2.imencode(".jpg", picture(number)[..., ::-1])[1].tobytes()
                self.wfile.write(self.before.replace(b"%d", b"%d" % len(jpeg)) + jpeg + self.after)


ODD = {
    "jpg": {"before": b"--ffmpeg\r\nContent-Type: image/jpg\r\nContent-Length: %d\r\n\r\n"},
    "parameter": {"before": b"--ffmpeg\r\nContent-Type: image/jpeg; charset=binary\r\nContent-Length: %d\r\n\r\n"},
    "length alone": {"before": b"--ffmpeg\r\nContent-Length: %d\r\n\r\n"},
    "no headers": {"before": b"--ffmpeg\r\n\r\n"},
    "no colon": {"before": b"--ffmpeg\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\nX-Foo\r\n\r\n"},
    "no dashes": {"before": b"ffmpeg\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"},
    "preamble": {
        "preamble": b"This is a preamble\r\n\r\n",
        "before": b"--ffmpeg\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n",
    },
    "wrong length": {"before": b"--ffmpeg\r\nContent-Type: image/jpeg\r\nContent-Length: 9\r\n\r\n"},
    "pictures alone": {"content_type": "video/x-motion-jpeg", "after": b""},
}


@pytest.mark.parametrize("kind", ODD)
def test_motion_jpeg_is_received_whatever_is_between_its_pictures(kind):
    with switched_on(type("Odd", (OddMjpeg,), ODD[kind])) as server:
        require_live(camera_at(f"http://{server.address}/video"))


@pytest.mark.parametrize("kind", ["jpg", "pictures alone"])
def test_pictures_between_odd_headers_are_as_new_as_others(monkeypatch, kind):
    """FFmpeg would probe ten seconds of them, then give each when the next one comes: here that comes once this one is read."""
    monkeypatch.setattr(stream_capture, "_BACKLOG_S", -1.0)  # the first one is as good as any
    monkeypatch.setattr(stream_capture, "_DATA_TIMEOUT_S", HANG_S)
    wanted = threading.Semaphore(1)
    with switched_on(type("Odd", (OddMjpeg,), ODD[kind])) as server:

        def when_wanted(*arguments: str) -> Iterator[None]:
            while not server.off.is_set():
                if wanted.acquire(timeout=0.05):
                    yield

        server.live_packets = when_wanted
        stream = StreamCapture(f"http://{server.address}/video", bare_jpegs=True)
        for number in range(3):
            assert numbers_of([stream.read()[1][..., ::-1]]) == [number]
            wanted.release()
        stream.release()


def test_a_camera_with_odd_headers_that_comes_back_is_asked_once():
    events, port = EventLog(), free_port()
    handler = type("Odd", (OddMjpeg,), ODD["no dashes"])
    with switched_on(handler, port=port) as server:
        camera = camera_at(f"http://127.0.0.1:{port}/video", events)
        frames = camera.frames()
        assert next(frames).clip == 0
        assert len(server.requests) == 3  # as FFmpeg knows it, what it is, and by its pictures
    with switched_on(handler, port=port) as server:
        assert any(frame.clip == 1 for frame in frames)
        assert len(server.requests) == 1
        camera.close()
    assert events.counts == {"camera_lost": 1, "camera_back": 1}


@pytest.mark.parametrize(
    ("preamble", "count", "length"),
    [(b"", 1, True), (b"", 1, False), (bytes(1 << 17), 1000, False)],
    ids=["photograph", "photograph without its length", "something else"],
)
def test_what_has_a_jpeg_in_it_is_not_live_video_for_that(preamble, count, length):
    class Other(Mjpeg):
        def do_GET(self) -> None:  # noqa: N802
            body = preamble + cv2.imencode(".jpg", picture(0))[1].tobytes()
            self.send_response(200)
            self.send_header("Content-Type", "image/jpeg")
            if length:
                self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            with suppress(OSError):  # until the other side hangs up
                for _ in range(count):
                    self.wfile.write(body)

    with switched_on(Other) as server, pytest.raises(SourceLostError, match="the address does not serve live video"):
        camera_at(f"http://{server.address}/snapshot.jpg")


def test_mpeg_ts_over_udp_is_received():
    port = free_port()
    with sent_to(port):
        require_live(camera_at(f"udp://127.0.0.1:{port}"))


def test_pixels_that_are_not_square_are_stretched_as_those_of_files_are():
    port = free_port()
    with sent_to(port, aspect=Fraction(3, 2)):
        camera = camera_at(f"udp://127.0.0.1:{port}")
        assert next(camera.frames()).image.shape == (48, 96, 3)
        camera.close()


def test_rtsp_with_a_password_that_no_message_shows():
    with switched_on(Rtsp, password="s3cr%t") as server:
        camera = camera_at(f"rtsp://admin:s3cr%25t@{server.address}/cam")
        assert camera.description == f"rtsp://{server.address}"
        require_live(camera)
        with pytest.raises(SourceLostError, match=r"401.*\n  include the user name and password: rtsp://USER"):
            camera_at(f"rtsp://{server.address}/cam")
        with pytest.raises(SourceLostError, match=f"401.*\n  {REFUSED}") as refused:
            camera_at(f"rtsp://admin:wr0ng@{server.address}/cam")
    assert "wr0ng" not in str(refused.value)
    assert "USER:PASSWORD" not in str(refused.value)


def test_a_camera_that_restarts_is_a_new_clip():
    events, port = EventLog(), free_port()
    with switched_on(Rtsp, port=port):
        camera = camera_at(f"rtsp://127.0.0.1:{port}/cam", events)
        frames = camera.frames()
        assert next(frames).clip == 0
    with switched_on(Rtsp, port=port):
        assert any(frame.clip == 1 for frame in frames)
        camera.close()
    assert events.counts == {"camera_lost": 1, "camera_back": 1}


def test_closing_a_silent_camera_ends_its_capture_thread_at_once(monkeypatch):
    """It would wake up after the timeout, perhaps while Python is torn down, which crashes the process."""
    monkeypatch.setattr(stream_capture, "_DATA_TIMEOUT_S", HANG_S)
    with switched_on(Rtsp) as server:
        capture = StreamCapture(f"rtsp://{server.address}/cam")
        thread = CaptureThread("a camera", capture, lambda: capture, EventLog(), retry_s=1.0)
        thread.start()
        server.silent.set()
        time.sleep(0.5)  # what was sent before is read
        thread.close()
        assert not thread.is_alive()


def test_a_camera_that_falls_silent_is_lost_and_old_pictures_are_not_returned(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.stream_capture._DATA_TIMEOUT_S", 2.0)
    events = EventLog()
    with switched_on(Rtsp) as server:
        camera = camera_at(f"rtsp://{server.address}/cam", events, reconnect_s=0.5)
        monkeypatch.setattr("svg_runtime.live.sources.stream_capture._OPEN_TIMEOUT_S", 1.0)  # for the attempts to come back
        frames = camera.frames()
        taken_s = [next(frames).captured_s]
        server.silent.set()
        silent_s = time.monotonic()
        with pytest.raises(SourceLostError, match=r"did not come back within 0\.5 s: no response in time"):
            taken_s.extend(frame.captured_s for frame in frames)
        camera.close()
    assert max(taken_s) < silent_s + 2.0  # later, only FFmpeg gives one, as old as the silence
    assert events.counts == {"camera_lost": 1}


class Single(Cut):
    """Breaks every connection after its first picture."""

    def parts(self) -> Iterator[bytes]:
        self.server.requests.append(self.requestline)
        return islice(super().parts(), 1)


def test_a_camera_that_breaks_after_each_picture_is_seen_and_not_flooded(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.stream_capture._BACKLOG_S", -1.0)  # the first one is as good as any
    events = EventLog()
    with switched_on(Single) as server:
        start_s = time.monotonic()
        camera = camera_at(f"http://{server.address}/video", events, reconnect_s=5.0)
        frames = list(islice(camera.frames(), 5))
        took_s = time.monotonic() - start_s
        camera.close()
    assert [frame.clip for frame in frames] == [0, 1, 2, 3, 4]
    assert took_s > 0.1 + 0.2 + 0.4 + 0.8  # a slow machine only adds to this
    assert len(server.requests) == 5
    assert events.counts["camera_back"] == 4


def test_a_network_camera_that_does_not_respond_is_not_to_be_unplugged(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.stream_capture.RESPONSE_TIMEOUT_S", 0.1)
    with switched_on(Rtsp) as server:
        camera = camera_at(f"rtsp://{server.address}/cam", reconnect_s=0.2)
        frames = camera.frames()
        next(frames)
        server.silent.set()
        with pytest.raises(SourceLostError, match="does not respond") as lost:
            list(frames)
        camera.close()
    assert "check that the camera is on and reachable from this machine, then restart" in str(lost.value)
    assert "unplug" not in str(lost.value)


class Silent(socketserver.BaseRequestHandler):
    """Accepts connections and sends nothing."""

    server: NetworkCamera

    def handle(self) -> None:
        self.server.off.wait(20)


def test_a_host_that_does_not_respond_times_out(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.stream_capture._OPEN_TIMEOUT_S", 0.3)
    with switched_on(Silent) as server:
        for scheme in ("rtsp", "http"):
            with pytest.raises(SourceLostError, match="no response in time"):
                camera_at(f"{scheme}://{server.address}/cam")


class Damaged(Mjpeg):
    """Sends what no decoder takes."""

    def parts(self) -> Iterator[bytes]:
        while not self.server.off.wait(0.005):
            yield b"--ffmpeg\r\nContent-Type: image/jpeg\r\nContent-Length: 600\r\n\r\n" + 300 * b"\xff\xd8" + b"\r\n"


def test_a_stream_that_never_decodes_times_out(monkeypatch):
    monkeypatch.setattr("svg_runtime.live.sources.stream_capture._PICTURE_TIMEOUT_S", 0.5)
    with switched_on(Damaged) as server, pytest.raises(SourceLostError, match=r"nothing received for 0\.5 s could be decoded"):
        camera_at(f"http://{server.address}/cam")


def test_a_stop_does_not_wait_for_the_response(monkeypatch):
    monkeypatch.setattr(stream_capture, "_OPEN_TIMEOUT_S", HANG_S)
    stop = StopRequest()
    with switched_on(Silent) as server:
        threading.Timer(0.2, lambda: stop.request("test")).start()
        with pytest.raises(KeyboardInterrupt):
            open_stream(f"rtsp://{server.address}/cam", stop, EventLog(), StreamForm())


def test_a_refused_connection_says_what_to_check():
    with pytest.raises(SourceLostError, match="Connection refused") as lost:
        camera_at(f"rtsp://127.0.0.1:{free_port()}/cam")
    assert "ffplay" in str(lost.value)
    assert lost.value.exit_code == ExitCode.SOURCE_LOST


class Page(Mjpeg):
    """A web server that has no camera: it replies with `content`, in pieces where asked."""

    content = b"<html>log in</html>"

    def do_GET(self) -> None:  # noqa: N802
        start = int(self.headers.get("Range", "bytes=0-").partition("=")[2].partition("-")[0])
        body = self.content[start:]
        self.send_response(206)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("page.html", "does not serve live video"),
        ("clip.mp4", "does not serve live video; if it serves a recording, download the file and use it as --source"),
        ("clip.ts", "recording"),
        ("list.m3u8", "does not serve live video"),
    ],
)
def test_http_content_that_is_not_live_video_is_refused(tmp_path, name, reason):
    path = tmp_path / name
    if path.suffix in (".mp4", ".ts"):
        write_video(path)
    elif path.suffix == ".m3u8":
        path.write_text("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nclip.ts\n")
    handler = type("Server", (Page,), {"content": path.read_bytes() if path.exists() else Page.content})
    with switched_on(handler) as server, pytest.raises(SourceLostError, match=reason):
        camera_at(f"http://{server.address}/{name}")


class LogIn(Mjpeg):
    """Answers, without saying how long the answer is, with a page that only users may see."""

    def do_GET(self) -> None:  # noqa: N802
        known = self.headers["Authorization"] == "Basic " + base64.b64encode(b"admin:s3cret").decode()
        self.send_response(200 if known else 401)
        self.send_header("Content-Type", "text/html; charset=utf-8")
        self.send_header("WWW-Authenticate", 'Basic realm="camera"')
        self.end_headers()
        self.wfile.write(b"<html>camera</html>" * 50)


@pytest.mark.parametrize("code", [401, 403])
def test_a_password_that_a_camera_refused_over_http_is_said_to_be_refused(code):
    class Refusing(Mjpeg):
        def do_GET(self) -> None:  # noqa: N802
            self.send_error(code)

    with switched_on(Refusing) as server:
        with pytest.raises(SourceLostError, match=f"{code}.*\n  {REFUSED}") as refused:
            camera_at(f"http://admin:wr0ng@{server.address}/video")
        assert "wr0ng" not in str(refused.value)
        for address in (server.address, f"admin@{server.address}"):
            with pytest.raises(SourceLostError, match=f"{code}.*\n  include the user name and password: http://USER"):
                camera_at(f"http://{address}/video")


def test_an_address_of_a_web_page_is_said_to_be_one():
    with switched_on(LogIn) as server, pytest.raises(SourceLostError) as lost:
        camera_at(f"http://admin:s3cret@{server.address}/")
    first = f"http://{server.address} delivers no frames: the address answers with a web page, not with live video"
    assert str(lost.value).partition("\n")[0] == first


class Redirection(Mjpeg):
    """Leads from each address to the same one."""

    def do_GET(self) -> None:  # noqa: N802
        self.send_response(302)
        self.send_header("Location", self.path)
        self.send_header("Content-Length", "0")
        self.end_headers()


def test_redirection_without_end_is_among_the_reasons():
    with switched_on(Redirection) as server, pytest.raises(SourceLostError, match="redirection without end"):
        camera_at(f"http://{server.address}/video")


@pytest.mark.parametrize(
    "url", ["synthetic://cats", "ftp://user:s3cret@host/cam", "rtsp://", "rtsp:/user:s3cret@host/cam", "RTSP:user:s3cret@host"]
)
def test_other_addresses_are_a_usage_error(url):
    with pytest.raises(UsageError, match=r"(?s)synthetic://digits.*rtsp://") as refused:
        camera_at(url)
    assert "s3cret" not in str(refused.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("rtsp:/admin:secret@host/cam", "rtsp://..."),
        ("rtsp:admin:secret@host/cam", "rtsp://..."),
        ("rtsp://admin:secret", "rtsp://..."),
        ("rtsp://admin:se@secret/word@host/cam", "rtsp://..."),
        ("rtsp://admin:s@secret?s@host", "rtsp://..."),
        ("RTSP://camera-1.local:8554/cam", "RTSP://camera-1.local:8554"),
        ("rtsp://10.0.0.5:554/Streaming/Channels/101", "rtsp://10.0.0.5:554"),
        ("rtsp://admin:secret@[fe80::1]:554/cam", "rtsp://[fe80::1]:554"),
        ("rtsp://10.0.0.5/user=admin_password=secret_channel=1", "rtsp://10.0.0.5"),
        ("http://10.0.0.5?user=a@secret", "http://..."),
        ("http://10.0.0.5/video?pwd=secret", "http://10.0.0.5"),
        ("rtsp://admin:se/secret@host/cam", "rtsp://..."),
        ("rtsp://admin:a@secret@host/cam", "rtsp://host"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
    ],
)
def test_stream_names_show_no_secrets(url, name):
    assert stream_name(url) == name


def test_svg_live_runs_on_a_network_camera(svg_live, tmp_path):
    with switched_on(Rtsp, password="s3cret") as server:
        url = f"rtsp://admin:s3cret@{server.address}/cam"
        code, stderr, stats = svg_live(
            "--headless", "--source", url, "--max-frames", "12", "--output", "out.mp4", "--json", "stats.json"
        )
    assert code == 0
    assert stats["source"] == f"rtsp://{server.address}"
    assert stats["frames"]["seen"] == 12
    assert stats["frames"]["forecast"] > 0
    assert len(read_times(tmp_path / "out.mp4")) == 12
    assert "s3cret" not in stderr + json.dumps(stats)


def test_a_camera_that_is_away_at_the_start_is_waited_for(svg_live, tmp_path, monkeypatch):
    monkeypatch.setattr(source_reader, "_BACK_OFF_S", (0.05, 0.05))
    port = free_port()
    url = f"rtsp://127.0.0.1:{port}/cam"
    earlier = tmp_path / "earlier.json"
    earlier.write_text('{"run": "before"}')
    code, stderr, _ = svg_live(
        "--headless", "--source", url, "--max-frames", "3", "--reconnect", "0.3", "--json", "earlier.json"
    )
    assert (code, "Connection refused; retrying for 0.3 s" in stderr) == (ExitCode.SOURCE_LOST, True)
    assert json.loads(earlier.read_text()) == {"run": "before"}  # what the last run has written stays
    started_s = time.monotonic()
    with ExitStack() as stack:
        timer = threading.Timer(1.0, lambda: stack.enter_context(switched_on(Rtsp, port=port)))
        timer.start()
        code, stderr, stats = svg_live(
            "--headless", "--source", url, "--max-frames", "3", "--reconnect", "60", "--json", "stats.json"
        )
        assert code == 0, stderr
        assert stats["events"]["counts"]["camera_missing"] == 1
        assert stats["duration_s"] < time.monotonic() - started_s - 1.0  # without the wait for it
        timer.join()
    code, stderr, _ = svg_live("--headless", "--source", "missing.mp4", "--max-frames", "3", "--reconnect", "60")
    assert (code, "retrying" in stderr) == (ExitCode.USAGE, False)


def test_headless_on_an_endless_source_needs_an_output_or_a_limit(svg_live):
    code, stderr, _ = svg_live("--headless", "--source", "rtsp://127.0.0.1:1/cam")
    assert code == ExitCode.USAGE
    assert "--max-frames" in stderr
