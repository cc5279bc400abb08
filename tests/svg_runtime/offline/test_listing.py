"""Which videos svg-forecast finds, and what it says of lists that are not as they should be."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from ftplib import error_perm
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar
from urllib.parse import quote

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.utils import infer_storage_options

from svg_common.errors import BackendMissingError, OutputError, SvgError, UsageError
from svg_runtime.offline import stores
from svg_runtime.offline.addresses import normal_address, shown
from svg_runtime.offline.listing import Video, list_videos, local_copy
from svg_runtime.offline.stores import StoreAwayError, UnreachableError, version_of
from tests.hub_server import serving
from tests.svg_runtime.offline.conftest import NEVER, counts, rows_of


@pytest.fixture
def bucket():
    """Objects in memory, as in a bucket: memory://clips/..."""
    store = fsspec.filesystem("memory")
    for name in ("a.mp4", "deep/b.MKV", "deep/.hidden.mp4", "notes.txt"):
        store.pipe_file(f"/clips/{name}", b"not a video: " + name.encode())
    yield store
    store.rm("/clips", recursive=True)


def names(sources: list[str]) -> list[str]:
    return [Path(video.address).name for video in list_videos(sources).videos]


def test_folders_files_and_lists_name_each_video_once(videos, tmp_path):
    link = tmp_path / "same.mp4"
    link.symlink_to(videos / "yard0.mp4")
    listed = tmp_path / "cameras.txt"
    relative = os.path.relpath(videos / "yard2.mp4", tmp_path)
    listed.write_text(f"\ufeff# all\n\n  {videos / 'gate'}  \n{relative}\nsame.mp4\nfile://{videos}/yard0.mp4\n")
    assert names([str(videos)]) == ["yard0.mp4", "yard1.mp4", "yard2.mp4", "a.mkv", "pause.mp4"]
    assert names([str(listed)]) == ["a.mkv", "pause.mp4", "yard2.mp4", "yard0.mp4"]
    assert names([str(listed), str(videos), str(link)]) == [
        "a.mkv", "pause.mp4", "yard2.mp4", "yard0.mp4", "yard1.mp4"
    ]  # fmt: skip


def test_hard_links_are_one_video_wherever_they_are_named(tmp_path):
    for number in range(2):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "a.mp4").write_bytes(b"%d" % number)
    for name in ("0/b.mp4", "1/c.mp4"):
        (tmp_path / name).hardlink_to(tmp_path / "0" / "a.mp4")
    (tmp_path / "list.txt").write_text("0/a.mp4\n1/c.mp4\n1/a.mp4\n")
    together = ["0/a.mp4", "1/a.mp4"]
    for sources in (["0", "1"], ["list.txt"], ["*/*.mp4"], ["0/a.mp4", "0/b.mp4", "1/a.mp4", "list.txt"]):
        listing = list_videos([str(tmp_path / source) for source in sources])
        assert [os.path.relpath(video.address, tmp_path) for video in listing.videos] == together


@pytest.fixture
def odd_names(tmp_path) -> Path:
    """Files whose names have characters that mean something in an address or a pattern."""
    for name in ("a b/one.mp4", "a b/two.mkv", "a b/.hidden.mp4", "a b/notes.md", "50%/[1].mp4", "x%20y/h#1.mp4"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a b/list.txt").write_text("*.mp4\nfile:two.mkv\n")
    return tmp_path


@pytest.mark.parametrize("start", ["file://", "file://localhost", "FILE://", "file:", ""])
@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("/a b", ["one.mp4", "two.mkv"]),
        ("/a b/*.mp4", ["one.mp4"]),
        ("/a b/*", ["one.mp4", "two.mkv"]),
        ("/**/[o]n?.mp4", ["one.mp4"]),
        ("/50%/[1].mp4", ["[1].mp4"]),
        ("/x%20y/h#1.mp4", ["h#1.mp4"]),
    ],
)
def test_file_addresses_and_patterns_are_paths(odd_names, start, place, found):
    path = f"{odd_names}{place}"
    assert names([f"{start}{path}"]) == found
    if start:
        assert names([f"{start}{quote(path, safe='/*?[]')}"]) == found
        assert names([f"{start}{quote(path)}"]) == found  # `%2A` too


