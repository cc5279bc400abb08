"""Stochastic Moving MNIST from small idx files written here, from the real ones where they are, and from damaged ones."""

from __future__ import annotations

import gzip
import hashlib
import io
import shutil
import socket
import struct
import threading
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from svg_common.errors import SvgError
from svg_train.config import build_config
from svg_train.data import mnist_files, open_data
from svg_train.data.mnist_files import TEST_IMAGES, TRAIN_IMAGES, read_images

REAL = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "mnist"


def config_for(root, **data):
    return build_config({"data": {"name": "smmnist", "root": str(root), **data}})


def idx_bytes(images: np.ndarray, magic: int = 2051) -> bytes:
    return struct.pack(">4I", magic, *images.shape) + images.tobytes()


def marked_images(values: list[int]) -> np.ndarray:
    """One flat image per value, so that a frame shows which digits it was made from."""
    return np.repeat(np.array(values, np.uint8), 28 * 28).reshape(-1, 28, 28)


def digits_seen(data, scenes: int = 60) -> set[int]:
    return {int(value) for i in range(scenes) for value in np.unique(data[i]) if value}


@pytest.fixture
def offline(monkeypatch):
    def refuse(url, timeout):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("folder", ["", "MNIST/raw"])
def test_each_split_has_its_own_file(tmp_path, offline, suffix, folder):
    (tmp_path / folder).mkdir(parents=True, exist_ok=True)
    for name, values in ((TRAIN_IMAGES, [50, 60, 70]), (TEST_IMAGES, [150, 160])):
        content = idx_bytes(marked_images(values))
        (tmp_path / folder / f"{name}{suffix}").write_bytes(gzip.compress(content) if suffix else content)
    train, test = (open_data(config_for(tmp_path), split, 6) for split in ("train", "test"))
    assert digits_seen(train) == {50, 60, 70}
    assert digits_seen(test) == {150, 160}
    assert f"3 train digits of {TRAIN_IMAGES}{suffix}" in train.description  # and not where: a run is resumed by it
    assert train[0].shape == (6, 64, 64, 1)
    assert train[0].dtype == np.uint8
    assert (train[0] > 0).sum((1, 2, 3)).tolist() == [32 * 32] * 6  # scaled from 28 to 32, always wholly in the picture
    assert train.frame_interval_s == pytest.approx(0.1)


def test_scenes_are_reproducible_and_follow_the_seed(tmp_path, offline):
    images = np.random.default_rng(0).integers(0, 256, (200, 28, 28), dtype=np.uint8)
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(images))
    (tmp_path / TEST_IMAGES).write_bytes(idx_bytes(images))
    one, same = (open_data(config_for(tmp_path, num_digits=2), "train", 8) for _ in range(2))
    other = open_data(build_config({"train": {"seed": 1}}, {"data": {"name": "smmnist", "root": str(tmp_path)}}), "train", 8)
    wanted = one[7]
    same[3]
    np.testing.assert_array_equal(same[7], wanted)
    assert not np.array_equal(other[7], wanted)
    assert not np.array_equal(one[8], wanted)
    assert not np.array_equal(open_data(config_for(tmp_path, num_digits=2), "test", 8)[7], wanted)


def test_two_digits_add_up_and_saturate(tmp_path, offline):
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(marked_images([100])))
    seen = digits_seen(open_data(config_for(tmp_path, num_digits=2), "train", 6))
    assert seen == {100, 200}
    (tmp_path / TRAIN_IMAGES).write_bytes(idx_bytes(marked_images([200])))
    assert digits_seen(open_data(config_for(tmp_path, num_digits=2), "train", 6)) == {200, 255}


