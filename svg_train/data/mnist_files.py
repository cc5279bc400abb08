"""The MNIST image files: found, downloaded if missing, and validated."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import re
import struct
import urllib.request
import zlib
from pathlib import Path

import numpy as np

from svg_common.errors import SvgError
from svg_common.files import atomic_file
from svg_common.progress import ProgressDisplay
from svg_train.data import Frames
from svg_train.data.source_locks import source_lock

TRAIN_IMAGES, TEST_IMAGES = "train-images-idx3-ubyte", "t10k-images-idx3-ubyte"
DOWNLOAD_URL = "https://ossci-datasets.s3.amazonaws.com/mnist/"
SIDE = 28  # pixels
_SHA256 = {
    TRAIN_IMAGES: "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609",
    TEST_IMAGES: "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6",
}
_MAGIC_IMAGES = 2051
_HEADER = struct.Struct(">4I")  # magic, images, rows, columns
_MAX_IMAGES = 1_000_000
_MAX_DOWNLOAD = 32 << 20  # bytes; the larger file has 9.9 MB
_TIMEOUT_S = 30
_WAIT_S = 300.0  # for a download of another process


def find_images(root: Path, name: str) -> Path | None:
    """Return the file `name` (plain or .gz) in `root` or in `root`/MNIST/raw, or None."""
    places = [folder / file for folder in (root, root / "MNIST" / "raw") for file in (name, f"{name}.gz")]
    return next((place for place in places if place.is_file()), None)


def read_images(path: Path) -> Frames:
    """Read an idx3 file of 28x28 images, plain or gzip.

    Returns:
        (n, 28, 28) uint8.

    Raises:
        SvgError: the file is damaged, or not an MNIST image file.
    """
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            header = file.read(_HEADER.size)
            count = _image_count(path, header)
            pixels = file.read(count * SIDE * SIDE + 1)  # one byte more: nothing may follow
    except (OSError, EOFError, zlib.error) as error:
        raise _not_mnist(path, str(error)) from error
    if len(pixels) != count * SIDE * SIDE:
        has = "more" if len(pixels) > count * SIDE * SIDE else f"{len(pixels) // (SIDE * SIDE)}"
        raise _not_mnist(path, f"its header announces {count} images, but it contains {has}")
    return np.frombuffer(pixels, np.uint8).reshape(count, SIDE, SIDE)


def download_images(root: Path, name: str) -> Path:
    """Download `name`.gz into `root` and check it against its SHA-256.

    Raises:
        SvgError: it cannot be downloaded; the message explains where to get it and where to put it.
    """
    target = root / f"{name}.gz"
    try:
        with source_lock(root, target, _WAIT_S):
            if target.is_file():  # another process has downloaded it meanwhile
                return target
            with atomic_file(target) as partial:
                digest = _fetch(f"{DOWNLOAD_URL}{name}.gz", partial)
                if digest != _SHA256[name]:
                    raise _missing(root, name, f"the download has the wrong SHA-256 checksum {digest}")
    except (OSError, http.client.HTTPException, ValueError) as error:  # the last: it redirects to what is not an address
        raise _missing(root, name, f"the download failed: {error}") from error
    return target


def _fetch(url: str, destination: Path) -> str:
    """Write the content of `url` to `destination` and return its SHA-256."""
    digest, size = hashlib.sha256(), 0
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_S) as response,
        destination.open("wb") as out,
        ProgressDisplay() as display,
    ):
        announced = _announced(response.headers.get("Content-Length"))
        display.progress(f"downloading {url}", 0.0 if announced else None)
        while chunk := response.read(1 << 16):
            size += len(chunk)
            if size > _MAX_DOWNLOAD:
                raise OSError(f"{url} is larger than any MNIST file")
            digest.update(chunk)
            out.write(chunk)
            display.progress(f"downloading {url}", size / announced if announced else None, f"{size / 1e6:.1f} MB")
    return digest.hexdigest()


def _announced(length: str | None) -> int:
    """Bytes that a server announces, for the display; 0: not known."""
    return int(length) if length is not None and re.fullmatch(r"[0-9]{1,18}", length.strip()) else 0


def _image_count(path: Path, header: bytes) -> int:
    if len(header) < _HEADER.size:
        raise _not_mnist(path, f"it has only {len(header)} bytes")
    magic, count, rows, columns = _HEADER.unpack(header)
    if magic != _MAGIC_IMAGES:
        what = " (a file of labels)" if magic == 2049 else ""
        raise _not_mnist(path, f"its magic number is {magic}{what}, not {_MAGIC_IMAGES}")
    if (rows, columns) != (SIDE, SIDE) or not 0 < count <= _MAX_IMAGES:
        raise _not_mnist(path, f"its header announces {count} images of {rows}x{columns} pixels")
    return int(count)


def _not_mnist(path: Path, reason: str) -> SvgError:
    return SvgError(
        f"cannot read '{path}' as MNIST images: {reason}\n"
        f"  expected an idx3 file of 28x28 images, such as {DOWNLOAD_URL}{TRAIN_IMAGES}.gz;"
        " remove the file to have it downloaded again"
    )


def _missing(root: Path, name: str, reason: str) -> SvgError:
    return SvgError(
        f"the MNIST file '{name}' is missing in '{root}', and {reason}\n"
        f"  download {DOWNLOAD_URL}{name}.gz and save it as '{root / name}.gz',"
        " or give the folder that contains it with --data-root"
    )