def test_file_addresses_in_and_of_lists(odd_names, tmp_path, monkeypatch):
    monkeypatch.chdir(odd_names / "a b")
    assert names([f"file://{quote(str(odd_names))}/a%20b/list.txt"]) == ["one.mp4", "two.mkv"]
    monkeypatch.chdir(tmp_path.parent)
    (odd_names / "all.txt").write_text(f"file://localhost{odd_names}/a%20b/*.mkv\na b/o*\nfile://host{odd_names}\n")
    listing = list_videos([str(odd_names / "all.txt")])
    assert [Path(video.address).name for video in listing.videos] == ["two.mkv", "one.mp4"]
    assert list(listing.missing) == [f"file://host{odd_names}"]


def test_a_changed_file_is_another_video_and_a_touched_shard_is_not(videos, tmp_path):
    copy = tmp_path / "a.mp4"
    copy.write_bytes((videos / "yard0.mp4").read_bytes())
    (before,) = list_videos([str(copy)]).videos
    assert list_videos([str(copy)]).videos == [before]
    os.utime(copy, ns=(1, 1))
    (after,) = list_videos([str(copy)]).videos
    assert after.id != before.id
    assert after.address == before.address == str(copy)


def test_names_in_a_list_may_have_any_character_but_a_line_end(tmp_path):
    odd = [f"a{sign}b.mp4" for sign in "\u2028\u0085\v\f\x1c"] + [" first.mp4"]
    for name in [*odd, "plain.mp4"]:
        (tmp_path / name).touch()
    (tmp_path / "list.txt").write_text("\n".join([*odd, "\t# a comment", "  plain.mp4 \r", ""]), newline="")
    listing = list_videos([str(tmp_path / "list.txt")])
    assert sorted(Path(video.address).name for video in listing.videos) == sorted([*odd, "plain.mp4"])
    assert not listing.missing


def test_entries_that_lead_nowhere_do_not_end_the_list(videos, tmp_path):
    (tmp_path / "pipe").touch()
    os.mkfifo(tmp_path / "fifo.mp4")
    (tmp_path / "empty").mkdir()
    lines = ["gone.mp4", "fifo.mp4", "/dev/null", "empty", "x" * 5000, "nul\0.mp4", "foo://x/y.mp4", "../" * 2000, "~nobody/x"]
    (tmp_path / "bad.txt").write_text("\n".join([*lines[:5], *lines[6:], str(videos / "yard1.mp4")]))
    listing = list_videos([str(tmp_path / "bad.txt")])
    assert [Path(video.address).name for video in listing.videos] == ["yard1.mp4"]
    assert len(listing.missing) == len(lines) - 1
    assert all(listing.missing.values())


@pytest.mark.parametrize("source", ["brk", "brk/*.mp4", "./brk/**", "list.txt", "brk/[ab].*"])
def test_a_link_to_no_file_is_missing_in_folders_and_patterns(videos, tmp_path, monkeypatch, source):
    monkeypatch.chdir(tmp_path)
    Path("brk/folder.mp4").mkdir(parents=True)
    Path("brk/a.mp4").symlink_to(videos / "yard0.mp4")
    Path("brk/b.mp4").symlink_to("/nowhere/x.mp4")
    Path("list.txt").write_text("brk\nbrk/b.*\n")
    listing = list_videos([source, f"{tmp_path}/brk/*"])
    assert [video.address for video in listing.videos] == [str(videos / "yard0.mp4")]
    assert listing.missing == {f"{tmp_path}/brk/b.mp4": "a link that leads to no file"}
    Path("brk/a.mp4").unlink()
    assert list_videos([source]).missing == listing.missing


def test_a_link_to_no_file_ends_the_command_with_1_until_it_leads_to_a_video(svg_forecast, videos, tmp_path):
    (tmp_path / "brk").mkdir()
    (tmp_path / "brk" / "a.mp4").symlink_to(videos / "yard0.mp4")
    (tmp_path / "brk" / "b.mp4").symlink_to("later.dat")
    code, message, summary = svg_forecast("brk")
    assert (code, summary["videos"]) == (1, counts(listed=2, done_before=0, ok=1, unreachable=1))
    assert f"{tmp_path}/brk/b.mp4: a link that leads to no file" in message
    (tmp_path / "brk" / "later.dat").write_bytes((videos / "yard1.mp4").read_bytes())
    code, _, summary = svg_forecast("brk")
    assert (code, summary["videos"]) == (0, counts(listed=2, done_before=1, ok=2))


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "does not name any videos"),
        (b"# nothing\n\n", "does not name any videos"),
        (b"list.txt\n./list.txt\n", "does not name any videos"),
        (b"\0" * 100, "expected a path or an address on each line"),
        (b"\xff\xfea\0.\0m\0p\x004\0", "expected a path or an address on each line"),
        (bytes(range(256)) * 100, "expected a path or an address on each line"),
    ],
)
def test_a_list_that_is_none_or_names_nothing_is_refused(content, text, tmp_path, monkeypatch):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    monkeypatch.chdir(tmp_path)
    for name in (str(path), "list.txt", "./list.txt"):
        with pytest.raises(UsageError, match=text):
            list_videos([name])


