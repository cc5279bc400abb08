"""Mutations that know a format: checksums and lengths stay right, so that the damage reaches the code behind them."""

from __future__ import annotations

import copy
import gzip
import io
import json
import struct
import zipfile
import zlib
from collections.abc import Callable
from random import Random
from typing import Any

import atheris

from tests.fuzz.target import Mutate

MAX_BYTES = 1 << 18  # of an input
_DEEP = "deeply nested"
_ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 255, 65536, 65537, 2**31, 2**53, 2**63, 2**64, 10**30, -(10**30), 0.5, -0.0, 1e308, 1e-320,
    float("nan"), float("inf"), "", "x", "batch", "/etc/passwd", "../../x", "fp32/encoder.onnx", "\x00", "\ud800", "é" * 300,
    "0" * 64, [], {}, [[]], [1, 2], {"a": 1},
)  # fmt: skip


def mutate_bytes(data: bytes, random: Random, words: tuple[bytes, ...] = ()) -> bytes:
    """libFuzzer's mutations; sometimes a piece of the format is put in instead."""
    if words and random.random() < 0.3:
        at, word = random.randrange(len(data) + 1), random.choice(words)
        return data[:at] + word + data[at + random.choice((0, len(word))) :]
    return bytes(atheris.Mutate(data, max(len(data) + 64, 64)))


def mutate_json(data: bytes, random: Random) -> bytes:
    """Change values, keys and structure of a document; sometimes its bytes."""
    if random.random() < 0.1:
        return mutate_bytes(data, random)
    try:
        tree = json.loads(data)
    except (ValueError, RecursionError):
        return mutate_bytes(data, random)
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        tree = _mutate_node(tree, random)
    depth = random.choice((10, 500, 100_000))
    try:
        return json.dumps(tree).replace(f'"{_DEEP}"', "[" * depth + "]" * depth).encode()
    except (RecursionError, ValueError):  # too deep for json.dumps, or a subtree was put into itself
        return mutate_bytes(data, random)


def _mutate_node(tree: Any, random: Random) -> Any:
    """Walk down to a random depth and change what is there."""
    holder: Any = None
    node, key = tree, None
    while isinstance(node, (dict, list)) and node and (holder is None or random.random() < 0.85):
        holder, key = node, random.choice(list(node) if isinstance(node, dict) else range(len(node)))
        node = holder[key]
    changed = _changed(node, random)
    if holder is None:
        return changed
    choice = random.random()
    if choice < 0.1:
        del holder[key]
    elif choice < 0.2 and isinstance(holder, dict):
        holder[random.choice((key + "x", "extra", random.choice(list(holder))))] = changed
    elif choice < 0.2:
        holder.insert(key, changed)
    elif choice < 0.3:
        other = random.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[key], holder[other] = holder[other], holder[key]
    else:
        holder[key] = changed
    return tree


def _changed(node: Any, random: Random) -> Any:
    choice = random.random()
    if isinstance(node, str) and choice < 0.4:
        return bytes(atheris.Mutate(node.encode("utf-8", "replace"), len(node) + 16)).decode("utf-8", "replace")
    if isinstance(node, (int, float)) and not isinstance(node, bool) and choice < 0.5:
        return random.choice((node + 1, node - 1, -node, node * 2, node * 1000, float(node), str(node)))
    if isinstance(node, list) and choice < 0.3:
        return node * random.choice((0, 2, 50))
    if choice > 0.98:
        return _DEEP
    return copy.deepcopy(random.choice(_ODD_VALUES))


def mutate_zip(data: bytes, random: Random, mutate: Mutate = mutate_bytes) -> bytes:
    """Change one member of an archive, or its name, and pack it again with a right checksum; sometimes the raw bytes."""
    if random.random() < 0.2:
        return mutate_bytes(data, random)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(info, archive.read(info)) for info in archive.infolist()]
    except Exception:
        return mutate_bytes(data, random)
    if not members:
        return mutate_bytes(data, random)
    pickles = [index for index, (info, _) in enumerate(members) if info.filename.endswith(".pkl")]
    index = random.choice(pickles) if pickles and random.random() < 0.8 else random.randrange(len(members))
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for number, (info, content) in enumerate(members):
            _write_member(archive, info.filename, content, random if number == index else None, mutate)
    return out.getvalue()


def _write_member(archive: zipfile.ZipFile, name: str, content: bytes, random: Random | None, mutate: Mutate) -> None:
    """Write a member as it is, or changed if `random` is given: content, name, compression, twice or not at all."""
    if random is None:
        archive.writestr(zipfile.ZipInfo(name), content)
        return
    choice = random.random()
    if choice < 0.05:
        return
    if choice < 0.1:
        name = bytes(atheris.Mutate(name.encode(), len(name) + 8)).decode("utf-8", "replace").replace("\0", "") or "x"
    else:
        content = mutate(content, random)
    archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED if 0.1 < choice < 0.13 else zipfile.ZIP_STORED)


