"""What svg-forecast makes of web servers that are slow, silent, away, or have a page instead of a video."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from svg_common.errors import SvgError, UsageError
from svg_runtime.offline import stores, web_server
from svg_runtime.offline.listing import list_videos, local_copy
from svg_runtime.offline.stores import StoreAwayError, UnreachableError, download
from svg_runtime.offline.worker import Worker
from tests.command_runner import start, wait_until
from tests.hub_server import serving
from tests.svg_runtime.live.live_helpers import write_video
from tests.svg_runtime.offline.conftest import NEVER, OPTIONS, counts, rows_of

pytest.importorskip("aiohttp")
AWAY = "http://127.0.0.1:1"  # nobody listens there
PAGE = b"\n<!DOCTYPE html><html><a href='a.mp4'>Log in</a></html>"


class _Site(BaseHTTPRequestHandler):
    """What it does with a path follows from its first folder; all other paths have the video."""

    video = b""
    pause_s = 0.0  # between the pieces of a slow video
    end: threading.Event  # of the test, for what would wait forever
    asked: list[str]  # the method of each request
    held: threading.Event  # set once a video is held back in its middle
    logged_in = True
    tag = ""  # ETag

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(b"")

    def do_GET(self) -> None:
        self._answer(self.video)

    def _answer(self, body: bytes) -> None:
        self.asked.append(self.command)
        mode = self.path.split("/")[1]
        if mode == "silent" or (mode == "silent-get" and self.command == "GET"):
            self.end.wait(10)
        elif mode in ("403", "404", "503"):
            self.send_error(int(mode), "no head" if self.command == "HEAD" else None)
        elif mode == "get-only" and self.command == "HEAD":
            self.send_error(405)
        elif mode == "loop":
            self.send_response(302)
            self.send_header("Location", self.path)
            self.end_headers()
        elif mode == "login" and self.path != "/login/form":
            self.send_response(302)
            self.send_header("Location", "/login/form")
            self.end_headers()
        elif mode in ("login", "list.txt", "") or (mode == "expires" and not self.logged_in):
            self._send(PAGE, "video/mp4" if mode == "expires" else "text/html; charset=utf-8")
        else:
            self._send(self.video, "video/mp4")

    def _send(self, content: bytes, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        if self.tag:
            self.send_header("ETag", self.tag)
        if not self.path.startswith("/expires"):  # its answers have no length, so that nothing but the content tells
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "HEAD":
            return
        pieces = 8 if self.path.startswith(("/slow", "/stalls")) else 1
        if self.path.startswith("/held"):
            self.wfile.write(content[: len(content) // 2])
            self.held.set()
            self.end.wait(100)
            return
        size = -(-len(content) // pieces)
        for number in range(pieces):
            self.wfile.write(content[number * size : (number + 1) * size])
            self.wfile.flush()
            if pieces > 1:
                self.end.wait(10 if self.path.startswith("/stalls") else self.pause_s)


@pytest.fixture
def site(videos) -> Iterator[type[_Site]]:
    """The server's handler, with its `url`."""
    handler = type("Handler", (_Site,), {"video": (videos / "yard0.mp4").read_bytes(), "end": threading.Event()})
    handler.asked, handler.held = [], threading.Event()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), handler)) as server:
        handler.url = f"http://127.0.0.1:{server.server_port}"
        try:
            yield handler
        finally:
            handler.end.set()


@pytest.fixture
def short_silence(monkeypatch) -> float:
    monkeypatch.setattr(web_server, "SILENCE_S", 0.3)
    return 0.3


def test_the_limit_is_on_silence_and_not_on_the_whole(site, short_silence, tmp_path):
    site.pause_s = short_silence / 3  # eight times
    (video,) = list_videos([f"{site.url}/slow/a.mp4"]).videos
    with local_copy(video, tmp_path, NEVER) as path:
        assert path.read_bytes() == site.video


def test_without_a_test_there_is_no_limit_on_the_whole():
    timeout = web_server.web_options()["client_kwargs"]["timeout"]
    assert (timeout.total, timeout.sock_read, timeout.sock_connect) == (None, 60, 60)


@pytest.mark.parametrize("place", ["silent/a.mp4", "silent/*.mp4", "silent/a.txt"])
def test_a_silent_server_is_given_up_when_it_is_listed(site, short_silence, place):
    with pytest.raises(UnreachableError, match=r"nothing came from the server for 0\.3 s"):
        list_videos([f"{site.url}/{place}"])
    assert len(site.asked) == 1  # not once more with GET


@pytest.mark.parametrize("place", ["loop/a.mp4", "loop/*.mp4", "loop/a.txt"])
def test_a_redirect_without_end_is_named(site, place):
    with pytest.raises(SvgError, match="the server redirects without end"):
        list_videos([f"{site.url}/{place}"])