def test_an_empty_list_in_a_list_is_missing_as_an_empty_folder_is(videos, tmp_path):
    (tmp_path / "all.txt").write_text(f"none.txt\n{videos}/yard0.mp4\n")
    (tmp_path / "none.txt").write_text("# nothing\nall.txt\n")
    assert names([str(tmp_path / "all.txt")]) == ["yard0.mp4"]
    (tmp_path / "none.txt").write_text("# nothing\n")
    listing = list_videos([str(tmp_path / "all.txt")])
    assert "does not name any videos" in listing.missing[str(tmp_path / "none.txt")]


def test_an_empty_list_ends_the_command_as_an_empty_folder_does(svg_forecast, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "none.txt").touch()
    assert [svg_forecast(tmp_path / name)[0] for name in ("empty", "none.txt")] == [2, 2]


def test_a_name_is_one_line_whatever_is_in_it(svg_forecast, videos, tmp_path):
    folder = tmp_path / "odd"
    folder.mkdir()
    (folder / "a\nb\t\x1b\u2028.mp4").write_bytes((videos / "yard0.mp4").read_bytes())
    (folder / "no\nvideo.mp4").touch()
    code, message, summary = svg_forecast(folder)
    assert code == 1
    assert "forecasting ... " not in message
    names = [Path(row["video"]).name for row in rows_of(Path("out"))["videos"].to_pylist()]
    assert sorted(names) == ["a\\nb\\t\\x1b\\u2028.mp4", "no\\nvideo.mp4"]
    assert f"svg-forecast: {folder}/no\\nvideo.mp4: " in message
    assert list(summary["problems"]) == [f"{folder}/no\\nvideo.mp4"]
    for source in ("gone\n.mp4", "gone\n.txt"):
        assert "'gone\\n." in svg_forecast(source)[1]


def test_names_of_any_bytes(videos, tmp_path):
    name = os.fsencode(tmp_path) + b"/k\xe9.mp4"
    with open(name, "wb") as file:
        file.write((videos / "yard0.mp4").read_bytes())
    (tmp_path / "list.txt").write_bytes(b"k\xe9.mp4\n")
    (video,) = list_videos([str(tmp_path / "list.txt")]).videos
    assert video.name.endswith("k\\xe9.mp4")
    assert list_videos([str(tmp_path)]).videos == [video]


def test_objects_of_a_store(bucket, tmp_path):
    assert [video.address for video in list_videos(["memory://clips"]).videos] == [
        "memory:///clips/a.mp4",
        "memory:///clips/deep/b.MKV",
    ]
    assert names(["memory://clips/*.mp4"]) == ["a.mp4"]
    assert names(["memory://clips/notes.txt", "memory://clips/a.mp4"]) == ["a.mp4"]  # a list, of what does not exist
    (video,) = list_videos(["memory://clips/a.mp4"]).videos
    with local_copy(video, tmp_path / "scratch", NEVER) as path:
        assert path.read_bytes() == b"not a video: a.mp4"
        assert path.suffix == ".mp4"
    assert list((tmp_path / "scratch").iterdir()) == []


@pytest.mark.parametrize("name", ["[1] a.mp4", "b*.mp4", "c?.mp4", "[", "cam[1]/d.mp4"])
def test_an_object_that_exists_is_no_pattern(bucket, tmp_path, name):
    for each in (name, "b2.mp4", "c2.mp4"):
        bucket.pipe_file(f"/clips/{each}", each.encode())
    (video,) = list_videos([f"memory://clips/{name}"]).videos
    with local_copy(video, tmp_path / "scratch", NEVER) as path:
        assert path.read_bytes() == name.encode()
    bucket.pipe_file("/clips/list.txt", name.encode())
    assert list_videos(["memory://clips/list.txt"]).videos == [video]


def test_a_folder_of_a_store_that_exists_is_no_pattern(bucket):
    for name in ("cam[1]/d.mp4", "cam1/e.mp4"):
        bucket.pipe_file(f"/clips/{name}", name.encode())
    assert names(["memory://clips/cam[1]"]) == ["d.mp4"]
    assert names(["memory://clips/cam[1]/*"]) == ["e.mp4"]


