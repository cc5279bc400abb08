"""An archive that holds a checkpoint is named as one, with the command that unpacks it."""

from __future__ import annotations

import bz2
import gzip
import lzma
import shlex
import subprocess
import tarfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest

from svg_runtime.bundle.reader import Bundle
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


def test_a_packed_bundle_is_named_as_one(tiny_bundle, tmp_path):
    with tarfile.open(tmp_path / "cam.svgb.tar", "w") as archive:
        archive.add(tiny_bundle, "cam.svgb")
    with pytest.raises(CheckpointError, match=r"is a packed bundle: graphs, not a checkpoint\n") as error:
        load_any_checkpoint(tmp_path / "cam.svgb.tar")
    assert str(error.value).endswith("svg-export does so with --push, --pack or --triton")
    unpack_as_told(str(error.value), tmp_path)
    assert Bundle.open(tmp_path / "cam.svgb")


def test_a_bundle_is_named_as_one_with_the_options_of_svg_export_that_take_it(tiny_bundle, tmp_path):
    with pytest.raises(CheckpointError, match=f"'{tiny_bundle}' is a bundle: graphs, not a checkpoint\n") as error:
        load_any_checkpoint(tiny_bundle)
    assert str(error.value).endswith("svg-export takes a bundle with --push, --pack or --triton")
    with pytest.raises(CheckpointError, match=r"is a folder\n  expected a checkpoint"):
        load_any_checkpoint(tmp_path)


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


@pytest.mark.parametrize("tar_format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_names_too_long_for_a_header_are_read(tiny_checkpoint, tmp_path, tar_format):
    name = f"logs/{'model=vgg128x128-rnn_size=256-' * 6}beta=0.0000010/model.pth"  # as the reference names its folders
    with tarfile.open(tmp_path / "m.tar", "w", format=tar_format) as archive:
        archive.add(tiny_checkpoint, name)
    with pytest.raises(CheckpointError, match=f"is a tar archive that contains '{name}'"):
        load_any_checkpoint(tmp_path / "m.tar")


def test_what_macos_adds_is_no_checkpoint(tiny_checkpoint, tmp_path):
    (tmp_path / "note").write_text("x")
    with tarfile.open(tmp_path / "m.tar", "w") as archive:
        for source, name in ((tmp_path / "note", "./._model.pth"), (tiny_checkpoint, "./model.pth"), (tiny_checkpoint, "b.pt")):
            archive.add(source, name)
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("__MACOSX/model.pth", "x")
        archive.write(tiny_checkpoint, "model.pth")
    with pytest.raises(CheckpointError, match=r"contains './model.pth', and 1 more named as checkpoints"):
        load_any_checkpoint(tmp_path / "m.tar")
    with pytest.raises(CheckpointError, match=r"contains 'model.pth'\n"):
        load_any_checkpoint(tmp_path / "m.zip")


def test_an_unpacked_checkpoint_and_one_packed_with_compression_are_named(tiny_checkpoint, tmp_path):
    with zipfile.ZipFile(tiny_checkpoint) as archive:
        archive.extractall(tmp_path / "my un")
        (folder,) = {Path(name).parts[0] for name in archive.namelist()}
    with pytest.raises(CheckpointError, match="is a checkpoint that was unpacked") as error:
        load_any_checkpoint(tmp_path / "my un" / folder)
    assert f"(cd '{tmp_path}/my un' && zip -0r packed.pth {folder})" in str(error.value)
    for compression in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        with zipfile.ZipFile(tmp_path / f"{compression}.pth", "w", compression) as archive:  # in the order of zip -r
            for file in sorted((tmp_path / "my un" / folder).rglob("*")):
                archive.write(file, file.relative_to(tmp_path / "my un"))
    assert load_any_checkpoint(tmp_path / f"{zipfile.ZIP_STORED}.pth")
    with pytest.raises(CheckpointError, match=r"pack it without compression: zip -0r"):
        load_any_checkpoint(tmp_path / f"{zipfile.ZIP_DEFLATED}.pth")


FOREIGN = {
    b"": "it is empty",
    bytes(2000): "only zeros",
    b"<!DOCTYPE html>\n<title>Google Drive - Virus scan warning</title>": "a web page",
    b"\n <HTML lang=en><body>404</body>": "a web page",
    b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 123\n": "git lfs pull",
    b"/annex/objects/SHA256E-s123--abc.pth\n": "git annex get",
    b"404: Not Found": "a text that begins with: 404: Not Found",
    b'{"error": "rate limited"}': "a text that begins with: {",
    b"Rar!\x1a\x07\x01\0" + bytes(99): "a RAR archive",
    b"\x28\xb5\x2f\xfd" + bytes(99): "compressed with zstd",
    b"\x89HDF\r\n\x1a\n" + bytes(99): "an HDF5 file",
    b"\x80\x04\x95" + bytes(99): "a pickle of another program",
}


@pytest.mark.parametrize(("content", "message"), FOREIGN.items())
def test_files_of_other_kinds_are_named(content, message, tmp_path):
    (tmp_path / "model.pth").write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        load_any_checkpoint(tmp_path / "model.pth")
    assert "expected a file that svg-train wrote" in str(error.value)
    for accepted in ("svg-prime", "SRVP", "OpenSTL", "Lightning", "state_dict", "safetensors"):
        assert accepted in str(error.value)


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_checkpoint_that_was_not_fetched_whole_is_named(tiny_checkpoint, tmp_path, share):
    whole = tiny_checkpoint.read_bytes()
    (tmp_path / "model.pth").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(CheckpointError, match=r"model\.pth' is cut off: .*\n  fetch the file again"):
        load_any_checkpoint(tmp_path / "model.pth")


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


def test_false_sizes_are_not_believed_and_endless_content_is_not_unpacked(tmp_path):
    info = tarfile.TarInfo("model.pth")
    info.size = 1 << 62
    (tmp_path / "far.tar").write_bytes(info.tobuf(tarfile.GNU_FORMAT))
    (tmp_path / "bomb.gz").write_bytes(gzip.compress(bytes(1 << 26)))
    tracemalloc.start()
    try:
        assert "model.pth" in str(describe_archive(tmp_path / "far.tar"))
        assert "gzip" in str(describe_archive(tmp_path / "bomb.gz"))
        assert tracemalloc.get_traced_memory()[1] < 1 << 22  # the content would be 64 MiB
    finally:
        tracemalloc.stop()
