"""Engines on disk: found again, never mistaken for another, rebuilt when damaged, built once by two processes. No TensorRT."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from svg_runtime.backends.nvidia.engine_files import engine_folders
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.engine import EngineKey, find_engine, read_engine, write_engine
from svg_runtime.errors import EngineError, MissingExtraError

pytest.importorskip("filelock", reason="filelock is not installed: pip install 'svg-edge[tensorrt-rtx]'")

KEY = EngineKey(
    onnx_sha256="a" * 64, platform="linux x86_64", nvidia_library="tensorrt-rtx", version="1.7", gpu="NVIDIA GeForce",
    compute_capabilities=("sm86",), precision="fp16", max_batch=8, workspace_gib=2.0, flags=("strongly-typed",),
)  # fmt: skip
OTHER = {
    "onnx_sha256": "b" * 64, "platform": "linux aarch64", "nvidia_library": "tensorrt", "version": "1.8", "gpu": "NVIDIA L4",
    "compute_capabilities": ("sm89",), "precision": "fp32", "max_batch": 16, "workspace_gib": None,
    "flags": ("strongly-typed", "tf32"),
}  # fmt: skip


class Builder:
    """Counts how often it is asked."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self) -> bytes:
        self.count += 1
        return b"engine %d" % self.count


@pytest.fixture
def cache(tmp_path) -> EngineCache:
    return EngineCache(str(tmp_path / "cache"))


def only_engine_file(folder: Path) -> Path:
    (engine_file,) = folder.rglob("*.plan")
    return engine_file


def test_an_engine_is_built_once_and_cached_as_a_plain_file(cache, tmp_path, logged):
    build = Builder()
    assert cache.fetch(KEY, build) == cache.fetch(KEY, build) == b"engine 1"
    assert EngineCache(str(tmp_path / "cache")).fetch(KEY, build) == b"engine 1"
    assert only_engine_file(tmp_path / "cache").read_bytes() == b"engine 1"
    assert logged.messages == []


@pytest.mark.parametrize("field", OTHER)
def test_every_field_of_the_key_distinguishes_engines(cache, field):
    build, other = Builder(), KEY.model_copy(update={field: OTHER[field]})
    assert cache.fetch(KEY, build) == b"engine 1"
    assert cache.fetch(other, build) == b"engine 2"
    assert (cache.fetch(KEY, build), cache.fetch(other, build)) == (b"engine 1", b"engine 2")


def test_the_test_above_covers_every_field_of_the_key():
    assert set(OTHER) == set(EngineKey.model_fields)


def test_an_engine_for_more_samples_is_found_and_that_for_as_many_comes_first(cache, tmp_path, logged):
    for max_batch in (16, 12, 4):
        cache.fetch(KEY.model_copy(update={"max_batch": max_batch}), lambda size=max_batch: b"for %d" % size)
    assert cache.find(KEY) == b"for 12"
    assert cache.find(KEY, rejected=[b"for 12"]) == b"for 16"
    assert cache.find(KEY.model_copy(update={"max_batch": 17})) is None
    (engine_file,) = (file for file in (tmp_path / "cache").rglob("*.plan") if file.read_bytes() == b"for 12")
    engine_file.write_bytes(b"for 13")
    assert cache.find(KEY, rebuilds=False) == cache.find(KEY) == b"for 16"
    assert all("changed since it was built; ignoring it" in line for line in logged.messages)
    with pytest.raises(EngineError, match="changed"):
        cache.find(KEY, rejected=[b"for 16"], rebuilds=False)
    assert cache.fetch(KEY, lambda: b"for 8") == cache.find(KEY) == b"for 8"


def truncated(engine_file: Path) -> None:
    engine_file.write_bytes(engine_file.read_bytes()[:-1])


def changed(engine_file: Path) -> None:
    engine_file.write_bytes(b"engine X")


def gone(engine_file: Path) -> None:
    engine_file.unlink()


def foreign(engine_file: Path) -> None:
    write_engine(engine_file, KEY.model_copy(update={"gpu": "NVIDIA L4"}), b"other!")


def garbled(engine_file: Path) -> None:
    engine_file.with_name(engine_file.name + ".json").write_text("{")