def test_a_list_in_a_store_names_its_neighbours(bucket, videos, tmp_path, monkeypatch):
    monkeypatch.chdir(videos)  # whose files are not meant
    bucket.pipe_file("/clips/list.txt", f"a.mp4\ndeep\nyard0.mp4\n{videos / 'yard1.mp4'}\n~/x.mp4\n".encode())
    listing = list_videos(["memory://clips/list.txt"])
    assert [Path(video.address).name for video in listing.videos] == ["a.mp4", "b.MKV"]
    assert list(listing.missing) == [f"memory://clips/{name}" for name in ("yard0.mp4", f"{videos}/yard1.mp4"[1:], "~/x.mp4")]


def test_a_list_in_a_store_names_what_find_prints_and_what_is_elsewhere_in_the_bucket(bucket, tmp_path):
    bucket.pipe_file(
        "/clips/deep/list.txt", b"./b.MKV\n../a.mp4\n/deep/../a.mp4\n../../other/a.mp4\n./list.txt\nfile:///etc/x\n"
    )
    listing = list_videos(["memory://clips/deep/list.txt"])
    assert [video.address for video in listing.videos] == ["memory:///clips/deep/b.MKV", "memory:///clips/a.mp4"]
    assert listing.missing == {
        "../../other/a.mp4": "'../../other/a.mp4' leads out of 'memory://clips', where its list is",
        "file:///etc/x": "'file:///etc/x' names a file of this machine, which a list elsewhere may not",
    }


@pytest.mark.parametrize("name", ["2026::a.mp4", "::", "zip::b.mp4", "zip://c::d.mp4"])
def test_an_object_with_two_colons_in_its_name_is_no_chain(bucket, tmp_path, name):
    bucket.pipe_file(f"/clips/odd/{name}/e.mp4", name.encode())
    for source in ("memory://clips/odd", f"memory:///clips/odd/{name}/e.mp4"):
        (video,) = list_videos([source]).videos
        with local_copy(video, tmp_path, NEVER) as path:
            assert path.read_bytes() == name.encode()


def test_a_playlist_is_a_list_of_its_pieces(videos, tmp_path):
    (tmp_path / "live.m3u8").write_text(f"#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:1.0,\n{videos}/yard0.mp4\n#EXT-X-ENDLIST\n")
    assert names([str(tmp_path / "live.m3u8")]) == ["yard0.mp4"]


def test_lists_in_lists_playlists_and_signs_of_patterns_in_the_folder_of_a_list(videos, tmp_path):
    folder = tmp_path / "cam[1]"
    folder.mkdir()
    for name in ("yard 0.mp4", "yard1.mp4"):
        (folder / name).symlink_to(videos / name.replace(" ", ""))
    (folder / "low.m3u8").write_text("#EXTM3U\nyard%200.mp4\n")
    (folder / "master.m3u8").write_text("#EXTM3U\nlow.m3u8\nmaster.m3u8\n")
    assert names([str(folder / "master.m3u8")]) == ["yard0.mp4"]
    (folder / "all.txt").write_text("yard1.m*\nlow.m3u8\ngone.txt\n")
    listing = list_videos([str(folder / "all.txt")])
    assert [Path(video.address).name for video in listing.videos] == ["yard1.mp4", "yard0.mp4"]
    assert list(listing.missing) == [str(folder / "gone.txt")]


def test_pictures_are_refused_with_what_makes_a_video_of_them(tmp_path):
    for number in range(3):
        (tmp_path / f"{number:03}.png").touch()
    for source in (tmp_path, tmp_path / "000.png"):
        with pytest.raises(UsageError, match=r"contains pictures, but no videos(.|\n)*ffmpeg -framerate"):
            list_videos([str(source)])


def test_a_named_object_that_is_gone_ends_the_command_with_1_and_is_tried_again(svg_forecast, bucket, videos):
    code, message, _ = svg_forecast("memory://clips/yard0.mp4")
    assert (code, "there is no such object\n  check the address" in message) == (1, True), message
    _, message, summary = svg_forecast(videos / "yard1.mp4", "memory://clips/yard0.mp4")
    assert summary["videos"] == counts(listed=2, done_before=0, ok=1, unreachable=1), message
    bucket.pipe_file("/clips/yard0.mp4", (videos / "yard0.mp4").read_bytes())
    assert svg_forecast(videos / "yard1.mp4", "memory://clips/yard0.mp4")[0] == 0


