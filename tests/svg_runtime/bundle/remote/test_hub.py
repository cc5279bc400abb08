"""Bundles from the Hub: huggingface_hub against a stand-in of its API on loopback."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from svg_common.errors import ExitCode, OutputError
from svg_runtime import Forecaster
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle, find_model
from svg_runtime.bundle.remote import fetch, published
from svg_runtime.bundle.remote import hub as hub_files
from svg_runtime.errors import BundleError, MissingExtraError, SvgError, UsageError
from tests.file_size import file_size_limit
from tests.hub_server import TOKEN, HubServer, hub_server, use_hub
from tests.svg_runtime.bundle.remote.conftest import files_below

pytest.importorskip("huggingface_hub")


@pytest.fixture
def hub(cache, files, tmp_path, monkeypatch) -> Iterator[HubServer]:
    """A Hub with the model ada/cam."""
    with hub_server() as server:
        use_hub(server, tmp_path, monkeypatch)
        server.repo("ada/cam").commit(files)
        yield server


def fetched(address: str) -> Path:
    """As a program that starts anew."""
    fetch._COMMITS.clear()
    return find_model(address)


def test_a_model_is_fetched_once_and_gives_the_same_forecasts(hub, files, cache, logged):
    commit = hub.repo("ada/cam").branches["main"]
    folder = fetched("hf://ada/cam")
    assert folder == cache / "hub" / "ada--cam" / commit / "cam.svgb"
    assert files_below(folder) == set(files)
    assert f"hf://ada/cam@main is commit {commit[:12]}; to stay with it, give: hf://ada/cam@{commit}" in logged.text
    hub.requests.clear()
    assert fetched("hf://ada/cam") == folder
    assert hub.requests == ["GET /api/models/ada/cam/revision/main"]
    frames = np.random.default_rng(0).random((5, 64, 64, 3), np.float32)
    futures = []
    for model in ("hf://ada/cam", EMBEDDED_FOLDER / "camera.svgb"):
        with Forecaster.open(model, backend="cpu", samples=2, horizon=2, threads=1) as forecaster:
            for frame in frames:
                forecaster.observe(frame)
            futures.append(forecaster.forecast())
    assert np.array_equal(*futures)


def test_what_the_hub_calls_a_commit_cannot_lead_out_of_the_cache(hub, files, cache):
    repo = hub.repo("ada/cam")
    repo.commits["../../../../elsewhere"] = files
    repo.branches["main"] = "../../../../elsewhere"
    with pytest.raises(BundleError, match="is not a commit"):
        fetched("hf://ada/cam")
    assert not (cache.parent.parent / "elsewhere").exists()


def test_one_process_stays_with_one_commit(hub, files, cache):
    folder = fetched("hf://ada/cam")
    hub.repo("ada/cam").commit({**files, "more": b""})
    assert find_model("hf://ada/cam") == folder == Bundle.open("hf://ada/cam").path
    shutil.rmtree(cache)  # by whoever needs the space
    assert find_model("hf://ada/cam") == folder == Bundle.open("hf://ada/cam").path
    assert fetched("hf://ada/cam") != folder


def test_a_commit_that_was_fetched_needs_neither_connection_nor_library(hub, monkeypatch):
    pinned = f"hf://ada/cam@{hub.repo('ada/cam').branches['main']}"
    folder = fetched(pinned)
    hub.requests.clear()
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    assert fetched(pinned) == folder
    assert hub.requests == []
    with pytest.raises(MissingExtraError, match=r"pip install 'svg-edge\[hub\]'") as error:
        fetched("hf://ada/cam")
    assert error.value.exit_code == ExitCode.BACKEND_MISSING


def test_branches_and_tags(hub, files):
    hub.repo("ada/cam").commit({**files, "more": b""}, branch="dev")
    assert fetched("hf://ada/cam@dev") != fetched("hf://ada/cam@main")
    with pytest.raises(BundleError, match=r"no revision 'v9'\n.*/ada/cam/commits/main"):
        fetched("hf://ada/cam@v9")


def test_only_the_manifest_and_its_graphs_are_downloaded(hub, files, tmp_path):
    others = {"engines/fp32/step.plan": b"code", "pytorch_model.bin": b"code", "fp32/own.onnx": b"?", "README.md": b"#"}
    hub.repo("ada/cam").commit({**files, **others})
    folder = fetched("hf://ada/cam")
    assert files_below(folder) == set(files)
    asked = {request.partition("/resolve/")[2].partition("/")[2] for request in hub.requests if "/resolve/" in request}
    assert asked == set(files)


def test_engines_in_the_cache_of_the_hub_stay_there(hub, files):
    """Other programs download whole repositories into the same cache."""
    import huggingface_hub

    hub.repo("ada/cam").commit({**files, "engines/fp32/step.plan": b"code"})
    huggingface_hub.snapshot_download("ada/cam")
    assert files_below(fetched("hf://ada/cam")) == set(files)


@pytest.mark.parametrize("how", ["offline", "broken", "no server"])
def test_without_a_connection_the_last_commit_is_taken(hub, cache, monkeypatch, logged, how, tmp_path):
    from huggingface_hub import constants

    commit = hub.repo("ada/cam").branches["main"]
    folder = fetched("hf://ada/cam")
    if how == "offline":
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    elif how == "broken":
        hub.broken = True
    else:
        monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert fetched("hf://ada/cam") == folder
    reason = "HF_HUB_OFFLINE is set" if how == "offline" else "the Hub cannot be reached"
    assert f"{reason}: hf://ada/cam@main was commit {commit[:12]}" in logged.text
    published.shutil.rmtree(tmp_path / "hub")  # the cache of the Hub is not needed
    assert fetched("hf://ada/cam") == folder
    advice = "unset it" if how == "offline" else "check the connection"
    with pytest.raises(SvgError, match=rf"hf://ada/new@main is not in the cache(.|\n)*{advice}"):
        fetched("hf://ada/new")


@pytest.mark.parametrize("ours", ["empty", "of an earlier release"])
def test_without_a_connection_the_cache_of_the_hub_is_enough(hub, cache, logged, ours):
    """Other programs fill it, and earlier releases noted in it alone which commit a branch is."""
    import huggingface_hub

    commit = hub.repo("ada/cam").branches["main"]
    huggingface_hub.snapshot_download("ada/cam")
    folder = fetched(f"hf://ada/cam@{commit}")
    if ours == "empty":
        published.shutil.rmtree(cache)
    hub.broken = True
    assert fetched("hf://ada/cam") == folder
    assert f"the Hub cannot be reached: hf://ada/cam@main was commit {commit[:12]}" in logged.text


def after_the_download(monkeypatch: pytest.MonkeyPatch, do: Callable[[], object]) -> None:
    """Do something when the files of a bundle are there, before it is published."""
    fill = published._fill

    def and_do(new, source):
        fill(new, source)
        do()

    monkeypatch.setattr(published, "_fill", and_do)


def test_a_branch_that_moves_while_it_is_fetched_is_found_without_a_connection(hub, files, monkeypatch):
    after_the_download(monkeypatch, lambda: hub.repo("ada/cam").commit({**files, "README.md": b"new"}))
    folder = fetched("hf://ada/cam")
    hub.broken = True
    assert fetched("hf://ada/cam") == folder


def test_a_connection_that_is_lost_after_the_download_is_no_failure(hub, monkeypatch):
    after_the_download(monkeypatch, lambda: setattr(hub, "broken", True))
    folder = fetched("hf://ada/cam")
    assert fetched("hf://ada/cam") == folder


def test_names_of_branches_need_not_be_names_of_files(hub, files):
    names = ["a", "a/b", "A", "b+c", "d/" * 99 + "d"]
    for number, name in enumerate(names):
        hub.repo("ada/cam").commit({**files, "README.md": b"%d" % number}, branch=name)
    folders = [fetched(f"hf://ada/cam@{name}") for name in names]
    assert len(set(folders)) == len(names)
    hub.broken = True
    assert [fetched(f"hf://ada/cam@{name}") for name in names] == folders


def test_a_damaged_note_of_a_commit_is_none(hub, cache, tmp_path):
    fetched("hf://ada/cam")
    for note in cache.glob("hub/ada--cam/refs/*"):
        note.write_bytes(b"../\xff")
    hub.broken = True
    with pytest.raises(SvgError, match="is not in the cache"):
        fetched("hf://ada/cam")
    hub.broken = False
    folder = fetched("hf://ada/cam")
    hub.broken = True
    assert fetched("hf://ada/cam") == folder


def test_a_noted_commit_that_is_gone_does_not_hide_what_is_in_the_cache_of_the_hub(hub, files):
    """Another program has downloaded the branch since, and cleaned up."""
    import huggingface_hub

    old = fetched("hf://ada/cam")
    newer = hub.repo("ada/cam").commit({**files, "README.md": b"new"})
    snapshot = Path(huggingface_hub.snapshot_download("ada/cam"))
    published.shutil.rmtree(old)
    published.shutil.rmtree(snapshot.with_name(old.parent.name))
    hub.broken = True
    assert fetched("hf://ada/cam").parent.name == newer == snapshot.name


def test_a_commit_that_cannot_be_noted_is_a_warning(hub, cache, logged):
    commit = hub.repo("ada/cam").branches["main"]
    folder = fetched(f"hf://ada/cam@{commit}")
    (cache / "hub" / "ada--cam" / "refs").write_bytes(b"")
    assert fetched("hf://ada/cam") == folder
    assert f"to start without a connection, give: hf://ada/cam@{commit}" in logged.text


PAGES = {
    "a page": b"<html>please log in</html>",
    "a list": b"[]",
    "no model": b"{}",
    "no commit": b'{"id": "ada/cam"}',
    "size": b'{"id": "ada/cam", "sha": "%s", "siblings": [{"rfilename": "a", "size": "x"}]}' % (b"0" * 40),
    "name": b'{"id": "ada/cam", "sha": "%s", "siblings": [{"rfilename": 5}]}' % (b"0" * 40),
    "siblings": b'{"id": "ada/cam", "sha": "%s", "siblings": "abc"}' % (b"0" * 40),
    "deep": b"[" * 100_000,
    "not text": b"\xff\xfe\xfd",
}


@pytest.mark.parametrize("page", PAGES.values(), ids=PAGES)
def test_what_answers_in_place_of_the_hub(hub, logged, page):
    commit = hub.repo("ada/cam").branches["main"]
    folder = fetched("hf://ada/cam")
    hub.page = page
    assert fetched("hf://ada/cam") == folder
    assert f"{hub.url} does not answer like a Hub: hf://ada/cam@main was commit {commit[:12]}" in logged.text
    with pytest.raises(
        SvgError,
        match=r"does not answer like a Hub: .*\n  hf://ada/new@main is not in the cache; check HF_ENDPOINT and the proxy",
    ) as error:
        fetched("hf://ada/new")
    assert error.value.exit_code == ExitCode.ERROR


def test_a_page_in_place_of_a_file_is_not_an_error_of_the_disk(hub, monkeypatch):
    import huggingface_hub

    look_up = huggingface_hub.HfApi.model_info

    def then_logged_out(*arguments, **options):
        info = look_up(*arguments, **options)
        hub.page = b"<html>please log in</html>"
        return info

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", then_logged_out)
    with pytest.raises(SvgError, match=r"does not answer like a Hub: FileMetadataError(.|\n)*log in to the network") as error:
        fetched("hf://ada/cam")
    assert not isinstance(error.value, OutputError)


def test_a_redirect_loop_is_a_server_that_cannot_be_reached(hub):
    hub.loops = True
    with pytest.raises(SvgError, match=f"{hub.url} cannot be reached: .*redirects"):
        fetched("hf://ada/cam")


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            RuntimeError("Data integrity error: a"),
            "the download failed: RuntimeError: Data integrity error: a\n.*HF_HUB_DISABLE_XET",
        ),
        (OSError(f"I/O error: refused (os error {errno.ECONNREFUSED})"), "cannot be reached: I/O error: refused"),
        (OSError("I/O error: failed to fill whole buffer"), "the download failed: OSError: I/O error: failed to fill"),
        (TimeoutError("Network error"), "cannot be reached: Network error"),
        (TimeoutError(), "cannot be reached: TimeoutError"),
        (OSError("Consistency check failed"), "does not answer like a Hub: OSError: Consistency check failed"),
        (KeyError("etag"), "does not answer like a Hub: KeyError: 'etag'"),
    ],
)
def test_whatever_the_library_raises_is_explained(hub, monkeypatch, error, message):
    import huggingface_hub

    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(SvgError, match=message):
        fetched("hf://ada/cam")


@pytest.mark.parametrize("name", ["XetAuthenticationError", "XetObjectNotFoundError"])
def test_what_the_storage_protocol_refuses_is_a_failed_download(hub, monkeypatch, name):
    import huggingface_hub

    kind = getattr(pytest.importorskip("hf_xet"), name, None) or pytest.skip("an older release")

    def fail(*arguments, **options):
        raise kind("no such object")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(SvgError, match=f"the download failed: {name}: no such object\n") as error:
        fetched("hf://ada/cam")
    assert not isinstance(error.value, OutputError)


@pytest.mark.parametrize("kind", [OSError, RuntimeError])  # RuntimeError: in old releases
@pytest.mark.parametrize("number", [errno.ENOENT, errno.EACCES, errno.ENOSPC])
def test_an_error_of_the_disk_in_the_storage_protocol_names_the_cache_of_the_hub(hub, monkeypatch, number, kind):
    """Xet says its number in the message alone."""
    import huggingface_hub
    from huggingface_hub import constants

    reason = os.strerror(number)

    def fail(*arguments, **options):
        raise kind(f"I/O error: I/O error: {reason} (os error {number})")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(OutputError, match=f"cannot write '{constants.HF_HUB_CACHE}': {reason}\n.*set HF_HOME to a writable"):
        fetched("hf://ada/cam")


def test_an_answer_that_cannot_be_decoded(hub, monkeypatch):
    """Both the library's HTTP client and its fork name this error the same."""
    import huggingface_hub
    from huggingface_hub.utils import get_session

    client = sys.modules[type(get_session()).__module__.partition(".")[0]]

    def fail(*arguments, **options):
        raise client.DecodingError("not gzip")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fail)
    with pytest.raises(SvgError, match="cannot be reached: not gzip"):
        fetched("hf://ada/cam")