def mutate_protobuf(data: bytes, random: Random, depth: int = 0) -> bytes:
    """Change a field of a message at some depth, and write the lengths around it anew; sometimes the raw bytes."""
    fields = _split(data) if depth < 8 else None
    if not fields or random.random() < 0.1:
        return mutate_bytes(data, random)
    index = random.randrange(len(fields))
    key, content = fields[index]
    choice = random.random()
    if choice < 0.08:
        del fields[index]
    elif choice < 0.16:
        fields.insert(random.randrange(len(fields) + 1), fields[index])
    elif choice < 0.2:
        fields[index] = (max(key + random.choice((-8, 8, 16, 1, -1)), 0), content)
    elif key & 7 == 2:
        fields[index] = (key, mutate_protobuf(content, random, depth + 1))
    else:
        value = random.choice((0, 1, 2, 7, 255, 2**31 - 1, 2**31, 2**63 - 1, 2**63, 2**64 - 1, random.getrandbits(16)))
        fields[index] = (key, _varint(value) if key & 7 == 0 else random.randbytes(len(content)))
    return b"".join(_varint(key) + (_varint(len(content)) if key & 7 == 2 else b"") + content for key, content in fields)


def _split(data: bytes) -> list[tuple[int, bytes]] | None:
    """Key and content of each field; None if it is not a message."""
    fields, position = [], 0
    while position < len(data):
        key, position = _number(data, position)
        kind = key & 7
        if kind == 0:
            start = position
            _, position = _number(data, position)
            fields.append((key, data[start:position]))
            continue
        if kind not in (1, 2, 5) or key < 8:
            return None
        size, position = _number(data, position) if kind == 2 else ({1: 8, 5: 4}[kind], position)
        if size > len(data) - position:
            return None
        fields.append((key, data[position : position + size]))
        position += size
    return fields


def _number(data: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        if position >= len(data):
            break
        value |= (data[position] & 127) << shift
        position += 1
        if data[position - 1] < 128:
            break
    return value, position


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def mutate_records(data: bytes, random: Random, checksum: Callable[[bytes], int]) -> bytes:
    """Change one record of a TFRecord file, and write length and checksums anew; sometimes the raw bytes."""
    records, position = [], 0
    while position + 12 <= len(data):
        (size,) = struct.unpack_from("<Q", data, position)
        if size > len(data):
            break
        records.append(data[position + 12 : position + 12 + size])
        position += size + 16
    if not records or random.random() < 0.15:
        return mutate_bytes(data, random)
    index = random.randrange(len(records))
    records[index] = mutate_protobuf(records[index], random)
    heads = [struct.pack("<Q", len(record)) for record in records]
    return b"".join(
        head + struct.pack("<I", checksum(head)) + record + struct.pack("<I", checksum(record))
        for head, record in zip(heads, records, strict=True)
    )


def mutate_gzip(data: bytes, random: Random) -> bytes:
    """Change what is compressed, and compress it again; sometimes the raw bytes. Other data is changed as it is."""
    if data[:2] != b"\x1f\x8b" or random.random() < 0.3:
        return mutate_bytes(data, random)
    try:
        content = gzip.decompress(data)
    except (OSError, EOFError, zlib.error):
        return mutate_bytes(data, random)
    return gzip.compress(mutate_bytes(content, random), 1)


def mutate_png(data: bytes, random: Random) -> bytes:
    """Change one chunk of a PNG file, and write its checksum anew; sometimes the raw bytes."""
    chunks, position = [], 8
    while position + 12 <= len(data):
        (size,) = struct.unpack_from(">I", data, position)
        chunks.append((data[position + 4 : position + 8], data[position + 8 : position + 8 + size]))
        position += size + 12
    if not chunks or random.random() < 0.15:
        return mutate_bytes(data, random)
    index = random.randrange(len(chunks))
    kind, content = chunks[index]
    choice = random.random()
    if choice < 0.1:
        chunks.insert(index, chunks[index])
    elif choice < 0.2 and kind != b"IHDR":
        chunks[index] = (
            random.choice((b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"PLTE", b"tRNS", b"eXIf", b"acTL", b"fdAT")),
            content,
        )
    else:
        chunks[index] = (kind, mutate_bytes(content, random))
    return data[:8] + b"".join(
        struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        for kind, content in chunks
    )