def test_an_object_that_has_gone_or_changed_is_unreachable_and_its_store_is_there(bucket, tmp_path):
    (video,) = list_videos(["memory://clips/a.mp4"]).videos
    bucket.pipe_file("/clips/a.mp4", b"longer than it was before")
    with pytest.raises(UnreachableError, match="has changed") as changed, local_copy(video, tmp_path, NEVER):
        pass
    bucket.rm("/clips/a.mp4")
    with pytest.raises(UnreachableError, match="cannot download") as gone, local_copy(video, tmp_path, NEVER):
        pass
    assert not isinstance(changed.value, StoreAwayError)
    assert not isinstance(gone.value, StoreAwayError)
    assert list(tmp_path.iterdir()) == []


class _Chunked(BaseHTTPRequestHandler):
    """Answers in chunks, without saying how many bytes there will be."""

    protocol_version = "HTTP/1.1"
    content = b""
    cut = False  # ends the connection within the last chunk
    tag = ""  # ETag

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "video/mp4")
        self.send_header("Transfer-Encoding", "chunked")
        if self.tag:
            self.send_header("ETag", self.tag)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        half = len(self.content) // 2
        for chunk in (self.content[:half], self.content[half:]):
            self.wfile.write(b"%x\r\n%s" % (len(chunk), chunk[: -10 if self.cut else None]))
            if self.cut:
                self.close_connection = True
                return
            self.wfile.write(b"\r\n")
        self.wfile.write(b"0\r\n\r\n")


@pytest.fixture
def web_server() -> Iterator[ThreadingHTTPServer]:
    """A web server that does not know the size of what it serves."""
    pytest.importorskip("aiohttp")
    with serving(ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Chunked,), {}))) as server:
        yield server


def test_a_web_server_need_not_know_the_size(web_server, svg_forecast, videos, tmp_path):
    web_server.RequestHandlerClass.content = (videos / "yard0.mp4").read_bytes()
    address = f"http://127.0.0.1:{web_server.server_port}/yard0.mp4"
    (video,) = list_videos([address]).videos
    assert (video.size, video.version) == (-1, "")
    assert video.work > 0  # progress moves
    code, _, summary = svg_forecast(address)
    assert (code, summary["videos"]) == (0, counts(listed=1, done_before=0, ok=1))
    (row,) = rows_of(Path("out"))["videos"].to_pylist()
    assert (row["status"], row["frames"], row["size"]) == ("ok", 10, -1)
    assert svg_forecast(address)[2]["videos"] == counts(listed=1, done_before=1, ok=1)


def test_a_signed_web_address_is_a_video_and_its_signature_is_never_stored(web_server, svg_forecast, videos, tmp_path):
    web_server.RequestHandlerClass.content = (videos / "yard0.mp4").read_bytes()
    web_server.RequestHandlerClass.tag = '"v1"'
    address = f"http://127.0.0.1:{web_server.server_port}/yard0.mp4"
    assert svg_forecast(f"{address}?signature=se*cret&time=[1]")[0] == 0
    (row,) = rows_of(Path("out"))["videos"].to_pylist()
    assert (row["status"], row["video"]) == ("ok", f"{address}?...")
    assert not [path for path in Path("out").rglob("*") if path.is_file() and b"se*cret" in path.read_bytes()]
    again = svg_forecast(f"{address}?signature=another&time=[2]")[2]
    assert again["videos"] == counts(listed=1, done_before=1, ok=1)


@pytest.mark.parametrize(
    "address",
    [
        "https://127.0.0.1:1/a.mp4?sig=SECRET",
        "https://127.0.0.1:1/a.mp4?GoogleAccessId=x@p.iam.gserviceaccount.com&Expires=1&Signature=SECRET",
        "https://127.0.0.1:1/my video.mp4?sig=SECRET",
        "https://127.0.0.1:1/O'Hara.mp4?a='x'&sig=SECRET",
        "HTTPS://127.0.0.1:1/a.mp4?sig=SECRET",
        "https://user:SECRET@127.0.0.1:1/a.mp4?sig=SECRET",
    ],
)
def test_no_name_and_no_message_shows_what_is_secret_in_an_address(address, tmp_path):
    assert Video(address, 1, "").name.endswith(".mp4?...")
    assert "SECRET" not in Video(address, 1, "").name
    (tmp_path / "list.txt").write_text(address)
    listing = list_videos([str(tmp_path / "list.txt")])  # nobody answers
    assert len(listing.missing) == 1
    assert "SECRET" not in str([*map(shown, listing.missing), *listing.missing.values()])
    with pytest.raises(SvgError) as raised:
        list_videos([f"{address}.txt\0"])
    assert "SECRET" not in str(raised.value)