@pytest.mark.parametrize(
    ("variable", "value", "message", "code"),
    [
        (
            "ALL_PROXY",
            "socks5h://me:secret@127.0.0.1:1",
            r"ALL_PROXY needs .*'socksio'\n  install it with: pip install socksio",
            4,
        ),
        ("HTTP_PROXY", "http://127.0.0.1:abc", "HTTP_PROXY is not the address of a proxy\n  expected such as http://host", 1),
        ("https_proxy", "ftp://127.0.0.1", "https_proxy is not the address of a proxy", 1),
        ("SSL_CERT_FILE", "/no/such/file", "no connection to the Hub can be made: .*\n  check the variables SSL_CERT_FILE", 1),
    ],
)
def test_settings_that_allow_no_connection(hub, monkeypatch, logged, variable, value, message, code):
    from huggingface_hub import close_session

    folder = fetched("hf://ada/cam")
    close_session()
    monkeypatch.setitem(sys.modules, "socksio", None)
    monkeypatch.setenv(variable, value)
    try:
        with pytest.raises(SvgError, match=message) as error:
            fetched("hf://ada/new")
        assert error.value.exit_code == code
        assert "secret" not in str(error.value)
        assert fetched("hf://ada/cam") == folder
        assert "hf://ada/cam@main was commit" in logged.text
    finally:
        close_session()


