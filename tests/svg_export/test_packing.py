"""svg-export --pack: an archive that is the same for everybody, and that svg-live takes from an address."""

from __future__ import annotations

import os
import shutil
import tarfile
from pathlib import Path
from urllib.parse import unquote

import pytest

from svg_common.files import file_sha256
from svg_export.packing import pack_bundle
from svg_runtime.bundle.reader import EMBEDDED_FOLDER, Bundle
from svg_runtime.bundle.remote.addresses import ArchiveAddress, parse_model_address
from svg_runtime.bundle.remote.published import publish
from svg_runtime.bundle.remote.tar_files import TarFiles
from svg_runtime.errors import BundleError
from tests.svg_runtime.bundle_helpers import move_graphs

CAMERA = EMBEDDED_FOLDER / "camera.svgb"


@pytest.fixture
def other_copy(tmp_path) -> Path:
    """The same bundle of another name, with other times and rights, and with files that are not its own."""
    copy = shutil.copytree(CAMERA, tmp_path / "mine.svgb")
    for file in copy.rglob("*.*"):
        os.utime(file, (1, 1))
        file.chmod(0o600)
    (copy / "engines").mkdir()
    (copy / "engines" / "step.plan").write_bytes(b"an engine")
    (copy / "notes.txt").write_text("mine\n")
    return copy


def test_the_same_bundle_gives_the_same_bytes_under_any_name(tmp_path, other_copy):
    first = pack_bundle(CAMERA, tmp_path / "cam.svgb.tar")
    assert pack_bundle(other_copy, tmp_path / "again" / "other.svgb.tar") == first
    assert first == file_sha256(tmp_path / "cam.svgb.tar") == file_sha256(tmp_path / "again" / "other.svgb.tar")
    with tarfile.open(tmp_path / "cam.svgb.tar") as archive:
        folder = f"{Bundle.open(CAMERA).manifest.bundle_id}.svgb"
        assert archive.getnames() == [f"{folder}/{name}" for name in _own_files()]


def test_what_is_packed_is_taken_from_an_address(tmp_path, monkeypatch):
    """By the reader of archives that come over https."""
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path / "cache"))
    archive = tmp_path / "cam.svgb.tar"
    pack_bundle(CAMERA, archive)
    with archive.open("rb") as stream:
        files = TarFiles(stream, archive.stat().st_size)
        folder = publish(tmp_path / "cache" / "models" / "cam.svgb", "https://host/cam.svgb.tar", files)
    assert Bundle.open(folder).manifest == Bundle.open(CAMERA).manifest
    assert sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*.*")) == sorted(_own_files())


def test_a_damaged_bundle_is_not_packed(tmp_path, other_copy):
    (other_copy / "fp32" / "step.onnx").write_bytes(b"cut off")
    with pytest.raises(BundleError, match=r"step\.onnx"):
        pack_bundle(other_copy, tmp_path / "cam.svgb.tar")
    assert not (tmp_path / "cam.svgb.tar").exists()


def test_files_that_nobody_could_fetch_are_not_packed(tmp_path, other_copy):
    Bundle.open(move_graphs(other_copy)).check()
    with pytest.raises(
        BundleError, match=r"nobody could fetch: .*graphs/step\.onnx.*\n  expected names such as fp32/step\.onnx"
    ):
        pack_bundle(other_copy, tmp_path / "cam.svgb.tar")
    assert not (tmp_path / "cam.svgb.tar").exists()


def change_after_the_check(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an export does that ends at that moment."""
    check = Bundle.check

    def and_change(bundle):
        check(bundle)
        file.write_bytes(b"another export")

    monkeypatch.setattr(Bundle, "check", and_change)


def test_the_manifest_that_was_checked_is_packed(tmp_path, other_copy, monkeypatch):
    expected = pack_bundle(CAMERA, tmp_path / "cam.svgb.tar")
    change_after_the_check(other_copy / "manifest.json", monkeypatch)
    assert pack_bundle(other_copy, tmp_path / "mine.svgb.tar") == expected


def test_a_graph_that_changes_after_the_check_is_not_packed(tmp_path, other_copy, monkeypatch):
    change_after_the_check(other_copy / "fp32" / "step.onnx", monkeypatch)
    with pytest.raises(BundleError, match=r"changed while it was copied: fp32/step.onnx (.|\n)* run the command again"):
        pack_bundle(other_copy, tmp_path / "cam.svgb.tar")
    assert not (tmp_path / "cam.svgb.tar").exists()


def test_the_command_prints_the_address(svg_export):
    code, error = svg_export(CAMERA, "--pack", "cam.svgb.tar")
    assert code == 0
    assert f"--model https://HOST/cam.svgb.tar#sha256={file_sha256('cam.svgb.tar')}" in error


def test_the_address_of_any_name_can_be_opened(svg_export):
    name = "my cam #1, größe.svgb.tar"
    error = svg_export(CAMERA, "--pack", name)[1]
    address = parse_model_address(error.split("--model ")[1].split()[0])
    assert isinstance(address, ArchiveAddress)
    assert unquote(address.url) == f"https://HOST/{name}"
    assert address.sha256 == file_sha256(name)


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--pack", "cam.tar"), "expected such as --pack cam.svgb.tar"),
        (("--pack", ".svgb.tar"), "expected such as --pack cam.svgb.tar"),
        (("--pack", "cam.svgb.tar", "--fp16"), "--fp16 has no effect"),
        (("--pack", "cam.svgb.tar", "--no-fused", "--half"), "--fp16, --no-fused has no effect"),
        (
            ("--pack", "models/python/cam.svgb.tar", "--triton", "models"),
            "into 'models/python', the folder of --triton",
        ),
        (("--pack", CAMERA / "cam.svgb.tar"), "which this command uses"),
        (("--pack", "cam.svgb.tar", "--public"), "no effect without --push"),
    ],
)
def test_what_makes_no_sense_is_refused(svg_export, arguments, reason):
    code, error = svg_export(CAMERA, *arguments)
    assert (code, reason in error) == (2, True)
    assert list(Path.cwd().iterdir()) == []


def _own_files() -> list[str]:
    return ["manifest.json", *sorted(f"fp32/{file.name}" for file in (CAMERA / "fp32").iterdir())]