def test_messages_about_a_signed_address_keep_the_signature(web_server, tmp_path):
    web_server.RequestHandlerClass.cut = True
    (video,) = list_videos([f"http://127.0.0.1:{web_server.server_port}/a.mp4?signature=secret"]).videos
    with pytest.raises(UnreachableError, match=r"a\.mp4\?\.\.\.") as raised, local_copy(video, tmp_path, NEVER):
        pass
    assert "secret" not in str(raised.value)


def test_web_addresses_that_differ_by_their_query_are_two_videos_where_nothing_else_tells(web_server):
    web_server.RequestHandlerClass.content = b"a video"
    address = f"http://127.0.0.1:{web_server.server_port}/download?id="
    assert len(list_videos([f"{address}{number}" for number in (1, 2)]).videos) == 2


def test_what_a_web_server_cuts_off_is_unreachable(web_server, tmp_path):
    web_server.RequestHandlerClass.content = bytes(10000)
    web_server.RequestHandlerClass.cut = True
    (video,) = list_videos([f"http://127.0.0.1:{web_server.server_port}/a.mp4"]).videos
    with pytest.raises(UnreachableError, match="cannot download"), local_copy(video, tmp_path, NEVER):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "normal"),
    [
        ("HTTPS://Host:443", "https://host/"),
        ("http://user:Pass@HOST:80//a/./b/../c.mp4?x=../A#f", "http://user:Pass@host//a/c.mp4?x=../A"),
        ("https://host:80/%7e/(1)%281%29*%2a+%2b%2f", "https://host:80/~/(1)(1)**+%2B%2F"),
        ("https://host/é %zz[1]/..", "https://host/"),
        ("https://host/é %zz[1]", "https://host/%C3%A9%20%25zz%5B1%5D"),
        ("http://[::1]:80/../a::b.mp4", "http://[::1]/a::b.mp4"),
        ("s3://Bucket/./a b#1.mp4", "s3://Bucket/./a b#1.mp4"),
    ],
)
def test_web_addresses_have_one_spelling_which_has_none_but_itself(address, normal):
    assert normal_address(address) == normal == normal_address(normal)
    pattern = normal_address(address, has_pattern=True)
    assert normal_address(pattern) == normal
    assert pattern.count("[") == address.count("[") - address.count("]/..")  # which leaves a folder again


@pytest.mark.parametrize(
    ("address", "store"),
    [
        ("/recordings/gate/a.mp4", "/recordings/gate"),
        ("s3://bucket/2026/a.mp4", "s3://bucket"),
        ("https://host:8443/a/b.mp4?id=1/2", "https://host:8443"),
        ("https://host?id=/a/b", "https://host"),
    ],
)
def test_what_is_away_as_a_whole_is_a_host_a_bucket_or_a_folder(address, store):
    assert Video(address, 1, "").store == store


def refused(**given: object) -> Exception:
    """An error of a driver, with what it says of the answer."""
    error = RuntimeError("no")
    vars(error).update(given)
    return error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OSError("Forbidden: cameras/a.mp4"), UnreachableError),  # as gcsfs says it
        (refused(code=403), UnreachableError),
        (refused(status_code=404), UnreachableError),
        (refused(response=SimpleNamespace(status_code=401)), UnreachableError),
        (refused(code=503), StoreAwayError),
        (refused(code="AuthorizationFailure"), StoreAwayError),
    ],
)
def test_a_driver_that_passes_an_answer_on_is_not_away(error, kind, tmp_path, monkeypatch):
    def get_file(*_: object) -> None:
        raise error

    monkeypatch.setattr(stores, "open_store", lambda address: (SimpleNamespace(get_file=get_file), "a.mp4"))
    with pytest.raises(UnreachableError) as raised:
        stores.download("gs://cameras/a.mp4", tmp_path / "a.mp4", NEVER)
    assert type(raised.value) is kind


def test_a_full_disk_here_is_not_the_stores_fault(bucket):
    with pytest.raises(OutputError, match=r"(?s)cannot write '/dev/full': No space left on device.*for a copy of 'memory:"):
        stores.download("memory://clips/a.mp4", Path("/dev/full"), NEVER)


def test_a_file_that_is_still_written_is_unreachable(videos, tmp_path):
    path = tmp_path / "a.mp4"
    path.write_bytes(b"1")
    (video,) = list_videos([str(path)]).videos
    with pytest.raises(UnreachableError, match="still being written"), local_copy(video, tmp_path, NEVER):
        path.write_bytes(b"12")


