"""The fuzzer: every seed is read, every mutation keeps its format whole, and every broken rule is noticed."""

from __future__ import annotations

import gzip
import importlib
import io
import json
import os
import subprocess
import sys
import zipfile
from functools import partial
from random import Random

import pytest

pytest.importorskip("atheris", reason="Atheris exists for Linux on x86-64 alone")

from svg_common.errors import SvgError
from svg_train.data.bair_sources import read_trajectories
from svg_train.data.frame_cache import Problems
from svg_train.data.tfrecord import TFRecordReader, masked_crc32c
from tests.fuzz import mutations
from tests.fuzz.run import ROOT, run_target
from tests.fuzz.target import MODULE_OF, PLANTED, SEEDS, SHARES, seed_files

NEVER_READ = {"reference-tar"}  # a format that is recognized and refused


@pytest.mark.parametrize("name", MODULE_OF)
def test_seeds_are_read_and_former_findings_are_refused(name, tmp_path, monkeypatch):
    """A fuzzer that starts from files that are refused at once would never reach the code behind."""
    monkeypatch.setenv("SVG_FUZZ_SCRATCH", str(tmp_path))
    target = importlib.import_module(f"tests.fuzz.targets.{MODULE_OF[name]}").TARGETS[name]
    files = seed_files(name)
    refused = []
    for file in files:
        try:
            target.read(target.place(file.read_bytes()))
        except SvgError:
            refused.append(file)
    assert files
    assert (len(refused) < len(files)) == (name not in NEVER_READ)


def test_every_folder_belongs_to_a_target():
    assert set(SHARES) <= set(MODULE_OF)
    assert {folder.name for folder in SEEDS.iterdir()} == {*MODULE_OF, "tiny.svgb"}


@pytest.fixture(autouse=True)
def _without_libfuzzer(monkeypatch):
    """Its own mutations work only while it fuzzes."""

    def replace_byte(data: bytes, _: int) -> bytes:
        at = len(data) // 2
        return data[:at] + bytes([data[at] ^ 1 if data else 1]) + data[at + 1 :]

    monkeypatch.setattr(mutations.atheris, "Mutate", replace_byte)


def mutants(mutate, name: str) -> list[bytes]:
    data = (SEEDS / name).read_bytes()
    return [mutant for seed in range(60) if (mutant := mutate(data, Random(seed))) != data]


def share_of(mutated: list[bytes], is_whole) -> float:
    assert len(mutated) > 40
    return sum(map(is_whole, mutated)) / len(mutated)


def test_mutated_archives_have_right_checksums():
    def is_whole(data: bytes) -> bool:
        try:
            return zipfile.ZipFile(io.BytesIO(data)).testzip() is None
        except Exception:
            return False

    assert share_of(mutants(mutations.mutate_zip, "reference-zip/small.pth"), is_whole) > 0.6


def test_mutated_records_have_right_checksums(tmp_path):
    def is_whole(data: bytes) -> bool:
        (tmp_path / "records").write_bytes(data)
        problems = Problems()
        with TFRecordReader(tmp_path / "records", problems) as reader:
            list(reader)
        return problems.summary() is None

    mutate = partial(mutations.mutate_records, checksum=masked_crc32c)
    assert share_of(mutants(mutate, "tfrecord/one.tfrecords"), is_whole) > 0.6


def test_mutated_gzip_decompresses():
    def is_whole(data: bytes) -> bool:
        try:
            return len(gzip.decompress(data)) >= 0
        except Exception:
            return False

    assert share_of(mutants(mutations.mutate_gzip, "idx/one.gz"), is_whole) > 0.6


def test_mutated_manifests_are_json():
    def is_whole(data: bytes) -> bool:
        try:
            return json.loads(data) is not None
        except (ValueError, RecursionError):
            return False

    assert share_of(mutants(mutations.mutate_json, "manifest/fp32.json"), is_whole) > 0.6


def test_mutated_pictures_have_right_checksums(tmp_path):
    (tmp_path / "1").mkdir()

    def is_whole(data: bytes) -> bool:
        (tmp_path / "1" / "0.png").write_bytes(data)
        problems = Problems()
        list(read_trajectories(tmp_path, problems))
        return "checksum" not in (problems.summary() or "").lower()

    assert share_of(mutants(mutations.mutate_png, "bair-png/rgb.png"), is_whole) > 0.6


KINDS = {
    "planted-crash": "Crash",
    "planted-hang": "Hang",
    "planted-memory": "Memory",
    "planted-code": "ForbiddenEvent",
    "planted-write": "ForbiddenEvent",
    "planted-error": "KeyError",
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_broken_rule_is_noticed_and_its_input_is_kept(name, tmp_path):
    result = run_target(name, inputs=4, seconds=None, seed=1, folder=tmp_path)
    assert {finding["kind"] for finding in result.findings} <= {KINDS[name], "MemoryError"}
    assert result.findings
    assert result.inputs >= 4
    for finding in result.findings:
        assert finding["text"]
        with open(finding["file"], "rb") as file:
            assert file.read() not in (b"", b"x")


def fuzz(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz", *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ, capture_output=True, text=True, check=False)


def test_the_command_runs_a_named_target_and_writes_what_it_did(tmp_path):
    done = fuzz("address", "--inputs", "500", "--json", str(tmp_path / "out.json"), "--folder", str(tmp_path))
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads((tmp_path / "out.json").read_text())
    assert result["inputs"] == result["targets"]["address"]["inputs"] >= 500
    assert result["targets"]["address"]["coverage"] > 5
    assert result["findings"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"), [(("nosuch", "--inputs", "1"), "unknown target nosuch"), ((), "give --minutes or --inputs")]
)
def test_wrong_arguments_are_refused(arguments, message):
    done = fuzz(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