@pytest.mark.parametrize("value", ["hf_sécret", "hf_s\x01cret", "hf_s cret"])
@pytest.mark.parametrize("place", ["HF_TOKEN", "file"])
def test_a_token_that_cannot_be_sent_is_refused_and_never_shown(hub, monkeypatch, tmp_path, place, value):
    fetched("hf://ada/cam")
    if place == "HF_TOKEN":
        monkeypatch.setenv("HF_TOKEN", value)
    else:
        (tmp_path / "token").write_bytes(value.encode("latin-1"))
    with pytest.raises(
        UsageError, match="HF_TOKEN is not a token" if place == "HF_TOKEN" else "/token is not a token"
    ) as caught:
        fetched("hf://ada/cam")
    error: BaseException | None = caught.value
    while error is not None:
        assert "cret" not in repr(error)
        error = error.__context__


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("http://127.0.0.1:abc", "http://127.0.0.1:abc"),
        ("http://me:secret@127.0.0.1:99999", "http://127.0.0.1:99999"),
        ("me:secret@hub.example.org", "hub.example.org"),
        ("http://me:se/cret@h:abc", "http://h:abc"),
        ("me:se://cret@h", "h"),
        ("http://me:s@cret@h:abc", "http://h:abc"),
        ("http://[::1", "http://[::1"),
        ("hub", "hub"),
        ("", ""),
        ("ftp://a", "ftp://a"),
    ],
)
def test_an_endpoint_that_is_not_an_address_is_refused_without_its_password(hub, monkeypatch, value, shown):
    monkeypatch.setenv("HF_ENDPOINT", value)
    with pytest.raises(
        UsageError, match=rf"HF_ENDPOINT is not the address of a server: '{re.escape(shown)}'\n  expected such as https://"
    ):
        fetched("hf://ada/cam")