@pytest.mark.parametrize(
    ("source", "error", "text"),
    [
        ("gone.txt", UsageError, "no such list"),
        ("gone.mp4", UsageError, "does not exist"),
        ("", UsageError, "an empty name"),
        ("file://", UsageError, "three slashes"),
        ("file://host/a.mp4", UsageError, "names another computer"),
        ("file:///gone%20away/a.mp4", UsageError, "'/gone away/a.mp4' does not exist"),
        ("/gone/*.mp4", UsageError, "contains no videos"),
        ("zip://a.mp4::/tmp/x.zip", UsageError, "names an archive"),
        ("zip::s3://bucket/list.txt", UsageError, "a chain of addresses"),
        ("filecache://bucket/a.mp4::s3://bucket/a.mp4", UsageError, "a chain of addresses"),
        ("zip:///tmp/x.zip", UsageError, r"'zip:///tmp/x.zip' names an archive(.|\n)*unpack the archive"),
        ("tar:///tmp/x.tar", UsageError, "names an archive"),
        ("TAR:///tmp/list.txt", UsageError, "names an archive"),
        ("libarchive:///tmp/x.7z", UsageError, "names an archive"),
        ("reference://a.json", UnreachableError, r"cannot open 'reference://a.json'(.|\n)*  check the address.*reference://"),
        ("ftp:///a.mp4", UsageError, r"'ftp:///a.mp4' names no host(.|\n)*expected ftp://HOST/FOLDER"),
        ("foo://bucket/x", UsageError, "not an address of videos"),
        ("memory://nothing", UsageError, "contains no videos"),
        ("memory://nothing/gone.MP4", UnreachableError, "'memory://nothing/gone.MP4' cannot be .*: there is no such object"),
        ("oci://bucket/x", BackendMissingError, "install it with pip"),
    ],
)
def test_sources_that_lead_nowhere_are_refused(source, error, text):
    with pytest.raises(error, match=text):
        list_videos([source])


def test_a_login_is_never_shown():
    assert Video("ftp://user:secret@host/a.mp4", 1, "").name == "ftp://...@host/a.mp4"


class _Hosts(MemoryFileSystem):
    """Keeps the host apart from its paths, as the drivers of ftp, sftp, smb and webhdfs do."""

    protocol = "hosts"
    logins: ClassVar[list[tuple[str, str | None, str | None]]] = []

    def __init__(self, host: str, port: int = 21, username: str | None = None, password: str | None = None, **rest: object):
        super().__init__(**rest)
        self.store, self.pseudo_dirs = CONTENT[host, port], [""]
        self.logins.append((host, username, password))

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        within = infer_storage_options(path)["path"].strip("/")
        return f"/{within}" if within else ""

    @staticmethod
    def _get_kwargs_from_urls(path: str) -> dict[str, object]:
        return {key: value for key, value in infer_storage_options(path).items() if key not in ("path", "protocol")}


CONTENT: dict[tuple[str, int], dict[str, object]] = {("one", 21): {}, ("one", 2121): {}, ("two", 21): {}}


@pytest.fixture
def hosts():
    """Three servers with a file each at the same place, of the same size and time."""
    fsspec.register_implementation("hosts", _Hosts, clobber=True)
    _Hosts.clear_instance_cache()
    for number, (host, port) in enumerate(CONTENT):
        _Hosts(host, port).pipe_file("/clips/a.mp4", b"server %d" % number)
    times = [files["/clips/a.mp4"].created for files in CONTENT.values()]
    for files in CONTENT.values():
        files["/clips/a.mp4"].created = times[0]
    yield
    for files in CONTENT.values():
        files.clear()


@pytest.mark.parametrize("place", ["", "/", "/clips", "/clips/a.mp4", "/clips/*.mp4", "/**/a*"])
def test_a_driver_that_keeps_the_host_apart_is_opened_with_it_again(hosts, tmp_path, place):
    for number, host in enumerate(("one", "one:2121", "two")):
        (video,) = list_videos([f"hosts://{host}{place}"]).videos
        assert video.address == f"hosts://{host}/clips/a.mp4"
        with local_copy(video, tmp_path, NEVER) as path:
            assert path.read_bytes() == b"server %d" % number


def test_the_same_path_on_two_hosts_is_two_videos(hosts):
    assert len(list_videos([f"hosts://{host}/clips" for host in ("one", "one:2121", "two", "one")]).videos) == 3


