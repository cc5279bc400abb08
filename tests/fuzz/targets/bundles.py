"""Bundles: the manifest, the interface of an ONNX file, and whole bundles that are opened and forecast."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zlib
from pathlib import Path
from random import Random

import numpy as np

from svg_runtime.bundle.onnx_header import count_weight_types, read_header
from svg_runtime.bundle.reader import Bundle
from svg_runtime.bundle.remote.tar_files import TarFiles
from svg_runtime.forecast.forecaster import Forecaster
from tests.fuzz.mutations import mutate_bytes, mutate_json, mutate_protobuf
from tests.fuzz.scratch import scratch_file, scratch_folder
from tests.fuzz.target import SEEDS, Target

TINY_BUNDLE = SEEDS / "tiny.svgb"  # fp32 with the fused graphs; 64x64, one channel, one latent
_MANIFEST = "manifest.json"
_FRAMES = np.random.default_rng(0).random((1, 64, 64, 1), np.float32)


def read_onnx(data: bytes) -> None:
    read_header(data)
    count_weight_types(data)


def place_in_bundle(data: bytes) -> tuple[Path, bool]:
    """Put a changed file into a copy of the tiny bundle, and make the hashes right again, as an attacker would.

    The input is the name of the file, a line feed, and its content. Its checksum chooses the fused or the separate graphs.
    """
    bundle = scratch_folder() / "forecast.svgb"
    if not bundle.is_dir():
        shutil.copytree(TINY_BUNDLE, bundle)
    name, _, content = data.partition(b"\n")
    known = {f"fp32/{graph.stem}.onnx".encode(): graph.stem for graph in TINY_BUNDLE.glob("fp32/*.onnx")}
    manifest = (TINY_BUNDLE / _MANIFEST).read_bytes() if name in known else content
    for file in TINY_BUNDLE.glob("fp32/*.onnx"):
        changed = name in known and known[name] == file.stem
        (bundle / "fp32" / file.name).write_bytes(content if changed else file.read_bytes())
    (bundle / _MANIFEST).write_bytes(_with_right_hashes(manifest, bundle))
    return bundle, bool(zlib.crc32(data) & 1)


def _with_right_hashes(manifest: bytes, bundle: Path) -> bytes:
    """Size and hash of every graph that the manifest describes in the usual way."""
    try:
        content = json.loads(manifest)
        for variant in content["variants"].values():
            for spec in variant["graphs"].values():
                graph = (bundle / spec["file"]).read_bytes()
                spec |= {"bytes": len(graph), "sha256": hashlib.sha256(graph).hexdigest()}
    except (ValueError, TypeError, KeyError, AttributeError, OSError, RecursionError):
        return manifest
    return json.dumps(content).encode()


def mutate_bundle(data: bytes, random: Random) -> bytes:
    name, _, content = data.partition(b"\n")
    if random.random() < 0.02:
        return mutate_bytes(data, random)
    mutate = mutate_json if name == _MANIFEST.encode() else mutate_protobuf
    return name + b"\n" + mutate(content, random)


def read_archive(data: bytes) -> None:
    """What it lists can be copied, and lies in the archive."""
    files = TarFiles(io.BytesIO(data), len(data))
    assert sum(files.sizes.values()) <= len(data)
    for name, size in files.sizes.items():
        copy = scratch_folder() / "copy"
        files.copy(name, copy)
        assert copy.stat().st_size == size


def mutate_archive(data: bytes, random: Random) -> bytes:
    """Change one block, as a header with the right checksum."""
    if random.random() < 0.1:
        return mutate_bytes(data, random)
    start = 512 * random.randrange(max(len(data) // 512, 1))
    header = bytearray(mutate_bytes(data[start : start + 512], random).ljust(512, b"\0")[:512])
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return data[:start] + bytes(header) + data[start + 512 :]


def forecast(placed: tuple[Path, bool]) -> None:
    """What can be opened must forecast finite frames."""
    bundle, fused = placed
    with Forecaster.open(bundle, backend="cpu", samples=2, horizon=2, threads=1, fused=fused) as forecaster:
        frame = forecaster.manifest.frame
        picture = np.resize(_FRAMES, (frame.height, frame.width, frame.channels))
        for _ in range(min(forecaster.manifest.generation.n_past, 8)):
            seen = forecaster.observe(picture)
            assert seen.surprise is None or np.isfinite(seen.surprise)
        if forecaster.ready:
            futures = forecaster.forecast()
            assert futures.shape == (2, 2, *picture.shape)
            assert np.isfinite(futures).all()


TARGETS = {
    "manifest": Target(
        read=Bundle.open, place=lambda data: scratch_file("m.svgb/manifest.json", data).parent, mutate=mutate_json
    ),
    "onnx-interface": Target(read=read_onnx, mutate=mutate_protobuf),
    "bundle-archive": Target(read=read_archive, mutate=mutate_archive),
    "bundle-forecast": Target(read=forecast, place=place_in_bundle, mutate=mutate_bundle),
}