def test_a_hub_that_says_no_sizes(hub, files, monkeypatch):
    hub.says_sizes = False
    folder = fetched("hf://ada/cam")
    assert files_below(folder) == set(files)
    monkeypatch.setattr(hub_files, "GRAPH_LIMIT", 1000)
    hub.repo("ada/cam").commit({**files, "more": b""})
    hub.requests.clear()
    with pytest.raises(BundleError, match=r"\.onnx is too large: \d+ bytes"):
        fetched("hf://ada/cam")
    assert not any(request.startswith("GET") and request.endswith(".onnx") for request in hub.requests)


def test_a_damaged_file_is_downloaded_again_from_a_hub_that_says_no_sizes(hub, files, cache):
    hub.says_sizes = False
    folder = fetched("hf://ada/cam")
    damage(folder / "manifest.json", 0)
    assert (fetched("hf://ada/cam") / "manifest.json").read_bytes() == files["manifest.json"]


def test_a_download_that_was_cut_off_is_not_taken_without_a_connection(hub, cache, tmp_path):
    published.shutil.rmtree(fetched("hf://ada/cam"))
    next(tmp_path.glob("hub/*/snapshots/*/fp32/step.onnx")).unlink()
    hub.broken = True
    with pytest.raises(SvgError, match="cannot be reached"):
        fetched("hf://ada/cam")