@pytest.mark.parametrize("name", ["b#1.mp4", "c?d.mp4", "[1] e.mp4", "50%25.mp4"])
def test_names_with_signs_of_addresses_are_names_on_a_host(hosts, tmp_path, name):
    _Hosts("two").pipe_file(f"/odd/{name}", b"odd")
    for source in ("hosts://two/odd", f"hosts://two/odd/{name}"):
        (video,) = list_videos([source]).videos
        with local_copy(video, tmp_path, NEVER) as path:
            assert path.read_bytes() == b"odd"


def test_a_password_opens_the_store_and_is_in_no_name_message_or_id(hosts, tmp_path):
    (video,) = list_videos(["hosts://ann:secret@one/clips"]).videos
    (other,) = list_videos(["hosts://ann:new@one/clips"]).videos
    (of_bob,) = list_videos(["hosts://bob:secret@one/clips"]).videos
    assert video.id == other.id != of_bob.id
    assert video.name == "hosts://...@one/clips/a.mp4"
    _Hosts.clear_instance_cache()
    _Hosts.logins.clear()
    with local_copy(video, tmp_path, NEVER):
        pass
    assert _Hosts.logins == [("one", "ann", "secret")]
    CONTENT["one", 21].clear()
    for failing in (lambda: list_videos(["hosts://ann:secret@one/x"]), lambda: local_copy(video, tmp_path, NEVER).__enter__()):
        with pytest.raises(SvgError) as raised:
            failing()
        assert "secret" not in str(raised.value)


# What the drivers of fsspec, webdav4, gdrive-fsspec, dropboxdrivefs and huggingface_hub say of a file.
@pytest.mark.parametrize(
    ("info", "version"),
    [
        ({"modify": "20261129175250", "size": 5, "type": "file", "unix.mode": "0644"}, "modify 20261129175250"),
        ({"modificationTime": 1764438770000, "accessTime": 1}, "modificationTime 1764438770000"),
        ({"created": "2026-01-01", "modified": "2026-11-29", "etag": None}, "modified 2026-11-29"),
        ({"createdTime": "2026-01-01", "modifiedTime": "2026-11-29"}, "modifiedTime 2026-11-29"),
        ({"content_hash": "c1", "client_modified": "2026"}, "content_hash c1"),
        ({"blob_id": "b1", "lfs": None, "last_commit": None}, "blob_id b1"),
        ({"mtime": 7, "xet_hash": "x"}, "mtime 7"),
        ({"sha": "s1", "mode": "100644"}, "sha s1"),
        ({"hex": "h1"}, "hex h1"),
        # As before.
        ({"ETag": '"e"', "LastModified": "now", "blob_id": "b"}, 'ETag "e"'),
        ({"created": 5.0}, "created 5.0"),
    ],
)
def test_the_version_is_what_the_driver_calls_so(info, version):
    assert version_of(store=None, name="/a.mp4", info=info) == version


def test_a_driver_with_other_names_is_asked_for_the_time_of_the_last_change():
    class Other(fsspec.AbstractFileSystem):
        def modified(self, path):
            return f"time of {path}"

    class Unknowing(fsspec.AbstractFileSystem):
        pass

    assert version_of(Other(), "/a.mp4", {"size": 5}) == "modified time of /a.mp4"
    assert version_of(Unknowing(), "/a.mp4", {"size": 5}) == ""


def test_a_server_that_lists_files_as_ls_does_is_asked_for_the_exact_time():
    def command(line):
        with suppress(KeyError):
            return {"MDTM /a.mp4": "213 20261129175250"}[line]
        raise error_perm("500 unknown command")

    store = SimpleNamespace(ftp=SimpleNamespace(voidcmd=command))
    assert version_of(store, "/a.mp4", {"modify": "Nov 29 17:52"}) == "modify 20261129175250"
    assert version_of(store, "/b.mp4", {"modify": "Nov 29 2025"}) == ""


def test_a_store_that_does_not_say_the_version_of_a_video_leaves_the_others(bucket, monkeypatch):
    def asked(store, name, info):
        if name.endswith("a.mp4"):
            raise OSError("connection lost")
        return "v1"

    monkeypatch.setattr("svg_runtime.offline.listing.version_of", asked)
    listing = list_videos(["memory://clips"])
    assert [video.address for video in listing.videos] == ["memory:///clips/deep/b.MKV"]
    assert listing.missing == {"memory:///clips/a.mp4": "connection lost"}
