"""Bundles from a web server: a real one on loopback, with and without faults, and archives that are hostile."""

from __future__ import annotations

import hashlib
import io
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from svg_common.errors import OutputError, UsageError
from svg_runtime.bundle.reader import Bundle, find_model
from svg_runtime.bundle.remote import archive
from svg_runtime.bundle.remote.fetch import fetch_model
from svg_runtime.errors import BundleError, SvgError
from tests.file_size import file_size_limit
from tests.hub_server import serving
from tests.svg_runtime.bundle.remote.conftest import files_below

Answer = Callable[[BaseHTTPRequestHandler, bytes], None]


class WebServer(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content = b""
        self.requests: list[str | None] = []  # the Range of each
        self.answer: Answer = whole

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that cannot store the answer goes away. To say so would fail, too, while a test limits the size of files."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    def address(self, digest: str | None = None) -> str:
        """The address of the archive, with its hash."""
        digest = digest or hashlib.sha256(self.content).hexdigest()
        return f"http://127.0.0.1:{self.server_port}/m/cam.svgb.tar#sha256={digest}"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WebServer

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.server.requests.append(self.headers.get("Range"))
        self.close_connection = True
        self.server.answer(self, self.server.content)


def whole(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    send(handler, 200, content)


def send(handler: BaseHTTPRequestHandler, status: int, content: bytes, length: int | None = None, **headers: str) -> None:
    handler.send_response(status)
    handler.send_header("Content-Length", str(len(content) if length is None else length))
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
    handler.wfile.write(content)


def breaking(every: int, ranges: bool) -> Answer:
    """Ends the connection after so many bytes."""

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        start = int((handler.headers.get("Range") or "bytes=0-")[6:-1]) if ranges else 0
        rest = content[start:]
        send(handler, 206 if start else 200, rest[:every], len(rest))

    return answer


@pytest.fixture
def server(files) -> Iterator[WebServer]:
    with serving(WebServer()) as server:
        server.content = packed(files)
        yield server


def packed(
    files: dict[str, bytes], root: str = "camera.svgb/", change: Callable[[tarfile.TarFile], None] | None = None
) -> bytes:
    """A tar archive as Python makes it: with attributes of every file, as its times have fractions."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(root + name)
            entry.size, entry.mtime = len(content), 1.5
            tar.addfile(entry, io.BytesIO(content))
        if change is not None:
            change(tar)
    return stream.getvalue()


def entry(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> Callable[[tarfile.TarFile], None]:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.type, info.linkname = kind, link
        tar.addfile(info)

    return add


def test_a_bundle_is_fetched_once_and_then_needs_no_server(cache, server, files, logged):
    address = server.address()
    folder = find_model(address)
    assert folder.name == "cam.svgb"
    assert files_below(folder) == set(files)
    assert files_below(cache) == {f"{folder.relative_to(cache).as_posix()}/{name}" for name in files}  # nothing is left over
    assert (
        f"downloading http://127.0.0.1:{server.server_port}/m/cam.svgb.tar ({len(server.content) / 1e6:.1f} MB)" in logged.text
    )
    server.answer = lambda handler, content: send(handler, 500, b"")
    assert Bundle.open(address).path == folder
    assert len(server.requests) == 1


def test_archives_of_the_program_tar_are_read(cache, server, files, tmp_path):
    for name, content in files.items():
        (tmp_path / "mine.svgb" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "mine.svgb" / name).write_bytes(content)
    for options in (["mine.svgb"], ["-C", "mine.svgb", "."], ["--format=pax", "mine.svgb"]):
        subprocess.run(["tar", "-cf", "x.tar", *options], cwd=tmp_path, check=True)
        server.content = (tmp_path / "x.tar").read_bytes()
        assert files_below(find_model(server.address())) == set(files)


@pytest.mark.parametrize("form", ["gnu", "pax"])
def test_long_names_in_archives_of_the_program_tar_are_read(cache, server, files, tmp_path, form):
    root = "long-" * 30 + ".svgb"
    for name, content in files.items():
        (tmp_path / root / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / root / name).write_bytes(content)
    subprocess.run(["tar", f"--format={form}", "-cf", "x.tar", root], cwd=tmp_path, check=True)
    server.content = (tmp_path / "x.tar").read_bytes()
    assert files_below(find_model(server.address())) == set(files)


def test_engines_pickles_and_other_files_are_left_out(cache, server, files):
    server.content = packed({"engines/fp32/step.plan": b"code", "weights.pkl": b"code", "fp32/own.onnx": b"?", **files})
    assert files_below(find_model(server.address())) == set(files)


def test_another_hash_is_refused_and_nothing_is_kept(cache, server):
    address = server.address("0" * 64)
    with pytest.raises(BundleError, match="another hash than its address") as error:
        find_model(address)
    assert hashlib.sha256(server.content).hexdigest() in str(error.value)
    assert files_below(cache) == set()


def test_a_full_disk_is_an_output_error_and_leaves_nothing(cache, server):
    address = server.address()
    with file_size_limit(1000), pytest.raises(OutputError, match="cannot write"):
        find_model(address)
    assert files_below(cache) == set()


@pytest.mark.parametrize("damage", [lambda step: step.write_bytes(b"cut off"), lambda step: shutil.rmtree(step.parents[1])])
def test_a_damaged_or_removed_copy_in_the_cache_is_fetched_again(cache, server, files, damage):
    folder = find_model(server.address())
    damage(folder / "fp32" / "step.onnx")
    assert (find_model(server.address()) / "fp32" / "step.onnx").read_bytes() == files["fp32/step.onnx"]


@pytest.mark.parametrize("ranges", [True, False], ids=["goes on", "starts again"])
def test_a_lost_connection_goes_on_if_the_server_can(cache, server, files, ranges):
    server.answer = breaking(len(server.content) // 2 + 1, ranges)
    if ranges:
        assert files_below(find_model(server.address())) == set(files)
        assert server.requests == [None, f"bytes={len(server.content) // 2 + 1}-"]
    else:
        with pytest.raises(SvgError, match="the connection was lost"):
            find_model(server.address())
        assert len(server.requests) == 2
        assert files_below(cache) == set()


@pytest.mark.parametrize("before", [1, 0], ids=["begun", "not begun"])
def test_a_download_waits_for_a_server_in_trouble(cache, server, files, monkeypatch, logged, before):
    """It may have begun, or not: a device boots while the server restarts."""
    monkeypatch.setattr(archive, "_PAUSE_S", 0.0)
    half = breaking(len(server.content) // 2 + 1, ranges=True)

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        if before < len(server.requests) <= before + 2:
            send(handler, 503, b"")
        else:
            half(handler, content)

    server.answer = answer
    assert files_below(find_model(server.address())) == set(files)
    rest = f"bytes={len(server.content) // 2 + 1}-"
    assert server.requests == ([None, rest, rest, rest] if before else [None, None, None, rest])
    assert logged.text.count("the server answers 503 Service Unavailable; asking again every 0 s") == 1


@pytest.mark.parametrize("status", ["429 Too Many Requests", "500 Internal Server Error", "503 Service Unavailable"])
@pytest.mark.parametrize("begun", [True, False], ids=["begun", "not begun"])
def test_a_server_that_stays_in_trouble(cache, server, monkeypatch, status, begun):
    monkeypatch.setattr(archive, "_PAUSE_S", 0.0)
    half = breaking(len(server.content) // 2 + 1, ranges=True)

    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        if begun and len(server.requests) == 1:
            half(handler, content)
        else:
            send(handler, int(status[:3]), b"")

    server.answer = answer
    with pytest.raises(SvgError, match=rf"cannot download .*: the server answers {status}.*\n.*try again later"):
        find_model(server.address())
    assert len(server.requests) == 20
    assert files_below(cache) == set()


def test_a_file_that_is_too_large_is_refused_before_it_is_written(cache, server, monkeypatch):
    monkeypatch.setattr(archive, "ARCHIVE_LIMIT", 1000)
    with pytest.raises(BundleError, match="too large"):
        find_model(server.address())
    server.answer = lambda handler, content: _without_length(handler, content)
    with pytest.raises(BundleError, match="too large"):
        find_model(server.address())


def _without_length(handler: BaseHTTPRequestHandler, content: bytes) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(content[:5000])


def test_a_file_without_a_length_is_read_to_its_end(cache, server, files):
    def answer(handler: BaseHTTPRequestHandler, content: bytes) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(content)

    server.answer = answer
    assert files_below(find_model(server.address())) == set(files)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda handler, content: send(handler, 404, b""), "answers 404 Not Found"),
        (lambda handler, content: send(handler, 302, b"", Location="http://example.org/a.tar"), "without encryption"),
        (lambda handler, content: send(handler, 302, b"", Location="file:///etc/passwd"), "answers 302"),
        (lambda handler, content: send(handler, 302, b"", Location="ftp://127.0.0.1/a.tar"), "without encryption"),
        (lambda handler, content: send(handler, 302, b"", Location=handler.path), "answers 302"),  # round and round
        (lambda handler, content: handler.wfile.write(b"no HTTP\n"), "cannot download"),
        (lambda handler, content: handler.connection.close(), "cannot download"),
    ],
    ids=["missing", "to http", "to a file", "to ftp", "to itself", "no HTTP", "no answer"],
)
def test_servers_that_do_not_serve_it(cache, server, answer, reason):
    server.answer = answer
    with pytest.raises(SvgError, match=reason):
        find_model(server.address())
    assert files_below(cache) == set()


def test_a_redirect_on_this_machine_is_followed(cache, server, files):
    with serving(WebServer()) as other:
        other.content = server.content
        target = other.address().partition("#")[0]
        server.answer = lambda handler, content: send(handler, 302, b"", Location=target)
        assert files_below(find_model(server.address())) == set(files)


def test_https_never_redirects_to_http_even_on_this_machine():
    """The handler is asked itself: there is no certificate for loopback that Python would accept."""
    request = archive.urllib.request.Request("https://example.org/a.tar")
    handler = archive._SafeRedirects()
    assert handler.redirect_request(request, io.BytesIO(), 302, "", {}, "https://example.org/b.tar").full_url.endswith("b.tar")
    with pytest.raises(archive._RefusedRedirectError):
        handler.redirect_request(request, io.BytesIO(), 302, "", {}, "http://127.0.0.1/b.tar")


def test_no_server(cache):
    with serving(WebServer()) as gone:
        address = gone.address()
    with pytest.raises(SvgError, match=r"refused\n.*not in the cache"):
        find_model(address)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (entry("camera.svgb/fp32/link.onnx", tarfile.SYMTYPE, "/etc/passwd"), "neither a file nor a folder"),
        (entry("camera.svgb/fp32/hard.onnx", tarfile.LNKTYPE, "camera.svgb/manifest.json"), "neither a file nor a folder"),
        (entry("camera.svgb/device", tarfile.CHRTYPE), "neither a file nor a folder"),
        (entry("camera.svgb/pipe", tarfile.FIFOTYPE), "neither a file nor a folder"),
        (entry("camera.svgb/sparse", tarfile.GNUTYPE_SPARSE), "neither a file nor a folder"),
        (entry("/etc/cron.d/job"), "leads out of it"),
        (entry("camera.svgb/../../job"), "leads out of it"),
        (entry("..", tarfile.DIRTYPE), "leads out of it"),
        (entry("camera.svgb\\..\\job"), "leads out of it"),
        (entry("other.svgb/manifest.json"), "several bundles"),
        (entry("camera.svgb/manifest.json"), "twice"),
        (entry("camera.svgb/../" + "n" * 300), "leads out of it"),  # GNU's long names
        (entry("camera.svgb/" + "n" * 5000), "a name of 5012 characters"),
        (entry("camera.svgb/a\nerror: b", tarfile.FIFOTYPE), r"'camera.svgb/a\\nerror: b', which is neither"),
        (entry("../a\nerror: b"), r"the path '../a\\nerror: b', which leads"),
    ],
    ids=["symlink", "hard link", "device", "pipe", "sparse", "absolute", "parent", "parent folder", "backslash", "two", "twice",
         "long", "too long", "lines", "lines in a path"],
)  # fmt: skip
def test_hostile_archives_are_refused(cache, server, files, change, reason, tmp_path):
    before = files_below(tmp_path)
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(f"camera.svgb/{name}")
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        change(tar)
    server.content = stream.getvalue()
    with pytest.raises(BundleError, match=reason):
        find_model(server.address())
    assert files_below(tmp_path) == before


def test_damaged_archives_are_refused(cache, server, files):
    good = packed(files)
    many = packed({f"f{number}": b"" for number in range(5000)})
    attributes = tarfile.TarInfo("x")
    attributes.type, attributes.size = tarfile.XHDTYPE, 1 << 20
    without = {name: content for name, content in files.items() if name != "fp32/step.onnx"}
    changed = {**files, "fp32/step.onnx": b"?" * len(files["fp32/step.onnx"])}
    for content, reason in [
        (b"", r"it is empty\n  expected what svg-export writes; pack it with: svg-export ckpt.svgb --pack name.svgb.tar"),
        (b"PK\3\4" + bytes(600), "not a tar archive"),
        (good[: len(good) // 2], r"cut off, .*\n  whoever publishes it has to pack it again: tar -cf name.svgb.tar"),
        (many, r"more than 4096 entries\n  whoever publishes it has to pack it again"),
        (attributes.tobuf() + bytes(2 << 20), "attributes of 1048576 bytes"),
        (packed(without), "missing, or of another size.*fp32/step.onnx"),
        (packed(changed), "changed since export"),
        (packed({"manifest.json": b"{}"}), "schema version"),
        (packed(files, root="a/b/camera.svgb/"), r"has no manifest.json, only: a/b/.*\n.* --pack name.svgb.tar"),
    ]:
        server.content = content
        with pytest.raises(BundleError, match=reason) as error:
            find_model(server.address())
        assert "cam.svgb.tar" in str(error.value)
        assert ".fetch." not in str(error.value)
    assert files_below(cache) == set()


def test_a_manifest_that_names_other_files_is_refused(cache, server, files):
    """Such as an engine, which the manifest of a bundle cannot describe, but a hostile one could name."""
    name = "engines/fp32/step.plan"
    manifest = files["manifest.json"].replace(b"fp32/step.onnx", name.encode())
    server.content = packed({**files, "manifest.json": manifest, name: files["fp32/step.onnx"]})
    with pytest.raises(BundleError, match="names files that nobody could fetch: engines"):
        find_model(server.address())


@pytest.mark.parametrize("address", [None, 7, b"hf://ada/model"])
def test_what_is_no_address_is_a_usage_error(address):
    with pytest.raises(UsageError, match=r"the address of a model is .*\n  expected hf://"):
        fetch_model(address)