@pytest.mark.parametrize("size", [None, 0], ids=["changed", "cut off"])
@pytest.mark.parametrize("name", ["fp32/step.onnx", "manifest.json"])
def test_a_damaged_file_is_downloaded_again(hub, files, cache, name, size, logged):
    """Our cache and that of the Hub share the file, so both have the damage; the Hub's library trusts its own."""
    folder = fetched("hf://ada/cam")
    damage(folder / name, size)
    if (name, size) == ("fp32/step.onnx", None):  # found when it is opened, as hashing takes long
        with pytest.raises(
            BundleError, match=rf"changed since export(.|\n)*\n  remove it, .* fetches it again: rm -r {folder}$"
        ):
            Bundle.open(fetched("hf://ada/cam")).graphs("fp32")
        published.shutil.rmtree(folder)
    assert (fetched("hf://ada/cam") / name).read_bytes() == files[name]
    assert f"{name} in the Hub's cache is damaged: downloading it again" in logged.text


def damage(file: Path, size: int | None) -> None:
    """Change a byte in place, or cut the file off."""
    with file.open("r+b") as stream:
        stream.write(b"?")
        if size is not None:
            stream.truncate(size)


def test_damage_in_the_cache_of_the_hub_without_a_connection_is_not_blamed_on_the_author(hub, cache):
    folder = fetched("hf://ada/cam")
    damage(folder / "fp32" / "step.onnx", None)
    published.shutil.rmtree(folder)
    hub.broken = True
    with pytest.raises(BundleError, match=r"changed since export(.|\n)*run the command again with a connection") as error:
        fetched("hf://ada/cam")
    assert "author" not in str(error.value)


def test_names_of_files_stay_on_one_line(hub):
    hub.repo("ada/other").commit({"a\nerror: b": b""})
    with pytest.raises(BundleError, match=r"only: a\\nerror: b\n"):
        fetched("hf://ada/other")


@pytest.mark.parametrize("variable", ["SVG_EDGE_CACHE", "HF_HOME"])
def test_a_cache_that_cannot_be_written_names_its_variable(hub, cache, tmp_path, monkeypatch, variable):
    from huggingface_hub import constants

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / ("file" if variable == "SVG_EDGE_CACHE" else "cache")))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / ("file" if variable == "HF_HOME" else "hub")))
    with pytest.raises(OutputError, match=rf"cannot write '{tmp_path}/file/.*\n.*set {variable} to a writable folder"):
        fetched("hf://ada/cam")


@pytest.mark.parametrize("full", ["ours", "the Hub's"])
def test_a_full_disk_names_the_cache_that_is_on_it(hub, cache, tmp_path, monkeypatch, full):
    """Where a write fails, the system names no file, and who copies names the source: both lie in the cache of the Hub."""
    import huggingface_hub

    if full == "ours":
        huggingface_hub.snapshot_download("ada/cam")
        monkeypatch.setattr(hub_files.os, "link", other_disk)
    variable, place = ("SVG_EDGE_CACHE", cache) if full == "ours" else ("HF_HOME", tmp_path / "hub")
    message = rf"cannot write '{place}': File too large\n.*set {variable} to a writable"
    with file_size_limit(1 << 20), pytest.raises(OutputError, match=message):
        fetched("hf://ada/cam")


