"""An archive that holds a checkpoint is named as one, with the command that unpacks it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path

import pytest

from svg_train.checkpoint import CheckpointError
from svg_train.reference.archives import describe_archive
from svg_train.reference.checkpoint import load_any_checkpoint


def packed(folder: Path, checkpoint: Path, name: str, mode: str, tar_format: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(folder / name, mode, format=tar_format) as archive:
        archive.add(checkpoint, "logs/model.pth")
    return folder / name


def unpack_as_told(message: str, folder: Path) -> None:
    command = message.partition("unpack it with: ")[2].splitlines()[0]
    subprocess.run(shlex.split(command), cwd=folder, check=True, capture_output=True)


@pytest.mark.parametrize(("name", "mode"), [("m.tar", "w"), ("model.pth.tar", "w"), ("m.pth", "w")])
@pytest.mark.parametrize("tar_format", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_a_tar_archive_names_the_checkpoint_in_it(tiny_checkpoint, tmp_path, name, mode, tar_format):
    archive = packed(tmp_path, tiny_checkpoint, name, mode, tar_format)
    with pytest.raises(CheckpointError, match=r"is a tar archive that contains 'logs/model.pth'") as error:
        load_any_checkpoint(archive)
    assert str(error.value).endswith("\n  then give the file: logs/model.pth")
    unpack_as_told(str(error.value), tmp_path)
    assert load_any_checkpoint(tmp_path / "logs" / "model.pth")


@pytest.mark.parametrize(("mode", "kind"), [("w:gz", "gzip"), ("w:bz2", "bzip2"), ("w:xz", "xz")])
def test_a_compressed_archive_is_named_too(tiny_checkpoint, tmp_path, mode, kind):
    archive = packed(tmp_path, tiny_checkpoint, "m.pth.tar", mode)
    with pytest.raises(CheckpointError, match=f"is a tar archive compressed with {kind}") as error:
        load_any_checkpoint(archive)
    unpack_as_told(str(error.value), tmp_path)
    assert load_any_checkpoint(tmp_path / "logs" / "model.pth")


@pytest.mark.parametrize(("compress", "kind"), [(gzip.compress, "gzip"), (bz2.compress, "bzip2"), (lzma.compress, "xz")])
def test_a_compressed_checkpoint_is_named_too(tiny_checkpoint, tmp_path, compress, kind):
    (tmp_path / "m.pth.gz").write_bytes(compress(tiny_checkpoint.read_bytes()))
    with pytest.raises(CheckpointError, match=f"is compressed with {kind}\n  unpack it with: "):
        load_any_checkpoint(tmp_path / "m.pth.gz")


def test_a_zip_archive_names_the_checkpoint_in_it(tiny_checkpoint, tmp_path):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("notes.txt", "x")
        archive.write(tiny_checkpoint, "run 1/ckpt.pt")
    with pytest.raises(
        CheckpointError, match=r"is a zip archive that contains 'run 1/ckpt.pt'\n  unpack it with: unzip "
    ) as error:
        load_any_checkpoint(tmp_path / "m.zip")
    assert "unpack it with: unzip " in str(error.value)
    assert str(error.value).endswith("then give the file: 'run 1/ckpt.pt'")


def test_an_archive_without_a_checkpoint_says_so(tmp_path):
    (tmp_path / "notes.txt").touch()
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        archive.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(CheckpointError, match="none of its 1 files is named as a checkpoint"):
        load_any_checkpoint(tmp_path / "m.tar")


def test_the_tar_of_the_oldest_torch_keeps_its_own_message(tmp_path):
    (tmp_path / "part").touch()
    with tarfile.open(tmp_path / "m.pth", "w") as archive:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            archive.add(tmp_path / "part", name)
    with pytest.raises(CheckpointError, match=r"PyTorch before 0\.1\.10"):
        load_any_checkpoint(tmp_path / "m.pth")


def test_checkpoints_are_no_archives(tiny_checkpoint):
    assert describe_archive(tiny_checkpoint) is None


def test_false_sizes_and_endless_content_cost_no_time(tmp_path):
    info = tarfile.TarInfo("model.pth")
    info.size = 1 << 62
    (tmp_path / "far.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 26)))
    start = time.monotonic()
    assert "model.pth" in str(describe_archive(tmp_path / "far.tar"))
    assert "gzip" in str(describe_archive(tmp_path / "bomb.gz"))
    assert time.monotonic() - start < 5