def test_the_test_file_alone_is_divided_by_digit(tmp_path, offline, logged):
    (tmp_path / TEST_IMAGES).write_bytes(idx_bytes(marked_images(list(range(1, 201)))))
    train, test = (open_data(config_for(tmp_path), split, 2) for split in ("train", "test"))
    assert "180 train digits" in train.description
    assert "20 test digits" in test.description
    assert digits_seen(train, 300) <= set(range(1, 181))
    assert digits_seen(test, 300) <= set(range(181, 201))
    messages = logged.text
    assert messages.count("first 90%") == 1
    assert TRAIN_IMAGES in messages


def test_one_digit_cannot_be_divided(tmp_path, offline):
    (tmp_path / TEST_IMAGES).write_bytes(idx_bytes(marked_images([1])))
    with pytest.raises(SvgError, match="too few"):
        open_data(config_for(tmp_path), "train", 2)


@pytest.mark.parametrize("split", ["train", "test"])
def test_offline_the_error_says_what_to_get_and_where_to_put_it(tmp_path, offline, split):
    with pytest.raises(SvgError) as caught:
        open_data(config_for(tmp_path), split, 2)
    message = str(caught.value)
    assert f"https://ossci-datasets.s3.amazonaws.com/mnist/{TRAIN_IMAGES}.gz" in message
    assert f"'{tmp_path / TRAIN_IMAGES}.gz'" in message
    assert "no route to host" in message
    assert list(tmp_path.iterdir()) == []


def serve(monkeypatch, files: dict[str, bytes], length: str = "1000") -> list[str]:
    """Answer downloads with `files` (by name) and return the list of requests."""
    asked: list[str] = []

    class Response(io.BytesIO):
        headers = {"Content-Length": length}  # noqa: RUF012

    def urlopen(url, timeout):
        assert timeout > 0
        asked.append(url)
        return Response(files[url.rpartition("/")[2]])

    monkeypatch.setattr(urllib.request, "urlopen", urlopen)
    return asked


def test_missing_files_are_downloaded_once_and_checked(tmp_path, monkeypatch, capsys):
    files = {
        f"{name}.gz": gzip.compress(idx_bytes(marked_images([value])))
        for name, value in ((TRAIN_IMAGES, 90), (TEST_IMAGES, 190))
    }
    for name in (TRAIN_IMAGES, TEST_IMAGES):
        monkeypatch.setitem(mnist_files._SHA256, name, hashlib.sha256(files[f"{name}.gz"]).hexdigest())
    asked = serve(monkeypatch, files)
    root = tmp_path / "new" / "folder"
    assert digits_seen(open_data(config_for(root), "test", 2)) == {190}
    assert digits_seen(open_data(config_for(root), "train", 2)) == {90}
    open_data(config_for(root), "test", 2)
    assert [url.rpartition("/")[2] for url in asked] == [f"{TRAIN_IMAGES}.gz", f"{TEST_IMAGES}.gz"]
    assert "downloading https://" in capsys.readouterr().err


@pytest.mark.parametrize(
    "answer",
    [
        b"nonsense\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\ncut short",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://[\r\n\r\n",
    ],
    ids=["not http", "cut short", "not chunked", "redirected to nowhere"],
)
def test_a_server_that_answers_nonsense_is_no_source(tmp_path, monkeypatch, answer):
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve_once() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)
                connection.sendall(answer)

        threading.Thread(target=serve_once, daemon=True).start()
        monkeypatch.setattr(mnist_files, "DOWNLOAD_URL", f"http://127.0.0.1:{listening.getsockname()[1]}/")
        with pytest.raises(SvgError, match=r"and the download (failed: .|has the wrong SHA-256)") as caught:
            open_data(config_for(tmp_path), "train", 2)
    assert f"save it as '{tmp_path / TRAIN_IMAGES}.gz'" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("length", ["many", "-5", "9" * 5000, "\u0665"])
def test_a_length_that_is_no_number_is_not_believed(tmp_path, monkeypatch, length):
    content = gzip.compress(idx_bytes(marked_images([90])))
    monkeypatch.setitem(mnist_files._SHA256, TRAIN_IMAGES, hashlib.sha256(content).hexdigest())
    serve(monkeypatch, {f"{TRAIN_IMAGES}.gz": content}, length)
    assert digits_seen(open_data(config_for(tmp_path), "train", 2)) == {90}