def extended(engine_file: Path) -> None:
    record = engine_file.with_name(engine_file.name + ".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), "unknown": 1}))


def oversized(engine_file: Path) -> None:
    engine_file.with_name(engine_file.name + ".json").write_text(" " * 100_000)


@pytest.mark.parametrize(
    ("damage", "message"),
    [(truncated, "truncated"), (changed, "changed"), (gone, "missing"), (foreign, "gpu NVIDIA L4, not NVIDIA GeForce"),
     (garbled, "not an engine record"), (extended, "not an engine record"), (oversized, "too large")],
)  # fmt: skip
def test_a_damaged_or_foreign_engine_is_built_again_with_a_message(cache, tmp_path, logged, damage, message):
    build = Builder()
    cache.fetch(KEY, build)
    damage(only_engine_file(tmp_path / "cache"))
    assert cache.fetch(KEY, build) == b"engine 2"
    assert len(logged.messages) == 1
    assert message in logged.messages[0]
    assert "building it again" in logged.messages[0]
    logged.clear()
    assert cache.fetch(KEY, build) == b"engine 2"
    assert logged.messages == []


def test_an_engine_file_without_its_record_or_a_record_without_its_file_is_never_used(tmp_path):
    """What a process that dies between the two writes leaves behind."""
    file = tmp_path / "engine.plan"
    file.write_bytes(b"engine")
    assert read_engine(file, KEY) is None
    write_engine(file, KEY, b"first")
    file.write_bytes(b"other")
    with pytest.raises(EngineError, match="changed"):
        read_engine(file, KEY)


def test_a_failed_build_leaves_nothing(cache, tmp_path):
    def fail() -> bytes:
        raise EngineError("no")

    with pytest.raises(EngineError, match="no"):
        cache.fetch(KEY, fail)
    assert list((tmp_path / "cache").rglob("*.plan*")) == []
    assert cache.fetch(KEY, Builder()) == b"engine 1"


def test_an_engine_for_more_gpus_and_samples_is_found_in_a_folder(tmp_path):
    wide = {"gpu": None, "compute_capabilities": ("sm80", "sm86"), "max_batch": 16, "flags": ("convolved", "strongly-typed")}
    write_engine(tmp_path / "deep" / "b.plan", KEY.model_copy(update=wide), b"wide")
    write_engine(tmp_path / "a.plan", KEY.model_copy(update={"onnx_sha256": "c" * 64}), b"another graph")
    (tmp_path / "broken.plan.json").write_text("{")
    assert find_engine(tmp_path, KEY) == b"wide"
    assert find_engine(tmp_path, KEY.model_copy(update={"max_batch": 17})) is None
    assert find_engine(tmp_path / "nowhere", KEY) is None
    (tmp_path / "deep" / "b.plan").write_bytes(b"wild")
    with pytest.raises(EngineError, match=r"b\.plan"):
        find_engine(tmp_path, KEY)


@pytest.fixture
def own_folder(tmp_path, monkeypatch) -> Path:
    """The system's temporary folder, for this test."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder / f"svg-edge-{os.getuid()}"


def test_a_cache_that_cannot_be_written_is_a_warning_and_no_rebuild_at_the_next_start(tmp_path, own_folder, logged):
    (tmp_path / "file").write_text("a file is not a folder, not for root either")
    build = Builder()
    for _ in range(2):
        logged.clear()
        assert EngineCache(str(tmp_path / "file")).fetch(KEY, build) == b"engine 1"
        assert [record.levelname for record in logged.records] == ["WARNING"]
        assert "SVG_EDGE_CACHE" in logged.messages[0]
    assert only_engine_file(own_folder).read_bytes() == b"engine 1"
    assert own_folder.stat().st_mode & 0o077 == 0


def test_a_temporary_folder_that_others_can_write_is_not_trusted(tmp_path, own_folder, logged):
    (tmp_path / "file").write_text("")
    own_folder.mkdir()
    own_folder.chmod(0o777)
    build = Builder()
    cache = EngineCache(str(tmp_path / "file"))
    assert "not cached" in logged.messages[0]
    logged.clear()
    assert (cache.fetch(KEY, build), cache.fetch(KEY, build)) == (b"engine 1", b"engine 2")
    assert logged.messages == []
    assert list(own_folder.iterdir()) == []


@pytest.fixture
def no_temporary_folder(monkeypatch) -> None:
    """As with a full root disk, or in a read-only container."""

    def refuse() -> str:
        raise FileNotFoundError(2, "No usable temporary directory found in ['/tmp']")

    monkeypatch.setattr(tempfile, "gettempdir", refuse)


@pytest.mark.usefixtures("no_temporary_folder")
def test_without_a_temporary_folder_engines_lie_in_the_cache_alone(tmp_path):
    assert engine_folders(str(tmp_path)) == [tmp_path]


@pytest.mark.usefixtures("no_temporary_folder")
def test_a_user_without_home_and_temporary_folder_has_no_engines(monkeypatch):
    for name in ("SVG_EDGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)

    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", no_home)
    assert engine_folders(None) == []


@pytest.mark.usefixtures("no_temporary_folder")
def test_without_a_temporary_folder_nothing_is_cached_that_the_cache_does_not_take(tmp_path, logged):
    (tmp_path / "file").write_text("")
    assert EngineCache(str(tmp_path / "file")).fetch(KEY, Builder()) == b"engine 1"
    assert "not cached" in logged.messages[0]


def test_on_a_full_disk_the_engine_is_used_but_not_cached(cache, tmp_path, monkeypatch, logged):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device", "engine.plan")

    monkeypatch.setattr("svg_runtime.backends.tensorrt.cache.write_engine", full)
    assert cache.fetch(KEY, Builder()) == b"engine 1"
    assert [record.levelname for record in logged.records] == ["WARNING"]
    assert "No space left" in logged.messages[0]


def test_without_filelock_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "filelock", None)
    with pytest.raises(MissingExtraError, match=r"svg-edge\[tensorrt-rtx\]"):
        EngineCache(str(tmp_path))


def test_the_environment_variable_sets_the_cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "elsewhere"))
    EngineCache(None).fetch(KEY, Builder())
    assert only_engine_file(tmp_path / "elsewhere").is_file()


PROCESS = """
import logging, sys, time
from pathlib import Path
from svg_runtime.backends.tensorrt.cache import EngineCache
from svg_runtime.backends.tensorrt.engine import EngineKey

folder = Path(sys.argv[1])
key = EngineKey.model_validate_json(sys.argv[2])

def build():
    with (folder / "builds").open("a") as log:
        log.write("built\\n")
    while not (folder / "go").exists():
        time.sleep(0.01)
    return b"engine"

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
print(EngineCache(str(folder / "cache")).fetch(key, build))
"""


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROCESS, str(folder), KEY.model_dump_json()]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_two_processes_build_one_engine(tmp_path):
    first = start(tmp_path)
    limit = threading.Timer(60, first.kill)
    limit.start()
    while not (tmp_path / "builds").exists() and first.poll() is None:
        time.sleep(0.01)
    second = start(tmp_path)
    waiting = second.stdout.readline()
    (tmp_path / "go").touch()
    outputs = [process.communicate(timeout=60) for process in (first, second)]
    limit.cancel()
    assert "another process is building" in waiting, outputs
    assert [out for out, _ in outputs] == ["b'engine'\n"] * 2, outputs
    assert (tmp_path / "builds").read_text() == "built\n"


def test_ctrl_c_ends_the_wait_for_another_process(tmp_path):
    first = start(tmp_path)
    while not (tmp_path / "builds").exists() and first.poll() is None:
        time.sleep(0.01)
    second = start(tmp_path)
    waiting = second.stdout.readline()
    second.send_signal(signal.SIGINT)
    _, stderr = second.communicate(timeout=60)
    ended_first = first.poll() is None
    first.kill()
    first.communicate(timeout=60)
    assert "another process is building" in waiting
    assert ended_first
    assert "KeyboardInterrupt" in stderr


def test_a_process_that_dies_while_building_does_not_block_others(tmp_path, logged):
    first = start(tmp_path)
    while not (tmp_path / "builds").exists() and first.poll() is None:
        time.sleep(0.01)
    first.kill()
    first.communicate(timeout=60)
    assert EngineCache(str(tmp_path / "cache")).fetch(KEY, Builder()) == b"engine 1"
    assert logged.messages == []