def test_a_file_in_the_cache_of_the_hub_that_cannot_be_read_names_that_cache(hub, cache, tmp_path, monkeypatch):
    monkeypatch.setattr(hub_files, "_download", lambda *arguments: tmp_path / "hub" / "gone")
    with pytest.raises(SvgError, match=rf"^cannot read '{tmp_path}/hub/gone': No such file.*\n.*set HF_HOME"):
        fetched("hf://ada/cam")


def other_disk(source: str, destination: Path) -> None:
    raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), source, None, str(destination))


def test_a_private_model_needs_the_token_which_goes_to_the_hub_alone(hub, monkeypatch, files):
    """The server for large files refuses requests with a token."""
    hub.repo("ada/cam").private = True
    with pytest.raises(BundleError, match=r"no model 'ada/cam'.*or a private one\n.*HF_TOKEN"):
        fetched("hf://ada/cam")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert files_below(fetched("hf://ada/cam")) == set(files)


def test_refusals_say_what_to_do_and_never_show_the_token(hub, files, monkeypatch, cache):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    hub.repo("ada/gated").commit(files)
    hub.repo("ada/gated").gated = True
    hub.repo("ada/other").commit({"config.json": b"{}", "model.safetensors": b"", **{f"f{n}": b"" for n in range(20)}})
    hub.repo("ada/empty").commit({})
    hub.repo("ada/damaged").commit({**files, "fp32/step.onnx": b"?" * len(files["fp32/step.onnx"])})
    hub.repo("ada/short").commit({**files, "fp32/step.onnx": b"?"})
    hub.repo("ada/huge").commit({**files, "manifest.json": b" " * (5 << 20)})
    for model, reason in {
        "unknown": r"no model 'ada/unknown' at http",
        "gated": r"access on request\n  open http.*/ada/gated, accept the terms",
        "other": r"has no manifest.json, only: config.json, f0, .* and 14 more\n.*svg-export ckpt.pt --push",
        "empty": r"no bundle at hf://ada/empty@main: it is empty\n.*--push hf://user/name",
        "damaged": r"step.onnx: changed since export(.|\n)*tell its author",
        "short": r"of another size than the manifest says: fp32/step.onnx",
        "huge": r"too large: 5242880 bytes",
    }.items():
        with pytest.raises(SvgError, match=reason) as error:
            fetched(f"hf://ada/{model}")
        assert TOKEN not in str(error.value)
    assert files_below(cache) == set()
    assert not any("/ada/huge/resolve/" in request for request in hub.requests)  # nothing so large is downloaded


def test_scratch_folders_of_killed_programs_are_removed(hub, cache):
    program = (
        "import time; from svg_runtime.bundle.remote.published import scratch_folder\n"
        "with scratch_folder(): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"locked\n"
        fetched("hf://ada/cam")
        assert len(list(cache.glob(".fetch.*"))) == 1  # it is in use
        other.kill()
    published.shutil.rmtree(cache / "hub")
    fetched("hf://ada/cam")
    assert not list(cache.glob(".fetch.*"))


def test_two_programs_that_fetch_the_same_at_once(hub, cache, monkeypatch, files):
    """The second finds the folder of the first in its place, and takes it."""
    fill = published._fill

    def other_was_faster(new, source):
        fill(new, source)
        monkeypatch.setattr(published, "_fill", fill)
        fetch.fetch_model("hf://ada/cam")

    monkeypatch.setattr(published, "_fill", other_was_faster)
    assert files_below(fetched("hf://ada/cam")) == set(files)
    assert not list(cache.glob(".fetch.*"))


def test_the_command_takes_the_address_and_the_server_from_the_environment(hub, tmp_path):
    program = "from svg_runtime.live.cli import main; main()"
    arguments = ["--model", "hf://ada/cam", "--headless", "--max-frames", "6", "--samples", "1", "--backend", "cpu"]
    environment = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_HUB_DISABLE_XET": "1"}
    ended = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        env={**os.environ, **environment},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 0, ended.stderr
    assert "svg-live: hf://ada/cam@main is commit" in ended.stderr
    assert "model: cam.svgb on" in ended.stderr
    assert "%|" not in ended.stderr  # the bars of huggingface_hub