@pytest.mark.parametrize("mode", ["silent-get", "stalls"])
def test_a_download_that_stalls_is_given_up(site, short_silence, tmp_path, mode):
    (video,) = list_videos([f"{site.url}/{mode}/a.mp4"]).videos
    with (
        pytest.raises(UnreachableError, match=r"cannot download '.*/a\.mp4': nothing came from the server for 0\.3 s"),
        local_copy(video, tmp_path, NEVER),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


UNREACHABLE = {
    f"{AWAY}/a.mp4": "Cannot connect to host",
    f"{AWAY}/*.mp4": "Cannot connect to host",
    "http://host.invalid/a.mp4": "Cannot connect to host host.invalid",
    "SITE/404/a.mp4": "404 Not Found",
    "SITE/404/*.mp4": "404 Not Found",
    "SITE/404/a.txt": "404 Not Found",
    "SITE/403/a.mp4": "403 Forbidden",
    "SITE/503/a.mp4": "503 Service Unavailable",
    "SITE/login/a.mp4": r"is a page \(text/html\), not a video",
    "SITE/list.txt": r"is a page \(text/html\), not a list",
}


@pytest.mark.parametrize(("address", "text"), UNREACHABLE.items())
def test_what_cannot_be_reached_is_said_with_the_reason_and_exit_code_1(svg_forecast, site, address, text):
    source = address.replace("SITE", site.url)
    with pytest.raises(SvgError, match=text):
        list_videos([source])
    code, message, _ = svg_forecast(source)
    assert (code, "contains no videos" in message, Path("out").exists()) == (1, False, False)


@pytest.mark.parametrize(
    ("address", "kind"),
    [
        ("SITE/404/a.mp4", UnreachableError),
        ("SITE/403/a.mp4", UnreachableError),
        ("SITE/login/a.mp4", UnreachableError),
        ("SITE/503/a.mp4", StoreAwayError),
        (f"{AWAY}/a.mp4", StoreAwayError),
    ],
)
def test_a_server_that_answers_is_not_away(site, tmp_path, address, kind):
    with pytest.raises(UnreachableError) as raised:
        download(address.replace("SITE", site.url), tmp_path / "a.mp4", NEVER)
    assert type(raised.value) is kind


def test_entries_that_are_shown_alike_count_one_by_one(svg_forecast, videos):
    deep = "/nowhere" + 6 * ("/" + 60 * "d")
    addresses = [f"{AWAY}/get?id=SECRET{number}" for number in range(2)]
    Path("list.txt").write_text("\n".join([str(videos / "yard0.mp4"), *addresses, f"{deep}/a.mp4", f"{deep}/b.mp4"]))
    code, message, summary = svg_forecast("list.txt")
    assert (code, summary["videos"]) == (1, counts(listed=5, done_before=0, ok=1, unreachable=4))
    assert "5 videos, 0 done before, 1 to do, 4 cannot be reached\n" in message
    assert list(summary["problems"])[:2] == [f"{AWAY}/get?...", f"{AWAY}/get?... (2)"]
    away, deep_ones = list(summary["problems"].values())[:2], list(summary["problems"].values())[2:]
    assert all("?...' cannot be reached: Cannot connect to host" in reason for reason in away)
    assert all("...d" in reason and reason.endswith("does not exist") for reason in deep_ones)
    assert [(len(name), name[-6:]) for name in list(summary["problems"])[2:]] == [(300, "/a.mp4"), (300, "/b.mp4")]
    assert "SECRET" not in str(summary) + message


def test_the_others_are_forecast_and_the_next_run_tries_again(svg_forecast, site, videos):
    Path("list.txt").write_text(f"{AWAY}/a.mp4\n{site.url}/404/b.mp4\n{site.url}/login/c.mp4\n{videos}/yard1.mp4\n")
    code, _, summary = svg_forecast("list.txt", f"{AWAY}/d.mp4", videos / "yard2.mp4")
    assert (code, summary["videos"]) == (1, counts(listed=6, done_before=0, ok=2, unreachable=4))
    reasons = {name.rpartition("/")[2]: reason for name, reason in summary["problems"].items()}
    for name, text in {"a": "Cannot connect", "b": "404 Not Found", "c": "is a page", "d": "Cannot connect"}.items():
        assert text in reasons[f"{name}.mp4"]


@pytest.mark.parametrize("place", ["", "/"])
def test_a_folder_of_a_web_server_is_refused_with_the_pattern_to_give(svg_forecast, site, place):
    code, message, _ = svg_forecast(site.url + place)
    assert (code, f"a pattern in quotes: '{site.url}/*.mp4'" in message) == (2, True), message


def test_a_login_that_has_expired_since_the_listing_leaves_no_row(svg_forecast, site, monkeypatch):
    kept = Worker._kept

    def expiring(self, part, video):
        site.logged_in = not hasattr(site, "expired")
        return kept(self, part, video)

    monkeypatch.setattr(Worker, "_kept", expiring)
    site.expired = True
    code, message, summary = svg_forecast(f"{site.url}/expires/a.mp4")
    assert (code, summary["videos"]["unreachable"]) == (1, 1)
    assert "is a page (text/html), not a video" in message
    assert rows_of(Path("out"))["videos"].num_rows == 0
    del site.expired
    site.logged_in = True
    code, _, summary = svg_forecast(f"{site.url}/expires/a.mp4")
    assert (code, summary["videos"]) == (0, counts(listed=1, done_before=0, ok=1))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_wait_for_a_download(site, videos, tmp_path, number):
    """The video is dropped: a server that is waited for would count as one that fell silent."""
    command = ["svg-forecast", str(videos / "yard1.mp4"), f"{site.url}/held/a.mp4", "--out", "out", "--json", "run.json"]
    run = start([*command, *OPTIONS], tmp_path)
    wait_until(site.held.is_set)
    os.kill(run.process.pid, number)
    run.assert_one_message(130)
    assert json.loads((tmp_path / "run.json").read_text())["videos"] == counts(listed=2, done_before=0, ok=1)
    assert rows_of(tmp_path / "out")["videos"].num_rows == 1
    assert list((tmp_path / "out").glob(".part-*")) == []


def test_a_video_that_was_replaced_since_the_listing_is_not_what_was_listed(site, tmp_path, monkeypatch):
    site.tag = '"1"'
    (video,) = list_videos([f"{site.url}/clips/a.mp4"]).videos
    with local_copy(video, tmp_path, NEVER):
        pass
    site.tag = '"2"'
    with pytest.raises(UnreachableError, match="has changed since it was listed"), local_copy(video, tmp_path, NEVER):
        pass
    (video,) = list_videos([f"{site.url}/clips/a.mp4"]).videos
    login = {"page": "text/html", "url": f"{site.url}/login/form", "ETag": '"3"'}  # which expired during the download
    monkeypatch.setattr(stores, "ask_server", lambda store, place: login)
    with local_copy(video, tmp_path, NEVER) as path:
        assert path.read_bytes() == site.video


def test_the_brackets_of_a_host_are_no_pattern(videos):
    class Six(ThreadingHTTPServer):
        address_family = socket.AF_INET6

    handler = type("Handler", (_Site,), {"video": (videos / "yard0.mp4").read_bytes(), "asked": []})
    try:
        server = Six(("::1", 0), handler)
    except OSError:
        pytest.skip("no IPv6 here")
    with serving(server):
        (video,) = list_videos([f"http://[::1]:{server.server_port}/a.mp4"]).videos
    assert video.size == len(handler.video)


@pytest.mark.parametrize(
    ("name", "address"), [("[1] a.mp4", "%5B1%5D%20a.mp4"), ("b*.mp4", "b*.mp4"), ("c::d.mp4", "c::d.mp4")]
)
def test_a_name_that_the_server_has_is_no_pattern_and_no_chain(site, tmp_path, name, address):
    (video,) = list_videos([f"{site.url}/clips/{name}"]).videos
    assert video.address == f"{site.url}/clips/{address}"
    with local_copy(video, tmp_path, NEVER) as path:
        assert path.read_bytes() == site.video


def test_a_server_without_head_still_gives_its_videos(site):
    (video,) = list_videos([f"{site.url}/get-only/a.mp4"]).videos
    assert video.size == len(site.video)


def test_an_address_of_no_page_may_end_in_a_slash(site):
    assert len(list_videos([f"{site.url}/stream/"]).videos) == 1


def test_a_folder_is_a_usage_error_in_a_list_as_well(site, tmp_path):
    (tmp_path / "list.txt").write_text(f"{site.url}/\n")
    assert "is a folder of a web server" in list_videos([str(tmp_path / "list.txt")]).missing[f"{site.url}/"]
    with pytest.raises(UsageError):
        list_videos([f"{site.url}/"])


class _Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, with their size and time, and a page of links to them."""

    silent_to: list[str]  # addresses of which nothing is said in time

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        if self.path.endswith("silent.mp4"):
            self.silent_to.append(self.path)
            time.sleep(1)
        super().do_HEAD()


@pytest.fixture
def shared(tmp_path, monkeypatch) -> Iterator[tuple[Path, str]]:
    """A folder on a web server, and its address."""
    monkeypatch.setattr(_Quiet, "silent_to", [], raising=False)
    folder = tmp_path / "shared"
    folder.mkdir()
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(folder)))) as server:
        yield folder, f"http://127.0.0.1:{server.server_port}"


def test_a_video_behind_a_pattern_is_the_one_behind_its_name(svg_forecast, shared):
    folder, url = shared
    for number in range(2):
        write_video(folder / f"v{number}.mp4", frames=8, seed=number)
    code, _, summary = svg_forecast(f"{url}/v0.mp4", f"{url}/v*.mp4")
    assert (code, summary["videos"]) == (0, counts(listed=2, done_before=0, ok=2))
    for row in rows_of(Path("out"))["videos"].to_pylist():
        assert row["size"] == (folder / row["video"].rpartition("/")[2]).stat().st_size
        assert row["version"].startswith("Last-Modified ")
    write_video(folder / "v0.mp4", frames=9, seed=5)
    assert svg_forecast(f"{url}/v*.mp4")[2]["videos"] == counts(listed=2, done_before=1, ok=2)


def test_a_video_is_the_same_however_its_web_address_is_spelled(shared):
    folder, url = shared
    (folder / "a b").mkdir()
    for name in ("c.mp4", "[1].mp4"):
        (folder / "a b" / name).write_bytes(b"a video")
    (folder / "list.txt").write_text("./a%20b/c.mp4\na b/*.mp4\n")
    loud = url.replace("http://", "HTTP://")
    spellings = [f"{loud}/a b/c.mp4", f"{url}/./x/../a%20b/%63.mp4#t=5", f"{url}/a b/[1].mp4", f"{loud}/list.txt"]
    listing = list_videos([*spellings, f"{url}/none d.mp4", f"{url}/./none%20d.mp4"])
    assert [video.address for video in listing.videos] == [f"{url}/a%20b/c.mp4", f"{url}/a%20b/%5B1%5D.mp4"]
    assert listing.missing.keys() == {f"{url}/none%20d.mp4"}


def test_a_list_on_a_web_server_names_what_is_there_and_no_file_of_this_machine(shared, videos):
    folder, url = shared
    (folder / "live").mkdir()
    for name in ("a.mp4", "live/b.mp4", "live/cam1:c.mp4"):
        (folder / name).write_bytes(b"a video")
    own = str(videos / "yard0.mp4")
    lines = ["/a.mp4", f"//{url.partition('//')[2]}/live/b.mp4", "./cam1:c.mp4", "cam1:c.mp4", "../../a.mp4", own, "~/x.mp4"]
    (folder / "live" / "list.m3u8").write_text("\n".join([*lines, f"FILE://{own}", f"local://{own}"]))
    listing = list_videos([f"{url}/live/list.m3u8"])
    assert [video.address for video in listing.videos] == [f"{url}/a.mp4", f"{url}/live/b.mp4", f"{url}/live/cam1:c.mp4"]
    assert listing.missing.keys() == {f"{url}{own}", f"{url}/live/~/x.mp4", f"FILE://{own}", f"local://{own}"}
    assert "names a file of this machine" in listing.missing[f"local://{own}"]


def test_what_is_wrong_with_one_match_of_a_pattern_is_said_of_it_alone(shared, short_silence):
    folder, url = shared
    for name in ("a.mp4", "silent.mp4"):
        (folder / name).write_bytes(b"a video")
    (folder / "gone.mp4").symlink_to(folder / "nowhere")
    (folder / "page.mp4").mkdir()
    (folder / "index.html").write_text("".join(f"<a href='{name}.mp4'>x</a>" for name in ("a", "silent", "gone", "page")))
    listing = list_videos([f"{url}/*.mp4"])
    assert [video.address for video in listing.videos] == [f"{url}/a.mp4"]
    reasons = {name.rpartition("/")[2]: reason for name, reason in listing.missing.items()}
    assert reasons.keys() == {"silent.mp4", "gone.mp4", "page.mp4"}
    assert "nothing came from the server" in reasons["silent.mp4"]
    assert "404" in reasons["gone.mp4"]
    assert "is a page" in reasons["page.mp4"] or "is a folder" in reasons["page.mp4"]


def test_a_server_that_fell_silent_is_not_waited_for_at_every_match(shared, short_silence):
    folder, url = shared
    names = [f"{number}silent.mp4" for number in range(40)]
    (folder / "index.html").write_text("".join(f"<a href='{name}'>x</a>" for name in names))
    listing = list_videos([f"{url}/*.mp4"])
    assert (len(listing.videos), len(listing.missing)) == (0, 40)
    assert len(set(_Quiet.silent_to)) < 2 * web_server._AT_ONCE