def test_without_a_root_the_files_go_to_the_cache_folder(tmp_path, monkeypatch):
    content = gzip.compress(idx_bytes(marked_images([90])))
    monkeypatch.setitem(mnist_files._SHA256, TRAIN_IMAGES, hashlib.sha256(content).hexdigest())
    monkeypatch.setenv("SVG_EDGE_CACHE", str(tmp_path))
    serve(monkeypatch, {f"{TRAIN_IMAGES}.gz": content})
    open_data(build_config({"data": {"name": "smmnist"}}), "train", 2)
    assert (tmp_path / "mnist" / f"{TRAIN_IMAGES}.gz").is_file()


@pytest.mark.parametrize("content", [b"<html>not found</html>", bytes(40 << 20)], ids=["page", "endless"])
def test_a_wrong_download_is_not_kept(tmp_path, monkeypatch, content):
    serve(monkeypatch, {f"{TRAIN_IMAGES}.gz": content})
    with pytest.raises(SvgError, match=r"wrong SHA-256|larger than"):
        open_data(config_for(tmp_path), "train", 2)
    assert list(tmp_path.iterdir()) == []


GOOD = idx_bytes(marked_images([1, 2, 3]))


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("empty", b"", "0 bytes"),
        ("text", b"these are not the digits you are looking for", "magic number"),
        ("labels", struct.pack(">2I", 2049, 60000) + bytes(20), "file of labels"),
        ("cut", GOOD[:-5], "announces 3 images, but it contains 2"),
        ("too long", GOOD + b"x", "it contains more"),
        ("other size", idx_bytes(np.zeros((2, 32, 32), np.uint8)), "32x32"),
        ("no images", struct.pack(">4I", 2051, 0, 28, 28), "0 images"),
        ("absurd", struct.pack(">4I", 2051, 0xFFFFFFFF, 28, 28), "4294967295 images"),
        ("plain.gz", GOOD, "gzip"),
        ("cut.gz", gzip.compress(GOOD)[:-12], "end-of-stream|Compressed file ended"),
        ("scratched.gz", gzip.compress(GOOD)[:-6] + bytes(6), "CRC"),
    ],
)
def test_damaged_or_wrong_files_are_refused(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(SvgError, match=reason) as caught:
        read_images(path)
    assert str(path) in str(caught.value)
    assert "expected" in str(caught.value)


def test_a_damaged_file_in_the_root_is_not_replaced_silently(tmp_path, offline):
    (tmp_path / TRAIN_IMAGES).write_bytes(GOOD[:-5])
    with pytest.raises(SvgError, match=TRAIN_IMAGES):
        open_data(config_for(tmp_path), "train", 2)


@pytest.mark.skipif(not (REAL / f"{TEST_IMAGES}.gz").exists(), reason="the MNIST file is not here")
def test_real_digits(tmp_path, offline):
    shutil.copy(REAL / f"{TEST_IMAGES}.gz", tmp_path)
    assert read_images(tmp_path / f"{TEST_IMAGES}.gz").shape == (10_000, 28, 28)
    train, test = (open_data(config_for(tmp_path, num_digits=2), split, 10) for split in ("train", "test"))
    assert "9000 train digits" in train.description
    assert "1000 test digits" in test.description
    frames = train[0]
    assert frames.max() > 250
    assert 0.02 < (frames > 128).mean() < 0.3
    assert np.abs(np.diff(frames.astype(int), axis=0)).mean() > 1


@pytest.mark.skipif(not (REAL / f"{TRAIN_IMAGES}.gz").exists(), reason="the MNIST file is not here")
def test_real_digits_of_both_files(offline):
    train, test = (open_data(config_for(REAL), split, 10) for split in ("train", "test"))
    assert "60000 train digits" in train.description
    assert "10000 test digits" in test.description
